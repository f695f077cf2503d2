"""GET /api/v1/models, and loading and unloading through it. D: list.md, load.md, unload.md.

An instance's `config` is its load configuration as the engine has it. T: what it does not report is left out.
"""

from typing import Any

from aiohttp import web

from proxy.demo import rest_v1_fields as fields
from proxy.demo.catalog import Instance, NotFoundError
from proxy.demo.engine import Model
from proxy.demo.http import Failure, Request, Route, answer, object_form
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import EVAL_BATCH, EXPERTS, FLASH_ATTENTION, KV_ON_GPU, PARALLEL, Layer
from proxy.demo.rest_v1_request import REASONING_OPTIONS

_KEYS = {
    "eval_batch_size": EVAL_BATCH,
    "parallel": PARALLEL,
    "flash_attention": FLASH_ATTENTION,
    "num_experts": EXPERTS,
    "offload_kv_cache_to_gpu": KV_ON_GPU,
}
"""Names in HTTP to keys. S: schema.ts."""


async def list_models(look: Lookalike, request: Request) -> web.Response:
    """All downloaded models, with their loaded instances."""
    return answer({"models": [_row(look, model) for model in look.catalog.models]})


def _row(look: Lookalike, model: Model) -> dict[str, Any]:
    instances = [one for one in look.catalog.instances if one.model is model]
    is_embedding = model.type == "embedding"
    row: dict[str, Any] = {
        "type": "embedding" if is_embedding else "llm",  # T: a vision model is an `llm` here
        "publisher": model.publisher,
        "key": model.key,
        "display_name": model.display_name,
        "architecture": model.architecture,
        "quantization": {"name": model.quantization, "bits_per_weight": _whole(model.bits)},
        "size_bytes": model.size_bytes,
        "params_string": model.parameters,
        "loaded_instances": [{"id": one.identifier, "config": config_of(one)} for one in instances],
        "max_context_length": model.max_context_length,
        "format": "gguf",
    }
    if is_embedding:
        del row["architecture"]
        return row
    capabilities: dict[str, Any] = {"vision": model.vision, "trained_for_tool_use": model.trained_for_tool_use}
    if model.reasoning:
        capabilities["reasoning"] = {"allowed_options": list(REASONING_OPTIONS), "default": "on"}
    return row | {
        "capabilities": capabilities,
        "description": None,
        "variants": [model.variant],
        "selected_variant": model.variant,
    }


def _whole(number: float) -> float:
    """Without a fraction of 0: 4, not 4.0."""
    return int(number) if number == int(number) else number


def config_of(instance: Instance) -> dict[str, Any]:
    """An instance's load configuration."""
    config = {name: instance.load_config[key] for name, key in _KEYS.items() if key in instance.load_config}
    return {"context_length": instance.loaded.context_length, **config}


async def load(look: Lookalike, request: Request) -> web.Response:
    """Load a model; one that is loaded already gets another instance."""
    body = request.json()
    fields.required(body, "model")
    asked = {
        "eval_batch_size": fields.integer(body, "eval_batch_size", 1),
        "flash_attention": fields.boolean(body, "flash_attention"),
        "num_experts": fields.integer(body, "num_experts", 0),
        "offload_kv_cache_to_gpu": fields.boolean(body, "offload_kv_cache_to_gpu"),
    }
    layer: Layer = {_KEYS[name]: value for name, value in asked.items() if value is not None}
    is_echoed = fields.boolean(body, "echo_load_config")
    instance = await look.catalog.load(
        fields.string(body, "model") or "",
        context_length=fields.integer(body, "context_length", 1),
        load_config=layer,
    )
    loaded: dict[str, Any] = {
        "type": "embedding" if instance.model.type == "embedding" else "llm",
        "instance_id": instance.identifier,
        "load_time_seconds": instance.load_time_s,
        "status": "loaded",
    }
    if is_echoed:
        order = ("context_length", "eval_batch_size", "flash_attention", "offload_kv_cache_to_gpu", "num_experts")
        config = config_of(instance)
        loaded["load_config"] = {name: config[name] for name in order if name in config}
    return answer(loaded)


async def unload(look: Lookalike, request: Request) -> web.Response:
    """Unload an instance."""
    body = request.json()
    fields.required(body, "instance_id")
    identifier = fields.string(body, "instance_id") or ""
    try:
        instance = await look.catalog.unload(identifier)
    except NotFoundError as error:
        failure = Failure(404, str(error), type_="model_not_found", code="model_not_found", param="instance_id")
        raise failure from error
    return answer({"instance_id": instance.identifier})


FAMILY = "REST v1"
ROUTES = (
    Route("GET", "/api/v1/models", list_models, object_form, since="0.4.0"),
    Route("POST", "/api/v1/models/load", load, object_form, since="0.4.0"),
    Route("POST", "/api/v1/models/unload", unload, object_form, since="0.4.0"),
)
