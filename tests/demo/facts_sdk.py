"""Samples of sections 5 and 6.1: the SDK's WebSockets, and its block of statistics."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from proxy.demo.script import Draft, Stall, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.facts import EMBEDDING, LLM, Fact, Provoke, over_sdk
from tests.demo.lookalikes import post
from tests.demo.sdk_client import GUEST, Socket, ask, query, raw, stack
from tests.demo.test_sdk_namespaces import (
    ERROR,
    FRAGMENT,
    PROGRESS,
    STATS,
    SUCCESS,
)

CALL = '[TOOL_REQUEST]{"name": "add", "arguments": {"a": 1}}[END_TOOL_REQUEST]'
TOOLS = {"type": "toolArray", "tools": [{"type": "function", "function": {"name": "add"}}]}
DRAFTED = {
    "usedDraftModelKey": "small",
    "totalDraftTokensCount": 7,
    "acceptedDraftTokensCount": 4,
    "rejectedDraftTokensCount": 3,
    "ignoredDraftTokensCount": 0,
}
LOG: dict[str, dict[str, Any]] = {
    "llm.prediction.input": {"modelIdentifier": "gemma", "modelPath": "a/b/c.gguf", "input": "<start_of_turn>user"},
    "llm.prediction.output": {"modelIdentifier": "gemma", "output": "Hello!", "stats": STATS},
    "server.log": {"level": "info", "content": "[LM STUDIO SERVER] Finished streaming response"},
    "runtime.log": {
        "level": "info",
        "message": "...",
        "engineName": "llama.cpp-...",
        "engineVersion": "2.1.0",
        "engineType": "llama.cpp",
        "modelIdentifier": "gemma-2-2b-it",
        "instanceReference": "...",
        "pid": 4321,
    },
}


async def _greeted(server: LookalikeServer, _: ScriptedEngine) -> Any:
    async with raw(server, "/system") as socket:
        await socket.send(GUEST)
        return await socket.receive()


async def _stranger(server: LookalikeServer, _: ScriptedEngine) -> Any:
    async with raw(server, "/llm") as first, raw(server, "/llm") as second:
        await first.send(GUEST)
        await first.receive()
        await second.send({**GUEST, "clientPasskey": "another"})
        return await second.receive()


async def _keep_alive(socket: Socket, _: LookalikeServer) -> Any:
    await socket.send({"type": "keepAlive"})
    return await socket.receive()


async def _unknown(socket: Socket, _: LookalikeServer) -> Any:
    await socket.send({"type": "rpcCall", "endpoint": "nope", "callId": 0})
    return await socket.receive()


def frame(endpoint: str, parameter: Any = None) -> Callable[[Socket, LookalikeServer], Awaitable[Any]]:
    """The frame that answers a call."""

    async def frame(socket: Socket, _: LookalikeServer) -> Any:
        return await socket.rpc(endpoint, parameter)

    return frame


def result(sample: Any) -> dict[str, Any]:
    return {"type": re.compile("rpcResult"), "callId": 5, "result": sample}


VOID = {"type": re.compile("rpcResult"), "callId": 13}


def messages_of(
    endpoint: str, parameter: Any, *kinds: str, path: str = "type"
) -> Callable[[Socket, LookalikeServer], Awaitable[Any]]:
    """The first message of each kind on a new channel; all kinds that there are must be named."""

    async def messages(socket: Socket, _: LookalikeServer) -> Any:
        got = await socket.channel(endpoint, parameter)
        assert got.error is None, got.error
        assert set(got.types) == set(kinds), got.types
        return {kind: got.of(kind)[0] for kind in kinds}

    return messages


async def _cancelled(socket: Socket, _: LookalikeServer) -> Any:
    number = await socket.open("predict", ask(("user", "hi")))
    await socket.say(number, {"type": "cancel"})
    (got,) = await socket.finish(number)
    return got.messages[-1]["stats"]


async def _logged(server: LookalikeServer, engine: ScriptedEngine) -> Any:
    async def follow(socket: Socket, server: LookalikeServer) -> Any:
        number = await socket.open("streamLogs")
        await socket.send({"type": "keepAlive"})  # what comes after it is told
        assert (await socket.receive())["type"] == "keepAliveAck"
        body = {"model": LLM, "messages": [{"role": "user", "content": "hi"}]}
        await post(server, "/v1/chat/completions", body)
        await socket.say(number, {"type": "stop"})
        (got,) = await socket.finish(number)
        kinds = {message["log"]["data"]["type"]: message for message in reversed(got.messages)}
        return {kind: kinds[kind] for kind in LOG}

    return await over_sdk("diagnostics", follow, loads=[])(server, engine)


def rpc(section: str, name: str, sample: Any, *call: Any, namespace: str = "llm") -> Fact:
    """What an endpoint answers; `call` is its name, and its parameter if it takes one."""
    loads = [EMBEDDING] if namespace == "embedding" else [LLM]
    return Fact(section, name, sample, over_sdk(namespace, frame(*call), loads=loads))


def _stats(*says: Any, **config: Any) -> Provoke:
    async def stats(socket: Socket, _: LookalikeServer) -> Any:
        return (await socket.channel("predict", ask(("user", "hi"), config=stack(**config)))).messages[-1]["stats"]

    return over_sdk("llm", stats, says=says)


PREDICTED = ("promptProcessingProgress", "fragment", "success")
CALL_MESSAGES: dict[str, dict[str, Any]] = {
    "toolCallGenerationStart": {"type": "x", "toolCallId": "1"},
    "toolCallGenerationNameReceived": {"type": "x", "name": "add"},
    "toolCallGenerationArgumentFragmentGenerated": {"type": "x", "content": "{"},
    "toolCallGenerationEnd": {
        "type": "x",
        "toolCallRequest": {"id": "1", "type": "function", "name": "add", "arguments": {"a": 1}},
        "rawContent": "...",
    },
}

FACTS = [
    Fact("5.2", "let in", {"success": True}, _greeted),
    Fact(
        "5.2", "refused", {"success": False, "error": "Failed to validate client: Invalid client passkey."}, _stranger
    ),
    rpc("5.3", "call", result({"version": "0.4.21", "build": 2}), "version", namespace="system"),
    rpc(
        "5.3",
        "error",
        {"type": re.compile("rpcError"), "callId": 4, "error": ERROR},
        "getModelInfo",
        {"specifier": query("foo"), "throwIfNotFound": True},
    ),
    Fact(
        "5.3",
        "unknown endpoint",
        {"type": re.compile("communicationWarning"), "warning": "...", "kind": "..."},
        over_sdk("llm", _unknown, loads=[]),
    ),
    Fact("5.4", "keepAlive", {"type": re.compile("keepAliveAck")}, over_sdk("system", _keep_alive, loads=[])),
    Fact(
        "5.6",
        "trace",
        dict(zip(PREDICTED, (PROGRESS, FRAGMENT, SUCCESS), strict=True)),
        over_sdk("llm", messages_of("predict", ask(("user", "1+1?")), *PREDICTED)),
    ),
    Fact(
        "5.6",
        "tool call",
        {"promptProcessingProgress": PROGRESS, **CALL_MESSAGES, "success": SUCCESS},
        over_sdk(
            "llm",
            messages_of(
                "predict",
                ask(("user", "1+1?"), config=stack(tools=TOOLS)),
                *("promptProcessingProgress", *CALL_MESSAGES, "success"),
            ),
            says=[CALL],
        ),
    ),
    Fact(
        "5.6",
        "raw text",
        dict(zip(PREDICTED, (PROGRESS, FRAGMENT, SUCCESS), strict=True)),
        over_sdk(
            "llm",
            messages_of(
                "completeRawText",
                {"modelSpecifier": query(LLM), "rawPrompt": "1 + 1 =", "predictionConfigStack": stack()},
                *PREDICTED,
            ),
        ),
    ),
    Fact(
        "5.6",
        "cancelled",
        STATS | {"stopReason": re.compile("userStopped")},
        over_sdk("llm", _cancelled, says=[Stall(5), "hi"]),
        {},
        ["tokensPerSecond", "timeToFirstTokenSec"],
    ),
    Fact("5.7", "statistics", STATS, _stats("Assistant message")),
    Fact("5.7", "draft model", STATS | DRAFTED, _stats(Draft("small", 3), Text("a b c d", is_drafted=True))),
    Fact(
        "5.10",
        "log",
        {
            kind: {"type": "log", "log": {"timestamp": 1750000000123, "data": {"type": re.compile(kind), **data}}}
            for kind, data in LOG.items()
        },
        _logged,
    ),
    Fact("6.1", "statistics", STATS | {"totalTimeSec": 4.903, "timeToFirstTokenSec": 15.076}, _stats("ten tokens")),
    Fact("6.1", "stop string", STATS | {"stopString": "x"}, _stats("a x", stopStrings=["x"])),
]
