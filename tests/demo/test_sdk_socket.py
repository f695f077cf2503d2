"""The protocol of the SDK's WebSockets: who is let in, frames, warnings, channels side by side."""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
import websockets
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.demo.script import Stall, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.sdk_socket import NAMESPACES
from proxy.demo.server import LookalikeServer
from proxy.demo.virtual_clock import VirtualClock
from tests.demo.lookalikes import logged, running, until
from tests.demo.sdk_client import EMBEDDING, GUEST, LIMIT_S, LLM, VLM, Socket, ask, connected, load, raw, texts

TOKEN = "sk-lm-demo0001:abcdefghij0123456789"


def run(test: Callable[[LookalikeServer], Awaitable[None]], engine: ScriptedEngine | None = None, **more: Any) -> None:
    async def main() -> None:
        async with running(engine, **more) as server:
            await test(server)

    asyncio.run(main())


async def refusal(server: LookalikeServer, packet: Any, path: str = "/llm") -> Any:
    """What a first frame is refused with; the server closes after it."""
    async with raw(server, path) as socket:
        await socket.send(packet)
        got = await socket.receive()
        with pytest.raises(websockets.ConnectionClosed):
            await socket.receive()
        return got


@pytest.mark.parametrize("namespace", ["llm", "embedding", "system", "diagnostics", "files", "repository"])
def test_every_namespace_lets_a_guest_in_and_answers_keep_alive(namespace: str) -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, namespace) as socket:
            await socket.send({"type": "keepAlive"})
            assert await socket.receive() == {"type": "keepAliveAck"}

    run(test)


def test_upgrade_answers_as_the_ws_library_does() -> None:
    """Three headers, no compression although it is offered."""

    async def test(server: LookalikeServer) -> None:
        async with raw(server, "/llm", compression="deflate") as socket:
            assert socket.connection.response is not None
            names = {name.lower() for name, _ in socket.connection.response.headers.raw_items()}
            assert names == {"upgrade", "connection", "sec-websocket-accept"}

    run(test)


def test_compression_is_used_with_its_switch_if_it_is_offered() -> None:
    async def test(server: LookalikeServer) -> None:
        async with raw(server, "/llm", compression="deflate") as socket:
            assert socket.connection.response is not None
            assert "permessage-deflate" in socket.connection.response.headers["Sec-WebSocket-Extensions"]
            await socket.send(GUEST)
            assert await socket.receive() == {"success": True}
        async with raw(server, "/llm") as socket:
            assert socket.connection.response is not None
            assert "Sec-WebSocket-Extensions" not in socket.connection.response.headers

    run(test, sdk_compression=True)


def test_first_frame_that_never_comes_is_an_end() -> None:
    async def test(server: LookalikeServer) -> None:
        async with raw(server, "/llm") as socket:
            assert await socket.receive() == {"success": False, "error": "Authentication timed out"}
            with pytest.raises(websockets.ConnectionClosed):
                await socket.receive()

    run(test, sdk_auth_s=0.05)


@pytest.mark.parametrize(
    "frame",
    [
        "no JSON",
        "[]",
        {"type": "rpcCall", "endpoint": "listLoaded", "callId": 1},
        {**GUEST, "authVersion": 2},
        {**GUEST, "clientPasskey": "x" * 257},
        {"authVersion": 1, "clientIdentifier": "guest:test"},
    ],
)
def test_frame_that_is_no_first_frame_is_ignored_until_one_comes(frame: Any) -> None:
    async def test(server: LookalikeServer) -> None:
        async with raw(server, "/llm") as socket:
            await socket.send(frame)
            await socket.send(GUEST)
            assert await socket.receive() == {"success": True}
        assert any("invalid message from client while authenticating" in line for line in logged(server))

    run(test)


def test_identifier_belongs_to_whoever_came_first() -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "llm"), connected(server, "system"):
            got = await refusal(server, {**GUEST, "clientPasskey": "another"})
            assert got == {
                "success": False,
                "error": 'Failed to validate client: Invalid client passkey for client "guest:test"',
            }
        await until(lambda: any("Client disconnected" in line for line in logged(server)))
        async with raw(server, "/llm") as socket:  # free again, with the last connection
            await socket.send({**GUEST, "clientPasskey": "another"})
            assert await socket.receive() == {"success": True}

    run(test)


def test_token_is_the_first_frame_with_authentication_on() -> None:
    async def test(server: LookalikeServer) -> None:
        got = await refusal(server, GUEST)
        assert got["success"] is False
        assert got["error"].startswith("An LM Studio API token is required to make requests to this server")
        identifier, passkey = TOKEN.split(":")
        packet = {"authVersion": 1, "clientIdentifier": identifier, "clientPasskey": passkey}
        wrong = await refusal(server, {**packet, "clientPasskey": "b" * 20})
        assert wrong == {"success": False, "error": "Invalid LM Studio API token provided."}
        malformed = await refusal(server, {**packet, "clientPasskey": "b"})
        assert malformed["error"].startswith("Malformed LM Studio API token provided: sk-lm-demo")
        async with raw(server, "/system") as socket:
            await socket.send(packet)
            assert await socket.receive() == {"success": True}
            assert (await socket.result("version"))["version"] == "0.4.21"
        assert not any(passkey in json.dumps(event) for event in server.look.log.latest)

    run(test, auth=True)


@pytest.mark.parametrize("path", ["/nope", "/llm/more", "/", "/plugins", "/LLM"])
def test_path_that_is_no_namespace_gets_no_answer(path: str) -> None:
    async def test(server: LookalikeServer) -> None:
        with pytest.raises(TimeoutError):
            async with raw(server, path, open_timeout=0.1):
                pass

    run(test)


def test_diagnostics_is_no_namespace_without_its_switch() -> None:
    async def test(server: LookalikeServer) -> None:
        with pytest.raises(TimeoutError):
            async with raw(server, "/diagnostics", open_timeout=0.1):
                pass

    run(test, diagnostics=False)


def test_path_that_is_no_namespace_is_refused_with_authentication_on() -> None:
    async def test(server: LookalikeServer) -> None:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with raw(server, "/nope"):
                pass
        assert refused.value.response.status_code == 401

    run(test, auth=True)


def test_namespace_without_an_upgrade_is_an_unknown_route() -> None:
    async def test(server: LookalikeServer) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/llm") as response:
            assert response.status == 200
            assert (await response.json())["error"] == "Unexpected endpoint or method. (GET /llm)"

    run(test)


def test_frames_are_compact_and_a_rpc_answers_under_its_number() -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "system") as socket:
            await socket.send({"type": "rpcCall", "endpoint": "version", "callId": 0})
            text = await socket.connection.recv()
            assert text == '{"type":"rpcResult","callId":0,"result":{"version":"0.4.21","build":2}}'

    run(test)


def test_binary_frames_are_read_as_text() -> None:
    """S: the server's library turns every frame into a string."""

    async def test(server: LookalikeServer) -> None:
        async with connected(server, "system") as socket:
            await socket.connection.send(json.dumps({"type": "keepAlive"}).encode())
            assert await socket.receive() == {"type": "keepAliveAck"}

    run(test)


@pytest.mark.parametrize(
    ("frame", "kind", "words"),
    [
        (
            {"type": "rpcCall", "endpoint": "nope", "callId": 1},
            "rpcEndpointUnknown",
            "Received rpcCall for unknown endpoint, endpoint = nope",
        ),
        (
            {"type": "rpcCall", "endpoint": "predict", "callId": 1},
            "rpcEndpointUnknown",
            "Received rpcCall for unknown endpoint, endpoint = predict",
        ),
        (
            {"type": "rpcCall", "endpoint": "tokenize", "callId": 1, "parameter": {"inputString": "x"}},
            "rpcParameterTypeError",
            "Received invalid parameter for rpcCall, endpointName = tokenize. specifier: ",
        ),
        (
            {"type": "rpcCall", "endpoint": "listLoaded", "callId": 1, "parameter": {}},
            "rpcParameterTypeError",
            "Received invalid parameter for rpcCall, endpointName = listLoaded",
        ),
        (
            {"type": "channelCreate", "endpoint": "nope", "channelId": 1},
            "channelEndpointUnknown",
            "Received channelCreate for unknown endpoint, endpoint = nope",
        ),
        (
            {"type": "channelCreate", "endpoint": "predict", "channelId": 1, "creationParameter": []},
            "channelCreationParameterTypeError",
            "Received invalid creationParameter for channel, endpointName = predict",
        ),
        (
            {"type": "channelSend", "channelId": 9, "message": {"type": "cancel"}},
            "channelUnknown",
            "Received channelSend for unknown channel, channelId = 9",
        ),
        (
            {"type": "channelAck", "channelId": 9, "ackId": 1},
            "channelUnknown",
            "Received channelAck for unknown channel, channelId = 9",
        ),
        (
            {"type": "signalSubscribe", "endpoint": "x", "subscribeId": 1},
            "signalEndpointUnknown",
            "Received signalSubscribe for unknown endpoint, endpoint = x",
        ),
        (
            {"type": "writableSignalSubscribe", "endpoint": "x", "subscribeId": 1},
            "writableSignalEndpointUnknown",
            "Received writableSignalSubscribe for unknown endpoint, endpoint = x",
        ),
        (
            {"type": "writableSignalUpdate", "subscribeId": 1, "patches": [], "tags": []},
            "writableSignalUnknown",
            "Received writableSignalUpdate for unknown subscription, subscribeId = 1",
        ),
    ],
)
def test_what_cannot_be_understood_brings_a_warning_and_no_error(frame: Any, kind: str, words: str) -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "llm") as socket:
            await socket.send(frame)
            got = await socket.receive()
            assert list(got) == ["type", "warning", "kind"]
            assert got["type"] == "communicationWarning"
            assert got["kind"] == kind
            assert got["warning"].startswith(words)
            assert await socket.result("listLoaded") == []  # nothing else came, the call stays open

    run(test)


def test_warnings_stop_after_five() -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "llm") as socket:
            for number in range(9):
                await socket.send({"type": "rpcCall", "endpoint": "nope", "callId": number})
            kinds = [(await socket.receive())["type"] for _ in range(5)]
            assert kinds == ["communicationWarning"] * 5
            assert await socket.result("listLoaded") == []

    run(test)


@pytest.mark.parametrize(
    "frame",
    [
        "no JSON",
        '{"type":"rpcCall","endpoint":"listLoaded","callId":NaN}',
        "null",
        {"type": "nope"},
        {"type": "rpcCall", "endpoint": "listLoaded", "callId": "1"},
        {"type": "signalUnsubscribe", "subscribeId": 1},
        {"type": "communicationWarning", "warning": "I do not get it"},
        "[" * 200_000,
    ],
)
def test_what_is_no_frame_or_needs_no_answer_brings_nothing(frame: Any) -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "llm") as socket:
            await socket.send(frame)
            assert await socket.result("listLoaded") == []

    run(test)


def test_frame_of_six_megabytes_goes_both_ways() -> None:
    content = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(6_000_000)).decode()

    async def test(server: LookalikeServer) -> None:
        async with connected(server, "files") as socket:
            got = await socket.result("uploadFileBase64", {"name": "big.png", "contentBase64": content})
            assert got["fileType"] == "image"
            assert got["sizeBytes"] == 6_000_008
        await load(server, VLM)
        async with connected(server, "llm") as socket:
            text = "z" * 6_000_000
            got = await socket.result(
                "applyPromptTemplate",
                {
                    "specifier": {"type": "query", "query": {}},
                    "history": {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]},
                    "predictionConfigStack": {"layers": []},
                    "opts": {},
                },
            )
            assert text in got["formatted"]

    run(test)


def test_pings_are_answered() -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "llm") as socket:
            await asyncio.wait_for(await socket.connection.ping(), LIMIT_S)

    run(test)


def test_half_of_a_surrogate_pair_comes_back_escaped() -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "llm") as socket:
            await socket.send('{"type":"rpcCall","endpoint":"\\ud800","callId":1}')
            text = await socket.connection.recv()
            assert isinstance(text, str)
            assert "endpoint = \\ud800" in text

    run(test)


def test_calls_and_channels_have_numbers_of_their_own_and_run_side_by_side() -> None:
    engine = ScriptedEngine(time=VirtualClock(real_time=True))
    engine.say(Stall(0.05), "one")
    engine.say(Stall(0.01), "two")

    async def test(server: LookalikeServer) -> None:
        await load(server, LLM)
        async with connected(server, "llm") as socket:
            first = await socket.open("predict", ask(("user", "first")))
            await until(lambda: len(engine.calls) == 1)
            second = await socket.open("predict", ask(("user", "second")))
            await until(lambda: len(engine.calls) == 2)
            one, two = await socket.finish(first, second)
            assert (texts(one.messages), texts(two.messages)) == ("one", "two")
            assert one.types == two.types == ["promptProcessingProgress", "fragment", "success"]

    run(test, engine)


def test_channel_number_in_use_is_warned_about_and_free_again_afterwards() -> None:
    engine = ScriptedEngine(time=VirtualClock(real_time=True))
    engine.say(Stall(0.1), "one")

    async def test(server: LookalikeServer) -> None:
        await load(server, LLM)
        create = {
            "type": "channelCreate",
            "endpoint": "predict",
            "channelId": 5,
            "creationParameter": ask(("user", "x")),
        }
        async with connected(server, "llm") as socket:
            await socket.send(create)
            await socket.send(create)
            frames: list[dict[str, Any]] = []
            while not frames or frames[-1]["type"] != "channelClose":
                frames.append(await socket.receive())
            warnings = [frame for frame in frames if frame["type"] == "communicationWarning"]
            assert [one["kind"] for one in warnings] == ["channelAlreadyOpen"]
            await socket.send(create)
            assert (await socket.finish(5))[0].types[-1] == "success"

    run(test, engine)


@pytest.mark.parametrize("late", ["ignored", "warned"])
def test_late_frame_of_a_finished_channel(late: str) -> None:
    async def test(server: LookalikeServer) -> None:
        await load(server, LLM)
        async with connected(server, "llm") as socket:
            number = await socket.open("predict", ask(("user", "x")))
            await socket.finish(number)
            await socket.say(number, {"type": "cancel"})
            await socket.send({"type": "keepAlive"})
            got = await socket.receive()
            assert got.get("kind") == {"ignored": None, "warned": "channelUnknown"}[late]

    run(test, sdk_late_frames=late)


def test_message_that_a_channel_does_not_take_brings_a_warning() -> None:
    async def test(server: LookalikeServer) -> None:
        async with connected(server, "system") as socket:
            number = await socket.open("alive")
            await socket.say(number, {"type": "cancel"})
            assert (await socket.receive())["kind"] == "channelMessageTypeError"

    run(test)


def test_client_that_leaves_stops_the_model() -> None:
    engine = ScriptedEngine(time=VirtualClock(real_time=True))
    engine.say(Text("on and on " * 1000))

    async def test(server: LookalikeServer) -> None:
        await load(server, LLM)
        async with connected(server, "llm") as socket:
            await socket.open("predict", ask(("user", "x")))
            await until(lambda: engine.calls and engine.calls[0].generated)
        await until(lambda: engine.calls[0].ended)
        assert engine.calls[0].ended == "closed"
        assert any("Stopping generation" in line for line in logged(server))

    run(test, engine, context_length=32768)


def test_server_that_goes_away_says_so_at_once_and_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with running() as server, connected(server, "system") as socket:
            await socket.open("alive")
            await socket.send({"type": "keepAlive"})
            await socket.receive()
            started = asyncio.get_running_loop().time()
            await server.close()
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await socket.receive()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001
            assert asyncio.get_running_loop().time() - started < 1.0

    asyncio.run(main())


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(
    [
        "modelSpecifier",
        "specifier",
        "history",
        "predictionConfigStack",
        "layers",
        "config",
        "fields",
        "key",
        "value",
        "messages",
        "content",
        "role",
        "type",
        "text",
        "query",
        "identifier",
        "path",
        "modelKey",
        "loadConfigStack",
        "opts",
        "inputString",
        "name",
        "contentBase64",
        "limit",
    ]
)
_VALUES = st.sampled_from(
    (
        {"layers": []},
        {"type": "query", "query": {}},
        {"messages": []},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
        {"fields": []},
        "user",
        "query",
        LLM,
        EMBEDDING,
        "YQ==",
        0,
        -1,
        1e308,
    )
)
_PARAMETER = st.dictionaries(_KEYS, _VALUES | _JSON, max_size=6) | _JSON
_CONFIGURED = st.tuples(
    st.sampled_from(
        [
            "temperature",
            "topKSampling",
            "topPSampling",
            "maxPredictedTokens",
            "stopStrings",
            "seed",
            "llama.logitBias",
            "structured",
            "tools",
            "toolChoice",
            "promptTemplate",
            "reasoning.parsing",
            "contextOverflowPolicy",
            "systemPrompt",
            "minPSampling",
        ]
    ),
    _JSON
    | st.builds(lambda value: {"checked": True, "value": value}, _JSON)
    | st.builds(
        lambda kind, value: {"type": kind, "jsonSchema": value, "tools": value, "jinjaPromptTemplate": value},
        st.sampled_from(("json", "gbnf", "toolArray", "jinja", "manual", "none")),
        _JSON,
    ),
).map(
    lambda one: ask(
        ("user", "x"),
        config={
            "layers": [
                {
                    "layerName": "apiOverride",
                    "config": {
                        "fields": [
                            {"key": "llm.prediction.maxPredictedTokens", "value": {"checked": True, "value": 2}},
                            {"key": f"llm.prediction.{one[0]}", "value": one[1]},
                        ]
                    },
                }
            ]
        },
    )
)


async def _always_answers(socket: Socket, name: str, endpoint: str, parameter: Any) -> None:
    """A call ends with a result, an error, or a warning; the socket lives on."""
    is_rpc = endpoint in NAMESPACES[name].rpcs
    kind, number, member = (
        ("rpcCall", "callId", "parameter") if is_rpc else ("channelCreate", "channelId", "creationParameter")
    )
    await socket.send({"type": kind, "endpoint": endpoint, number: 1, member: parameter})
    if endpoint in ("alive", "streamLogs"):
        await socket.send({"type": "keepAlive"})
    ends = ("rpcResult", "rpcError", "channelClose", "channelError", "communicationWarning", "keepAliveAck")
    while (frame := await socket.receive())["type"] not in ends:
        pass
    assert frame.get("error", {}).get("title") != "Internal error", frame


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_parameter_breaks_an_endpoint(data: st.DataObject) -> None:
    """Whatever is sent: an answer, an error or a warning, never a bug."""
    name = data.draw(st.sampled_from(sorted(NAMESPACES)))
    endpoints = sorted((*NAMESPACES[name].rpcs, *NAMESPACES[name].channels))
    calls = data.draw(st.lists(st.tuples(st.sampled_from(endpoints), _PARAMETER), min_size=1, max_size=4))

    async def test(server: LookalikeServer) -> None:
        await load(server, LLM, EMBEDDING)
        for endpoint, parameter in calls:
            async with connected(server, name) as socket:
                await _always_answers(socket, name, endpoint, parameter)

    run(test)


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(parameters=st.lists(_CONFIGURED, min_size=1, max_size=5))
def test_no_configuration_breaks_a_prediction(parameters: list[Any]) -> None:
    """Values of the wrong form are refused; those of the right form reach the engine."""

    async def test(server: LookalikeServer) -> None:
        await load(server, LLM)
        for parameter in parameters:
            async with connected(server, "llm") as socket:
                await _always_answers(socket, "llm", "predict", parameter)

    run(test)
