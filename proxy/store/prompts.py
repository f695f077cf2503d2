"""What the models saw goes into the trace: rendered prompts, their spans, templates, windows.

All of it belongs to calls, and goes with them when they are read again (`forget`).
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from proxy.meaning import PromptSource
from proxy.store.digests import read_digest_of

PAIR, RENDER, ALIGN = 0, 1, 2
"""The steps of `prompt_queue`."""
ENGINE_LOG_TAG = "engine-log"
"""The tag of exchanges in which proxy-log itself listens to an engine's log."""
DOUBTED = 0.1
"""The confidence of a prompt that most likely is not what the engine got."""
_MAX_PART = 4096
_BORDERS = re.compile(r"(?=<\||<start_of_turn>|<s>|\[INST\]|\[/INST\])")
"""Where prompts are cut, so that a history that is sent again shares its parts: what begins a turn in common templates.
Any cut is right; a good one saves room."""
_TABLES = ("prompt_queue", "read_pairings", "read_message_fates", "read_windows", "prompt_problems")
_RANK = "instr('observed asked computed', source)"


def enqueue(connection: sqlite3.Connection, call_ids: Iterable[int]) -> None:
    """Have the prompts of calls found."""
    rows = [(call_id, PAIR) for call_id in call_ids]
    connection.executemany("INSERT OR REPLACE INTO prompt_queue VALUES(?, ?)", rows)


def forget(connection: sqlite3.Connection, call_ids: Iterable[int]) -> None:
    """Delete what was concluded about the prompts of calls, which are read again.

    Prompts and counts of tokens stay: what a server said when it was asked, it may not say again.
    """
    ids = [(call_id,) for call_id in call_ids]
    for table in _TABLES:
        connection.executemany(f"DELETE FROM {table} WHERE call_id = ?", ids)


def drop(connection: sqlite3.Connection, call_ids: Iterable[int]) -> None:
    """Delete everything about the prompts of calls, which are no more."""
    ids = [(call_id,) for call_id in call_ids]
    forget(connection, (call_id for (call_id,) in ids))
    connection.executemany(
        "DELETE FROM read_prompt_spans WHERE prompt_id IN (SELECT id FROM read_prompts WHERE call_id = ?)", ids
    )
    connection.executemany("DELETE FROM read_prompts WHERE call_id = ?", ids)


@dataclass(frozen=True, slots=True)
class PromptRow:
    """A call's most trusted prompt."""

    id: int
    source: PromptSource
    text: str
    confidence: float
    template_id: int | None


class PromptRows:
    """Writes what is found, inside the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` writes."""
        self._connection = connection

    def waiting(self, step: int, limit: int) -> list[int]:
        """Calls that wait for a step, the oldest first."""
        rows = self._connection.execute(
            "SELECT call_id FROM prompt_queue WHERE step = ? ORDER BY call_id LIMIT ?", (step, limit)
        )
        return [row[0] for row in rows]

    def pass_on(self, call_id: int, step: int | None) -> None:
        """A step is done; None: there is no other."""
        if step is None:
            self._connection.execute("DELETE FROM prompt_queue WHERE call_id = ?", (call_id,))
        else:
            self._connection.execute("UPDATE prompt_queue SET step = ? WHERE call_id = ?", (step, call_id))

    def put_observed(self, call_id: int, event_id: int, *, confidence: float, note: str | None, at_us: int) -> int:
        """The prompt is an event of the engine's log; gives the prompt's id."""
        return self._put((call_id, PromptSource.OBSERVED.value, event_id, None, confidence, None, note, at_us))

    def put_text(
        self,
        call_id: int,
        source: PromptSource,
        text: str,
        *,
        confidence: float,
        template_id: int | None,
        note: str | None,
        at_us: int,
    ) -> int:
        """A prompt that was asked for or computed; gives its id."""
        parts = _ranges([self._part(part) for part in cut(text)])
        return self._put((call_id, source.value, None, json.dumps(parts), confidence, template_id, note, at_us))

    def name_template(self, prompt_id: int, template_id: int) -> None:
        """Say by which template a prompt was made."""
        self._connection.execute("UPDATE read_prompts SET template_id = ? WHERE id = ?", (template_id, prompt_id))

    def doubt(self, prompt_id: int, note: str) -> None:
        """The engine most likely got another prompt than this; `note` says why."""
        self._connection.execute(
            "UPDATE read_prompts SET confidence = ?, note = ? WHERE id = ?", (DOUBTED, note, prompt_id)
        )

    def template(
        self,
        text: str,
        *,
        upstream_url: str,
        model: str,
        source: str,
        detail: str | None,
        at_us: int,
        bos_token: str | None = None,
        eos_token: str | None = None,
    ) -> int:
        """The id of a template that was found somewhere (see `read_template_sources`)."""
        template_id = self._addressed("read_templates", text)
        self._connection.execute(
            "INSERT INTO read_template_sources VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(template_id, upstream_url, model, source) DO UPDATE SET"
            " first_at_us = min(first_at_us, excluded.first_at_us),"
            " last_at_us = max(last_at_us, excluded.last_at_us), detail = excluded.detail,"
            " bos_token = coalesce(excluded.bos_token, bos_token),"
            " eos_token = coalesce(excluded.eos_token, eos_token)",
            (template_id, upstream_url, model, source, detail, bos_token, eos_token, at_us, at_us),
        )
        return template_id

    def best(self, call_id: int) -> PromptRow | None:
        """The most trusted prompt that a call has."""
        row = self._connection.execute(
            "SELECT id, source, text, confidence, template_id FROM rendered_prompts"
            f" WHERE call_id = ? AND text IS NOT NULL ORDER BY {_RANK} LIMIT 1",
            (call_id,),
        ).fetchone()
        return PromptRow(row[0], PromptSource(row[1]), *row[2:]) if row is not None else None

    def put_spans(self, prompt_id: int, rows: Iterable[tuple[object, ...]]) -> None:
        """Rows of `read_prompt_spans`."""
        self._connection.execute("DELETE FROM read_prompt_spans WHERE prompt_id = ?", (prompt_id,))
        self._connection.executemany("INSERT INTO read_prompt_spans VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def put_fates(self, call_id: int, rows: Iterable[tuple[object, ...]]) -> None:
        """Rows of `read_message_fates`, without the call's id and their number."""
        self._connection.execute("DELETE FROM read_message_fates WHERE call_id = ?", (call_id,))
        numbered = [(call_id, seq, *row) for seq, row in enumerate(rows)]
        self._connection.executemany("INSERT INTO read_message_fates VALUES(?, ?, ?, ?, ?, ?, ?, ?)", numbered)

    def put_window(
        self,
        call_id: int,
        *,
        context_length: int | None,
        context_source: str | None,
        prompt_tokens: int | None,
        prompt_counter: str | None,
        tiktoken_tokens: int | None,
        limit_from_error: int | None,
        tokens_from_error: int | None,
    ) -> None:
        """The row of `read_windows`."""
        self._connection.execute(
            "INSERT OR REPLACE INTO read_windows VALUES(?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(call_id, context_length, context_source, prompt_tokens, prompt_counter, tiktoken_tokens),
                *(limit_from_error, tokens_from_error),
            ),
        )

    def problem(self, call_id: int, kind: str, detail: str) -> None:
        """Something to be known of a call's prompt."""
        self._connection.execute("INSERT OR REPLACE INTO prompt_problems VALUES(?, ?, ?)", (call_id, kind, detail))

    def _put(self, row: tuple[object, ...]) -> int:
        """In place of the prompt of that source, if there is one: it keeps its id, and if it is the same its spans."""
        self._connection.execute(
            "INSERT INTO read_prompts VALUES(NULL, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(call_id, source) DO UPDATE SET"
            " event_id = excluded.event_id, parts = excluded.parts, confidence = excluded.confidence,"
            " template_id = excluded.template_id, note = excluded.note, at_us = excluded.at_us",
            row,
        )
        (prompt_id,) = self._connection.execute(
            "SELECT id FROM read_prompts WHERE call_id = ? AND source = ?", row[:2]
        ).fetchone()
        return int(prompt_id)

    def take_away(self, call_id: int, source: PromptSource) -> None:
        """There is no prompt of that source any more."""
        where = (call_id, source.value)
        self._connection.execute(
            "DELETE FROM read_prompt_spans WHERE prompt_id IN"
            " (SELECT id FROM read_prompts WHERE call_id = ? AND source = ?)",
            where,
        )
        self._connection.execute("DELETE FROM read_prompts WHERE call_id = ? AND source = ?", where)

    def has(self, call_id: int, source: PromptSource) -> bool:
        """Whether there is a prompt of that source."""
        query = "SELECT 1 FROM read_prompts WHERE call_id = ? AND source = ?"
        return self._connection.execute(query, (call_id, source.value)).fetchone() is not None

    def counted(self, prompt_id: int, spans: Sequence[tuple[int, int]]) -> list[int] | None:
        """Tokens of a prompt's spans as they were counted before, if these are the same: (start, length) each."""
        rows = self._connection.execute(
            "SELECT start, length, tokens FROM read_prompt_spans WHERE prompt_id = ? ORDER BY seq", (prompt_id,)
        ).fetchall()
        if [row[:2] for row in rows] != list(spans) or any(row[2] is None for row in rows):
            return None
        return [row[2] for row in rows]

    def _part(self, text: str) -> int:
        return self._addressed("read_prompt_parts", text)

    def _addressed(self, table: str, text: str) -> int:
        """The id of a text in a table of texts by digest."""
        text = text.encode("utf-8", "replace").decode()  # SQLite takes no lone surrogates
        digest = read_digest_of(text.encode())
        found = self._connection.execute(f"SELECT id FROM {table} WHERE digest = ?", (digest,)).fetchone()
        if found is not None:
            return int(found[0])
        cursor = self._connection.execute(f"INSERT INTO {table} VALUES(NULL, ?, ?)", (digest, text))
        assert cursor.lastrowid is not None
        return cursor.lastrowid


def cut(prompt: str) -> list[str]:
    """The parts in which a prompt is stored; together they are the prompt."""
    parts = []
    for turn in _BORDERS.split(prompt):
        parts += [turn[start : start + _MAX_PART] for start in range(0, len(turn), _MAX_PART)]
    return parts


def _ranges(ids: Sequence[int]) -> list[list[int]]:
    """Neighbouring ids in one range: `[[1, 3], [7, 7]]`."""
    ranges: list[list[int]] = []
    for one in ids:
        if ranges and one == ranges[-1][1] + 1:
            ranges[-1][1] = one
        else:
            ranges.append([one, one])
    return ranges
