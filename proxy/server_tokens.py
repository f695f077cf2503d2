"""Counts the tokens of messages by the servers' own tokenizers. It asks them, so it is done only where it is wanted."""

import asyncio
import logging
import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path

import aiohttp

from proxy.prompt.server_tokenizer import NoTokenizerError, count_tokens
from proxy.store.courtesy import NOBODY_ELSE
from proxy.store.schema import open_for_writing

log = logging.getLogger(__name__)

AT_ONCE = 32
MAX_CHARACTERS = 1 << 18
"""A longer text is not asked for."""
ASK_AGAIN_S = 60.0
"""How long a server that did not count is left alone."""
_NEXT = """
SELECT m.id, m.text, coalesce(c.model_answered, c.model_asked), e.upstream_url
FROM messages m JOIN read_calls c ON c.id = m.first_call_id JOIN recorded_exchanges e ON e.id = c.exchange_id
WHERE m.id > ? AND c.is_call AND e.upstream_url IS NOT NULL AND length(m.text) BETWEEN 1 AND ?
ORDER BY m.id LIMIT ?"""
_UNTIL = "SELECT coalesce(max(message_id), 0) FROM server_token_counts"
_INSERT = "INSERT OR REPLACE INTO server_token_counts VALUES(?, ?, ?)"


class ServerTokens:
    """Asks for one trace's messages, the oldest first. Its owner must hold the writer lock."""

    is_watching = False

    def __init__(self, trace: Path, turn: AbstractContextManager[object] = NOBODY_ELSE) -> None:
        """Nothing is opened yet. `turn` is held while the trace is written."""
        self._turn = turn
        self._trace = trace
        self._connection: sqlite3.Connection | None = None
        self._after = 0
        self._silent_until: dict[str, float] = {}

    def run_once(self) -> int:
        """Ask for some messages; gives how many were looked at, 0 if there is nothing new.

        Raises:
            sqlite3.Error, OSError: the trace cannot be written; call again later.
        """
        if self._connection is None:
            self._connection = open_for_writing(self._trace)
            (self._after,) = self._connection.execute(_UNTIL).fetchone()
        rows = self._connection.execute(_NEXT, (self._after, MAX_CHARACTERS, AT_ONCE)).fetchall()
        by_model: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for message_id, text, model, url in rows:
            by_model.setdefault((url, model or ""), []).append((message_id, text))
        counted = [row for (url, model), some in by_model.items() for row in self._ask(url, model, some)]
        if counted:
            with self._turn:
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.executemany(_INSERT, counted)
                self._connection.execute("COMMIT")
        if rows:
            self._after = rows[-1][0]
        return len(rows)

    def close(self) -> None:
        """Let go of the trace."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _ask(self, url: str, model: str, messages: list[tuple[int, str]]) -> list[tuple[int, str, int]]:
        if time.monotonic() < self._silent_until.get(url, 0.0):
            return []
        try:
            counts = asyncio.run(count_tokens(url, model, [text for _, text in messages]))
        except (NoTokenizerError, aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            log.info("no tokens from %s: %s", url, error)
            self._silent_until[url] = time.monotonic() + ASK_AGAIN_S
            return []
        return [(message_id, model, count) for (message_id, _), count in zip(messages, counts, strict=True)]
