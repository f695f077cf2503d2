"""Heads as the trace holds them: the start line in columns, the fields as JSON."""

from functools import lru_cache

import msgspec

_encode = msgspec.json.Encoder().encode


def fields_json(lines: bytes) -> bytes:
    """`[["Name","value"],...]` of header or trailer lines, in order, case kept, bytes read as Latin-1.

    A line that is no field (a fold of the line before, or garbage) comes as `["", "the line"]`.
    """
    fields = []
    for line in lines.decode("latin-1").split("\r\n"):
        name, colon, value = line.partition(":")
        if colon and not name.startswith((" ", "\t")):
            fields.append((name, value.strip(" \t")))
        elif line:
            fields.append(("", line))
    return _encode(fields)


def lines_of(fields: str) -> bytes:
    """Field lines again, from their JSON."""
    pairs = msgspec.json.decode(fields, type=list[tuple[str, str]])
    return "\r\n".join([f"{name}: {value}" if name else value for name, value in pairs]).encode("latin-1")


def split_head(head: bytes) -> tuple[bytes, bytes]:
    """A head's start line and its field lines."""
    start, _, lines = head.partition(b"\r\n")
    return start, lines


def request_line(line: bytes) -> tuple[str | None, str | None, str | None]:
    """Method, target and version ("1.1") of a request's start line; all None where it is none."""
    method, space, rest = line.decode("latin-1").partition(" ")
    target, _, version = rest.rpartition(" ")
    if not space or not version.startswith("HTTP/"):
        return None, None, None
    return method, target, version[5:]


@lru_cache(maxsize=256)
def status_line(line: bytes) -> tuple[int | None, str | None]:
    """Status and reason of a response's start line; both None where it is none."""
    _, _, rest = line.decode("latin-1").partition(" ")
    status, _, reason = rest.partition(" ")
    return (int(status), reason) if len(status) == 3 and status.isascii() and status.isdecimal() else (None, None)


def field_values(lines: bytes, name: bytes) -> bytes:
    """The values of all fields of that lower-case name, joined by commas, in lower case; empty where there is none."""
    values = []
    for line in lines.lower().split(b"\r\n"):
        found, colon, value = line.partition(b":")
        if colon and found == name:
            values.append(value.strip(b" \t"))
    return b",".join(values)
