"""A proxy that listens to a lookalike's log, in processes of their own, and what its trace says of the prompts."""

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from proxy.demo.lookalike_process import LookalikeProcess, Settings
from tests.conftest import running
from tests.proxy_process import ProxyProcess, wait_until

PATIENCE_S = 60.0
_LOOK_AGAIN_S = 0.1
_WAITING = """
SELECT (SELECT count(*) FROM unread_exchanges), (SELECT count(*) FROM prompt_queue),
    (SELECT count(*) FROM read_calls WHERE is_running AND operation <> 'log')"""
LISTENING = "SELECT 1 FROM engine_log_status WHERE state = 'listening'"


class Saw:
    """A proxy before a server, and its trace."""

    def __init__(self, proxy: ProxyProcess, upstream_url: str, model: str) -> None:
        self.proxy = proxy
        self.upstream_url = upstream_url
        self.model = model

    def ask(self, messages: Sequence[Mapping[str, Any]], url: str = "", **more: Any) -> dict[str, Any]:
        """A chat completion through the proxy (or by another `url`), answered whole."""
        return post(url or self.proxy.url, "/v1/chat/completions", {"model": self.model, "messages": messages, **more})

    def call(self, response_id: str) -> int:
        """The call with that answer, once all is found out about it."""
        return int(self.wait("SELECT id FROM calls WHERE response_id = ?", response_id)[0][0])

    def wait(self, query: str, *values: object) -> list[sqlite3.Row]:
        """Rows of a query, once there are some and nothing waits to be looked at."""

        def look() -> list[sqlite3.Row]:
            rows = self.proxy.query(query, *values) if self._is_done() else []
            rows = rows if self._is_done() else []  # a call may have begun to be read between the two
            if not rows:
                time.sleep(_LOOK_AGAIN_S)  # looking has its price, too
            return rows

        return wait_until(look, query, PATIENCE_S)

    def _is_done(self) -> bool:
        waiting = self.proxy.query(_WAITING)
        return bool(waiting) and not any(waiting[0])

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Rows of a query, as they are now."""
        return [tuple(row) for row in self.proxy.query(query, *values)]


@contextmanager
def before_lookalike(folder: Path, settings: Settings) -> Iterator[Saw]:
    """A lookalike with a proxy that listens to its log already."""
    folder.mkdir(exist_ok=True)
    with LookalikeProcess.start(settings, log=folder / "lookalike.log") as lookalike:
        url = lookalike.ready.url
        with running(folder / "proxy", url, {"engine_log": {"enabled": True}, "prompt": {"ask": True}}) as proxy:
            saw = Saw(proxy, url, lookalike.ready.model)
            wait_until(lambda: proxy.query(LISTENING), "it listens", PATIENCE_S)
            yield saw


def post(url: str, path: str, body: object) -> dict[str, Any]:
    """The JSON that a POST of JSON is answered with; `status` is added to it."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        return {**answer, "status": response.status}
    finally:
        connection.close()


def stream(url: str, path: str, body: object, *, leave_at: bytes | None = None) -> bytes:
    """A streamed answer; with `leave_at` the client leaves as soon as it sees that."""
    place = urlsplit(url)
    connection = HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE_S)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        got = b""
        while line := response.readline():
            got += line
            if leave_at is not None and leave_at in line:
                break
        return got
    finally:
        connection.close()
