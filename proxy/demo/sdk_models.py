"""What /llm and /embedding have in common: loading, unloading, and what is known of loaded models.

S, lmstudio-js packages/lms-external-backend-interfaces/src/baseModelBackendInterface.ts; the order of the info's
members: digest 5.6.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pydantic import Field

from proxy.demo.catalog import Instance, NotFoundError
from proxy.demo.engine import Model
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import fields_of
from proxy.demo.sdk_config import ConfigStack, request_layer
from proxy.demo.sdk_endpoints import (
    ByReference,
    Channel,
    ChannelEndpoint,
    Context,
    Json,
    ModelQuery,
    Parameter,
    Rpc,
    Specifier,
)
from proxy.demo.sdk_errors import (
    SdkError,
    domain_mismatch,
    identifier_not_found,
    no_model_matching_query,
    path_not_found,
    specific_model_unloaded,
)

T = TypeVar("T")


class LoadParameter(Parameter):
    """Load a model."""

    model_key: str
    identifier: str | None = None
    device_identifier: str | None = None
    ttl_ms: Annotated[int, Field(ge=1)] | None = None
    load_config_stack: ConfigStack


class GetOrLoadParameter(Parameter):
    """Give a loaded model, or load it."""

    identifier: str
    device_identifier: str | None = None
    load_ttl_ms: Annotated[int, Field(ge=1)] | None = None
    load_config_stack: ConfigStack


class UnloadParameter(Parameter):
    """Unload a model."""

    identifier: str
    device_identifier: str | None = None


class OfModel(Parameter):
    """Ask something about a loaded model."""

    specifier: Specifier
    ignore_server_session_config: bool = False


class OfModelIfAny(Parameter):
    """Ask something about a model that may not be loaded."""

    specifier: Specifier
    throw_if_not_found: bool


class EstimateParameter(Parameter):
    """What a model would need."""

    model_key: str
    device_identifier: str | None = None
    load_config_stack: ConfigStack


def model_info(model: Model) -> Json:
    """What is known of a model that is downloaded."""
    return {**_base_info(model), **_additional_info(model)}


def instance_info(instance: Instance) -> Json:
    """What is known of a model that is loaded."""
    return {
        **_base_info(instance.model),
        "identifier": instance.identifier,
        "instanceReference": instance.reference,
        "ttlMs": None if instance.ttl_s is None else round(instance.ttl_s * 1000),
        "lastUsedTime": round(instance.last_used * 1000),
        **_additional_info(instance.model),
        "contextLength": instance.loaded.context_length,
    }


def _base_info(model: Model) -> Json:
    return {
        "type": model.domain,
        "modelKey": model.key,
        "format": "gguf",
        "displayName": model.display_name,
        "publisher": model.publisher,
        "path": model.path,
        "sizeBytes": model.size_bytes,
        "indexedModelIdentifier": model.path,
        "deviceIdentifier": None,
        "paramsString": model.parameters,
        "architecture": model.architecture,
        "quantization": {"name": model.quantization, "bits": int(model.bits)},
    }


def _additional_info(model: Model) -> Json:
    if model.domain == "embedding":
        return {"maxContextLength": model.max_context_length}
    return {
        "vision": model.vision,
        "trainedForToolUse": model.trained_for_tool_use,
        "maxContextLength": model.max_context_length,
    }


def find_instance(look: Lookalike, specifier: Specifier, domain: str) -> Instance:
    """The loaded model that is meant; nothing is loaded for it.

    Raises:
        SdkError: there is none.
    """
    loaded = [one for one in look.catalog.instances if one.model.domain == domain]
    if isinstance(specifier, ByReference):
        found = next((one for one in loaded if one.reference == specifier.instance_reference), None)
        if found is None:
            raise specific_model_unloaded()
        return found
    found = next((one for one in loaded if _fits(one, specifier.query)), None)
    if found is None:
        raise no_model_matching_query(look, specifier.query.model_dump(by_alias=True, exclude_unset=True), domain)
    return found


def _fits(instance: Instance, query: ModelQuery) -> bool:
    model = instance.model
    return (
        query.domain in (None, model.domain)
        and query.device_identifier is None  # None is this machine, and there is no other
        and query.identifier in (None, instance.identifier)
        and (query.path is None or _is_below(model, query.path))
        and query.vision in (None, model.vision)
    )


def _is_below(model: Model, path: str) -> bool:
    """S: `<publisher>/<repo>[/model_file]`."""
    path = path.lower().rstrip("/")
    return model.path.lower() == path or model.path.lower().startswith(f"{path}/")


def find_models(look: Lookalike, name: str, domain: str) -> list[Model]:
    """The downloaded models that a key or a path names; the first is the one that is taken.

    Raises:
        SdkError: there is none, or it is of the other domain.
    """
    found = [model for model in look.catalog.models if name.lower() == model.key.lower()]
    if not found and (model := look.catalog.model(name)) is not None:
        found = [model]
    found = found or [model for model in look.catalog.models if name and _is_below(model, name)]
    if not found:
        raise path_not_found(look, name, domain)
    fitting = [model for model in found if model.domain == domain]
    if not fitting:
        raise domain_mismatch(found[0].path, found[0].domain, domain)
    return fitting


async def _told(work: Callable[[Callable[[Json], None]], Awaitable[T]], send: Callable[[Json], Awaitable[None]]) -> T:
    """What the work gives, while the messages that it puts out on its way are sent."""
    queue: asyncio.Queue[Json | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(queue.put_nowait))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (message := await queue.get()) is not None:
            await send(message)
        return await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class _Progress:
    """Only ever more of it."""

    def __init__(self, put: Callable[[Json], None], type_: str) -> None:
        self._put = put
        self._type = type_
        self._last = -1.0

    @property
    def is_first(self) -> bool:
        """Nothing is told yet."""
        return self._last < 0

    def __call__(self, identifier: str, progress: float) -> None:
        if progress > self._last:
            self._last = progress
            self._put({"type": self._type, "progress": progress})


@dataclass(frozen=True, slots=True)
class ModelEndpoints:
    """The endpoints of one domain: `llm` or `embedding`."""

    domain: str

    def rpcs(self) -> dict[str, Rpc[Any]]:
        """Remote procedures by name."""
        return {
            "unloadModel": Rpc(UnloadParameter, self.unload),
            "listLoaded": Rpc(None, self.list_loaded),
            "getModelInfo": Rpc(OfModelIfAny, self.info),
            "getLoadConfig": Rpc(OfModel, self.load_config),
            "getBasePredictionConfig": Rpc(OfModel, self.base_prediction_config),
            "getInstanceProcessingState": Rpc(OfModelIfAny, self.processing_state),
            "estimateModelUsage": Rpc(EstimateParameter, self.estimate),
        }

    def channels(self) -> dict[str, ChannelEndpoint[Any]]:
        """Kinds of channels by name."""
        return {
            "loadModel": ChannelEndpoint(LoadParameter, self.load),
            "getOrLoad": ChannelEndpoint(GetOrLoadParameter, self.get_or_load),
        }

    async def load(self, context: Context, parameter: LoadParameter, channel: Channel) -> None:
        """Load, another time if it is loaded already; `cancel` ends the channel without `success` (U)."""
        look = context.look
        config = parameter.load_config_stack.layer()
        models = find_models(look, parameter.model_key, self.domain)
        resolved: Json = {"type": "resolved", "info": model_info(models[0])}
        if len(models) > 1:
            resolved["ambiguous"] = [model.path for model in models]
        await channel.send(resolved)

        async def work(put: Callable[[Json], None]) -> Instance:
            return await look.catalog.load(
                models[0].path,
                identifier=parameter.identifier,
                context_length=config.get(f"{self.domain}.load.contextLength"),
                ttl_s=_seconds(parameter.ttl_ms),
                load_config=config,
                on_load=_Progress(put, "progress"),
            )

        instance = await channel.until_stopped(_told(work, channel.send))
        if instance is not None:
            await channel.send({"type": "success", "info": instance_info(instance)})

    async def get_or_load(self, context: Context, parameter: GetOrLoadParameter, channel: Channel) -> None:
        """Give what is loaded, or load it just in time: that may cost another model its place."""
        look, name = context.look, parameter.identifier
        config = parameter.load_config_stack.layer()
        if (found := look.catalog.instance(name, self.domain)) is not None:
            await channel.send({"type": "alreadyLoaded", "info": instance_info(found)})
            return
        model = find_models(look, name, self.domain)[0]

        async def work(put: Callable[[Json], None]) -> tuple[Instance, float | None]:
            tell = _Progress(put, "loadProgress")

            def on_load(identifier: str, progress: float) -> None:
                if progress == 0 and tell.is_first:
                    put({"type": "startLoading", "identifier": identifier, "info": model_info(model)})
                tell(identifier, progress)

            return await look.catalog.get(
                model.path,
                self.domain,
                ttl_s=_seconds(parameter.load_ttl_ms),
                context_length=config.get(f"{self.domain}.load.contextLength"),
                load_config=config,
                is_explicit=True,
                on_load=on_load,
                on_evict=lambda one: put({"type": "unloadingOtherJITModel", "info": instance_info(one)}),
            )

        got = await channel.until_stopped(_told(work, channel.send))
        if got is not None:
            instance, load_time_s = got
            kind = "alreadyLoaded" if load_time_s is None else "loadSuccess"
            await channel.send({"type": kind, "info": instance_info(instance)})

    async def unload(self, context: Context, parameter: UnloadParameter) -> None:
        """Unload."""
        look, identifier = context.look, parameter.identifier
        if not any(one.identifier == identifier and one.model.domain == self.domain for one in look.catalog.instances):
            raise identifier_not_found(look, identifier, self.domain)
        try:
            await look.catalog.unload(identifier)
        except NotFoundError:  # somebody else was faster
            raise identifier_not_found(look, identifier, self.domain) from None

    async def list_loaded(self, context: Context, _: None) -> list[Json]:
        """What is loaded."""
        return [instance_info(one) for one in context.look.catalog.instances if one.model.domain == self.domain]

    async def info(self, context: Context, parameter: OfModelIfAny) -> Json | None:
        """What is known of one."""
        instance = self._if_any(context.look, parameter)
        return None if instance is None else instance_info(instance)

    def _if_any(self, look: Lookalike, parameter: OfModelIfAny) -> Instance | None:
        try:
            return find_instance(look, parameter.specifier, self.domain)
        except SdkError:
            if parameter.throw_if_not_found:
                raise
            return None

    async def load_config(self, context: Context, parameter: OfModel) -> Json:
        """What it was loaded with."""
        return fields_of(find_instance(context.look, parameter.specifier, self.domain).load_config)

    async def base_prediction_config(self, context: Context, parameter: OfModel) -> Json:
        """The configuration before a call says anything."""
        look = context.look
        instance = find_instance(look, parameter.specifier, self.domain)
        if self.domain == "embedding":
            return fields_of({})
        base = look.base_config(instance.model, ignores_server_session=parameter.ignore_server_session_config)
        return fields_of(base | request_layer(look, instance.model, ConfigStack(layers=[]), None))

    async def processing_state(self, context: Context, parameter: OfModelIfAny) -> Json | None:
        """What it does now. T: `queued` counts what runs, too."""
        instance = self._if_any(context.look, parameter)
        return None if instance is None else {"status": instance.status, "queued": instance.in_line}

    async def estimate(self, context: Context, parameter: EstimateParameter) -> Json:
        """What loading it would take: the file's size. The context's part is not known here, so confidence is low."""
        parameter.load_config_stack.layer()
        size = find_models(context.look, parameter.model_key, self.domain)[0].size_bytes
        memory = {
            "confidence": "low",
            "modelVramBytes": 0,
            "contextVramBytes": 0,
            "totalVramBytes": 0,
            "modelBytes": size,
            "contextBytes": 0,
            "totalBytes": size,
        }
        return {"memory": memory, "passesGuardrails": True}


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
