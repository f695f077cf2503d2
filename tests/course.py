"""A course's afternoon as a trace: students, AnythingLLM and scripts, with what goes wrong. The documents use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsproto.frame_protocol import FrameProtocol

from proxy.exchange import Outcome, Side
from proxy.indexer import IndexSettings
from tests.read.sdk_socket import AUTH, Frame, client, server, told
from tests.store.traffic import STREAM_HEAD, Traffic, as_json, chat_answer, request_head, traffic, turns

SETTINGS = IndexSettings(prefix_sessions={"carla": "carla"})
V0 = "/api/v0/chat/completions"
MODEL = "qwen2.5-0.5b-instruct"
ANYTHING = "You are a helpful assistant. Context:\n[CONTEXT 0]: "
ELEPHANTS = "Elephants are the largest land animals. An adult eats 150 kg of plants a day."
MICE = "Mice are small rodents. A house mouse weighs about 20 g."
RHYME = "One elephant went out to play, upon a spider's web one day."


def record_course(trace: Path) -> None:
    """The trace, read whole."""
    with traffic(trace, SETTINGS) as made:
        _anything_llm(made)
        _course(made)
        _sdk(made)
        _tools(made)
        _what_went_wrong(made)
        made.read()


def _anything_llm(made: Traffic) -> None:
    """A chat with documents: each turn has other passages in its system message; then one turn is asked again."""
    questions = ["How much does an elephant eat?", "And how heavy is a mouse?", "Which of them is older as a species?"]
    answers = ["About 150 kg of plants a day.", "About 20 g.", "I do not know."]
    said: list[str] = []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        said.append(question)
        passages = ELEPHANTS if number != 1 else MICE
        _stream(made, [{"role": "system", "content": ANYTHING + passages}, *turns(*said)], answer, 0.7)
        said.append(answer)
    again = [{"role": "system", "content": ANYTHING + ELEPHANTS}, *turns(*said[:-1])]
    _stream(made, again, "Elephants, as a family; mice, as a species. Both are older than we are.", 1.2)
    edited = [{"role": "system", "content": ANYTHING + MICE}, *turns(*said[:2], "And how fast is a mouse?")]
    _stream(made, edited, "Up to 13 km/h.", 0.7)


def _stream(made: Traffic, messages: Sequence[dict[str, Any]], answer: str, temperature: float) -> None:
    """A streamed chat as AnythingLLM has it: it leaves at the finish reason."""
    body = {"model": MODEL, "messages": messages, "stream": True, "temperature": temperature}
    words = [word + " " for word in answer.split(" ")]
    deltas: list[dict[str, Any]] = [{"delta": {"content": word}} for word in words]
    chunks = [*deltas, {"delta": {}, "finish_reason": "stop"}]
    counts = {"prompt_tokens": 40 + len(messages) * 9, "completion_tokens": len(words)}
    usage = {**counts, "total_tokens": sum(counts.values())}
    lines = [b"data: " + as_json({"model": MODEL, "choices": [{"index": 0, **one}]}) + b"\n\n" for one in chunks]
    lines[-1] = b"data: " + as_json({"model": MODEL, "choices": [{"index": 0, **chunks[-1]}], "usage": usage}) + b"\n\n"
    recorded = made.recording
    exchange = recorded.open(request_head("/v1/chat/completions", "User-Agent: AnythingLLM"), client="127.0.0.1:50123")
    recorded.data(exchange, Side.CLIENT, as_json(body))
    recorded.at_ms += 5
    recorded.respond(exchange, STREAM_HEAD)
    recorded.at_ms += 180
    for number, line in enumerate(lines):
        recorded.data(exchange, Side.UPSTREAM, line, every_ms=95 if number == 3 else 22)
    recorded.close(exchange, Outcome.CLIENT_GONE, "the client closed the connection")
    recorded.at_ms += 4000


def _course(made: Traffic) -> None:
    """Two students ask the same with other temperatures, by the API that tells statistics; a third has a prefix."""
    rhyme = "Write a rhyme about an elephant."
    for student, temperature, tokens, speed in (("anna", 0, 24, 71.4), ("anna", 0, 24, 69.8), ("ben", 1.5, 31, 70.2)):
        fields = (f"X-Proxy-Log-Session: {student}", "X-Proxy-Log-Tag: exercise-1")
        answer = _v0_answer(f"{RHYME} ({temperature})", tokens, speed)
        made.exchange(V0, _v0_question(rhyme, temperature), answer, *fields)
    counting = _v0_question("Count elephants, one line each, and do not stop.", 0)
    full = _v0_answer(" ".join([RHYME] * 8), 478, 66.1, "contextLengthReached")
    made.exchange(V0, counting, full, "X-Proxy-Log-Session: ben", "X-Proxy-Log-Tag: exercise-1")
    french = _v0_answer("Un éléphant se balançait.", 9, 70.0)
    made.exchange(V0, _v0_question("Bonjour, un éléphant ?", 0.8), french, upstream="carla")


def _v0_question(text: str, temperature: float) -> bytes:
    return as_json({"model": MODEL, "messages": turns(text), "temperature": temperature, "max_tokens": -1})


def _v0_answer(text: str, tokens: int, speed: float, stop: str = "eosFound") -> bytes:
    times = {"tokens_per_second": speed, "time_to_first_token": 0.113, "generation_time": round(tokens / speed, 3)}
    more = {
        "model": MODEL,
        "usage": {"prompt_tokens": 34, "completion_tokens": tokens, "total_tokens": 34 + tokens},
        "stats": {**times, "stop_reason": stop},
        "model_info": {"arch": "qwen2", "quant": "Q4_K_M", "format": "gguf", "context_length": 512},
        "runtime": {"name": "llama.cpp-linux-x86_64-avx2@1.33.0", "version": "1.33.0", "supported_formats": ["gguf"]},
    }
    answered = chat_answer(text, **more)
    answered["choices"][0]["finish_reason"] = "stop" if stop == "eosFound" else "length"
    return as_json(answered)


def _sdk(made: Traffic) -> None:
    """The SDK, which tells the course's whole block of statistics; the model's own defaults were asked for before."""
    query = {"type": "query", "query": {"identifier": MODEL}}
    asked = {"temperature": 0, "maxPredictedTokens": {"checked": True, "value": 60}}
    fields = [{"key": f"llm.prediction.{key}", "value": value} for key, value in asked.items()]
    config = {"layers": [{"layerName": "apiOverride", "config": {"fields": fields}}]}
    said = {"role": "user", "content": [{"type": "text", "text": "Say hello in French."}]}
    stats = {
        "stopReason": "eosFound",
        "tokensPerSecond": 72.31,
        "numGpuLayers": -1,
        "timeToFirstTokenSec": 0.094,
        "totalTimeSec": 0.041,
        "promptTokensCount": 33,
        "predictedTokensCount": 3,
        "totalTokensCount": 36,
    }
    info = {"type": "llm", "identifier": MODEL, "instanceReference": "r1", "modelKey": MODEL, "contextLength": 512}
    defaults = {"fields": [{"key": "llm.prediction.temperature", "value": 0.8}]}
    base = {"fields": [*defaults["fields"], {"key": "llm.prediction.topKSampling", "value": 40}]}
    predict = {"modelSpecifier": query, "history": {"messages": [said]}, "predictionConfigStack": config}
    effective = {"fields": [*fields, {"key": "llm.prediction.topKSampling", "value": 40}]}
    done = {"type": "success", "stats": stats, "modelInfo": info, "loadModelConfig": {"fields": []}}
    frames: list[Frame] = [
        (Side.CLIENT, AUTH),
        server(success=True),
        client(type="rpcCall", endpoint="getBasePredictionConfig", callId=1, parameter={"specifier": query}),
        server(type="rpcResult", callId=1, result=base),
        client(type="channelCreate", endpoint="predict", channelId=2, creationParameter=predict),
        *(
            told(2, type="fragment", fragment={"content": word, "tokensCount": 1, "reasoningType": "none"})
            for word in ("Bon", "jour", " !")
        ),
        told(2, **done, predictionConfig=effective),
        server(type="channelClose", channelId=2),
    ]
    recorded = made.recording
    head = b"GET /llm HTTP/1.1\r\nHost: localhost:8234\r\nUpgrade: websocket\r\nX-Proxy-Log-Session: anna\r\n"
    socket = recorded.open(head, is_websocket=True)
    recorded.respond(socket, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    wires = {side: FrameProtocol(client=side is Side.CLIENT, extensions=[]) for side in Side}
    for side, frame in frames:
        data = bytes(wires[side].send_data(json.dumps(frame, ensure_ascii=False), fin=True))
        recorded.data(socket, side, data, every_ms=14)
    recorded.close(socket)
    recorded.at_ms += 1000


def _tools(made: Traffic) -> None:
    """An agent that calls a tool and goes on with its result."""
    function = {"name": "weather", "description": "The weather.", "parameters": {"type": "object"}}
    more = {"tools": [{"type": "function", "function": function}], "temperature": 0, "model": MODEL}
    called = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
    asks = {"role": "assistant", "content": None, "tool_calls": [called]}
    said: list[dict[str, Any]] = turns("What is the weather in Bern?")
    made.chat(said, asks, "X-Proxy-Log-Tag: agent", more=more, told={"model": MODEL})
    said += [asks, {"role": "tool", "tool_call_id": "call_1", "content": '{"celsius": 12, "sky": "rain"}'}]
    made.chat(said, "It rains in Bern, at 12 degrees.", "X-Proxy-Log-Tag: agent", more=more, told={"model": MODEL})


def _what_went_wrong(made: Traffic) -> None:
    """Errors with and without a status, an endpoint and a field that nobody knows, an answer that broke off."""
    long = turns("Read this. " + "word " * 40)
    error = {"error": "Trying to keep the first 4096 tokens when context the overflows."}
    made.exchange("/v1/chat/completions", as_json({"model": MODEL, "messages": long}), as_json(error))
    made.exchange("/v1/chat", b"{}", as_json({"error": "Unexpected endpoint or method. (POST /v1/chat)"}))
    new = {"model": MODEL, "wholly_new": 1, "usage": {"prompt_tokens": 9, "completion_tokens": 2}}
    made.chat(turns("hi"), "Hello!", more={"model": MODEL}, told=new)
    broken = [b"data: " + as_json({"model": MODEL, "choices": [{"delta": {"content": "Once upon"}}]}) + b"\n\n"]
    made.streamed_chat(turns("Tell me a story."), broken, Outcome.UPSTREAM_GONE)
    vectors = {"object": "list", "model": "nomic-embed", "data": [{"index": 0, "embedding": [0.1, 0.2]}]}
    told_of = {**vectors, "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    made.exchange("/v1/embeddings", as_json({"model": "nomic-embed", "input": ["an elephant"]}), as_json(told_of))
