"""Settings of models, as their servers told them when they were asked: into the trace, a dated row each.

They belong to no exchange, so reading recordings again does not touch them.
"""

import sqlite3
from collections.abc import Iterable

from proxy.meaning import Parameter
from proxy.read.json_fields import encode_json
from proxy.store.digests import read_digest_of
from proxy.store.prompts import ENGINE_LOG_TAG

_LONGEST_CALL_US = 3_600_000_000
"""A call that began earlier is not looked for; there is an index by its beginning."""
_RECENT = """
SELECT DISTINCT e.upstream_url, coalesce(c.model_answered, c.model_asked)
FROM read_calls c JOIN recorded_exchanges e ON e.id = c.exchange_id
WHERE c.started_at_us > ? AND c.started_at_us + coalesce(c.done_us, 0) > ?
    AND c.operation IN ('chat', 'completion') AND NOT c.is_observed AND coalesce(c.tag, '') <> ?
    AND e.upstream_url IS NOT NULL AND coalesce(c.model_answered, c.model_asked) IS NOT NULL
ORDER BY 1, 2"""
_NEWEST = """
SELECT first_at_us, values_id FROM model_snapshots WHERE upstream_url = ? AND model = ? AND source = ?
ORDER BY first_at_us DESC LIMIT 1"""
_GOES_ON = """
UPDATE model_snapshots SET last_at_us = max(last_at_us, ?)
WHERE upstream_url = ? AND model = ? AND source = ? AND first_at_us = ?"""


class ModelSnapshots:
    """Reads and writes them, through one connection. Transactions are the caller's."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` writes."""
        self._connection = connection

    def models_used_since(self, since_us: int) -> list[tuple[str, str]]:
        """(upstream's URL, model) of calls that ended or were under way after that time (UTC, microseconds)."""
        rows = self._connection.execute(_RECENT, (since_us - _LONGEST_CALL_US, since_us, ENGINE_LOG_TAG))
        return [(row[0], row[1]) for row in rows]

    def put(self, upstream_url: str, model: str, source: str, parameters: Iterable[Parameter], at_us: int) -> bool:
        """What a source told at that time; gives whether it is another word than the one before."""
        values_id = self._value(
            encode_json(
                [
                    [one.name, one.value, one.origin.value, one.sent_as, one.note, int(one.is_ignored)]
                    for one in parameters
                ]
            )
        )
        key = (upstream_url, model, source)
        newest = self._connection.execute(_NEWEST, key).fetchone()
        if newest is not None and newest[1] == values_id:
            self._connection.execute(_GOES_ON, (at_us, *key, newest[0]))
            return False
        self._connection.execute(
            "INSERT OR REPLACE INTO model_snapshots VALUES(?, ?, ?, ?, ?, ?)", (*key, at_us, at_us, values_id)
        )
        return True

    def _value(self, data: str) -> int:
        """The id of JSON in the table that calls use, too."""
        data = data.encode("utf-8", "replace").decode()
        digest = read_digest_of(data.encode())
        row = self._connection.execute("SELECT id FROM read_values WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            row = (self._connection.execute("INSERT INTO read_values VALUES(NULL, ?, ?)", (digest, data)).lastrowid,)
        return int(row[0])
