"""Finds what the models saw, call by call, after they are read: observed in the log, else asked, else computed.

Works through `prompt_queue`, a piece at a time; what is found is committed together with the step that is done. Asking
and rendering happen before the trace is written, so that nobody waits for them.
"""

import logging
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TypeVar

from proxy.prompt_index.alignment import PromptAlignment
from proxy.prompt_index.pairing import PromptPairing
from proxy.prompt_index.rendering import PromptRendering, PromptSettings
from proxy.store.courtesy import NOBODY_ELSE, give_way
from proxy.store.prompts import ALIGN, PAIR, RENDER, PromptRows
from proxy.store.schema import open_for_writing
from proxy.store.token_counter import TokenCounter
from proxy.store.trace import Trace

__all__ = ["PromptIndexer", "PromptSettings"]

log = logging.getLogger(__name__)

MOST_UNREAD = 256
"""While more exchanges than these wait to be read, no prompt is looked for: reading them comes first."""
_UNREAD = "SELECT count(*) FROM (SELECT 1 FROM unread_exchanges LIMIT ?)"
_Found = TypeVar("_Found")


class PromptIndexer:
    """Works on one trace. Its owner must hold the writer lock; its connection is its own."""

    def __init__(
        self,
        trace: Path,
        settings: PromptSettings,
        *,
        encoding: str = "cl100k_base",
        key: bytes | None = None,
        turn: AbstractContextManager[object] = NOBODY_ELSE,
    ) -> None:
        """Nothing is opened yet.

        `encoding` is tiktoken's or `off`; `key` the trace's; `turn` is held while the trace is written, never for long.
        """
        self._trace = trace
        self._settings = settings
        self._key = key
        self._turn = turn
        self._counter = TokenCounter(encoding) if encoding != "off" else None
        self._connection: sqlite3.Connection | None = None
        self._steps: list[tuple[int, Callable[[], int]]] = []
        self._is_held_back = False
        self._pairing: PromptPairing | None = None
        self._rendering: PromptRendering | None = None
        self._alignment: PromptAlignment | None = None

    @property
    def is_watching(self) -> bool:
        """Whether something waits for time to pass."""
        steps = (self._pairing, self._rendering, self._alignment)
        return self._is_held_back or any(step is not None and step.has_waiting for step in steps)

    def close(self) -> None:
        """Let go of the trace, and end the process in which templates run."""
        if self._rendering is not None:
            self._rendering.close()
        if self._connection is not None:
            self._connection.close()
        self._connection = self._pairing = self._rendering = self._alignment = None

    def run_once(self) -> int:
        """Do a piece of each step; gives how many calls got further.

        Raises:
            sqlite3.Error, OSError: the trace cannot be written; call again later.
        """
        (unread,) = self._ready().execute(_UNREAD, (MOST_UNREAD + 1,)).fetchone()
        self._is_held_back = unread > MOST_UNREAD
        if self._is_held_back:
            return 0
        done = 0
        for step, work in self._steps:
            try:
                done += work()
            except (sqlite3.Error, OSError):
                self._rollback()
                raise
            except Exception:
                self._rollback()
                log.exception("the prompts of some calls could not be found")
                done += self._give_up(step)
            give_way()
        return done

    def _give_up(self, step: int) -> int:
        """A bug of ours that a call brings out must not keep all others out: the first in the line is left out."""
        assert self._connection is not None
        with self._turn:
            self._connection.execute("BEGIN IMMEDIATE")
            rows = PromptRows(self._connection)
            first = rows.waiting(step, 1)
            for call_id in first:
                rows.problem(call_id, "prompt_failed", "a bug: see what proxy-log says on stderr")
                rows.pass_on(call_id, None)
            self._connection.execute("COMMIT")
        return len(first)

    def _ready(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = self._connection = open_for_writing(self._trace)
            pairing = self._pairing = PromptPairing(connection)
            rendering = self._rendering = PromptRendering(connection, self._settings, Trace(connection, self._key))
            count = self._counter.count if self._counter is not None else None
            alignment = self._alignment = PromptAlignment(connection, self._settings, count)
            self._steps = [
                (PAIR, lambda: self._do(pairing.plan, pairing.write)),
                (RENDER, lambda: self._do(rendering.plan, rendering.write)),
                (ALIGN, lambda: self._do(alignment.plan, alignment.write)),
            ]
        return self._connection

    def _do(self, plan: Callable[[], _Found | None], write: Callable[[_Found], int]) -> int:
        found = plan()
        if not found:
            return 0
        assert self._connection is not None
        with self._turn:
            self._connection.execute("BEGIN IMMEDIATE")
            done = write(found)
            self._connection.execute("COMMIT")
        return done

    def _rollback(self) -> None:
        if self._connection is not None and self._connection.in_transaction:
            self._connection.rollback()
