"""Front and back on one processor: the traffic goes first, and everything is stored all the same."""

import os
import threading
from pathlib import Path

import pytest

from tests.conftest import StartProxy
from tests.proxy_process import ProxyProcess, wait_until
from tests.raw_client import RawClient
from tests.raw_server import RawServer, ServerConnection, length_response
from tests.raw_socket import WAIT_S, Head

pytestmark = [
    pytest.mark.through_proxy,
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned here"),
]

BODY = os.urandom(1 << 22)
REQUEST = b"POST /flood HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def _take(connection: ServerConnection, _: Head) -> None:
    connection.read_request_body()
    connection.send(length_response(b"ok"))


def _pin(proxy: ProxyProcess) -> None:
    processor = min(os.sched_getaffinity(0))
    for process in (proxy.front_pid, proxy.wait_for_back()):
        for thread in Path(f"/proc/{process}/task").iterdir():
            os.sched_setaffinity(int(thread.name), {processor})


def _stored(proxy: ProxyProcess) -> int:
    rows = proxy.query("SELECT count(*) AS n FROM exchanges WHERE outcome = 'completed' AND request_bytes > 0")
    return int(rows[0]["n"]) if rows else 0


def test_a_flood_is_stored_in_parts_while_it_lasts_and_whole_when_it_ends(
    start_proxy: StartProxy, upstream: RawServer
) -> None:
    proxy = start_proxy()
    _pin(proxy)
    upstream.begin(_take)
    is_done = threading.Event()
    sent: list[int] = []

    def flood() -> None:
        with RawClient(proxy.address) as client:
            while not is_done.is_set():
                assert client.ask(REQUEST).body == b"ok"
                sent.append(len(BODY))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        wait_until(lambda: _stored(proxy) > 4, "some of it is stored while it lasts")
    finally:
        is_done.set()
        thread.join(WAIT_S)
    wait_until(lambda: _stored(proxy) == len(sent), "all of it is stored", 60)
    assert proxy.query("SELECT * FROM gaps") == []
    assert proxy.stop() == 0
    proxy.run("verify")
