"""The items of a Responses answer as a stream tells them: pieces, then whole items, then all of them once more.

Facts: see openai_responses. The later wins; only what had not come before counts as generated when it comes.
"""

from proxy.meaning import Part, PartKind
from proxy.read.call import Call
from proxy.read.growing import Growing
from proxy.read.json_fields import Fields
from proxy.read.responses_items import (
    LIST_TOOLS,
    kind_of,
    known_list,
    parts_of_item,
    tell_unknown,
    text_or_json,
    text_path,
    tools_of,
)

_CLIENT_CALLS = (
    *("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call", "apply_patch_call"),
    "mcp_approval_request",
)
_MADE_BY_MODEL = (PartKind.TEXT, PartKind.REASONING, PartKind.REFUSAL, PartKind.TOOL_CALL)

# Event, without `response.` and `.delta` or `.done`: what it is a piece of, and the field that `.done` has it in.
PIECES = {
    "output_text": (PartKind.TEXT, "text"),
    "refusal": (PartKind.REFUSAL, "refusal"),
    "reasoning_text": (PartKind.REASONING, "text"),
    "reasoning_summary_text": (PartKind.REASONING, "text"),
    "function_call_arguments": (PartKind.TOOL_CALL, "arguments"),
    "mcp_call_arguments": (PartKind.TOOL_CALL, "arguments"),
    "custom_tool_call_input": (PartKind.TOOL_CALL, "input"),
}
_SHOWN = 200


class ItemStream:
    """The items of an answer as they grow."""

    def __init__(self, call: Call) -> None:
        """Nothing came yet; the items grow in this call's answer."""
        self._call = call
        self._items: dict[int | str, Growing] = {}
        self._listed: set[int | str] = set()
        self.waits_for_client = False
        """There is a call that the client has to make."""
        self.has_begun = False
        """Something was generated."""

    def item(self, key: int | str) -> Growing:
        """The item of that number."""
        found = self._items.get(key)
        if found is None:
            found = self._items[key] = Growing()
            self._call.answer().put(found)
        return found

    def token(self, at_us: int, kind: PartKind) -> None:
        """An event with something generated."""
        self.has_begun = True
        self._call.token(at_us, is_content=kind is not PartKind.REASONING)

    def whole_item(self, item: Fields, key: int | str) -> tuple[Part, ...]:
        """The parts of an item that has ended; a list of tools goes to the tools, once."""
        kind = kind_of(item)
        if kind == LIST_TOOLS:
            told, label, error = item.text("id") or key, item.text("server_label"), item.data.get("error")
            if told not in self._listed:
                self._listed.add(told)
                self._call.tools += tools_of(item)
            known_list(item)
            if error:
                self._call.problem("mcp_tools_failed", f"{label}: {text_or_json(error)}"[:_SHOWN])
            return ()
        if kind in _CLIENT_CALLS and item.data.get("status") != "incomplete":
            self.waits_for_client = True
        tell_unknown(self._call, item)
        return parts_of_item(item)


def stream_of(call: Call) -> ItemStream:
    """The items of this call."""
    if not isinstance(call.kept, ItemStream):
        call.kept = ItemStream(call)
    return call.kept


def _key(body: Fields, item_id: str | None) -> int | str:
    index = body.integer("output_index")
    return index if index is not None else item_id or 0


def read_piece(call: Call, subject: str, step: str, body: Fields, at_us: int) -> None:
    """A `.delta` or `.done` of what `PIECES` names."""
    stream, (kind, field) = stream_of(call), PIECES[subject]
    item = stream.item(_key(body, body.text("item_id")))
    number = body.integer("summary_index" if subject == "reasoning_summary_text" else "content_index")
    place = 0 if kind is PartKind.TOOL_CALL else (subject, number or 0)
    body.known("logprobs", "obfuscation")
    if step == "delta":
        text = body.text("delta") or ""
        item.add(kind, text, place)
        is_new = bool(text)
    else:
        if kind is PartKind.TOOL_CALL:
            item.name = item.name or body.text("name")
        text = body.text(field) or ""
        is_new = item.set(kind, text, place) and bool(text)
    if is_new:
        stream.token(at_us, kind)


def read_item(call: Call, step: str, body: Fields, at_us: int) -> None:
    """`output_item.added` or `.done`."""
    item = body.object("item")
    if item is None:
        return
    stream = stream_of(call)
    key = _key(body, item.text("id"))
    growing = stream.item(key)
    if step == "done":
        parts = stream.whole_item(item, key)
        made = [part.kind for part in parts if part.kind in _MADE_BY_MODEL]
        if made and not growing.has_text and growing.name is None:
            stream.token(at_us, made[0])
        if parts:
            growing.put(*parts)
        return
    if kind_of(item) == LIST_TOOLS:
        known_list(item)
        return
    for part in parts_of_item(item):
        if part.kind is PartKind.TOOL_CALL:
            growing.id, growing.name = part.id, part.name
            growing.add(part.kind, "")
            if part.name:
                stream.token(at_us, part.kind)


def read_output(call: Call, output: list[Fields], at_us: int | None) -> None:
    """All items, whole: they take the place of what came before."""
    stream, answer = stream_of(call), call.new_answer()
    stream.waits_for_client = False
    for index, item in enumerate(output):
        if at_us is None and kind_of(item) == "message":
            answer.path = text_path(item, f"output[{index}]")
        for part in stream.whole_item(item, index):
            if at_us is not None and part.kind in _MADE_BY_MODEL and not stream.has_begun:
                stream.token(at_us, part.kind)
            answer.put(part)
