"""Anthropic's messages, as LM Studio (0.4.1 and newer) and others speak them.

Facts (lmstudio-api.md 2.8, 3, 6.1, 6.3; clients.md 2, 5; Anthropic's reference for what LM Studio does not document)
---------------------------------------------------------------------------------------------------------------------
* `system` stands beside the messages, as text or blocks. Claude Code asks with `?beta=true`.
* A stream has named events whose `type` repeats the name. Content blocks are numbered by `index`; a call's `input` is
  `{}` at its start and comes as pieces of JSON. It ends with `message_stop`, not with `[DONE]`.
* Usage comes with `message_start` and again with `message_delta`, either of which may have zeros for what it does not
  know: the largest value holds. `input_tokens` do not include those read from or written to a cache.
* `stop_sequence` tells which stop string was found.
* `count_tokens` is not known to LM Studio, which answers 200 with an error.
* `authorization_token` of an MCP server is secret, its address may be: neither is kept.
"""

from proxy.meaning import Json, Message, Operation, Part, PartKind, StopReason, Tool
from proxy.read.anthropic_blocks import parts_of_content
from proxy.read.anthropic_stream import read_block_delta, read_block_start, read_block_stop
from proxy.read.call import Call
from proxy.read.http_session import read_error
from proxy.read.json_fields import Fields, encode_json
from proxy.read.openai_fields import keep_new_usage, tool_of
from proxy.read.reader import Claim, RequestHead

PARAMETERS = {
    **{name: name for name in ("temperature", "top_p", "top_k", "max_tokens", "stream", "tool_choice", "metadata")},
    **{name: name for name in ("service_tier", "container", "context_management", "inference_geo", "speed")},
    "stop_sequences": "stop",
}
STOP_REASONS = {
    "end_turn": StopReason.STOP,
    "stop_sequence": StopReason.STOP_STRING,
    "max_tokens": StopReason.LENGTH,
    "model_context_window_exceeded": StopReason.CONTEXT,
    "tool_use": StopReason.TOOL_CALLS,
    "refusal": StopReason.CONTENT_FILTER,
}
_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cached_tokens",
}
_USAGE_KNOWN = ("service_tier", "inference_geo", "iterations", "speed", "fallback_credit")
_USAGE_PARTS = {
    "cache_creation": ("ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens"),
    "server_tool_use": ("web_search_requests", "web_fetch_requests"),
}
_TOOL = (
    *("name", "description", "input_schema", "cache_control", "strict", "defer_loading", "allowed_callers"),
    *("input_examples", "eager_input_streaming"),
)
_SHOWN = 200


class AnthropicMessages:
    """`POST …/v1/messages` and `…/v1/messages/count_tokens`."""

    name = "anthropic_messages"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Whatever the prefix is."""
        is_ours = head.path.endswith(("/v1/messages", "/v1/messages/count_tokens"))
        return Claim.YES if head.method == "POST" and is_ours else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.TOKENIZE if head.path.endswith("/count_tokens") else Operation.CHAT

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_asked = body.text("model")
        system = body.raw("system")
        if system is not None:
            call.messages.append(_message("system", system, "system"))
        for index, message in enumerate(body.objects("messages")):
            role = message.text("role") or "unknown"
            call.messages.append(_message(role, message.raw("content"), f"messages[{index}].content"))
        _read_tools(call, body)
        for name in body.names():
            if name in PARAMETERS:
                call.parameter(PARAMETERS[name], body.raw(name), sent_as=name)
        _read_thinking(call, body)
        body.known("cache_control", "betas")

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        if call.operation is Operation.TOKENIZE:
            tokens = body.integer("input_tokens")
            if tokens is not None:
                call.details["input_tokens"] = tokens
            body.known("context_management")
            return
        _read_message(call, body)
        content = body.raw("content")
        for part in parts_of_content(content):
            call.answer().put(part)
        if _is_one_text(content):
            call.answer().path = "content[0].text"

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        kind = body.text("type") or name
        read = _EVENTS.get(kind)
        if read is not None:
            read(call, body, at_us)
        elif kind == "error":
            if name != "error" and not body.data.get("error"):  # otherwise it is read for all dialects alike
                read_error(call, body, where="stream")
            body.known("request_id")
        elif kind != "ping":
            call.problem("unknown_event", kind[:_SHOWN])


# --- the request ------------------------------------------------------------------------------------------------------


def _message(role: str, content: Json, path: str) -> Message:
    parts = tuple(parts_of_content(content))
    where = path if isinstance(content, str) else f"{path}[0].text"
    is_plain = len(parts) == 1 and parts[0] == Part(PartKind.TEXT, parts[0].text)
    if not isinstance(content, str):
        is_plain = is_plain and _is_one_text(content)
    return Message(role, parts, path=where if is_plain else None)


def _is_one_text(content: Json) -> bool:
    if not isinstance(content, list) or len(content) != 1:
        return False
    return isinstance(content[0], dict) and content[0].get("type") == "text"


def _read_tools(call: Call, body: Fields) -> None:
    for tool in body.objects("tools"):
        kind = tool.text("type") or "custom"
        if kind == "custom":
            tool.known(*_TOOL)
        else:
            tool.known_all()  # each of the tools that a server brings along has settings of its own
        call.tools.append(tool_of(tool.data, "function" if kind == "custom" else kind))
    for server in body.objects("mcp_servers"):
        server.known("type", "url", "authorization_token", "tool_configuration")
        call.tools.append(Tool(server.text("name") or "mcp", kind="mcp"))


def _read_thinking(call: Call, body: Fields) -> None:
    thinking, output = body.object("thinking"), body.object("output_config")
    if thinking is not None:
        call.parameter("enable_thinking", thinking.raw("type"), sent_as="thinking.type")
        call.parameter("thinking_budget", thinking.raw("budget_tokens"), sent_as="thinking.budget_tokens")
        thinking.known("display")
    if output is not None:
        call.parameter("reasoning_effort", output.raw("effort"), sent_as="output_config.effort")
        output.known("task_budget")
        form = output.object("format")
        if form is not None:
            call.parameter("response_format", form.raw("type"), sent_as="output_config.format")
            schema = form.raw("schema")
            if schema is not None:
                call.output_schema = encode_json(schema)


# --- the answer -------------------------------------------------------------------------------------------------------


def _read_message(call: Call, message: Fields) -> None:
    """A message without its content."""
    call.response_id = message.text("id") or call.response_id
    call.model_answered = message.text("model") or call.model_answered
    _read_stop(call, message)
    _read_usage(call, message.object("usage"))
    message.known("type", "role", "context_management")


def _read_message_start(call: Call, body: Fields, at_us: int) -> None:
    message = body.object("message")
    if message is not None:
        _read_message(call, message)
        message.known("content")


def _read_message_delta(call: Call, body: Fields, at_us: int) -> None:
    delta = body.object("delta")
    if delta is not None:
        _read_stop(call, delta)
    _read_usage(call, body.object("usage"))
    body.known("context_management")


def _read_stop(call: Call, fields: Fields) -> None:
    raw = fields.text("stop_reason")
    if raw:
        call.stop(STOP_REASONS.get(raw, StopReason.OTHER), raw)
    found = fields.text("stop_sequence")
    if found is not None:
        call.stop_string = found
    details = fields.raw("stop_details")
    if details is not None:
        call.details["stop_details"] = details
    fields.known("container")


def _read_usage(call: Call, usage: Fields | None) -> None:
    if usage is None:
        return
    for name, ours in _USAGE.items():
        _report_largest(call, ours, usage.integer(name))
    details = usage.object("output_tokens_details")
    if details is not None:
        _report_largest(call, "reasoning_tokens", details.integer("thinking_tokens"))
    written = usage.integer("cache_creation_input_tokens")
    if written is not None and written > call.details.get("cache_creation_input_tokens", 0):
        call.details["cache_creation_input_tokens"] = written
    for name, known in _USAGE_PARTS.items():
        part = usage.object(name)
        if part is not None:
            part.known(*known)
    usage.known(*_USAGE_KNOWN)
    keep_new_usage(call, usage)


def _report_largest(call: Call, name: str, value: int | None) -> None:
    before = call.reported(name)
    if value is not None and (before is None or value > before):
        call.report(**{name: value})


def _read_end(call: Call, body: Fields, at_us: int) -> None:
    call.is_finished = True


_EVENTS = {
    "message_start": _read_message_start,
    "content_block_start": read_block_start,
    "content_block_delta": read_block_delta,
    "content_block_stop": read_block_stop,
    "message_delta": _read_message_delta,
    "message_stop": _read_end,
}
