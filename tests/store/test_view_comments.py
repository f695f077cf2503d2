"""The comments of `views.sql` say what every view and every column means."""

from pathlib import Path

import pytest

from proxy.store.schema import open_for_writing
from proxy.store.view_comments import ViewComment, view_comments


@pytest.fixture
def comments(tmp_path: Path) -> dict[str, ViewComment]:
    connection = open_for_writing(tmp_path / "t.db")
    try:
        return view_comments(connection)
    finally:
        connection.close()


def test_every_view_and_column_has_a_meaning(tmp_path: Path, comments: dict[str, ViewComment]) -> None:
    connection = open_for_writing(tmp_path / "t.db")
    views = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'view'")]
    assert list(comments) == views
    for view in views:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({view})")]
        assert list(comments[view].columns) == columns
        assert all(comments[view].columns.values())
    connection.close()


def test_view_is_told_by_the_comment_before_it(comments: dict[str, ViewComment]) -> None:
    assert comments["threads"].about == "Conversations: calls that go on from each other."
    assert comments["chunks"].about.startswith("Every chunk by itself: one socket read, or one WebSocket message")


def test_column_is_told_by_the_comment_behind_its_name(comments: dict[str, ViewComment]) -> None:
    assert comments["calls"].columns["stop_reason_raw"] == "as sent"
    assert comments["exchanges"].columns["path"] == "as received, with its query"


def test_comment_goes_on_in_lines_of_its_own(comments: dict[str, ViewComment]) -> None:
    assert comments["calls"].columns["last_input"] == "the text of the input's last message"


def test_column_without_a_comment_means_what_it_meant_before(comments: dict[str, ViewComment]) -> None:
    assert comments["speeds"].columns["exchange_id"] == comments["calls"].columns["exchange_id"]
