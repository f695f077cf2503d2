"""What a call was asked, read back from the trace: its messages as words of sense, and where it went."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from proxy.meaning import CallError, Message, Part, PartKind, Tool

_MAX_CHAIN = 1000
PROMPT_TOKENS = """
(c.input_tokens + CASE r.name WHEN 'anthropic_messages' THEN coalesce(c.cached_tokens, 0) + coalesce((
    SELECT json_extract(d.data, '$.cache_creation_input_tokens') FROM read_values d WHERE d.id = c.details_id), 0)
    ELSE 0 END)"""
"""Of the whole prompt, as reported: Anthropic's `input_tokens` leave out what is in the cache. Wants `readers` as r."""
_SELECT = f"""
SELECT c.id, c.exchange_id, c.operation, c.model_asked, c.model_answered, c.started_at_us, coalesce(c.done_us, 0),
    c.is_observed, c.input, c.answer_id, c.parent_id, c.previous_response_id, c.session_id, {PROMPT_TOKENS}, t.data,
    p.data, i.data, e.upstream, e.upstream_url, r.name
FROM read_calls c JOIN recorded_exchanges e ON e.id = c.exchange_id JOIN readers r ON r.id = c.reader_id
LEFT JOIN read_values t ON t.id = c.tools_id LEFT JOIN read_values p ON p.id = c.parameters_id
LEFT JOIN read_values i ON i.id = c.model_info_id
WHERE c.id = ?"""
_MESSAGES = """
SELECT m.id, m.role, m.name, m.text, m.parts FROM json_each(?) i
JOIN messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]') ORDER BY i.key, m.id"""
_MESSAGE = "SELECT id, role, name, text, parts FROM messages WHERE id = ?"
_ERRORS = "SELECT detail, kind, code, place FROM read_problems WHERE call_id = ? AND place IS NOT NULL ORDER BY seq"
_decode_parts = msgspec.json.Decoder(list[Part]).decode
_decode_tools = msgspec.json.Decoder(list[Tool]).decode


@dataclass(frozen=True, slots=True)
class InputMessage:
    """A message that a call's prompt is made of."""

    position: int | None
    """In the call's input; None: an earlier call's, which the server keeps."""
    id: int
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class CallInput:
    """A call, as far as its prompt is concerned."""

    id: int
    exchange_id: int
    operation: str
    dialect: str
    model_asked: str | None
    model_answered: str | None
    upstream: str | None
    upstream_url: str | None
    started_us: int
    """UTC."""
    ended_us: int
    is_observed: bool
    messages: tuple[InputMessage, ...]
    """Those of earlier calls, which the server keeps, among them."""
    tools: tuple[Tool, ...]
    parameters: dict[tuple[str, str], object]
    """By name and origin."""
    model_path: str | None
    """The model's file, where the answer told it."""
    errors: tuple[CallError, ...]
    parent_id: int | None
    is_chained: bool
    """The server keeps the chat."""
    session_id: int | None
    input_tokens: int | None
    """Of the whole prompt, as reported."""

    @property
    def models(self) -> tuple[str, ...]:
        """Its model's names, the answer's first."""
        return tuple(dict.fromkeys(name for name in (self.model_answered, self.model_asked) if name))


class CallInputs:
    """Reads calls back, through one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` may be read-only."""
        self._connection = connection

    def get(self, call_id: int) -> CallInput | None:
        """One call; None if there is none of that id."""
        row = self._connection.execute(_SELECT, (call_id,)).fetchone()
        if row is None:
            return None
        (_, exchange_id, operation, asked, answered, started, done, is_observed, messages, _, parent, previous) = row[
            :12
        ]
        (session_id, input_tokens, tools, parameters, model_info, upstream, url, dialect) = row[12:]
        earlier = list(self._earlier(parent)) if previous is not None and parent is not None else []
        own = [
            InputMessage(position, message_id, message)
            for position, (message_id, message) in enumerate(self._messages(messages))
        ]
        info = json.loads(model_info) if model_info else {}
        return CallInput(
            id=call_id,
            exchange_id=exchange_id,
            operation=operation,
            dialect=dialect,
            model_asked=asked,
            model_answered=answered,
            upstream=upstream,
            upstream_url=url,
            started_us=started,
            ended_us=started + done,
            is_observed=bool(is_observed),
            messages=tuple(_in_order(earlier, own)),
            tools=tuple(_decode_tools(tools)) if tools else (),
            parameters={(one[0], one[2]): one[1] for one in json.loads(parameters)} if parameters else {},
            model_path=info.get("path") if isinstance(info.get("path"), str) else None,
            errors=tuple(
                CallError(detail, kind, code, place)
                for detail, kind, code, place in self._connection.execute(_ERRORS, (call_id,))
            ),
            parent_id=parent,
            is_chained=previous is not None,
            session_id=session_id,
            input_tokens=input_tokens,
        )

    def message(self, message_id: int) -> Message | None:
        """One message."""
        row = self._connection.execute(_MESSAGE, (message_id,)).fetchone()
        return _message(*row[1:]) if row is not None else None

    def answer(self, call_id: int) -> tuple[int, Message] | None:
        """A call's answer, with its id."""
        row = self._connection.execute("SELECT answer_id FROM read_calls WHERE id = ?", (call_id,)).fetchone()
        message = self.message(row[0]) if row is not None and row[0] is not None else None
        return (row[0], message) if message is not None else None

    def _messages(self, ranges: str | None) -> Iterator[tuple[int, Message]]:
        for row in self._connection.execute(_MESSAGES, (ranges or "[]",)).fetchall():
            yield row[0], _message(*row[1:])

    def _earlier(self, call_id: int | None) -> Iterator[InputMessage]:
        """The chat that a server keeps, up to and with the answer of a call."""
        chain: list[tuple[str | None, int | None]] = []
        while call_id is not None and len(chain) < _MAX_CHAIN:
            row = self._connection.execute(
                "SELECT input, answer_id, CASE WHEN previous_response_id IS NOT NULL THEN parent_id END"
                " FROM read_calls WHERE id = ?",
                (call_id,),
            ).fetchone()
            if row is None:
                break
            chain.append(row[:2])
            call_id = row[2]
        for messages, answer_id in reversed(chain):
            for message_id, message in self._messages(messages):
                yield InputMessage(None, message_id, message)
            answer = self.message(answer_id) if answer_id is not None else None
            if answer_id is not None and answer is not None:
                yield InputMessage(None, answer_id, answer)


def _in_order(earlier: list[InputMessage], own: list[InputMessage]) -> Iterator[InputMessage]:
    """System messages of this call first: in a chain each call brings its own, and those before it are void."""
    if not earlier:
        yield from own
        return
    is_system = [one.message.role in ("system", "developer") for one in own]
    yield from (one for one, first in zip(own, is_system, strict=True) if first)
    yield from (one for one in earlier if one.message.role not in ("system", "developer") or not any(is_system))
    yield from (one for one, first in zip(own, is_system, strict=True) if not first)


def _message(role: str, name: str | None, text: str | None, parts: str | None) -> Message:
    if parts is None:
        return Message(role, (Part(PartKind.TEXT, text or ""),), name)
    return Message(role, tuple(_decode_parts(parts)), name)
