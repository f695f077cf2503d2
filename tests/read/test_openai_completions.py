"""/v1/completions: LM Studio's documented sample, llama.cpp's captured ones, several prompts, errors, cut streams."""

from hashlib import blake2b

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
from proxy.read.openai_completions import OpenAICompletions
from proxy.read.reader import Claim, End, RequestHead
from tests.read.lmstudio_http import CUTS, cut, event, odd_json, read, timed, timeless, values

READER = HttpReader(OpenAICompletions())
PATH = "POST /v1/completions"
ASKED = {"model": "granite-3.0-2b-instruct", "prompt": "the meaning of life is", "max_tokens": 10, "temperature": 0.7}
# lmstudio-api.md 2.5, verbatim:
LM_STUDIO = (
    b'{"id":"cmpl-p9rtxv6fky2v9k8jrd8cc","object":"text_completion","created":1731990488,'
    b'"model":"granite-3.0-2b-instruct","choices":[{"index":0,"text":" to find your purpose","logprobs":null,'
    b'"finish_reason":"length"}],"usage":{"prompt_tokens":5,"completion_tokens":9,"total_tokens":14},"stats":{}}'
)
# llama.cpp, captured from xllamacpp's server:
ID = "chatcmpl-VjLnEA3qm5TnrG7F7CQ1dFR5EtxwqPrm"
TIMINGS = {
    "cache_n": 1,
    "prompt_n": 1,
    "prompt_ms": 31.421,
    "prompt_per_token_ms": 31.421,
    "prompt_per_second": 31.82584895452086,
    "predicted_n": 3,
    "predicted_ms": 56.02,
    "predicted_per_token_ms": 28.01,
    "predicted_per_second": 35.701535166012135,
}


def piece(text: str, finish: str | None = None, **more: object) -> bytes:
    choice = {"text": text, "index": 0, "logprobs": None, "finish_reason": finish}
    head = {"choices": [choice], "created": 1795635181, "model": "smollm2-135m-instruct"}
    return event({**head, "system_fingerprint": "b0-unknown", "object": "text_completion", **more, "id": ID})


USAGE = {
    "completion_tokens": 3,
    "prompt_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
}
LLAMA = (
    piece(" was"),
    piece(" a"),
    piece(" canvas"),
    piece("", "length", usage=USAGE, timings=TIMINGS),
    b"data: [DONE]\n\n",
)
TEXT = Message("assistant", (Part(PartKind.TEXT, " was a canvas"),))


def test_reader_claims_completions_and_no_chat() -> None:
    def claim(method: str, path: str) -> Claim:
        return READER.claims(RequestHead(method, path))

    assert [claim("POST", path) for path in ("/v1/completions", "/api/v0/completions", "/beta/completions")] == [
        Claim.YES
    ] * 3
    assert claim("POST", "/completions") is Claim.MAYBE
    assert claim("POST", "/v1/chat/completions") is Claim.NO
    assert claim("GET", "/v1/completions") is Claim.NO


def test_documented_sample_is_read_whole() -> None:
    reading = read(READER, PATH, ASKED, answer=LM_STUDIO)
    assert reading.operation is Operation.COMPLETION
    assert reading.messages == (Message("prompt", (Part(PartKind.TEXT, "the meaning of life is"),), path="prompt"),)
    assert values(reading.parameters) == {"max_tokens": 10, "temperature": 0.7}
    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, " to find your purpose"),)),)
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.LENGTH, "length")
    assert reading.reported == Reported(input_tokens=5, output_tokens=9, total_tokens=14)
    assert (reading.model_answered, reading.response_id) == ("granite-3.0-2b-instruct", "cmpl-p9rtxv6fky2v9k8jrd8cc")
    assert (reading.unread, reading.problems, reading.errors) == ((), (), ())


def test_v0_answer_has_statistics() -> None:
    stats = {
        "tokens_per_second": 57.69230769230769,
        "time_to_first_token": 0.299,
        "generation_time": 0.156,
        "stop_reason": "maxPredictedTokensReached",
    }
    answer = {
        "choices": [{"index": 0, "text": "x", "logprobs": None, "finish_reason": "length"}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14},
        "stats": stats,
        "model_info": {"arch": "granite"},
        "runtime": {"name": "llama.cpp"},
    }
    reading = read(READER, "POST /api/v0/completions", ASKED, answer=answer)
    assert reading.reported == Reported(
        input_tokens=5,
        output_tokens=9,
        total_tokens=14,
        tokens_per_second=57.69230769230769,
        ttft_s=0.299,
        generation_time_s=0.156,
        stats=stats,
        model_info={"arch": "granite"},
        runtime={"name": "llama.cpp"},
    )
    assert reading.unread == ()


def test_stream_is_put_together() -> None:
    asked = {"prompt": "The sky", "max_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}
    reading = read(READER, PATH, asked, events=timed(*LLAMA))
    assert reading.is_streamed
    assert reading.answers == (TEXT,)
    assert reading.stop_reason is StopReason.LENGTH
    assert reading.reported == Reported(
        input_tokens=2,
        output_tokens=3,
        total_tokens=5,
        cached_tokens=1,
        tokens_per_second=35.701535166012135,
        generation_time_s=0.05602,
        prompt_time_s=0.031421,
        prompt_tokens_per_second=31.82584895452086,
        stats=TIMINGS,
    )
    assert reading.measured == Measured(
        request_complete_us=10,
        first_byte_us=1_000,
        first_token_us=2_000,
        first_content_us=2_000,
        last_token_us=4_000,
        token_events=3,
        longest_gap_us=1_000,
        done_us=9_000,
    )
    assert (reading.unread, reading.problems) == ((), ())


def test_several_prompts_have_an_answer_each() -> None:
    answer = {
        "choices": [  # the first without an index, as llama.cpp sends it
            {"text": "'s a canvas", "logprobs": None, "finish_reason": "length"},
            {"text": "-12", "index": 1, "logprobs": None, "finish_reason": "stop"},
        ]
    }
    reading = read(READER, PATH, {"prompt": ["The sky", "B"]}, answer=answer)
    assert [(one.text, one.path) for one in reading.messages] == [("The sky", "prompt[0]"), ("B", "prompt[1]")]
    assert [one.text for one in reading.answers] == ["'s a canvas", "-12"]
    assert reading.stop_reason is StopReason.LENGTH


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ([1, 2, 3], [(Part(PartKind.OTHER, "[1,2,3]"),)]),
        ([1, "a", 2], [(Part(PartKind.OTHER, '[1,"a",2]'),)]),
        ([[1, 2], "b"], [(Part(PartKind.OTHER, "[1,2]"),), (Part(PartKind.TEXT, "b"),)]),
        ("", [()]),
        ([], []),
        (None, []),
        ({"prompt_string": "see", "multimodal_data": []}, [(Part(PartKind.TEXT, "see"),)]),
        ({"x": 1}, [(Part(PartKind.OTHER, '{"x":1}'),)]),
        (True, [(Part(PartKind.OTHER, "true"),)]),
    ],
)
def test_prompt_may_be_tokens_or_anything(prompt: object, parts: list[tuple[Part, ...]]) -> None:
    reading = read(READER, PATH, {"prompt": prompt})
    assert [one.parts for one in reading.messages] == parts


def test_media_of_a_prompt_are_told_by_size_and_digest() -> None:
    prompt = {"prompt_string": "see <__media__>", "multimodal_data": ["QUJD"]}
    (message,) = read(READER, PATH, {"prompt": [prompt]}).messages
    digest = blake2b(b"QUJD", digest_size=16).hexdigest()
    assert message.parts == (
        Part(PartKind.TEXT, "see <__media__>"),
        Part(PartKind.FILE, bytes=3, digest=digest),
    )


def test_schema_and_renamed_parameters_are_read() -> None:
    asked = {"prompt": "x", "n_predict": 4, "repetition_penalty": 1.2, "json_schema": {"type": "object"}, "future": 1}
    reading = read(READER, PATH, asked)
    assert reading.parameters == (
        Parameter("max_tokens", 4, Origin.REQUEST, "n_predict"),
        Parameter("repeat_penalty", 1.2, Origin.REQUEST, "repetition_penalty"),
    )
    assert reading.output_schema == '{"type":"object"}'
    assert reading.unread == (("request.future", 1),)


@pytest.mark.parametrize(
    ("status", "body", "errors"),
    [
        (200, {"error": "Unexpected endpoint or method."}, (CallError("Unexpected endpoint or method."),)),
        (
            400,
            {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error", "n_ctx": 2048}},
            (CallError("too long", "exceed_context_size_error", "400"),),
        ),
        (502, b"Bad gateway", (CallError("Bad gateway", code="502"),)),
    ],
)
def test_errors_are_told(status: int, body: object, errors: tuple[CallError, ...]) -> None:
    assert read(READER, PATH, ASKED, answer=body, status=status).errors == errors


def test_error_in_a_stream_is_told() -> None:
    reading = read(READER, PATH, ASKED, events=timed(LLAMA[0], event({"error": {"message": "gone"}}, "error")))
    assert reading.errors == (CallError("gone", where="stream"),)
    assert [one.text for one in reading.answers] == [" was"]


def test_cut_stream_is_truncated_and_one_left_at_its_stop_reason_is_not() -> None:
    gone = End("client_gone", done_us=9_000)
    cut_off = read(READER, PATH, ASKED, events=timed(*LLAMA[:2]), end=gone)
    assert cut_off.problems == (Problem("truncated", "the exchange ended as client_gone"),)
    assert read(READER, PATH, ASKED, events=timed(*LLAMA[:4]), end=gone).problems == ()


def test_unknown_event_is_told() -> None:
    assert read(READER, PATH, ASKED, events=timed(event({}, "ping"), *LLAMA)).problems == (
        Problem("unknown_event", "ping"),
    )


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    data = b"".join(LLAMA)
    assert timeless(read(READER, PATH, ASKED, events=cut(data, cuts))) == timeless(
        read(READER, PATH, ASKED, events=[(2_000, data)])
    )


ODD = odd_json(("prompt", "choices", "text", "index", "finish_reason", "usage", "timings", "stats", "prompt_string"))


@given(ODD, ODD, st.lists(ODD, max_size=4))
def test_nothing_raises(asked: object, answer: object, events: list[object]) -> None:
    read(READER, PATH, asked, answer=answer)
    read(READER, PATH, asked, events=timed(*(event(one) for one in events)))
