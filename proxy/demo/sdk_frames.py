"""Frames that a client sends on the SDK's WebSockets, and JSON as JavaScript reads and writes it.

S, lmstudio-js packages/lms-communication/src/Transport.ts.
"""

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, TypeAdapter, ValidationError

from proxy.demo.javascript_json import with_whole_numbers
from proxy.demo.sdk_endpoints import Parameter


class RpcCall(Parameter):
    """Call a remote procedure."""

    type: Literal["rpcCall"]
    endpoint: str
    call_id: int
    parameter: Any = None


class ChannelCreate(Parameter):
    """Open a channel."""

    type: Literal["channelCreate"]
    endpoint: str
    channel_id: int
    creation_parameter: Any = None


class ChannelSend(Parameter):
    """A message on a channel."""

    type: Literal["channelSend"]
    channel_id: int
    message: Any = None
    ack_id: int | None = None


class ChannelAck(Parameter):
    """A message has arrived."""

    type: Literal["channelAck"]
    channel_id: int
    ack_id: int


class Subscribe(Parameter):
    """Follow a value."""

    type: Literal["signalSubscribe", "writableSignalSubscribe"]
    endpoint: str
    subscribe_id: int
    creation_parameter: Any = None


class Unsubscribe(Parameter):
    """Follow it no more."""

    type: Literal["signalUnsubscribe", "writableSignalUnsubscribe"]
    subscribe_id: int


class SignalUpdate(Parameter):
    """Change a value."""

    type: Literal["writableSignalUpdate"]
    subscribe_id: int
    patches: list[Any]
    tags: list[str]


class KeepAlive(Parameter):
    """Are you there."""

    type: Literal["keepAlive"]


class Warn(Parameter):
    """The client did not understand the server."""

    type: Literal["communicationWarning"]
    warning: str
    kind: str | None = None


Frame = RpcCall | ChannelCreate | ChannelSend | ChannelAck | Subscribe | Unsubscribe | SignalUpdate | KeepAlive | Warn
_FRAME: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="type")])


def read_frame(text: str | bytes) -> Frame | None:
    """A client's frame; None if it is none."""
    try:
        return _FRAME.validate_python(read_json(text))
    except ValidationError:
        return None


def read_json(text: str | bytes) -> Any:
    """A value; None if it is no JSON (`null` is as useless here)."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def compact(data: Any) -> str:
    """JSON as `JSON.stringify` writes it: no spaces, whole numbers without a point, half surrogate pairs escaped."""
    data = with_whole_numbers(data)
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(data, separators=(",", ":"))
    return text
