"""What the OpenAI-shaped dialects have in common: sampling parameters, tools, usage, llama.cpp's timings.

Facts (lmstudio-api.md 2.2-2.4, 4.2, 6.1, 7.1; llama.cpp's server README)
-------------------------------------------------------------------------
* `max_tokens` -1 means no limit in LM Studio. `stream`, `stream_options`, `n`, `user` are kept:
  they belong to what was asked.
* LM Studio's `stats` is `{}` on /v1, full on /api/v0, with `runtime` and `model_info`. llama.cpp adds `timings`.
"""

from collections.abc import Mapping
from types import MappingProxyType

from proxy.meaning import Json, StopReason, Tool
from proxy.read.call import Call
from proxy.read.json_fields import Fields, encode_json

PARAMETERS = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty"),
    *("seed", "stop", "logit_bias", "n", "best_of", "logprobs", "top_logprobs", "echo", "suffix"),
    *("stream", "stream_options", "tool_choice", "parallel_tool_calls", "reasoning_effort", "ttl", "draft_model"),
    *("preset", "user", "store", "metadata", "service_tier", "modalities", "prediction", "verbosity", "keep_alive"),
    *("grammar", "cache_prompt", "mirostat", "mirostat_tau", "mirostat_eta", "dynatemp_range", "xtc_probability"),
    *("dry_multiplier", "id_slot", "n_probs", "samplers", "ignore_eos", "t_max_predict_ms", "chat_template_kwargs"),
    *("timings_per_token", "return_tokens", "reasoning_format", "enable_thinking", "thinking_budget", "provider"),
    # llama.cpp's other ones (tools/server/README.md at 00dc805 and the settings that its answers tell):
    *("dynatemp_exponent", "top_n_sigma", "xtc_threshold", "repeat_last_n", "dry_base", "dry_allowed_length"),
    *("dry_penalty_last_n", "dry_sequence_breakers", "adaptive_target", "adaptive_decay", "n_indent", "n_keep"),
    *("n_discard", "n_cmpl", "n_cache_reuse", "min_keep", "lora", "post_sampling_probs", "backend_sampling"),
    *("return_progress", "sse_ping_interval", "response_fields", "reasoning_control"),
)
"""Fields of a request that are parameters under the name they have here."""
RENAMED: Mapping[str, str] = MappingProxyType(
    {
        "max_tokens": "max_tokens",
        "max_completion_tokens": "max_tokens",
        "n_predict": "max_tokens",
        "repetition_penalty": "repeat_penalty",
    }
)
"""And those that have another name here."""
STOP_REASONS: Mapping[str, StopReason] = MappingProxyType(
    {
        "stop": StopReason.STOP,
        "length": StopReason.LENGTH,
        "tool_calls": StopReason.TOOL_CALLS,
        "function_call": StopReason.TOOL_CALLS,
        "content_filter": StopReason.CONTENT_FILTER,
        "error": StopReason.FAILED,
    }
)
SDK_STOP_REASONS: Mapping[str, StopReason] = MappingProxyType(
    {
        "eosFound": StopReason.STOP,
        "stopStringFound": StopReason.STOP_STRING,
        "toolCalls": StopReason.TOOL_CALLS,
        "maxPredictedTokensReached": StopReason.LENGTH,
        "contextLengthReached": StopReason.CONTEXT,
        "userStopped": StopReason.CANCELLED,
        "modelUnloaded": StopReason.UNLOADED,
        "failed": StopReason.FAILED,
    }
)
"""LM Studio's own vocabulary, in the SDK and in `stats` of /api/v0."""
TIMINGS = (
    *("cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second", "predicted_n", "predicted_ms"),
    *("predicted_per_token_ms", "predicted_per_second", "draft_n", "draft_n_accepted"),
)
"""What llama.cpp's `timings` have."""
_PROMPT_DETAILS = ("audio_tokens", "image_tokens", "text_tokens", "cache_write_tokens", "cache_write_tokens_details")
_COMPLETION_DETAILS = (
    *("audio_tokens", "image_tokens", "text_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"),
)
_TOOL = ("name", "server_label", "id", "description", "parameters", "input_schema", "inputSchema")
_TOOLS = MappingProxyType(
    {
        "function": ("strict", "output_schema", "allowed_callers", "async", "defer_loading", "cache_control", "items"),
        "mcp": (
            *("server_url", "server_description", "connector_id", "tunnel_id", "headers", "authorization"),
            *("allowed_tools", "allowed_callers", "require_approval", "defer_loading"),
        ),
    }
)
"""What else tools of these types have; gateways add Anthropic's `cache_control`, Ollama has `items`."""


def stop_reason(raw: str) -> StopReason:
    """One vocabulary for OpenAI's words and LM Studio's."""
    return STOP_REASONS.get(raw) or SDK_STOP_REASONS.get(raw) or StopReason.OTHER


def read_parameters(call: Call, body: Fields, *, ignored: Mapping[str, str] = MappingProxyType({})) -> None:
    """Everything in a request that sets how to generate; `ignored` names fields known to have no effect, with why."""
    for name in body.names():
        if name in RENAMED:
            call.parameter(RENAMED[name], body.raw(name), sent_as=name, ignored=ignored.get(name))
        elif name in PARAMETERS:
            call.parameter(name, body.raw(name), ignored=ignored.get(name))


def read_response_format(call: Call, body: Fields) -> None:
    """`response_format`: the schema that the answer has to follow. llama.cpp also takes it as `json_schema`."""
    if "json_schema" in body:
        call.output_schema = encode_json(body.raw("json_schema"))
    value = body.raw("response_format")
    if not isinstance(value, dict):
        return
    call.parameter("response_format", value.get("type"))
    schema = value.get("json_schema")
    if isinstance(schema, dict):
        call.output_schema = encode_json(schema.get("schema", schema))
    elif "schema" in value:  # llama.cpp's own form
        call.output_schema = encode_json(value["schema"])


def read_tools(call: Call, body: Fields) -> None:
    """`tools`, in the nested form of chat completions or the flat one of Responses; `functions`, the older one."""
    for tool in body.objects("tools"):
        kind = tool.text("type") or "function"
        fields = tool.object("function") or tool
        if kind in _TOOLS:
            fields.known(*_TOOL, *_TOOLS[kind])
            tool.known(*_TOOLS[kind])
        else:
            tool.known_all()  # each of the tools that a server brings along has settings of its own
        call.tools.append(tool_of(fields.data, kind))
    for function in body.array("functions"):
        if isinstance(function, dict):
            call.tools.append(tool_of(function, "function"))


def tool_of(data: dict[str, Json], kind: str) -> Tool:
    """A tool's definition, whatever its fields are called."""
    schema = next((data[name] for name in ("parameters", "input_schema", "inputSchema") if name in data), None)
    description = data.get("description")
    names = (data.get(name) for name in ("name", "server_label", "id"))
    return Tool(
        next((name for name in names if isinstance(name, str) and name), kind),
        description if isinstance(description, str) else None,
        encode_json(schema) if schema is not None else None,
        kind,
    )


def read_usage(call: Call, usage: Fields | None) -> None:
    """`usage`, of chat completions' or Responses' form."""
    if usage is None:
        return
    for ours, *theirs in (
        ("input_tokens", "prompt_tokens", "input_tokens"),
        ("output_tokens", "completion_tokens", "output_tokens"),
        ("total_tokens", "total_tokens"),
    ):
        for name in theirs:
            if name in usage:
                call.report(**{ours: usage.integer(name)})
    for name in ("completion_tokens_details", "output_tokens_details"):
        details = usage.object(name)
        if details is not None:
            call.report(reasoning_tokens=details.integer("reasoning_tokens"))
            details.known(*_COMPLETION_DETAILS)
    for name in ("prompt_tokens_details", "input_tokens_details"):
        details = usage.object(name)
        if details is not None:
            call.report(cached_tokens=details.integer("cached_tokens"))
            details.known(*_PROMPT_DETAILS)
    keep_new_usage(call, usage)


def keep_new_usage(call: Call, usage: Fields) -> None:
    """Once `usage` is read: if it has fields that nobody knows, they are counted, and it is kept in the details."""
    if next(usage.unread(), None) is not None:
        call.details.setdefault("usage", {}).update(usage.data)


def read_timings(call: Call, body: Fields) -> None:
    """llama.cpp's `timings`."""
    timings = body.object("timings")
    if timings is None:
        return
    prompt_ms, predicted_ms = timings.number("prompt_ms"), timings.number("predicted_ms")
    cached, prompt = timings.integer("cache_n"), timings.integer("prompt_n")
    call.report(
        stats=timings.data,
        prompt_time_s=prompt_ms / 1000 if prompt_ms is not None else None,
        generation_time_s=predicted_ms / 1000 if predicted_ms is not None else None,
        tokens_per_second=timings.number("predicted_per_second"),
        prompt_tokens_per_second=timings.number("prompt_per_second"),
        cached_tokens=cached,
        draft_tokens=timings.integer("draft_n"),
        accepted_draft_tokens=timings.integer("draft_n_accepted"),
    )
    if call.reported("input_tokens") is None and prompt is not None:  # `usage` counts the cached ones, this does not
        call.report(input_tokens=prompt + (cached or 0))
    if call.reported("output_tokens") is None:
        call.report(output_tokens=timings.integer("predicted_n"))
    timings.known(*TIMINGS)


def read_stats(call: Call, body: Fields) -> None:
    """LM Studio's `stats`, `model_info` and `runtime` of /api/v0 (and the draft counters on /v1)."""
    stats = body.object("stats")
    if stats:
        raw = stats.text("stop_reason")
        if raw is not None:
            call.stop(stop_reason(raw), raw, is_finer=raw in SDK_STOP_REASONS)
        call.report(
            stats=stats.data,
            tokens_per_second=stats.number("tokens_per_second"),
            ttft_s=stats.number("time_to_first_token"),
            generation_time_s=stats.number("generation_time"),
            draft_model=stats.text("draft_model"),
            draft_tokens=stats.integer("total_draft_tokens_count"),
            accepted_draft_tokens=stats.integer("accepted_draft_tokens_count"),
        )
        stats.known("rejected_draft_tokens_count", "ignored_draft_tokens_count")
    for name in ("model_info", "runtime"):
        value = body.raw(name)
        if isinstance(value, dict) and value:  # kept whole and shown so: what is new in it is seen there
            call.report(**{name: value})
