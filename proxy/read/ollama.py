"""Ollama's own API: chat, generate, embeddings, its lists of models.

Facts (Ollama's docs/api.md, docs/api/errors.mdx, api/types.go and server/routes.go at fb30760)
-----------------------------------------------------------------------------------------------
* A stream is lines of JSON (`application/x-ndjson`), and is the default; `stream: false` gives one object of the same
  form. The last has `done: true`, with a `done_reason` (`stop`, `length`, or none) and all durations and counts.
* Text comes in `message.content` (chat) or `response` (generate), reasoning in `thinking`, tool calls whole.
* /api/generate applies the template to `system` and `prompt`, as a chat would, unless `raw` is true or a `suffix` asks
  to fill a gap. `context` is a chat that the client keeps as token numbers.
* Without messages or prompt a model is loaded, with `keep_alive: 0` unloaded; `done_reason` says which.
* An error within a stream is a line `{"error": "…"}`; the stop reason of tool calls is `stop`.
* LM Studio has nothing of this: its /api/v0/… and /api/v1/… are others.
"""

from collections.abc import Callable
from types import MappingProxyType

from proxy.meaning import Json, Message, Operation, Part, PartKind, StopReason
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.ollama_fields import (
    image_parts,
    message_of,
    read_asked,
    read_durations,
    read_modelfile_parameters,
)
from proxy.read.openai_fields import read_tools
from proxy.read.openai_messages import tool_call_part
from proxy.read.prompts import read_prompts
from proxy.read.reader import Claim, RequestHead
from proxy.read.vectors import read_vectors

_STOP_REASONS = MappingProxyType({"stop": StopReason.STOP, "length": StopReason.LENGTH})
_NOT_GENERATED = MappingProxyType({"load": Operation.LOAD, "unload": Operation.UNLOAD})
_KNOWN = ("created_at", "logprobs", "context")
_REMOTE = ("remote_model", "remote_host")
_MODEL = (
    *("name", "model", "modified_at", "size", "digest", "details", "capabilities", "expires_at", "size_vram"),
    *("context_length", *_REMOTE),
)
_SHOWN = ("template", "system", "capabilities", "details", "modified_at", "renderer", "parser", "requires", *_REMOTE)
_SHOW_KNOWN = ("license", "modelfile", "messages", "projector_info", "tensors")


class Ollama:
    """`POST /api/chat`, `/api/generate`, `/api/embed`, `/api/embeddings`, `/api/show`; `GET /api/tags`, `/api/ps`."""

    name = "ollama"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """By the whole path; with something before it, only if nobody else does."""
        if (head.method, head.path) in _ENDPOINTS:
            return Claim.YES
        return Claim.MAYBE if _endpoint(head) is not None else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`; generating may turn out to be a raw completion, or loading."""
        found = _endpoint(head)
        return Operation.OTHER if found is None else found[0]

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        found = _endpoint(head)
        if found is not None and found[1] is not None:
            read_asked(call, body)
            found[1](call, body)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        found = _endpoint(head)
        if found is not None:
            found[2](call, body)

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        if name not in ("", "error"):
            call.problem("unknown_event", name)
        _read_piece(call, body, at_us)


# --- chat and generate ------------------------------------------------------------------------------------------------


def _ask_chat(call: Call, body: Fields) -> None:
    for index, fields in enumerate(body.objects("messages")):
        call.messages.append(message_of(fields, f"messages[{index}].content"))
    read_tools(call, body)
    call.parameter("_debug_render_only", body.raw("_debug_render_only"))


def _ask_generate(call: Call, body: Fields) -> None:
    is_raw = body.raw("raw") is True or bool(body.raw("suffix"))
    if is_raw:
        call.operation = Operation.COMPLETION
    system = body.text("system")
    if system:
        call.messages.append(Message("system", (Part(PartKind.TEXT, system),), path="system"))
    prompt, images = body.text("prompt"), image_parts(body)
    if prompt or images:
        parts = (*((Part(PartKind.TEXT, prompt),) if prompt else ()), *images)
        call.messages.append(Message("prompt" if is_raw else "user", parts, path=None if images else "prompt"))
    call.parameter("prompt_template", body.text("template"), sent_as="template")
    context = body.array("context")
    if context:
        call.details["context_tokens"] = len(context)
    call.parameter("_debug_render_only", body.raw("_debug_render_only"))


def _read_generated(call: Call, body: Fields) -> None:
    _read_piece(call, body, None)


def _read_piece(call: Call, body: Fields, at_us: int | None) -> None:
    """An answer, or a piece of one that is streamed."""
    call.model_answered = body.text("model") or call.model_answered
    message = body.object("message")
    if message is not None:
        message.known("role", "images", "tool_name", "tool_call_id")
        _read_generated_parts(call, message, message.text("content"), at_us)
    else:
        _read_generated_parts(call, body, body.text("response"), at_us)
    body.known("response", "thinking", "tool_calls", *_KNOWN)
    for name in _REMOTE:
        _detail(call, name, body.text(name))
    debug = body.object("_debug_info")
    if debug is not None:
        call.details["prompt"] = debug.text("rendered_template")
        debug.known("image_count")
    read_durations(call, body)
    if body.flag("done"):
        call.is_finished = True
    raw = body.text("done_reason")
    if raw is not None and raw in _NOT_GENERATED:
        call.operation = _NOT_GENERATED[raw]
    elif raw:
        call.stop(_STOP_REASONS.get(raw, StopReason.OTHER), raw)


def _read_generated_parts(call: Call, fields: Fields, text: str | None, at_us: int | None) -> None:
    call.generated(at_us, fields.text("thinking"), kind=PartKind.REASONING)
    call.generated(at_us, text)
    tool_calls = fields.array("tool_calls")
    for tool_call in tool_calls:
        call.answer().put(tool_call_part(tool_call))
    if tool_calls and at_us is not None:
        call.token(at_us, is_content=True)


# --- embeddings and models --------------------------------------------------------------------------------------------


def _ask_embed(call: Call, body: Fields) -> None:
    for name in ("input", "prompt"):
        read_prompts(call, body, name, role="input")


def _read_embed(call: Call, body: Fields) -> None:
    call.model_answered = body.text("model")
    read_vectors(call, body.array("embeddings") if "embeddings" in body else [body.raw("embedding")])
    read_durations(call, body)


def _read_models(call: Call, body: Fields) -> None:
    rows = body.objects("models")
    names = [row.text("model") or row.text("name") for row in rows]
    contexts = [row.integer("context_length") for row in rows]
    for row in rows:
        row.known(*_MODEL)
    call.details["models"] = [name for name in names if name is not None]
    told = {name: length for name, length in zip(names, contexts, strict=True) if name and length is not None}
    if told:
        call.details["context_lengths"] = told


def _ask_show(call: Call, body: Fields) -> None:
    body.known("verbose", "system", "template")


def _read_show(call: Call, body: Fields) -> None:
    for name in _SHOWN:
        _detail(call, name, body.raw(name))
    info = body.raw("model_info")
    if isinstance(info, dict):  # with `verbose` it holds the whole vocabulary
        short = {name: value for name, value in info.items() if not isinstance(value, list | dict)}
        call.details["model_info"] = short
    read_modelfile_parameters(call, body.text("parameters") or "")
    body.known(*_SHOW_KNOWN)


def _detail(call: Call, name: str, value: Json) -> None:
    if value is not None:
        call.details[name] = value


_Read = Callable[[Call, Fields], None]
_Endpoint = tuple[Operation, _Read | None, _Read]
_ENDPOINTS: dict[tuple[str, str], _Endpoint] = {
    ("POST", "/api/chat"): (Operation.CHAT, _ask_chat, _read_generated),
    ("POST", "/api/generate"): (Operation.CHAT, _ask_generate, _read_generated),
    ("POST", "/api/embed"): (Operation.EMBEDDING, _ask_embed, _read_embed),
    ("POST", "/api/embeddings"): (Operation.EMBEDDING, _ask_embed, _read_embed),
    ("POST", "/api/show"): (Operation.MODELS, _ask_show, _read_show),
    ("GET", "/api/tags"): (Operation.MODELS, None, _read_models),
    ("GET", "/api/ps"): (Operation.MODELS, None, _read_models),
}
"""What is asked by each, how its request is read, and how its answer."""


def _endpoint(head: RequestHead) -> _Endpoint | None:
    place = head.path.rfind("/api/")
    return _ENDPOINTS.get((head.method, head.path[place:])) if place >= 0 else None
