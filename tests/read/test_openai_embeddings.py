"""/v1/embeddings: arrays and base64, inputs of any form, errors, a large answer."""

import time
from base64 import b64encode
from struct import pack

import pytest
from hypothesis import given

from proxy.meaning import CallError, Message, Operation, Parameter, Part, PartKind, Problem, Reported
from proxy.read.http_session import HttpReader
from proxy.read.openai_embeddings import OpenAIEmbeddings
from proxy.read.reader import Claim, RequestHead
from tests.read.lmstudio_http import CUTS, JSON_TYPE, cut, odd_json, read, timeless

READER = HttpReader(OpenAIEmbeddings())
PATH = "POST /v1/embeddings"
MODEL = "text-embedding-nomic-embed-text-v1.5"
# lmstudio-api.md 2.6:
ANSWER = {
    "object": "list",
    "data": [{"object": "embedding", "embedding": [-0.016, 0.005, 0.25], "index": 0}],
    "model": f"{MODEL}@q4_k_m",
    "usage": {"prompt_tokens": 0, "total_tokens": 0},
}


def base64_of(*numbers: float) -> str:
    return b64encode(pack(f"<{len(numbers)}f", *numbers)).decode()


def test_reader_claims_embeddings_that_are_nobodys_own() -> None:
    paths = ("/v1/embeddings", "/api/v0/embeddings", "/embeddings", "/api/embeddings", "/v1/embeddings/x")
    assert [READER.claims(RequestHead("POST", path)) for path in paths] == [
        Claim.YES,
        Claim.YES,
        Claim.MAYBE,
        Claim.MAYBE,
        Claim.NO,
    ]
    assert READER.claims(RequestHead("GET", "/v1/embeddings")) is Claim.NO


def test_documented_form_is_read() -> None:
    asked = {"model": MODEL, "input": "Some text", "encoding_format": "base64"}
    reading = read(READER, PATH, asked, answer=ANSWER)
    assert reading.operation is Operation.EMBEDDING
    assert (reading.model_asked, reading.model_answered) == (MODEL, f"{MODEL}@q4_k_m")
    assert reading.messages == (Message("input", (Part(PartKind.TEXT, "Some text"),), path="input"),)
    assert reading.parameters == (Parameter("encoding_format", "base64"),)
    assert reading.details == {"vectors": 1, "dimensions": 3, "encoding": "float"}  # not what was asked for
    assert reading.reported == Reported(input_tokens=0, total_tokens=0)
    assert (reading.answers, reading.unread, reading.problems) == ((), (), ())


def test_base64_is_counted() -> None:
    rows = [
        {"embedding": base64_of(*[0.5] * 5), "index": 0, "object": "embedding", "encoding_format": "base64"},
        {"embedding": base64_of(*[0.5] * 5), "index": 1, "object": "embedding", "encoding_format": "base64"},
    ]
    reading = read(READER, PATH, {"input": ["a", "b"]}, answer={**ANSWER, "data": rows})
    assert reading.details == {"vectors": 2, "dimensions": 5, "encoding": "base64"}
    assert reading.unread == ()


@pytest.mark.parametrize(
    ("asked", "parts"),
    [
        (["a", "b"], [(Part(PartKind.TEXT, "a"),), (Part(PartKind.TEXT, "b"),)]),
        ([1, 2], [(Part(PartKind.OTHER, "[1,2]"),)]),
        ([[1, 2], [3]], [(Part(PartKind.OTHER, "[1,2]"),), (Part(PartKind.OTHER, "[3]"),)]),
        ([{"content": [{"type": "text", "text": "c"}]}], [(Part(PartKind.TEXT, "c"),)]),
    ],
)
def test_inputs_of_any_form_are_read(asked: object, parts: list[tuple[Part, ...]]) -> None:
    assert [one.parts for one in read(READER, PATH, {"input": asked}).messages] == parts


def test_odd_vectors_are_told() -> None:
    rows = [{"embedding": 3}, {"index": 1}, 7]
    reading = read(READER, PATH, {"input": "a"}, answer={"data": rows})
    assert reading.details == {"vectors": 0, "dimensions": None, "encoding": None}
    assert reading.problems == (
        Problem("unexpected", "an embedding is neither an array nor text"),
        Problem("unexpected", "response.data[]: an object expected, a number found"),
    )


def test_error_is_told() -> None:
    body = {"error": {"message": "'input' field must be a string", "code": "invalid_type", "param": "input"}}
    reading = read(READER, PATH, {"input": [1]}, answer=body, status=400)
    assert reading.errors == (CallError("'input' field must be a string", code="invalid_type"),)
    assert reading.details == {}


def test_cut_answer_is_no_json() -> None:
    reading = read(READER, PATH, {"input": "a"}, answer=b'{"data":[{"embedding":[1,')
    assert [one.kind for one in reading.problems] == ["not_json"]
    assert reading.details == {}


def test_large_answer_is_cheap() -> None:
    vector = b"[" + b",".join([b"-0.0123456789"] * 1024) + b"]"
    rows = b",".join(b'{"object":"embedding","index":%d,"embedding":%b}' % (at, vector) for at in range(2_900))
    data = b'{"object":"list","data":[%b],"model":"m"}' % rows
    assert len(data) > 40_000_000
    began = time.process_time()
    reading = read(READER, PATH, {"input": "a"}, answer=data)
    assert time.process_time() - began < 5  # 0.4 s here
    assert reading.details == {"vectors": 2_900, "dimensions": 1024, "encoding": "float"}


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    data = b'{"data": [{"embedding": [1.5, 2.5], "index": 0}], "usage": {"prompt_tokens": 2}}'
    fields = (("content-type", JSON_TYPE),)
    assert timeless(read(READER, PATH, {"input": "a"}, events=cut(data, cuts), fields=fields)) == timeless(
        read(READER, PATH, {"input": "a"}, answer=data)
    )


ODD = odd_json(("input", "content", "data", "embedding", "usage", "model", "prompt_string", "multimodal_data"))


@given(ODD, ODD)
def test_nothing_raises(asked: object, answer: object) -> None:
    read(READER, PATH, asked, answer=answer)
