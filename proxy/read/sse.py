"""Server-sent events and lines, sans-io: bytes in, events out, the same however the bytes are cut.

Facts (WHATWG HTML, section 9.2; NDJSON by its name)
----------------------------------------------------
* A line ends with CRLF, LF or CR and with nothing else: U+2028 and U+0085 may stand inside JSON. A CR at the end of a
  read ends its line at once; an LF that begins the next read belongs to it.
* An event ends with an empty line. Its `data` lines are joined by LF. A line that begins with a colon is a comment. One
  space after the colon behind a name is not part of the value.
* What stands after the last empty line is no event; whether the stream ended there in the middle of one, `rest` tells.
"""

from collections.abc import Iterator
from typing import NamedTuple


class Event(NamedTuple):
    """One event."""

    name: str
    """Of the `event` line; "" where there is none."""
    data: bytes


class Lines:
    """Lines without their ends. Each byte is looked at once, so that a long line costs no more when it is cut."""

    __slots__ = ("_parts", "_skips_lf")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._skips_lf = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that end in these bytes."""
        if self._skips_lf and data:
            self._skips_lf = False
            if data[0] == 10:
                data = data[1:]
        if b"\r" in data:
            self._skips_lf = data[-1] == 13
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *ended, rest = data.split(b"\n")
        for line in ended:
            if self._parts:
                self._parts.append(line)
                yield b"".join(self._parts)
                self._parts = []
            else:
                yield line
        if rest:
            self._parts.append(rest)

    def rest(self) -> bytes:
        """What stands behind the last line end."""
        return b"".join(self._parts)


class EventStream:
    """Events of a stream of `text/event-stream`."""

    __slots__ = ("_data", "_lines", "_name", "has_begun")

    def __init__(self) -> None:
        self._lines = Lines()
        self._name = ""
        self._data: list[bytes] = []
        self.has_begun = False
        """Whether any event or comment came."""

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that end in these bytes."""
        for line in self._lines.feed(data):
            if not line:
                if self._data:
                    yield Event(self._name, b"\n".join(self._data))
                    self._data = []
                self._name = ""
                continue
            self.has_begun = True
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value[1:] if value[:1] == b" " else value)
            elif name == b"event":
                self._name = value.removeprefix(b" ").decode("utf-8", "replace")

    def rest(self) -> Event | None:
        """An event that no empty line ended, as far as it came."""
        line = self._lines.rest()
        name, _, value = line.partition(b":")
        data = list(self._data)
        if name == b"data":
            data.append(value.removeprefix(b" "))
        return Event(self._name, b"\n".join(data)) if data else None
