"""Messages in OpenAI's forms: chat completions' and the parts that Responses shares with them.

Facts (lmstudio-api.md 2.2, 2.3; clients.md 1.2)
------------------------------------------------
* A message's content is text or an array of parts; images are data URLs or addresses, and are sent again every turn.
* A tool's result is a message with the role `tool`; `tool_call_id` joins it with the call.
* Reasoning that a client sends back stands in `reasoning_content`, `reasoning` or `thinking`.
"""

from collections.abc import Callable
from hashlib import blake2b

from proxy.meaning import Json, Message, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields, encode_json

_RESULT_ROLES = ("tool", "function")
_REASONING = ("reasoning_content", "reasoning", "thinking")


def read_messages(call: Call, body: Fields) -> None:
    """`messages`."""
    messages, sent = body.objects("messages"), body.data.get("messages")
    is_counted = isinstance(sent, list) and len(messages) == len(sent)  # else an index here is another one there
    for index, fields in enumerate(messages):
        call.messages.append(message_of(fields, f"messages[{index}].content" if is_counted else None))


def message_of(fields: Fields, path: str | None) -> Message:
    """One message; `path` is where its content stands."""
    role = fields.text("role") or "unknown"
    plain = fields.data.get("content")
    if len(fields.data) == 2 and isinstance(plain, str) and plain and role not in _RESULT_ROLES:
        fields.known("content")  # as most are
        return Message(role, (Part(PartKind.TEXT, plain),), None, path)
    name = fields.text("name")
    parts = [Part(PartKind.REASONING, text) for key in _REASONING if isinstance(text := fields.raw(key), str) and text]
    content = fields.raw("content")
    if role in _RESULT_ROLES:
        parts.append(Part(PartKind.TOOL_RESULT, texts_of(content), name, fields.text("tool_call_id")))
    else:
        parts += parts_of(content)
    refusal = fields.text("refusal")
    if refusal:
        parts.append(Part(PartKind.REFUSAL, refusal))
    parts += [tool_call_part(one) for one in fields.array("tool_calls")]
    function = fields.raw("function_call")
    if isinstance(function, dict):
        parts.append(tool_call_part({"function": function}))
    fields.known("audio", "annotations", "prefix", "partial", "cache_control", "reasoning_details")
    is_plain = len(parts) == 1 and parts[0].kind is PartKind.TEXT and isinstance(content, str)
    return Message(role, tuple(parts), name, path if is_plain else None)


def parts_of(content: Json) -> list[Part]:
    """The parts of a content, which is text, an array of parts, or missing."""
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Part(PartKind.TEXT, content)]
    return [part_of(one) for one in content] if isinstance(content, list) else [_other(content)]


def part_of(value: Json) -> Part:
    """One part of a content array, in chat completions' or Responses' form; what is not known is kept as its JSON."""
    if isinstance(value, str):
        return Part(PartKind.TEXT, value)
    if not isinstance(value, dict):
        return _other(value)
    kind = value.get("type")
    make = _PARTS.get(kind) if isinstance(kind, str) else None
    return (make(value) if make is not None else None) or _other(value)


def _text(value: dict[str, Json]) -> Part | None:
    text = value.get("text")
    return Part(PartKind.TEXT, text) if isinstance(text, str) else None


def _refusal(value: dict[str, Json]) -> Part | None:
    text = value.get("refusal")
    return Part(PartKind.REFUSAL, text) if isinstance(text, str) else None


def _image(value: dict[str, Json]) -> Part | None:
    image = value.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    return media_part(PartKind.IMAGE, url) if isinstance(url, str) else None


def _audio(value: dict[str, Json]) -> Part | None:
    audio = value.get("input_audio")
    if not isinstance(audio, dict) or not isinstance(audio.get("data"), str):
        return None
    return data_part(PartKind.AUDIO, audio["data"], f"audio/{audio.get('format', '')}")


def _file(value: dict[str, Json]) -> Part | None:
    inner = value.get("file")
    file = inner if isinstance(inner, dict) else value
    name, data = file.get("filename"), file.get("file_data")
    return media_part(PartKind.FILE, data, name if isinstance(name, str) else None) if isinstance(data, str) else None


_PARTS: dict[str, Callable[[dict[str, Json]], Part | None]] = {
    **dict.fromkeys(("text", "input_text", "output_text"), _text),
    **dict.fromkeys(("image_url", "input_image"), _image),
    **dict.fromkeys(("file", "input_file"), _file),
    "refusal": _refusal,
    "input_audio": _audio,
}


def _other(value: Json) -> Part:
    return Part(PartKind.OTHER, encode_json(value))


def media_part(kind: PartKind, url: str, name: str | None = None) -> Part:
    """An image or file by its address, or by its data in a data URL."""
    if not url.startswith("data:"):
        return Part(kind, url, name)
    head, _, data = url.partition(",")
    return data_part(kind, data, head[5:].partition(";")[0] or None, name)


def data_part(kind: PartKind, data: str, media_type: str | None, name: str | None = None) -> Part:
    """An image or file by its base64: its size and digest, not its bytes, which stand in the recorded body."""
    size = len(data.rstrip("=")) * 3 // 4
    digest = blake2b(data.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return Part(kind, "", name, None, media_type, size, digest)


def tool_call_part(value: Json) -> Part:
    """A tool call as a message has it: its arguments as sent, JSON as a rule."""
    if not isinstance(value, dict):
        return _other(value)
    function = value.get("function")
    function = function if isinstance(function, dict) else value
    arguments = function.get("arguments")
    name, call_id = function.get("name"), value.get("id")
    return Part(
        PartKind.TOOL_CALL,
        arguments if isinstance(arguments, str) else "" if arguments is None else encode_json(arguments),
        name if isinstance(name, str) else None,
        call_id if isinstance(call_id, str) else None,
    )


def texts_of(content: Json) -> str:
    """The text of a content of any form, as a tool's result has it."""
    return "\n".join(part.text for part in parts_of(content))
