"""A client of the SDK's WebSockets for tests, written from the protocol's description alone, on `websockets`."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import websockets

from proxy.demo.server import LookalikeServer

LIMIT_S = 10.0
GUEST = {"authVersion": 1, "clientIdentifier": "guest:test", "clientPasskey": "secret"}
LLM = "scripted-7b-instruct"
VLM = "scripted-vl-2b"
EMBEDDING = "text-embedding-scripted"


@dataclass
class Channel:
    """What came on a channel."""

    messages: list[Any] = field(default_factory=list)
    error: Any = None

    def of(self, kind: str) -> list[Any]:
        """The messages of one type."""
        return [message for message in self.messages if message["type"] == kind]

    @property
    def types(self) -> list[str]:
        """Each message's type, repetitions left out."""
        types = [message["type"] for message in self.messages]
        return [kind for at, kind in enumerate(types) if at == 0 or types[at - 1] != kind]


class Socket:
    """One WebSocket, one call at a time (or frames by hand)."""

    def __init__(self, connection: websockets.ClientConnection) -> None:
        self.connection = connection
        self._next = 0

    async def send(self, frame: Any) -> None:
        """A frame; a string goes as it is."""
        await self.connection.send(frame if isinstance(frame, str) else json.dumps(frame))

    async def receive(self) -> Any:
        """The next frame."""
        text = await asyncio.wait_for(self.connection.recv(), LIMIT_S)
        assert isinstance(text, str)
        return json.loads(text)

    async def rpc(self, endpoint: str, parameter: Any = None) -> Any:
        """The frame that answers a call."""
        self._next += 1
        frame = {"type": "rpcCall", "endpoint": endpoint, "callId": self._next}
        await self.send(frame if parameter is None else {**frame, "parameter": parameter})
        got = await self.receive()
        assert got["callId"] == self._next, got
        return got

    async def result(self, endpoint: str, parameter: Any = None) -> Any:
        """The result of a call that must succeed; None if it is void."""
        got = await self.rpc(endpoint, parameter)
        assert got["type"] == "rpcResult", got
        return got.get("result")

    async def error(self, endpoint: str, parameter: Any = None) -> Any:
        """The error of a call that must fail."""
        got = await self.rpc(endpoint, parameter)
        assert got["type"] == "rpcError", got
        return got["error"]

    async def open(self, endpoint: str, parameter: Any = None) -> int:
        """Open a channel, give its number."""
        self._next += 1
        frame = {"type": "channelCreate", "endpoint": endpoint, "channelId": self._next}
        await self.send(frame if parameter is None else {**frame, "creationParameter": parameter})
        return self._next

    async def say(self, number: int, message: Any) -> None:
        """A message on a channel."""
        await self.send({"type": "channelSend", "channelId": number, "message": message})

    async def finish(self, *numbers: int) -> list[Channel]:
        """Everything that comes on these channels, to their ends."""
        channels = {number: Channel() for number in numbers}
        left = set(numbers)
        while left:
            frame = await self.receive()
            number = frame["channelId"]
            assert number in left, frame
            if frame["type"] == "channelSend":
                channels[number].messages.append(frame["message"])
            else:
                left.remove(number)
                assert frame["type"] in ("channelClose", "channelError")
                channels[number].error = frame.get("error")
        return list(channels.values())

    async def channel(self, endpoint: str, parameter: Any = None) -> Channel:
        """Everything that comes on a new channel."""
        return (await self.finish(await self.open(endpoint, parameter)))[0]


@asynccontextmanager
async def raw(server: LookalikeServer, path: str, **options: Any) -> AsyncIterator[Socket]:
    """A WebSocket on which nothing was said yet; `options` go to `websockets.connect`."""
    url = server.url.replace("http://", "ws://") + path
    options = {"max_size": None, "compression": None, "proxy": None, "open_timeout": LIMIT_S} | options
    async with websockets.connect(url, **options) as connection:
        yield Socket(connection)


@asynccontextmanager
async def connected(server: LookalikeServer, namespace: str, *, client: str = "guest:test") -> AsyncIterator[Socket]:
    """A WebSocket whose client is let in."""
    async with raw(server, f"/{namespace}") as socket:
        await socket.send({**GUEST, "clientIdentifier": client})
        assert await socket.receive() == {"success": True}
        yield socket


def stack(**fields: Any) -> dict[str, Any]:
    """A stack of one layer; `temperature=0` is `llm.prediction.temperature`, `__` stands for a dot."""
    named = {f"llm.prediction.{name.replace('__', '.')}": value for name, value in fields.items()}
    return layers(("apiOverride", named))


def layers(*named: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """A stack of layers, each a name and its keys and values."""
    return {
        "layers": [
            {"layerName": name, "config": {"fields": [{"key": key, "value": value} for key, value in fields.items()]}}
            for name, fields in named
        ]
    }


def query(identifier: str) -> dict[str, Any]:
    """A specifier by identifier."""
    return {"type": "query", "query": {"identifier": identifier}}


def history(*messages: tuple[str, str] | dict[str, Any]) -> dict[str, Any]:
    """A chat: (role, text), or whole messages."""
    return {
        "messages": [
            one if isinstance(one, dict) else {"role": one[0], "content": [{"type": "text", "text": one[1]}]}
            for one in messages
        ]
    }


def ask(
    *messages: tuple[str, str] | dict[str, Any], model: str = LLM, config: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    """The parameter of `predict`."""
    return {
        "modelSpecifier": query(model),
        "history": history(*messages),
        "predictionConfigStack": config or stack(),
        **more,
    }


async def load(server: LookalikeServer, *models: str) -> None:
    """Load models, as the window would."""
    for model in models:
        await server.look.catalog.load(model)


def fields_of(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration's keys and values."""
    return {field["key"]: field["value"] for field in config["fields"]}


def texts(messages: Sequence[Any]) -> str:
    """The text of fragments."""
    return "".join(message["fragment"]["content"] for message in messages if message["type"] == "fragment")
