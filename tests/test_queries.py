"""The worked queries of the documents: each is run against a course's afternoon and gives the columns that it shows."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.cli.docs import FOLDER
from tests.course import record_course

QUERIES = FOLDER / "how-to/queries.md"
_QUERY = re.compile(r"^### (\d+)\. .*?^```sql\n(.*?)^```\n\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WORKED = {number: (sql, sample) for number, sql, sample in _QUERY.findall(QUERIES.read_text(encoding="utf-8"))}
VIEWS = (
    *("calls", "messages", "call_messages", "tool_calls", "call_parameters", "token_counts", "threads", "models"),
    *("speeds", "problems", "sessions"),
)


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A course's afternoon."""
    file: Path = tmp_path_factory.mktemp("course") / "trace.db"
    record_course(file)
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def test_there_are_twenty_worked_queries() -> None:
    assert list(WORKED) == [str(number) for number in range(1, 21)]


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_of_calls_is_asked(view: str) -> None:
    assert any(re.search(rf"\b(?:FROM|JOIN) {view}\b", sql) for sql, _ in WORKED.values())


@pytest.mark.parametrize("number", list(WORKED))
def test_worked_query_gives_rows_under_the_columns_it_shows(trace: sqlite3.Connection, number: str) -> None:
    sql, sample = WORKED[number]
    cursor = trace.execute(sql)
    assert [column[0] for column in cursor.description] == sample.splitlines()[0].split()
    rows = cursor.fetchall()
    assert any(value is not None for row in rows for value in row)
    assert all(
        any(row[at] is not None for row in rows)
        for at, name in enumerate(sample.splitlines()[0].split())
        if not name.startswith("measured_")
    ), "a column is NULL in every row"


@pytest.mark.parametrize("number", list(WORKED))
def test_sample_of_a_worked_query_is_what_it_gives(trace: sqlite3.Connection, number: str) -> None:
    """Times of day aside."""
    sql, sample = WORKED[number]
    shown = [re.sub(r"\d\d:\d\d:\d\d", "", re.sub(r"\s+", " ", line.strip())) for line in sample.splitlines()[2:]]
    assert shown == [
        re.sub(r"\d\d:\d\d:\d\d", "", re.sub(r"\s+", " ", " ".join(_shown(value) for value in row)).strip())
        for row in trace.execute(sql)
    ]


def test_calls_add_up_to_the_sums_by_model(trace: sqlite3.Connection) -> None:
    section = QUERIES.read_text(encoding="utf-8").partition("## Verify")[2]
    found = re.search(r"```sql\n(.*?)```", section, re.DOTALL)
    assert found
    calls, in_models, running = trace.execute(found[1]).fetchone()
    assert calls == in_models > 0
    assert not running


def _shown(value: object) -> str:
    return "NULL" if value is None else str(value)
