"""Errors whose form or status differs between versions: both are to be had, by a switch."""

import asyncio
from typing import Any

import pytest

from proxy.demo.script import Fail
from proxy.demo.scripted_engine import Loading, ScriptedEngine
from tests.demo.lookalikes import Answer, post, running
from tests.demo.samples import same_form

LLM = "scripted-7b-instruct"
CHAT, V1_CHAT = "/v1/chat/completions", "/api/v1/chat"
HI = {"model": LLM, "messages": [{"role": "user", "content": "hi"}]}
LONG = {"model": LLM, "messages": [{"role": "user", "content": "word " * 3000}]}


def answer(body: Any, engine: ScriptedEngine | None = None, path: str = CHAT, **switches: Any) -> Answer:
    async def main() -> Answer:
        async with running(engine, **switches) as server:
            return await post(server, path, body)

    return asyncio.run(main())


@pytest.mark.parametrize(("path", "body"), [(CHAT, LONG), (V1_CHAT, {"model": LLM, "input": "word " * 3000})])
def test_engines_own_error_object_is_passed_through(path: str, body: Any) -> None:
    got = answer(body, path=path, overflow_message="engine")
    same_form(
        {
            "error": {
                "code": 400,
                "message": "request (17398 tokens) exceeds the available context size (8192 tokens), ...",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 17398,
                "n_ctx": 8192,
            }
        },
        got.json,
    )
    error = got.json["error"]
    assert (got.status, error["type"], error["n_ctx"]) == (400, "exceed_context_size_error", 2048)
    assert f"request ({error['n_prompt_tokens']} tokens)" in error["message"]


@pytest.mark.parametrize("status", ["400", "404"])
def test_status_of_a_load_that_fails(status: str) -> None:
    engine = ScriptedEngine()
    engine.loading[LLM] = Loading(fail="Model loading was stopped due to insufficient system resources.")
    got = answer(HI, engine, load_failure_status=status)
    assert got.status == int(status)
    assert got.json["error"].startswith(f'Failed to load model "{LLM}". Error: Model loading was stopped')


@pytest.mark.parametrize("status", ["400", "500"])
@pytest.mark.parametrize(
    ("fail", "switch"),
    [
        (Fail("The model has crashed without additional information. (Exit code: 6)"), "crash_status"),
        (Fail("Context size has been exceeded", "context"), "context_full_status"),
    ],
)
def test_status_of_a_prediction_that_fails(fail: Fail, switch: str, status: str) -> None:
    engine = ScriptedEngine()
    engine.say(fail)
    got = answer(HI, engine, **{switch: status})
    assert (got.status, got.json) == (int(status), {"error": fail.message})


@pytest.mark.parametrize(
    ("form", "sample"),
    [("text", "No models loaded."), ("object", {"message": "", "type": "", "param": "", "code": ""})],
)
def test_form_of_nothing_loaded(form: str, sample: Any) -> None:
    got = answer(HI, jit=False, nothing_loaded=form)
    assert got.status == 404
    same_form({"error": sample}, got.json)
    message = got.json["error"] if form == "text" else got.json["error"]["message"]
    assert message.startswith("No models loaded. Please load a model in the developer page or use the `lms load`")
