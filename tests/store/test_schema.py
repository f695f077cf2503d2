"""The trace file: who may read it, which versions, what happens to others."""

import shutil
import sqlite3
import stat
import subprocess
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from proxy.errors import TraceError, TraceTooNewError
from proxy.exchange import Side
from proxy.store import schema, version
from proxy.store.schema import open_for_reading, open_for_writing
from proxy.store.trace import Trace
from proxy.store.verify import verify
from proxy.store.version import check_file
from tests.store.journal_builder import START_WALL_NS, Journal
from tests.store.test_ingest import ingest_whole, read_whole

if TYPE_CHECKING:
    from sqlite_utils import Database

PROMPT_VIEWS = (
    *("engine_events", "rendered_prompts", "prompt_pairings", "prompt_spans", "message_fates", "context_windows"),
    *("prompt_templates", "call_snapshots", "precedence_findings"),
)
VIEWS = (
    *("exchanges", "request_bodies", "response_bodies", "chunks", "websocket_messages", "headers", "gaps", "models"),
    *("calls", "readings", "messages", "call_messages", "tool_calls", "call_parameters", "token_counts", "threads"),
    *("speeds", "sessions", "problems", "call_settings", *PROMPT_VIEWS),
)
PROMPT_TABLES = (
    *(
        "engine_log_status",
        "model_snapshots",
        "prompt_problems",
        "read_windows",
        "read_message_fates",
        "read_prompt_spans",
        "read_prompts",
    ),
    *("read_prompt_parts", "read_template_sources", "read_templates", "read_pairings", "prompt_queue"),
)
READING_TABLES = (
    *("message_trigrams", "message_search", "read_problems", "unread_fields", "model_configs", "read_calls"),
    *(
        "read_messages",
        "read_values",
        "read_sessions",
        "call_totals",
        "server_token_counts",
        "read_settings",
        "reading_attempts",
    ),
    *("read_exchanges", "unread_exchanges", "readers"),
)


LESS_IN_VERSION_3 = "ALTER TABLE journal_position DROP COLUMN first_segment"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


def make(trace: Path) -> None:
    """A trace with an exchange."""
    journal = Journal(trace)
    journal.exchange_of([b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'], [b'{"answer":"\xc3\xbc"}'])
    journal.write()
    ingest_whole(trace)
    read_whole(trace)


def test_only_its_owner_can_read_a_trace(trace: Path) -> None:
    make(trace)
    assert stat.S_IMODE(trace.stat().st_mode) == 0o600


def test_a_trace_where_nothing_can_be_written_is_read(trace: Path) -> None:
    make(trace)
    folder = trace.parent
    mounted = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        connection = open_for_reading(trace)
        assert connection.execute("SELECT count(*) FROM exchanges").fetchone() == (1,)
        connection.close()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_newer_trace_is_refused(trace: Path) -> None:
    make(trace)
    with sqlite3.connect(trace) as connection:
        connection.execute(f"PRAGMA user_version = {version.SCHEMA_VERSION + 1}")
    connection.close()
    for opening in (open_for_reading, open_for_writing, check_file):
        with pytest.raises(TraceTooNewError, match="update proxy-log"):
            opening(trace)


def test_another_database_is_refused_and_left_alone(trace: Path) -> None:
    with sqlite3.connect(trace) as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    for opening in (open_for_reading, open_for_writing):
        with pytest.raises(TraceError, match="not a trace of proxy-log"):
            opening(trace)


def test_a_file_that_is_no_database_is_refused(trace: Path) -> None:
    trace.write_text("my diary\n" * 50, encoding="utf-8")
    for opening in (open_for_reading, open_for_writing, check_file):
        with pytest.raises(TraceError, match="not a trace"):
            opening(trace)
    assert trace.read_text(encoding="utf-8").startswith("my diary")


def test_a_trace_that_is_not_there_is_no_problem_but_for_readers(trace: Path) -> None:
    check_file(trace)
    with pytest.raises(TraceError, match="there is no trace"):
        open_for_reading(trace)


def make_version_1(trace: Path) -> None:
    """A trace as the first version wrote it: without readings."""
    make(trace)
    connection = sqlite3.connect(trace)
    for kind, name in connection.execute("SELECT type, name FROM sqlite_schema WHERE type = 'view'").fetchall():
        connection.execute(f"DROP {kind} {name}")
    for name in (*PROMPT_TABLES, *READING_TABLES):
        connection.execute(f"DROP TABLE {name}")
    connection.execute("CREATE VIEW exchanges AS SELECT id, model FROM recorded_exchanges")
    connection.execute(LESS_IN_VERSION_3)
    connection.execute("PRAGMA user_version = 1")
    connection.close()


def test_a_trace_of_version_1_is_copied_then_migrated(trace: Path) -> None:
    make_version_1(trace)
    with pytest.raises(TraceError, match="older version 1"):
        open_for_reading(trace)
    open_for_writing(trace).close()
    connection = open_for_reading(trace)
    assert connection.execute("SELECT model FROM exchanges").fetchall() == [("m",)]
    assert connection.execute("SELECT exchange_id FROM unread_exchanges").fetchall() == [(1,)]
    assert connection.execute("SELECT count(*) FROM calls").fetchone() == (0,)
    connection.close()
    with sqlite3.connect(trace.with_name("t.db.v1")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (1,)
        assert copy.execute("SELECT model FROM exchanges").fetchall() == [("m",)]
    copy.close()


def test_a_trace_of_version_2_is_migrated_and_the_prompts_of_its_calls_are_to_be_found(trace: Path) -> None:
    make(trace)
    connection = sqlite3.connect(trace)
    for kind, name in connection.execute("SELECT type, name FROM sqlite_schema WHERE type = 'view'").fetchall():
        connection.execute(f"DROP {kind} {name}")
    connection.execute("DROP INDEX read_calls_tag")
    for name in PROMPT_TABLES:
        connection.execute(f"DROP TABLE {name}")
    connection.execute("UPDATE read_calls SET operation = 'chat'")
    connection.commit()
    connection.execute(LESS_IN_VERSION_3)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    open_for_writing(trace).close()
    connection = open_for_reading(trace)
    calls = connection.execute("SELECT id, 0 FROM read_calls").fetchall()
    assert calls
    assert connection.execute("SELECT call_id, step FROM prompt_queue").fetchall() == calls
    connection.close()


def old_digest(data: bytes) -> bytes:
    """As versions 1 to 3 had it."""
    return blake2b(data, digest_size=16).digest()


def make_version_3(trace: Path) -> None:
    """A trace with a body of one part and one of several, and a stream, all with the digests of then."""
    journal = Journal(trace)
    chat = b'{"messages":[%s]}' % b",".join(b'{"role":"user","content":"%s"}' % (b"%d" % n * 300) for n in range(4))
    journal.exchange_of([chat], [b'{"answer":1}'])
    journal.exchange_of([b"{}"], [b'data: {"n":%d}\n\n' % n for n in range(4)], b"text/event-stream")
    journal.write()
    ingest_whole(trace)
    with sqlite3.connect(trace) as connection:
        connection.create_function("old", 1, old_digest)
        connection.execute("UPDATE heads SET digest = old(CAST(fields AS BLOB))")
        connection.execute("UPDATE blobs SET digest = old(CAST(data AS BLOB))")
        for side, name in ((Side.CLIENT, "request"), (Side.UPSTREAM, "response")):
            for number in (1, 2):
                with Trace(open_for_reading(trace)) as opened:
                    digest = old_digest(b"".join(opened.body(number, side)))
                where = f"WHERE id = (SELECT {name}_body FROM recorded_exchanges WHERE id = ?)"
                connection.execute(f"UPDATE bodies SET digest = ? {where}", (digest, number))
                connection.execute(f"UPDATE recorded_exchanges SET {name}_digest = ? WHERE id = ?", (digest, number))
        assert connection.execute("SELECT DISTINCT length(digest) FROM bodies").fetchall() == [(16,)]
    connection.execute(LESS_IN_VERSION_3)
    connection.execute("PRAGMA user_version = 3")
    connection.close()


def test_a_trace_of_version_3_keeps_its_digests_and_is_proven_by_them(trace: Path) -> None:
    make_version_3(trace)
    open_for_writing(trace).close()
    journal = Journal(trace, wall_ns=START_WALL_NS + 1, run_id=b"another-run-6789")
    journal.exchange_of([b'{"messages":[{"role":"user","content":"new"}]}'], [b'{"answer":1}'])
    journal.write()
    ingest_whole(trace)
    report = verify(trace)
    assert report.is_ok, report.problems
    assert report.exchanges == 3
    with sqlite3.connect(trace) as connection:
        lengths = connection.execute("SELECT length(response_digest) FROM recorded_exchanges ORDER BY id").fetchall()
        assert lengths == [(16,), (16,), (20,)]
        for table, column in (("heads", "fields"), ("blobs", "data")):
            connection.execute(f"UPDATE {table} SET {column} = {column} || ' ' WHERE id = 1")
        connection.execute(
            "UPDATE recorded_chunks SET at_us = at_us, middle = middle || ' ' WHERE exchange_id = 2 AND side = 1"
        )
    connection.close()
    told = " ".join(verify(trace).problems)
    for problem in ("head 1 is not", "blob 1 is not", "body 1 is not", "exchange 2: its response is not"):
        assert problem in told


def test_a_migration_that_fails_changes_nothing(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_version_1(trace)

    def fail(database: "Database") -> None:
        database.table("runs").add_column("note", str)
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS[:-1], fail))
        with pytest.raises(sqlite3.OperationalError):
            open_for_writing(trace)
    open_for_writing(trace).close()
    connection = open_for_reading(trace)
    assert "note" not in [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
    assert connection.execute("SELECT model FROM exchanges").fetchall() == [("m",)]
    connection.close()


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="the sqlite3 command line is not installed")
@pytest.mark.parametrize("view", VIEWS)
def test_stock_sqlite3_reads_every_view(trace: Path, view: str) -> None:
    make(trace)
    done = subprocess.run(
        ["sqlite3", "-readonly", str(trace), f"SELECT * FROM {view}"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert bool(done.stdout) == (view not in {"gaps", "tool_calls", "websocket_messages", *PROMPT_VIEWS})


def test_json_functions_work_on_bodies(trace: Path) -> None:
    make(trace)
    connection = open_for_reading(trace)
    found = connection.execute(
        "SELECT json_extract(q.text, '$.messages[0].content'), json_extract(r.text, '$.answer')"
        " FROM request_bodies q JOIN response_bodies r USING (exchange_id)"
    ).fetchall()
    connection.close()
    assert found == [("hi", "ü")]
