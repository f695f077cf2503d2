"""Predictions that only the engine's log knows: an event with a prompt becomes a call, and is an event again."""

import sqlite3

from proxy.meaning import Operation
from proxy.store.call_totals import TOTALS_OF_CALL, CallTotals
from proxy.store.prompts import drop, enqueue

_FROM_OUTPUT = (
    *("answer_id", "stop_reason", "stop_reason_raw", "stop_string", "input_tokens", "output_tokens", "total_tokens"),
    *("reasoning_tokens", "cached_tokens", "tokens_per_second", "ttft_s", "total_time_s", "generation_time_s"),
    *("gpu_layers", "draft_model", "draft_tokens", "accepted_draft_tokens", "stats"),
)
_TAKE = ", ".join(f"{name} = o.{name}" for name in _FROM_OUTPUT)
_OBSERVE = "UPDATE read_calls SET operation = ?, is_call = 1, is_observed = 1 WHERE id = ? AND operation = 'log'"
_ADD_OUTPUT = f"""
UPDATE read_calls SET {_TAKE}, done_us = o.started_at_us - read_calls.started_at_us
FROM read_calls o WHERE read_calls.id = ? AND o.id = ?"""
_PAIR = "INSERT OR REPLACE INTO read_pairings VALUES(?, ?, 1.0, NULL, ?, ?, ?, ?)"
_OBSERVED_WITH = """
SELECT p.call_id FROM read_pairings p JOIN read_calls c ON c.id = p.call_id
WHERE c.is_observed AND (p.input_event_id = ?1 OR p.output_event_id = ?1)"""
_UNOBSERVE = (
    "UPDATE read_calls SET operation = 'log', is_call = 0, is_observed = 0, done_us = NULL, "
    + ", ".join(f"{name} = NULL" for name in _FROM_OUTPUT)
    + " WHERE id = ?"
)


def observe(
    connection: sqlite3.Connection,
    input_id: int,
    output_id: int | None,
    *,
    confidence: float | None,
    rivals: str | None,
    why: str | None,
) -> None:
    """Make a call of the event with its prompt, and of that with its output where there is one.

    Its pairing says that the events are its own, so that they are taken for no other call's. `confidence`, `rivals`
    (JSON) and `why` are those of the output.
    """
    connection.execute(_OBSERVE, (Operation.PREDICTION.value, input_id))
    if output_id is not None:
        connection.execute(_ADD_OUTPUT, (input_id, output_id))
    connection.execute(_PAIR, (input_id, input_id, output_id, confidence, rivals, why))
    _count(connection, input_id, 1)


def unobserve(connection: sqlite3.Connection, event_id: int) -> None:
    """Undo it, where an event (with a prompt, or with an output) turned out to be another call's.

    The event with the prompt is in the queue again.
    """
    for (input_id,) in connection.execute(_OBSERVED_WITH, (event_id,)).fetchall():
        _count(connection, input_id, -1)
        connection.execute(_UNOBSERVE, (input_id,))
        drop(connection, [input_id])
        enqueue(connection, [input_id])


def _count(connection: sqlite3.Connection, call_id: int, sign: int) -> None:
    totals = CallTotals()
    for row in connection.execute(TOTALS_OF_CALL, (call_id,)).fetchall():
        totals.add(row, sign)
    totals.write(connection)
