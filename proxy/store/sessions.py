"""Sessions: what belongs together by a client's own word, by the path prefix it uses, or else by client and time."""

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass

from proxy.exchange import SESSION_FIELD, TAG_FIELD
from proxy.store.recordings import Recording

IDLE_US = 30 * 60 * 1_000_000
"""After so long without a request a client's next one begins a new session."""

_BY_CLIENT = "FROM read_sessions WHERE client = ? AND origin = ? AND name = ? ORDER BY last_at_us DESC LIMIT 1"
_LATEST = f"SELECT id, last_at_us {_BY_CLIENT}"
_IS_OF_CLIENT = "SELECT 1 FROM read_sessions WHERE id = ? AND origin = 'client' AND name = ?"
_INSERT = "INSERT INTO read_sessions(name, origin, client, last_at_us) VALUES(?, ?, ?, ?)"
_TOUCH = "UPDATE read_sessions SET last_at_us = max(last_at_us, ?) WHERE id = ?"


@dataclass(slots=True)
class _Session:
    id: int
    last_at_us: int


class Sessions:
    """Finds and makes sessions, in the caller's transaction."""

    def __init__(self, connection: sqlite3.Connection, prefix_sessions: Mapping[str, str]) -> None:
        """`prefix_sessions`: an upstream's name to the session of what comes by its prefix."""
        self._connection = connection
        self._prefix_sessions = prefix_sessions
        self._known: dict[tuple[str, str], _Session] = {}
        self._touched: dict[int, _Session] = {}

    def scope(self, recording: Recording) -> str:
        """Whose conversations are compared with each other: a named session's, or else a client's."""
        origin, name = self._name(recording)
        return f"{origin}\0{name}" if name else f"client\0{recording.client}"

    def of(self, recording: Recording, before: int | None = None) -> tuple[int, str | None]:
        """(id of the session, the client's tag); `before`: its session when it was read before, which it keeps."""
        tag = recording.head.field(TAG_FIELD) or None
        origin, name = self._name(recording)
        at_us = recording.started_at_us
        if name:
            client = ""
        else:
            origin = "client"
            name = client = f"{recording.client} {recording.head.field('user-agent')}".strip()
            if before is not None and self._connection.execute(_IS_OF_CLIENT, (before, name)).fetchone():
                return before, tag
        known = self._known.get((origin, name)) or self._stored(origin, name, client)
        if known is None or (origin == "client" and abs(at_us - known.last_at_us) > IDLE_US):
            session_id = self._connection.execute(_INSERT, (name, origin, client, at_us)).lastrowid
            assert session_id is not None
            known = _Session(session_id, at_us)
        known.last_at_us = max(known.last_at_us, at_us)
        self._known[origin, name] = self._touched[known.id] = known
        return known.id, tag

    def write(self) -> None:
        """At the transaction's end."""
        self._connection.executemany(_TOUCH, [(one.last_at_us, one.id) for one in self._touched.values()])
        self._touched.clear()

    def _stored(self, origin: str, name: str, client: str) -> "_Session | None":
        row = self._connection.execute(_LATEST, (client, origin, name)).fetchone()
        return _Session(*row) if row is not None else None

    def _name(self, recording: Recording) -> tuple[str, str]:
        named = recording.head.field(SESSION_FIELD)
        if named:
            return "header", named
        return "prefix", self._prefix_sessions.get(recording.upstream or "", "")
