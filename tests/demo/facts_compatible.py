"""Samples of sections 1 to 2: who is let in, and the OpenAI and Anthropic compatible endpoints."""

import re
from typing import Any

from proxy.demo.script import Burst, Text
from proxy.demo.server import LookalikeServer
from tests.demo.anthropic_samples import EVENTS, TOOL
from tests.demo.anthropic_samples import WHOLE as MESSAGE
from tests.demo.facts import EMBEDDING, LLM, Fact, answered, streamed
from tests.demo.openai_calls import CALL, TOOL_CALL, WEATHER, chunk
from tests.demo.openai_calls import WHOLE as CHAT_ANSWER
from tests.demo.responses_samples import CALL as CALCULATION
from tests.demo.responses_samples import CALL_ITEM, DELTA, MESSAGE_ITEM
from tests.demo.responses_samples import TOOL as CALCULATE
from tests.demo.responses_samples import sample as response_of
from tests.demo.sdk_client import raw

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
HI: dict[str, Any] = {"model": LLM, "messages": [{"role": "user", "content": "hi"}]}
ANTHROPIC: dict[str, Any] = {**HI, "max_tokens": 100}
REFUSED = {"error": {"type": "invalid_request", "code": "invalid_api_key", "message": "An LM Studio API token ..."}}
MODEL = {"id": "google/gemma-4-e4b", "object": "model", "owned_by": "organization_owner"}
COMPLETION = {
    "id": "cmpl-p9rtxv6fky2v9k8jrd8cc",
    "object": "text_completion",
    "created": 1731990488,
    "model": "granite-3.0-2b-instruct",
    "choices": [{"index": 0, "text": " to find your purpose", "logprobs": None, "finish_reason": "length"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
    "stats": {},
}
EMBEDDINGS = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [0.1], "index": 0}],
    "model": "text-embedding-nomic-embed-text-v1.5@q4_k_m",
    "usage": {"prompt_tokens": 0, "total_tokens": 0},
}
USAGE_CHUNK = {
    **chunk({}, None),
    "choices": [],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
ORDER = re.compile(
    "created in_progress output_item.added content_part.added output_text.delta output_text.done content_part.done "
    "output_item.done completed"
)
CALL_STREAM = [
    chunk(
        {"role": "assistant", "tool_calls": [{"index": 0, **TOOL_CALL, "function": {"name": "x", "arguments": ""}}]},
        None,
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"location'}}]}, None),
    chunk({}, "tool_calls"),
]


async def _refused_socket(server: LookalikeServer, _: object) -> Any:
    async with raw(server, "/llm") as socket:
        await socket.send({"authVersion": 1, "clientIdentifier": "guest:x", "clientPasskey": "y"})
        return await socket.receive()


async def _order_of_responses(server: LookalikeServer, engine: Any) -> str:
    engine.say(Burst("Hi"))
    events = await streamed(RESPONSES, {"model": LLM, "input": "hi"}, *range(9))(server, engine)
    return " ".join(name.removeprefix("response.") for name, _ in events)


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


FACTS = [
    Fact("1.4", "no token", REFUSED, answered("/v1/models", status=401), {"auth": True}),
    Fact("1.4", "bad token", REFUSED, answered("/v1/models", status=401, headers=_bearer("22a")), {"auth": True}),
    Fact("1.4", "WebSocket without a token", {"success": False, "error": "An LM"}, _refused_socket, {"auth": True}),
    Fact("2.1", "models", {"data": [MODEL], "object": "list"}, answered("/v1/models")),
    Fact(
        "2.2",
        "object as tool_choice",
        {"error": "Invalid tool_choice type: 'object'. Supported string values: none, auto, required"},
        answered(CHAT, HI | {"tool_choice": {"type": "function"}}, status=400),
    ),
    Fact("2.3", "text", CHAT_ANSWER, answered(CHAT, HI), optional=["tool_calls"]),
    Fact(
        "2.3",
        "tool call",
        CHAT_ANSWER,
        answered(CHAT, HI | {"tools": [WEATHER]}, says=[CALL]),
        optional=["content", "reasoning_content"],
    ),
    Fact(
        "2.4",
        "content and end",
        [(chunk({"role": "assistant", "content": "Hello"}, None), chunk({}, "stop"), "[DONE]")],
        streamed(CHAT, HI, 0, 1, -2, -1, says=["Hello there"]),
    ),
    Fact(
        "2.4",
        "usage",
        [USAGE_CHUNK],
        streamed(CHAT, HI | {"stream_options": {"include_usage": True}}, -2),
    ),
    Fact(
        "2.4",
        "reasoning",
        [chunk({"role": "assistant", "reasoning_content": "An"}, None)],
        streamed(CHAT, HI, 0, says=["<think>An idea</think>x"]),
    ),
    Fact(
        "2.4",
        "tool call",
        [tuple(CALL_STREAM)],
        streamed(CHAT, HI | {"tools": [WEATHER]}, 0, 1, -2, says=[Text(CALL)]),
    ),
    Fact(
        "2.4",
        "error",
        [[("error", {"error": {"message": "Input does not fit"}, "message": "Input does not fit"})]],
        streamed(CHAT, {"model": LLM, "messages": [{"role": "user", "content": "word " * 3000}]}, "error"),
    ),
    Fact("2.5", "whole", COMPLETION, answered(COMPLETIONS, {"model": LLM, "prompt": "I am", "max_tokens": 2})),
    Fact(
        "2.5",
        "chunk",
        [{name: COMPLETION[name] for name in ("id", "object", "created", "model", "choices")}],
        streamed(COMPLETIONS, {"model": LLM, "prompt": "I am"}, -2),
    ),
    Fact("2.6", "embeddings", EMBEDDINGS, answered("/v1/embeddings", {"model": EMBEDDING, "input": ["a", "b"]})),
    Fact("2.7", "text", response_of(MESSAGE_ITEM), answered(RESPONSES, {"model": LLM, "input": "hi"}, says=["4"])),
    Fact(
        "2.7",
        "function call",
        response_of(CALL_ITEM),
        answered(RESPONSES, {"model": LLM, "input": "2 + 2", "tools": [CALCULATE]}, says=[CALCULATION]),
    ),
    Fact(
        "2.7",
        "delta",
        [[("response.output_text.delta", DELTA)]],
        streamed(RESPONSES, {"model": LLM, "input": "hi"}, "response.output_text.delta"),
    ),
    Fact("2.7", "order of a stream", ORDER, _order_of_responses),
    Fact("2.8", "message", MESSAGE, answered(MESSAGES, ANTHROPIC, says=["Hello from LM Studio."])),
    *(
        Fact("2.8", name, [[(name, event)]], streamed(MESSAGES, ANTHROPIC, name, says=["Hello"]))
        for name, event in EVENTS.items()
    ),
    Fact(
        "2.8",
        "input_json_delta",
        [[("name", {"type": "x", "index": 0, "delta": {"type": re.compile("input_json_delta"), "partial_json": "{"}})]],
        streamed(
            MESSAGES,
            ANTHROPIC | {"tools": [TOOL]},
            "content_block_delta",
            says=['[TOOL_REQUEST]{"name": "get_weather", "arguments": {"city": "Bern"}}[END_TOOL_REQUEST]'],
        ),
    ),
]
