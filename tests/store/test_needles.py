"""A name is found wherever `in` finds it."""

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.store.needles import Needles

names = st.lists(st.text("ab\\.ü", min_size=0, max_size=3).map(lambda name: f'"{name}"'.encode()), max_size=4)
texts = st.lists(names.map(b"".join) | st.binary(max_size=4) | st.text('ab"\\.ü').map(str.encode)).map(b"".join)


@given(names, texts)
@example([], b"")
@example([b'"a"'], b'ba"')
@example([b'"a"', '"ü"'.encode()], b'\xc3"\xc3\xbc"')
@example([b'""', b'"^a$"'], b'"^a$"')
def test_a_name_is_found_wherever_in_finds_it(sought: list[bytes], text: bytes) -> None:
    needles = Needles(sought)
    assert needles.is_any_in(text) == any(name in text for name in sought)
    assert needles.is_any_in(bytearray(text)) == any(name in text for name in sought)
