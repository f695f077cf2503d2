"""/api/v1/models: the documentation's samples of listing, loading, unloading and downloading."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import CallError, Operation, Origin, Parameter, Problem, Reported
from proxy.read.http_session import HttpReader
from proxy.read.lmstudio_v1_models import LMStudioV1Models
from proxy.read.reader import Claim, RequestHead
from tests.read.lmstudio_http import CUTS, JSON_TYPE, cut, odd_json, read, timeless, values

MODELS = HttpReader(LMStudioV1Models())
LIST, LOAD = "GET /api/v1/models", "POST /api/v1/models/load"
UNLOAD, DOWNLOAD = "POST /api/v1/models/unload", "POST /api/v1/models/download"
STATUS = "GET /api/v1/models/download/status/job_493c7c9ded"
CONFIG = {
    "context_length": 4096,
    "eval_batch_size": 512,
    "parallel": 4,
    "flash_attention": True,
    "num_experts": 8,
    "offload_kv_cache_to_gpu": True,
}
ROW = {
    "type": "llm",
    "publisher": "google",
    "key": "google/gemma-4-26b-a4b",
    "display_name": "Gemma 4 26B A4B",
    "architecture": "gemma4",
    "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
    "size_bytes": 17990911801,
    "params_string": "26B-A4B",
    "loaded_instances": [{"id": "google/gemma-4-26b-a4b", "config": CONFIG}],
    "max_context_length": 262144,
    "format": "gguf",
    "capabilities": {
        "vision": True,
        "trained_for_tool_use": True,
        "reasoning": {"allowed_options": ["off", "on"], "default": "on"},
    },
    "description": None,
    "variants": ["google/gemma-4-26b-a4b@q4_k_m"],
    "selected_variant": "google/gemma-4-26b-a4b@q4_k_m",
}
SHOWN = {
    "key": "google/gemma-4-26b-a4b",
    "type": "llm",
    "display_name": "Gemma 4 26B A4B",
    "format": "gguf",
    "selected_variant": "google/gemma-4-26b-a4b@q4_k_m",
    "quantization": "Q4_K_M",
    "size_bytes": 17990911801,
    "max_context_length": 262144,
    "loaded_instances": [{"id": "google/gemma-4-26b-a4b", "config": CONFIG}],
    "vision": True,
    "trained_for_tool_use": True,
}
LOADED = {
    "type": "llm",
    "instance_id": "openai/gpt-oss-20b",
    "load_time_seconds": 9.099,
    "status": "loaded",
    "load_config": {
        "context_length": 16384,
        "eval_batch_size": 512,
        "flash_attention": True,
        "offload_kv_cache_to_gpu": True,
        "num_experts": 4,
    },
}
JOB = {
    "job_id": "job_493c7c9ded",
    "status": "downloading",
    "total_size_bytes": 2279145003,
    "started_at": "2025-10-03T15:33:23.496Z",
}


def test_list_tells_models_and_their_instances() -> None:
    embedding: dict[str, Any] = {
        "type": "embedding",
        "key": "e",
        "quantization": None,
        "loaded_instances": [],
        "format": None,
    }
    reading = read(MODELS, LIST, answer={"models": [ROW, embedding]})

    assert reading.operation is Operation.MODELS
    assert reading.details == {"models": [SHOWN, {"key": "e", "type": "embedding", "loaded_instances": []}]}
    assert (reading.problems, reading.unread, reading.errors) == ((), (), ())


def test_list_keeps_and_counts_what_newer_versions_add() -> None:
    config = {"context_length": 4096, "parallel": 4, "reasoning_budget_message": "x"}
    reading = read(MODELS, LIST, answer={"models": [{"loaded_instances": [{"config": config}], "splash": 1}]})

    assert reading.details == {"models": [{"loaded_instances": [{"config": config}]}]}
    assert reading.unread == (
        ("response.models[].splash", 1),
        ("response.models[].loaded_instances[].config.reasoning_budget_message", 1),
    )


def test_list_that_is_not_modified_is_complete() -> None:
    reading = read(MODELS, LIST, answer=b"", status=304)

    assert (reading.details, reading.problems, reading.errors) == ({}, (), ())


def test_load_tells_settings_asked_for_and_in_force() -> None:
    asked = {"model": "openai/gpt-oss-20b", "context_length": 16384, "flash_attention": True, "echo_load_config": True}
    reading = read(MODELS, LOAD, asked, answer=LOADED)

    assert reading.operation is Operation.LOAD
    assert (reading.model_asked, reading.model_answered) == ("openai/gpt-oss-20b", "openai/gpt-oss-20b")
    assert reading.parameters == (
        Parameter("context_length", 16384),
        Parameter("flash_attention", True),
        Parameter("echo_load_config", True),
        Parameter("context_length", 16384, Origin.EFFECTIVE),
        Parameter("eval_batch_size", 512, Origin.EFFECTIVE),
        Parameter("flash_attention", True, Origin.EFFECTIVE),
        Parameter("num_experts", 4, Origin.EFFECTIVE),
        Parameter("offload_kv_cache_to_gpu", True, Origin.EFFECTIVE),
    )
    assert reading.reported == Reported(load_time_s=9.099)
    assert reading.details == {"type": "llm", "status": "loaded"}
    assert (reading.problems, reading.unread) == ((), ())


def test_unload_tells_the_instance() -> None:
    reading = read(MODELS, UNLOAD, {"instance_id": "m:2"}, answer={"instance_id": "m:2"})

    assert (reading.operation, reading.model_asked, reading.model_answered) == (Operation.UNLOAD, "m:2", "m:2")
    assert reading.unread == ()


def test_download_tells_its_job() -> None:
    asked = {"model": "https://huggingface.co/ibm/granite", "quantization": "Q4_K_M"}
    reading = read(MODELS, DOWNLOAD, asked, answer=JOB)

    assert (reading.operation, reading.model_asked) == (Operation.DOWNLOAD, "https://huggingface.co/ibm/granite")
    assert values(reading.parameters) == {"quantization": "Q4_K_M"}
    assert (reading.details, reading.unread) == (JOB, ())


@pytest.mark.parametrize(
    "status",
    [
        {**JOB, "downloaded_bytes": 1, "bytes_per_second": 2.5, "estimated_completion": "2025-10-03T15:40:00.000Z"},
        {**JOB, "status": "completed", "downloaded_bytes": 2279145003, "completed_at": "2025-10-03T15:40:00.000Z"},
    ],
)
def test_download_status_is_told_whole(status: dict[str, Any]) -> None:
    reading = read(MODELS, STATUS, answer=status)

    assert (reading.operation, reading.details, reading.unread) == (Operation.DOWNLOAD, status, ())


def test_download_status_of_an_unknown_job_is_an_error_with_its_name() -> None:
    error = {"error": {"type": "job_not_found", "message": "not found"}}
    reading = read(MODELS, STATUS, answer=error, status=404)

    assert reading.details == {"job_id": "job_493c7c9ded"}
    assert reading.errors == (CallError("not found", "job_not_found"),)


def test_older_server_that_knows_no_v1_gives_an_error() -> None:
    reading = read(MODELS, LIST, answer={"error": "Unexpected endpoint or method. (GET /api/v1/models)"})

    assert reading.errors == (CallError("Unexpected endpoint or method. (GET /api/v1/models)"),)
    assert reading.problems == (Problem("error_in_200", "status 200, and the body holds an error"),)


@pytest.mark.parametrize(
    ("method", "path", "claim"),
    [
        ("GET", "/api/v1/models", Claim.YES),
        ("GET", "/api/v1/models/", Claim.YES),
        ("POST", "/api/v1/models", Claim.NO),
        ("POST", "/api/v1/models/load", Claim.YES),
        ("GET", "/api/v1/models/load", Claim.NO),
        ("POST", "/api/v1/models/unload", Claim.YES),
        ("POST", "/api/v1/models/download", Claim.YES),
        ("GET", "/api/v1/models/download/status/a%2Fb", Claim.YES),
        ("GET", "/api/v1/models/download/status/", Claim.NO),
        ("GET", "/api/v1/models/some-model", Claim.NO),
        ("GET", "/v1/models", Claim.NO),
    ],
)
def test_claim_is_by_method_and_path(method: str, path: str, claim: Claim) -> None:
    assert MODELS.claims(RequestHead(method, path)) is claim


ODD = odd_json([*ROW, *LOADED, *JOB, *CONFIG, "models", "id", "config", "name", "vision", "model", "quantization"])


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    answer = b'{"models":[{"key":"gr\xc3\xbc\xc3\x9fe","loaded_instances":[{"id":"m","config":{"parallel":4}}]}]}'
    reading = read(MODELS, LIST, events=cut(answer, cuts), fields=(("Content-Type", JSON_TYPE),))

    assert timeless(reading) == timeless(read(MODELS, LIST, answer=answer))


@given(st.sampled_from([LIST, LOAD, UNLOAD, DOWNLOAD, STATUS]), ODD, ODD)
def test_no_json_makes_it_raise(request_line: str, body: Any, answer: Any) -> None:
    read(MODELS, request_line, body, answer=answer)
