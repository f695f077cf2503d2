"""llama.cpp's settings as it tells them: of one completion, and what they are where a request says nothing.

Facts (llama.cpp's tools/server/README.md at 00dc805; answers of xllamacpp's server, 2026)
------------------------------------------------------------------------------------------
* `generation_settings` of a completion's end is what was in force; `default_generation_settings` of /props is what a
  request changes. The limit of tokens stands in both `max_tokens` and `n_predict` (older versions: one of them).
* /props and /slots tell `n_ctx`, the context of one slot, and /props `total_slots`, the requests at the same time.
"""

from proxy.meaning import Origin
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.openai_fields import PARAMETERS, RENAMED

_OTHER = frozenset(("chat_format", "reasoning_in_content", "generation_prompt", "penalize_nl", "tfs_z", "max_tokens"))
_KNOWN = ("grammar_lazy", "grammar_triggers", "preserved_tokens", "penalty_prompt_tokens", "model", "prompt")
_SLOT_TOKENS = ("n_prompt_tokens", "n_prompt_tokens_processed", "n_prompt_tokens_cache")
_SLOT = ("id", "id_task", "speculative", "is_processing", "next_token", "prompt", "generated", *_SLOT_TOKENS)
_DETAILS = (
    *("chat_template", "chat_template_tool_use", "chat_template_caps", "modalities", "model_path", "model_ftype"),
    *("bos_token", "eos_token", "media_marker", "build_info", "is_sleeping"),
)
_SWITCHES = ("endpoint_slots", "endpoint_props", "endpoint_metrics", "ui", "ui_settings", "webui", "webui_settings")


def read_settings(call: Call, settings: Fields | None, origin: Origin) -> None:
    """Settings of generation that the server told."""
    if settings is None:
        return
    for name in settings.names():
        if name == "n_ctx":  # no request changes it
            _context_length(call, settings)
        elif name in RENAMED and name != "max_tokens":
            value = settings.raw(name)
            if "max_tokens" not in settings:
                call.parameter(RENAMED[name], value, sent_as=name, origin=origin)
        elif name in PARAMETERS or name in _OTHER or name.startswith("speculative."):
            call.parameter(name, settings.raw(name), origin=origin)
    settings.known(*_KNOWN)


def read_props(call: Call, body: Fields) -> None:
    """What GET /props tells."""
    call.model_answered = body.text("model_alias")
    defaults = body.object("default_generation_settings")
    if defaults is not None:
        nested = defaults.object("params")
        if nested is None:  # in older versions
            read_settings(call, defaults, Origin.MODEL_DEFAULT)
        else:
            _context_length(call, defaults)
            read_settings(call, nested, Origin.MODEL_DEFAULT)
        defaults.known(*_SLOT)
    call.parameter("parallel", body.raw("total_slots"), sent_as="total_slots", origin=Origin.SERVER)
    for name in _DETAILS:
        value = body.raw(name)
        if value is not None:
            call.details[name] = value
    body.known(*_SWITCHES, "cors_proxy_enabled")


def read_slots(call: Call, body: Fields, name: str) -> None:
    """What GET /slots tells: how many there are and how many are busy; their context is the same."""
    slots = body.objects(name)
    busy = [slot.flag("is_processing") for slot in slots]
    for slot in slots:
        slot.known("params", "n_ctx", *_SLOT)
    if slots:
        _context_length(call, slots[0])
    call.details.update(slots=len(slots), busy=busy.count(True))


def _context_length(call: Call, body: Fields) -> None:
    call.parameter("context_length", body.raw("n_ctx"), sent_as="n_ctx", origin=Origin.SERVER)
