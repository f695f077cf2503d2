"""Whether the engine's log is listened to: a row for each upstream, written while `serve` runs, gone when it ends."""

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

_PUT = "INSERT OR REPLACE INTO engine_log_status VALUES(?, ?, ?, ?)"
_SELECT = "SELECT upstream, state, detail, since_us FROM engine_log_status ORDER BY upstream"
_WORDS = {
    "asking": "asking whether it is LM Studio",
    "unreachable": "not listening: nobody answers there",
    "not_lmstudio": "not listening: it is not LM Studio",
    "listening": "listening",
    "refused": "not listening: refused",
    "lost": "not listening: the connection ended; trying again",
}


@dataclass(frozen=True, slots=True)
class EngineLogStatus:
    """How it stands with one upstream's log."""

    upstream: str
    state: str
    """One of the words of `proxy.prompt.log_stream.LogState`."""
    detail: str
    """Why, in words; may be empty."""
    since_us: int
    """UTC."""

    @property
    def since(self) -> str:
        """The same moment as the views write it."""
        return datetime.fromtimestamp(self.since_us / 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    @property
    def words(self) -> str:
        """`listening`, or why not."""
        words = _WORDS.get(self.state, self.state)
        return f"{words}: {self.detail}" if self.detail else words


def engine_log_statuses(connection: sqlite3.Connection) -> list[EngineLogStatus]:
    """Of each upstream, by name; none where nobody listens or `serve` does not run."""
    return [EngineLogStatus(*row) for row in connection.execute(_SELECT)]


def put_status(connection: sqlite3.Connection, status: EngineLogStatus) -> None:
    """Store one, in the caller's transaction."""
    connection.execute(_PUT, (status.upstream, status.state, status.detail, status.since_us))


def forget_statuses(connection: sqlite3.Connection) -> None:
    """Nobody listens any more, or not yet; in the caller's transaction."""
    connection.execute("DELETE FROM engine_log_status")
