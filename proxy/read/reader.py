"""What a reader is: it claims exchanges by their head, and reads one in a session, live or from the trace alike.

A reader never raises, whatever the bytes are: what it cannot read becomes a `Problem`. It takes time and memory linear
in its input. The same bytes, cut in any way, give the same readings (times aside).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from proxy.exchange import Side
from proxy.meaning import Reading


class Claim(IntEnum):
    """Whether an exchange is a reader's, judged by its head alone."""

    NO = 0
    MAYBE = 1
    """Perhaps; if nobody else says yes."""
    YES = 2


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head, as received."""

    method: str
    path: str
    """Without the query and without the prefix of a configured upstream: as the upstream knows it."""
    query: str = ""
    fields: tuple[tuple[str, str], ...] = ()
    """Names as sent, with their values."""
    is_websocket: bool = False

    def field(self, name: str) -> str:
        """The first value of a field; `name` in lower case. "" where there is none."""
        return next((value for each, value in self.fields if each.lower() == name), "")


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A response's head, as the upstream sent it (or the proxy, where it answered by itself)."""

    status: int
    fields: tuple[tuple[str, str], ...] = ()

    def field(self, name: str) -> str:
        """As in `RequestHead`."""
        return next((value for each, value in self.fields if each.lower() == name), "")


@dataclass(frozen=True, slots=True)
class End:
    """How an exchange ended. Times in microseconds since the request's first byte."""

    outcome: str
    """An `Outcome`'s word."""
    error: str = ""
    done_us: int | None = None


class Session(Protocol):
    """The reading of one exchange, fed in order as its parts are known. No method raises."""

    def request(self, body: bytes, complete_us: int | None) -> None:
        """The request's body, whole, as sent. Not called for a WebSocket."""
        ...

    def response(self, head: ResponseHead, at_us: int | None) -> None:
        """The final response's head; `at_us` is its first byte's time."""
        ...

    def data(self, at_us: int, data: bytes) -> None:
        """Bytes of the response's body: one read, or as much as is stored together."""
        ...

    def message(self, side: Side, at_us: int, opcode: int | None, data: bytes) -> None:
        """A WebSocket's message or control frame."""
        ...

    def readings(self, end: End | None) -> Sequence[Reading]:
        """What was read. `end` None: it goes on, and this may be asked again later; otherwise it is asked once."""
        ...


class EndlessSession(Session, Protocol):
    """One of an exchange that goes on for days with ever more readings: they can be taken out as they come."""

    def take(self, end: End | None) -> Sequence[tuple[int, Reading]]:
        """What came or changed since it was last asked, each with its number as in all `readings`, in that order.

        A finished reading comes once and is let go of; one that still runs comes again whenever it has changed.
        `readings` is not to be asked any more.
        """
        ...


class Reader(Protocol):
    """One dialect."""

    name: str
    """Stored with every reading: `openai_chat`."""
    version: int
    """Raised whenever the same bytes are read differently, so that old readings can be made again."""

    def claims(self, head: RequestHead) -> Claim:
        """Whether the exchange is in this dialect; no body is looked at."""
        ...

    def open(self, head: RequestHead) -> Session:
        """Begin to read one exchange."""
        ...
