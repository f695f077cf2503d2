"""The first step of finding prompts: which event of the engine's log holds the prompt of which call.

`proxy.prompt.matching` decides, by content; here is what it is asked, and what becomes of its answer. A decision is
made when a call has ended and its events have had time to arrive. A prediction that belongs to no call becomes a call
that is only observed; should its call be read later (an SDK's socket may be read when it ends), it is taken back.
"""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from proxy.meaning import PartKind, PromptSource
from proxy.prompt.likeness import tool_evidence
from proxy.prompt.matching import CallFacts, GeneratedLine, InputEvent, OutputEvent, Pairing, Unproxied, match
from proxy.store.call_inputs import PROMPT_TOKENS
from proxy.store.courtesy import politely
from proxy.store.engine_log import engine_log_statuses
from proxy.store.observed import observe, unobserve
from proxy.store.prompts import ALIGN, ENGINE_LOG_TAG, PAIR, RENDER, PromptRows

AT_ONCE = 256
SETTLE_US = 2_500_000
"""How long after a call's end its events may still arrive."""
NO_OUTPUT_US = 600_000_000
"""How long the output of a prediction that nobody proxied is waited for."""
CLAIMED_US = 10_000_000
"""After so long an event that may be some call's, though nobody knows whose, is not waited for any more."""
LATE_US = 30_000_000
"""How long the log of an upstream that is listened to may stay unread."""
NOT_LISTENED = "nobody listened to the engine's log at that time"
_BY_TIMES = "nobody proxied it: its output is the one that ends at its time"
_NO_END = "nobody proxied it, and no output, or more than one, may end it"
_SLACK_US = 5_000_000
_EVENTS_EVERY_S = 1.0
"""How often outputs are looked for that belong to no call, where no call waits."""
_LOG_SUFFIX = "-log"
"""Of the upstream's name where the log came from LM Studio's internal port."""
_SELECT = f"""
SELECT c.id, c.operation, c.model_asked, c.model_answered, c.started_at_us, c.done_us, c.is_running, c.input,
    coalesce(c.running_text, (SELECT m.text FROM messages m WHERE m.id = c.answer_id)),
    (SELECT m.parts FROM messages m WHERE m.id = c.answer_id), {PROMPT_TOKENS}, c.output_tokens, c.response_id,
    c.stop_reason, e.upstream, e.upstream_url, e.outcome, (SELECT t.data FROM read_values t WHERE t.id = c.tools_id)
FROM read_calls c JOIN recorded_exchanges e ON e.id = c.exchange_id JOIN readers r ON r.id = c.reader_id
WHERE c.operation IN ('chat', 'completion') AND NOT c.is_observed AND """
_BY_ID = _SELECT + "c.id IN (SELECT value FROM json_each(?))"
_BESIDE = (
    _SELECT
    + "c.started_at_us BETWEEN ? AND ?"
    + " AND c.id NOT IN (SELECT call_id FROM read_pairings WHERE input_event_id IS NOT NULL)"
)
_LONG_ONES = _SELECT + "c.is_running AND c.started_at_us < ?"
_WAITING = tuple(
    "SELECT q.call_id FROM prompt_queue q LEFT JOIN read_calls c ON c.id = q.call_id"
    f" WHERE q.step = {PAIR} AND coalesce(c.operation, '') {comparison} 'log' ORDER BY q.call_id LIMIT ?"
    for comparison in ("<>", "=")
)
_OLDEST_END = """
SELECT min(started_at_us + coalesce(done_us, 0)) FROM read_calls
WHERE operation <> 'log' AND NOT is_running AND id IN (SELECT value FROM json_each(?))"""
_MESSAGES = """
SELECT m.text, m.parts FROM json_each(?) i
JOIN messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') ORDER BY i.key, m.id"""
_LOGS = """
SELECT e.upstream, e.upstream_url, e.started_at_us, e.started_at_us + e.done_us FROM recorded_exchanges e
WHERE e.id IN (SELECT DISTINCT exchange_id FROM read_calls WHERE tag = ?)"""
_EVENTS = """
SELECT v.id, v.event, v.started_at_us, v.timestamp_ms, v.model, v.model_path, v.text, v.stats, v.response_id,
    e.upstream, e.upstream_url
FROM engine_events v JOIN recorded_exchanges e ON e.id = v.exchange_id
WHERE v.started_at_us BETWEEN ? AND ?
AND (v.call_id IS NULL OR v.call_id IN (SELECT id FROM read_calls WHERE is_observed))"""
_PUT = "INSERT OR REPLACE INTO read_pairings VALUES(?, ?, ?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class _Call:
    """A call with what decides when it is paired."""

    facts: CallFacts
    upstream: str
    """One word for its server."""
    name: str
    """Its upstream's, as configured."""
    is_running: bool


@dataclass(slots=True)
class _Events:
    """The log of one upstream, for some time."""

    inputs: list[InputEvent]
    outputs: list[OutputEvent]
    lines: list[GeneratedLine]


class PromptPairing:
    """The first step of finding prompts. Transactions are the caller's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` writes."""
        self._connection = connection
        self._rows = PromptRows(connection)
        self._events_again_s = 0.0
        self._servers: dict[str, str] = {}
        """By the names of upstreams."""
        self.has_waiting = False
        """Something is to be looked at again soon, though nothing new was stored."""

    def plan(self) -> "Plan | None":
        """Decide about some calls and events, without writing; None: there are none whose time has come."""
        now_us = time.time_ns() // 1000
        # Calls and events apart: an event may wait for its output for minutes, and no call is to wait for that.
        waiting = [one for query in _WAITING for (one,) in self._connection.execute(query, (AT_ONCE,))]
        self.has_waiting = bool(waiting)
        if not waiting:
            return None
        listened = list(self._listened())
        listening = {
            one.upstream: one.since_us for one in engine_log_statuses(self._connection) if one.state == "listening"
        }
        if not listened and not listening:
            return Plan([], [], dict.fromkeys(waiting, NOT_LISTENED), [], {})
        if not self._is_time(waiting, now_us):
            return None
        calls = {call.facts.id: call for call in self._calls(_BY_ID, json.dumps(waiting))}
        events = {one: at for one, at in self._waiting_events(waiting) if one not in calls}
        gone = [one for one in waiting if one not in calls and one not in events]
        if not calls and not events:
            return Plan([], [], {}, gone, {}) if gone else None
        self._events_again_s = time.monotonic() + _EVENTS_EVERY_S
        times = [*events.values(), *(call.facts.started_us for call in calls.values())]
        # An output may come long after its prompt.
        ends = [min(at + NO_OUTPUT_US, now_us) for at in events.values()]
        ends += [call.facts.ended_us for call in calls.values()]
        since, until = min(times) - _SLACK_US, max(ends) + _SLACK_US
        ripe = {
            one
            for one, call in calls.items()
            if call.facts.ended_us + SETTLE_US < now_us or not _is_heard(call, listened)
            # Its log may have been heard, and just not have been read yet.
            if _is_heard(call, listened) or not _is_listened(call, listening) or call.facts.ended_us + LATE_US < now_us
        }
        deaf = {one for one in ripe if not _is_heard(calls[one], listened)}
        beside = {call.facts.id: call for call in self._calls(_BESIDE, since, until)}
        beside |= {call.facts.id: call for call in self._calls(_LONG_ONES, since)} | calls
        pairings: list[Pairing] = []
        unproxied: list[Unproxied] = []
        for upstream, log in self._events(since, until).items():
            rivals = [call.facts for one, call in beside.items() if call.upstream == upstream and one not in deaf]
            found = match(rivals, log.inputs, log.outputs, log.lines)
            pairings += [pairing for pairing in found.pairings if pairing.call_id in ripe]
            unproxied += [
                one
                for one in found.unproxied
                if one.input_id in events
                and events[one.input_id] + (SETTLE_US if one.output_id is not None else NO_OUTPUT_US) < now_us
            ]
            nobodys = {one.input_id for one in found.unproxied}
            gone += [
                event.id
                for event in log.inputs
                if event.id in events and event.id not in nobodys and event.at_us + CLAIMED_US < now_us
            ]
        paired = {pairing.call_id for pairing in pairings}
        no_log = {one: NOT_LISTENED if one in deaf else "no event came in its time" for one in ripe - paired}
        ended = {one: call.facts.ended_us for one, call in calls.items()}
        return Plan(pairings, unproxied, no_log, gone, ended)

    def _is_time(self, waiting: Sequence[int], now_us: int) -> bool:
        """Whether something of what waits can be decided; asked often, so nothing big is read for it."""
        if time.monotonic() > self._events_again_s:
            return True
        (oldest,) = self._connection.execute(_OLDEST_END, (json.dumps(waiting),)).fetchone()
        return oldest is not None and oldest + SETTLE_US < now_us

    def write(self, plan: "Plan") -> int:
        """Store what was decided; gives how many calls and events that were."""
        for pairing in plan.pairings:
            self._put(pairing, plan.ended[pairing.call_id])
        for call_id, why in plan.no_log.items():
            self._connection.execute(_PUT, (call_id, None, None, None, None, None, None, why))
            self._rows.pass_on(call_id, RENDER)
        for one in plan.unproxied:
            assert one.input_id is not None
            observe(
                self._connection,
                one.input_id,
                one.output_id,
                confidence=one.confidence if one.output_id is not None else None,
                rivals=_ids(one.rivals),
                why=_BY_TIMES if one.output_id is not None else _NO_END,
            )
            self._rows.put_observed(one.input_id, one.input_id, confidence=1.0, note=None, at_us=_now_us())
            self._rows.pass_on(one.input_id, ALIGN)
        for gone in plan.gone:
            self._rows.pass_on(gone, None)
        return len(plan.pairings) + len(plan.no_log) + len(plan.unproxied) + len(plan.gone)

    def _put(self, pairing: Pairing, at_us: int) -> None:
        for event in (pairing.input_id, pairing.output_id):
            if event is not None:
                unobserve(self._connection, event)
                self._rows.pass_on(event, None)
        row = (
            *(pairing.call_id, pairing.input_id, pairing.input_confidence, _ids(pairing.input_rivals)),
            *(pairing.output_id, pairing.output_confidence, _ids(pairing.output_rivals), pairing.why),
        )
        self._connection.execute(_PUT, row)
        if pairing.why is not None:
            self._rows.problem(
                pairing.call_id, "prompt_ambiguous" if pairing.input_id is not None else "prompt_unpaired", pairing.why
            )
        if pairing.input_id is None:
            self._rows.take_away(pairing.call_id, PromptSource.OBSERVED)
            for rival in pairing.input_rivals:  # somebody proxied it, though nobody knows who
                self._rows.pass_on(rival, None)
            self._rows.pass_on(pairing.call_id, RENDER)
            return
        confidence, why = pairing.input_confidence, pairing.why
        self._rows.put_observed(pairing.call_id, pairing.input_id, confidence=confidence, note=why, at_us=at_us)
        self._rows.pass_on(pairing.call_id, RENDER)

    def _calls(self, query: str, *parameters: object) -> Iterator[_Call]:
        for row in politely(self._connection.execute(query, parameters).fetchall()):
            (call_id, operation, asked, answered, started, done, is_running, messages) = row[:8]
            (text, parts, tokens_in, tokens_out, response_id, stop_reason, upstream, url, outcome, tools) = row[8:]
            answer, tool_calls = _answer(text, parts)
            facts = CallFacts(
                id=call_id,
                models=tuple(name for name in (asked, answered) if name),
                started_us=started,
                ended_us=_now_us() if is_running or done is None else started + done,
                texts=tuple(self._texts(messages)),
                is_raw=operation == "completion",
                answer=answer,
                tool_calls=tool_calls,
                tools=tuple(tool_evidence(one["name"], one.get("description")) for one in json.loads(tools or "[]")),
                input_tokens=tokens_in,
                output_tokens=tokens_out,
                is_cut_short=bool(is_running) or (outcome != "completed" and stop_reason is None),
                response_id=response_id,
            )
            yield _Call(facts, self._server(upstream, url), upstream or "", bool(is_running))

    def _server(self, upstream: str | None, url: str | None) -> str:
        """One word for one server, whatever it is called: its address, and of its internal port that of the other."""
        name = (upstream or "").removesuffix(_LOG_SUFFIX)
        if upstream == name:
            self._servers[name] = (url or "").replace("//localhost:", "//127.0.0.1:")
        return self._servers.get(name, name)

    def _texts(self, messages: str | None) -> Iterator[str]:
        for text, parts in self._connection.execute(_MESSAGES, (messages or "[]",)):
            if parts is None:
                if text:
                    yield text
                continue
            yield from (part["text"] for part in json.loads(parts) if part["kind"] in _IN_PROMPT and part.get("text"))

    def _waiting_events(self, ids: Sequence[int]) -> Iterator[tuple[int, int]]:
        yield from self._connection.execute(
            "SELECT id, started_at_us FROM read_calls WHERE id IN (SELECT value FROM json_each(?))"
            " AND operation = 'log' AND id NOT IN"
            " (SELECT input_event_id FROM read_pairings WHERE input_event_id IS NOT NULL)",
            (json.dumps(ids),),
        )

    def _listened(self) -> Iterator[tuple[str, int, int | None]]:
        for upstream, url, since, until in self._connection.execute(_LOGS, (ENGINE_LOG_TAG,)).fetchall():
            yield self._server(upstream, url), since, until

    def _events(self, since: int, until: int) -> dict[str, _Events]:
        found: dict[str, _Events] = {}
        for row in self._connection.execute(_EVENTS, (since, until)).fetchall():
            one, event, at_us, timestamp_ms, model, path, text, stats, response_id, upstream, url = row
            log = found.setdefault(self._server(upstream, url), _Events([], [], []))
            if event == "input":
                log.inputs.append(
                    InputEvent(
                        id=one, at_us=at_us, timestamp_ms=timestamp_ms, model=model, model_path=path, text=text or ""
                    )
                )
            elif event == "output":
                told = json.loads(stats) if stats else {}
                log.outputs.append(
                    OutputEvent(
                        id=one,
                        at_us=at_us,
                        timestamp_ms=timestamp_ms,
                        model=model,
                        text=text or "",
                        prompt_tokens=told.get("promptTokensCount"),
                        predicted_tokens=told.get("predictedTokensCount"),
                        ttft_s=told.get("timeToFirstTokenSec"),
                        total_s=told.get("totalTimeSec"),
                        stop_reason=told.get("stopReason"),
                    )
                )
            elif response_id is not None:
                log.lines.append(GeneratedLine(at_us=at_us, response_id=response_id, text=text))
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided."""

    pairings: list[Pairing]
    unproxied: list[Unproxied]
    no_log: dict[int, str]
    """Calls without any event, each with the reason."""
    gone: list[int]
    """What waits no more: events that are some call's already."""
    ended: dict[int, int]
    """When each call ended, UTC microseconds."""


_IN_PROMPT = (PartKind.TEXT, PartKind.REASONING, PartKind.TOOL_CALL, PartKind.TOOL_RESULT, PartKind.REFUSAL)


def _answer(text: str | None, parts: str | None) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Reasoning and text of an answer in order, and its tool calls."""
    if parts is None:
        return text or "", ()
    each = json.loads(parts)
    said = "".join(part.get("text", "") for part in each if part["kind"] in (PartKind.REASONING, PartKind.TEXT))
    calls = tuple((part.get("name") or "", part.get("text", "")) for part in each if part["kind"] == PartKind.TOOL_CALL)
    return said, calls


def _is_heard(call: _Call, listened: Sequence[tuple[str, int, int | None]]) -> bool:
    """Whether somebody listened to its upstream's log when it began or later."""
    return any(
        upstream == call.upstream and since <= call.facts.ended_us and (until is None or until >= call.facts.started_us)
        for upstream, since, until in listened
    )


def _is_listened(call: _Call, listening: Mapping[str, int]) -> bool:
    """Whether somebody says to listen to its upstream's log now, and to have begun before its end."""
    since = listening.get(call.name)
    return since is not None and since <= call.facts.ended_us


def _ids(rivals: Sequence[int]) -> str | None:
    return json.dumps(list(rivals)) if rivals else None


def _now_us() -> int:
    return time.time_ns() // 1000
