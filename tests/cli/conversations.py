"""A trace with conversations, recorded and read: what the commands for readings are tried on."""

import json
from typing import Any

from proxy.exchange import Outcome, Side
from proxy.indexer import Indexer, IndexSettings
from tests.cli.recording import Recording

EVENT_STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def read(recorded: Recording) -> Recording:
    """Take in what is recorded, and make the readings of it."""
    recorded.take_in()
    indexer = Indexer(recorded.trace, IndexSettings(encoding="off"))
    try:
        while indexer.run_once():
            pass
    finally:
        indexer.close()
    return recorded


def ask(recorded: Recording, messages: list[dict[str, Any]], answer: str | dict[str, Any], **fields: Any) -> int:
    """A chat completion with its answer in one piece; gives the exchange."""
    body = {"model": "smollm2-135m-instruct", "messages": messages, **fields}
    message = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    response = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "smollm2-135m-instruct",
        "choices": [
            {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
        ],
        "usage": {"prompt_tokens": 31, "completion_tokens": 12, "total_tokens": 43},
        "stats": {"tokens_per_second": 61.25, "time_to_first_token": 0.125, "generation_time": 0.2},
    }
    return recorded.chat(json.dumps(body).encode(), json.dumps(response).encode())


def stream(recorded: Recording, messages: list[dict[str, Any]], words: list[str], **fields: Any) -> int:
    """A chat completion with its answer in pieces, 20 ms apart, the first after 50 ms; gives the exchange."""
    exchange = recorded.open()
    body = {"model": "qwen3-4b", "messages": messages, "stream": True, **fields}
    recorded.data(exchange, Side.CLIENT, json.dumps(body).encode())
    recorded.at_ms += 30
    recorded.respond(exchange, EVENT_STREAM)
    common = {"id": "chatcmpl-2", "object": "chat.completion.chunk", "model": "qwen3-4b-q4_k_m"}
    events: list[dict[str, Any]] = [
        {**common, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in words
    ]
    events.append({**common, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
    usage = {"prompt_tokens": 20, "completion_tokens": len(words), "total_tokens": 20 + len(words)}
    events.append({**common, "choices": [], "usage": usage})
    for event in events:
        recorded.data(exchange, Side.UPSTREAM, f"data: {json.dumps(event)}\n\n".encode(), every_ms=20)
    recorded.data(exchange, Side.UPSTREAM, b"data: [DONE]\n\n")
    recorded.close(exchange)
    return exchange


def refuse(recorded: Recording, messages: list[dict[str, Any]]) -> int:
    """A chat completion that the server refuses; gives the exchange."""
    exchange = recorded.open()
    recorded.data(exchange, Side.CLIENT, json.dumps({"model": "none", "messages": messages}).encode())
    recorded.respond(exchange, b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n")
    error = {"error": {"message": "no model is loaded", "type": "model_not_found", "code": "model_not_found"}}
    recorded.data(exchange, Side.UPSTREAM, json.dumps(error).encode())
    recorded.close(exchange, Outcome.COMPLETED)
    return exchange


def said(*texts: str) -> list[dict[str, Any]]:
    """Messages of a user and the assistant in turn."""
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def record_conversations(recorded: Recording) -> None:
    """Exchanges 1 to 8: a chat with a branch and a repeat, a tool round, a stream cut by its limit, a refusal."""
    first = said("Tell me about mice.")
    ask(recorded, first, "Mice are small.", temperature=0.5, max_tokens=50)
    second = [*first, *said("", "Mice are small.", "")[1:2]]
    ask(recorded, [*second, {"role": "user", "content": "And cats?"}], "Cats are larger.")
    ask(recorded, [*second, {"role": "user", "content": "And dogs?"}], "Dogs are loyal.")
    ask(recorded, [*second, {"role": "user", "content": "And dogs?"}], "Dogs bark.")
    question = {"role": "user", "content": "What is the weather in Paris?"}
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
    asks_tool = {"role": "assistant", "content": None, "tool_calls": [call]}
    ask(recorded, [question], asks_tool, tools=[TOOL])
    result = {"role": "tool", "tool_call_id": "c1", "content": "18 degrees, rain"}
    ask(recorded, [question, asks_tool, result], "It rains in Paris.", tools=[TOOL])
    system = {"role": "system", "content": "You are a poet.\nYou write in verses.\nBe brief."}
    stream(recorded, [system, *said("Write about the sea.")], ["The", " sea", " is", " d\u00e9ep"], max_tokens=4)
    refuse(recorded, said("Is anybody there?"))
