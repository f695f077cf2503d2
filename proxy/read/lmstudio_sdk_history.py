"""A chat as LM Studio's SDK sends it, made messages.

Facts (lmstudio-api.md 5.6; lmstudio-js ChatHistoryData.ts)
-----------------------------------------------------------
* A message has a role (system, user, assistant, tool) and an array of parts: `text`, `file`, `toolCallRequest` (an
  assistant's), `toolCallResult` (a tool's; results of one round share a message).
* Files are uploaded first, over /files; the chat holds their identifiers alone, and `fileType` is `image` or a media
  type of LM Studio's own.
"""

from collections.abc import Callable

from proxy.meaning import Json, Message, Part, PartKind
from proxy.read.json_fields import Fields, encode_json


def messages_of(parameter: Fields) -> list[Message]:
    """The messages of `history`."""
    history = parameter.object("history")
    return [_message(fields) for fields in history.objects("messages")] if history is not None else []


def _message(fields: Fields) -> Message:
    role = fields.text("role") or "unknown"
    content = fields.data.get("content")
    if isinstance(content, str):
        fields.known("content")
        return Message(role, (Part(PartKind.TEXT, content),))
    return Message(role, tuple(_part(one) for one in fields.elements("content")))


def _part(value: "Fields | Json") -> Part:
    if not isinstance(value, Fields):
        return Part(PartKind.TEXT, value) if isinstance(value, str) else Part(PartKind.OTHER, encode_json(value))
    kind = value.text("type")
    make = _PARTS.get(kind) if kind is not None else None
    part = make(value) if make is not None else None
    # A part that is not known is kept whole; its fields count as unread, so that it shows itself.
    return part if part is not None else Part(PartKind.OTHER, encode_json(value.data))


def _text(value: Fields) -> Part | None:
    text = value.text("text")
    return Part(PartKind.TEXT, text) if text is not None else None


def _file(value: Fields) -> Part:
    kind = value.text("fileType")
    return Part(
        PartKind.IMAGE if kind == "image" else PartKind.FILE,
        value.text("identifier") or "",
        value.text("name"),
        media_type=kind if kind is not None and "/" in kind else None,
        bytes=value.integer("sizeBytes"),
    )


def _request(value: Fields) -> Part | None:
    request = value.object("toolCallRequest")
    if request is None:
        return None
    request.known("type")
    return Part(PartKind.TOOL_CALL, arguments_of(request) or "", request.text("name"), request.text("id"))


def arguments_of(request: Fields) -> str | None:
    """The arguments of a tool call, as JSON."""
    arguments = request.raw("arguments")
    return arguments if arguments is None or isinstance(arguments, str) else encode_json(arguments)


def _result(value: Fields) -> Part:
    content = value.raw("content")
    text = content if isinstance(content, str) else "" if content is None else encode_json(content)
    return Part(PartKind.TOOL_RESULT, text, value.text("name"), value.text("toolCallId"))


_PARTS: dict[str, Callable[[Fields], Part | None]] = {
    "text": _text,
    "file": _file,
    "toolCallRequest": _request,
    "toolCallResult": _result,
}
