"""What the parts of the data plane see of each other: a client, the user of an upstream connection, what all share."""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.forward.cors import Cors
from proxy.forward.valve import Valve
from proxy.record.recorder import Recorder

if TYPE_CHECKING:
    from proxy.forward.upstream import Upstreams


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What every exchange needs and shares."""

    recorder: Recorder
    upstreams: "Upstreams"
    cors: Cors
    max_head_bytes: int


class Client(Protocol):
    """The client's connection, as an exchange sees it."""

    transport: asyncio.Transport
    valve: Valve
    """Of what is read from the client."""
    number: int
    address: str

    def is_own_authority(self, authority: bytes) -> bool:
        """Whether a request for this `host:port` was meant for the proxy."""
        ...

    def take_early(self) -> bytes:
        """What the client sent behind its request, before the answer."""
        ...

    def ended(self, is_kept: bool) -> None:
        """The exchange is over; the connection is kept for the next, or closed once all is sent."""
        ...

    def broken(self, is_reset: bool) -> None:
        """The exchange broke off: close once all is sent; `is_reset` says it loudly where a mere end looks complete."""
        ...


class LinkUser(Protocol):
    """Who is told what an upstream connection does."""

    def upstream_data(self, data: bytes, at_ns: int) -> None:
        """Bytes were read."""
        ...

    def upstream_lost(self, error: Exception | None) -> None:
        """The connection is gone; `error` is None where the upstream ended it in order."""
        ...

    def upstream_slow(self, is_slow: bool) -> None:
        """The connection takes no more for now (or again)."""
        ...
