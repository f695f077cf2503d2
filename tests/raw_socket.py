"""A blocking socket that reads HTTP as raw bytes: what both ends of the wire tests stand on.

It parses just enough to know where a message ends, keeps every byte it was given, and repairs nothing: the tests
compare bytes, so they must not look through the eyes of the library under test.
"""

import contextlib
import re
import select
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Self

Field = tuple[bytes, bytes]
Ending = Literal["closed", "reset"]

WAIT_S = 10.0
"""How long a test waits for something that must come; only a failing test waits that long."""
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]+)[ \t]*(?:;[^\r]*)?\r\n")
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"}


class BrokenError(Exception):
    """The peer ended the connection (`ending`) before the message was whole; `body` is what came of the body."""

    def __init__(self, ending: Ending, body: bytes = b"") -> None:
        super().__init__(f"{ending} after {len(body)} bytes: {body[:80]!r}")
        self.ending = ending
        self.body = body


@dataclass(frozen=True)
class Head:
    """A request's or response's head as it was received."""

    raw: bytes
    """All lines, the empty last one included."""
    start: bytes
    fields: list[Field]
    """Names and values in order; the white space around values taken off, nothing else."""

    @classmethod
    def parse(cls, raw: bytes) -> "Head":
        """Cut a head in lines."""
        start, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
        pairs = [line.partition(b":") for line in lines]
        return cls(raw, start, [(name, value.strip(b" \t")) for name, _, value in pairs])

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a field, in order."""
        return [value for given, value in self.fields if given.lower() == name.lower()]

    def get(self, name: bytes) -> bytes:
        """The value of a field that must be there once."""
        (value,) = self.all(name)
        return value

    @property
    def end_to_end(self) -> list[Field]:
        """The fields but for those that belong to one connection only."""
        return [pair for pair in self.fields if pair[0].lower() not in HOP_BY_HOP]

    @property
    def method(self) -> bytes:
        """The first word of a request's first line."""
        return self.start.split(b" ")[0]

    @property
    def target(self) -> bytes:
        """What stands between the method and the version, to the byte."""
        return self.start.partition(b" ")[2].rpartition(b" ")[0]

    @property
    def status(self) -> int:
        """A response's code."""
        return int(self.start.split(b" ")[1])

    @property
    def reason(self) -> bytes:
        """A response's phrase; empty where there is none."""
        return self.start.partition(b" ")[2].partition(b" ")[2]

    @property
    def is_chunked(self) -> bool:
        """Whether the body comes in chunks."""
        return any(value.lower() == b"chunked" for value in self.all(b"transfer-encoding"))


@dataclass(frozen=True)
class Response:
    """One whole response."""

    head: Head
    body: bytes
    trailers: list[Field] = field(default_factory=list)
    interims: list[Head] = field(default_factory=list)
    """The 1xx heads that came before."""

    @property
    def status(self) -> int:
        """The final head's code."""
        return self.head.status


class RawSocket:
    """One connected socket; every read waits `WAIT_S` at most and then raises `TimeoutError`."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._pending = bytearray()
        self.received = bytearray()
        """Every byte that came, in order."""
        self.is_open = True
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self._socket.sendall(data)

    def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send each piece in a packet of its own (`TCP_NODELAY` is on), as far as the kernel allows."""
        for piece in pieces:
            self._socket.sendall(piece)

    def send_bytewise(self, data: bytes) -> None:
        """Send it byte by byte."""
        self.send_pieces(data[at : at + 1] for at in range(len(data)))

    def send_until_blocked(self, piece: bytes, blocked_s: float = 0.3) -> int:
        """Send `piece` until nobody takes more for so long, or the peer has gone; give the number of bytes taken."""
        taken = 0
        self._socket.settimeout(blocked_s)
        try:
            while True:
                taken += self._socket.send(piece)
        except (TimeoutError, BrokenPipeError, ConnectionResetError):
            return taken
        finally:
            self._socket.settimeout(WAIT_S)

    # --- ending -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close both directions, as a process that ends does."""
        self.is_open = False
        self._socket.close()

    def interrupt(self) -> None:
        """Wake a thread that reads, which then sees the end; for another thread."""
        with contextlib.suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Send the end of this direction, go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Tear the connection down with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    # --- reading ------------------------------------------------------------------------------------------------------

    def read_some(self) -> bytes:
        """What is there, or what comes next; nothing at the peer's end.

        Raises:
            BrokenError: the peer reset the connection.
        """
        if self._pending:
            data = bytes(self._pending)
            self._pending.clear()
            return data
        try:
            data = self._socket.recv(1 << 18)
        except (ConnectionResetError, BrokenPipeError) as error:
            raise BrokenError("reset") from error
        self.received += data
        return data

    def is_silent(self, silent_s: float) -> bool:
        """Whether nothing (not even the end) comes for so long."""
        return not self._pending and not select.select([self._socket], [], [], silent_s)[0]

    def read_exactly(self, size: int) -> bytes:
        """So many bytes."""
        data = bytearray()
        while len(data) < size:
            data += self._more(data)
        self._give_back(data[size:])
        return bytes(data[:size])

    def read_until(self, end: bytes) -> bytes:
        """All up to `end`, which is included."""
        data = bytearray()
        while (at := data.find(end)) < 0:
            data += self._more(data)
        self._give_back(data[at + len(end) :])
        return bytes(data[: at + len(end)])

    def read_head(self) -> Head:
        """The next head."""
        return Head.parse(self.read_until(b"\r\n\r\n"))

    def wait_for(self, data: bytes) -> None:
        """Return as soon as these bytes are there; they stay to be read."""
        seen = bytearray()
        while data not in seen:
            seen += self._more(seen)
        self._give_back(seen)

    def read_chunk(self) -> bytes:
        """The next chunk's data; nothing for the last chunk, whose trailers are then still to be read.

        Raises:
            BrokenError: the peer ended the connection.
            ValueError: what came is no chunk.
        """
        try:
            line = self.read_until(b"\r\n")
            found = _CHUNK_SIZE.fullmatch(line)
            if not found:
                raise ValueError(f"not a chunk's size: {line!r}")
            size = int(found[1], 16)
        except BrokenError as error:
            raise BrokenError(error.ending) from error
        if not size:
            return b""
        try:
            data = self.read_exactly(size + 2)
        except BrokenError as error:
            raise BrokenError(error.ending, error.body[:size]) from error
        if not data.endswith(b"\r\n"):
            raise ValueError(f"a chunk is longer than its size says: {data[-40:]!r}")
        return data[:-2]

    def read_chunked(self) -> tuple[bytes, list[Field]]:
        """A whole chunked body and its trailers."""
        body = bytearray()
        try:
            while chunk := self.read_chunk():
                body += chunk
        except BrokenError as error:
            raise BrokenError(error.ending, bytes(body) + error.body) from error
        lines = b"\r\n"
        try:
            while not lines.endswith(b"\r\n\r\n"):
                lines += self.read_until(b"\r\n")
        except BrokenError as error:
            raise BrokenError(error.ending, bytes(body)) from error
        return bytes(body), Head.parse(lines).fields

    def read_body(self, head: Head) -> tuple[bytes, list[Field]]:
        """The body and the trailers that follow a request's head."""
        if head.is_chunked:
            return self.read_chunked()
        lengths = head.all(b"content-length")
        return self.read_exactly(int(lengths[0])) if lengths else b"", []

    def read_rest(self) -> bytes:
        """Everything up to the peer's orderly end.

        Raises:
            BrokenError: it ended with a reset instead.
        """
        data = bytearray()
        try:
            while more := self.read_some():
                data += more
        except BrokenError as error:
            raise BrokenError(error.ending, bytes(data)) from error
        return bytes(data)

    def wait_for_end(self) -> Ending:
        """How the peer ended the connection, whatever it sent before."""
        try:
            while self.read_some():
                continue
        except BrokenError as error:
            return error.ending
        return "closed"

    def _more(self, so_far: bytearray) -> bytes:
        try:
            data = self.read_some()
        except BrokenError as error:
            raise BrokenError(error.ending, bytes(so_far)) from error
        if not data:
            raise BrokenError("closed", bytes(so_far))
        return data

    def _give_back(self, data: bytearray) -> None:
        self._pending[:0] = data
