"""The five layers of a call, read from the trace, with what changed between them in words.

The client's request, what was forwarded, the prompt that the engine saw, the engine's raw output, the client's answer.
"""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

import msgspec

from proxy.exchange import Side
from proxy.meaning import Message, Part, PartKind, PromptSource, SpanKind, Tool
from proxy.prompt.answer_differences import Ending
from proxy.prompt.differences import (
    MessageFate,
    PromptSpan,
    answer_differences,
    forwarded_differences,
    head_differences,
    prompt_differences,
    request_differences,
    source_differences,
)
from proxy.prompt.origins import SYSTEM_ROLES
from proxy.store.call_inputs import CallInput, CallInputs
from proxy.store.prompts import DOUBTED
from proxy.store.trace import ExchangeRow, Trace

Row = dict[str, Any]
"""A row of a view, by column."""
PROMPT_OPERATIONS = ("chat", "completion", "prediction")
"""Calls whose prompt is looked for."""
_RANK = "instr('observed asked computed', source)"
_MESSAGES = "SELECT is_answer, role, text, parts FROM call_messages WHERE call_id = ? ORDER BY position"
_SPANS = """
SELECT start, start + length, kind, position, message_id, part, part_start, tokens FROM prompt_spans
WHERE call_id = ? AND prompt_id = ? ORDER BY seq"""
_FATES = """
SELECT f.position, m.role, m.text, m.parts, f.fate, f.ranges, f.tokens, f.dropped_by FROM message_fates f
JOIN messages m ON m.id = f.message_id WHERE f.call_id = ? ORDER BY f.position IS NOT NULL, f.position"""
_PARAMETERS = """
SELECT name, value, origin, sent_as, is_ignored FROM call_parameters
WHERE call_id = ? AND origin = 'request' ORDER BY name"""
_PROBLEMS = """
SELECT severity, kind, detail, code, place FROM problems
WHERE exchange_id = ? AND kind <> 'unread_field' AND (call_id IS NULL OR call_id = ?)"""
_REASONING_FIELDS = (b"reasoning_content", b"reasoning", b"thinking")
_MAX_LOOKED_AT = 4 << 20
_decode_parts = msgspec.json.Decoder(list[Part]).decode


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt; a row of `rendered_prompts`."""

    id: int
    source: PromptSource
    text: str
    confidence: float
    note: str | None
    template_id: int | None
    event_id: int | None


@dataclass(frozen=True, slots=True)
class Differences:
    """What changed on the way into each layer, in sentences."""

    request: list[str]
    """Against the turn before."""
    forwarded: list[str]
    prompt: list[str]
    answer: list[str]
    """Against the engine's output; and what the proxy changed of the response's head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLayers:
    """All that the trace knows of a call, by layer."""

    call: Row
    """Of the view `calls`."""
    exchange: ExchangeRow
    messages: list[Message]
    tools: tuple[Tool, ...]
    parameters: list[Row]
    """Those of the request; of `call_parameters`."""
    prompts: list[Prompt]
    """The most trusted first."""
    spans: list[PromptSpan]
    """Of the first of these."""
    fates: list[MessageFate]
    template: Row | None
    """Where the prompt's template is from; of `prompt_templates`."""
    why_no_prompt: str | None
    output: Row | None
    """The engine's, a row of `engine_events`."""
    why_no_output: str | None
    pairing: Row | None
    """Of `prompt_pairings`."""
    answers: list[Message]
    window: Row | None
    """Of `context_windows`."""
    problems: list[Row]
    """Of `problems`."""
    differences: Differences

    @property
    def is_observed(self) -> bool:
        """Nobody proxied it: only the engine's log knows it."""
        return bool(self.call["is_observed"])

    @property
    def prompt(self) -> Prompt | None:
        """The most trusted one."""
        return self.prompts[0] if self.prompts else None


def calls_of_exchange(connection: sqlite3.Connection, exchange_id: int) -> list[int]:
    """The ids of an exchange's calls, in order."""
    return [
        one for (one,) in connection.execute("SELECT id FROM calls WHERE exchange_id = ? ORDER BY seq", (exchange_id,))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What is read before it is compared."""

    call: Row
    exchange: ExchangeRow
    asked: CallInput
    parameters: list[Row]
    prompts: list[Prompt]
    spans: list[PromptSpan]
    fates: list[MessageFate]
    output: Row | None
    answers: list[Message]


def read_layers(trace: Trace, call_id: int) -> CallLayers | None:
    """The layers of a call; None if there is no call of that id."""
    connection = trace.connection
    call = _row(connection, "SELECT * FROM calls WHERE id = ?", call_id)
    exchange = trace.exchange(call["exchange_id"]) if call is not None else None
    asked = CallInputs(connection).get(call_id)
    if call is None or exchange is None or asked is None:
        return None
    messages = _rows(connection, _MESSAGES, call_id)
    prompts = _prompts(connection, call_id)
    pairing = _row(connection, "SELECT * FROM prompt_pairings WHERE call_id = ?", call_id)
    event = pairing["output_event_id"] if pairing is not None else None
    problems = _rows(connection, _PROBLEMS, exchange.id, call_id)
    found = _Found(
        call=call,
        exchange=exchange,
        asked=asked,
        parameters=_rows(connection, _PARAMETERS, call_id),
        prompts=prompts,
        spans=_spans(connection, call_id, prompts[0]) if prompts and not call["is_observed"] else [],
        fates=[_fate(row) for row in connection.execute(_FATES, (call_id,))],
        output=_row(connection, "SELECT * FROM engine_events WHERE id = ?", event),
        answers=[_message(one) for one in messages if one["is_answer"]],
    )
    return CallLayers(
        call=call,
        exchange=exchange,
        messages=[_message(one) for one in messages if not one["is_answer"]],
        tools=asked.tools,
        parameters=found.parameters,
        prompts=prompts,
        spans=found.spans,
        fates=found.fates,
        template=_template(connection, prompts[0].template_id) if prompts else None,
        why_no_prompt=None if prompts else _why_no_prompt(connection, call, pairing, problems),
        output=found.output,
        why_no_output=None if found.output is not None else _why_no_output(connection, call, pairing),
        pairing=pairing,
        answers=found.answers,
        window=_row(connection, "SELECT * FROM context_windows WHERE call_id = ?", call_id),
        problems=problems,
        differences=Differences([], [], [], []) if call["is_observed"] else _differences(trace, found),
    )


def _differences(trace: Trace, found: _Found) -> Differences:
    call, exchange, prompts = found.call, found.exchange, found.prompts
    prompt = prompt_differences(
        prompts[0].text if prompts else None,
        found.spans,
        found.fates,
        tools=len(found.asked.tools),
        is_raw=call["operation"] == "completion",
        has_system=any(one.message.role in SYSTEM_ROLES for one in found.asked.messages),
        doubt=prompts[0].note if prompts and prompts[0].confidence <= DOUBTED else None,
    )
    for other in prompts[1:]:
        prompt.append(source_differences((prompts[0].source, prompts[0].text), (other.source, other.text)))
    return Differences(
        request=request_differences(
            found.fates,
            parent_id=call["parent_id"],
            is_system_changed=bool(call["is_system_changed"]),
            is_chained=found.asked.is_chained,
        ),
        forwarded=_forwarded(exchange, trace.masked(exchange.id, Side.CLIENT)),
        prompt=prompt,
        answer=[*_answered(trace, found), *_sent_head(exchange)],
    )


# --- request, head ----------------------------------------------------------------------------------------------------


def _forwarded(row: ExchangeRow, masked: int) -> list[str]:
    before = _fields(row.request_headers)
    after = _fields(row.forwarded_headers) if row.forwarded_headers is not None else before
    return forwarded_differences(
        head_differences(before, after),
        path=(row.path or "", row.forwarded_path or row.path or ""),
        body_bytes=row.request_bytes,
        is_forwarded=bool(row.upstream) and row.outcome != "upstream_unreachable",
        is_received=row.response_headers is not None and row.request_complete_ms is not None,
        is_socket=row.kind == "websocket",
        masked=masked,
        gaps=row.gaps,
    )


def _sent_head(row: ExchangeRow) -> list[str]:
    if row.response_headers is None or row.sent_headers is None:
        return []
    return head_differences(_fields(row.response_headers), _fields(row.sent_headers))


def _fields(fields: str | None) -> list[tuple[str, str]]:
    return [(name, value) for name, value in json.loads(fields or "[]")]


# --- prompt -----------------------------------------------------------------------------------------------------------


def _prompts(connection: sqlite3.Connection, call_id: int) -> list[Prompt]:
    rows = connection.execute(
        "SELECT id, source, text, confidence, note, template_id, event_id FROM rendered_prompts"
        f" WHERE call_id = ? AND text IS NOT NULL ORDER BY {_RANK}",
        (call_id,),
    )
    return [Prompt(row[0], PromptSource(row[1]), *row[2:]) for row in rows]


def _spans(connection: sqlite3.Connection, call_id: int, prompt: Prompt) -> list[PromptSpan]:
    rows = connection.execute(_SPANS, (call_id, prompt.id))
    return [PromptSpan(start, end, SpanKind(kind), *rest) for start, end, kind, *rest in rows]


def _fate(row: tuple[Any, ...]) -> MessageFate:
    position, role, text, parts, fate, ranges, tokens, dropped_by = row
    kept = tuple((part, start, end) for part, start, end in json.loads(ranges)) if ranges is not None else None
    return MessageFate(position, _message_of(role, text, parts), fate, kept, tokens, dropped_by)


def _template(connection: sqlite3.Connection, template_id: int | None) -> Row | None:
    query = "SELECT id, model, source, detail FROM prompt_templates WHERE id = ? ORDER BY last_at_us DESC LIMIT 1"
    return _row(connection, query, template_id)


def _why_no_prompt(connection: sqlite3.Connection, call: Row, pairing: Row | None, problems: list[Row]) -> str:
    """What is known of why there is none."""
    if call["operation"] not in PROMPT_OPERATIONS:
        return f"prompts are found for chats and completions; this is {_a(call['operation'])}"
    if call["is_running"]:
        return "the call goes on; its prompt is looked for when it has ended"
    if connection.execute("SELECT 1 FROM prompt_queue WHERE call_id = ?", (call["id"],)).fetchone():
        return "it is still looked for (by proxy-log serve, while that runs)"
    told = [one["detail"] for one in problems if one["kind"].startswith(("prompt_", "template_", "context_"))]
    if told:
        return "; ".join(told)
    return (pairing["why"] if pairing is not None else None) or "nothing was found, and no reason is noted"


def _a(operation: str) -> str:
    return f"{'an' if operation[:1] in 'aeiou' else 'a'} {operation}"


# --- output, answer ---------------------------------------------------------------------------------------------------


def _why_no_output(connection: sqlite3.Connection, call: Row, pairing: Row | None) -> str:
    if call["is_running"]:
        return "the call goes on"
    if pairing is not None:
        return pairing["why"] or "the engine's log has no output for it"
    if call["operation"] not in PROMPT_OPERATIONS:
        return f"the engine's log has none of {_a(call['operation'])}"
    if connection.execute("SELECT 1 FROM prompt_queue WHERE call_id = ?", (call["id"],)).fetchone():
        return "it is still looked for (by proxy-log serve, while that runs)"
    return "it was not looked for"


def _answered(trace: Trace, found: _Found) -> list[str]:
    call, exchange, answers = found.call, found.exchange, found.answers
    outcome = exchange.outcome
    if exchange.kind == "websocket":  # it carries many calls, and goes on behind this one
        outcome = None if call["is_running"] else "completed"
    ending = Ending(
        outcome=outcome,
        stop_reason=call["stop_reason"],
        stop_string=call["stop_string"],
        stops=_stops(found.parameters),
    )
    if len(answers) > 1:
        return [f"{len(answers)} answers were asked for: they are not compared with the engine's output"]
    raw = found.output["text"] if found.output is not None else None
    has_reasoning = any(part.kind is PartKind.REASONING for one in answers for part in one.parts)
    return answer_differences(
        raw,
        answers[0] if answers else None,
        ending,
        prompt=found.prompts[0].text if found.prompts else None,
        reasoning_field=_reasoning_field(trace, exchange) if has_reasoning and raw is not None else None,
    )


def _stops(parameters: list[Row]) -> list[str]:
    value = next((one["value"] for one in parameters if one["name"] == "stop"), None)
    if not isinstance(value, str):
        return []
    try:
        told = json.loads(value)
    except ValueError:
        return [value]
    return [one for one in told if isinstance(one, str)] if isinstance(told, list) else [value]


def _reasoning_field(trace: Trace, exchange: ExchangeRow) -> str | None:
    """The name that the response has for reasoning; None where it is compressed, or has another."""
    body = bytearray()
    for part in trace.body(exchange.id, Side.UPSTREAM):
        body += part
        if len(body) > _MAX_LOOKED_AT:
            break
    # Within a JSON string these quotation marks would stand behind a backslash.
    return next((name.decode() for name in _REASONING_FIELDS if b'"%s"' % name in body), None)


# --- rows -------------------------------------------------------------------------------------------------------------


def _message(row: Row) -> Message:
    return _message_of(row["role"], row["text"], row["parts"])


def _message_of(role: str, text: str | None, parts: str | None) -> Message:
    return Message(role, (Part(PartKind.TEXT, text or ""),) if parts is None else tuple(_decode_parts(parts)))


def _rows(connection: sqlite3.Connection, query: str, *values: Any) -> list[Row]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _row(connection: sqlite3.Connection, query: str, value: Any) -> Row | None:
    return next(iter(_rows(connection, query, value)), None)
