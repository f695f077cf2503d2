"""The trace file: made, migrated, opened. Its version is SQLite's `user_version`."""

import errno
import os
import sqlite3
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import TraceError
from proxy.store.version import APPLICATION_ID, SCHEMA_VERSION, check
from proxy.store.view_comments import VIEW_SCRIPTS

if TYPE_CHECKING:
    from sqlite_utils import Database


def m001_readings(database: "Database") -> None:
    """Version 2 has readings; what is recorded already is to be read."""
    _execute_script(database.conn, "readings.sql")
    database.conn.execute("INSERT INTO unread_exchanges SELECT id FROM recorded_exchanges WHERE outcome IS NOT NULL")


def m002_prompts(database: "Database") -> None:
    """Version 3 has the prompts that models saw; those of calls that are read already are to be found."""
    _execute_script(database.conn, "prompts.sql")
    database.conn.execute(
        "INSERT INTO prompt_queue SELECT id, 0 FROM read_calls"
        " WHERE operation IN ('chat', 'completion') AND NOT is_running AND NOT is_observed"
    )


def m003_digests(database: "Database") -> None:
    """Version 4 takes in several segments at once, and has other digests of what is recorded.

    Those that there are stay, and stay good: see `digests`.
    """
    database.conn.execute("ALTER TABLE journal_position ADD COLUMN first_segment TEXT")


MIGRATIONS: tuple[Callable[["Database"], None], ...] = (m001_readings, m002_prompts, m003_digests)
"""What leads from version n to n + 1, in order from version 1, run inside one transaction."""
MIN_SQLITE = (3, 37, 0)
MOST_WAL_PAGES = 32_768
"""Of 4 KiB. Then whoever writes moves the write-ahead log into the file, and nothing is stored meanwhile. Where
`LogMover` sees to it, the log may be longer, and is moved beside the storing."""
_most_wal_pages = MOST_WAL_PAGES
KEPT_WAL_BYTES = 16 << 20
"""To what size the write-ahead log is cut back."""


def let_log_grow(pages: int) -> None:
    """Set the write-ahead log's limit for what this process opens from now on: for one that has a `LogMover`."""
    global _most_wal_pages  # noqa: PLW0603 - whichever connection writes beyond its limit would move the log
    _most_wal_pages = pages


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The trace, made (mode 0600) or migrated if need be; transactions are begun and ended by hand.

    An older trace is copied to `<trace>.v<version>` before it is migrated.

    Raises:
        TraceTooNewError: it was written by a newer proxy-log.
        TraceError: it is no trace, or cannot be opened.
        sqlite3.OperationalError: it is locked, or the disk is full; trying again may help.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise TraceError(f"SQLite {sqlite3.sqlite_version} is too old; proxy-log needs 3.37 or newer")
    try:
        _see_to_file(path)
    except OSError as error:
        raise TraceError(f"cannot open the trace {path}: {error.strerror}") from error
    connection = sqlite3.connect(path, isolation_level=None, timeout=1.0, cached_statements=256)
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _see_to_file(path: Path) -> None:
    """Make the file if there is none, and see to it that only its owner can read it.

    One with content is never opened here: closing it would drop the locks that SQLite holds for this process's other
    connections (https://www.sqlite.org/howtocorrupt.html, 2.2). Any foreign program that had a look at the trace would
    then delete the write-ahead log that they are using.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not path.stat().st_size:
        path.chmod(0o600)  # an empty file, as a mere look with sqlite3 leaves it
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection, path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_most_wal_pages}")
    connection.execute(f"PRAGMA journal_size_limit = {KEPT_WAL_BYTES}")
    if version == SCHEMA_VERSION:
        return
    if version:
        _keep_copy(connection, path.with_name(f"{path.name}.v{version}"))
    connection.execute("BEGIN EXCLUSIVE")
    try:
        version = _version(connection, path)
        if not version:
            _execute_script(connection, "schema.sql")
            _execute_script(connection, "readings.sql")
            _execute_script(connection, "prompts.sql")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        else:
            _migrate(connection, version)
        for script in VIEW_SCRIPTS:
            _execute_script(connection, script)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def open_for_reading(path: Path) -> sqlite3.Connection:
    """The trace, read-only.

    Raises:
        TraceTooNewError: it was written by a newer proxy-log.
        TraceError: there is none, it is older than this version (the next `serve` or `ingest` migrates it), or it
            is no trace.
    """
    if not path.is_file():
        raise TraceError(f"there is no trace at {path} yet; `proxy-log serve` makes it")
    connection = _connect_for_reading(path.resolve())
    try:
        version = _version(connection, path)
        if version != SCHEMA_VERSION:
            state = "still empty" if not version else f"of the older version {version}"
            raise TraceError(
                f"the trace {path} is {state}; `proxy-log serve` or `proxy-log ingest` brings it up to date"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_for_reading(path: Path) -> sqlite3.Connection:
    """Where nothing can be written beside the trace, SQLite can read it only as a file that nobody changes."""
    log = path.with_name(path.name + "-wal")
    is_frozen = not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size)
    mode = "mode=ro&immutable=1" if is_frozen else "mode=ro"
    return sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, timeout=5.0)


def _keep_copy(connection: sqlite3.Connection, copy: Path) -> None:
    """Copy the trace, if a migration that was cut short has not done so before."""
    if copy.exists():
        return
    aside = copy.with_name(copy.name + ".part")
    os.close(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    target = sqlite3.connect(aside)
    try:
        connection.backup(target)
    finally:
        target.close()
    aside.replace(copy)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    from sqlite_utils import Database  # noqa: PLC0415 - only a migration is worth its memory

    database = Database(connection)
    for migrate in MIGRATIONS[version - 1 :]:
        migrate(database)
    for view in database.views:
        view.drop()


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The trace's version; 0 where the file is still empty."""
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise TraceError(f"{path} is not a trace: {error}") from error
    if not tables:
        return 0
    check(path, application, version)
    return int(version)


def _execute_script(connection: sqlite3.Connection, name: str) -> None:
    """Run a script's statements inside the open transaction (`executescript` would commit it)."""
    statement = ""
    for line in files("proxy.store").joinpath(name).read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
