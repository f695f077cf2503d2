"""What the namespaces of the SDK's WebSockets are made of: remote procedures, channels, and their parameters.

S, lmstudio-js packages/lms-communication/src/BackendInterface.ts and packages/lms-external-backend-interfaces. Each
parameter is a pydantic model, as strict as the zod schema there; members it does not know are ignored.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from proxy.demo.lookalike import Lookalike
from proxy.demo.sdk_clients import Client

T = TypeVar("T")
P = TypeVar("P")
Json = dict[str, Any]


class Parameter(BaseModel):
    """What a client sends, in camelCase."""

    model_config = ConfigDict(alias_generator=to_camel, strict=True, frozen=True)


class ModelQuery(Parameter):
    """A loaded model that fits. S: ModelSpecifier.ts."""

    domain: Literal["llm", "embedding"] | None = None
    device_identifier: str | None = None
    identifier: str | None = None
    path: str | None = None
    vision: bool | None = None


class BySpecification(Parameter):
    """Any model that fits a query."""

    type: Literal["query"]
    query: ModelQuery


class ByReference(Parameter):
    """One load of a model, and no later one."""

    type: Literal["instanceReference"]
    instance_reference: str


Specifier = Annotated[BySpecification | ByReference, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class Context:
    """What a call may touch."""

    look: Lookalike
    client: Client
    flags: set[str]
    """The application's experiment flags that are set."""


class Channel:
    """The server's side of a channel."""

    def __init__(self, send: Callable[[Json], Awaitable[None]]) -> None:
        """`send` takes messages to the client."""
        self.send = send
        self.stopped = asyncio.Event()
        """The client has sent the channel's one message: `cancel` or `stop`."""

    async def until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work gives; None where the client stopped the channel before, then the work is cancelled."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self.stopped.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            stopped.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Rpc(Generic[P]):
    """A remote procedure; its parameter is void where `parameter` is None. A result of None is void, too."""

    parameter: type[P] | None
    handler: Callable[[Context, P], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class ChannelEndpoint(Generic[P]):
    """A kind of channel; it ends when the handler does."""

    parameter: type[P] | None
    handler: Callable[[Context, P, Channel], Awaitable[None]]
    stop_message: str | None = "cancel"
    """The one message that the client may send; None: there is none."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """The endpoints below one path."""

    name: str
    rpcs: Mapping[str, Rpc[Any]] = field(default_factory=dict)
    channels: Mapping[str, ChannelEndpoint[Any]] = field(default_factory=dict)
