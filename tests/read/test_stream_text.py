"""The text of a stream is the same however its bytes are cut, and nothing makes it raise."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.read.stream_text import StreamText

OPENAI = (
    'data: {"choices":[{"delta":{"role":"assistant","content":null}}]}\n\n'
    'data: {"choices":[{"delta":{"reasoning_content":"Hm. "}}]}\r\n\r\n'
    'data:{"choices":[{"delta":{"content":"Gr\u00fc\u00df\u2028e"}}]}\n\n'
    ": ping\n\ndata: [DONE]\n\n"
).encode()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "delta", "text", "content", "message", "type", "response", "done"]), children
        )
    ),
    max_leaves=12,
)


def _text(*parts: bytes) -> str:
    stream = StreamText()
    return "".join([stream.feed(part) for part in parts]) + stream.finish()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (OPENAI, "Hm. Gr\u00fc\u00df\u2028e"),
        (b'data: {"choices":[{"text":"a"},{"text":"b"}]}\n', "ab"),
        (b'event: x\rdata: {"type":"response.output_text.delta","delta":"a"}\r\r', "a"),
        (b'data: {"type":"response.function_call_arguments.delta","delta":"a"}\n\n', ""),
        (b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}\n', "a"),
        (b'data: {"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"a"}}\n', "a"),
        (b'data: {"type":"message.delta","content":"a"}\n', "a"),
        (b'{"message":{"role":"assistant","content":"a"},"done":false}\n{"response":"b","done":true}', "ab"),
        (b'data: {"choices":[{"delta":\n', ""),
        (b'data: {"content":"' + b"x" * (1 << 20) + b'"}\ndata: {"content":"after"}\n', "after"),
        (b'data: {"a":' + b"[" * 100_000 + b"\n", ""),
    ],
)
def test_text_is_found_in_every_dialect(data: bytes, text: str) -> None:
    assert _text(data) == text


@given(st.lists(st.integers(0, len(OPENAI))))
def test_any_cutting_gives_the_same_text(cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), len(OPENAI)]
    assert _text(*(OPENAI[a:b] for a, b in pairwise(borders))) == _text(OPENAI)


@given(st.lists(st.binary()))
def test_any_bytes_are_taken_in_any_cutting(parts: list[bytes]) -> None:
    assert _text(*parts) == _text(b"".join(parts))


@given(JSON)
def test_any_json_is_taken(value: object) -> None:
    assert isinstance(_text(b"data: " + json.dumps(value).encode() + b"\n"), str)
