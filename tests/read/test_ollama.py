"""Ollama's API: the samples of its documentation, streamed and not; reasoning, tools, images, loading, errors."""

import json
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import (
    CallError,
    Measured,
    Message,
    Operation,
    Origin,
    Parameter,
    Part,
    PartKind,
    Problem,
    Reading,
    Reported,
    StopReason,
    Tool,
)
from proxy.read.http_session import HttpReader
from proxy.read.ollama import Ollama
from proxy.read.reader import Claim, End, RequestHead
from tests.read.lmstudio_http import COMPLETED, CUTS, cut, odd_json, read, timed, timeless

READER = HttpReader(Ollama())
CHAT, GENERATE = "POST /api/chat", "POST /api/generate"
NDJSON = (("Content-Type", "application/x-ndjson"),)
ASKED = {"model": "llama3.2", "messages": [{"role": "user", "content": "why is the sky blue?"}]}
NUMBERS: dict[str, Any] = {
    "total_duration": 4883583458,
    "load_duration": 1334875,
    "prompt_eval_count": 26,
    "prompt_eval_duration": 342546000,
    "eval_count": 282,
    "eval_duration": 4535599000,
}
REPORTED = Reported(
    input_tokens=26,
    output_tokens=282,
    total_time_s=4.883583458,
    generation_time_s=4.535599,
    load_time_s=0.001334875,
    prompt_time_s=0.342546,
    stats=NUMBERS,
)
WEATHER = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Get the weather", "parameters": {"type": "object"}},
}
TOOL_CALL = {"function": {"name": "get_weather", "arguments": {"city": "Tokyo"}}}
TOOL_CALL_PART = Part(PartKind.TOOL_CALL, '{"city":"Tokyo"}', "get_weather")


def chat_line(done: bool = False, *, content: str = "", **more: Any) -> dict[str, Any]:
    """A line of a chat's stream as the documentation has it; `more` is of the message, or of the last line."""
    message = {"role": "assistant", "content": content, **({} if done else more)}
    head = {"model": "llama3.2", "created_at": "2023-08-04T08:52:19.385406455-07:00", "message": message}
    return {**head, "done": done, **(more if done else {})}


def line(data: object) -> bytes:
    return json.dumps(data).encode() + b"\n"


STREAM = (
    line(chat_line(content="", thinking="Light")),
    line(chat_line(content="The", images=None)),
    line(chat_line(content=" sky")),
    line(chat_line(True, done_reason="stop", **NUMBERS)),
)


def streamed(request: str, asked: object, lines: tuple[bytes, ...], end: End | None = COMPLETED) -> Reading:
    return read(READER, request, asked, events=timed(*lines), fields=NDJSON, end=end)


def test_reader_claims_ollamas_paths_and_not_lm_studios() -> None:
    posts = ("/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show")
    assert {READER.claims(RequestHead("POST", path)) for path in posts} == {Claim.YES}
    assert {READER.claims(RequestHead("GET", path)) for path in ("/api/tags", "/api/ps")} == {Claim.YES}
    assert READER.claims(RequestHead("POST", "/ollama/api/chat")) is Claim.MAYBE
    others = ("/api/v1/chat", "/api/v0/chat/completions", "/api/v0/embeddings", "/api/chat/completions", "/v1/models")
    assert {READER.claims(RequestHead("POST", path)) for path in others} == {Claim.NO}


def test_chat_stream_is_put_together() -> None:
    reading = streamed(CHAT, ASKED, STREAM)
    assert reading.operation is Operation.CHAT
    assert reading.is_streamed
    assert (reading.model_asked, reading.model_answered) == ("llama3.2", "llama3.2")
    assert reading.messages == (
        Message("user", (Part(PartKind.TEXT, "why is the sky blue?"),), path="messages[0].content"),
    )
    assert reading.answers == (
        Message("assistant", (Part(PartKind.REASONING, "Light"), Part(PartKind.TEXT, "The sky"))),
    )
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.STOP, "stop")
    assert reading.reported == REPORTED
    assert reading.measured == Measured(
        request_complete_us=10,
        first_byte_us=1_000,
        first_token_us=2_000,
        first_content_us=3_000,
        last_token_us=4_000,
        token_events=3,
        longest_gap_us=1_000,
        done_us=9_000,
    )
    assert (reading.unread, reading.problems, reading.errors) == ((), (), ())


def test_chat_is_read_whole() -> None:
    answer = chat_line(True, content="Hello! How are you today?", **NUMBERS)  # without a reason, as in 2023
    reading = read(READER, CHAT, {**ASKED, "stream": False}, answer=answer)
    assert not reading.is_streamed
    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, "Hello! How are you today?"),)),)
    assert reading.reported == REPORTED
    assert (reading.stop_reason, reading.stop_reason_raw) == (None, None)
    assert (reading.unread, reading.problems) == ((), ())


def test_tool_calls_come_whole() -> None:
    lines = (line(chat_line(content="", tool_calls=[TOOL_CALL])), STREAM[-1])
    reading = streamed(CHAT, {**ASKED, "tools": [WEATHER]}, lines)
    assert reading.tools == (Tool("get_weather", "Get the weather", '{"type":"object"}'),)
    assert reading.answers == (Message("assistant", (TOOL_CALL_PART,)),)
    assert (reading.measured.first_token_us, reading.measured.token_events) == (2_000, 1)
    assert reading.unread == ()


def test_history_with_tools_reasoning_and_images_is_read() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "what is this?", "images": ["QUJD"]},
        {"role": "assistant", "content": "", "thinking": "hm", "tool_calls": [TOOL_CALL]},
        {"role": "tool", "tool_name": "get_weather", "tool_call_id": "c1", "content": "11 degrees"},
    ]
    reading = read(READER, CHAT, {"model": "m", "messages": messages})
    digest = blake2b(b"QUJD", digest_size=16).hexdigest()
    assert reading.messages == (
        Message("system", (Part(PartKind.TEXT, "Be brief."),), path="messages[0].content"),
        Message("user", (Part(PartKind.TEXT, "what is this?"), Part(PartKind.IMAGE, bytes=3, digest=digest))),
        Message("assistant", (Part(PartKind.REASONING, "hm"), TOOL_CALL_PART)),
        Message("tool", (Part(PartKind.TOOL_RESULT, "11 degrees", "get_weather", "c1"),)),
    )
    assert reading.unread == ()


def test_parameters_have_the_projects_names() -> None:
    asked = {
        "think": True,
        "format": {"type": "object"},
        "keep_alive": "5m",
        "options": {"num_ctx": 4096, "num_predict": 100, "temperature": 0.8, "num_gpu": 1, "new": 1},
    }
    reading = read(READER, CHAT, {**ASKED, **asked})
    assert reading.parameters == (
        Parameter("keep_alive", "5m"),
        Parameter("enable_thinking", True, sent_as="think"),
        Parameter("response_format", "json_schema", sent_as="format"),
        Parameter("context_length", 4096, sent_as="options.num_ctx"),
        Parameter("max_tokens", 100, sent_as="options.num_predict"),
        Parameter("temperature", 0.8),
        Parameter("num_gpu", 1),
    )
    assert reading.output_schema == '{"type":"object"}'
    assert reading.unread == (("request.options.new", 1),)
    levels = read(READER, CHAT, {**ASKED, "think": "high", "format": "json"}).parameters
    assert levels == (
        Parameter("reasoning_effort", "high", sent_as="think"),
        Parameter("response_format", "json", sent_as="format"),
    )


def test_generate_is_a_chat_of_system_and_prompt() -> None:
    asked = {"model": "llama3.2", "system": "Be brief.", "prompt": "Why is the sky blue?", "context": [1, 2, 3]}
    lines = (
        line({"model": "llama3.2", "created_at": "2023-08-04T08:52:19Z", "response": "The", "done": False}),
        line(
            {"model": "llama3.2", "response": "", "done": True, "context": [1, 2], "done_reason": "length", **NUMBERS}
        ),
    )
    reading = streamed(GENERATE, asked, lines)
    assert reading.operation is Operation.CHAT
    assert reading.messages == (
        Message("system", (Part(PartKind.TEXT, "Be brief."),), path="system"),
        Message("user", (Part(PartKind.TEXT, "Why is the sky blue?"),), path="prompt"),
    )
    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, "The"),)),)
    assert reading.stop_reason is StopReason.LENGTH
    assert reading.reported == REPORTED
    assert reading.details == {"context_tokens": 3}
    assert (reading.unread, reading.problems) == ((), ())


@pytest.mark.parametrize(
    ("more", "parameter"), [({"raw": True}, Parameter("raw", True)), ({"suffix": "\n}"}, Parameter("suffix", "\n}"))]
)
def test_generate_without_a_template_is_a_completion(more: dict[str, Any], parameter: Parameter) -> None:
    answer = {"response": " blue", "thinking": "hm", "done": True, "_debug_info": {"rendered_template": "The sky is"}}
    reading = read(READER, GENERATE, {"prompt": "The sky is", **more}, answer=answer)
    assert reading.operation is Operation.COMPLETION
    assert reading.messages == (Message("prompt", (Part(PartKind.TEXT, "The sky is"),), path="prompt"),)
    assert reading.parameters == (parameter,)
    assert reading.answers == (Message("assistant", (Part(PartKind.REASONING, "hm"), Part(PartKind.TEXT, " blue"))),)
    assert reading.details == {"prompt": "The sky is"}
    assert reading.unread == ()


@pytest.mark.parametrize(("reason", "operation"), [("load", Operation.LOAD), ("unload", Operation.UNLOAD)])
def test_chat_without_messages_loads_or_unloads(reason: str, operation: Operation) -> None:
    reading = read(READER, CHAT, {"model": "llama3.2", "messages": []}, answer=chat_line(True, done_reason=reason))
    assert reading.operation is operation
    assert (reading.stop_reason, reading.answers, reading.problems) == (None, (), ())


def test_unknown_reasons_and_fields_are_kept() -> None:
    reading = read(READER, CHAT, {**ASKED, "newest": 1}, answer=chat_line(True, done_reason="tired", new=1))
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.OTHER, "tired")
    assert dict(reading.unread) == {"request.newest": 1, "response.new": 1}


def test_remote_models_are_told() -> None:
    answer = chat_line(True, content="x", remote_model="gpt-oss:120b", remote_host="https://ollama.com:443")
    reading = read(READER, CHAT, ASKED, answer=answer)
    assert reading.details == {"remote_model": "gpt-oss:120b", "remote_host": "https://ollama.com:443"}
    assert reading.unread == ()


def test_errors_are_told() -> None:
    body = {"error": "model 'x' not found"}
    assert read(READER, CHAT, ASKED, answer=body, status=404).errors == (CallError("model 'x' not found"),)
    message = "an error was encountered while running the model"
    reading = streamed(CHAT, ASKED, (*STREAM[:2], line({"error": message})))
    assert reading.errors == (CallError(message, where="stream"),)
    assert reading.answers == (Message("assistant", (Part(PartKind.REASONING, "Light"), Part(PartKind.TEXT, "The"))),)
    assert (reading.unread, reading.problems) == ((), ())


def test_cut_stream_is_truncated() -> None:
    assert streamed(CHAT, ASKED, STREAM[:2]).problems == (Problem("truncated", "the exchange ended as completed"),)
    gone = End("client_gone")
    assert streamed(CHAT, ASKED, STREAM[:2], gone).problems == (
        Problem("truncated", "the exchange ended as client_gone"),
    )
    assert streamed(CHAT, ASKED, STREAM, gone).problems == ()
    half = streamed(CHAT, ASKED, (STREAM[1], STREAM[2][:20]))
    assert [one.kind for one in half.problems] == ["not_json", "truncated"]
    assert half.answers == (Message("assistant", (Part(PartKind.TEXT, "The"),)),)


def test_last_line_needs_no_end() -> None:
    reading = streamed(CHAT, ASKED, (*STREAM[:-1], STREAM[-1].rstrip()))
    assert timeless(reading) == timeless(streamed(CHAT, ASKED, STREAM))


def test_vectors_are_counted() -> None:
    answer = {
        "model": "all-minilm",
        "embeddings": [[0.01, -0.0017, 0.05], [0.04, 0.05, 0.008]],
        "total_duration": 14143917,
        "load_duration": 1019500,
        "prompt_eval_count": 8,
    }
    asked = {"model": "all-minilm", "input": ["Why is the sky blue?", "Why?"], "truncate": True, "dimensions": 3}
    reading = read(READER, "POST /api/embed", asked, answer=answer)
    assert reading.operation is Operation.EMBEDDING
    assert [(one.role, one.text, one.path) for one in reading.messages] == [
        ("input", "Why is the sky blue?", "input[0]"),
        ("input", "Why?", "input[1]"),
    ]
    assert reading.details == {"vectors": 2, "dimensions": 3, "encoding": "float"}
    assert reading.reported == Reported(
        input_tokens=8,
        total_time_s=0.014143917,
        load_time_s=0.0010195,
        stats={"total_duration": 14143917, "load_duration": 1019500, "prompt_eval_count": 8},
    )
    assert reading.parameters == (Parameter("truncate", True), Parameter("dimensions", 3))
    assert reading.unread == ()
    older = read(READER, "POST /api/embeddings", {"model": "m", "prompt": "llamas"}, answer={"embedding": [0.5, 0.009]})
    assert older.details == {"vectors": 1, "dimensions": 2, "encoding": "float"}
    assert [one.text for one in older.messages] == ["llamas"]
    assert older.unread == ()


def test_models_are_listed() -> None:
    details = {"parent_model": "", "format": "gguf", "family": "llama", "quantization_level": "Q4_K_M"}
    row = {
        "name": "llama3.2:latest",
        "model": "llama3.2:latest",
        "size": 2019393189,
        "digest": "a8",
        "details": details,
    }
    listed = read(READER, "GET /api/tags", answer={"models": [{**row, "modified_at": "2025"}]})
    assert listed.operation is Operation.MODELS
    assert listed.details == {"models": ["llama3.2:latest"]}
    running = read(
        READER,
        "GET /api/ps",
        answer={"models": [{**row, "expires_at": "2024", "size_vram": 1, "context_length": 4096}]},
    )
    assert running.details == {"models": ["llama3.2:latest"], "context_lengths": {"llama3.2:latest": 4096}}
    assert (listed.unread, running.unread) == ((), ())


def test_model_is_shown_with_its_defaults() -> None:
    answer = {
        "modelfile": "# Modelfile",
        "parameters": 'num_ctx                        4096\nstop                           "<|eot_id|>"\n'
        'stop                           "USER:"\nnum_keep                       24',
        "template": "{{ .Prompt }}",
        "details": {"format": "gguf"},
        "model_info": {"llama.context_length": 8192, "tokenizer.ggml.tokens": ["a", "b"]},
        "capabilities": ["completion", "vision"],
    }
    reading = read(READER, "POST /api/show", {"model": "llava", "verbose": True}, answer=answer)
    assert reading.operation is Operation.MODELS
    assert reading.model_asked == "llava"
    assert reading.parameters == (
        Parameter("context_length", 4096, Origin.MODEL_DEFAULT, "num_ctx"),
        Parameter("stop", ["<|eot_id|>", "USER:"], Origin.MODEL_DEFAULT),
        Parameter("num_keep", 24, Origin.MODEL_DEFAULT),
    )
    assert reading.details == {
        "template": "{{ .Prompt }}",
        "capabilities": ["completion", "vision"],
        "details": {"format": "gguf"},
        "model_info": {"llama.context_length": 8192},
    }
    assert reading.unread == ()


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    data = b"".join(STREAM)
    assert timeless(read(READER, CHAT, ASKED, events=cut(data, cuts), fields=NDJSON)) == timeless(
        read(READER, CHAT, ASKED, events=[(2_000, data)], fields=NDJSON)
    )


PATHS = (
    *(CHAT, GENERATE, "POST /api/embed", "POST /api/embeddings", "POST /api/show"),
    *("GET /api/tags", "GET /api/ps"),
)
NAMES = (
    *("model", "messages", "role", "content", "images", "tool_calls", "function", "options", "num_ctx", "format"),
    *("think", "prompt", "context", "message", "response", "done", "done_reason", "total_duration", "eval_count"),
    *("embeddings", "embedding", "models", "parameters", "model_info", "_debug_info", "input", "suffix", "tools"),
)
ODD = odd_json(NAMES, ("tool", "load", "stop", "num_ctx 4"))


@given(ODD, ODD, st.sampled_from(PATHS))
def test_no_answer_raises(asked: object, answer: object, request_line: str) -> None:
    read(READER, request_line, asked, answer=answer)


@given(ODD, st.lists(ODD, max_size=4))
def test_no_stream_raises(asked: object, lines: list[object]) -> None:
    streamed(CHAT, asked, tuple(line(one) for one in lines))
    streamed(GENERATE, asked, tuple(line(one) for one in lines))


@given(st.binary(max_size=60), st.sampled_from(PATHS))
def test_no_bytes_raise(data: bytes, request_line: str) -> None:
    read(READER, request_line, data, answer=data)
