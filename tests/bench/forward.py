"""What the proxy costs on the way: `python -m tests.bench.forward` measures directly and through it, in turns.

A bare server answers at once, or streams chunks that carry their time. Client, server and proxy are processes of their
own on loopback; `ratio` is through the proxy over directly, the median of the rounds.
"""

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.proxy_process import ProxyProcess

ROUNDS = 5
SECONDS = 1.0
ASK = b'{"model":"bench","messages":[{"role":"user","content":"hi"}]}'
ANSWER = b'{"choices":[{"message":{"content":"' + b"word " * 150 + b'"}}]}'
HEAD = b"POST /v1/chat/completions%b HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n"
STREAMS, CHUNKS, EVERY_S = 16, 100, 0.005


class Upstream(asyncio.Protocol):
    """Answers each request: plainly, or with `?stream` in chunks that each say when they were sent."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`. A request comes in one piece."""
        if b"?stream" in data[:64]:
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            self.transport.write(head)
            self._send(CHUNKS)
        else:
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER))

    def _send(self, left: int) -> None:
        if not left:
            self.transport.write(b"0\r\n\r\n")
            return
        event = b"data: %020d %b\n\n" % (time.monotonic_ns(), b"x" * 180)
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        asyncio.get_running_loop().call_later(EVERY_S, self._send, left - 1)


def serve(port: "multiprocessing.Queue[int]") -> None:
    """The upstream's process."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
        port.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One plain request, to the end of its answer."""
    writer.write(HEAD % (b"", len(ASK)) + ASK)
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(len(ANSWER))


async def latency_us(port: int) -> float:
    """Median microseconds of a request, one after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    took = []
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        began = time.perf_counter()
        await ask(reader, writer)
        took.append(time.perf_counter() - began)
    writer.close()
    return statistics.median(took) * 1e6


async def requests_per_second(port: int) -> float:
    """With 64 connections at once."""
    until = time.monotonic() + SECONDS

    async def go() -> int:
        count = 0
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.monotonic() < until:
            await ask(reader, writer)
            count += 1
        writer.close()
        return count

    return sum(await asyncio.gather(*(go() for _ in range(64)))) / SECONDS


async def chunk_delay_us(port: int) -> float:
    """Median microseconds a chunk is on its way, of 16 streams."""
    delays: list[float] = []

    async def follow() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEAD % (b"?stream", len(ASK)) + ASK)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(CHUNKS):
            event = await reader.readuntil(b"\n\n\r\n")
            delays.append((time.monotonic_ns() - int(event[event.index(b"data: ") + 6 :][:20])) / 1000)
        writer.close()

    await asyncio.gather(*(follow() for _ in range(STREAMS)))
    return statistics.median(delays)


def main() -> None:
    """Print the table."""
    figures: list[tuple[str, Callable[[int], Awaitable[float]]]] = [
        ("a request's median time, us", latency_us),
        ("requests/s, 64 connections", requests_per_second),
        ("a chunk's median delay, 16 streams, us", chunk_delay_us),
    ]
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    upstream = multiprocessing.Process(target=serve, args=(ports,), daemon=True)
    upstream.start()
    direct = ports.get()
    with tempfile.TemporaryDirectory() as folder:
        proxy = ProxyProcess(Path(folder), f"http://127.0.0.1:{direct}").start()
        through_proxy = proxy.address[1]
        print(f"{'figure':42} {'directly':>10} {'through':>10} {'ratio':>7}")
        for name, measure in figures:
            rounds = [[asyncio.run(timed(measure, port)) for port in (direct, through_proxy)] for _ in range(ROUNDS)]
            one, other = (statistics.median(values) for values in zip(*rounds, strict=True))
            ratio = statistics.median(through / directly for directly, through in rounds)
            print(f"{name:42} {one:10.0f} {other:10.0f} {ratio:7.2f}", flush=True)
        proxy.stop()
    upstream.terminate()


async def timed(measure: Callable[[int], Awaitable[float]], port: int) -> float:
    """One round of one figure."""
    return await measure(port)


if __name__ == "__main__":
    main()
