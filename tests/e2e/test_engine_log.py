"""The engine's log, as `serve` listens to it: a real proxy before the lookalike in a process of its own."""

import json
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.demo.lookalike_process import LookalikeProcess, Settings
from tests.conftest import running
from tests.proxy_process import ProxyProcess, free_port, wait_until

TOKEN = "sk-lm-demo0001:abcdefghij0123456789"
EVENTS = "SELECT id, event, text, response_id FROM engine_events WHERE event = ? AND text LIKE ? ORDER BY id"
LOGS = "SELECT * FROM exchanges WHERE path LIKE '%/diagnostics' ORDER BY id"


class Engine:
    """A lookalike that can be stopped and started again at its place."""

    def __init__(self, folder: Path, **switches: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._switches = {"window": "true", **switches}
        self._process: LookalikeProcess | None = None

    def start(self) -> "Engine":
        """Start it, with its first model loaded."""
        self._folder.mkdir(exist_ok=True)
        settings = Settings(port=self.port, switches=self._switches)
        self._process = LookalikeProcess.start(settings, log=self._folder / "lookalike.log")
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()
        self._process = None

    @property
    def model(self) -> str:
        """What requests name."""
        assert self._process is not None
        return self._process.ready.model

    def type(self, text: str) -> None:
        """A chat in the imagined window."""
        post(self.url, "/_demo/window", {"text": text})

    def ask(self, text: str, url: str | None = None, **headers: str) -> dict[str, Any]:
        """A chat completion, on the engine's own port or through what is at `url`."""
        body = {"model": self.model, "messages": [{"role": "user", "content": text}]}
        return post(url or self.url, "/v1/chat/completions", body, **headers)


def post(url: str, path: str, body: object, **headers: str) -> dict[str, Any]:
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        data = response.read()
        assert response.status == 200, data
        answer: dict[str, Any] = json.loads(data)
        return answer
    finally:
        connection.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Starts engines, which end with the test."""
    with ExitStack() as stack:

        def started(**switches: str) -> Engine:
            engine = Engine(tmp_path / "engine", **switches)
            stack.callback(engine.stop)
            return engine.start()

        yield started


@contextmanager
def listening(folder: Path, url: str, *, finds_prompts: bool = True, **settings: object) -> Iterator[ProxyProcess]:
    """A proxy that listens to the engine's log; without `finds_prompts` no event becomes a call."""
    config = {"engine_log": settings or {"enabled": True}, "prompt": {"enabled": finds_prompts}}
    with running(folder / "proxy", url, config) as proxy:
        yield proxy


def status(proxy: ProxyProcess) -> Mapping[str, str] | None:
    rows = proxy.query("SELECT upstream, state, detail FROM engine_log_status")
    return dict(rows[0]) if rows else None


def wait_for_state(proxy: ProxyProcess, state: str) -> Mapping[str, str]:
    def look() -> Mapping[str, str] | None:
        found = status(proxy)
        return found if found is not None and found["state"] == state else None

    try:
        found = wait_until(look, f"the state is {state}")
    except TimeoutError as error:
        raise TimeoutError(f"{error}; it is {status(proxy)}; {proxy.output()}") from None
    assert found is not None
    return found


def events(proxy: ProxyProcess, event: str, text: str, count: int = 1) -> list[sqlite3.Row]:
    """Events with that text, as soon as there are so many."""

    def look() -> list[sqlite3.Row]:
        rows = proxy.query(EVENTS, event, f"%{text}%")
        return rows if len(rows) >= count else []

    try:
        return wait_until(look, f"{count} of {event} with {text}")
    except TimeoutError as error:
        seen = [tuple(row) for row in proxy.query("SELECT id, event, text FROM engine_events")]
        raise TimeoutError(f"{error}; there are {seen}; {proxy.output()}") from None


def test_predictions_of_the_proxy_the_window_and_other_programs_are_read_while_the_log_runs(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = start()
    with listening(tmp_path, engine.url) as proxy:
        wait_for_state(proxy, "listening")
        answer = engine.ask("through the proxy", proxy.url)
        engine.type("into the window")
        engine.ask("to its own port")
        for text in ("through the proxy", "into the window", "to its own port"):
            assert len(events(proxy, "input", text)) == 1
        told = answer["choices"][0]["message"]["content"]
        assert events(proxy, "output", told)
        (generated,) = [row for row in events(proxy, "generated", told) if row["response_id"] == answer["id"]]
        assert generated["text"] == told
        (log,) = proxy.query(LOGS)
        assert log["outcome"] is None, "it was read while it ran"
        assert "engine's log of lmstudio: listening" in proxy.output()
        before = proxy.query(
            "SELECT id, seq, operation, started_at_us FROM read_calls WHERE exchange_id = ?", log["id"]
        )
        assert (
            proxy.query("SELECT count(*) AS n FROM read_calls WHERE tag = 'engine-log' AND thread_id IS NOT NULL")[0][
                "n"
            ]
            == 0
        )
    (log,) = proxy.query(LOGS)
    assert log["outcome"] in ("completed", "client_gone")
    after = proxy.query("SELECT id, seq, operation, started_at_us FROM read_calls WHERE exchange_id = ?", log["id"])
    ids = {row["seq"]: row["id"] for row in after}
    assert len(ids) == len(after)
    assert {row["seq"]: row["id"] for row in before}.items() <= ids.items()
    assert status(proxy) is None, "nobody listens any more"
    assert "are given" not in proxy.output(), "the end of serve does not wait for its own subscription"


def test_upstream_that_restarts_is_listened_to_again(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start()
    with listening(tmp_path, engine.url) as proxy:
        wait_for_state(proxy, "listening")
        engine.stop()
        wait_until(lambda: (status(proxy) or {}).get("state") != "listening", "the loss is told")
        engine.start()
        wait_for_state(proxy, "listening")
        engine.type("after the restart")
        assert len(events(proxy, "input", "after the restart")) == 1
        assert len(proxy.query(LOGS)) == 2


@pytest.mark.parametrize(
    ("token", "state"), [(TOKEN, "listening"), ("", "refused"), ("sk-lm-demo0001:zyxwvutsrq9876543210", "refused")]
)
def test_token_decides_where_the_server_asks_for_one(
    start: Callable[..., Engine], tmp_path: Path, token: str, state: str
) -> None:
    engine = start(auth="true")
    with listening(tmp_path, engine.url, token=token) as proxy:
        told = wait_for_state(proxy, state)
        if token:
            assert token.partition(":")[2] not in told["detail"] + proxy.output()
            command_lines = [
                Path(f"/proc/{pid}/cmdline").read_bytes() for pid in (proxy.front_pid, proxy.wait_for_back())
            ]
            assert not any(token.encode() in line for line in command_lines)
    if token:
        assert proxy.files_with(token.partition(":")[2].encode()) == ["config.toml"]


def test_log_that_this_port_does_not_serve_is_listened_to_on_the_internal_one(
    start: Callable[..., Engine], tmp_path: Path
) -> None:
    engine = start(diagnostics="false", auth="true")  # with it, an unknown path is refused at once
    other = Engine(tmp_path / "internal").start()
    try:
        with listening(tmp_path, engine.url, internal_url=other.url) as proxy:
            wait_for_state(proxy, "listening")
            other.type("seen inside")
            assert len(events(proxy, "input", "seen inside")) == 1
            ended, log = proxy.query(LOGS)
            assert (ended["upstream"], ended["status"]) == ("lmstudio", 401)
            assert (log["upstream"], log["outcome"]) == ("lmstudio-log", None)
    finally:
        other.stop()


def test_log_that_is_served_nowhere_is_told(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start(diagnostics="false", auth="true")
    with listening(tmp_path, engine.url) as proxy:
        assert "status 401" in wait_for_state(proxy, "refused")["detail"]


class _Plain(BaseHTTPRequestHandler):
    """No LM Studio."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


def test_server_that_is_not_lmstudio_is_asked_once_and_nothing_is_recorded(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Plain)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        with listening(tmp_path, f"http://127.0.0.1:{server.server_port}") as proxy:
            wait_for_state(proxy, "not_lmstudio")
        assert proxy.query("SELECT * FROM exchanges") == []
        assert server.asked == ["/lmstudio-greeting"]  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_killed_back_doubles_and_loses_nothing(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start()
    with listening(tmp_path, engine.url) as proxy:
        wait_for_state(proxy, "listening")
        for number in range(5):
            engine.type(f"before {number}")
        events(proxy, "input", "before", 5)
        back = proxy.wait_for_back()
        os.kill(back, signal.SIGKILL)
        proxy.wait_for_back(other_than=back)
        wait_until(lambda: len(proxy.query(LOGS)) == 2, "it listens again")
        wait_for_state(proxy, "listening")
        for number in range(5):
            engine.type(f"after {number}")
        events(proxy, "input", "after", 5)
    inputs = proxy.query("SELECT text FROM engine_events WHERE event = 'input'")
    asked = [f"before {n}" for n in range(5)] + [f"after {n}" for n in range(5)]
    assert [sum(one in row["text"] for row in inputs) for one in asked] == [1] * 10


def test_reading_the_log_again_gives_the_same_rows(start: Callable[..., Engine], tmp_path: Path) -> None:
    engine = start()
    with listening(tmp_path, engine.url, finds_prompts=False) as proxy:
        wait_for_state(proxy, "listening")
        for number in range(3):
            engine.type(f"chat {number}")
            events(proxy, "output", "", number + 1)
    rows = "SELECT id, seq, reader_id, event, text, e.stats FROM read_calls JOIN engine_events e USING (id) ORDER BY id"
    before = [tuple(row) for row in proxy.query(rows)]
    assert len(before) >= 6
    proxy.run("reread", "--all")
    assert [tuple(row) for row in proxy.query(rows)] == before
