"""llama.cpp's own endpoints: answers captured from a real server, the README's forms, several prompts, nonsense."""

import json
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
    Reported,
    StopReason,
)
from proxy.read.http_session import HttpReader
from proxy.read.llamacpp import LlamaCpp
from proxy.read.reader import Claim, End, RequestHead, ResponseHead
from tests.read.lmstudio_http import CUTS, cut, event, odd_json, read, timed, timeless

READER = HttpReader(LlamaCpp())
COMPLETION = "POST /completion"
SETTINGS = {
    "seed": 4294967295,
    "temperature": 0.800000011920929,
    "dry_sequence_breakers": ["\n", ":"],
    "stop": ["zz"],
    "max_tokens": 3,
    "n_predict": 3,
    "grammar_lazy": False,
    "grammar_triggers": [],
    "preserved_tokens": [],
    "chat_format": "Content-only",
    "samplers": ["top_k", "temperature"],
    "speculative.types": "none",
    "lora": [],
}
EFFECTIVE = [
    ("seed", 4294967295),
    ("temperature", 0.800000011920929),
    ("dry_sequence_breakers", ["\n", ":"]),
    ("stop", ["zz"]),
    ("max_tokens", 3),
    ("chat_format", "Content-only"),
    ("samplers", ["top_k", "temperature"]),
    ("speculative.types", "none"),
    ("lora", []),
]
TIMINGS = {
    "cache_n": 1,
    "prompt_n": 1,
    "prompt_ms": 27.763,
    "prompt_per_token_ms": 27.763,
    "prompt_per_second": 36.01916219428736,
    "predicted_n": 3,
    "predicted_ms": 43.262,
    "predicted_per_token_ms": 21.631,
    "predicted_per_second": 46.22994776015903,
}


def piece(content: str, token: int, number: int, index: int = 0, **more: object) -> dict[str, Any]:
    """What a stream's event is before its end, as captured."""
    head = {"index": index, "content": content, "tokens": [token], "stop": False, "id_slot": -1}
    return {**head, "tokens_predicted": number, "tokens_evaluated": 2, **more}


def last(content: str = "", index: int = 0, **more: object) -> dict[str, Any]:
    """A stream's end, and a whole answer, as captured; the settings are shortened."""
    return {
        "index": index,
        "content": content,
        "tokens": [],
        "id_slot": 1,
        "stop": True,
        "model": "smollm2-135m-instruct",
        "tokens_predicted": 3,
        "tokens_evaluated": 2,
        "generation_settings": SETTINGS,
        "prompt": "The sky",
        "has_new_line": False,
        "truncated": False,
        "stop_type": "limit",
        "stopping_word": "",
        "tokens_cached": 4,
        "timings": TIMINGS,
        **more,
    }


ASKED = {"prompt": "The sky", "n_predict": 3, "stream": True, "return_progress": True, "stop": ["zz"]}
STREAM = (
    event(piece("", 0, 0, prompt_progress={"total": 2, "cache": 1, "processed": 1, "time_ms": 0})),
    event(piece("", 0, 0, prompt_progress={"total": 2, "cache": 1, "processed": 2, "time_ms": 27})),
    event(piece(".", 30, 1)),
    event(piece(" I", 339, 2)),
    event(piece("'d", 6737, 3)),
    event(last()),
)
REPORTED = Reported(
    input_tokens=2,
    output_tokens=3,
    cached_tokens=1,
    tokens_per_second=46.22994776015903,
    generation_time_s=0.043262,
    prompt_time_s=27.763 / 1000,
    prompt_tokens_per_second=36.01916219428736,
    stats=TIMINGS,
)


def assistant(text: str) -> Message:
    return Message("assistant", (Part(PartKind.TEXT, text),))


def test_reader_claims_its_endpoints_alone() -> None:
    posts = (
        "completion",
        "completions",
        "infill",
        "tokenize",
        "detokenize",
        "apply-template",
        "embedding",
        "embeddings",
    )
    gets = ("props", "slots", "metrics", "health", "v1/health")
    assert {READER.claims(RequestHead("POST", f"/{name}")) for name in posts} == {Claim.YES}
    assert {READER.claims(RequestHead("GET", f"/{name}")) for name in gets} == {Claim.YES}
    assert {READER.claims(RequestHead("POST", path)) for path in ("/v1/completions", "/props", "/")} == {Claim.NO}


def test_completion_is_read_whole() -> None:
    reading = read(READER, COMPLETION, ASKED, answer=last(" is blue", completion_probabilities=[{"id": 281}]))
    assert reading.operation is Operation.COMPLETION
    assert reading.model_answered == "smollm2-135m-instruct"
    assert reading.messages == (Message("prompt", (Part(PartKind.TEXT, "The sky"),), path="prompt"),)
    assert reading.answers == (assistant(" is blue"),)
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.LENGTH, "limit")
    assert reading.reported == REPORTED
    assert reading.parameters == (
        Parameter("max_tokens", 3, Origin.REQUEST, "n_predict"),
        Parameter("stream", True),
        Parameter("return_progress", True),
        Parameter("stop", ["zz"]),
        *(Parameter(name, value, Origin.EFFECTIVE) for name, value in EFFECTIVE),
    )
    assert (reading.unread, reading.problems, reading.errors, reading.details) == ((), (), (), {})


def test_stream_is_put_together_and_prompt_processing_measured() -> None:
    reading = read(READER, COMPLETION, ASKED, events=timed(*STREAM))
    assert reading.is_streamed
    assert reading.answers == (assistant(". I'd"),)
    assert reading.reported == REPORTED
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.LENGTH, "limit")
    assert reading.measured == Measured(
        request_complete_us=10,
        first_byte_us=1_000,
        first_token_us=4_000,
        first_content_us=4_000,
        last_token_us=6_000,
        token_events=3,
        longest_gap_us=1_000,
        prompt_us=1_000,
        done_us=9_000,
    )
    assert (reading.unread, reading.problems) == ((), ())


def test_stream_is_over_with_its_stop() -> None:
    reading = read(READER, COMPLETION, ASKED, events=timed(*STREAM), end=None)
    assert not reading.is_running
    gone = End("client_gone", done_us=9_000)
    assert read(READER, COMPLETION, ASKED, events=timed(*STREAM), end=gone).problems == ()
    assert read(READER, COMPLETION, ASKED, events=timed(*STREAM[:-1]), end=None).is_running
    assert read(READER, COMPLETION, ASKED, events=timed(*STREAM[:-1]), end=gone).problems == (
        Problem("truncated", "the exchange ended as client_gone"),
    )


@pytest.mark.parametrize(
    ("more", "reason", "raw", "string"),
    [
        ({"stop_type": "eos"}, StopReason.STOP, "eos", None),
        ({"stop_type": "word", "stopping_word": "zz"}, StopReason.STOP_STRING, "word", "zz"),
        ({"stop_type": "cosmic"}, StopReason.OTHER, "cosmic", None),
        ({"stop_type": None, "stopped_eos": False, "stopped_word": True}, StopReason.STOP_STRING, "word", None),
        ({"stop_type": None, "stopped_limit": True, "stopped_eos": False}, StopReason.LENGTH, "limit", None),
        ({"stop_type": None}, None, None, None),
    ],
)
def test_stop_types_of_all_versions(
    more: dict[str, Any], reason: StopReason | None, raw: str | None, string: str | None
) -> None:
    reading = read(READER, COMPLETION, ASKED, answer=last("x", **more))
    assert (reading.stop_reason, reading.stop_reason_raw, reading.stop_string) == (reason, raw, string)
    assert reading.unread == ()


def test_several_prompts_have_answers_and_numbers_of_their_own() -> None:
    """No number is the sum, so none is reported of the whole."""
    asked = {"prompt": ["The sky", [1, 2]], "n_predict": 3}
    answer = [last(" above"), last("-year", index=1, stop_type="eos", tokens_evaluated=1)]
    reading = read(READER, COMPLETION, asked, answer=answer)
    assert [one.parts for one in reading.messages] == [
        (Part(PartKind.TEXT, "The sky"),),
        (Part(PartKind.OTHER, "[1,2]"),),
    ]
    assert reading.answers == (assistant(" above"), assistant("-year"))
    assert reading.stop_reason_raw == "limit"
    assert reading.reported == Reported()
    numbers = {"tokens_predicted": 3, "timings": TIMINGS}
    assert reading.details == {
        "answers": [
            {"index": 0, "stop_type": "limit", "tokens_evaluated": 2, **numbers},
            {"index": 1, "stop_type": "eos", "tokens_evaluated": 1, **numbers},
        ]
    }
    assert (reading.unread, reading.problems) == ((), ())


def test_stream_of_several_prompts_is_over_with_the_last_stop() -> None:
    events = timed(
        b"data: null\n\n",  # so it begins
        event(piece("-", 29, 1, index=1)),
        event(piece(",", 28, 1)),
        event(last(index=1)),
        event(piece(" which", 527, 2)),
        event(last()),
    )
    asked = {"prompt": ["The sky", "A"], "stream": True}
    reading = read(READER, COMPLETION, asked, events=events)
    assert reading.answers == (assistant(", which"), assistant("-"))
    assert [one["index"] for one in reading.details["answers"]] == [1, 0]
    assert read(READER, COMPLETION, asked, events=events[:-1], end=None).is_running
    assert not read(READER, COMPLETION, asked, events=events, end=None).is_running
    assert reading.unread == ()


def test_openais_form_without_a_prefix_is_read() -> None:
    choice = {"text": "a", "index": 0, "logprobs": None, "finish_reason": "stop"}
    answer = {"choices": [choice], "usage": {"prompt_tokens": 1}}
    for reading in (
        read(READER, "POST /completions", ASKED, answer=answer),
        read(READER, "POST /completions", ASKED, events=timed(event(answer), b"data: [DONE]\n\n")),
    ):
        assert reading.answers == (assistant("a"),)
        assert reading.stop_reason is StopReason.STOP
        assert reading.reported == Reported(input_tokens=1)
        assert reading.unread == ()


def test_infill_is_read() -> None:
    asked = {
        "input_prefix": "def f(",
        "input_suffix": "): pass",
        "input_extra": [{"filename": "a.py", "text": "import os"}],
        "prompt": "x",
        "t_max_predict_ms": 500,
    }
    reading = read(READER, "POST /infill", asked, answer=last("a, b"))
    assert reading.messages == (
        Message("prompt", (Part(PartKind.FILE, "import os", "a.py"),), "input_extra"),
        Message("prompt", (Part(PartKind.TEXT, "def f("),), "input_prefix", "input_prefix"),
        Message("prompt", (Part(PartKind.TEXT, "): pass"),), "input_suffix", "input_suffix"),
        Message("prompt", (Part(PartKind.TEXT, "x"),), path="prompt"),
    )
    assert reading.answers == (assistant("a, b"),)
    assert reading.reported == REPORTED
    assert reading.unread == ()


def test_props_tell_the_template_and_the_defaults() -> None:
    answer = {
        "default_generation_settings": {"params": {"temperature": 0.8, "n_predict": -1}, "n_ctx": 2048},
        "total_slots": 2,
        "model_alias": "smollm2-135m-instruct",
        "model_path": "/models/x.gguf",
        "chat_template": "{% for message in messages %}",
        "build_info": "b0-unknown",
        "endpoint_slots": True,
        "ui": False,
        "cors_proxy_enabled": False,
    }
    reading = read(READER, "GET /props", answer=answer)
    assert reading.operation is Operation.CONFIG
    assert reading.model_answered == "smollm2-135m-instruct"
    assert reading.parameters == (
        Parameter("context_length", 2048, Origin.SERVER, "n_ctx"),
        Parameter("temperature", 0.8, Origin.MODEL_DEFAULT),
        Parameter("max_tokens", -1, Origin.MODEL_DEFAULT, "n_predict"),
        Parameter("parallel", 2, Origin.SERVER, "total_slots"),
    )
    assert reading.details == {
        "chat_template": "{% for message in messages %}",
        "model_path": "/models/x.gguf",
        "build_info": "b0-unknown",
    }
    assert reading.unread == ()


def test_props_of_older_versions_have_no_level_for_parameters() -> None:
    answer = {"default_generation_settings": {"n_ctx": 512, "top_k": 40, "new": 1}, "total_slots": 1}
    reading = read(READER, "GET /props", answer=answer)
    assert reading.parameters == (
        Parameter("context_length", 512, Origin.SERVER, "n_ctx"),
        Parameter("top_k", 40, Origin.MODEL_DEFAULT),
        Parameter("parallel", 1, Origin.SERVER, "total_slots"),
    )
    assert reading.unread == (("response.default_generation_settings.new", 1),)


def test_router_names_the_model_in_the_query() -> None:
    session = READER.open(RequestHead("GET", "/props", "model=ggml-org%2Fgemma&autoload=true"))
    session.request(b"", 1)
    session.response(ResponseHead(200, (("Content-Type", "application/json"),)), 2)
    (reading,) = session.readings(None)
    assert reading.model_asked == "ggml-org/gemma"


def test_tokens_are_counted() -> None:
    asked = {"content": "hello wörld", "add_special": False, "with_pieces": True}
    for tokens in ([28120, 267, 400], [{"id": 28120, "piece": "hello"}, {"id": 1, "piece": [195]}, {"id": 2}]):
        reading = read(READER, "POST /tokenize", asked, answer={"tokens": tokens})
        assert reading.operation is Operation.TOKENIZE
        assert reading.details == {"tokens": 3}
        assert reading.messages == (Message("input", (Part(PartKind.TEXT, "hello wörld"),), path="content"),)
        assert reading.parameters == (Parameter("add_special", False), Parameter("with_pieces", True))
        assert reading.unread == ()


def test_detokenized_text_is_told() -> None:
    reading = read(READER, "POST /detokenize", {"tokens": [28120, 905]}, answer={"content": "hello world"})
    assert reading.operation is Operation.TOKENIZE
    assert reading.details == {"tokens": 2, "text": "hello world"}


def test_rendered_prompt_is_told() -> None:
    asked = {"messages": [{"role": "user", "content": "hi"}], "chat_template_kwargs": {"enable_thinking": False}}
    reading = read(READER, "POST /apply-template", asked, answer={"prompt": "<|im_start|>user\nhi<|im_end|>\n"})
    assert reading.operation is Operation.TEMPLATE
    assert reading.messages == (Message("user", (Part(PartKind.TEXT, "hi"),), path="messages[0].content"),)
    assert reading.details == {"prompt": "<|im_start|>user\nhi<|im_end|>\n"}
    assert reading.parameters == (Parameter("chat_template_kwargs", {"enable_thinking": False}),)
    assert (reading.answers, reading.unread) == ((), ())


def test_vectors_are_counted() -> None:
    pooled = [{"index": 0, "embedding": [[0.1, 0.2, 0.3]]}, {"index": 1, "embedding": [[0.1, 0.2, 0.3]]}]
    reading = read(READER, "POST /embedding", {"content": ["hi", "you"], "embd_normalize": 2}, answer=pooled)
    assert reading.operation is Operation.EMBEDDING
    assert reading.details == {"vectors": 2, "dimensions": 3, "encoding": "float"}
    assert [one.text for one in reading.messages] == ["hi", "you"]
    assert reading.parameters == (Parameter("embd_normalize", 2),)
    each_token = [{"index": 0, "embedding": [[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]}]
    unpooled = read(READER, "POST /embeddings", {"input": "hi"}, answer=each_token)
    assert unpooled.details == {"vectors": 3, "dimensions": 2, "encoding": "float"}
    older = read(READER, "POST /embedding", {"content": "hi"}, answer={"embedding": [0.1, 0.2]})
    assert older.details == {"vectors": 1, "dimensions": 2, "encoding": "float"}
    openai = {"data": [{"embedding": [1.0], "index": 0}], "model": "m", "usage": {"prompt_tokens": 3}}
    other = read(READER, "POST /embeddings", {"input": "hi"}, answer=openai)
    assert other.details == {"vectors": 1, "dimensions": 1, "encoding": "float"}
    assert (reading.unread, unpooled.unread, older.unread, other.unread) == ((), (), (), ())


def test_slots_are_counted() -> None:
    slots = [
        {"id": 0, "n_ctx": 2048, "speculative": False, "is_processing": True, "next_token": [{}], "id_task": 3},
        {"id": 1, "n_ctx": 2048, "speculative": False, "is_processing": False},
    ]
    reading = read(READER, "GET /slots", answer=slots)
    assert reading.details == {"slots": 2, "busy": 1}
    assert reading.parameters == (Parameter("context_length", 2048, Origin.SERVER, "n_ctx"),)
    assert reading.unread == ()


def test_metrics_are_read() -> None:
    text = (
        b"# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.\n"
        b"# TYPE llamacpp:prompt_tokens_total counter\n"
        b"llamacpp:prompt_tokens_total 12\n"
        b"llamacpp:predicted_tokens_seconds 45.5\n"
    )
    reading = read(READER, "GET /metrics", answer=text, fields=(("Content-Type", "text/plain; version=0.0.4"),))
    assert reading.details == {
        "metrics": {"llamacpp:prompt_tokens_total": "12", "llamacpp:predicted_tokens_seconds": "45.5"}
    }
    assert reading.problems == ()


def test_health_is_read() -> None:
    assert read(READER, "GET /health", answer={"status": "ok"}).details == {"status": "ok"}
    loading = {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    assert read(READER, "GET /health", answer=loading, status=503).errors == (
        CallError("Loading model", "unavailable_error", "503"),
    )


@pytest.mark.parametrize("request_line", [COMPLETION, "GET /metrics", "GET /slots", "POST /embedding"])
def test_errors_are_told(request_line: str) -> None:
    body = {"error": {"code": 501, "message": "This server does not support it.", "type": "not_supported_error"}}
    reading = read(READER, request_line, answer=body, status=501)
    assert reading.errors == (CallError("This server does not support it.", "not_supported_error", "501"),)
    assert reading.details == {}


def test_error_in_a_stream_is_told() -> None:
    error = event({"error": {"code": 500, "message": "gone", "type": "server_error"}})
    reading = read(READER, COMPLETION, ASKED, events=timed(*STREAM[:3], error))
    assert reading.errors == (CallError("gone", "server_error", "500", "stream"),)
    assert reading.answers == (assistant("."),)
    assert reading.unread == ()


def test_unknown_is_counted() -> None:
    answer = last("x", new=1, generation_settings={"newer": 1})
    reading = read(READER, COMPLETION, {**ASKED, "newest": 1}, answer=answer)
    assert dict(reading.unread) == {
        "request.newest": 1,
        "response.new": 1,
        "response.generation_settings.newer": 1,
    }
    unknown = read(READER, COMPLETION, ASKED, events=timed(event({}, "ping"), *STREAM))
    assert unknown.problems == (Problem("unknown_event", "ping"),)


def test_cut_array_is_no_json() -> None:
    reading = read(READER, COMPLETION, ASKED, answer=b'[{"content":"a"')
    assert [one.kind for one in reading.problems] == ["not_json"]


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    data = b"".join(STREAM)
    assert timeless(read(READER, COMPLETION, ASKED, events=cut(data, cuts))) == timeless(
        read(READER, COMPLETION, ASKED, events=[(2_000, data)])
    )


PATHS = (
    *(COMPLETION, "POST /infill", "POST /embedding", "POST /tokenize", "POST /detokenize", "POST /apply-template"),
    *("GET /props", "GET /slots", "GET /metrics", "GET /health"),
)
NAMES = (
    *("prompt", "content", "stop", "index", "stop_type", "timings", "generation_settings", "n_cmpl", "input_extra"),
    *("default_generation_settings", "params", "n_ctx", "tokens", "embedding", "data", "choices", "prompt_progress"),
    *("tokens_evaluated", "messages", "n_predict", "stopping_word", "truncated", "input_prefix", "tools", "metrics"),
)
ODD = odd_json(NAMES, ("eos", "limit"))


@given(ODD, ODD | st.lists(ODD, max_size=3), st.sampled_from(PATHS))
def test_no_answer_raises(asked: object, answer: object, request_line: str) -> None:
    read(READER, request_line, asked, answer=answer)


@given(ODD, st.lists(ODD, max_size=4))
def test_no_stream_raises(asked: object, events: list[object]) -> None:
    read(READER, COMPLETION, asked, events=timed(*(event(one) for one in events)))


@given(st.binary(max_size=60), st.sampled_from(PATHS))
def test_no_bytes_raise(data: bytes, request_line: str) -> None:
    read(READER, request_line, data, answer=data)
    read(READER, request_line, json.dumps(ASKED).encode(), events=[(1, b"data: " + data + b"\n\n")])
