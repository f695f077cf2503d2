"""One WebSocket of LM Studio's SDK, on which calls are made one after the other.

Facts (lmstudio-api.md 5.1-5.3, 5.5)
------------------------------------
* One socket per namespace. The first frame says who comes: a guest, or the two halves of an API token. The answer is
  `{"success": true}`, or `{"success": false, "error": ...}` and the end.
* A call to an endpoint that a server does not know is answered by `communicationWarning` at best, and never ends: so
  there is a time limit. Fields that are void are absent.
* A channel has no opening word; it ends with one `channelClose` or `channelError`.
"""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Any

import aiohttp

from proxy.read.json_fields import NotJsonError, decode_json

PATIENCE_S = 10.0
"""How long an answer, or the next message of a channel, may take."""
_CLOSE_S = 0.5
_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


class SdkRefusedError(Exception):
    """The server speaks no such protocol, does not let us in, or answers with an error: the message says which."""


@contextlib.asynccontextmanager
async def open_socket(
    session: aiohttp.ClientSession,
    url: str,
    namespace: str,
    credentials: tuple[str, str] | None = None,
    *,
    fields: Mapping[str, str] = _NO_FIELDS,
    patience_s: float = PATIENCE_S,
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """A socket that has been let in.

    Args:
        session: makes the connection.
        url: the server's, without the namespace.
        namespace: `llm`, `embedding`, `system`...
        credentials: the two halves of an API token; None: a guest's.
        fields: header fields of the opening request.
        patience_s: how long the server may take to let us in.

    Raises:
        SdkRefusedError: there is no such WebSocket, or the server does not know us.
        OSError, aiohttp.ClientError: it cannot be reached. A TimeoutError is an OSError.
    """
    identifier, passkey = credentials or (f"guest:proxy-log-{secrets.token_hex(9)}", secrets.token_hex(16))
    who = {"authVersion": 1, "clientIdentifier": identifier, "clientPasskey": passkey}
    try:
        async with asyncio.timeout(patience_s):
            timeout = aiohttp.ClientWSTimeout(ws_close=_CLOSE_S)
            socket = await session.ws_connect(
                f"{url}/{namespace}", headers=dict(fields), max_msg_size=0, timeout=timeout
            )
    except aiohttp.WSServerHandshakeError as error:
        raise SdkRefusedError(f"{url}/{namespace}: status {error.status} instead of a WebSocket") from None
    try:
        await socket.send_str(json.dumps(who))
        welcome = await _receive(socket, patience_s)
        if welcome.get("success") is not True:
            raise SdkRefusedError(f"{url}/{namespace}: {welcome.get('error') or 'we are not let in'}")
        yield socket
    finally:
        await socket.close()


async def call(
    socket: aiohttp.ClientWebSocketResponse,
    endpoint: str,
    parameter: Any = None,
    *,
    patience_s: float = PATIENCE_S,
) -> Any:
    """The result of a remote procedure; None if it is void. One call at a time.

    Raises:
        SdkRefusedError: it answered with an error, or ended the connection.
        TimeoutError: it did not answer: most likely it does not know the endpoint.
    """
    frame: dict[str, Any] = {"type": "rpcCall", "endpoint": endpoint, "callId": 0}
    if parameter is not None:
        frame["parameter"] = parameter
    await socket.send_str(json.dumps(frame))
    async with asyncio.timeout(patience_s):
        while True:
            answer = await _receive(socket, patience_s)
            match answer.get("type"):
                case "rpcResult":
                    return answer.get("result")
                case "rpcError":
                    raise SdkRefusedError(f"{endpoint}: {title_of(answer.get('error'))}")
                case "communicationWarning":
                    raise SdkRefusedError(f"{endpoint}: {answer.get('warning')}")
                case _:
                    continue


async def run_channel(
    socket: aiohttp.ClientWebSocketResponse,
    endpoint: str,
    parameter: Any,
    *,
    number: int = 0,
    patience_s: float = PATIENCE_S,
) -> list[dict[str, Any]]:
    """Every message of a channel, from its opening to its end. One channel at a time; `number` is its own.

    Raises:
        SdkRefusedError: it ended with an error, or with the connection.
        TimeoutError: the next message did not come.
    """
    frame = {"type": "channelCreate", "endpoint": endpoint, "channelId": number, "creationParameter": parameter}
    await socket.send_str(json.dumps(frame))
    messages: list[dict[str, Any]] = []
    while True:
        answer = await _receive(socket, patience_s)
        match answer.get("type"):
            case "channelSend":
                message = answer.get("message")
                if isinstance(message, dict):
                    messages.append(message)
            case "channelClose":
                return messages
            case "channelError":
                raise SdkRefusedError(f"{endpoint}: {title_of(answer.get('error'))}")
            case "communicationWarning":
                raise SdkRefusedError(f"{endpoint}: {answer.get('warning')}")
            case _:
                continue


def title_of(error: Any) -> str:
    """What an error object says, in its own words."""
    title = error.get("title") if isinstance(error, dict) else error
    return title if isinstance(title, str) and title else json.dumps(error)[:200]


async def _receive(socket: aiohttp.ClientWebSocketResponse, patience_s: float) -> dict[str, Any]:
    """The next frame.

    Raises:
        SdkRefusedError: the connection ended, or it is no JSON object.
        TimeoutError: nothing came.
    """
    async with asyncio.timeout(patience_s):
        message = await socket.receive()
    if message.type is not aiohttp.WSMsgType.TEXT:
        raise SdkRefusedError("the connection ended instead of an answer")
    try:
        value = decode_json(message.data)
    except NotJsonError as error:
        raise SdkRefusedError(f"no JSON came over the WebSocket: {error}") from None
    return value if isinstance(value, dict) else {}
