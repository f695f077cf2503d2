"""What the pages show: the trace laid out for reading, as the templates take it. Knows no HTTP and no HTML."""

import contextlib
import heapq
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from difflib import SequenceMatcher
from itertools import islice
from typing import NamedTuple, Self

import msgspec

from proxy.exchange import Side
from proxy.read.stream_text import StreamText
from proxy.readable import printable, size
from proxy.store.trace import ChunkRow, ExchangeRow, Trace

LISTED = 100
SEARCHED = 100_000
"""So many exchanges at most are looked through for one page, as paths and outcomes have no index."""
CHUNKS = 500
MAX_BODY_BYTES = 4 << 20
MAX_BODY_CHARS = 400_000
MAX_PREVIEW_BYTES = 400
RUNNING = "running"
"""The outcome of what has none yet."""
_KINDS = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}

Pair = tuple[str, str]


class Wanted(NamedTuple):
    """Which exchanges to list; empty fields are no condition."""

    model: str = ""
    outcome: str = ""
    path: str = ""
    """Text that the path contains, whatever its case."""
    before: int = 0
    """Only older ones than this id."""

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Self:
        """What a query string asks for; what makes no sense is no condition."""
        before = query.get("before", "")
        number = int(before) if before.isascii() and before.isdigit() and len(before) < 19 else 0
        return cls(query.get("model", ""), query.get("outcome", ""), query.get("path", "").strip(), number)


def newest(trace: Trace, wanted: Wanted) -> tuple[list[ExchangeRow], int]:
    """The newest exchanges that are wanted, newest first, and the id before which to look on; 0 where all were seen."""
    last = trace.latest(1)
    end = wanted.before or (last[0].id + 1 if last else 1)
    values: list[object] = [end - SEARCHED, end]
    where = "id >= ? AND id < ?"
    if wanted.model:
        where += " AND model = ?"
        values.append(wanted.model)
    if wanted.outcome == RUNNING:
        where += " AND outcome IS NULL"
    elif wanted.outcome:
        where += " AND outcome = ?"
        values.append(wanted.outcome)
    if wanted.path:
        where += " AND instr(lower(path), lower(?))"
        values.append(wanted.path)
    sql = f"SELECT id FROM exchanges WHERE {where} ORDER BY id DESC LIMIT {LISTED}"
    ids = trace.connection.execute(sql, values).fetchall()
    rows = [row for (number,) in ids if (row := trace.exchange(number))]
    older = rows[-1].id if len(rows) == LISTED else end - SEARCHED
    return rows, older if older > 1 else 0


def models(trace: Trace) -> list[str]:
    """The names of models that were asked for."""
    names = trace.connection.execute("SELECT model FROM models WHERE model <> '' ORDER BY model LIMIT 500")
    return [name for (name,) in names]


def count(trace: Trace) -> int:
    """How many exchanges there are."""
    sql = "SELECT (SELECT total(exchanges) FROM models) + (SELECT count(*) FROM exchanges WHERE outcome IS NULL)"
    (number,) = trace.connection.execute(sql).fetchone()
    return int(number)


def last_gap(trace: Trace) -> tuple[str, str, str, int, int] | None:
    """What was lost last without being known of which exchange: since, until, reason, exchanges, records."""
    found = trace.connection.execute(
        "SELECT since, until, reason, lost_exchanges, lost_records FROM gaps WHERE exchange_id IS NULL"
        " ORDER BY id DESC LIMIT 1"
    ).fetchone()
    return None if found is None else (*found,)


class Body(NamedTuple):
    """A body for reading, and what to say about it."""

    text: str
    notes: list[str]


def read_body(parts: Iterable[bytes], content_type: str = "", encoding: str = "") -> Body:
    """A body decompressed and laid out, cut where it gets long; of a stream the text in its events."""
    data = _beginning(parts)
    notes = [] if len(data) < MAX_BODY_BYTES else [f"only its first {size(MAX_BODY_BYTES)} bytes are shown"]
    if encoding not in ("", "identity"):
        try:
            data = zlib.decompressobj(47).decompress(data, MAX_BODY_BYTES)
        except zlib.error:
            return Body("", [*notes, f"compressed with {encoding}, which is not shown here"])
        notes.append(f"decompressed from {encoding}")
    if "event-stream" in content_type or "ndjson" in content_type:
        stream = StreamText()
        if streamed := stream.feed(data) + stream.finish():
            return Body(streamed, [*notes, "the text in its events; below is how they came"])
    elif data.lstrip()[:1] in (b"{", b"["):
        with contextlib.suppress(msgspec.DecodeError, RecursionError):  # no sound JSON is shown as it is
            data = msgspec.json.format(data, indent=2)  # leaves numbers, escapes and repeated names as they are
    text = data.decode(errors="replace")
    if text.count("\ufffd") * 10 > len(text):
        return Body(data[:256].hex(" "), [*notes, "not text: its first bytes"])
    if len(text) > MAX_BODY_CHARS:
        notes.append(f"{len(text) - MAX_BODY_CHARS:,} characters more")
    return Body(text[:MAX_BODY_CHARS], notes)


def _beginning(parts: Iterable[bytes]) -> bytes:
    data = bytearray()
    for part in parts:
        data += part
        if len(data) >= MAX_BODY_BYTES:
            break
    return bytes(data[:MAX_BODY_BYTES])


class Message(NamedTuple):
    """A request or a response."""

    name: str
    bytes: int
    chunks: int
    head: list[tuple[str, str, str]]
    """Mark, name, value: `-` marks a field only as it was received, `+` one only as it was passed on."""
    body: Body


def messages(trace: Trace, row: ExchangeRow) -> Iterator[Message]:
    """The request, and the response where there is one."""
    version = f" HTTP/{row.http_version}" if row.http_version else ""
    received = [("", f"{row.method or '(malformed)'} {row.path or ''}{version}"), *_pairs(row.request_headers)]
    forwarded = received
    if row.forwarded_headers is not None:
        forwarded = [("", f"{row.method} {row.forwarded_path}{version}"), *_pairs(row.forwarded_headers)]
    head = [*_both(received, forwarded), *_trailers(row.request_trailers)]
    yield Message("Request", row.request_bytes, row.request_chunks, head, _body(trace, row, Side.CLIENT))
    if row.status is None:
        return
    interim: list[tuple[str, str, str]] = []
    for status, fields in json.loads(row.interim_heads or "[]"):
        interim += [("", "", str(status)), *(("", name, value) for name, value in fields)]
    first = ("", f"{row.status} {row.reason or ''}".rstrip())
    sent = [first, *_pairs(row.sent_headers)]
    answered = [first, *_pairs(row.response_headers)] if row.response_headers is not None else sent
    head = [*interim, *_both(answered, sent), *_trailers(row.response_trailers)]
    yield Message("Response", row.response_bytes, row.response_chunks, head, _body(trace, row, Side.UPSTREAM))


def _pairs(fields: str | None) -> list[Pair]:
    return [(name, value) for name, value in json.loads(fields or "[]")]


def _both(old: list[Pair], new: list[Pair]) -> Iterator[tuple[str, str, str]]:
    """Both heads in one."""
    for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        yield from (("" if tag == "equal" else "-", *pair) for pair in old[a:b])
        yield from (("+", *pair) for pair in new[c:d] if tag != "equal")


def _trailers(fields: str | None) -> Iterator[tuple[str, str, str]]:
    if fields:
        yield "", "", "after the body:"
        yield from (("", name, value) for name, value in _pairs(fields))


def _body(trace: Trace, row: ExchangeRow, side: Side) -> Body:
    if row.kind == "websocket" and row.status == 101:
        return Body("", ["its messages are listed below"] if side is Side.UPSTREAM else [])
    fields = {name.lower(): value for name, value in _pairs((row.request_headers, row.sent_headers)[side])}
    return read_body(
        trace.body(row.id, side),
        fields.get("content-type", "").lower(),
        fields.get("content-encoding", "").strip().lower(),
    )


class Seen(NamedTuple):
    """A chunk and what one sees of it."""

    at_ms: float
    since_ms: float
    """Since the chunk before."""
    side: str
    bytes: int
    kind: str
    """Of a WebSocket's message or frame; else empty."""
    text: str
    """What it adds to a streamed text."""
    preview: str
    """How it begins; empty where the body holds its bytes."""


def timeline(trace: Trace, number: int) -> list[Seen]:
    """The first chunks of an exchange, of both sides, by time."""
    texts = {side: StreamText() for side in Side}
    seen: list[Seen] = []
    # Not `Trace.chunks` of both sides, which reads them all before it gives the first.
    both = heapq.merge(*(trace.chunks(number, side) for side in Side), key=lambda chunk: (chunk.at_us, chunk.side))
    for chunk in islice(both, CHUNKS):
        at_ms = chunk.at_us / 1000
        text = texts[chunk.side].feed(chunk.data or b"") if chunk.opcode is None else ""
        since_ms = at_ms - seen[-1].at_ms if seen else 0.0
        kind = _KINDS.get(chunk.opcode or 0, "")
        text, preview = (printable(part, is_one_line=True) for part in (text, _preview(chunk)))
        seen.append(Seen(at_ms, since_ms, chunk.side.label, chunk.bytes, kind, text, preview))
    return seen


def _preview(chunk: ChunkRow) -> str:
    data = (chunk.data or b"")[:MAX_PREVIEW_BYTES]
    if chunk.opcode == 8 and len(data) >= 2:
        return f"{int.from_bytes(data[:2], 'big')} {data[2:].decode(errors='replace')}"
    text = data.decode(errors="replace")
    return data[:32].hex(" ") if text.count("\ufffd") > 4 else text
