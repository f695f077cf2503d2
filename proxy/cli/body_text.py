"""A body as a person reads it: decompressed, JSON laid out, cut where it gets long. The recorded bytes are `--raw`."""

import re
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from proxy.cli.render import printable, size
from proxy.read.stream_text import StreamText

MAX_READ_BYTES = 4 << 20
"""Of a longer body only the beginning is looked at."""
_NUMBERS = re.compile(r"(?<=\[)(\s+-?[0-9][0-9.eE+-]*,?){4,}\s+(?=\])")
"""An array of numbers, an embedding for instance: it fits better on one line."""
MAX_LINES = 200
MAX_LINE_CHARS = 500


class Readable(NamedTuple):
    """What to show, and what to say about it."""

    text: str
    notes: list[str]
    is_json: bool = False


def read_body(parts: Iterable[bytes], content_type: str, encoding: str, *, is_full: bool) -> Readable:
    """A body laid out for reading; with `is_full` nothing is cut."""
    notes: list[str] = []
    data, is_whole = _beginning(parts, is_full=is_full)
    if not is_whole:
        notes.append(f"only its first {size(len(data))} bytes are shown; --full shows all")
    if encoding and encoding != "identity":
        decoded = _decompressed(data, encoding, is_full=is_full)
        if decoded is None:
            return Readable(
                "", [*notes, f"compressed with {encoding}, which cannot be shown here; --raw gives the bytes"]
            )
        data = decoded
        notes.append(f"decompressed from {encoding}")
    if "event-stream" in content_type or "ndjson" in content_type:
        stream = StreamText()
        notes.append("the text in its events; the chunks below show how they came")
        return _cut(stream.feed(data) + stream.finish(), notes, is_full=is_full)
    is_json = data.lstrip()[:1] in (b"{", b"[")
    if is_json:
        try:
            data = msgspec.json.format(data, indent=2)  # leaves numbers, escapes and repeated names as they are
        except (msgspec.DecodeError, RecursionError):
            is_json = False
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        if is_whole or error.start < len(data) - 4:
            return Readable("", [*notes, f"not text: begins with {data[:24].hex(' ')}; --raw gives the bytes"])
        text = data.decode(errors="ignore")  # only the last character is cut
    if is_json:
        text = _NUMBERS.sub(lambda numbers: " ".join(numbers[0].split()), text)
    return _cut(text, notes, is_full=is_full)._replace(is_json=is_json)


def _beginning(parts: Iterable[bytes], *, is_full: bool) -> tuple[bytes, bool]:
    data = bytearray()
    for part in parts:
        data += part
        if len(data) > MAX_READ_BYTES and not is_full:
            return bytes(data[:MAX_READ_BYTES]), False
    return bytes(data), True


def _decompressed(data: bytes, encoding: str, *, is_full: bool) -> bytes | None:
    """The content, as far as it goes; None where the encoding is unknown or the bytes are not of it."""
    # Some servers send `deflate` without the zlib header that the standard asks for.
    window_bits = {"gzip": (47,), "x-gzip": (47,), "deflate": (47, -15)}
    for bits in window_bits.get(encoding, ()):
        decompressor = zlib.decompressobj(bits)
        try:
            return decompressor.decompress(data, 0 if is_full else MAX_READ_BYTES)
        except zlib.error:
            continue
    return None


def _cut(text: str, notes: list[str], *, is_full: bool) -> Readable:
    text = printable(text)
    if not is_full:
        lines = text.split("\n")
        if len(lines) > MAX_LINES:
            notes = [*notes, f"{len(lines) - MAX_LINES} more lines; --full shows them"]
        text = "\n".join(_cut_line(line) for line in lines[:MAX_LINES])
    return Readable(text, notes)


def _cut_line(line: str) -> str:
    if len(line) <= MAX_LINE_CHARS:
        return line
    begin, end = line[: MAX_LINE_CHARS - 100], line[-40:]
    return f"{begin} \u2026 {size(len(line) - len(begin) - len(end))} characters more \u2026 {end}"
