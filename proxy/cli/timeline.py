"""The chunks of an exchange in the order of their times: what came when, from which side."""

import heapq
from collections.abc import Iterator
from typing import NamedTuple

from rich.style import Style
from rich.text import Text

from proxy.cli.json_objects import chunk_kind
from proxy.cli.render import BOLD, DIM, GOOD, NAME, WARN, duration, printable, size
from proxy.exchange import Side
from proxy.read.stream_text import StreamText
from proxy.store.trace import ChunkRow, ExchangeRow, Trace

FIRST, LAST = 24, 8
"""So many chunks of a long exchange are shown unless all are asked for."""
PREVIEW_BYTES = 400
LONG_PAUSE_US = 1_000_000
_SIDE_STYLES = {Side.CLIENT: NAME, Side.UPSTREAM: GOOD}


class _Seen(NamedTuple):
    """A chunk and what one sees of it."""

    chunk: ChunkRow
    data: bytes
    """How its bytes begin; empty where they are not known."""
    text: str
    """What it adds to a streamed text."""
    since_us: int
    """Since the chunk before."""


def timeline(trace: Trace, row: ExchangeRow, width: int, *, is_whole: bool) -> Iterator[Text]:
    """A line per chunk: time, time since the one before, side, bytes, and how it begins."""
    skipped = 0 if is_whole else row.request_chunks + row.response_chunks - FIRST - LAST
    yield Text(f"{'time':>8} {'+':>8}  from     bytes", style=DIM)
    for number, seen in enumerate(_seen(trace, row)):
        if skipped > 1 and FIRST <= number < FIRST + skipped:
            if number == FIRST:
                yield Text(f"{'':20}{skipped:,} chunks more; --chunks lists them all", style=DIM)
            continue
        line = _line(seen, is_first=number == 0)
        line.truncate(max(width - 1, 50), overflow="ellipsis")
        yield line


def _seen(trace: Trace, row: ExchangeRow) -> Iterator[_Seen]:
    # Where values were masked the sizes are no longer those of the body.
    bodies = {} if row.masked else {side: _BodyCursor(trace.body(row.id, side)) for side in Side}
    texts = {side: StreamText() for side in Side}
    # Not `Trace.chunks` of both sides, which reads them all before it gives the first.
    sides = (trace.chunks(row.id, side) for side in Side)
    before_us = 0
    for chunk in heapq.merge(*sides, key=lambda chunk: (chunk.at_us, chunk.side)):
        text = ""
        if chunk.data is not None:
            data = chunk.data
            text = texts[chunk.side].feed(data) if chunk.opcode is None else ""
        else:
            data = bodies[chunk.side].take(chunk.bytes) if chunk.side in bodies else b""
        yield _Seen(chunk, data, text, chunk.at_us - before_us)
        before_us = chunk.at_us


class _BodyCursor:
    """Walks along a body by the sizes of its chunks, and keeps only how each begins."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = memoryview(b"")

    def take(self, count: int) -> bytes:
        preview = bytearray()
        while count:
            self._rest = self._rest or memoryview(next(self._parts, b""))
            if not self._rest:
                break
            taken, self._rest = self._rest[:count], self._rest[count:]
            count -= len(taken)
            preview += taken[: PREVIEW_BYTES - len(preview)]
        return bytes(preview)


def _line(seen: _Seen, *, is_first: bool) -> Text:
    chunk = seen.chunk
    line = Text(f"{_time(chunk.at_us):>8} ")
    since = "" if is_first else "+" + _time(seen.since_us)
    line.append(f"{since:>8}  ", WARN if seen.since_us >= LONG_PAUSE_US else DIM)
    line.append(f"{chunk.side.label:8}", _SIDE_STYLES[chunk.side]).append(f" {size(chunk.bytes):>5}  ")
    if chunk.opcode and chunk.opcode != 1:
        line.append(f"{chunk_kind(chunk)} ", DIM)
    if seen.text:
        line.append(f"{printable(seen.text, is_one_line=True)!r} ", BOLD)
    line.append(_preview(chunk, seen.data), DIM if seen.text else Style()).rstrip()
    return line


def _time(us: int) -> str:
    return f"{us / 1000:.1f}ms" if us < 1_000_000 else duration(us / 1000)


def _preview(chunk: ChunkRow, data: bytes) -> str:
    if chunk.opcode == 8 and len(data) >= 2:
        return f"{int.from_bytes(data[:2], 'big')} {printable(data[2:].decode(errors='replace'), is_one_line=True)}"
    text = data[:PREVIEW_BYTES].decode(errors="replace")
    if text.count("\ufffd") > 4:
        return data[:32].hex(" ")
    return printable(text, is_one_line=True)
