"""/system of the SDK: models on disk, versions, flags.

S, lmstudio-js packages/lms-external-backend-interfaces/src/systemBackendInterface.ts; forms of results:
digest 5.3 and 5.9.
"""

import os
from typing import Annotated, Any

from pydantic import Field

from proxy.demo.sdk_endpoints import Channel, ChannelEndpoint, Context, Json, Namespace, Parameter, Rpc
from proxy.demo.sdk_errors import SdkError
from proxy.demo.sdk_models import model_info


class ModelKeyParameter(Parameter):
    """A model's key."""

    model_key: str


class NotifyParameter(Parameter):
    """A note for the user. S: BackendNotification.ts."""

    title: str
    description: str = ""
    no_auto_dismiss: bool = False


class FlagParameter(Parameter):
    """An experiment, on or off."""

    code: str
    value: bool


class HttpServerParameter(Parameter):
    """Where to listen."""

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    cors: bool | None = None
    network_interface: str | None = None


async def list_downloaded_models(context: Context, _: None) -> list[Json]:
    """Every model on disk, of both domains."""
    return [model_info(model) for model in context.look.catalog.models]


async def list_downloaded_model_variants(context: Context, parameter: ModelKeyParameter) -> list[Json]:
    """The models of one key."""
    key = parameter.model_key.lower()
    return [model_info(model) for model in context.look.catalog.models if model.key.lower() == key]


async def version(context: Context, _: None) -> Json:
    """Of the application that is imitated."""
    behaviour = context.look.behaviour
    return {"version": behaviour.version, "build": behaviour.build}


async def info(context: Context, _: None) -> Json:
    """Of this process."""
    behaviour = context.look.behaviour
    return {"pid": os.getpid(), "isDaemon": False, "version": f"{behaviour.version}+{behaviour.build}"}


async def alive(context: Context, _: None, channel: Channel) -> None:
    """Nothing is ever said; the client sees its end when the connection ends."""
    await channel.stopped.wait()


async def notify(context: Context, parameter: NotifyParameter) -> None:
    """There is no window that could show it; it goes to the log."""
    words = f"{parameter.title}: {parameter.description}" if parameter.description else parameter.title
    context.look.log.server(f"[Client={context.client.identifier}] Notification: {words}")


async def set_experiment_flag(context: Context, parameter: FlagParameter) -> None:
    """Remember a flag; nothing depends on any."""
    if parameter.value:
        context.flags.add(parameter.code)
    else:
        context.flags.discard(parameter.code)


async def get_experiment_flags(context: Context, _: None) -> list[str]:
    """The flags that are set."""
    return sorted(context.flags)


async def refuse_server(context: Context, parameter: Any) -> None:
    """The server that would be started or stopped is the one that answers."""
    raise SdkError(
        "The HTTP server cannot be started or stopped here",
        cause="This is proxy-log's imitation of LM Studio: it serves HTTP and WebSockets on one port while it runs.",
        suggestion="Start or stop `proxy-log demo` instead.",
    )


async def refuse_shutdown(context: Context, _: None) -> None:
    """Whoever started it stops it."""
    raise SdkError(
        "The application cannot be shut down from here",
        cause="This is proxy-log's imitation of LM Studio: it belongs to the program that started it.",
        suggestion="Stop `proxy-log demo` instead.",
    )


NAMESPACE = Namespace(
    "system",
    rpcs={
        "listDownloadedModels": Rpc(None, list_downloaded_models),
        "listDownloadedModelVariants": Rpc(ModelKeyParameter, list_downloaded_model_variants),
        "notify": Rpc(NotifyParameter, notify),
        "version": Rpc(None, version),
        "info": Rpc(None, info),
        "setExperimentFlag": Rpc(FlagParameter, set_experiment_flag),
        "getExperimentFlags": Rpc(None, get_experiment_flags),
        "startHttpServer": Rpc(HttpServerParameter, refuse_server),
        "stopHttpServer": Rpc(None, refuse_server),
        "requestShutdown": Rpc(None, refuse_shutdown),
    },
    channels={"alive": ChannelEndpoint(None, alive, stop_message=None)},
)
