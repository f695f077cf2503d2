"""`proxy-log demo` as a user runs it: real processes, a real proxy, a real trace, and where it matters a real model."""

import contextlib
import http.client
import json
import os
import re
import secrets
import shlex
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.cli.tour import STREAMED, live_commands, reading_commands, window_command
from proxy.demo.behaviour import Behaviour
from proxy.demo.model import SMOLLM2
from proxy.demo.switches import switches
from proxy.demo.tour import REQUESTS
from tests.demo.processes import command_line, environment, marked
from tests.proxy_process import REPOSITORY, free_port, wait_until

START_WAIT_S = 60.0
SCRIPTED = "scripted-7b-instruct"
TOKEN = Behaviour().tokens[0]
BRIEF = ("--default", "max_tokens=3", "--switch", "request_overrides_model=off")
"""Options for a short tour, where a real model's words do not matter: it asks for 80 tokens each time."""


class DemoProcess:
    """A demo on free ports and with a trace of its own; all that it starts has its mark."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        is_alone: bool = False,
        has_default_port: bool = False,
        ignores_sigint: bool = False,
    ) -> None:
        self.trace = folder / "it's a trace.db"
        self.mark = secrets.token_hex(8)  # folders of tests that run beside each other have the same name
        self._output = folder / "output.txt"
        self.url = f"http://localhost:{free_port()}"
        listen = ["--no-proxy"] if is_alone else ["--listen", urlsplit(self.url).netloc]
        port = [] if has_default_port else ["--port", "0"]
        ignoring = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if ignores_sigint else []
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                ignoring + command(*listen, *port, "--trace", str(self.trace), *options),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=REPOSITORY,
                env={**environment(self.mark), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text()

    def wait_until_running(self) -> None:
        """Return when the tour is over, or where there is none, when all was told."""
        wait_until(lambda: "\nRunning" in self.output() or self.process.poll() is not None, "it runs", START_WAIT_S)
        assert self.process.poll() is None, self.output()

    def processes(self) -> list[int]:
        """All processes of the demo."""
        return marked(self.mark)

    def pid_of(self, module: str) -> int:
        """The process that runs a module."""
        (pid,) = [pid for pid in self.processes() if f"from {module} import main" in command_line(pid)]
        return pid

    def lookalike_url(self) -> str:
        """Where the lookalike listens, by its own words."""
        return str(re.findall(r"(?m)^ server +(http://127.0.0.1:\d+), ", self.output())[0])

    def end(self) -> None:
        """Kill it, if it still runs; nothing of it may be left."""
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not self.processes(), "everything ended")


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "proxy", "demo", *options]


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as sock:
        return sock.connect_ex((address.hostname, address.port)) == 0


def post(url: str, body: dict[str, Any], token: str = "", path: str = "/v1/chat/completions") -> tuple[int, Any]:
    """Status and body of the answer to a request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=START_WAIT_S)
    try:
        head = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json", **head})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def chat(text: str, **parameters: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **parameters}


def rows(trace: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"{trace.as_uri()}?mode=ro", uri=True)
    try:
        return connection.execute("SELECT method, path, status, model, outcome FROM exchanges ORDER BY id").fetchall()
    finally:
        connection.close()


@contextlib.contextmanager
def demo_process(folder: Path, *options: str, **how: bool) -> Iterator[DemoProcess]:
    demo = DemoProcess(folder, *options, **how)
    try:
        yield demo
    finally:
        demo.end()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[DemoProcess]:
    """A scripted demo whose tour is over."""
    with demo_process(tmp_path, "--scripted") as demo:
        demo.wait_until_running()
        yield demo


@pytest.fixture
def running_model(smollm2: Path, tmp_path: Path) -> Iterator[DemoProcess]:
    """A demo with a real model, whose tour is over."""
    with demo_process(tmp_path, *BRIEF) as demo:
        demo.wait_until_running()
        yield demo


# --- the tour ---------------------------------------------------------------------------------------------------------


def test_demo_once_shows_the_answers_records_them_and_ends(smollm2: Path, tmp_path: Path) -> None:
    with demo_process(tmp_path, "--once") as demo:
        assert demo.process.wait(START_WAIT_S) == 0, demo.output()
        output = demo.output()
        assert rows(demo.trace) == [("POST", one.path, 200, SMOLLM2.name, "completed") for one in REQUESTS]
        assert "Hello" in output
        assert str(smollm2) in output
        assert len(re.findall(r"(?m)^ +\d+ tokens by its usage; this API tells no speed", output)) == 3
        assert re.search(r"(?m)^ +\d+ tokens by its usage; \d+ a second by its stats", output)
        assert re.search(r"The streamed answer came in \d\d+ chunks", output)
        assert re.search(r"by these times the model made \d+ tokens a second", output)
        assert "\x1b" not in output
        assert "curl" not in output
        wait_until(lambda: not demo.processes(), "everything ended")


def test_scripted_demo_needs_no_llama_cpp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('not for this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with demo_process(tmp_path, "--scripted", "--once") as demo:
        assert demo.process.wait(START_WAIT_S) == 0, demo.output()
        assert [row[1:4] for row in rows(demo.trace)] == [(one.path, 200, SCRIPTED) for one in REQUESTS]
        assert "You said: hi" in demo.output()


def test_model_of_the_users_own_is_served_under_its_files_name(smollm2: Path, tmp_path: Path) -> None:
    own = tmp_path / "My-Own.gguf"
    own.symlink_to(smollm2)
    with demo_process(tmp_path, "--once", "--model", str(own), *BRIEF) as demo:
        assert demo.process.wait(START_WAIT_S) == 0, demo.output()
        assert {row[3] for row in rows(demo.trace)} == {"my-own"}


def test_commands_that_the_demo_shows_work(running: DemoProcess) -> None:
    shown = [
        *live_commands(running.url, SCRIPTED, running.trace).values(),
        window_command(running.trace),
        *reading_commands(running.trace, STREAMED + 1).values(),
    ]
    for text in shown:
        assert text.replace("\n", "\n  ") in running.output()
    talk, watch, window, see, ask = (
        subprocess.run(
            ["timeout", "5", "bash", "-c", text], capture_output=True, text=True, cwd=REPOSITORY, check=False
        )
        for text in shown
    )
    assert "data: [DONE]" in talk.stdout
    assert SCRIPTED in watch.stdout
    assert "You said: hi" in window.stdout
    assert see.returncode == 0
    assert "elephant" in see.stdout
    assert ask.returncode == 0
    assert "chat.completion.chunk" in ask.stdout
    wait_until(lambda: len(rows(running.trace)) == len(REQUESTS) + 1, "the command's request is in the trace")


def test_token_is_asked_for_told_and_masked(tmp_path: Path) -> None:
    with demo_process(tmp_path, "--scripted", "--auth") as demo:
        demo.wait_until_running()
        assert f" token   {TOKEN}\n" in demo.output()
        assert live_commands(demo.url, SCRIPTED, demo.trace, TOKEN)["Talk to the model"].replace("\n", "\n  ") in (
            demo.output()
        )
        assert [row[2] for row in rows(demo.trace)] == [200] * len(REQUESTS)
        assert post(demo.url, chat("hi"))[0] == 401
        assert post(demo.url, chat("hi"), TOKEN)[0] == 200
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(20) == 0
        assert TOKEN.encode() not in demo.trace.read_bytes()


# --- what the lookalike is told ---------------------------------------------------------------------------------------


def test_lookalike_alone_tells_what_it_serves_and_its_log(tmp_path: Path) -> None:
    with demo_process(tmp_path, "--scripted", is_alone=True) as demo:
        demo.wait_until_running()
        url = demo.lookalike_url()
        for told in (SCRIPTED, f"{url}/v1\n", "POST /v1/chat/completions", f"proxy-log serve --upstream {url}"):
            assert told in demo.output()
        status, answer = post(url, chat("hi"))
        assert (status, answer["usage"]["prompt_tokens"] > 0) == (200, True)
        wait_until(lambda: "Received request: POST to /v1/chat/completions" in demo.output(), "the log is shown")
        assert not is_listening(demo.url)
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(20) == 0
        assert demo.output().endswith("\nEnded.\n")
        assert not demo.trace.exists()


def test_request_overrides_the_models_default_unless_switched(tmp_path: Path) -> None:
    """The course's question, both ways."""
    tokens = {}
    for name, more in {"yes": (), "no": ("--switch", "request_overrides_model=off")}.items():
        (tmp_path / name).mkdir()
        options = ("--scripted", "--default", "max_tokens=3", *more)
        with demo_process(tmp_path / name, *options, is_alone=True) as demo:
            demo.wait_until_running()
            answers = [post(demo.lookalike_url(), chat("hi", **asked))[1] for asked in ({}, {"max_tokens": 7})]
            tokens[name] = [answer["usage"]["completion_tokens"] for answer in answers]
    assert tokens == {"yes": [3, 7], "no": [3, 3]}


@pytest.mark.parametrize(("policy", "status"), [("refuse", 400), ("truncateMiddle", 200), ("rollingWindow", 200)])
def test_longer_prompt_than_the_context_is_treated_as_told(
    smollm2: Path, tmp_path: Path, policy: str, status: int
) -> None:
    with demo_process(tmp_path, "--context-length", "256", "--overflow", policy, is_alone=True) as demo:
        demo.wait_until_running()
        assert "context of 256 tokens" in demo.output()
        body = {"messages": [{"role": "user", "content": f"{n} elephants"} for n in range(100)], "max_tokens": 5}
        got, answer = post(demo.lookalike_url(), body)
        assert got == status
        if status == 200:
            assert answer["usage"]["prompt_tokens"] < 256
        else:
            assert "256 tokens" in answer["error"]


def test_taken_default_port_is_left_to_who_has_it(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it, which is as good
            stack.enter_context(socket.create_server(("127.0.0.1", 1234)))
        demo = DemoProcess(tmp_path, "--scripted", is_alone=True, has_default_port=True)
        stack.callback(demo.end)
        demo.wait_until_running()
        assert not demo.lookalike_url().endswith(":1234")
        assert "port 1234 is taken" in demo.output()


def test_all_switches_are_shown() -> None:
    shown = subprocess.run(command("--switch", "list"), capture_output=True, text=True, cwd=REPOSITORY, check=True)
    for switch in switches():
        assert f"{switch.name}={switch.default}  {switch.values}\n" in shown.stdout
        assert f"    {switch.source}\n" in shown.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--switch", "no_such=1"], "there is no switch 'no_such'"),
        (["--switch", "cors"], "'cors' is not NAME=VALUE"),
        (["--switch", "overflow=sometimes"], "overflow is one of"),
        (["--switch", "version=newest"], "version is like 0.4.21"),
        (["--default", "heat=1"], "there is no parameter 'heat'; there are: temperature"),
        (["--default", "temperature=hot"], "'temperature' must be a number"),
        (["--no-proxy", "--once"], "--no-proxy starts none"),
        (["--scripted", "--model", "file.gguf"], "--scripted serves no file"),
    ],
)
def test_wrong_use_is_explained(options: list[str], said: str) -> None:
    done = subprocess.run(command(*options), capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == 2
    assert said in done.stderr


# --- the window -------------------------------------------------------------------------------------------------------


def test_chat_is_typed_into_the_running_demo_and_not_recorded(running: DemoProcess) -> None:
    for where in (["--trace", str(running.trace)], ["--port", str(urlsplit(running.lookalike_url()).port)]):
        done = subprocess.run(
            command("--chat", "hi there", *where), capture_output=True, text=True, cwd=REPOSITORY, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "You said: hi there" in done.stdout
    assert len(rows(running.trace)) == len(REQUESTS)


def test_chat_without_a_demo_says_how_to_start_one(tmp_path: Path) -> None:
    assert "start one in another terminal: proxy-log demo" in failure("--chat", "hi", "--trace", str(tmp_path / "t.db"))
    assert "no demo is running at http://127.0.0.1:" in failure("--chat", "hi", "--port", str(free_port()))


def test_state_is_taken_away_at_the_end(running: DemoProcess) -> None:
    state = Path(f"{running.trace}.running")
    assert json.loads(state.read_text())["url"] == running.lookalike_url()
    running.process.terminate()
    assert running.process.wait(20) == 0
    assert not state.exists()


# --- ends -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_demo_in_order(running_model: DemoProcess, number: int) -> None:
    demo = running_model
    lookalike_url = demo.lookalike_url()
    assert len(demo.processes()) == 4  # proxy, back, lookalike, llama.cpp
    demo.process.send_signal(number)
    assert demo.process.wait(20) == 0, demo.output()
    assert not demo.processes()
    assert f"The trace stays: {demo.trace}" in demo.output()
    assert not is_listening(demo.url)
    assert not is_listening(lookalike_url)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("is_alone", [True, False])
def test_signal_ends_a_demo_that_a_script_runs_in_the_background(tmp_path: Path, number: int, is_alone: bool) -> None:
    """`proxy-log demo &`: a shell without job control has SIGINT ignored in what it runs there."""
    with demo_process(tmp_path, "--scripted", is_alone=is_alone, ignores_sigint=True) as demo:
        demo.wait_until_running()
        demo.process.send_signal(number)
        assert demo.process.wait(20) == 0, demo.output()
        assert not demo.processes()


def test_killed_demo_leaves_nothing_running(running_model: DemoProcess) -> None:
    assert len(running_model.processes()) == 4
    running_model.process.kill()
    running_model.process.wait()
    wait_until(lambda: not running_model.processes(), "lookalike, llama.cpp and back ended")


def test_demo_whose_lookalike_died_says_so_and_ends(running_model: DemoProcess) -> None:
    os.kill(running_model.pid_of("proxy.demo.lookalike_process"), signal.SIGKILL)
    assert running_model.process.wait(20) == 1
    assert "the lookalike died of SIGKILL" in running_model.output()
    wait_until(lambda: not running_model.processes(), "everything ended")


def test_lookalike_alone_that_died_is_told(tmp_path: Path) -> None:
    with demo_process(tmp_path, "--scripted", is_alone=True) as demo:
        demo.wait_until_running()
        os.kill(demo.pid_of("proxy.demo.lookalike_process"), signal.SIGKILL)
        assert demo.process.wait(20) == 1
        assert "the lookalike died of SIGKILL; its log is " in demo.output()


def test_demo_whose_model_died_loads_it_again(running_model: DemoProcess) -> None:
    os.kill(running_model.pid_of("proxy.demo.llama_process"), signal.SIGKILL)
    answers = [post(running_model.url, chat("hi", model=SMOLLM2.name, max_tokens=5))[0] for _ in range(2)]
    assert answers[1] == 200
    assert running_model.process.poll() is None


def test_interrupted_start_leaves_nothing_running(smollm2: Path, tmp_path: Path) -> None:
    with demo_process(tmp_path) as demo:
        wait_until(lambda: len(demo.processes()) > 2, "the model is being loaded")
        demo.process.terminate()
        assert demo.process.wait(20) != 0
        assert not demo.processes()


def test_command_loads_no_web_server() -> None:
    """The lookalike has one, in its own process."""
    program = "import proxy.cli.demo, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "proxy.demo.lookalike_process" in modules
    assert not {"aiohttp", "xllamacpp", "proxy.demo.server", "proxy.demo.lookalike"} & set(modules)


# --- refusals ---------------------------------------------------------------------------------------------------------


def failure(*options: str) -> str:
    done = subprocess.run(command(*options), capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_taken_address_is_refused_with_one_to_choose() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--listen localhost:{port + 1}" in failure("--listen", f"localhost:{port}", "--once")
        assert f"port {port} is taken" in failure("--no-proxy", "--scripted", "--port", str(port))


def test_missing_llama_cpp_names_the_extra(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('not for this machine')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said = failure("--no-proxy", "--port", "0", "--model", str(smollm2))
    assert "not for this machine" in said
    assert "pip install 'proxy-log[demo]'" in said


def test_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"something else")
    said = failure("--listen", f"localhost:{free_port()}", "--model", str(tmp_path / "model.gguf"))
    assert "not a GGUF file" in said


def test_file_that_only_looks_like_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"x" * 100)
    assert "model.gguf" in failure("--no-proxy", "--port", "0", "--model", str(tmp_path / "model.gguf"))


def test_paths_in_commands_are_quoted() -> None:
    trace = Path("/a b/it's.db")
    shown = [live_commands("http://localhost:1", "m", trace)["Watch requests as they come"]]
    shown += reading_commands(trace, 1).values()
    assert all(str(trace) in shlex.split(text.replace("\\\n", "")) for text in shown)
