"""Anthropic's content blocks: which parts they are.

Facts (lmstudio-api.md 2.8; Anthropic's reference for what LM Studio does not document)
---------------------------------------------------------------------------------------
* A content is a text or an array of blocks. Results of tools stand in the user's message: `tool_result`; those of tools
  that the server called in the assistant's: `web_search_tool_result` and others of that ending.
* A tool's result is a text or blocks, images among them. `input` of a call is an object, which a stream tells as text.
* `thinking` has a `signature`, `redacted_thinking` nothing but opaque `data`: only that it is there can be told.
* Blocks hold blocks at most one level deep as documented; deeper ones are kept as their JSON.
"""

from collections.abc import Callable

from proxy.meaning import Json, Part, PartKind
from proxy.read.json_fields import encode_json
from proxy.read.openai_messages import data_part, media_part

CALLS = ("tool_use", "server_tool_use", "mcp_tool_use")
_MEDIA = (PartKind.IMAGE, PartKind.FILE)


def parts_of_content(content: Json) -> list[Part]:
    """The parts of a content."""
    return _parts(content, parts_of_block)


def parts_of_block(block: Json) -> list[Part]:
    """The parts of one block; what is not known is kept as its JSON."""
    if not isinstance(block, dict):
        return _plain(block)
    kind = block.get("type")
    if isinstance(kind, str) and kind.endswith("tool_result"):
        return _result(block)
    if kind == "document":
        return _document(block)
    return _plain(block)


def _parts(content: Json, make: Callable[[Json], list[Part]]) -> list[Part]:
    if content is None or content == "":
        return []
    if isinstance(content, str):
        return [Part(PartKind.TEXT, content)]
    return [part for block in content for part in make(block)] if isinstance(content, list) else make(content)


def _plain(block: Json) -> list[Part]:
    """A block that holds no others."""
    if isinstance(block, str):
        return [Part(PartKind.TEXT, block)]
    kind = block.get("type") if isinstance(block, dict) else None
    make = _KINDS.get(kind) if isinstance(kind, str) else None
    return [(make(block) if make is not None else None) or Part(PartKind.OTHER, encode_json(block))]


def _text(block: dict[str, Json]) -> Part | None:
    text = block.get("text")
    return Part(PartKind.TEXT, text) if isinstance(text, str) else None


def _thinking(block: dict[str, Json]) -> Part | None:
    text = block.get("thinking")
    return Part(PartKind.REASONING, text) if isinstance(text, str) else None


def _redacted(block: dict[str, Json]) -> Part | None:
    data = block.get("data")
    return data_part(PartKind.REASONING, data, None) if isinstance(data, str) else None


def _image(block: dict[str, Json]) -> Part | None:
    return _media(PartKind.IMAGE, block.get("source"), None)


def _media(kind: PartKind, source: Json, name: str | None) -> Part | None:
    if not isinstance(source, dict):
        return None
    data, url, media_type = source.get("data"), source.get("url"), source.get("media_type")
    if source.get("type") == "base64" and isinstance(data, str):
        return data_part(kind, data, media_type if isinstance(media_type, str) else None, name)
    return media_part(kind, url, name) if source.get("type") == "url" and isinstance(url, str) else None


def _call(block: dict[str, Json]) -> Part | None:
    arguments, name, call_id = block.get("input"), block.get("name"), block.get("id")
    return Part(
        PartKind.TOOL_CALL,
        arguments if isinstance(arguments, str) else "" if arguments is None else encode_json(arguments),
        name if isinstance(name, str) else None,
        call_id if isinstance(call_id, str) else None,
    )


def _document(block: dict[str, Json]) -> list[Part]:
    """A file; one that is sent as text is a text with a name, so that it is found by its words."""
    source, title = block.get("source"), block.get("title")
    name = title if isinstance(title, str) else None
    if isinstance(source, dict) and source.get("type") == "text" and isinstance(source.get("data"), str):
        return [Part(PartKind.TEXT, source["data"], name, media_type="text/plain")]
    if isinstance(source, dict) and source.get("type") == "content":
        return _parts(source.get("content"), _plain)
    return [_media(PartKind.FILE, source, name) or Part(PartKind.OTHER, encode_json(block))]


def _result(block: dict[str, Json]) -> list[Part]:
    parts, call_id = _parts(block.get("content"), _plain), block.get("tool_use_id")
    text = "\n".join(part.text for part in parts if part.kind not in _MEDIA)
    result = Part(PartKind.TOOL_RESULT, text, None, call_id if isinstance(call_id, str) else None)
    return [result, *(part for part in parts if part.kind in _MEDIA)]


_KINDS: dict[str, Callable[[dict[str, Json]], Part | None]] = {
    "text": _text,
    "thinking": _thinking,
    "redacted_thinking": _redacted,
    "image": _image,
    **dict.fromkeys(CALLS, _call),
}
