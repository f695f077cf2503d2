"""The chunks of an exchange in the order of their times: what came when, from which side."""

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from proxy.cli.json_objects import chunk_kind
from proxy.cli.render import DIM, GOOD, NAME, WARN, duration, printable, size
from proxy.exchange import Side

if TYPE_CHECKING:
    from proxy.store.trace import ChunkRow, ExchangeRow, Trace

FIRST, LAST = 24, 8
"""So many chunks of a long exchange are shown unless all are asked for."""
PREVIEW_BYTES = 400
_SIDE_STYLES = {Side.CLIENT: NAME, Side.UPSTREAM: GOOD}


class _BodyCursor:
    """Walks along a body by the sizes of its chunks, and keeps only how each begins."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def take(self, count: int) -> bytes:
        preview = bytearray()
        while count:
            if not self._rest:
                self._rest = memoryview(next(self._parts, b""))
                if not self._rest:
                    break
            taken = self._rest[:count]
            self._rest = self._rest[count:]
            count -= len(taken)
            preview += taken[: PREVIEW_BYTES - len(preview)]
        return bytes(preview)


def chunks_in_order(trace: "Trace", exchange: int) -> "Iterator[ChunkRow]":
    """The chunks of both sides by time."""
    sides = (trace.chunks(exchange, side) for side in Side)
    return heapq.merge(*sides, key=lambda chunk: (chunk.at_us, chunk.side))


def timeline(trace: "Trace", row: "ExchangeRow", width: int, *, is_whole: bool) -> Iterator[Text]:
    """A line per chunk: time, time since the one before, side, bytes, and how it begins."""
    total = row.request_chunks + row.response_chunks
    skipped = 0 if is_whole else max(total - FIRST - LAST, 0)
    # Where values were masked the sizes are no longer those of the body.
    cursors = {} if row.masked else {side: _BodyCursor(trace.body(row.id, side)) for side in Side}
    before_us: int | None = None
    yield Text(f"{'time':>8} {'+':>8}  {'from':8} {'bytes':>5}", style=DIM)
    for number, chunk in enumerate(chunks_in_order(trace, row.id)):
        data = chunk.data
        if data is None and chunk.side in cursors:
            data = cursors[Side(chunk.side)].take(chunk.bytes)
        if number == FIRST and skipped > 1:
            yield Text(f"{'':8} {'':8}  \u2026 {skipped} chunks more; --chunks shows them all", style=DIM)
        if not FIRST <= number < FIRST + skipped or skipped == 1:
            yield _line(chunk, data, before_us, width)
        before_us = chunk.at_us


def _line(chunk: "ChunkRow", data: bytes | None, before_us: int | None, width: int) -> Text:
    side = Side(chunk.side)
    since = "" if before_us is None else "+" + duration((chunk.at_us - before_us) / 1000)
    line = Text.assemble(
        f"{duration(chunk.at_us / 1000):>8} ",
        (f"{since:>8}", WARN if since.endswith(("s", "m")) and not since.endswith("ms") else DIM),
        "  ",
        (f"{side.label:8}", _SIDE_STYLES[side]),
        f" {size(chunk.bytes):>5}  ",
        (f"{chunk_kind(chunk)} " if chunk.opcode and chunk.opcode != 1 else "", DIM),
        (_preview(chunk, data), Style()),
    )
    line.truncate(max(width - 1, 50), overflow="ellipsis")
    return line


def _preview(chunk: "ChunkRow", data: bytes | None) -> str:
    if data is None:
        return ""
    if chunk.opcode == 8 and len(data) >= 2:
        return f"{int.from_bytes(data[:2], 'big')} {printable(data[2:].decode(errors='replace'), is_one_line=True)}"
    data = data[:PREVIEW_BYTES]
    text = data.decode(errors="replace")
    if text.count("\ufffd") > 4:
        return data[:32].hex(" ")
    return printable(text, is_one_line=True)
