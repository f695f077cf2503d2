"""LM Studio's own REST for models, `/api/v1/models`: what there is, and loading, unloading and downloading it.

Facts (lmstudio-api.md 4.7, 4.8; the samples are LM Studio's documentation)
---------------------------------------------------------------------------
* An instance's `config` is the load configuration in force. Which keys it has depends on the engine.
* A load answers when the model is loaded. `load_config`, the one in force, is only there if `echo_load_config` is true.
* A download is a job that goes on by itself; `already_downloaded` comes without one. Its status can be asked for.
* `architecture`, `capabilities`, `variants` and `selected_variant` may be missing.
"""

from collections.abc import Callable
from urllib.parse import unquote

from proxy.meaning import Json, Operation, Origin
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.reader import Claim, RequestHead

_MODELS = "/api/v1/models"
_STATUS = f"{_MODELS}/download/status/"
_OPERATIONS = {
    ("GET", _MODELS): Operation.MODELS,
    ("POST", f"{_MODELS}/load"): Operation.LOAD,
    ("POST", f"{_MODELS}/unload"): Operation.UNLOAD,
    ("POST", f"{_MODELS}/download"): Operation.DOWNLOAD,
}
_LOAD_SETTINGS = ("context_length", "eval_batch_size", "flash_attention", "num_experts", "offload_kv_cache_to_gpu")
_CONFIG = (*_LOAD_SETTINGS, "parallel")
_JOB: dict[str, Callable[[Fields, str], Json]] = {
    **dict.fromkeys(("job_id", "status", "started_at", "completed_at", "estimated_completion"), Fields.text),
    **dict.fromkeys(("total_size_bytes", "downloaded_bytes"), Fields.integer),
    "bytes_per_second": Fields.number,
}


class LMStudioV1Models:
    """`GET /api/v1/models`, `POST …/load`, `…/unload`, `…/download`, `GET …/download/status/{job_id}`."""

    name = "lmstudio_v1_models"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """See `Dialect`."""
        return Claim.YES if _operation(head) is not None else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return _operation(head) or Operation.OTHER

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        match call.operation:
            case Operation.LOAD:
                call.model_asked = body.text("model")
                for name in (*_LOAD_SETTINGS, "echo_load_config"):
                    call.parameter(name, body.raw(name))
            case Operation.UNLOAD:
                call.model_asked = body.text("instance_id")
            case Operation.DOWNLOAD if head.method == "POST":
                call.model_asked = body.text("model")
                call.parameter("quantization", body.raw("quantization"))
            case Operation.DOWNLOAD:
                call.details["job_id"] = unquote(head.path.removeprefix(_STATUS).rstrip("/"))
            case _:
                pass

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        match call.operation:
            case Operation.MODELS:
                call.details["models"] = [_model(row) for row in body.objects("models")]
            case Operation.LOAD:
                call.model_answered = body.text("instance_id")
                call.report(load_time_s=body.number("load_time_seconds"))
                call.details |= _present({"type": body.text("type"), "status": body.text("status")})
                config = body.object("load_config")
                if config is not None:
                    for name in _CONFIG:
                        call.parameter(name, config.raw(name), origin=Origin.EFFECTIVE)
            case Operation.UNLOAD:
                call.model_answered = body.text("instance_id")
            case _:
                call.details |= _present({name: look_up(body, name) for name, look_up in _JOB.items()})

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`: none is known here."""
        call.problem("unknown_event", name[:200])


def _operation(head: RequestHead) -> Operation | None:
    path = head.path.rstrip("/")
    if head.method == "GET" and path.startswith(_STATUS):
        return Operation.DOWNLOAD
    return _OPERATIONS.get((head.method, path))


def _model(row: Fields) -> dict[str, Json]:
    """What is worth showing of a model, under the names it is sent with."""
    quantization, capabilities = row.object("quantization"), row.object("capabilities")
    model = {
        **{name: row.text(name) for name in ("key", "type", "display_name", "format", "selected_variant")},
        "quantization": quantization.text("name") if quantization is not None else None,
        "size_bytes": row.integer("size_bytes"),
        "max_context_length": row.integer("max_context_length"),
        "loaded_instances": [_instance(one) for one in row.objects("loaded_instances")],
    }
    if quantization is not None:
        quantization.known("bits_per_weight")
    if capabilities is not None:
        capabilities.known("reasoning")
        model |= {name: capabilities.flag(name) for name in ("vision", "trained_for_tool_use")}
    row.known("publisher", "architecture", "params_string", "description", "variants")
    return _present(model)


def _instance(row: Fields) -> dict[str, Json]:
    """A loaded instance; keys of its configuration that are not documented are kept and counted as unread."""
    config = row.object("config")
    if config is not None:
        config.known(*_CONFIG)
    return _present({"id": row.text("id"), "config": config.data if config is not None else None})


def _present(values: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value is not None}
