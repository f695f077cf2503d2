"""Bodies are cut, not rewritten: where the elements of a JSON array begin, so that a re-sent history is stored once.

A part is a slice of the body's own bytes; parts put together are the body, always. A border lies in front of the
separator before an element, so that a chat's last message has the same bytes when the next turn sends it again.
Where the borders lie depends on nothing but the bytes before them.
"""

import contextlib
import sqlite3
from collections.abc import Iterator

import msgspec

PART_BYTES = 1 << 20
"""How long the parts of a body are that is not cut by its JSON."""
MIN_CUT_BYTES = 512
"""A shorter JSON body is not worth cutting."""
MIN_PART_BYTES = 96
"""A shorter part would cost more to keep track of than it can save."""

Members = dict[str, msgspec.Raw]
_members = msgspec.json.Decoder(Members).decode
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode
_string = msgspec.json.Decoder(str).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises; the last for arrays in arrays in arrays."""
_SEPARATORS = frozenset(b" \t\r\n,")
_NEEDLE_BYTES = 64
_BLOBS = "SELECT CAST(data AS BLOB) FROM blobs WHERE id BETWEEN ? AND ? ORDER BY id"


def members_of(body: bytes) -> Members | None:
    """The members of a body that is one whole JSON object, each value as it is written; None for any other body."""
    if body[:64].lstrip()[:1] != b"{":
        return None
    try:
        return _members(body)
    except _UNREADABLE:
        return None


def cut(body: bytes, members: Members | None) -> list[memoryview]:
    """The parts of a body that has these members."""
    if members is not None:
        with contextlib.suppress(*_UNREADABLE):
            return _parts(body, members) if len(body) >= MIN_CUT_BYTES else [memoryview(body)]
    return list(equal_parts(body))


def model_of(members: Members | None) -> str | None:
    """The "model" among a body's members."""
    if members and (raw := members.get("model")) is not None:
        with contextlib.suppress(*_UNREADABLE):  # a number or the like is no model's name
            return _string(raw)
    return None


def equal_parts(body: bytes) -> Iterator[memoryview]:
    """Parts of `PART_BYTES`, no character of UTF-8 cut in two."""
    view = memoryview(body)
    start = 0
    while len(body) - start > PART_BYTES:
        end = start + PART_BYTES
        for back in range(4):
            if body[end - back] & 0xC0 != 0x80:
                end -= back
                break
        yield view[start:end]
        start = end
    if start < len(body) or not body:
        yield view[start:]


def _parts(body: bytes, members: Members) -> list[memoryview]:
    borders: list[int] = []
    at = 0
    for raw in members.values():
        # A value that repeats may be found too early; a border is as good there.
        value = memoryview(raw)
        found = body.find(value[:_NEEDLE_BYTES], at)
        if found < 0:
            continue
        at = found + len(value)
        if value[0] == ord("[") and len(value) > MIN_PART_BYTES:
            borders += _element_borders(body, found, raw)
    view = memoryview(body)
    parts = []
    start = 0
    for border in borders:
        if border - start >= MIN_PART_BYTES:
            parts.append(view[start:border])
            start = border
    parts.append(view[start:])
    return parts


def _element_borders(body: bytes, start: int, array: msgspec.Raw) -> list[int]:
    """Offsets where the elements of the array at `start` begin, and where the last one ends; none for numbers."""
    borders = []
    at = start + 1
    for raw in _elements(array):
        element = bytes(raw)
        if element[0] not in b'{["':
            return []
        borders.append(at)
        while at < len(body) and body[at] in _SEPARATORS:
            at += 1
        if not body.startswith(element, at):
            return []
        at += len(element)
    borders.append(at)
    return borders


def read_body(connection: sqlite3.Connection, body_id: int) -> Iterator[bytes]:
    """The parts of a stored body, in order."""
    row = connection.execute("SELECT parts FROM bodies WHERE id = ?", (body_id,)).fetchone()
    # A query for each range: one for all of them sorts, and so holds the whole body before it gives the first part.
    for first, last in msgspec.json.decode(row[0]) if row else ():
        for (data,) in connection.execute(_BLOBS, (first, last)):
            yield data
