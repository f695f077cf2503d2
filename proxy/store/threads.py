"""Conversations come out of the messages themselves: each call is placed by the chain of its messages' keys.

A chain's key stands for all messages up to a point, so a call that goes on from another finds it by one look-up: some
prefix of its input is the other's input with its answer. System messages are left out of the chain, as clients rewrite
them each turn; their change is told.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from proxy.meaning import PartKind, Reading
from proxy.store.message_rows import chain_key, is_system, text_key

NEW = "new"
CONTINUE = "continue"
REGENERATE = "regenerate"
BRANCH = "branch"
CONTINUE_ANSWER = "continue_answer"
RETRY = "retry"
TOOL_ROUND = "tool_round"

_BY = (
    "SELECT id, thread_id, parent_id, output_key, system_key, answer_id FROM read_calls"
    " WHERE %s = ? AND id <> ? AND exchange_id <= ? ORDER BY id DESC LIMIT 1"
)
_BY_OUTPUT, _BY_INPUT, _BY_RESPONSE = _BY % "output_key", _BY % "input_key", _BY % "response_id"
_SIBLING = (
    "SELECT 1 FROM read_calls WHERE parent_id = ? AND id <> ? AND exchange_id <= ? AND input_key <> ?"
    " AND (system_key IS NULL) = ? AND tools_id IS ? LIMIT 1"
)
_TEXT = "SELECT text FROM messages WHERE id = ?"
_HAS_FAILED = (
    "SELECT NOT is_running AND (output_key IS NULL OR EXISTS"
    " (SELECT 1 FROM read_problems p WHERE p.call_id = c.id AND p.place IS NOT NULL)) FROM read_calls c WHERE id = ?"
)


class _Found(NamedTuple):
    id: int
    thread_id: int | None
    parent_id: int | None
    output_key: int | None
    system_key: int | None
    answer_id: int | None


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
    tools_id: int | None
    previous_response_id: str | None
    """Of the answer that a server which keeps chats is to go on from."""


class Placed(NamedTuple):
    """Where a call belongs."""

    label: str
    thread_id: int
    parent_id: int | None
    input_key: int
    is_system_changed: bool | None
    is_previous_missing: bool
    """It goes on from an answer that is not recorded."""


def turn_of(call_id: int, exchange_id: int, reading: Reading, keys: Sequence[int], tools_id: int | None) -> Turn:
    """The turn that a reading is; `keys` are those of its messages."""
    turns = [(message, key) for message, key in zip(reading.messages, keys, strict=True) if not is_system(message)]
    system = [message.text for message in reading.messages if is_system(message)]
    return Turn(
        call_id,
        exchange_id,
        [key for _, key in turns],
        [message.role for message, _ in turns],
        [message.text for message, _ in turns],
        [any(part.kind is PartKind.TOOL_RESULT for part in message.parts) for message, _ in turns],
        text_key("\0".join(system)) if system else None,
        tools_id,
        reading.previous_response_id,
    )


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
        first = before.output_key if before is not None else None
        chain = [first if first is not None else text_key(scope)]
        for key in turn.keys:
            chain.append(chain_key(chain[-1], key))
        parent, after = (before, 0) if before is not None else self._parent(turn, chain)
        same = self._find(_BY_INPUT, chain[-1], turn) if turn.keys else None
        if same is not None:
            (has_failed,) = self._connection.execute(_HAS_FAILED, (same.id,)).fetchone()
            return self._placed(turn, chain, RETRY if has_failed else REGENERATE, same, same.parent_id)
        if parent is not None:
            return self._placed(turn, chain, self._label(turn, chain, parent, after), parent, parent.id)
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
        place = (parent.id, turn.call_id, turn.exchange_id, chain[-1], turn.system_key is None, turn.tools_id)
        return BRANCH if self._connection.execute(_SIBLING, place).fetchone() else CONTINUE

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
        row = self._connection.execute(_TEXT, (cousin.answer_id,)).fetchone()
        answer, sent = (row[0] or "").strip() if row else "", turn.texts[count].strip()
        # An answer that was stopped is sent back as far as the client had it.
        is_cut = bool(sent) and (answer.startswith(sent) or sent.startswith(answer))
        return CONTINUE if turn.roles[count] == "assistant" and is_cut else BRANCH

    def _alone(self, turn: Turn, chain: Sequence[int]) -> Placed:
        label = CONTINUE_ANSWER if turn.roles and turn.roles[-1] == "assistant" else NEW
        is_missing = turn.previous_response_id is not None
        return Placed(CONTINUE if is_missing else label, turn.call_id, None, chain[-1], None, is_missing)

    def _placed(self, turn: Turn, chain: Sequence[int], label: str, of: _Found, parent_id: int | None) -> Placed:
        is_changed = of.system_key != turn.system_key
        return Placed(label, of.thread_id or of.id, parent_id, chain[-1], is_changed, False)

    def _find(self, query: str, value: int | str | None, turn: Turn) -> _Found | None:
        row = self._connection.execute(query, (value, turn.call_id, turn.exchange_id)).fetchone()
        return _Found(*row) if row is not None else None
