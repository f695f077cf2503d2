"""`proxy-log verify` and `ingest`: what their exit codes and words say."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from filelock import FileLock

from proxy.record.journal import Gap
from tests.cli.conftest import Run
from tests.cli.recording import Recording


def test_sound_trace_is_told_so(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.stream()
    recorded.begin_stream()
    recorded.take_in()
    result = run("verify")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.endswith("All is as it was recorded.\n")
    assert "exchanges compared    2 (1 are still running)" in result.stdout
    report = json.loads(run("verify", "--json").stdout)
    assert (report["is_ok"], report["exchanges"], report["problems"]) == (True, 2, [])


def test_masks_and_gaps_are_counted_apart(recorded: Recording, run: Run) -> None:
    recorded.chat(b'{"tools":[{"authorization":"secret"}]}')
    holed = recorded.open()
    recorded.gap(holed, Gap(recorded.now_ns, 0, 1, 0, 5, reason="the disk was full"))
    recorded.close(holed)
    recorded.take_in()
    result = run("verify")
    assert "with masked values    1 " in result.stdout
    assert "recorded gaps         1" in result.stdout


def test_altered_trace_is_told_so(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.take_in()
    with closing(sqlite3.connect(recorded.trace, isolation_level=None)) as connection:
        connection.execute("UPDATE blobs SET data = replace(data, 'Hello', 'Hallo')")
    result = run("verify")
    assert result.exit_code == 1
    assert "is not what its digest says" in result.stdout
    assert result.stdout.endswith(" things are not as recorded.\n")
    assert run("verify", "--json").exit_code == 1


def test_file_that_is_no_trace_is_one_line(recorded: Recording, run: Run, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"no database" * 1000)
    for command in ("verify", "tail", "ingest"):
        result = run(command, "--trace", str(tmp_path / "other"))
        assert result.exit_code == 1
        assert result.stderr.count("\n") == 1
        assert result.stderr.startswith("Error: ")


def test_ingest_takes_in_what_is_left_and_ends_what_was_cut_off(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.begin_stream()
    recorded.crash()
    result = run("ingest")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Took in ")
    outcomes = [json.loads(line)["outcome"] for line in run("tail", "--json").stdout.splitlines()]
    assert outcomes == ["completed", "interrupted"]
    assert run("ingest").stdout.startswith("Nothing was left to take in")
    assert json.loads(run("ingest", "--json").stdout)["journal_bytes"] == 0
    assert run("verify").exit_code == 0


def test_ingest_is_refused_while_a_proxy_runs(recorded: Recording, run: Run) -> None:
    recorded.chat()
    with FileLock(f"{recorded.trace}.lock"):
        result = run("ingest")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: proxy-log serve records into ")


def test_ingest_waits_for_no_other_writer(recorded: Recording, run: Run) -> None:
    recorded.chat()
    with FileLock(f"{recorded.trace}.writer.lock"):
        result = run("ingest")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)


def test_ingest_of_nothing_makes_no_trace(recorded: Recording, run: Run, tmp_path: Path) -> None:
    result = run("ingest", "--trace", str(tmp_path / "none.db"))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: there is no trace at {tmp_path / 'none.db'}")
    assert not list(tmp_path.glob("none.db*"))
