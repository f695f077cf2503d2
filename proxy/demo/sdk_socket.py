"""The SDK's WebSockets: one for each namespace, many calls on each.

Facts
-----
* S, lmstudio-js packages/lms-communication-server: a path that is no namespace gets no answer at all (WsServer.ts); the
  first frame must come within 10 s, what is no such frame is ignored until then (AuthenticatedWsServer.ts); unknown
  endpoints and invalid parameters bring a `communicationWarning`, at most five of them, and the call stays open for
  ever (ServerPort.ts); frames that are none at all are ignored.
* T: with authentication on, a path that is no namespace is refused with 401.
* S, packages/lms-communication/src/Transport.ts: text frames, one JSON value each; void values are left out.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from pydantic import ValidationError

from proxy.demo import sdk_diagnostics, sdk_embedding, sdk_files, sdk_llm, sdk_repository, sdk_runtime, sdk_system
from proxy.demo import sdk_frames as frames
from proxy.demo.http import Failure, Request, Route, answer, check_token, refused_token
from proxy.demo.lookalike import Lookalike
from proxy.demo.sdk_clients import Client, Clients, RefusedClientError, read_auth_packet
from proxy.demo.sdk_config import first_error
from proxy.demo.sdk_endpoints import Channel, Context, Json, Namespace
from proxy.demo.sdk_errors import KNOWN_ERRORS, error_object

NAMESPACES: dict[str, Namespace] = {
    one.NAMESPACE.name: one.NAMESPACE
    for one in (sdk_diagnostics, sdk_embedding, sdk_files, sdk_llm, sdk_repository, sdk_runtime, sdk_system)
}
_MOST_WARNINGS = 5
_logger = logging.getLogger(__name__)


class SdkSockets:
    """Every WebSocket of a server."""

    def __init__(self, look: Lookalike) -> None:
        """None is open yet."""
        self._look = look
        self._clients = Clients(look.behaviour, look.log)
        self._flags: set[str] = set()
        self._open: set[web.WebSocketResponse] = set()
        self._closing = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Speak with a client until one side closes."""
        behaviour = self._look.behaviour
        namespace = NAMESPACES.get(request.path[1:])
        if namespace is None or (namespace is sdk_diagnostics.NAMESPACE and not behaviour.diagnostics):
            return await self._unknown(request)
        socket = web.WebSocketResponse(max_msg_size=0, compress=behaviour.sdk_compression, timeout=1.0)
        await socket.prepare(request)
        self._open.add(socket)
        try:
            client = await self._authenticate(socket)
            if client is not None:
                try:
                    context = Context(self._look, client, self._flags)
                    await _Connection(socket, namespace, context).run()
                finally:
                    self._clients.leave(client)
        except ConnectionError:
            _logger.debug("/%s: the client has gone", namespace.name)
        finally:
            self._open.discard(socket)
        return socket

    async def _unknown(self, request: web.Request) -> web.StreamResponse:
        try:
            check_token(self._look.behaviour, request)
        except Failure as failure:
            return answer(refused_token(failure), failure.status)
        await self._closing.wait()
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    async def _authenticate(self, socket: web.WebSocketResponse) -> Client | None:
        try:
            async with asyncio.timeout(self._look.behaviour.sdk_auth_s):
                client = await self._first_frame(socket)
            if client is not None:
                await socket.send_str(frames.compact({"success": True}))
            return client
        except TimeoutError:
            words = "Authentication timed out"
        except RefusedClientError as refusal:
            words = str(refusal)
        self._look.log.server(f"Failed to authenticate client: {words}", "warn")
        await socket.send_str(frames.compact({"success": False, "error": words}))
        await socket.close()
        return None

    async def _first_frame(self, socket: web.WebSocketResponse) -> Client | None:
        async for message in socket:
            if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                packet = read_auth_packet(frames.read_json(message.data))
                if packet is not None:
                    return self._clients.enter(packet)
                self._look.log.server("Received invalid message from client while authenticating", "warn")
        return None

    async def close(self) -> None:
        """Close all: clients see that the server goes away."""
        self._closing.set()
        for socket in list(self._open):
            await socket.close(code=WSCloseCode.GOING_AWAY)


def sockets_of(look: Lookalike) -> SdkSockets:
    """The sockets of a server."""
    if "sdk_socket" not in look.kept:
        look.kept["sdk_socket"] = SdkSockets(look)
    sockets = look.kept["sdk_socket"]
    assert isinstance(sockets, SdkSockets)
    return sockets


async def _upgrade(look: Lookalike, request: Request) -> web.StreamResponse:
    return await sockets_of(look).serve(request.web)


ROUTES = (Route("GET", "/.*", _upgrade, is_socket=True),)
"""Every upgrade: what is no namespace is dealt with here, too."""


class _Connection:
    """One WebSocket whose client is known."""

    def __init__(self, socket: web.WebSocketResponse, namespace: Namespace, context: Context) -> None:
        self._socket = socket
        self._namespace = namespace
        self._context = context
        self._channels: dict[int, tuple[Channel, str | None]] = {}
        self._finished: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._warnings = 0

    async def run(self) -> None:
        """Take frames until the socket closes; what still runs then is cancelled."""
        try:
            async for message in self._socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._take(message.data)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _take(self, data: str | bytes) -> None:
        match frames.read_frame(data):
            case frames.RpcCall() as frame:
                await self._rpc_call(frame)
            case frames.ChannelCreate() as frame:
                await self._channel_create(frame)
            case frames.ChannelSend() as frame:
                await self._channel_send(frame)
            case frames.ChannelAck() as frame:  # nothing here asks for one
                await self._unless_known(frame.channel_id, "channelAck")
            case frames.KeepAlive():
                await self._send({"type": "keepAliveAck"})
            case frames.Subscribe() | frames.SignalUpdate() as frame:
                await self._no_signal(frame)
            case frames.Unsubscribe():
                pass  # S: it may come before its subscription; there are none
            case frames.Warn() as frame:
                self._log(f"Received communication warning from the client: {frame.warning}")
            case None:
                self._log("Received invalid message from client")

    async def _no_signal(self, frame: frames.Subscribe | frames.SignalUpdate) -> None:
        """S: no public namespace has any today."""
        if isinstance(frame, frames.SignalUpdate):
            await self._warn(
                f"Received writableSignalUpdate for unknown subscription, subscribeId = {frame.subscribe_id}",
                "writableSignalUnknown",
            )
        else:
            await self._warn(
                f"Received {frame.type} for unknown endpoint, endpoint = {frame.endpoint}",
                f"{frame.type.removesuffix('Subscribe')}EndpointUnknown",
            )

    async def _rpc_call(self, frame: frames.RpcCall) -> None:
        endpoint = self._namespace.rpcs.get(frame.endpoint)
        if endpoint is None:
            await self._warn(
                f"Received rpcCall for unknown endpoint, endpoint = {frame.endpoint}", "rpcEndpointUnknown"
            )
            return
        try:
            parameter = _parse(endpoint.parameter, frame.parameter)
        except ValueError as error:
            await self._warn(
                f"Received invalid parameter for rpcCall, endpointName = {frame.endpoint}. {error}",
                "rpcParameterTypeError",
            )
            return
        numbered = {"callId": frame.call_id}

        async def call() -> None:
            result = await endpoint.handler(self._context, parameter)
            await self._send({"type": "rpcResult", **numbered, **({} if result is None else {"result": result})})

        self._start(call, frame.endpoint, {"type": "rpcError", **numbered})

    async def _channel_create(self, frame: frames.ChannelCreate) -> None:
        number = frame.channel_id
        endpoint = self._namespace.channels.get(frame.endpoint)
        if endpoint is None:
            await self._warn(
                f"Received channelCreate for unknown endpoint, endpoint = {frame.endpoint}", "channelEndpointUnknown"
            )
            return
        if number in self._channels:
            await self._warn(
                f"Received channelCreate for already open channel, channelId = {number}", "channelAlreadyOpen"
            )
            return
        try:
            parameter = _parse(endpoint.parameter, frame.creation_parameter)
        except ValueError as error:
            await self._warn(
                f"Received invalid creationParameter for channel, endpointName = {frame.endpoint}. {error}",
                "channelCreationParameterTypeError",
            )
            return

        async def send(message: Json) -> None:
            await self._send({"type": "channelSend", "channelId": number, "message": message})

        channel = Channel(send)
        self._channels[number] = channel, endpoint.stop_message

        async def serve() -> None:
            await endpoint.handler(self._context, parameter, channel)
            await self._send({"type": "channelClose", "channelId": number})

        def end() -> None:
            del self._channels[number]
            self._finished.add(number)

        self._start(serve, frame.endpoint, {"type": "channelError", "channelId": number}, end)

    async def _channel_send(self, frame: frames.ChannelSend) -> None:
        if not await self._unless_known(frame.channel_id, "channelSend"):
            return
        channel, stop_message = self._channels[frame.channel_id]
        if stop_message is None or not isinstance(frame.message, dict) or frame.message.get("type") != stop_message:
            await self._warn(
                f"Received invalid message for channel, channelId = {frame.channel_id}", "channelMessageTypeError"
            )
            return
        channel.stopped.set()

    async def _unless_known(self, number: int, kind: str) -> bool:
        """Whether a channel is open; warns where the client could know that it is not."""
        if number in self._channels:
            return True
        is_late = number in self._finished
        if not is_late or self._context.look.behaviour.sdk_late_frames == "warned":
            await self._warn(f"Received {kind} for unknown channel, channelId = {number}", "channelUnknown")
        return False

    def _start(
        self, work: Callable[[], Awaitable[None]], endpoint: str, failed: Json, end: Callable[[], None] | None = None
    ) -> None:
        task = asyncio.create_task(self._guarded(work, f"{self._namespace.name}.{endpoint}", failed, end))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(
        self, work: Callable[[], Awaitable[None]], place: str, failed: Json, end: Callable[[], None] | None
    ) -> None:
        """Do the work; what goes wrong is told to the client."""
        try:
            try:
                await work()
            except ConnectionError:
                raise
            except Exception as error:
                if not isinstance(error, KNOWN_ERRORS):
                    _logger.exception("%s failed", place)
                told = error_object(error, self._context.look.behaviour, place)
                self._log(f"[Endpoint={place}] {told['title']}", "error")
                await self._send({**failed, "error": told})
        except ConnectionError:
            _logger.debug("%s: the client has gone", place)
        finally:
            if end is not None:
                end()

    async def _warn(self, warning: str, kind: str) -> None:
        self._log(f"Produced communication warning: {warning}")
        if self._warnings < _MOST_WARNINGS:
            self._warnings += 1
            await self._send({"type": "communicationWarning", "warning": warning, "kind": kind})

    def _log(self, content: str, level: str = "warn") -> None:
        self._context.look.log.server(f"[Client={self._context.client.identifier}]{content}", level)

    async def _send(self, frame: Json) -> None:
        await self._socket.send_str(frames.compact(frame))


def _parse(type_: Any, value: Any) -> Any:
    """A parameter as its endpoint takes it.

    Raises:
        ValueError: it is something else.
    """
    if type_ is None:
        if value is not None:
            raise ValueError("parameter: expected nothing")
        return None
    try:
        return type_.model_validate(value)
    except ValidationError as error:
        raise ValueError(first_error(error)) from None
