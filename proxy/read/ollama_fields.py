"""What Ollama's endpoints have in common: messages with images, options, durations.

Facts (Ollama's docs/api.md, docs/modelfile.mdx and api/types.go at fb30760)
----------------------------------------------------------------------------
* `images` are base64 without a type. A tool call's arguments are an object; its result is a message with the role
  `tool` and `tool_name` (newer versions: `tool_call_id`, too).
* `options` are the Modelfile's parameters. `num_gpu` counts layers, so it keeps its name. `think` is a truth value or a
  level; `format` is `json` or a schema.
* Durations are whole nanoseconds, zero is left out. `total_duration` is the whole request's, loading included.
"""

from types import MappingProxyType

from proxy.meaning import Json, Message, Origin, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields, NotJsonError, decode_json, encode_json
from proxy.read.openai_messages import data_part, parts_of, texts_of, tool_call_part

RENAMED = MappingProxyType({"num_predict": "max_tokens", "num_ctx": "context_length", "num_batch": "eval_batch_size"})
OPTIONS = frozenset(
    (
        *("num_keep", "seed", "top_k", "top_p", "min_p", "typical_p", "repeat_last_n", "temperature", "repeat_penalty"),
        *("presence_penalty", "frequency_penalty", "stop", "num_gpu", "main_gpu", "use_mmap", "num_thread", "tfs_z"),
        *("draft_num_predict", "mirostat", "mirostat_tau", "mirostat_eta", "numa", "low_vram", "f16_kv", "logits_all"),
        *("vocab_only", "use_mlock", "penalize_newline"),
    )
)
_NANOSECONDS = MappingProxyType(
    {
        "total_duration": "total_time_s",
        "load_duration": "load_time_s",
        "prompt_eval_duration": "prompt_time_s",
        "eval_duration": "generation_time_s",
    }
)
_COUNTS = MappingProxyType({"prompt_eval_count": "input_tokens", "eval_count": "output_tokens"})


def read_asked(call: Call, body: Fields) -> None:
    """What every request to a model may have beside its input."""
    call.model_asked = body.text("model") or body.text("name")
    for name in (
        "stream",
        "keep_alive",
        "raw",
        "truncate",
        "shift",
        "dimensions",
        "logprobs",
        "top_logprobs",
        "suffix",
    ):
        call.parameter(name, body.raw(name))
    think = body.raw("think")
    call.parameter("reasoning_effort" if isinstance(think, str) else "enable_thinking", think, sent_as="think")
    form = body.raw("format")
    if isinstance(form, dict):
        call.output_schema = encode_json(form)
        form = "json_schema"
    call.parameter("response_format", form or None, sent_as="format")
    options = body.object("options")
    if options is not None:
        for name in options.names():
            read_option(call, options, name)


def read_option(call: Call, options: Fields, name: str) -> None:
    """One of `options`."""
    ours = RENAMED.get(name)
    if ours is not None:
        call.parameter(ours, options.raw(name), sent_as=f"options.{name}")
    elif name in OPTIONS:
        call.parameter(name, options.raw(name))


def message_of(fields: Fields, path: str) -> Message:
    """A message of a chat; `path` is where its content stands."""
    role = fields.text("role") or "unknown"
    content = fields.raw("content")
    parts = reasoning_parts(fields)
    name = fields.text("tool_name")
    tool_call = fields.text("tool_call_id")
    if role == "tool":
        parts.append(Part(PartKind.TOOL_RESULT, texts_of(content), name, tool_call))
    else:
        parts += parts_of(content)
    parts += image_parts(fields)
    parts += [tool_call_part(one) for one in fields.array("tool_calls")]
    is_plain = len(parts) == 1 and parts[0].kind is PartKind.TEXT and isinstance(content, str)
    return Message(role, tuple(parts), path=path if is_plain else None)


def reasoning_parts(fields: Fields) -> list[Part]:
    """`thinking`."""
    text = fields.text("thinking")
    return [Part(PartKind.REASONING, text)] if text else []


def image_parts(fields: Fields) -> list[Part]:
    """`images`."""
    return [data_part(PartKind.IMAGE, one, None) for one in fields.array("images") if isinstance(one, str)]


def read_durations(call: Call, body: Fields) -> None:
    """The numbers at the end of an answer: nanoseconds become seconds, which changes the unit alone."""
    stats: dict[str, Json] = {}
    for name, ours in _NANOSECONDS.items():
        value = body.integer(name)
        if value is not None:
            stats[name] = value
            call.report(**{ours: value / 1e9})
    for name, ours in _COUNTS.items():
        count = body.integer(name)
        if count is not None:
            stats[name] = count
            call.report(**{ours: count})
    if stats:
        call.report(stats=stats)


def read_modelfile_parameters(call: Call, text: str) -> None:
    """`parameters` of a model: a line for each, `num_ctx   4096`, and one for each stop string."""
    found: dict[str, list[Json]] = {}
    for line in text.split("\n"):
        name, _, rest = line.strip().partition(" ")
        if name:
            found.setdefault(name, []).append(_value(rest.strip()))
    for name, values in found.items():
        value = values if name == "stop" else values[-1]
        call.parameter(RENAMED.get(name, name), value, sent_as=name, origin=Origin.MODEL_DEFAULT)


def _value(text: str) -> Json:
    try:
        return decode_json(text)
    except NotJsonError:
        return text
