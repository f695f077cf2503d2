"""What is read of a request before its connection to the upstream is at hand stays little."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from proxy.forward.cors import Cors
from proxy.forward.roles import Forwarding
from proxy.forward.server import Server
from proxy.forward.upstream import Upstream, UpstreamLink, Upstreams
from proxy.record.recorder import Recorder

BODY = bytes(6_000_000)
ONE_READ = 256 * 1024
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(
        tmp_path / "journal",
        memory_bytes=1 << 26,
        batch_s=0.002,
        segment_bytes=1 << 25,
        key=b"k" * 32,
        masked_headers=(),
        masked_websocket_fields=(),
    )
    yield made
    assert made.stop(10)


class WatchedUpstream(Upstream):
    """Notes how much waits whenever a connection is asked for."""

    server: Server

    def __init__(self, url: str) -> None:
        super().__init__("lmstudio", url, connect_timeout_s=5, idle_connection_s=5)
        self.unsent: list[int] = []

    def take_idle(self) -> UpstreamLink | None:
        """The same, noted."""
        self.unsent += [len(link.exchange._unsent) for link in self.server._links if link.exchange is not None]
        return super().take_idle()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):  # the proxy ended the connection
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split(b"\r")[0]))
            writer.write(OK)
    writer.close()


async def _uploads(recorder: Recorder, bodies: list[bytes]) -> list[int]:
    listener = await asyncio.start_server(_answer, "127.0.0.1", 0, limit=1 << 24)
    upstream = WatchedUpstream(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    cors = Cors(is_enabled=False, allow_origins=(), max_age_s=1)
    server = upstream.server = Server(Forwarding(recorder, Upstreams({"/": upstream}), cors, 65536))
    (address,) = await server.listen("127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*address.split(":"))
    for body in bodies:
        writer.write(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert await reader.readexactly(len(OK)) == OK
    writer.close()
    await writer.wait_closed()
    await server.stop(0)
    listener.close()
    await listener.wait_closed()
    return upstream.unsent


def test_a_long_body_read_in_one_go_does_not_gather(recorder: Recorder) -> None:
    """One event of the loop may be many reads, and even a kept connection to the upstream is taken only after it."""
    fresh, kept = uvloop.run(_uploads(recorder, [BODY, BODY]))
    assert 0 < fresh <= ONE_READ
    assert 0 < kept <= ONE_READ
