"""The listener, and the client's side: connections from which one request after the other is read."""

import asyncio
import contextlib
import logging
import socket
import struct
from typing import cast

from proxy.clock import monotonic_ns
from proxy.exchange import Outcome
from proxy.forward import answers
from proxy.forward.framing import FramingError, read_request_head, split_head
from proxy.forward.relay import Exchange
from proxy.forward.roles import Forwarding
from proxy.forward.valve import PIPELINE_FULL, Valve
from proxy.record.journal import Open

_log = logging.getLogger(__name__)

_MAX_PIPELINED_BYTES = 64 * 1024
_LINGER_S = 1.0
"""How long a client that was already answered may pause in sending its request, before its connection is cut."""
_MOST_LINGER_S = 60.0
_WRITE_BUFFER_BYTES = 256 * 1024
_RESET = struct.pack("ii", 1, 0)
_TOKEN_BYTES = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\r")


class ClientLink(asyncio.Protocol):
    """One connection from a client."""

    def __init__(self, server: "Server") -> None:
        self._server = server
        self.transport: asyncio.Transport
        self.valve: Valve
        self.number = 0
        self.address = ""
        self._buffer = b""
        self._searched = 0
        self._started_ns = 0
        self._exchange: Exchange | None = None
        self._is_reading_requests = False
        self._is_closing = False
        self._is_slow = False
        self._lingering: asyncio.TimerHandle | None = None
        self._lingers_until = 0.0

    @property
    def exchange(self) -> Exchange | None:
        """The one that is running; None while the connection is idle."""
        return self._exchange

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop has a class of its own
        self.valve = Valve(self.transport)
        self.transport.set_write_buffer_limits(_WRITE_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        self.address = _authority(peer) if peer else ""
        self.number = self._server.connected(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._is_closing:
            self._linger()
            return
        now = monotonic_ns()
        exchange = self._exchange
        if exchange is not None and (exchange.is_tunnel or not exchange.request_body.is_done):
            data = data[exchange.client_data(data, now) :]
            if not data:
                return
        if not self._buffer:
            self._started_ns = now
        self._buffer += data
        if self._exchange is None:
            self._read_requests(now)
        if len(self._buffer) > _MAX_PIPELINED_BYTES and (self._exchange is not None or self._is_slow):
            self.valve.hold(PIPELINE_FULL)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. A client that closes its side has left, as for LM Studio's own server."""
        self._is_closing = True
        if self._exchange is not None:
            self._exchange.client_gone(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._is_closing = True
        self._server.disconnected(self)
        if self._exchange is not None:
            self._exchange.client_gone(error)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_slow = True
        if self._exchange is not None:
            self._exchange.client_slow(True)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._is_slow = False
        if self._exchange is not None:
            self._exchange.client_slow(False)
        elif self._buffer and not self._is_closing:
            self.valve.open()
            self._read_requests(monotonic_ns())

    # --- as an exchange sees it (`roles.Client`) ----------------------------------------------------------------------

    def is_own_authority(self, authority: bytes) -> bool:
        """See `roles.Client`."""
        here = self.transport.get_extra_info("sockname")
        return authority.lower() in self._server.authorities or authority.decode("latin-1") == _authority(here)

    def take_early(self) -> bytes:
        """See `roles.Client`."""
        early, self._buffer = self._buffer, b""
        self.valve.release(PIPELINE_FULL)
        return early

    def ended(self, is_kept: bool) -> None:
        """See `roles.Client`."""
        exchange, self._exchange = self._exchange, None
        self.valve.open()
        if is_kept and not self._server.is_stopping:
            self._started_ns = monotonic_ns()
            if self._buffer and not self._is_reading_requests:
                self._read_requests(self._started_ns)
        elif not self._is_closing:
            self._close(is_lingering=exchange is not None and not exchange.request_body.is_done)
        self._server.exchange_ended()

    def broken(self, is_reset: bool) -> None:
        """See `roles.Client`."""
        self._is_closing = True
        if is_reset:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.close()

    # --- requests -----------------------------------------------------------------------------------------------------

    def _read_requests(self, now: int) -> None:
        """Start the next exchange from what is in the buffer; several in turn if they end at once."""
        self._is_reading_requests = True
        while self._buffer and self._exchange is None and not self._is_closing and not self._is_slow:
            if self._buffer.startswith(b"\r\n"):  # RFC 9112, section 2.2: an empty line before a request is ignored
                self._buffer = self._buffer[2:]
                continue
            try:
                found = self._split_head()
                if found is None:
                    self._searched = len(self._buffer)
                    break
                raw, end = found
                exchange = Exchange(self._server.forwarding, self, read_request_head(raw), self._started_ns)
            except FramingError as error:
                self._refuse(error)
                break
            rest, self._buffer, self._searched = self._buffer[end:], b"", 0
            self._exchange = exchange
            self._server.exchange_started()
            self._buffer = rest[exchange.start(rest, now) :]
            self._started_ns = now
        self._is_reading_requests = False

    def _split_head(self) -> tuple[bytes, int] | None:
        if self._buffer[0] not in _TOKEN_BYTES:
            hint = "; this port speaks http://, not https://" if self._buffer[0] == 0x16 else ""
            raise FramingError(f"not HTTP{hint}")
        return split_head(self._buffer, self._searched, self._server.forwarding.max_head_bytes)

    def _refuse(self, error: FramingError) -> None:
        """Answer what is no request of HTTP, record it as it came, and close."""
        forwarding, now = self._server.forwarding, monotonic_ns()
        message = f"the request is malformed: {error}"
        received = forwarding.recorder.mask_malformed(self._buffer[: forwarding.max_head_bytes])
        lines = (forwarding.cors.response_lines(None) or b"") + b"Connection: close\r\n"
        head, body = answers.error(error.status, "invalid_request_error", message, lines)
        recording = forwarding.recorder.open(Open(self.number, self.address, "", "", b"", b""), self._started_ns)
        recording.client_data(self._started_ns, received)
        recording.response(now, b"", head[:-2])
        recording.upstream_data(now, body)
        recording.close(Outcome.COMPLETED, message, now)
        self.transport.write(head + body)
        self._buffer = b""
        self._close(is_lingering=True)

    def _close(self, is_lingering: bool) -> None:
        """Close once all is sent. Closing with bytes unread would reset the connection and could lose the answer."""
        self._is_closing = True
        if is_lingering and self.transport.can_write_eof():
            self.transport.write_eof()
            self._lingers_until = asyncio.get_running_loop().time() + _MOST_LINGER_S
            self._lingering = asyncio.get_running_loop().call_later(_LINGER_S, self.transport.abort)
        else:
            self.transport.close()

    def _linger(self) -> None:
        """The client goes on sending what nobody reads any more; a well-meaning one will come to an end."""
        loop = asyncio.get_running_loop()
        if self._lingering is not None and loop.time() < self._lingers_until:
            self._lingering.cancel()
            self._lingering = loop.call_later(_LINGER_S, self.transport.abort)


class Server:
    """Listens for clients."""

    def __init__(self, forwarding: Forwarding) -> None:
        self.forwarding = forwarding
        self.authorities: frozenset[bytes] = frozenset()
        """`host:port` of the addresses it listens on, as clients write them."""
        self.is_stopping = False
        self._links: set[ClientLink] = set()
        self._connections = 0
        self._running = 0
        self._listeners: list[asyncio.Server] = []
        self._is_quiet = asyncio.Event()

    async def listen(self, host: str, port: int) -> list[str]:
        """Begin; gives the addresses (`host:port`). `localhost` is 127.0.0.1, and ::1 where that exists.

        Raises:
            OSError: an address is taken, or is not this machine's.
        """
        loop = asyncio.get_running_loop()
        addresses = []
        for place in ("127.0.0.1", "::1") if host == "localhost" else (host,):
            try:
                listener = await loop.create_server(lambda: ClientLink(self), place, port, backlog=4096)
            except OSError:
                if place == "::1":
                    _log.debug("no [::1] here, or not for us: 127.0.0.1 alone will do")
                    continue
                raise
            self._listeners.append(listener)
            for sock in listener.sockets:
                addresses.append(_authority(sock.getsockname()))
                port = port or sock.getsockname()[1]
        ports = {address.rpartition(":")[2] for address in addresses}
        names = {f"{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]", host.lower()) for port in ports}
        self.authorities = frozenset(name.encode() for name in names | set(addresses))
        return addresses

    async def stop(self, drain_s: float) -> None:
        """Stop listening, let what runs go on for a while, then break it off."""
        self.is_stopping = True
        for listener in self._listeners:
            listener.close()
        for link in list(self._links):
            if link.exchange is None:
                link.transport.close()
        if self._running:
            self._is_quiet.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_quiet.wait(), drain_s)
        for link in list(self._links):
            if link.exchange is not None:
                link.exchange.stop()
        await asyncio.sleep(0)  # what was written last goes out
        for upstream in self.forwarding.upstreams:
            upstream.close()

    @property
    def running(self) -> int:
        """How many exchanges are running."""
        return self._running

    def connected(self, link: ClientLink) -> int:
        """A client came; gives its number."""
        self._links.add(link)
        self._connections += 1
        return self._connections

    def disconnected(self, link: ClientLink) -> None:
        """A client has gone."""
        self._links.discard(link)

    def exchange_started(self) -> None:
        """Count it."""
        self._running += 1

    def exchange_ended(self) -> None:
        """Count it off."""
        self._running -= 1
        if not self._running:
            self._is_quiet.set()


def _authority(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
