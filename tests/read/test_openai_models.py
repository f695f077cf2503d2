"""/v1/models: LM Studio's sample, llama.cpp's captured answer, one model by its id."""

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import CallError, Operation, Problem
from proxy.read.http_session import HttpReader
from proxy.read.openai_models import OpenAIModels
from proxy.read.reader import Claim, RequestHead
from tests.read.lmstudio_http import CUTS, JSON_TYPE, cut, odd_json, read, timeless

READER = HttpReader(OpenAIModels())
PATH = "GET /v1/models"
EMBEDDER = "text-embedding-nomic-embed-text-v1.5"
# lmstudio-api.md 2.1, verbatim:
LM_STUDIO = b"""{
  "data": [
    { "id": "google/gemma-4-e4b", "object": "model", "owned_by": "organization_owner" },
    { "id": "text-embedding-nomic-embed-text-v1.5", "object": "model", "owned_by": "organization_owner" }
  ],
  "object": "list"
}"""
META = {"vocab_type": 2, "n_vocab": 49152, "n_ctx": 2048, "n_ctx_train": 8192, "n_embd": 576, "n_params": 134515008}
# xllamacpp's server, captured (`models` shortened):
LLAMA = {
    "models": [{"name": "smollm2-135m-instruct", "model": "smollm2-135m-instruct", "details": {"format": "gguf"}}],
    "object": "list",
    "data": [
        {
            "id": "smollm2-135m-instruct",
            "aliases": ["smollm2-135m-instruct"],
            "tags": [],
            "object": "model",
            "architecture": {"input_modalities": ["text"], "output_modalities": ["text"]},
            "created": 1795635180,
            "owned_by": "llamacpp",
            "meta": META,
        }
    ],
}


def test_reader_claims_lists_that_are_not_lm_studios() -> None:
    paths = ("/v1/models", "/v1/models/org/name@q4", "/models", "/api/v1/models", "/api/v0/models", "/v1/modelsx")
    assert [READER.claims(RequestHead("GET", path)) for path in paths] == [
        Claim.YES,
        Claim.YES,
        Claim.YES,
        Claim.MAYBE,
        Claim.NO,
        Claim.NO,
    ]
    assert READER.claims(RequestHead("POST", "/v1/models")) is Claim.NO


def test_documented_list_is_read() -> None:
    reading = read(READER, PATH, answer=LM_STUDIO)
    assert reading.operation is Operation.MODELS
    assert reading.details == {"models": ["google/gemma-4-e4b", EMBEDDER]}
    assert (reading.unread, reading.problems, reading.errors) == ((), (), ())


@pytest.mark.parametrize("path", ["org/name@q4_k_m", quote("org/name@q4_k_m", safe="")])
def test_one_model_is_read_by_its_id(path: str) -> None:
    answer = {"id": "org/name@q4_k_m", "object": "model", "owned_by": "organization_owner"}
    reading = read(READER, f"{PATH}/{path}", answer=answer)
    assert (reading.model_asked, reading.model_answered) == ("org/name@q4_k_m", "org/name@q4_k_m")
    assert reading.details == {"models": ["org/name@q4_k_m"]}
    assert reading.unread == ()


def test_llama_cpps_additions_are_read() -> None:
    reading = read(READER, PATH, answer=LLAMA)
    assert reading.details == {"models": ["smollm2-135m-instruct"], "meta": {"smollm2-135m-instruct": META}}
    assert reading.unread == ()


def test_llama_cpps_router_tells_states() -> None:
    rows = [
        {"id": "a", "path": "/a.gguf", "status": {"value": "loaded", "args": ["llama-server"]}},
        {"id": "b", "status": {"value": "unloaded", "failed": True, "exit_code": 1}, "meta": None},
    ]
    reading = read(READER, "GET /models", answer={"object": "list", "data": rows})
    assert reading.details == {"models": ["a", "b"], "status": {"a": "loaded", "b": "unloaded"}}
    assert reading.unread == ()


def test_unknown_fields_are_counted() -> None:
    reading = read(READER, PATH, answer={"data": [{"id": "a", "new": 1}, {"id": "b", "new": 2}], "more": 1})
    assert dict(reading.unread) == {"response.more": 1, "response.data[].new": 2}


@pytest.mark.parametrize(
    ("status", "errors", "problems"),
    [
        (404, (CallError("no such model"),), ()),
        (200, (CallError("no such model"),), (Problem("error_in_200", "status 200, and the body holds an error"),)),
    ],
)
def test_errors_are_told(status: int, errors: tuple[CallError, ...], problems: tuple[Problem, ...]) -> None:
    reading = read(READER, f"{PATH}/x", answer={"error": "no such model"}, status=status)
    assert (reading.errors, reading.problems) == (errors, problems)
    assert reading.model_asked == "x"


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    cut_reading = read(READER, PATH, events=cut(LM_STUDIO, cuts), fields=(("content-type", JSON_TYPE),))
    assert timeless(cut_reading) == timeless(read(READER, PATH, answer=LM_STUDIO))


ODD = odd_json(("data", "models", "id", "meta", "status", "value", "object"))


@given(ODD, st.sampled_from([PATH, f"{PATH}/x", f"{PATH}/"]))
def test_nothing_raises(answer: object, request: str) -> None:
    read(READER, request, answer=answer)
