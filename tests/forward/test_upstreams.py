"""Several upstreams behind one proxy: by prefix, with a path of their own, over TLS, by IPv6."""

import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import running
from tests.proxy_process import ProxyProcess
from tests.raw_client import RawClient
from tests.raw_server import RawServer, answer, length_response

pytestmark = pytest.mark.through_proxy


@pytest.fixture(scope="module")
def other() -> Iterator[RawServer]:
    """A second upstream; it says who it is."""
    with contextlib.closing(RawServer()) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(
    shared_upstream: RawServer, other: RawServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProxyProcess]:
    """A proxy with four ways to two servers."""
    upstreams = {
        "far": {"url": other.url + "/api", "prefix": "/openrouter"},
        "bare": {"url": other.url, "prefix": "/bare"},
        "deep": {"url": other.url + "/deep", "prefix": "/openrouter/deep"},
    }
    with running(tmp_path_factory.mktemp("several"), shared_upstream.url, {"upstreams": upstreams}) as process:
        yield process


WAYS = {
    b"/openrouter/v1/models?x=1": ("far", b"/api/v1/models?x=1"),
    b"/openrouter/%2F//a": ("far", b"/api/%2F//a"),
    b"/openrouter/": ("far", b"/api/"),
    b"/openrouter/deep/v1": ("deep", b"/deep/v1"),
    b"/openrouter/deeper": ("far", b"/api/deeper"),
    b"/bare/v1?q=/openrouter/": ("bare", b"/v1?q=/openrouter/"),
    b"/bare/": ("bare", b"/"),
}


@pytest.mark.parametrize("target", WAYS, ids=bytes.decode)
def test_the_longest_prefix_decides_and_is_replaced_by_the_urls_path(
    proxy: ProxyProcess, upstream: RawServer, other: RawServer, target: bytes
) -> None:
    name, expected = WAYS[target]
    other.begin(answer(length_response(b"other")))
    with RawClient(proxy.address) as client:
        assert client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n").body == b"other"
        row = proxy.exchange_of(client.id)
    assert other.request.head.target == expected
    assert other.request.head.get(b"host") == other.authority.encode()
    assert upstream.requests == []
    assert (row["path"], row["forwarded_path"]) == (target.decode(), expected.decode())
    assert row["upstream"] == name


@pytest.mark.parametrize("target", [b"/openrouter", b"/openrouter?x=1", b"/bare", b"/bare?x=1"])
def test_a_prefix_alone_is_the_urls_path(proxy: ProxyProcess, other: RawServer, target: bytes) -> None:
    other.begin(answer(length_response(b"other")))
    with RawClient(proxy.address) as client:
        assert client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n").body == b"other"
    path, _, query = other.request.head.target.partition(b"?")
    assert path.rstrip(b"/") == (b"/api" if b"openrouter" in target else b"")
    assert path.startswith(b"/")
    assert query == target.partition(b"?")[2]


@pytest.mark.parametrize(
    "target", [b"/openrouterx/v1", b"/Openrouter/v1", b"/%6fpenrouter/v1", b"//bare/v1", b"/v1/bare/"]
)
def test_what_only_resembles_a_prefix_goes_to_the_default(
    proxy: ProxyProcess, upstream: RawServer, other: RawServer, target: bytes
) -> None:
    other.begin()
    with RawClient(proxy.address) as client:
        client.ask(b"GET " + target + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert upstream.request.head.target == target
    assert other.requests == []


def test_one_client_connection_may_use_several(proxy: ProxyProcess, upstream: RawServer, other: RawServer) -> None:
    other.begin(answer(length_response(b"other")))
    with RawClient(proxy.address) as client:
        client.send(b"".join(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"/a", b"/bare/b", b"/c")))
        assert [client.read_response().body for _ in range(3)] == [b"ok", b"other", b"ok"]


def test_the_error_names_the_upstream_that_is_down(
    shared_upstream: RawServer, tmp_path: Path, unused_port: int
) -> None:
    upstreams = {"cloud": {"url": f"http://127.0.0.1:{unused_port}", "prefix": "/cloud"}}
    with (
        running(tmp_path, shared_upstream.url, {"upstreams": upstreams}) as process,
        RawClient(process.address) as client,
    ):
        response = client.ask(b"GET /cloud/v1 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert response.status == 502
        assert b"cloud" in response.body
        assert f"127.0.0.1:{unused_port}".encode() in response.body


@pytest.fixture
def unused_port() -> int:
    """A port where nobody listens."""
    with contextlib.closing(RawServer()) as server:
        return server.address[1]


def test_an_upstream_on_ipv6(tmp_path: Path) -> None:
    try:
        server = RawServer("::1")
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with contextlib.closing(server), running(tmp_path, server.url) as process, RawClient(process.address) as client:
        assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").body == b"ok"
        assert server.request.head.get(b"host") == server.authority.encode()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_upstream_named_localhost_may_listen_on_either_loopback_address(tmp_path: Path, host: str) -> None:
    """As Node does, which takes the one or the other by its version."""
    try:
        server = RawServer(host)
    except OSError:
        pytest.skip("no IPv6 on this machine")
    url = f"http://localhost:{server.address[1]}"
    with contextlib.closing(server), running(tmp_path, url) as process, RawClient(process.address) as client:
        assert client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").body == b"ok"
        assert server.request.head.get(b"host") == b"localhost:%d" % server.address[1]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-made certificate for localhost, with its key in the same file."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("certificate")
    arguments = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run(["openssl", *arguments, *names, *files], check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "certificate.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[RawServer]:
    """A server that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with contextlib.closing(RawServer(tls=context)) as server:
        yield server


def _tls_proxy(folder: Path, server: RawServer) -> ProxyProcess:
    return ProxyProcess(folder, f"https://localhost:{server.address[1]}/api")


def test_an_upstream_over_tls(tmp_path: Path, tls_server: RawServer, certificate: Path) -> None:
    proxy = _tls_proxy(tmp_path, tls_server).start({"SSL_CERT_FILE": str(certificate)})
    body = bytes(range(256)) * 4000
    tls_server.begin(answer(length_response(body)))
    try:
        with RawClient(proxy.address) as client:
            response = client.ask(b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            assert response.body == body
            assert tls_server.request.body == body
            assert tls_server.request.head.target == b"/api/x"
            assert tls_server.request.head.get(b"host") == b"localhost:%d" % tls_server.address[1]
            row = proxy.exchange_of(client.id)
            assert proxy.body(row["id"], "response") == body
    finally:
        proxy.kill()


def test_an_upstream_whose_certificate_is_not_trusted_is_unreachable(tmp_path: Path, tls_server: RawServer) -> None:
    proxy = _tls_proxy(tmp_path, tls_server).start()
    try:
        with RawClient(proxy.address) as client:
            response = client.ask(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert response.status == 502
            assert b"certificate" in response.body.lower()
            assert proxy.exchange_of(client.id)["outcome"] == "upstream_unreachable"
    finally:
        proxy.kill()
    assert tls_server.requests == []
