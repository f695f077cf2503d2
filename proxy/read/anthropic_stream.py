"""Anthropic's content blocks as a stream tells them: a start, pieces by `index`, a stop.

Facts: see anthropic_messages.
"""

from proxy.meaning import PartKind
from proxy.read.anthropic_blocks import CALLS, parts_of_block
from proxy.read.call import Call
from proxy.read.growing import Growing
from proxy.read.json_fields import Fields

# Delta: the field it has, what it is a piece of.
_PIECES = {
    "text_delta": ("text", PartKind.TEXT),
    "thinking_delta": ("thinking", PartKind.REASONING),
    "input_json_delta": ("partial_json", PartKind.TOOL_CALL),
}
_SILENT_DELTAS = {"signature_delta": "signature", "citations_delta": "citation"}
_SHOWN = 200


class _Block(Growing):
    """A content block as it grows."""

    __slots__ = ("input",)

    def __init__(self) -> None:
        super().__init__()
        self.input = ""
        """Of a tool call, as its start has it; pieces take its place."""

    def end(self) -> None:
        """A call without pieces has the input that its start had."""
        if self.input and not self.has_text:
            self.add(PartKind.TOOL_CALL, self.input)


def _blocks_of(call: Call) -> dict[int, _Block]:
    if not isinstance(call.kept, dict):
        call.kept = {}
    return call.kept


def _index(body: Fields) -> int:
    return body.integer("index") or 0


def _begin(call: Call, index: int) -> _Block:
    block = _blocks_of(call)[index] = _Block()
    call.answer().put(block)
    return block


def read_block_start(call: Call, body: Fields, at_us: int) -> None:
    """`content_block_start`: what comes in pieces is empty there as a rule, other blocks are whole."""
    block = _begin(call, _index(body))
    content = body.raw("content_block")
    if content is None:
        return
    kind = content.get("type") if isinstance(content, dict) else None
    parts = parts_of_block(content)
    if kind in CALLS:
        block.id, block.name, block.input = parts[0].id, parts[0].name, parts[0].text
        block.add(PartKind.TOOL_CALL, "")
        if block.name:
            call.token(at_us, is_content=True)
    elif kind in ("text", "thinking") and parts[0].kind is not PartKind.OTHER:
        block.add(parts[0].kind, parts[0].text)
        if parts[0].text:
            call.token(at_us, is_content=kind == "text")
    else:
        block.put(*parts)


def read_block_delta(call: Call, body: Fields, at_us: int) -> None:
    """`content_block_delta`."""
    index = _index(body)
    delta = body.object("delta")
    if delta is None:
        return
    kind = delta.text("type") or ""
    if kind in _PIECES:
        name, part_kind = _PIECES[kind]
        text = delta.text(name)
        delta.known("estimated_tokens")
        if text:
            block = _blocks_of(call).get(index) or _begin(call, index)
            block.add(part_kind, text)
            call.token(at_us, is_content=part_kind is not PartKind.REASONING)
    elif kind in _SILENT_DELTAS:
        delta.known(_SILENT_DELTAS[kind])
    else:
        call.problem("unknown_event", f"content_block_delta: {kind}"[:_SHOWN])


def read_block_stop(call: Call, body: Fields, at_us: int) -> None:
    """`content_block_stop`."""
    block = _blocks_of(call).get(_index(body))
    if block is not None:
        block.end()
