"""A listener on the wire between a client and the proxy: passes every byte on, and remembers it.

What the trace must hold is what came out here, whatever the client makes of it.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import h11
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from tests.raw_client import Address, ClientId


@dataclass(frozen=True)
class Heard:
    """One exchange as the client had it."""

    method: str
    target: str
    request: bytes
    """The body; of a WebSocket, everything after the head."""
    status: int
    response: bytes
    is_whole: bool
    """The answer's end came."""
    extensions: str = ""
    """Of a WebSocket: `Sec-WebSocket-Extensions` of the answer."""


@dataclass(eq=False)
class Connection:
    """What went over one connection of a client."""

    id: ClientId
    """Finds it in the trace."""
    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)

    def exchanges(self) -> Iterator[Heard]:
        """What both sides said, cut into exchanges."""
        server = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 24)
        client = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 24)
        server.receive_data(bytes(self.sent))
        client.receive_data(bytes(self.received))
        while isinstance(request := server.next_event(), h11.Request):
            heard = _heard(request, server, client)
            if heard is None:
                return
            yield heard
            if heard.status == 101 or not heard.is_whole:
                return
            server.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            server.send(h11.EndOfMessage())
            if h11.MUST_CLOSE in (server.our_state, client.our_state):
                return
            server.start_next_cycle()
            client.start_next_cycle()


def _heard(request: h11.Request, server: h11.Connection, client: h11.Connection) -> Heard | None:
    """The next exchange; None where no answer came at all."""
    asked = bytearray()
    while isinstance(event := server.next_event(), h11.Data):
        asked += event.data
    client.send(request)
    if asked:
        client.send(h11.Data(data=bytes(asked)))
    client.send(h11.EndOfMessage())
    answer = client.next_event()
    while isinstance(answer, h11.InformationalResponse) and answer.status_code != 101:
        answer = client.next_event()
    method, target = request.method.decode(), request.target.decode()
    if isinstance(answer, h11.InformationalResponse):
        extensions = dict(answer.headers).get(b"sec-websocket-extensions", b"").decode()
        sent, received = server.trailing_data[0], client.trailing_data[0]
        return Heard(method, target, sent, 101, received, is_whole=True, extensions=extensions)
    if not isinstance(answer, h11.Response):
        return None
    body = bytearray()
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    return Heard(method, target, bytes(asked), answer.status_code, bytes(body), isinstance(event, h11.EndOfMessage))


def websocket_messages(heard: Heard, *, by_client: bool) -> list[tuple[str, bytes]]:
    """The frames of one side, messages put together, as (kind, payload) in the words of the trace."""
    extensions: list[Extension] = []
    if "permessage-deflate" in heard.extensions:
        deflate = PerMessageDeflate()
        deflate.finalize(heard.extensions.partition("permessage-deflate")[2])
        extensions.append(deflate)
    protocol = FrameProtocol(client=not by_client, extensions=extensions)
    protocol.receive_bytes(heard.request if by_client else heard.response)
    messages, parts = [], bytearray()
    for frame in protocol.received_frames():
        data = _bytes_of(frame.payload)
        if frame.opcode.iscontrol():
            messages.append((frame.opcode.name.lower(), data))
            continue
        parts += data
        if frame.message_finished:
            messages.append(("text" if frame.opcode is Opcode.TEXT else "binary", bytes(parts)))
            parts.clear()
    return messages


def _bytes_of(payload: bytes | bytearray | str | tuple[int, str]) -> bytes:
    """A frame's payload as it was before wsproto understood it; of a close frame, it gives code and reason."""
    match payload:
        case str():
            return payload.encode()
        case (code, reason):
            is_empty = code == CloseReason.NO_STATUS_RCVD
            return b"" if is_empty else int(code).to_bytes(2, "big") + (reason or "").encode()
        case _:
            return bytes(payload)


class Tap:
    """Listens on a port of its own; lives in an event loop."""

    def __init__(self, target: Address) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections: list[Connection] = []
        self.url = ""

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """End everything."""
        assert self._server
        self._server.close()
        await self.settled()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def settled(self, limit_s: float = 5.0) -> None:
        """Wait until nobody is connected any more; a client that keeps its connection is waited for in vain."""
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=limit_s)

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        proxy, to_proxy = await asyncio.open_connection(*self._target)
        connection = Connection(ClientId.of(to_proxy.get_extra_info("socket")))
        self.connections.append(connection)
        try:
            await asyncio.gather(_pump(client, to_proxy, connection.sent), _pump(proxy, to_client, connection.received))
        finally:
            to_client.close()
            to_proxy.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: bytearray) -> None:
    """Pass on until the end, then end the other side, too."""
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            seen += data
            sink.write(data)
            await sink.drain()
    sink.close()  # not half: a client that has read its answer closes both directions, and so do SDKs that leave
