"""The upstream's side: connections to one upstream, kept alive for a while, and never a dead one handed out."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Callable, Iterator
from typing import cast
from urllib.parse import urlsplit

from proxy.clock import monotonic_ns
from proxy.forward.roles import LinkUser
from proxy.forward.valve import Valve

_SWEEP_S = 0.5
_LOOPBACK = ("127.0.0.1", "::1")
"""What `localhost` means, in the order of trying; LM Studio listens on the first."""


class UpstreamLink(asyncio.Protocol):
    """One connection to an upstream; it serves one exchange at a time."""

    def __init__(self, on_lost: Callable[["UpstreamLink"], None]) -> None:
        self.user: LinkUser | None = None
        self.transport: asyncio.Transport
        self.valve: Valve
        """Of what is read from the upstream."""
        self.is_fresh = True
        """No exchange has used it yet."""
        self.is_lost = False
        self.idle_until = 0.0
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self.valve = Valve(self.transport)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self.user is None:
            self.abort()  # an upstream that speaks unasked cannot be told apart from a late answer
        else:
            self.user.upstream_data(data, monotonic_ns())

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. Half-closed connections are closed: HTTP has no use for them."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.is_lost = True
        self._on_lost(self)
        user, self.user = self.user, None
        if user is not None:
            user.upstream_lost(error)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self.user is not None:
            self.user.upstream_slow(True)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        if self.user is not None:
            self.user.upstream_slow(False)

    def end_sending(self) -> None:
        """Tell the upstream at once that the client has gone, and go on reading what it had sent."""
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()
                return
        self.abort()

    def abort(self) -> None:
        """Close now, without a word; the user is not told."""
        self.user = None
        self.transport.abort()


class Upstream:
    """One configured upstream."""

    def __init__(self, name: str, url: str, *, connect_timeout_s: float, idle_connection_s: float) -> None:
        """`url` is `http(s)://host[:port][/path]`."""
        parts = urlsplit(url)
        self.name = name
        self.url = url
        self.path = parts.path.rstrip("/").encode()
        """Put before the path of each request."""
        self.authority = parts.netloc.encode()
        """What `Host` says to it."""
        self._host = parts.hostname or ""
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._connect_timeout_s = connect_timeout_s
        self._idle_connection_s = idle_connection_s
        self._idle: list[UpstreamLink] = []
        self._sweeping: asyncio.TimerHandle | None = None

    async def connect(self) -> UpstreamLink:
        """A fresh connection.

        Raises:
            TimeoutError: it took longer than the setting allows.
            OSError: it was refused, or the name is not known, or TLS failed.
        """
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._connect_timeout_s):
            failure: OSError | None = None
            for host in _LOOPBACK if self._host == "localhost" else (self._host,):
                try:
                    _, link = await loop.create_connection(
                        lambda: UpstreamLink(self._forget),
                        host,
                        self._port,
                        ssl=self._ssl,
                        server_hostname=self._host if self._ssl else None,
                    )
                    return link
                except OSError as error:
                    failure = failure or error
            assert failure is not None
            raise failure

    def take_idle(self) -> UpstreamLink | None:
        """A kept-alive connection of which the loop knows no end; None if there is none."""
        now = time.monotonic()
        while self._idle:
            link = self._idle.pop()
            if link.idle_until > now and not link.transport.is_closing():
                return link
            link.abort()
        return None

    def keep(self, link: UpstreamLink, announced_s: float | None) -> None:
        """Keep a connection for the next request, less long than the upstream does (`Keep-Alive: timeout=`)."""
        link.user = None
        link.is_fresh = False
        idle_s = self._idle_connection_s if announced_s is None else min(self._idle_connection_s, announced_s - 1)
        if idle_s <= 0 or link.is_lost:
            link.abort()
            return
        link.valve.open()
        link.idle_until = time.monotonic() + idle_s
        self._idle.append(link)
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)

    def close(self) -> None:
        """Drop all idle connections."""
        for link in list(self._idle):
            link.abort()
        self._idle.clear()
        if self._sweeping is not None:
            self._sweeping.cancel()

    def _sweep(self) -> None:
        now = time.monotonic() + _SWEEP_S  # what would be too old before the next sweep goes now
        old = [link for link in self._idle if link.idle_until <= now]
        self._idle = [link for link in self._idle if link.idle_until > now]
        for link in old:
            link.abort()
        loop = asyncio.get_running_loop()
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep) if self._idle else None

    def _forget(self, link: UpstreamLink) -> None:
        if link in self._idle:
            self._idle.remove(link)


class Upstreams:
    """All configured upstreams, chosen by the path's prefix."""

    def __init__(self, by_prefix: dict[str, Upstream]) -> None:
        """`by_prefix` has "/" among its keys."""
        # The longest first, so that the first that fits is the one.
        self._routes = sorted(
            ((prefix.rstrip("/").encode(), upstream) for prefix, upstream in by_prefix.items()),
            key=lambda route: -len(route[0]),
        )

    def route(self, target: bytes) -> tuple[Upstream, bytes]:
        """The upstream for a request target in origin form (or `*`), and the target to send to it."""
        for prefix, upstream in self._routes:
            rest = target[len(prefix) :]
            if target.startswith(prefix) and (not prefix or rest[:1] in (b"/", b"?", b"")):
                if not prefix and not upstream.path:
                    return upstream, target
                return upstream, upstream.path + (rest if rest[:1] == b"/" else b"/" + rest)
        raise AssertionError("one upstream has the prefix /")

    def __iter__(self) -> Iterator[Upstream]:
        """Every upstream once."""
        return iter(upstream for _, upstream in self._routes)
