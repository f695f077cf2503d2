"""The answer of LM Studio's own chat: the body of `POST /api/v1/chat`, which is the result in `chat.end`, too.

Facts (lmstudio-api.md 4.5, 4.6, 6.1)
-------------------------------------
* `output` is a list of items: `reasoning`, `tool_call` (with its result), `invalid_tool_call`, `message`.
* `provider_info` is `{type, plugin_id}` or `{type, server_label}`. `metadata` of an invalid call has `type`
  (`invalid_name`, `invalid_arguments`), `tool_name`, and with the latter `arguments` and `provider_info`.
* `model_load_time_seconds` is only there if this call loaded the model. There is no stop reason.
* The result holds once more what a stream's pieces gave. It wins; where the two differ, that is a problem. The order of
  calls and their results may differ, and white space: neither counts.
"""

from collections import Counter
from typing import NamedTuple

from proxy.meaning import Json, Message, Part, PartKind
from proxy.read.call import Answer, Call
from proxy.read.json_fields import Fields, encode_json

_SHOWN = 200


class ToolCall(NamedTuple):
    """A tool call, as an event or an item tells it. There are no ids."""

    name: str
    arguments: str

    @classmethod
    def read(cls, call: Call, told: Fields, name: str = "tool") -> "ToolCall":
        """Of an event, an item, or an invalid call's metadata; who brought the tool goes into the details."""
        tool = told.text(name) or ""
        provider = told.object("provider_info")
        if provider is not None:
            told_of = {key: provider.text(key) for key in ("type", "plugin_id", "server_label")}
            providers = call.details.setdefault("tool_providers", {})
            providers[tool] = {key: value for key, value in told_of.items() if value is not None}
        return cls(tool, _text_or_json(told.raw("arguments")))

    def part(self) -> Part:
        """The call alone; its result is another part."""
        return Part(PartKind.TOOL_CALL, self.arguments, self.name or None)


def read_result(call: Call, result: Fields) -> None:
    """A whole answer; it takes the place of what a stream's pieces made."""
    call.model_answered = result.text("model_instance_id") or call.model_answered
    call.response_id = result.text("response_id") or call.response_id
    streamed = call.answer().message()
    items = result.objects("output")
    if items:
        answer = call.new_answer()
        for item in items:
            _read_item(call, answer, item)
        if len(items) == len(result.data["output"]) == 1 and not call.is_streamed:
            answer.path = "output[0].content"
    if streamed is not None and (not items or _gist(streamed) != _gist(call.answer().message())):
        call.problem("result_differs", "the answer in chat.end is not the one that the events before it made")
    stats = result.object("stats")
    if stats is not None:
        call.report(
            stats=stats.data,
            input_tokens=stats.integer("input_tokens"),
            output_tokens=stats.integer("total_output_tokens"),
            reasoning_tokens=stats.integer("reasoning_output_tokens"),
            tokens_per_second=stats.number("tokens_per_second"),
            ttft_s=stats.number("time_to_first_token_seconds"),
            load_time_s=stats.number("model_load_time_seconds"),
        )


def _read_item(call: Call, answer: Answer, item: Fields) -> None:
    kind = item.text("type")
    if kind in ("message", "reasoning"):
        text = item.text("content")
        if text:
            answer.put(Part(PartKind.TEXT if kind == "message" else PartKind.REASONING, text))
    elif kind == "tool_call":
        told = ToolCall.read(call, item)
        answer.put(told.part())
        answer.put(result_part(item, told.name))
    elif kind == "invalid_tool_call":
        told, result = read_invalid(call, item)
        answer.put(told.part())
        answer.put(result)
    else:
        call.problem("unknown_item", str(kind)[:_SHOWN])
        item.known_all()  # the problem tells it, and it is kept whole
        answer.put(Part(PartKind.OTHER, encode_json(item.data)))


def result_part(told: Fields, name: str) -> Part:
    """What a tool gave back: the text of MCP's content array, JSON."""
    return Part(PartKind.TOOL_RESULT, _text_or_json(told.raw("output")), name or None)


def read_invalid(call: Call, told: Fields) -> tuple[ToolCall, Part]:
    """A call that could not be made: which, and why, in the place of its result."""
    reason = told.text("reason") or ""
    call.problem("invalid_tool_call", reason[:_SHOWN])
    metadata = told.object("metadata")
    invalid = ToolCall("", "")
    if metadata is not None:
        metadata.known("type")
        invalid = ToolCall.read(call, metadata, "tool_name")
    return invalid, Part(PartKind.TOOL_RESULT, reason, invalid.name or None)


def _text_or_json(value: Json) -> str:
    return value if isinstance(value, str) else "" if value is None else encode_json(value)


def _gist(message: Message | None) -> tuple[Counter[Part], str, str]:
    """What was called, said and thought, without order and white space: what a stream and its result have in common."""
    calls: Counter[Part] = Counter()
    texts: dict[PartKind, list[str]] = {PartKind.TEXT: [], PartKind.REASONING: []}
    for part in message.parts if message is not None else ():
        if part.kind in texts:
            texts[part.kind] += part.text.split()
        elif part.kind is not PartKind.OTHER:  # an item that is not known has no events that are
            calls[part] += 1
    return calls, "".join(texts[PartKind.TEXT]), "".join(texts[PartKind.REASONING])
