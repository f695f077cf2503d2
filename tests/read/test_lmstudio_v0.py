"""/api/v0: OpenAI's answers with statistics in each of their places, and its lists of models."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import CallError, Message, Operation, Part, PartKind, Reported, StopReason
from proxy.read.http_session import HttpReader
from proxy.read.lmstudio_v0 import LMStudioV0
from proxy.read.reader import Claim, RequestHead
from tests.read.lmstudio_http import CUTS, cut, event, odd_json, read, timed, timeless, values

V0 = HttpReader(LMStudioV0())
CHAT, COMPLETIONS = "POST /api/v0/chat/completions", "POST /api/v0/completions"
EMBEDDINGS, LIST = "POST /api/v0/embeddings", "GET /api/v0/models"
ASKED = {"model": "granite-3.0-2b-instruct", "messages": [{"role": "user", "content": "Hi"}], "ttl": 300}
USAGE = {"prompt_tokens": 24, "completion_tokens": 53, "total_tokens": 77}
STATS = {
    "tokens_per_second": 51.43709529007664,
    "time_to_first_token": 0.111,
    "generation_time": 0.954,
    "stop_reason": "eosFound",
}
MODEL_INFO = {"arch": "granite", "quant": "Q4_K_M", "format": "gguf", "context_length": 4096}
RUNTIME = {"name": "llama.cpp-mac-arm64-apple-metal-advsimd", "version": "1.3.0", "supported_formats": ["gguf"]}
TEXT = "Greetings, I'm a helpful AI ..."
WHOLE = {
    "id": "chatcmpl-i3gkjwthhw96whukek9tz",
    "object": "chat.completion",
    "created": 1731990317,
    "model": "granite-3.0-2b-instruct",
    "choices": [
        {
            "index": 0,
            "logprobs": None,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": TEXT},
        }
    ],
    "usage": USAGE,
    "stats": STATS,
    "model_info": MODEL_INFO,
    "runtime": RUNTIME,
}
REPORTED = Reported(
    input_tokens=24,
    output_tokens=53,
    total_tokens=77,
    tokens_per_second=51.43709529007664,
    ttft_s=0.111,
    generation_time_s=0.954,
    stats=STATS,
    model_info=MODEL_INFO,
    runtime=RUNTIME,
)
STREAM_REPORTED = Reported(
    **{name: getattr(REPORTED, name) for name in REPORTED.__dataclass_fields__ if name != "runtime"}
)
ROWS = [
    {
        "id": "qwen2-vl-7b-instruct",
        "object": "model",
        "type": "vlm",
        "publisher": "mlx-community",
        "arch": "qwen2_vl",
        "compatibility_type": "mlx",
        "quantization": "4bit",
        "state": "not-loaded",
        "max_context_length": 32768,
    },
    {
        "id": "meta-llama-3.1-8b-instruct",
        "object": "model",
        "type": "llm",
        "publisher": "lmstudio-community",
        "arch": "llama",
        "compatibility_type": "gguf",
        "quantization": "Q4_K_M",
        "state": "loaded",
        "max_context_length": 131072,
        "loaded_context_length": 8192,
        "capabilities": ["tool_use"],
    },
]
SHOWN = [
    {
        "id": "qwen2-vl-7b-instruct",
        "type": "vlm",
        "state": "not-loaded",
        "quantization": "4bit",
        "max_context_length": 32768,
    },
    {
        "id": "meta-llama-3.1-8b-instruct",
        "type": "llm",
        "state": "loaded",
        "quantization": "Q4_K_M",
        "loaded_context_length": 8192,
        "max_context_length": 131072,
    },
]


def chunk(delta: dict[str, Any] | None, finish: str | None = None, **added: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "granite"}
    return event(head | {"choices": choices} | added)


ADDED: dict[str, Any] = {"usage": USAGE, "stats": STATS, "model_info": MODEL_INFO}
PIECES = [
    chunk({"role": "assistant", "content": "Greetings, "}),
    chunk({"role": "assistant", "content": "I'm a helpful AI ..."}),
]
DONE = b"data: [DONE]\n\n"
WITH_FINISH = [*PIECES, chunk({}, "stop", **ADDED), DONE]
IN_ANOTHER_EVENT = [*PIECES, chunk({}, "stop"), chunk(None, **ADDED), DONE]


def test_documented_chat_is_read() -> None:
    reading = read(V0, CHAT, ASKED, answer=WHOLE)

    assert reading.operation is Operation.CHAT
    path = "choices[0].message.content"
    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, TEXT),), path=path),)
    assert reading.reported == REPORTED
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.STOP, "eosFound")
    assert (reading.model_asked, reading.model_answered) == ("granite-3.0-2b-instruct", "granite-3.0-2b-instruct")
    assert values(reading.parameters) == {"ttl": 300}
    assert (reading.problems, reading.unread, reading.errors) == ((), (), ())


@pytest.mark.parametrize("events", [WITH_FINISH, IN_ANOTHER_EVENT])
def test_statistics_are_found_in_both_places_of_a_stream(events: list[bytes]) -> None:
    reading = read(V0, CHAT, ASKED, events=timed(*events))

    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, TEXT),)),)
    assert reading.reported == STREAM_REPORTED
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.STOP, "eosFound")
    assert (reading.problems, reading.unread, reading.errors) == ((), (), ())
    assert (reading.measured.token_events, reading.measured.first_token_us) == (2, 2_000)


@pytest.mark.parametrize(
    ("raw", "finish", "reason"),
    [
        ("eosFound", "stop", StopReason.STOP),
        ("stopStringFound", "stop", StopReason.STOP_STRING),
        ("maxPredictedTokensReached", "length", StopReason.LENGTH),
        ("contextLengthReached", "length", StopReason.CONTEXT),
        ("toolCalls", "tool_calls", StopReason.TOOL_CALLS),
    ],
)
def test_finer_stop_reason_wins_wherever_it_stands(raw: str, finish: str, reason: StopReason) -> None:
    stats = {"stop_reason": raw}
    together = read(V0, CHAT, ASKED, events=timed(chunk({}, finish, stats=stats), DONE))
    apart = read(V0, CHAT, ASKED, events=timed(chunk({}, finish), chunk(None, stats=stats), DONE))

    assert (together.stop_reason, together.stop_reason_raw) == (reason, raw)
    assert (apart.stop_reason, apart.stop_reason_raw) == (reason, raw)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("stop", (StopReason.STOP, "stop")), ("tired", (StopReason.OTHER, "tired"))],
)
def test_stop_reason_of_other_words_is_kept(raw: str, expected: tuple[StopReason, str]) -> None:
    reading = read(V0, CHAT, ASKED, answer={**WHOLE, "stats": {"stop_reason": raw}})

    assert (reading.stop_reason, reading.stop_reason_raw) == expected


def test_draft_counters_are_reported() -> None:
    stats = {
        **STATS,
        "draft_model": "tiny",
        "total_draft_tokens_count": 9,
        "accepted_draft_tokens_count": 5,
        "rejected_draft_tokens_count": 3,
        "ignored_draft_tokens_count": 1,
    }
    reported = read(V0, CHAT, ASKED, answer={**WHOLE, "stats": stats}).reported

    assert (reported.draft_model, reported.draft_tokens, reported.accepted_draft_tokens) == ("tiny", 9, 5)
    assert reported.stats == stats


def test_tool_calls_and_reasoning_of_a_stream_are_read() -> None:
    first = {"index": 0, "id": "814890118", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    events = [
        chunk({"role": "assistant", "reasoning_content": "Hm."}),
        chunk({"role": "assistant", "tool_calls": [first]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"location'}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": '":"Paris"}'}}]}),
        chunk({}, "tool_calls"),
        DONE,
    ]
    reading = read(V0, CHAT, ASKED, events=timed(*events))

    parts = (
        Part(PartKind.REASONING, "Hm."),
        Part(PartKind.TOOL_CALL, '{"location":"Paris"}', "get_weather", "814890118"),
    )
    assert reading.answers == (Message("assistant", parts),)
    assert reading.stop_reason is StopReason.TOOL_CALLS


def test_completion_is_read_with_its_statistics() -> None:
    stats = {"tokens_per_second": 57.69, "stop_reason": "maxPredictedTokensReached"}
    answer = {
        "id": "cmpl-p9rtxv6fky2v9k8jrd8cc",
        "object": "text_completion",
        "created": 1731990488,
        "model": "granite-3.0-2b-instruct",
        "choices": [{"index": 0, "text": " to find your purpose", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
        "stats": stats,
        "model_info": MODEL_INFO,
        "runtime": RUNTIME,
    }
    reading = read(V0, COMPLETIONS, {"prompt": "the meaning of life is", "max_tokens": 10}, answer=answer)

    assert reading.operation is Operation.COMPLETION
    assert reading.messages == (Message("prompt", (Part(PartKind.TEXT, "the meaning of life is"),), path="prompt"),)
    assert [message.text for message in reading.answers] == [" to find your purpose"]
    assert reading.stop_reason is StopReason.LENGTH
    assert (reading.reported.stats, reading.reported.runtime) == (stats, RUNTIME)
    assert reading.unread == ()


def test_embedding_is_read() -> None:
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "embedding": [-0.01, 0.02, 0.03], "index": 0}],
        "model": "text-embedding-nomic-embed-text-v1.5@q4_k_m",
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }
    reading = read(V0, EMBEDDINGS, {"model": "nomic", "input": "Some text"}, answer=answer)

    assert reading.operation is Operation.EMBEDDING
    assert [message.text for message in reading.messages] == ["Some text"]
    assert reading.model_answered == "text-embedding-nomic-embed-text-v1.5@q4_k_m"
    assert (reading.details["dimensions"], reading.unread) == (3, ())


def test_list_of_models_is_told() -> None:
    reading = read(V0, LIST, answer={"data": ROWS, "object": "list"})

    assert reading.operation is Operation.MODELS
    assert (reading.details, reading.model_asked) == ({"models": SHOWN}, None)
    assert (reading.problems, reading.unread) == ((), ())


@pytest.mark.parametrize("path", ["org/name@q4_k_m", "org%2Fname@q4_k_m"])
def test_one_model_is_told(path: str) -> None:
    reading = read(V0, f"GET /api/v0/models/{path}", answer={**ROWS[1], "splash": 1})

    assert (reading.model_asked, reading.model_answered) == ("org/name@q4_k_m", "meta-llama-3.1-8b-instruct")
    assert reading.details == {"models": [SHOWN[1]]}
    assert reading.unread == (("response.splash", 1),)


@pytest.mark.parametrize(
    ("request_line", "status", "body", "error"),
    [
        (CHAT, 400, {"error": "'messages' field is required"}, CallError("'messages' field is required")),
        (
            CHAT,
            400,
            {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_ctx": 9}},
            CallError("too long", "exceed_context_size_error", "400"),
        ),
        (LIST, 200, {"error": "Unexpected endpoint"}, CallError("Unexpected endpoint")),
        (f"{LIST}/x", 404, b"not found", CallError("not found", code="404")),
    ],
)
def test_error_in_each_form_is_read(request_line: str, status: int, body: Any, error: CallError) -> None:
    assert read(V0, request_line, answer=body, status=status).errors == (error,)


def test_error_within_a_stream_is_read() -> None:
    text = "Input does not fit in context length."
    events = timed(PIECES[0], event({"error": {"message": text}, "message": text}, "error"))
    reading = read(V0, CHAT, ASKED, events=events)

    assert reading.errors == (CallError(text, where="stream"),)
    assert (reading.problems, reading.unread) == ((), ())


@pytest.mark.parametrize(
    ("method", "path", "claim"),
    [
        ("POST", "/api/v0/chat/completions", Claim.YES),
        ("POST", "/api/v0/completions", Claim.YES),
        ("POST", "/api/v0/embeddings", Claim.YES),
        ("GET", "/api/v0/models", Claim.YES),
        ("GET", "/api/v0/models/a/b@c", Claim.YES),
        ("POST", "/api/v0/models", Claim.NO),
        ("GET", "/api/v0/models2", Claim.NO),
        ("GET", "/api/v0/events", Claim.NO),
        ("POST", "/v1/chat/completions", Claim.NO),
    ],
)
def test_claim_is_by_method_and_path(method: str, path: str, claim: Claim) -> None:
    assert V0.claims(RequestHead(method, path)) is claim


@given(CUTS, st.sampled_from([WITH_FINISH, IN_ANOTHER_EVENT, WITH_FINISH[:-1], PIECES]))
def test_any_cutting_gives_the_same_reading(cuts: list[int], events: list[bytes]) -> None:
    data = b"".join(events)
    whole = read(V0, CHAT, ASKED, events=cut(data, []))

    assert timeless(read(V0, CHAT, ASKED, events=cut(data, cuts))) == timeless(whole)


NAMES = (*WHOLE, *ROWS[1], *STATS, *USAGE, *MODEL_INFO, "data", "delta", "content", "prompt", "input", "embedding")
ODD = odd_json((*NAMES, "tool_calls", "function", "arguments", "index", "message", "finish_reason"), ("stop", "list"))


@given(st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS, LIST, f"{LIST}/x"]), ODD, st.lists(ODD, max_size=3))
def test_no_json_makes_it_raise(request_line: str, body: Any, events: list[Any]) -> None:
    read(V0, request_line, body, answer=body)
    read(V0, request_line, body, events=timed(*map(event, events)))
