"""Real clients through the proxy to a real llama.cpp: openai's SDK, curl, and one that leaves as AnythingLLM does."""

import json
import shutil
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from proxy.demo.llama_process import LlamaProcess
from tests.proxy_process import ProxyProcess, wait_until
from tests.raw_client import RawClient

pytestmark = pytest.mark.through_proxy

KEY = "sk-not-a-secret-1234"
Exchange = Callable[[], sqlite3.Row]
RHYME = "Write a short rhyme about the moon."


@pytest.fixture
def tag() -> str:
    """What tells this test's exchanges from all others."""
    return uuid.uuid4().hex


@pytest.fixture
def client(llama_proxy: ProxyProcess, tag: str) -> Iterator[openai.OpenAI]:
    """The SDK of openai, pointed at the proxy as its documentation says."""
    url = f"{llama_proxy.url}/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, default_headers={"X-Tag": tag}) as sdk:
        yield sdk


@pytest.fixture
def exchange(llama_proxy: ProxyProcess, tag: str) -> Exchange:
    """Gives the exchange of this test's SDK, once it ended."""
    sql = "SELECT * FROM exchanges WHERE request_headers LIKE ? AND outcome IS NOT NULL"
    return lambda: wait_until(lambda: llama_proxy.query(sql, f"%{tag}%"), "the exchange is in the trace")[0]


def _events(body: bytes) -> list[dict[str, object]]:
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) for line in lines if line != b"[DONE]"]


def test_openai_lists_models(client: openai.OpenAI, llama_server: LlamaProcess) -> None:
    assert llama_server.model in [model.id for model in client.models.list()]


def test_openai_completes_a_chat(
    client: openai.OpenAI, llama_proxy: ProxyProcess, llama_server: LlamaProcess, exchange: Exchange
) -> None:
    answer = client.chat.completions.create(
        model=llama_server.model, messages=[{"role": "user", "content": RHYME}], max_tokens=12, temperature=0
    )
    assert answer.choices[0].message.content
    row = exchange()
    assert (row["status"], row["outcome"], row["model"]) == (200, "completed", llama_server.model)
    assert json.loads(llama_proxy.body(row["id"], "response"))["id"] == answer.id
    assert json.loads(llama_proxy.body(row["id"], "request"))["messages"][0]["content"] == RHYME
    assert llama_proxy.files_with(KEY.encode()) == []


def test_openai_streams_a_chat(
    client: openai.OpenAI, llama_proxy: ProxyProcess, llama_server: LlamaProcess, exchange: Exchange
) -> None:
    stream = client.chat.completions.create(
        model=llama_server.model,
        messages=[{"role": "user", "content": RHYME}],
        max_tokens=16,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text
    row = exchange()
    assert row["status"] == 200
    assert row["outcome"] in ("completed", "client_gone"), "the SDK closes at [DONE], a few bytes before the end"
    body = llama_proxy.body(row["id"], "response")
    assert body.endswith(b"data: [DONE]\n\n")
    assert [event["id"] for event in _events(body)] == [chunk.id for chunk in chunks]
    assert row["response_chunks"] > 5, "token by token"
    assert llama_proxy.run("show", str(row["id"]), "--raw", "response").stdout == body


def test_openai_gets_the_upstreams_error(client: openai.OpenAI, llama_proxy: ProxyProcess, exchange: Exchange) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body={"messages": "wrong"}, cast_to=object)
    row = exchange()
    assert row["status"] == caught.value.status_code >= 400
    assert llama_proxy.body(row["id"], "response") == caught.value.response.content


def test_openai_gets_an_embedding_or_the_servers_refusal(client: openai.OpenAI, exchange: Exchange) -> None:
    """The demo's model may not serve them; what counts is that both sides agree on what was said."""
    try:
        client.embeddings.create(model="m", input="hi")
    except openai.APIStatusError as error:
        status = error.status_code
    else:
        status = 200
    assert exchange()["status"] == status


def test_one_that_leaves_at_the_finish_reason_is_recorded_to_there(
    llama_proxy: ProxyProcess, llama_server: LlamaProcess
) -> None:
    """As AnythingLLM: it stops reading at the first finish_reason, before usage and [DONE]."""
    body = json.dumps(
        {
            "model": llama_server.model,
            "messages": [{"role": "user", "content": "hi"}],
            "temperature": 0.7,
            "max_tokens": 8,
            "stream": True,
        },
        indent=2,
    ).encode()
    with RawClient(llama_proxy.address) as client:
        client.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost:8234\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer null\r\nconnection: keep-alive\r\naccept-encoding: gzip,deflate\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert client.read_head().status == 200
        seen = b""
        while b'"finish_reason":"' not in seen:
            seen += client.read_chunk()
        client.close()
        row = llama_proxy.exchange_of(client.id)
    recorded = llama_proxy.body(row["id"], "response")
    assert recorded.startswith(seen)
    assert row["outcome"] in ("client_gone", "completed")
    assert row["status"] == 200
    assert any(choice["finish_reason"] for event in _events(recorded) for choice in _choices(event))


def _choices(event: dict[str, object]) -> list[dict[str, object]]:
    choices = event.get("choices")
    return choices if isinstance(choices, list) else []


def test_the_model_stops_when_the_client_leaves(llama_proxy: ProxyProcess) -> None:
    """The next request is answered while generations that went on would still keep both of the server's slots busy."""
    long, short = (
        json.dumps({"prompt": "Once upon a time", "n_predict": tokens, "stream": True, "ignore_eos": True}).encode()
        for tokens in (1500, 1)
    )
    head = b"POST /completion HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n"
    with RawClient(llama_proxy.address) as first, RawClient(llama_proxy.address) as second:
        for client in (first, second):
            client.send(head % len(long) + long)
            client.wait_for(b"data: ")
    with RawClient(llama_proxy.address) as client:
        started = time.monotonic()
        assert client.ask(head % len(short) + short).status == 200
        assert time.monotonic() - started < 1.5


JSON = "Content-Type: application/json"
CURL = shutil.which("curl")


def _curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    assert CURL
    return subprocess.run(
        [CURL, "-sS", "--max-time", "30", "--noproxy", "*", *arguments], capture_output=True, check=True
    )


@pytest.mark.skipif(not CURL, reason="no curl on this machine")
class TestCurl:
    """curl, the client of every README."""

    def test_gets(self, llama_proxy: ProxyProcess, llama_server: LlamaProcess) -> None:
        direct = json.loads(_curl(f"{llama_server.url}/v1/models").stdout)
        proxied = json.loads(_curl(f"{llama_proxy.url}/v1/models").stdout)
        assert [model["id"] for model in proxied["data"]] == [model["id"] for model in direct["data"]]

    def test_says_hi(self, llama_proxy: ProxyProcess) -> None:
        data = '{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}'
        answer = json.loads(_curl(f"{llama_proxy.url}/v1/chat/completions", "-d", data).stdout)
        assert answer["choices"][0]["message"]["role"] == "assistant"

    def test_asks_for_the_head(self, llama_proxy: ProxyProcess) -> None:
        assert b"200" in _curl("-I", f"{llama_proxy.url}/health").stdout.splitlines()[0]

    def test_offers_http2(self, llama_proxy: ProxyProcess) -> None:
        assert json.loads(_curl("--http2", f"{llama_proxy.url}/health").stdout) == {"status": "ok"}

    def test_speaks_http_1_0_and_streams(self, llama_proxy: ProxyProcess) -> None:
        data = '{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "stream": true}'
        done = _curl("--http1.0", "-N", "-i", f"{llama_proxy.url}/v1/chat/completions", "-d", data)
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert body.endswith(b"data: [DONE]\n\n")

    def test_uploads_in_chunks_and_with_expect(self, llama_proxy: ProxyProcess, tmp_path: Path) -> None:
        """Over 1 MB, so that curl asks for a 100 first; the server refuses the nonsense, and curl gets to see it."""
        file = tmp_path / "large"
        file.write_bytes(b'{"prompt": "' + b"x" * 3_000_000)
        for way in (["-T", str(file)], ["-H", "Transfer-Encoding: chunked", "-d", f"@{file}"]):
            done = _curl(
                "-X", "POST", "-H", "Expect: 100-continue", "-H", JSON, *way, f"{llama_proxy.url}/v1/completions"
            )
            assert b"error" in done.stdout
        sql = "SELECT request_bytes FROM exchanges WHERE path = '/v1/completions' ORDER BY id"
        assert wait_until(lambda: llama_proxy.query(sql), "they are in the trace")
