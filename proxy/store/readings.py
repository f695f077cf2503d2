"""Readings go into the trace: those of one exchange replace what was there, in the caller's transaction."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec

from proxy.meaning import MODEL_CALLS, CallError, Operation, Problem, Reading
from proxy.read.json_fields import encode_json
from proxy.store.call_totals import TOTALS_OF as _TOTALS_OF
from proxy.store.call_totals import CallTotals, TotalsRow
from proxy.store.digests import read_digest_of
from proxy.store.message_rows import Counter, MessageRows, Places, chain_key
from proxy.store.prompts import ENGINE_LOG_TAG, drop, enqueue, forget
from proxy.store.recordings import Recording
from proxy.store.sessions import Sessions
from proxy.store.threads import Threads, turn_of

_REPORTED = (
    *("input_tokens", "output_tokens", "total_tokens", "reasoning_tokens", "cached_tokens"),
    *("tokens_per_second", "ttft_s", "total_time_s", "generation_time_s", "load_time_s", "prompt_time_s"),
    *("prompt_tokens_per_second", "gpu_layers", "draft_model", "draft_tokens", "accepted_draft_tokens"),
)
_MEASURED = ("request_complete_us", "first_byte_us", "first_token_us", "first_content_us", "last_token_us")
_COLUMNS = (
    *("id", "exchange_id", "seq", "reader_id", "operation", "is_call", "is_streamed", "is_observed", "is_running"),
    *("started_at_us", "client", "session_id", "tag", "model_asked", "model_answered"),
    *("label", "thread_id", "parent_id", "input_key", "output_key", "system_key", "is_system_changed"),
    *("input", "answer_id", "more_answers", "running_text", "parameters_id", "tools_id", "output_schema_id"),
    *("stop_reason", "stop_reason_raw", "stop_string", *_REPORTED, "stats", "model_info_id", "runtime_id"),
    *(*_MEASURED, "token_events", "longest_gap_us", "load_us", "prompt_us", "done_us"),
    *("response_id", "previous_response_id", "details_id"),
)
_INSERT = f"INSERT INTO read_calls({', '.join(_COLUMNS)}) VALUES({', '.join('?' * len(_COLUMNS))})"
_OLD = "SELECT seq, id, session_id FROM read_calls WHERE exchange_id = ?"
_ADDED_BEFORE = """
SELECT (SELECT max(seq) FROM read_calls WHERE exchange_id = ?1),
    (SELECT session_id FROM read_calls WHERE exchange_id = ?1 LIMIT 1)"""
_AT = "SELECT id, is_running FROM read_calls WHERE exchange_id = ? AND seq = ?"
_NEXT_PROBLEM = "SELECT coalesce(max(seq), -1) + 1 FROM read_problems WHERE exchange_id = ?"
_GAP = Problem("gap", "bytes of the exchange are missing; see the view gaps")
_CONFIG = "INSERT OR REPLACE INTO model_configs VALUES(?, ?, ?, ?)"
_PROBLEM = "INSERT INTO read_problems VALUES(?, ?, ?, ?, ?, ?, ?)"
_COUNT_UNREAD = """
INSERT INTO unread_fields VALUES(?, ?, ?, ?) ON CONFLICT(reader_id, path) DO UPDATE SET
count = count + excluded.count, last_exchange_id = max(last_exchange_id, excluded.last_exchange_id)"""
_LAST = (
    "SELECT (SELECT max(id) FROM read_calls), (SELECT max(exchange_id) FROM read_calls),"
    " (SELECT max(exchange_id) FROM read_problems)"
)


@dataclass(frozen=True, slots=True)
class Read:
    """What is to be stored of one exchange."""

    recording: Recording
    reader: tuple[str, int] | None
    """Name and version; None: nobody claimed it."""
    readings: Sequence[Reading] = ()
    request_parts: Sequence[tuple[int, bytes]] = ()
    """Of the request's body: (blob id, bytes)."""
    response_parts: Sequence[tuple[int, bytes]] = ()
    failure: str | None = None
    """A reader's bug, in words."""


class _Of(NamedTuple):
    """What the calls of one exchange share."""

    recording: Recording
    reader_id: int
    places: Places
    answer_places: Places
    session_id: int
    tag: str | None
    scope: str


class ReadingRows:
    """Writes readings. After a rollback it must be thrown away: its ids are void."""

    def __init__(
        self, connection: sqlite3.Connection, *, count_tokens: Counter | None, prefix_sessions: Mapping[str, str]
    ) -> None:
        """`prefix_sessions`: the session of each upstream that names one."""
        self._connection = connection
        self._messages = MessageRows(connection, count_tokens)
        self._threads = Threads(connection)
        self._sessions = Sessions(connection, prefix_sessions)
        self._readers: dict[tuple[str, int], int] = {}
        self._values: dict[str, int] = {}
        self._totals = CallTotals()
        self._prompts_wanted: list[int] = []
        self._done: list[tuple[int, int | None, str | None]] = []
        last_call, last_read, last_problem = connection.execute(_LAST).fetchone()
        self._next_call = (last_call or 0) + 1
        self._newest = max(last_read or 0, last_problem or 0)

    def put(self, read: Read) -> None:
        """Store what was read of one exchange, in place of what there was."""
        exchange_id = read.recording.id
        old, session_id = self._take_away(exchange_id) if self._may_be_read_before(exchange_id) else ({}, None)
        reader_id = self.reader_id(*read.reader) if read.reader is not None else None
        of = self._of(read, reader_id, session_id) if reader_id is not None and read.readings else None
        problem_seq = 0
        for seq, reading in enumerate(read.readings):
            call_id = old.get(seq) or self._new_id()
            assert of is not None
            is_missing = self._put_call(call_id, seq, reading, of)
            problems: list[CallError | Problem] = [*reading.errors, *reading.problems]
            if is_missing:
                problems.append(Problem("previous_missing", f"{reading.previous_response_id} is not recorded"))
            if seq == 0 and read.recording.has_gap:
                problems.append(_GAP)
            for problem in problems:
                self._put_problem(exchange_id, call_id, problem_seq, problem)
                problem_seq += 1
            if reading.unread and self._is_unread(exchange_id):
                counted = [(of.reader_id, path, count, exchange_id) for path, count in reading.unread]
                self._connection.executemany(_COUNT_UNREAD, counted)
        if len(old) > len(read.readings):
            drop(self._connection, [call_id for seq, call_id in old.items() if seq >= len(read.readings)])
        if read.failure is not None:
            self._put_problem(exchange_id, None, problem_seq, Problem("reader_failed", read.failure))
        if read.recording.end is not None:
            self._done.append((exchange_id, reader_id, read.failure))

    def add(self, read: Read, numbers: Sequence[int]) -> None:
        """Store further readings of an exchange that is read as it goes on, `numbers` being their places in it.

        What is there under a number stays if it was finished: after a crash an exchange is read from its start again.
        """
        assert read.reader is not None
        recording = read.recording
        self._may_be_read_before(recording.id)
        reader_id = self.reader_id(*read.reader)
        if read.readings:
            last, session_id = self._connection.execute(_ADDED_BEFORE, (recording.id,)).fetchone()
            of = self._of(read, reader_id, session_id)
            (problem_seq,) = self._connection.execute(_NEXT_PROBLEM, (recording.id,)).fetchone()
            for number, reading in zip(numbers, read.readings, strict=True):
                call_id = (
                    self._make_room(recording.id, number) if last is not None and number <= last else self._new_id()
                )
                if call_id is None:
                    continue
                self._put_call(call_id, number, reading, of)
                problems: list[CallError | Problem] = [*reading.errors, *reading.problems]
                for problem in problems:
                    self._put_problem(recording.id, call_id, problem_seq, problem)
                    problem_seq += 1
                if reading.unread and not reading.is_running:
                    counted = [(reader_id, path, count, recording.id) for path, count in reading.unread]
                    self._connection.executemany(_COUNT_UNREAD, counted)
        if recording.end is not None:
            if recording.has_gap:
                self._put_gap(recording.id)
            self._done.append((recording.id, reader_id, None))

    def _make_room(self, exchange_id: int, number: int) -> int | None:
        """The id of the call with that number, which is taken away; None if it is to stay."""
        row = self._connection.execute(_AT, (exchange_id, number)).fetchone()
        if row is None:
            return self._new_id()
        call_id, is_running = row
        if not is_running:
            return None
        self._connection.execute("DELETE FROM read_calls WHERE id = ?", (call_id,))
        self._connection.execute(
            "DELETE FROM read_problems WHERE exchange_id = ? AND call_id = ?", (exchange_id, call_id)
        )
        return int(call_id)

    def _put_gap(self, exchange_id: int) -> None:
        """At the end: bytes are missing."""
        first = self._connection.execute(_AT, (exchange_id, 0)).fetchone()
        (problem_seq,) = self._connection.execute(_NEXT_PROBLEM, (exchange_id,)).fetchone()
        if first is not None:
            self._put_problem(exchange_id, first[0], problem_seq, _GAP)

    def _of(self, read: Read, reader_id: int, session_before: int | None) -> "_Of":
        session_id, tag = self._sessions.of(read.recording, session_before)
        scope = self._sessions.scope(read.recording)
        places = Places(self._connection, read.request_parts), Places(self._connection, read.response_parts)
        return _Of(read.recording, reader_id, *places, session_id, tag, scope)

    def write(self) -> None:
        """At the transaction's end."""
        self._connection.executemany("INSERT OR REPLACE INTO read_exchanges VALUES(?, ?, ?)", self._done)
        self._connection.executemany(
            "DELETE FROM unread_exchanges WHERE exchange_id = ?", [row[:1] for row in self._done]
        )
        self._done = []
        self._totals.write(self._connection)
        enqueue(self._connection, self._prompts_wanted)
        self._prompts_wanted = []
        self._sessions.write()

    def _may_be_read_before(self, exchange_id: int) -> bool:
        if exchange_id > self._newest:
            self._newest = exchange_id
            return False
        return True

    def _is_unread(self, exchange_id: int) -> bool:
        """Whether it ended, and its unread fields are not counted yet."""
        query = "SELECT 1 FROM unread_exchanges WHERE exchange_id = ?"
        return self._connection.execute(query, (exchange_id,)).fetchone() is not None

    def reader_id(self, name: str, version: int) -> int:
        """The id of a reader."""
        found = self._readers.get((name, version))
        if found is None:
            self._connection.execute("INSERT OR IGNORE INTO readers(name, version) VALUES(?, ?)", (name, version))
            (found,) = self._connection.execute(
                "SELECT id FROM readers WHERE name = ? AND version = ?", (name, version)
            ).fetchone()
            self._readers[name, version] = found
        return int(found)

    def _take_away(self, exchange_id: int) -> tuple[dict[int, int], int | None]:
        """Delete what was read of an exchange; gives the ids of its calls and of its session, which stay theirs."""
        rows = self._connection.execute(_OLD, (exchange_id,)).fetchall()
        old = {seq: call_id for seq, call_id, _ in rows}
        if old:
            for row in self._connection.execute(_TOTALS_OF, (exchange_id,)).fetchall():
                self._totals.add(row, -1)
            self._connection.execute("DELETE FROM read_calls WHERE exchange_id = ?", (exchange_id,))
            gone = [(call_id,) for call_id in old.values()]
            self._connection.executemany("DELETE FROM model_configs WHERE call_id = ?", gone)
            forget(self._connection, old.values())
        self._connection.execute("DELETE FROM read_problems WHERE exchange_id = ?", (exchange_id,))
        return old, rows[0][2] if rows else None

    def _new_id(self) -> int:
        call_id = self._next_call
        self._next_call += 1
        return call_id

    def _put_call(self, call_id: int, seq: int, reading: Reading, of: "_Of") -> bool:
        """Gives whether the call goes on from one that is not recorded."""
        rows = [self._messages.row(message, call_id, of.places) for message in reading.messages]
        answers = []
        if not reading.is_running:  # what still grows would be a new message each time
            answers = [self._messages.row(message, call_id, of.answer_places) for message in reading.answers]
        tools_id = self._json([_tool(tool) for tool in reading.tools]) if reading.tools else None
        keys = [key for _, key in rows]
        turn = turn_of(call_id, of.recording.id, reading, keys, tools_id=tools_id, tag=of.tag)
        placed = None
        if reading.operation is Operation.CHAT and (turn.keys or turn.previous_response_id is not None):
            placed = self._threads.place(turn, of.scope)
        reported, measured = reading.reported, reading.measured
        parameters_id = self._parameters(reading)
        at_us = of.recording.started_at_us + measured.started_us
        values = (
            *(call_id, of.recording.id, seq, of.reader_id, reading.operation.value, reading.operation in MODEL_CALLS),
            *(reading.is_streamed, reading.is_observed, reading.is_running, at_us, of.recording.client),
            *(of.session_id, of.tag, reading.model_asked, reading.model_answered),
            placed.label if placed else None,
            placed.thread_id if placed else None,
            placed.parent_id if placed else None,
            placed.input_key if placed else None,
            chain_key(placed.input_key, answers[0][1]) if placed and answers else None,
            placed.system_key if placed else turn.system_key,
            placed.is_system_changed if placed else None,
            _ranges([message_id for message_id, _ in rows]) if rows else None,
            answers[0][0] if answers else None,
            encode_json([message_id for message_id, _ in answers[1:]]) if len(answers) > 1 else None,
            _text_so_far(reading) if reading.is_running else None,
            *(parameters_id, tools_id, self._value(reading.output_schema)),
            reading.stop_reason.value if reading.stop_reason else None,
            *(reading.stop_reason_raw, reading.stop_string),
            *(getattr(reported, name) for name in _REPORTED),
            encode_json(reported.stats) if reported.stats is not None else None,
            *(self._json(reported.model_info), self._json(reported.runtime)),
            *(_since(getattr(measured, name), measured.started_us) for name in _MEASURED),
            *(measured.token_events, measured.longest_gap_us, measured.load_us, measured.prompt_us),
            _since(measured.done_us, measured.started_us),
            *(reading.response_id, reading.previous_response_id),
            self._json(reading.details or None),
        )
        self._connection.execute(_INSERT, values)
        if reading.operation in MODEL_CALLS and not reading.is_running:
            self._totals.add(_total(reading), 1)
            if reading.operation is not Operation.EMBEDDING:
                self._prompts_wanted.append(call_id)
        if of.tag == ENGINE_LOG_TAG and reading.operation is Operation.LOG and reading.details.get("event") == "input":
            self._prompts_wanted.append(call_id)
        if reading.operation is Operation.CONFIG and parameters_id is not None:
            model = reading.model_answered or reading.model_asked or ""
            self._connection.execute(_CONFIG, (model, at_us, call_id, parameters_id))
        return placed is not None and placed.is_previous_missing

    def _put_problem(self, exchange_id: int, call_id: int | None, seq: int, problem: CallError | Problem) -> None:
        where = (exchange_id, call_id, seq)
        if isinstance(problem, CallError):
            row = (*where, problem.kind or "error", problem.message, problem.code, problem.where)
            self._connection.execute(_PROBLEM, row)
        else:
            self._connection.execute(_PROBLEM, (*where, problem.kind, problem.detail, None, None))

    def _parameters(self, reading: Reading) -> int | None:
        if not reading.parameters:
            return None
        return self._json(
            [
                [one.name, one.value, one.origin.value, one.sent_as, one.note, int(one.is_ignored)]
                for one in reading.parameters
            ]
        )

    def _json(self, value: Any) -> int | None:
        return self._value(encode_json(value)) if value is not None else None

    def _value(self, data: str | None) -> int | None:
        """The id of JSON that many calls share."""
        if data is None:
            return None
        found = self._values.get(data)
        if found is not None:
            return found
        digest = read_digest_of(data.encode("utf-8", "replace"))
        row = self._connection.execute("SELECT id FROM read_values WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            row = (self._connection.execute("INSERT INTO read_values VALUES(NULL, ?, ?)", (digest, data)).lastrowid,)
        if len(self._values) > 4096:
            self._values.clear()
        if len(data) < 65536:
            self._values[data] = row[0]
        return int(row[0])


def _total(reading: Reading) -> TotalsRow:
    """What a call adds to its model's totals."""
    reported, measured = reading.reported, reading.measured
    ttft_us = None
    if measured.first_token_us is not None and measured.request_complete_us is not None:
        ttft_us = measured.first_token_us - measured.request_complete_us
    speed = None
    tokens, first, last = reported.output_tokens, measured.first_token_us, measured.last_token_us
    if tokens is not None and tokens > 1 and first is not None and last is not None and last > first:
        speed = (tokens - 1) * 1_000_000.0 / (last - first)
    return (
        *(reading.model_answered or reading.model_asked or "", reading.operation.value, 1, int(bool(reading.errors))),
        *(reported.input_tokens or 0, reported.output_tokens or 0),
        *(int(reported.tokens_per_second is not None), reported.tokens_per_second or 0.0),
        *(int(ttft_us is not None), ttft_us or 0, int(speed is not None), speed or 0.0),
    )


def _since(at_us: int | None, started_us: int) -> int | None:
    return at_us - started_us if at_us is not None else None


def _text_so_far(reading: Reading) -> str | None:
    """All that was generated by now, reasoning included."""
    return "".join(part.text for part in reading.answers[0].parts) if reading.answers else None


def _tool(tool: Any) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(tool).items() if value is not None}


def _ranges(ids: Sequence[int]) -> str:
    """Ids as JSON, neighbours as one range: `[[1,1],[5,9]]`."""
    ranges: list[list[int]] = []
    for one in ids:
        if ranges and one == ranges[-1][1] + 1:
            ranges[-1][1] = one
        else:
            ranges.append([one, one])
    return "[" + ",".join([f"[{first},{last}]" for first, last in ranges]) + "]"
