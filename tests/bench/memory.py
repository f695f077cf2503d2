"""Memory of the front while bodies of 1 GB pass: `python -m tests.bench.memory [MB]`.

Prints the highest resident memory beside what it was before, and how fast the bytes went; everything is recorded.
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path

from tests.proxy_process import ProxyProcess
from tests.raw_client import RawClient
from tests.raw_server import RawServer, ServerConnection, length_response
from tests.raw_socket import Head, RawSocket

PIECE = bytes(range(256)) * 4096  # 1 MB
MUST_BYTES = 15_000_000


def main(megabytes: int) -> int:
    """Run it; gives the exit code: 1 where memory grew by more than it must."""
    is_good = True
    with contextlib.closing(RawServer()) as server, tempfile.TemporaryDirectory() as folder:
        server.begin(_take_and_give)
        for direction in ("upload", "download"):
            proxy = ProxyProcess(Path(folder) / direction, server.url).start()
            try:
                is_good &= _measure(proxy, direction, megabytes)
            finally:
                proxy.stop(120)
    return 0 if is_good else 1


def _measure(proxy: ProxyProcess, direction: str, megabytes: int) -> bool:
    _pass(proxy, direction, 1)
    before = proxy.memory_bytes()
    began = time.monotonic()
    _pass(proxy, direction, megabytes)
    took = time.monotonic() - began
    highest = proxy.memory_bytes("VmHWM")
    growth = highest - before
    verdict = "as it must be" if growth <= MUST_BYTES else f"must be at most {MUST_BYTES / 1e6:.0f}"
    speed = f"{megabytes} MB in {took:.1f} s, {megabytes / took:.0f} MB/s"
    memory = f"front {before / 1e6:.1f} MB before, {highest / 1e6:.1f} MB at most"
    print(f"{direction:8} {speed}; {memory}: growth {growth / 1e6:.1f} MB, {verdict}", flush=True)
    return growth <= MUST_BYTES


def _pass(proxy: ProxyProcess, direction: str, megabytes: int) -> None:
    up, down = (megabytes, 0) if direction == "upload" else (0, megabytes)
    with RawClient(proxy.address) as client:
        size = up * len(PIECE)
        client.send(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (down, size))
        for _ in range(up):
            client.send(PIECE)
        head = client.read_head()
        _discard(client, int(head.get(b"content-length")))


def _take_and_give(connection: ServerConnection, head: Head) -> None:
    _discard(connection, int(head.get(b"content-length")))
    pieces = int(head.target[1:])
    connection.send(length_response(b"").replace(b": 0", b": %d" % (pieces * len(PIECE))))
    for _ in range(pieces):
        connection.send(PIECE)


def _discard(sock: RawSocket, size: int) -> None:
    while size:
        size -= len(sock.read_some())
        sock.received.clear()


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
