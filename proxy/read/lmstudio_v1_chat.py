"""LM Studio's own chat, `POST /api/v1/chat`: stateful, with the tools of MCP servers that the server calls itself.

Facts (lmstudio-api.md 4.4-4.6, 6.1, 8; the samples are LM Studio's documentation)
----------------------------------------------------------------------------------
* A stream has named events whose `type` repeats the name. It ends with `chat.end`, not with `[DONE]`; some servers keep
  the socket open after it. After an `error` event `chat.end` still follows.
* `chat.end` holds the whole answer once more (see lmstudio_v1_answer). It wins over the pieces, which tell the times.
* Tool calls have no ids. A call is told by `tool_call.start`, `.arguments` and `.success` or `.failure`: the oldest one
  open of that name is meant. A failure is of a call that could not be made.
* A model may be loaded first, and there is a `prompt_processing` before each round.
* `headers` of an ephemeral server hold secrets, its address may: neither headers, user info nor query are kept.
"""

import re
from collections import deque

from proxy.meaning import Json, Message, Operation, Part, PartKind, Tool
from proxy.read.call import Call
from proxy.read.json_fields import Fields, encode_json
from proxy.read.lmstudio_v1_answer import ToolCall, read_invalid, read_result, result_part
from proxy.read.openai_messages import media_part, part_of, parts_of
from proxy.read.reader import Claim, RequestHead

PARAMETERS = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "stream", "store")},
    "max_output_tokens": "max_tokens",
    "reasoning": "reasoning_effort",
    "context_length": "context_length",
}
_NOTES = {"context_length": "a load setting: used if this request loads the model; else its effect is not known"}
_USER_INFO = re.compile(r"//[^/@]*@")
_SHOWN = 200


class LMStudioV1Chat:
    """`POST /api/v1/chat`."""

    name = "lmstudio_v1_chat"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """See `Dialect`."""
        return Claim.YES if head.method == "POST" and head.path.rstrip("/") == "/api/v1/chat" else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.CHAT

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_asked = body.text("model")
        call.previous_response_id = body.text("previous_response_id")
        system = body.text("system_prompt")
        if system is not None:
            call.messages.append(Message("system", tuple(parts_of(system)), path="system_prompt" if system else None))
        if body.data.get("input") is not None:
            call.messages.append(_input(body))
        _read_integrations(call, body)
        for name in body.names():
            if name in PARAMETERS:
                call.parameter(PARAMETERS[name], body.raw(name), sent_as=name, note=_NOTES.get(name))

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        read_result(call, body)

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        kind = body.text("type") or name
        if kind == "message.delta":
            call.generated(at_us, body.text("content"))
        elif kind == "reasoning.delta":
            call.generated(at_us, body.text("content"), kind=PartKind.REASONING)
        elif kind in _EVENTS:
            _EVENTS[kind](_stream_of(call), body, at_us)
        else:
            call.problem("unknown_event", kind[:_SHOWN])


class _Stream:
    """What is under way in a stream."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._load_began_us: int | None = None
        self._prompt_began_us: int | None = None
        self._tool_calls = 0
        self._named: dict[str, deque[int]] = {}  # calls whose arguments are not known yet, by their tool's name
        self._called: dict[str, int] = {}  # how many have arguments and no result yet

    def nothing(self, body: Fields, at_us: int) -> None:
        """An event that tells nothing more than its name."""

    def start(self, body: Fields, at_us: int) -> None:
        self._call.model_answered = body.text("model_instance_id") or self._call.model_answered

    def load(self, body: Fields, at_us: int) -> None:
        self.start(body, at_us)
        if self._load_began_us is None:
            self._load_began_us = at_us
        self._call.load_us = at_us - self._load_began_us
        body.known("progress")
        self._call.report(load_time_s=body.number("load_time_seconds"))

    def prompt_start(self, body: Fields, at_us: int) -> None:
        self._prompt_began_us = at_us

    def prompt_progress(self, body: Fields, at_us: int) -> None:
        body.known("progress")

    def prompt_end(self, body: Fields, at_us: int) -> None:
        if self._prompt_began_us is not None:
            self._call.prompt_us = (self._call.prompt_us or 0) + at_us - self._prompt_began_us
            self._prompt_began_us = None

    def tool_start(self, body: Fields, at_us: int) -> None:
        told = ToolCall.read(self._call, body)
        key = self._new_tool_call(told.name)
        self._named.setdefault(told.name, deque()).append(key)
        self._call.token(at_us, is_content=True)

    def tool_arguments(self, body: Fields, at_us: int) -> None:
        self._complete(ToolCall.read(self._call, body), at_us)

    def tool_success(self, body: Fields, at_us: int) -> None:
        told = ToolCall.read(self._call, body)
        if not self._called.get(told.name):
            self._complete(told, at_us)
        self._called[told.name] -= 1
        self._call.answer().put(result_part(body, told.name))

    def tool_failure(self, body: Fields, at_us: int) -> None:
        told, result = read_invalid(self._call, body)
        if self._named.get(told.name) or not self._called.get(told.name):
            self._complete(told, at_us)
        self._called[told.name] -= 1
        self._call.answer().put(result)

    def end(self, body: Fields, at_us: int) -> None:
        result = body.object("result")
        if result is not None:
            read_result(self._call, result)
        self._call.is_finished = True
        self._call.done_us = at_us  # the socket may stay open for long

    def _new_tool_call(self, name: str) -> int:
        self._tool_calls += 1
        self._call.answer().tool_call(self._tool_calls, name=name)
        return self._tool_calls

    def _complete(self, told: ToolCall, at_us: int) -> None:
        """A call that was begun, or is told only now, gets its arguments."""
        named = self._named.get(told.name)
        key = named.popleft() if named else self._new_tool_call(told.name)
        self._call.answer().set_tool_call(key, id=None, name=None, arguments=told.arguments)
        self._called[told.name] = self._called.get(told.name, 0) + 1
        self._call.token(at_us, is_content=True)


_EVENTS = {
    **dict.fromkeys(
        ("error", "message.start", "message.end", "reasoning.start", "reasoning.end"),
        _Stream.nothing,  # an error is read for all dialects alike
    ),
    "chat.start": _Stream.start,
    **dict.fromkeys(("model_load.start", "model_load.progress", "model_load.end"), _Stream.load),
    "prompt_processing.start": _Stream.prompt_start,
    "prompt_processing.progress": _Stream.prompt_progress,
    "prompt_processing.end": _Stream.prompt_end,
    "tool_call.start": _Stream.tool_start,
    "tool_call.arguments": _Stream.tool_arguments,
    "tool_call.success": _Stream.tool_success,
    "tool_call.failure": _Stream.tool_failure,
    "chat.end": _Stream.end,
}


def _stream_of(call: Call) -> _Stream:
    if not isinstance(call.kept, _Stream):
        call.kept = _Stream(call)
    return call.kept


# --- the request ------------------------------------------------------------------------------------------------------


def _input(body: Fields) -> Message:
    """`input`: a text, or items of text and images."""
    value = body.data["input"]
    if not isinstance(value, list):
        body.known("input")
        is_plain = isinstance(value, str) and value != ""
        return Message("user", tuple(parts_of(value)), path="input" if is_plain else None)
    parts = []
    for item in body.elements("input"):
        part = _item_part(item) if isinstance(item, Fields) else part_of(item)
        if part is not None:
            parts.append(part)
    is_plain = len(parts) == len(value) == 1 and parts[0].kind is PartKind.TEXT and isinstance(value[0], dict)
    return Message("user", tuple(parts), path="input[0].content" if is_plain else None)


def _item_part(item: Fields) -> Part | None:
    """An item of the input; None: an empty text."""
    kind = item.text("type")
    content, url = item.data.get("content"), item.data.get("data_url")
    if kind in ("text", "message") and isinstance(content, str):
        item.known("content")
        return Part(PartKind.TEXT, content) if content else None
    if kind == "image" and isinstance(url, str):
        item.known("data_url")
        return media_part(PartKind.IMAGE, url)
    # An item that is not known is kept whole; its fields count as unread, so that it shows itself.
    return Part(PartKind.OTHER, encode_json(item.data))


def _read_integrations(call: Call, body: Fields) -> None:
    """MCP servers whose tools the model may call; what is asked of each stands in the details."""
    told: list[Json] = []
    for one in body.elements("integrations"):
        if isinstance(one, str):
            call.tools.append(Tool(one, kind="plugin"))
            told.append({"type": "plugin", "id": one})
        elif isinstance(one, Fields):
            kind, url = one.text("type") or "unknown", one.text("server_url")
            name = one.text("id") or one.text("server_label") or kind
            one.known("id", "server_label", "headers")
            call.tools.append(Tool(name, kind=kind))
            about = {"type": kind, "id": name, "server_url": _address(url), "allowed_tools": one.raw("allowed_tools")}
            told.append({key: value for key, value in about.items() if value is not None})
        else:
            call.problem("unexpected", "request.integrations[]: a plugin's id or an object expected")
    if told:
        call.details["integrations"] = told


def _address(url: str | None) -> str | None:
    """Without what may be secret."""
    return None if url is None else _USER_INFO.sub("//", re.split("[?#]", url, maxsplit=1)[0], count=1)
