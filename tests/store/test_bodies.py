"""Bodies are cut so that parts put together are the bytes, and a history sent again is found again."""

import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.store.bodies import MIN_PART_BYTES, PART_BYTES, cut, equal_parts, members_of, model_of

json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8), inner, max_size=6),
    max_leaves=60,
)
bodies = st.one_of(
    st.binary(max_size=3000),
    st.dictionaries(st.sampled_from(["model", "messages", "tools", "input", "a"]), json_values).flatmap(
        lambda value: st.sampled_from([None, 2]).map(lambda indent: json.dumps(value, indent=indent).encode())
    ),
)


def _cut(body: bytes) -> list[memoryview]:
    return cut(body, members_of(body))


@given(body=bodies, garbage=st.binary(max_size=8))
def test_parts_put_together_are_the_body(body: bytes, garbage: bytes) -> None:
    for one in (body, body + garbage, garbage + body, body[:-1]):
        assert b"".join(_cut(one)) == one


def chat(turns: int, separators: tuple[str, str] | None = None, indent: int | None = None) -> bytes:
    """A chat's request after so many turns."""
    messages = [
        {"role": role, "content": f"{role} says in turn {turn} " + "something of some length " * 5}
        for turn in range(turns)
        for role in ("user", "assistant")
    ]
    body = {"model": "m", "messages": messages[:-1], "stream": True}
    return json.dumps(body, separators=separators, indent=indent).encode()


@given(turns=st.integers(2, 12), indent=st.sampled_from([None, 2]), is_compact=st.booleans())
def test_the_next_turn_has_all_parts_of_this_one(turns: int, indent: int | None, is_compact: bool) -> None:
    separators = (",", ":") if is_compact else None
    now, then = ([bytes(part) for part in _cut(chat(count, separators, indent))] for count in (turns, turns + 1))
    assert now[:-1] == then[: len(now) - 1]
    assert now[-1] == then[-1]
    assert len(then) == len(now) + 2


def test_model_is_that_of_the_top_level() -> None:
    assert model_of(members_of(b' {"messages":[{"model":"inner"}],"model":"out\\u0065r"}')) == "outer"
    assert model_of(members_of(b'{"model":"a","model":"b"}')) == "b"
    assert model_of(members_of(b'{"model":1}')) is None
    assert model_of(members_of(b'[{"model":"x"}]')) is None
    assert model_of(members_of(b'{"model":"x"')) is None


def test_an_array_of_numbers_is_not_cut() -> None:
    body = json.dumps({"model": "m", "input": list(range(2000))}).encode()
    assert len(_cut(body)) == 1


def test_short_elements_share_a_part() -> None:
    body = json.dumps({"input": ["a"] * 2000}).encode()
    assert all(len(part) >= MIN_PART_BYTES for part in _cut(body)[:-1])


def test_other_bodies_are_cut_in_equal_parts_between_characters() -> None:
    body = "ü".encode() * PART_BYTES
    parts = [bytes(part) for part in _cut(b"x" + body)]
    assert [len(part) for part in parts] == [PART_BYTES - 1, PART_BYTES, 2]
    assert all(part.decode() for part in parts)
    assert [len(part) for part in equal_parts(b"\x80" * (PART_BYTES + 1))] == [PART_BYTES, 1]


def test_json_of_any_depth_does_no_harm() -> None:
    for body in (b'{"a":' * 100_000, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
        assert b"".join(_cut(body)) == body
