"""OpenAI's chat completions, as LM Studio, llama.cpp and others speak them.

Facts (lmstudio-api.md 2.2-2.4; clients.md 1.2, 1.3, 5)
-------------------------------------------------------
* In a stream `role` may come with every delta; the first event often has nothing else. Tool calls come in pieces by
  `index`: names and arguments are put together. Reasoning is in `reasoning_content`, `reasoning` or `thinking`.
* Usage comes in any event, often in a last one whose `choices` is empty, or not at all.
* The error event of LM Studio is the only named one.
* With `n` each choice has its own stop reason. The call's is the first choice's; the others', as sent, go into the
  details as `stop_reasons`, by the choice's index.
"""

from proxy.meaning import Operation, PartKind
from proxy.read.call import MAX_CHOICES, Call
from proxy.read.json_fields import Fields
from proxy.read.openai_fields import (
    read_parameters,
    read_response_format,
    read_stats,
    read_timings,
    read_tools,
    read_usage,
    stop_reason,
)
from proxy.read.openai_messages import message_of, read_messages
from proxy.read.reader import Claim, RequestHead

_KNOWN = ("object", "created", "system_fingerprint", "service_tier", "provider", "prompt_progress", "__verbose")
_REASONING = ("reasoning_content", "reasoning", "thinking")


class OpenAIChat:
    """`POST …/chat/completions`."""

    name = "openai_chat"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Whatever the prefix is: many servers have one."""
        return Claim.YES if head.method == "POST" and head.path.endswith("/chat/completions") else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.CHAT

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_asked = body.text("model")
        read_messages(call, body)
        read_tools(call, body)
        read_response_format(call, body)
        read_parameters(call, body)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        self._read_common(call, body)
        for number, choice in enumerate(body.objects("choices")):
            index = choice.integer("index") or 0
            message = choice.object("message")
            if message is not None:
                call.answer(index).path = f"choices[{number}].message.content"
                for part in message_of(message, "").parts:
                    call.answer(index).put(part)
            read_stop(call, choice, index)
            choice.known("logprobs")

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        self._read_common(call, body)
        for choice in body.objects("choices"):
            index = choice.integer("index") or 0
            delta = choice.object("delta")
            if delta is not None:
                _read_delta(call, delta, at_us, index)
            read_stop(call, choice, index)
            choice.known("logprobs")

    def _read_common(self, call: Call, body: Fields) -> None:
        model = body.text("model")
        if model:
            call.model_answered = model
        call.response_id = body.text("id") or call.response_id
        read_usage(call, body.object("usage"))
        read_stats(call, body)
        read_timings(call, body)
        body.known(*_KNOWN)


def _read_delta(call: Call, delta: Fields, at_us: int, index: int) -> None:
    delta.known("role", "function_call", "audio", "annotations", "reasoning_details")
    for name in _REASONING:
        if name in delta:
            call.generated(at_us, delta.text(name), kind=PartKind.REASONING, index=index)
    call.generated(at_us, delta.text("content"), index=index)
    call.generated(at_us, delta.text("refusal"), kind=PartKind.REFUSAL, index=index)
    if "tool_calls" in delta:
        for number, piece in enumerate(delta.objects("tool_calls")):
            _read_tool_call(call, piece, at_us, index, number)


def _read_tool_call(call: Call, piece: Fields, at_us: int, index: int, number: int) -> None:
    piece.known("type", "extra_content")
    key = piece.integer("index")
    function = piece.object("function")
    name = function.text("name") or "" if function is not None else ""
    arguments = function.text("arguments") or "" if function is not None else ""
    call.answer(index).tool_call(number if key is None else key, id=piece.text("id"), name=name, arguments=arguments)
    if name or arguments:
        call.token(at_us, is_content=True)


def read_stop(call: Call, choice: Fields, index: int) -> None:
    """Why one of the choices ended; `index` is the choice's."""
    raw = choice.text("finish_reason")
    if not raw:
        return
    if index == 0:
        call.stop(stop_reason(raw), raw)
        return
    others = call.details.setdefault("stop_reasons", {})
    if len(others) < MAX_CHOICES:
        others.setdefault(str(index), raw)
