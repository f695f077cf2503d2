"""A trace with some traffic, its pages on a real socket, and a way to ask for them."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from aiohttp import web

from proxy.config import Address
from proxy.web.app import DOCS, PageServer, Site
from tests.cli.recording import Recording, recording


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def text(self) -> str:
        """The body, decoded."""
        return self.body.decode()


class Served:
    """A site that is served, on a port of the system's choice."""

    def __init__(self, trace: Path, docs: Path = DOCS, host: str = "localhost") -> None:
        address = Address(host, 0)
        app = Site(trace, address, docs).app
        app.on_response_prepare.append(self._answers)
        self.server = PageServer(app, address)
        self.on_answer: Callable[[str], None] = lambda path: None
        """Called, in some thread, before each answer leaves, with the path that was asked for."""

    async def _answers(self, request: web.Request, response: web.StreamResponse) -> None:
        await asyncio.to_thread(self.on_answer, request.path)

    def __enter__(self) -> Self:
        self.server.start()
        assert self.server.is_listening.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return f"http://localhost:{self.server.port}"

    def ask(self, target: str, method: str = "GET", host: str = "", **headers: str) -> Answer:
        """One request on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, target, headers={"Host": host or f"localhost:{self.server.port}", **fields})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recording]:
    """An empty recording."""
    with recording(tmp_path / "trace.db") as made:
        yield made


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder with two documents."""
    folder = tmp_path / "docs"
    (folder / "how-to").mkdir(parents=True)
    (folder / "tutorial.md").write_text("# First steps\n\nGo to [curl](how-to/curl.md).\n\n<script>no()</script>\n")
    (folder / "how-to" / "curl.md").write_text("# curl\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    return folder


@pytest.fixture
def site(recorded: Recording, docs: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Served]:
    """The pages of `recorded`; no request may have broken down in the end."""
    with Served(recorded.trace, docs) as served:
        yield served
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
