"""The lookalike in its own process: it listens, says why it cannot, and leaves nothing behind, however anybody dies."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.demo.lookalike_process import LookalikeProcess, Settings
from proxy.demo.tour import RHYME, Request, ask
from proxy.errors import ProxyLogError
from tests.demo.processes import marked, marker
from tests.proxy_process import REPOSITORY, wait_until

MANY_TOKENS = 2000


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as sock:
        return sock.connect_ex((address.hostname, address.port)) == 0


@contextmanager
def streaming(url: str) -> Iterator[None]:
    """A request is being answered, which takes long; the first line has come."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    body: dict[str, Any] = {**Request(RHYME, is_streamed=True).body(""), "max_tokens": MANY_TOKENS}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    with closing(connection), connection.getresponse() as response:
        assert response.readline()
        yield


def test_scripted_lookalike_answers_and_tells_what_it_serves(tmp_path: Path) -> None:
    with LookalikeProcess.start(Settings(port=0), log=tmp_path / "log") as lookalike:
        ready = lookalike.ready
        answer = ask(ready.url, Request("hi").body(ready.model), lambda _: None)
        assert answer.text.strip() == "You said: hi"
        assert ready.model in ready.models
        assert ready.context_length == 2048
        assert ("OpenAI", "POST /v1/chat/completions") in ready.endpoints
    assert not is_listening(ready.url)
    assert lookalike.ended() == "ended with exit code 0"


def test_log_is_told_line_by_line(tmp_path: Path) -> None:
    with LookalikeProcess.start(Settings(port=0, tells_log=True), log=tmp_path / "log") as lookalike:
        ask(lookalike.ready.url, Request("hi").body(""), lambda _: None)
        line = lookalike.log_line() or ""
        assert "Received request: POST to /v1/chat/completions" in line
        threading.Timer(0.2, os.kill, (lookalike.pid, signal.SIGKILL)).start()
        while (line := lookalike.log_line() or "") != "":
            assert "INFO" in line
    assert lookalike.ended() == "died of SIGKILL"


def test_reader_who_does_not_read_the_log_holds_nothing_up(tmp_path: Path) -> None:
    with LookalikeProcess.start(Settings(port=0, tells_log=True), log=tmp_path / "log") as lookalike:
        for _ in range(80):  # each is told with its first 2000 characters, and a pipe holds 65536
            assert ask(lookalike.ready.url, {"padding": "x" * 3000}, lambda _: None).refusal
        assert ask(lookalike.ready.url, Request("hi").body(""), lambda _: None).text


def test_switches_and_defaults_reach_it(tmp_path: Path) -> None:
    defaults = {"llm.prediction.maxPredictedTokens": {"checked": True, "value": 3}}
    settings = Settings(port=0, switches={"context_length": "512", "cors": "on"}, defaults=defaults)
    with LookalikeProcess.start(settings, log=tmp_path / "log") as lookalike:
        connection = http.client.HTTPConnection(urlsplit(lookalike.ready.url).netloc)
        connection.request("POST", "/v1/chat/completions", b'{"messages": [{"role": "user", "content": "hi"}]}')
        response = connection.getresponse()
        assert response.getheader("Access-Control-Allow-Origin") == "*"
        assert json.loads(response.read())["usage"]["completion_tokens"] == 3
        connection.close()
        assert lookalike.ready.context_length == 512


def test_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ProxyLogError, match=f"port {port} is taken"):
            LookalikeProcess.start(Settings(port=port), log=tmp_path / "log")


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(ProxyLogError, match=r"bad\.gguf"):
        LookalikeProcess.start(Settings(port=0, model_file=str(tmp_path / "bad.gguf")), log=tmp_path / "log")


def test_stop_does_not_wait_for_a_running_answer(smollm2: Path, tmp_path: Path) -> None:
    with marker() as mark:
        with LookalikeProcess.start(Settings(port=0, model_file=str(smollm2)), log=tmp_path / "log") as lookalike:
            with streaming(lookalike.ready.url):
                assert len(marked(mark)) == 2
                started = time.monotonic()
                lookalike.stop()
            assert time.monotonic() - started < 4
        assert not marked(mark)


def test_models_end_when_the_lookalike_is_killed(smollm2: Path, tmp_path: Path) -> None:
    with (
        marker() as mark,
        LookalikeProcess.start(Settings(port=0, model_file=str(smollm2)), log=tmp_path / "log") as lookalike,
    ):
        with streaming(lookalike.ready.url):
            os.kill(lookalike.pid, signal.SIGKILL)
            wait_until(lambda: not marked(mark), "llama.cpp ended")
        assert wait_until(lookalike.ended, "its end is known") == "died of SIGKILL"


STARTER = (
    "import sys; from pathlib import Path\n"
    "from proxy.demo.lookalike_process import LookalikeProcess, Settings\n"
    "settings = Settings(port=0, model_file=sys.argv[1])\n"
    "lookalike = LookalikeProcess.start(settings, log=Path(sys.argv[2]) / 'log')\n"
    "print(lookalike.ready.url, flush=True); lookalike.log_line()"
)


def test_all_end_when_who_started_them_is_killed(smollm2: Path, tmp_path: Path) -> None:
    with (
        marker() as mark,
        subprocess.Popen(
            [sys.executable, "-c", STARTER, smollm2, tmp_path], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
        ) as starter,
    ):
        assert starter.stdout
        with streaming(starter.stdout.readline().strip()):
            assert len(marked(mark)) == 3
            os.kill(starter.pid, signal.SIGKILL)
            wait_until(lambda: not marked(mark), "all ended")


@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.2, 0.3, 0.4])
def test_all_end_when_who_started_them_is_killed_meanwhile(smollm2: Path, tmp_path: Path, wait_s: float) -> None:
    """At whatever moment of the start."""
    with (
        marker() as mark,
        subprocess.Popen([sys.executable, "-c", STARTER, smollm2, tmp_path], cwd=REPOSITORY) as starter,
    ):
        wait_until(lambda: len(marked(mark)) > 1, "the lookalike is being started")
        time.sleep(wait_s)
        os.kill(starter.pid, signal.SIGKILL)
        wait_until(lambda: not marked(mark), "all ended")
