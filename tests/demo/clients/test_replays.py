"""The calls of `replays`, played over a socket: directly, then through the proxy."""

import json
import re
from dataclasses import dataclass

import pytest

from proxy.exchange import Side
from tests.demo.clients.conftest import ODD_MODEL
from tests.demo.clients.replays import REPLAYS, Replay
from tests.demo.clients.sameness import normal
from tests.demo.clients.stage import ENDED, Stage
from tests.demo.samples import same_form
from tests.proxy_process import wait_until
from tests.raw_client import Address, ClientId, RawClient
from tests.raw_socket import Head

pytestmark = pytest.mark.through_proxy

_CORS = (b"access-control-", b"vary")
_CHANGES = (b"date", b"etag")
"""The tag is made of the body, which has ids and times in it."""
_OPTIONAL = ("loaded_context_length", "capabilities")


@dataclass(frozen=True)
class Came:
    """What came back."""

    head: Head
    body: bytes
    is_whole: bool
    client: ClientId

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """What a proxy that answers CORS by itself must not change, in order."""
        dropped = (*_CORS, *_CHANGES)
        kept = [pair for pair in self.head.end_to_end if not pair[0].lower().startswith(dropped)]
        return [(name, self._of_its_body(value) if name == b"Content-Length" else value) for name, value in kept]

    def _of_its_body(self, length: bytes) -> bytes:
        """A length that is the body's, which has durations in it: they are longer or shorter from run to run."""
        assert int(length) == len(self.body)
        return b"its body's"


def _play(replay: Replay, stage: Stage, address: Address) -> Came:
    host = "{}:{}".format(*address)
    with RawClient(address) as client:
        client.send(replay.request(HOST=host, LLM=stage.llm, EMBEDDER=stage.embedder))
        if not replay.leaves_at:
            response = client.read_response(replay.head.strip().split(" ")[0].encode())
            return Came(response.head, response.body, True, client.id)
        head, seen = client.read_head(), b""
        while replay.leaves_at not in seen:
            chunk = client.read_chunk()
            assert chunk, f"the stream ended without {replay.leaves_at!r}"
            seen += chunk
        return Came(head, seen, False, client.id)


def _check(replay: Replay, came: Came, llm: str) -> None:
    assert came.head.status == replay.status, came.body
    text = came.body.decode()
    if replay.form is not None:
        assert came.head.get(b"content-type") == b"application/json; charset=utf-8"
        same_form(replay.form, json.loads(text), optional=_OPTIONAL)
    at = 0
    for pattern in replay.holds:
        found = re.compile(pattern.replace("$LLM", re.escape(llm))).search(text, at)
        assert found, (pattern, text[at : at + 2000])
        at = found.end()


CASES = [
    pytest.param(engine, replay, id=f"{engine}-{replay.name}")
    for engine in ("scripted", "llama")
    for replay in REPLAYS
    if engine == "scripted" or not replay.is_scripted_only
]


@pytest.mark.parametrize(("stage", "replay"), CASES, indirect=["stage"])
def test_a_call_gets_its_answer_either_way(stage: Stage, replay: Replay) -> None:
    stage.reset()
    direct = _play(replay, stage, stage.address)
    _check(replay, direct, stage.llm)
    stage.reset()
    proxied = _play(replay, stage, stage.proxy.address)
    _check(replay, proxied, stage.llm)
    assert proxied.head.start == direct.head.start
    assert proxied.fields == direct.fields
    assert normal(proxied.body) == normal(direct.body)
    _check_recorded(replay, stage, proxied)


def _check_recorded(replay: Replay, stage: Stage, came: Came) -> None:
    (row,) = stage.recorded(came.client, 1)
    sent = replay.request(HOST=stage.proxy.authority, LLM=stage.llm, EMBEDDER=stage.embedder)
    head, _, body = sent.partition(b"\r\n\r\n")
    recorded = stage.recorded_body(row, Side.UPSTREAM)
    assert (row.status, row.gaps) == (replay.status, 0)
    assert stage.recorded_body(row, Side.CLIENT) == body
    assert row.path == head.split(b" ")[1].decode()
    names = [name for name, _ in json.loads(row.request_headers or "[]")]
    assert names == [line.partition(b":")[0].decode() for line in head.split(b"\r\n")[1:]]
    if came.is_whole:
        assert row.outcome == "completed"
        assert recorded == came.body
    else:
        assert row.outcome in ENDED
        assert recorded.startswith(came.body)


@pytest.mark.parametrize("surface", ["/v1/chat/completions", "/api/v0/chat/completions"])
def test_every_line_of_a_stream_starts_as_zed_wants_it(stage: Stage, surface: str) -> None:
    """It takes `data: ` off each line, parses the rest, and skips nothing but empty lines."""
    (chat,) = [one for one in REPLAYS if one.name == "zed-chat"]
    replay = Replay(name="zed", head=chat.head.replace("/api/v0/chat/completions", surface), body=chat.body)
    for address in (stage.address, stage.proxy.address):
        lines = [line for line in _play(replay, stage, address).body.decode().split("\n") if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        assert all({"id", "object", "created", "model", "choices"} <= set(chunk) for chunk in chunks)
        assert all({"index", "delta", "finish_reason"} <= set(one) for chunk in chunks for one in chunk["choices"])


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("is_proxied", [True, False])
def test_the_stop_button_stops_the_model(llama_stage: Stage, *, streams: bool, is_proxied: bool) -> None:
    """AnythingLLM closes the connection, and the model must be free for the next question."""
    stage = llama_stage
    stage.reset()
    body = {"model": stage.llm, "stream": streams, "messages": [{"role": "user", "content": "Tell a long story."}]}
    (chat,) = [one for one in REPLAYS if one.name == "anythingllm-chat-whole"]
    replay = Replay(name="stop", head=chat.head, body=json.dumps(body, indent=2))
    log = stage.look.log.latest
    log.clear()
    with RawClient(stage.proxy.address if is_proxied else stage.address) as client:
        client.send(replay.request(HOST="h", LLM=stage.llm, EMBEDDER=stage.embedder))
        if streams:
            client.wait_for(b"data: ")
        else:
            wait_until(lambda: any(one.in_line for one in stage.look.catalog.instances), "the model is at work")
    wait_until(lambda: not any(one.in_line for one in stage.look.catalog.instances), "the model has stopped")
    assert "Client disconnected. Stopping generation" in str(log)
    if is_proxied:
        (row,) = stage.recorded(client.id, 1)
        assert row.outcome == "client_gone"


def test_models_are_asked_for_on_the_connection_that_stays(scripted_stage: Stage) -> None:
    """Node's agents use a connection again; what came on it before does not show."""
    stage = scripted_stage
    (boot, *_, chat) = [one for one in REPLAYS if one.name in ("anythingllm-boot", "anythingllm-chat-whole")]
    values = {"HOST": stage.proxy.authority, "LLM": ODD_MODEL, "EMBEDDER": stage.embedder}
    with RawClient(stage.proxy.address) as client:
        bodies = [client.ask(replay.request(**values)).body for replay in (boot, chat, boot)]
        rows = stage.recorded(client.id, 3)
    assert [stage.recorded_body(row, Side.UPSTREAM) for row in rows] == bodies
    assert len({row.connection for row in rows}) == 1
