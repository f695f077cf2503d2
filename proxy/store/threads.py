"""Conversations come out of the messages themselves: each call is placed by the chain of its messages' keys.

A chain's key stands for all messages up to a point, so a call that goes on from another finds it by one look-up: some
prefix of its input is the other's input with its answer. System messages are left out of the chain, as clients rewrite
them each turn; their change is told.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from proxy.meaning import Json, Origin, PartKind, Reading
from proxy.store.message_rows import chain_key, is_system, text_key

NEW = "new"
CONTINUE = "continue"
REGENERATE = "regenerate"
BRANCH = "branch"
CONTINUE_ANSWER = "continue_answer"
RETRY = "retry"
TOOL_ROUND = "tool_round"

# Side calls: some clients ask for a title or tags with a chat's own messages. They do it in another manner: with other
# tools, streaming, form of the answer, limit of tokens or tag. But people change these by hand too, to compare answers:
# * The same input again is a call of its own (`new`) if both its system message and its manner are others.
# * What goes on from the same answer with other words makes no branch if its manner or its model is another, or if only
#   one of the two has a system message, or if it has another system message and this call still has its parent's.
# So a side call in the chat's own manner is taken for a turn, and a branch in another manner for none.

_MAX_LOOKED_AT = 32
"""The newest of those that have the same key: a program may send one question for ever."""
_COLUMNS = "id, thread_id, parent_id, output_key, system_key, answer_id"
_BY = (
    f"SELECT {_COLUMNS} FROM read_calls WHERE %s = ? AND id <> ? AND exchange_id <= ?"
    f" ORDER BY id DESC LIMIT {_MAX_LOOKED_AT}"
)
_BY_OUTPUT, _BY_INPUT, _BY_RESPONSE = _BY % "output_key", _BY % "input_key", _BY % "response_id"
_SIBLINGS = (
    f"SELECT {_COLUMNS} FROM read_calls WHERE parent_id = ? AND id <> ? AND exchange_id <= ? AND input_key <> ?"
    f" AND (system_key IS NULL) = ? AND tools_id IS ? AND model_asked IS ? ORDER BY id DESC LIMIT {_MAX_LOOKED_AT}"
)
_MANNER = (
    "SELECT c.tools_id, c.tag, s.data, c.is_streamed, p.data FROM read_calls c"
    " LEFT JOIN read_values s ON s.id = c.output_schema_id LEFT JOIN read_values p ON p.id = c.parameters_id"
    " WHERE c.id = ?"
)
_TEXT = "SELECT text FROM messages WHERE id = ?"
_HAS_FAILED = (
    "SELECT NOT is_running AND (output_key IS NULL OR EXISTS"
    " (SELECT 1 FROM read_problems p WHERE p.call_id = c.id AND p.place IS NOT NULL)) FROM read_calls c WHERE id = ?"
)
_FORGETS_INSTRUCTIONS = "openai_responses"
"""By OpenAI's word `instructions` hold for one call only; whether LM Studio keeps them is not known."""
_decode = msgspec.json.Decoder(list[list[Any]]).decode


class _Found(NamedTuple):
    id: int
    thread_id: int | None
    parent_id: int | None
    output_key: int | None
    system_key: int | None
    answer_id: int | None


class _Manner(NamedTuple):
    """How a client asks, whatever it asks: side calls differ in it."""

    tools_id: int | None
    tag: str | None
    output_schema: str | None
    is_streamed: bool
    response_format: Json
    max_tokens: Json


@dataclass(frozen=True, slots=True)
class Turn:
    """What places a call: its input without system messages."""

    call_id: int
    exchange_id: int
    keys: Sequence[int]
    """Of each message."""
    roles: Sequence[str]
    texts: Sequence[str]
    have_results: Sequence[bool]
    """Whether each brings a tool's result; where they stand depends on the dialect."""
    system_key: int | None
    """Of the system messages together; None: there are none."""
    manner: _Manner
    model_asked: str | None
    previous_response_id: str | None
    """Of the answer that a server which keeps chats is to go on from."""
    is_system_kept: bool
    """Such a server also keeps the system messages that a call leaves out; else that is not known."""


class Placed(NamedTuple):
    """Where a call belongs."""

    label: str
    thread_id: int
    parent_id: int | None
    input_key: int
    system_key: int | None
    """Of its system messages, or of those that a server which keeps chats had before, where it brings none."""
    is_system_changed: bool | None
    is_previous_missing: bool
    """It goes on from an answer that is not recorded."""


def turn_of(
    call_id: int, exchange_id: int, reading: Reading, keys: Sequence[int], *, tools_id: int | None, tag: str | None
) -> Turn:
    """The turn that a reading is; `keys` are those of its messages, `tag` is the client's own word."""
    turns = [(message, key) for message, key in zip(reading.messages, keys, strict=True) if not is_system(message)]
    system = [message.text for message in reading.messages if is_system(message)]
    parameters = ((one.name, one.value, one.origin) for one in reading.parameters)
    return Turn(
        call_id,
        exchange_id,
        [key for _, key in turns],
        [message.role for message, _ in turns],
        [message.text for message, _ in turns],
        [any(part.kind is PartKind.TOOL_RESULT for part in message.parts) for message, _ in turns],
        text_key("\0".join(system)) if system else None,
        _manner(tools_id, tag, reading.output_schema, reading.is_streamed, parameters),
        reading.model_asked,
        reading.previous_response_id,
        reading.reader != _FORGETS_INSTRUCTIONS,
    )


def _manner(
    tools_id: int | None,
    tag: str | None,
    output_schema: str | None,
    is_streamed: bool,
    parameters: Iterable[tuple[str, Json, str]],
) -> _Manner:
    """`parameters` as (name, value, origin)."""
    asked = {name: value for name, value, origin in parameters if origin == Origin.REQUEST}
    # A refusal is no stream, though one was asked for.
    is_streamed = bool(asked.get("stream", is_streamed))
    return _Manner(tools_id, tag, output_schema, is_streamed, asked.get("response_format"), asked.get("max_tokens"))


class Threads:
    """Places calls among those that the trace holds, in the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` is the writer's: calls of the open transaction are seen."""
        self._connection = connection

    def place(self, turn: Turn, scope: str) -> Placed:
        """Where a call belongs; only calls of the same `scope`, a client or session, are looked at."""
        before = None
        if turn.previous_response_id is not None:
            before = self._find(_BY_RESPONSE, turn.previous_response_id, turn)
        is_left_out = before is not None and before.system_key is not None and turn.system_key is None
        if before is not None and is_left_out:
            turn = replace(turn, system_key=before.system_key)
        first = before.output_key if before is not None else None
        chain = [first if first is not None else text_key(scope)]
        for key in turn.keys:
            chain.append(chain_key(chain[-1], key))
        parent, after = (before, 0) if before is not None else self._parent(turn, chain)
        same = self._find(_BY_INPUT, chain[-1], turn, is_strict=True) if turn.keys else None
        if same is not None:
            (has_failed,) = self._connection.execute(_HAS_FAILED, (same.id,)).fetchone()
            return self._placed(turn, chain, RETRY if has_failed else REGENERATE, same, same.parent_id)
        if parent is not None:
            placed = self._placed(turn, chain, self._label(turn, chain, parent, after), parent, parent.id)
            is_unknown = is_left_out and not turn.is_system_kept
            return placed._replace(is_system_changed=None) if is_unknown else placed
        return self._of_changed_answer(turn, chain) or self._alone(turn, chain)

    def _parent(self, turn: Turn, chain: Sequence[int]) -> tuple[_Found | None, int]:
        """The call whose answer this one goes on from, and how many messages of the input that makes."""
        for count in range(len(turn.keys), 0, -1):
            if turn.roles[count - 1] == "assistant":
                found = self._find(_BY_OUTPUT, chain[count], turn)
                if found is not None:
                    return found, count
        return None, 0

    def _label(self, turn: Turn, chain: Sequence[int], parent: _Found, after: int) -> str:
        if turn.roles and turn.roles[-1] == "assistant":
            return CONTINUE_ANSWER
        if any(turn.have_results[after:]):
            return TOOL_ROUND
        return BRANCH if self._has_rival(turn, chain, parent) else CONTINUE

    def _has_rival(self, turn: Turn, chain: Sequence[int], parent: _Found) -> bool:
        """Whether another call goes on from the same answer with other words, side calls aside."""
        of = (parent.id, turn.call_id, turn.exchange_id, chain[-1])
        like = (turn.system_key is None, turn.manner.tools_id, turn.model_asked)
        for row in self._connection.execute(_SIBLINGS, (*of, *like)):
            other = _Found(*row)
            has_own_system = turn.system_key == parent.system_key != other.system_key
            if not has_own_system and self._manner_of(other) == turn.manner:
                return True
        return False

    def _of_changed_answer(self, turn: Turn, chain: Sequence[int]) -> Placed | None:
        """An earlier call had the beginning of this input, but its answer is not what follows here."""
        for count in range(len(turn.keys) - 1, 0, -1):
            cousin = self._find(_BY_INPUT, chain[count], turn)
            if cousin is not None:
                return self._placed(turn, chain, self._changed(turn, count, cousin), cousin, cousin.id)
        return None

    def _changed(self, turn: Turn, count: int, cousin: _Found) -> str:
        if turn.roles[-1] == "assistant":
            return CONTINUE_ANSWER
        if any(turn.have_results[count:]):
            return TOOL_ROUND
        row = self._connection.execute(_TEXT, (cousin.answer_id,)).fetchone()
        answer, sent = (row[0] or "").strip() if row else "", turn.texts[count].strip()
        # An answer that was stopped is sent back as far as the client had it.
        is_cut = bool(sent) and (answer.startswith(sent) or sent.startswith(answer))
        return CONTINUE if turn.roles[count] == "assistant" and is_cut else BRANCH

    def _alone(self, turn: Turn, chain: Sequence[int]) -> Placed:
        label = CONTINUE_ANSWER if turn.roles and turn.roles[-1] == "assistant" else NEW
        is_missing = turn.previous_response_id is not None
        label = CONTINUE if is_missing else label
        return Placed(label, turn.call_id, None, chain[-1], turn.system_key, None, is_missing)

    def _placed(self, turn: Turn, chain: Sequence[int], label: str, of: _Found, parent_id: int | None) -> Placed:
        is_changed = of.system_key != turn.system_key
        return Placed(label, of.thread_id or of.id, parent_id, chain[-1], turn.system_key, is_changed, False)

    def _find(self, query: str, value: int | str | None, turn: Turn, *, is_strict: bool = False) -> _Found | None:
        """The newest call that a query finds and that is no side call beside this one, or this beside it.

        If there are none but these: the newest of them, or nothing where `is_strict`.
        """
        newest = None
        for row in self._connection.execute(query, (value, turn.call_id, turn.exchange_id)):
            found = _Found(*row)
            if found.system_key == turn.system_key or self._manner_of(found) == turn.manner:
                return found
            newest = newest or found
        return None if is_strict else newest

    def _manner_of(self, call: _Found) -> _Manner:
        tools_id, tag, output_schema, is_streamed, parameters = self._connection.execute(_MANNER, (call.id,)).fetchone()
        listed = ((one[0], one[1], one[2]) for one in _decode(parameters or "[]"))
        return _manner(tools_id, tag, output_schema, bool(is_streamed), listed)
