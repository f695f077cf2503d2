"""What `--json` prints: rows of the trace as JSON values."""

import base64
import json
from dataclasses import asdict
from typing import Any

from proxy.cli.reading_objects import readings_of
from proxy.exchange import Side
from proxy.store.trace import ChunkRow, ExchangeRow, Trace

_JSON_COLUMNS = (
    *("request_headers", "forwarded_headers", "response_headers", "sent_headers"),
    *("interim_heads", "request_trailers", "response_trailers"),
)
_OPCODES = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


def exchange_object(row: ExchangeRow) -> dict[str, Any]:
    """An exchange's columns; those that hold JSON text are read."""
    fields = asdict(row)
    for name in _JSON_COLUMNS:
        fields[name] = json.loads(fields[name]) if fields[name] else None
    return fields


def whole_object(trace: Trace, row: ExchangeRow, *, with_chunks: bool) -> dict[str, Any]:
    """The same with readings, bodies, gaps and chunks."""
    found = exchange_object(row)
    found["readings"] = readings_of(trace.connection, row.id)
    found["gaps"] = [asdict(gap) for gap in trace.gaps(row.id)]
    found["request_body"] = _bytes_object(b"".join(trace.body(row.id, Side.CLIENT)))
    found["response_body"] = _bytes_object(b"".join(trace.body(row.id, Side.UPSTREAM)))
    if with_chunks:
        found["chunks"] = [_chunk_object(chunk) for side in Side for chunk in trace.chunks(row.id, side)]
    return found


def chunk_kind(chunk: ChunkRow) -> str | None:
    """What a WebSocket chunk is, in the trace's words; None for a socket read."""
    return _OPCODES.get(chunk.opcode) if chunk.opcode else None


def _chunk_object(chunk: ChunkRow) -> dict[str, Any]:
    return {
        "side": Side(chunk.side).label,
        "seq": chunk.seq,
        "at_ms": chunk.at_us / 1000,
        "bytes": chunk.bytes,
        "kind": chunk_kind(chunk),
        **({} if chunk.data is None else _bytes_object(chunk.data)),
    }


def _bytes_object(data: bytes) -> dict[str, str]:
    """`text`, or `base64` where they are not UTF-8."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
