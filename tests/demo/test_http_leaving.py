"""Clients that leave: the generation stops, and nobody else is disturbed."""

import asyncio

import aiohttp
import pytest

from proxy.demo.script import Stall, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from proxy.demo.virtual_clock import VirtualClock
from tests.demo.lookalikes import get, logged, post, raw_request, run, until

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "hi"}]}


def slow_engine(*, waits_s: float = 60.0) -> ScriptedEngine:
    """Says one word, then nothing for long, on a real clock."""
    engine = ScriptedEngine(time=VirtualClock(real_time=True))
    engine.loading.clear()
    engine.rule = lambda _: [Text("Hello", delay_s=0.0), Stall(waits_s), Text(" world")]
    return engine


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("path", [CHAT, "/api/v0/chat/completions", "/v1/completions"])
def test_client_that_leaves_stops_the_generation(path: str, is_streamed: bool) -> None:
    engine = slow_engine()

    async def test(server: LookalikeServer) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_request("POST", path, HI | {"prompt": "hi", "stream": is_streamed}))
        if is_streamed:
            await reader.readuntil(b"Hello")
        else:
            await until(lambda: engine.calls and engine.calls[0].generated)
        assert engine.calls[0].ended is None
        writer.close()
        await writer.wait_closed()
        await until(lambda: engine.calls[0].ended)
        assert engine.calls[0].ended == "closed"
        (line,) = [line for line in logged(server) if "Client disconnected" in line]
        assert line.endswith(
            "Client disconnected. Stopping generation... "
            "(If the model is busy processing the prompt, it will finish first.)"
        )
        assert logged(server, "llm.prediction.output") == ["Hello"]
        assert server.look.catalog.instances[0].status == "idle"
        engine.say("Again")
        assert (await post(server, CHAT, HI)).json["choices"][0]["message"]["content"] == "Again"

    run(test, engine)


def test_client_that_leaves_the_queue_never_generates() -> None:
    engine = slow_engine()

    async def test(server: LookalikeServer) -> None:
        async def ask() -> None:
            await post(server, CHAT, HI)

        first = asyncio.create_task(ask())
        await until(lambda: engine.calls)
        second = asyncio.create_task(ask())
        await until(lambda: server.look.catalog.instances[0].in_line == 2)
        second.cancel()
        await until(lambda: server.look.catalog.instances[0].in_line == 1)
        first.cancel()
        await until(lambda: server.look.catalog.instances[0].in_line == 0)
        assert len(engine.calls) == 1

    run(test, engine, parallel=1)


def test_client_that_leaves_in_the_middle_of_its_body_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def test(server: LookalikeServer) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw_request("POST", CHAT, None, "Content-Length: 100") + b"{")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await get(server, "/lmstudio-greeting")).status == 200

    run(test)
    assert not caplog.records


def test_stream_to_a_client_that_has_gone_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    """The write fails before the server knows that the connection is lost."""
    engine = ScriptedEngine()
    engine.rule = lambda _: [Text("word " * 2000, delay_s=0.0)]

    async def test(server: LookalikeServer) -> None:
        async with aiohttp.ClientSession() as session:
            response = await session.post(server.url + CHAT, json=HI | {"stream": True})
            assert response.status == 200
            await response.content.readany()
            response.close()
        await until(lambda: engine.calls[0].ended)
        assert engine.calls[0].ended == "closed"

    run(test, engine, context_length=32768)
    assert not caplog.records
