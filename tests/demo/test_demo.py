"""`proxy-log demo` as a user runs it: a real model, a real proxy, a real trace."""

import contextlib
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from proxy.cli.tour import live_commands, reading_commands
from proxy.demo.model import SMOLLM2
from proxy.demo.tour import REQUESTS
from tests.proxy_process import REPOSITORY, free_port, wait_until

START_WAIT_S = 60.0


class DemoProcess:
    """A demo that stays up, on free ports and with a trace of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.trace = folder / "it's a trace.db"
        self.url = f"http://localhost:{free_port()}"
        self._output = folder / "output.txt"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                command("--listen", urlsplit(self.url).netloc, "--trace", str(self.trace), *options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=REPOSITORY,
                start_new_session=True,
            )

    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text()

    def wait_until_running(self) -> None:
        """Return when the tour is over."""
        wait_until(lambda: "Running." in self.output() or self.process.poll() is not None, "it runs", START_WAIT_S)
        assert self.process.poll() is None, self.output()

    def processes(self) -> list[int]:
        """All processes of the demo, the engine in its own session too; by what they have open."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    words = (entry / "cmdline").read_bytes()
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    if str(self.trace).encode() in words or parent == self.process.pid:
                        found.append(int(entry.name))
        return found

    def engine_pid(self) -> int:
        """The model server's process."""
        (pid,) = [pid for pid in self.processes() if b"proxy.demo.llama_process" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return pid


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "proxy", "demo", *options]


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as sock:
        return sock.connect_ex((address.hostname, address.port)) == 0


def rows(trace: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"{trace.as_uri()}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT method, path, status, model, outcome FROM exchanges ORDER BY id").fetchall()
    finally:
        connection.close()


@pytest.fixture
def running(smollm2: Path, tmp_path: Path) -> Iterator[DemoProcess]:
    """A demo whose tour is over."""
    demo = DemoProcess(tmp_path)
    try:
        demo.wait_until_running()
        yield demo
    finally:
        demo.process.kill()
        demo.process.wait()


def test_demo_once_shows_the_answers_records_them_and_ends(smollm2: Path, tmp_path: Path) -> None:
    demo = DemoProcess(tmp_path, "--once")
    assert demo.process.wait(START_WAIT_S) == 0, demo.output()
    output = demo.output()
    expected = ("POST", "/v1/chat/completions", 200, SMOLLM2.name, "completed")
    assert rows(demo.trace) == [expected] * len(REQUESTS)
    assert "Hello" in output
    assert str(smollm2) in output
    assert re.search(r"(?m)^ +\d+ tokens, \d+ a second as llama.cpp reports it", output)
    assert re.search(r"The streamed answer came in \d\d+ chunks", output)
    assert "\x1b" not in output
    assert "curl" not in output
    wait_until(lambda: not demo.processes(), "everything ended")


def test_commands_that_the_demo_shows_work(running: DemoProcess) -> None:
    shown = [
        *live_commands(running.url, SMOLLM2.name, running.trace).values(),
        *reading_commands(running.trace, len(REQUESTS)).values(),
    ]
    for text in shown:
        assert text.replace("\n", "\n  ") in running.output()
    talk, watch, see, ask = (
        subprocess.run(
            ["timeout", "5", "bash", "-c", text], capture_output=True, text=True, cwd=REPOSITORY, check=False
        )
        for text in shown
    )
    assert "data: [DONE]" in talk.stdout
    assert SMOLLM2.name in watch.stdout
    assert see.returncode == 0
    assert "elephant" in see.stdout
    assert ask.returncode == 0
    assert "chat.completion.chunk" in ask.stdout
    wait_until(lambda: len(rows(running.trace)) == len(REQUESTS) + 1, "the command's request is in the trace")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_demo_in_order(running: DemoProcess, number: int) -> None:
    engine_url = re.findall(r"llama.cpp at (\S+),", running.output())[0]
    running.process.send_signal(number)
    assert running.process.wait(20) == 0, running.output()
    assert f"The trace stays: {running.trace}" in running.output()
    assert not is_listening(running.url)
    assert not is_listening(engine_url)
    wait_until(lambda: not running.processes(), "everything ended")


def test_killed_demo_leaves_nothing_running(running: DemoProcess) -> None:
    others = [pid for pid in running.processes() if pid != running.process.pid]
    assert len(others) >= 2
    running.process.kill()
    running.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in others), "engine and back ended")


def test_demo_whose_engine_died_says_so_and_ends(running: DemoProcess) -> None:
    os.kill(running.engine_pid(), signal.SIGKILL)
    assert running.process.wait(20) == 1
    assert "died of SIGKILL" in running.output()


def test_interrupted_start_leaves_nothing_running(smollm2: Path, tmp_path: Path) -> None:
    demo = DemoProcess(tmp_path)
    wait_until(lambda: len(demo.processes()) > 1, "the engine is being started")
    demo.process.terminate()
    assert demo.process.wait(20) != 0
    wait_until(lambda: not demo.processes(), "everything ended")


def failure(*options: str) -> str:
    done = subprocess.run(command(*options), capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_taken_address_is_refused_with_one_to_choose() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--listen localhost:{port + 1}" in failure("--listen", f"localhost:{port}", "--once")


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"something else")
    said = failure("--listen", f"localhost:{free_port()}", "--model", str(tmp_path / "model.gguf"))
    assert "not a GGUF file" in said


def test_model_of_the_users_own_is_served_under_its_files_name(smollm2: Path, tmp_path: Path) -> None:
    own = tmp_path / "My-Own.gguf"
    own.symlink_to(smollm2)
    demo = DemoProcess(tmp_path, "--once", "--model", str(own))
    assert demo.process.wait(START_WAIT_S) == 0, demo.output()
    assert {row[3] for row in rows(demo.trace)} == {"my-own"}


def test_paths_in_commands_are_quoted() -> None:
    trace = Path("/a b/it's.db")
    shown = [live_commands("http://localhost:1", "m", trace)["Watch requests as they come"]]
    shown += reading_commands(trace, 1).values()
    assert all(str(trace) in shlex.split(text.replace("\\\n", "")) for text in shown)
