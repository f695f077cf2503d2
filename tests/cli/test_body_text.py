"""Bodies laid out for reading; whatever they are, something sensible is shown."""

import gzip
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cli.body_text import MAX_LINES, MAX_READ_BYTES, read_body


def test_json_is_indented_and_otherwise_left_as_it_is() -> None:
    body = read_body([b'{"a":1.50,', b'"a":[1e5,"\\u00fc"]}'], "application/json", "", is_full=False)
    assert body.text == '{\n  "a": 1.50,\n  "a": [\n    1e5,\n    "\\u00fc"\n  ]\n}'
    assert (body.is_json, body.notes) == (True, [])


def test_broken_json_is_shown_as_text() -> None:
    body = read_body([b'{"a":'], "application/json", "", is_full=False)
    assert (body.text, body.is_json) == ('{"a":', False)


RAW_DEFLATE = zlib.compressobj(wbits=-15)
TEXT = "Gr\u00fc\u00dfe".encode()


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (gzip.compress(TEXT, mtime=0), "gzip"),
        (zlib.compress(TEXT), "deflate"),
        (RAW_DEFLATE.compress(TEXT) + RAW_DEFLATE.flush(), "deflate"),
        (gzip.compress(TEXT, mtime=0)[:-8], "gzip"),
    ],
)
def test_compressed_body_is_decompressed(data: bytes, encoding: str) -> None:
    body = read_body([data], "text/plain", encoding, is_full=False)
    assert (body.text, body.notes) == (TEXT.decode(), [f"decompressed from {encoding}"])


@pytest.mark.parametrize("encoding", ["br", "gzip"])
def test_body_that_cannot_be_decompressed_says_so(encoding: str) -> None:
    body = read_body([b"\x01\x02\x03"], "text/plain", encoding, is_full=False)
    assert body.text == ""
    assert f"compressed with {encoding}" in body.notes[0]


def test_stream_is_shown_as_its_text() -> None:
    body = read_body([b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'], "text/event-stream", "", is_full=False)
    assert body.text == "Hi"


def test_bytes_that_are_no_text_say_so() -> None:
    body = read_body([b"\x89PNG\xff"], "image/png", "", is_full=False)
    assert body.text == ""
    assert "89 50 4e 47 ff" in body.notes[0]


def test_long_body_is_cut_unless_all_is_wanted() -> None:
    data = json.dumps(["x" * 10_000, *range(500)]).encode()
    cut = read_body([data], "application/json", "", is_full=False)
    assert cut.text.count("\n") == MAX_LINES - 1
    assert "9.6k characters more" in cut.text
    assert "--full shows them" in cut.notes[0]
    assert read_body([data], "application/json", "", is_full=True).text == json.dumps(json.loads(data), indent=2)


def test_huge_body_is_not_read_to_its_end() -> None:
    parts = iter([b"\xc3\xbc" * (1 << 19)] * 100)
    body = read_body(parts, "text/plain", "", is_full=False)
    assert "only its first 4.2M bytes" in body.notes[0]
    assert len(list(parts)) > 100 - MAX_READ_BYTES // (1 << 20) - 2


@given(st.binary(), st.sampled_from(["", "gzip", "deflate", "identity", "br"]), st.booleans())
def test_any_body_is_taken(data: bytes, encoding: str, is_full: bool) -> None:
    read_body([data], "", encoding, is_full=is_full).text.encode()
