"""llama.cpp's server in its own process: it answers, says why it cannot, and never outlives who started it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.demo.llama_process import LlamaProcess
from proxy.demo.tour import RHYME, Request, ask
from proxy.errors import MissingExtraError, ProxyLogError
from tests.proxy_process import REPOSITORY, wait_until


def is_listening(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as sock:
        return sock.connect_ex((address.hostname, address.port)) == 0


def get(url: str, path: str) -> Any:
    connection = http.client.HTTPConnection(urlsplit(url).netloc)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())
    finally:
        connection.close()


def test_models_are_listed_under_their_name(llama_server: LlamaProcess) -> None:
    assert [model["id"] for model in get(llama_server.url, "/v1/models")["data"]] == ["smollm2-135m-instruct"]


def test_hi_is_answered(llama_server: LlamaProcess) -> None:
    answer = ask(llama_server.url, Request("hi").body(llama_server.model), lambda _: None)
    assert "Hello" in answer.text
    assert answer.output_tokens


def test_streamed_rhyme_comes_piece_by_piece_and_says_the_same(llama_server: LlamaProcess) -> None:
    plain = ask(llama_server.url, Request(RHYME).body(llama_server.model), lambda _: None)
    texts: list[str] = []
    streamed = ask(llama_server.url, Request(RHYME, is_streamed=True).body(llama_server.model), texts.append)
    assert streamed.text == plain.text
    assert len(set(texts)) > 10
    assert streamed.output_tokens == plain.output_tokens


def test_request_beyond_the_context_length_is_refused(smollm2: Path, tmp_path: Path) -> None:
    with LlamaProcess.start(smollm2, model="m", log=tmp_path / "log", context_length=256) as engine:
        answer = ask(engine.url, Request("elephant " * 300).body("m"), lambda _: None)
    assert answer.refusal
    assert answer.refusal.startswith("400")
    assert "context" in answer.refusal


def test_each_place_has_the_whole_context_length(smollm2: Path, tmp_path: Path) -> None:
    with LlamaProcess.start(smollm2, model="m", log=tmp_path / "log", context_length=512, parallel=3) as engine:
        assert [slot["n_ctx"] for slot in get(engine.url, "/slots")] == [512, 512, 512]


def test_stopped_engine_is_gone(smollm2: Path, tmp_path: Path) -> None:
    with LlamaProcess.start(smollm2, model="m", log=tmp_path / "log") as engine:
        assert engine.ended() is None
        assert is_listening(engine.url)
    assert not is_listening(engine.url)
    assert engine.ended() == "died of SIGTERM"


def test_stop_does_not_wait_for_a_running_answer(smollm2: Path, tmp_path: Path) -> None:
    with LlamaProcess.start(smollm2, model="m", log=tmp_path / "log") as engine:
        address = urlsplit(engine.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port)
        body = {**Request(RHYME, is_streamed=True).body("m"), "max_tokens": 2000, "ignore_eos": True}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        assert connection.getresponse().readline()
        started = time.monotonic()
    assert time.monotonic() - started < 2
    connection.close()


def test_engine_ends_when_its_parent_is_killed(smollm2: Path, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from proxy.demo.llama_process import LlamaProcess\n"
        "engine = LlamaProcess.start(Path(sys.argv[1]), model='m', log=Path(sys.argv[2]))\n"
        "print(engine.url, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, smollm2, tmp_path / "log"], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    ) as parent:
        assert parent.stdout
        url = parent.stdout.readline().strip()
        assert is_listening(url)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not is_listening(url), "the engine ended")


def test_file_that_is_no_model_is_refused_with_the_engines_words(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"x" * 100)
    with pytest.raises(ProxyLogError) as caught:
        LlamaProcess.start(tmp_path / "bad.gguf", model="m", log=tmp_path / "log")
    assert "failed to load model" in str(caught.value)
    assert str(tmp_path / "log") in str(caught.value)


def test_taken_port_is_refused(smollm2: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ProxyLogError, match=f"cannot serve this model at port {port}: "):
            LlamaProcess.start(smollm2, model="m", log=tmp_path / "log", port=port)


def test_folder_of_the_user_cannot_break_the_engine(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A student's own proxy.py or json.py is not what gets imported."""
    for name in ("proxy.py", "json.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with LlamaProcess.start(smollm2, model="m", log=tmp_path / "log") as engine:
        assert is_listening(engine.url)


def test_missing_llama_cpp_names_the_extra(smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'proxy-log\[demo\]'"):
        LlamaProcess.start(smollm2, model="m", log=tmp_path / "log")


def test_llama_cpp_that_does_not_load_names_the_extra(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a wheel for another platform, or a library it lacks."""
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('no such symbol')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"no such symbol.*proxy-log\[demo\]"):
        LlamaProcess.start(smollm2, model="m", log=tmp_path / "log")
