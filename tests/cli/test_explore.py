"""`proxy-log explore`: the trace in a real Datasette, over HTTP."""

import html
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from proxy.cli.explore_pages import QUERIES, VIEWS
from tests.cli.conftest import Run
from tests.cli.conversations import ask, read, record_conversations, said
from tests.cli.recording import Recording, recording
from tests.docs_generator import view_columns

ALL_VIEWS = view_columns()


class Explored:
    """A site that runs, and what it shows."""

    def __init__(self, recorded: Recording, port: int) -> None:
        self.recorded = recorded
        self.port = port

    def get(self, path: str, host: str | None = None) -> tuple[int, str]:
        """Status and page; a redirection is followed."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{self.port}"})
        response = connection.getresponse()
        page = response.read().decode()
        connection.close()
        location = response.headers["Location"]
        return self.get(location) if location else (response.status, page)

    def rows(self, path: str, **values: object) -> list[dict[str, object]]:
        """The rows of a page, by its JSON."""
        status, page = self.get(f"/trace/{path}.json?{urlencode({'_shape': 'array', **values})}")
        assert status == 200, page
        rows: list[dict[str, object]] = json.loads(page)
        return rows


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explored]:
    """The command itself, in a process of its own, while the trace is open for writing."""
    with recording(tmp_path_factory.mktemp("explore") / "my trace.db") as recorded:
        record_conversations(recorded)
        read(recorded)
        command = [sys.executable, "-m", "proxy", "explore", "--no-open", "--port", "0", "--trace", str(recorded.trace)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as process:
            assert process.stdout is not None
            found = re.search(r"http://127\.0\.0\.1:(\d+)/trace ", process.stdout.readline())
            assert found
            try:
                yield Explored(recorded, int(found[1]))
            finally:
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == 0


@pytest.mark.parametrize("view", ALL_VIEWS)
def test_every_view_has_a_page_with_its_columns_in_words(site: Explored, view: str) -> None:
    status, page = site.get(f"/trace/{view}")
    assert status == 200
    described = re.findall(r"<dt>(\w+)</dt><dd>(.*?)</dd>", page)
    assert [name for name, _ in described] == ALL_VIEWS[view]
    assert all(meaning for _, meaning in described)


@pytest.mark.parametrize("view", [view for view, shown in VIEWS.items() if shown.facets])
def test_facets_of_a_view_are_counted(site: Explored, view: str) -> None:
    status, page = site.get(f"/trace/{view}.json")
    assert status == 200
    counted = json.loads(page)["facet_results"]
    assert set(counted) == set(VIEWS[view].facets)


def test_facet_narrows_the_rows(site: Explored) -> None:
    assert {row["label"] for row in site.rows("calls", label="branch")} == {"branch"}


@pytest.mark.parametrize("query", QUERIES)
def test_ready_question_gives_an_answer(site: Explored, query: str) -> None:
    status, page = site.get(f"/trace/{query}")
    assert status == 200
    assert html.escape(QUERIES[query].about).replace("&#x27;", "'") in html.unescape(page).replace("&#x27;", "'")
    if query != "reported_and_measured":  # no call here has both
        assert site.rows(query, call_id=7)


def test_conversation_is_that_of_the_call_asked_for(site: Explored) -> None:
    assert [row["id"] for row in site.rows("conversation", call_id=3)] == [1, 2, 3, 4]
    assert [row["id"] for row in site.rows("conversation", call_id=6)] == [5, 6]
    assert [row["text"] for row in site.rows("input_of_a_call", call_id=2)] == [
        *("Tell me about mice.", "Mice are small.", "And cats?", "Cats are larger.")
    ]


def test_calls_begin_with_the_newest_and_with_few_columns(site: Explored) -> None:
    _, page = site.get("/trace/calls")
    assert _headings(page) == list(VIEWS["calls"].short)
    _, all_columns = site.get("/trace/calls?_sort_desc=id")
    assert _headings(all_columns) == ALL_VIEWS["calls"]
    first, *_ = re.findall(r'<td class="col-id [^"]*">(\d+)</td>', page)
    assert int(first) == max(int(str(row["id"])) for row in site.rows("calls"))


def _headings(page: str) -> list[str]:
    return re.findall(r'<th [^>]*data-column="(\w+)"', page)


def test_internal_tables_are_hidden(site: Explored) -> None:
    _, page = site.get("/trace")
    assert "hidden tables" in page
    assert "/trace/read_calls" not in page
    assert "/trace/calls" in page


def test_what_is_recorded_meanwhile_is_there(site: Explored) -> None:
    before = len(site.rows("calls"))
    ask(site.recorded, said("Are you still there?"), "I am.")
    read(site.recorded)
    assert len(site.rows("calls")) == before + 1


def test_nothing_can_be_written(site: Explored) -> None:
    for sql in ("DELETE FROM read_calls", "PRAGMA user_version = 9", "WITH a AS (SELECT 1) DELETE FROM read_calls"):
        status, _ = site.get(f"/trace.json?{urlencode({'sql': sql})}")
        assert status == 400
    with sqlite3.connect(site.recorded.trace) as connection:
        assert connection.execute("SELECT count(*) FROM read_calls").fetchone()[0] >= 8
    connection.close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_other_names_of_this_machine_are_refused(site: Explored, host: str) -> None:
    status, page = site.get("/trace", host=host or " ")
    assert status in (400, 403)
    assert "calls" not in page


def test_port_that_is_taken_is_told(recorded: Recording, run: Run) -> None:
    recorded.take_in()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("explore", "--no-open", "--port", str(port))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: cannot listen on port {port}: ")


def test_missing_trace_is_told(run: Run, tmp_path: Path) -> None:
    result = run("explore", "--no-open", "--trace", str(tmp_path / "none.db"))
    assert result.exit_code == 1
    assert "there is no trace at" in result.stderr


def test_without_datasette_the_extra_is_named(recorded: Recording, tmp_path: Path) -> None:
    recorded.take_in()
    program = (
        "import sys; sys.modules['datasette'] = None\n"
        "from proxy.cli.main import main; sys.argv = ['proxy-log', 'explore', '--no-open']; main()"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install '.[datasette]'" in ran.stderr
    assert "Traceback" not in ran.stderr
