"""The lookalike, and a real `proxy-log serve` before it: what a client's scenario is played on, twice."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Engine
from proxy.demo.lookalike import Lookalike
from proxy.demo.server import LookalikeServer
from proxy.exchange import Side
from proxy.store.trace import ExchangeRow, Trace
from tests.conftest import running
from tests.demo.clients.loop_thread import LoopThread
from tests.demo.clients.sameness import normal
from tests.demo.clients.tap import Connection, Heard, Tap, websocket_messages
from tests.proxy_process import ProxyProcess, wait_until
from tests.raw_client import Address, ClientId

Scenario = Callable[[str], Any]
"""Plays with a server at a URL and gives JSON data: what the client has seen."""
ENDED = ("completed", "client_gone")
"""Outcomes of an exchange that nothing went wrong with; SDKs close at `[DONE]`, a few bytes before the end."""


@dataclass
class Stage:
    """One engine, directly and through the proxy."""

    look: Lookalike
    url: str
    """Directly."""
    proxy: ProxyProcess
    tap: Tap
    thread: LoopThread
    llm: str
    """A model that is told what to say by the prompt alone."""
    embedder: str
    is_real: bool
    """A real model: its words are its own, and it takes time."""

    @property
    def address(self) -> Address:
        """The lookalike's."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def both_ways(self, scenario: Scenario) -> Any:
        """Play it directly and through the proxy; the results must be the same, and the trace must hold the bytes.

        Returns:
            What came through the proxy.
        """
        self.reset()
        direct = scenario(self.url)
        self.reset()
        self.tap.connections.clear()
        proxied = scenario(self.tap.url)
        assert normal(proxied) == normal(direct)
        self.thread.run(self.tap.settled())
        checked = sum(self._check_recorded(connection) for connection in self.tap.connections)
        assert checked, "the client came by"
        return proxied

    def heard(self) -> list[Heard]:
        """What the last scenario's client sent and got through the proxy."""
        return [heard for connection in self.tap.connections for heard in connection.exchanges()]

    def reset(self) -> None:
        """Nothing is loaded, no chat is remembered, nobody is being answered."""
        wait_until(lambda: not any(one.in_line for one in self.look.catalog.instances), "all predictions ended")
        for one in list(self.look.catalog.instances):
            self.thread.run(self.look.catalog.unload(one.identifier))
        self.look.chats.clear()

    @contextlib.contextmanager
    def trace(self) -> Iterator[Trace]:
        """The trace, as the command line opens it."""
        with contextlib.closing(Trace.open(self.proxy.trace)) as trace:
            yield trace

    def recorded(self, client: ClientId, count: int) -> list[ExchangeRow]:
        """A client's exchanges, once so many have ended."""
        ids = [row["id"] for row in self.proxy.exchanges_of(client, count)]
        with self.trace() as trace:
            return [row for id_ in ids if (row := trace.exchange(id_))]

    def recorded_body(self, exchange: ExchangeRow, side: Side) -> bytes:
        """A body as the trace has it."""
        with self.trace() as trace:
            return b"".join(trace.body(exchange.id, side))

    def _check_recorded(self, connection: Connection) -> int:
        """Check a connection's exchanges; give their number."""
        exchanges = list(connection.exchanges())
        rows = self.recorded(connection.id, len(exchanges)) if exchanges else []
        assert len(rows) == len(exchanges), [heard.target for heard in exchanges]
        for row, heard in zip(rows, exchanges, strict=True):
            self._check_exchange(row, heard)
        return len(exchanges)

    def _check_exchange(self, row: ExchangeRow, heard: Heard) -> None:
        """The trace has it as the client had it, to the byte."""
        assert (row.method, row.path, row.status) == (heard.method, heard.target, heard.status)
        assert row.outcome in ENDED, row
        assert row.gaps == 0, row
        if heard.status == 101:
            self._check_websocket(row, heard)
            return
        response = self.recorded_body(row, Side.UPSTREAM)
        if heard.is_whole:
            assert response == heard.response
        else:  # it left; the proxy may have sent the end already, to a socket that nobody reads any more
            assert response.startswith(heard.response)
        if not row.masked:
            assert self.recorded_body(row, Side.CLIENT) == heard.request

    def _check_websocket(self, row: ExchangeRow, heard: Heard) -> None:
        sql = "SELECT side, kind, CAST(text AS BLOB) AS data FROM websocket_messages WHERE exchange_id = ? ORDER BY seq"
        stored = self.proxy.query(sql, row.id)
        for side, by_client in (("client", True), ("upstream", False)):
            recorded = [(one["kind"], bytes(one["data"] or b"")) for one in stored if one["side"] == side]
            said = websocket_messages(heard, by_client=by_client)
            assert said
            if by_client:  # the first one is the authentication: its passkey is masked
                assert set(json.loads(recorded[0][1])) == set(json.loads(said[0][1]))
                recorded, said = recorded[1:], said[1:]
            assert recorded[: len(said)] == said
            assert len(recorded) == len(said) or heard.is_whole


@contextlib.contextmanager
def staged(engine: Engine, folder: Path, *, llm: str, embedder: str, is_real: bool) -> Iterator[Stage]:
    """A stage that runs for a while; in the end the trace is verified.

    Where a request names no temperature, it is 0, as if it were set for the model: runs must be the same.
    """
    with LoopThread() as thread:
        look = Lookalike(engine, Behaviour(), model_defaults={"llm.prediction.temperature": 0})
        server = LookalikeServer(look)
        thread.run(server.start())
        try:
            with running(folder, server.url) as proxy:
                tap = Tap(proxy.address)
                thread.run(tap.start())
                try:
                    yield Stage(look, server.url, proxy, tap, thread, llm, embedder, is_real)
                finally:
                    thread.run(tap.close())
        finally:
            thread.run(server.close())
            thread.run(asyncio.sleep(0))
