"""The wire that tests share: a scripted upstream, a proxy in front of it, and clients that are closed in the end.

With `--direct` the clients of the wire tests talk to the scripted upstream itself. What then fails is wrong in the
test; what fails only without it is wrong in the proxy. Tests of what only a proxy does are left out.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

from tests.proxy_process import ProxyProcess
from tests.raw_client import Address, RawClient
from tests.raw_server import OK, RawServer, Script
from tests.raw_socket import Response

settings.register_profile("proxy-log", deadline=None)  # a slow machine is no failure
settings.load_profile("proxy-log")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--direct` and `--update-readings`."""
    parser.addoption("--direct", action="store_true", help="let the wire tests bypass the proxy, to test themselves")
    parser.addoption(
        "--update-readings", action="store_true", help="write the recorded cases' readings anew, for a look at the diff"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that leaves tests out of `--direct`."""
    config.addinivalue_line("markers", "through_proxy: tests what only a proxy does; left out with --direct")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave them out."""
    if config.getoption("--direct"):
        for item in items:
            if item.get_closest_marker("through_proxy"):
                item.add_marker(pytest.mark.skip(reason="only a proxy does that"))


@dataclass
class Wire:
    """A way from clients to a scripted upstream."""

    upstream: RawServer
    address: Address
    """Where clients connect."""
    proxy: ProxyProcess | None
    """What is between; None with `--direct`."""
    clients: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def connect(self, receive_buffer: int = 0) -> RawClient:
        """A new client; closed when the test ends."""
        return self.clients.enter_context(RawClient(self.address, receive_buffer))

    def ask(self, request: bytes, script: Script = OK) -> Response:
        """One request on a connection of its own, answered by `script`."""
        self.upstream.begin(script)
        return self.connect().ask(request)

    def exchange_of(self, client: RawClient) -> sqlite3.Row:
        """The client's one exchange as the trace has it, once it ended."""
        assert self.proxy
        return self.proxy.exchange_of(client.id)


StartProxy = Callable[..., ProxyProcess]


@contextlib.contextmanager
def running(folder: Path, upstream_url: str, config: Mapping[str, object] | None = None) -> Iterator[ProxyProcess]:
    """A proxy that runs for a while; in the end it must stop in order, and its trace must be sound."""
    proxy = ProxyProcess(folder, upstream_url, config).start()
    try:
        yield proxy
        assert proxy.stop() == 0, proxy.output()
    finally:
        proxy.kill()
    assert "Traceback" not in proxy.output()
    proxy.run("verify")


@pytest.fixture(scope="session")
def shared_upstream() -> Iterator[RawServer]:
    """One scripted server for all tests that share a proxy."""
    with contextlib.closing(RawServer()) as server:
        yield server


@pytest.fixture
def upstream(shared_upstream: RawServer) -> Iterator[RawServer]:
    """A scripted server that remembers nothing of the tests before."""
    shared_upstream.begin()
    yield shared_upstream
    shared_upstream.check()


@pytest.fixture(scope="session")
def shared_proxy(shared_upstream: RawServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """One proxy with the default settings."""
    with running(tmp_path_factory.mktemp("proxy"), shared_upstream.url) as proxy:
        yield proxy


@pytest.fixture(scope="session")
def shared_plain_proxy(shared_upstream: RawServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """One proxy that leaves CORS alone, so that nothing but hop-by-hop fields may differ."""
    config = {"cors": {"enabled": False}}
    with running(tmp_path_factory.mktemp("plain"), shared_upstream.url, config) as proxy:
        yield proxy


def _wire(request: pytest.FixtureRequest, upstream: RawServer, proxy_fixture: str) -> Iterator[Wire]:
    if request.config.getoption("--direct"):
        wire = Wire(upstream, upstream.address, None)
    else:
        proxy: ProxyProcess = request.getfixturevalue(proxy_fixture)
        wire = Wire(upstream, proxy.address, proxy)
    with wire.clients:
        yield wire


@pytest.fixture
def wire(request: pytest.FixtureRequest, upstream: RawServer) -> Iterator[Wire]:
    """The way through a proxy with default settings."""
    yield from _wire(request, upstream, "shared_proxy")


@pytest.fixture
def plain_wire(request: pytest.FixtureRequest, upstream: RawServer) -> Iterator[Wire]:
    """The way through a proxy that leaves CORS alone."""
    yield from _wire(request, upstream, "shared_plain_proxy")


@pytest.fixture
def start_proxy(upstream: RawServer, tmp_path: Path) -> Iterator[StartProxy]:
    """Starts proxies of the test's own: `start_proxy(config={…}, upstream_url=…)`. Those that still run are killed."""
    with contextlib.ExitStack() as started:

        def start(
            config: Mapping[str, object] | None = None, upstream_url: str = "", name: str = "own"
        ) -> ProxyProcess:
            proxy = ProxyProcess(tmp_path / name, upstream_url or upstream.url, config)
            started.callback(proxy.kill)
            return proxy.start()

        yield start
