"""Bodies with wrong types anywhere: /v1 and /api/v0 refuse them in their error form, and live on."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.demo.scripted_models import SCRIPTED_MODELS
from tests.demo.lookalikes import Answer, get, post, running
from tests.demo.samples import same_form

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/api/v0/chat/completions",
    "/api/v0/completions",
    "/api/v0/embeddings",
)
PIXEL = "data:image/png;base64,iVBORw0KGgo="
KEYS = [model.key for model in SCRIPTED_MODELS]
FIELDS = """model tools tool_choice response_format stream_options temperature top_p top_k min_p max_tokens
    max_completion_tokens stop stream seed logit_bias presence_penalty preset ttl draft_model encoding_format
    messages prompt input repeat_penalty reasoning_effort""".split()  # noqa: SIM905 - a list of words reads better so
INNER = """role content type text image_url url function name parameters arguments json_schema schema include_usage id
    $ref enum properties items anyOf const required minItems pattern""".split()  # noqa: SIM905
WORDS = [*KEYS, PIXEL, "user", "tool", "text", "function", "object", "string", "array", "#", "\ud800", "\x00", "{}"]

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from([10**30, -(10**30), 2**53])
    | st.sampled_from(WORDS)
    | st.text(max_size=5)
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(INNER), values, max_size=4)
texts = st.sampled_from(["hi", "call go", "\ud800", "", "<think>", "[TOOL_REQUEST]"]) | st.text(max_size=5)
functions = st.fixed_dictionaries(
    {"name": st.just("go") | texts}, optional={"parameters": objects, "description": values}
)
tools = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}), max_size=2)
arguments = objects.map(json.dumps) | texts | objects
tool_calls = st.lists(
    st.fixed_dictionaries(
        {"function": st.fixed_dictionaries({"name": texts, "arguments": arguments})}, optional={"id": values}
    ),
    max_size=2,
)
parts = st.lists(
    st.fixed_dictionaries({"type": st.just("text"), "text": texts})
    | st.just({"type": "image_url", "image_url": {"url": PIXEL}})
    | objects,
    max_size=2,
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(("user", "assistant", "tool", "system"))},
        optional={
            "content": texts | texts | parts | values,
            "tool_calls": tool_calls | tool_calls | values,
            "tool_call_id": texts,
        },
    ),
    min_size=1,
    max_size=3,
)
likely = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(KEYS),
        "stream": st.booleans(),
        "stream_options": st.just({"include_usage": True}),
        "tools": tools,
        "tool_choice": st.sampled_from(("none", "auto", "required")),
        "max_tokens": st.integers(-1, 3),
        "stop": texts | st.lists(texts, max_size=2),
        "response_format": objects.map(lambda schema: {"type": "json_schema", "json_schema": {"schema": schema}}),
    },
)
unlikely = st.dictionaries(st.sampled_from(FIELDS), values, max_size=2)
bodies = st.builds(
    lambda told, fields, wrong: {"messages": told, "prompt": "hi", "input": "hi"} | fields | wrong,
    messages,
    likely,
    st.just({}) | unlikely,
)


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(some=st.lists(bodies, min_size=1, max_size=6))
def test_no_body_breaks_the_server(path: str, some: list[dict[str, Any]]) -> None:
    async def main() -> None:
        async with running() as server:
            for body in some:
                check_answer(await post(server, path, body), body)
            assert (await get(server, "/lmstudio-greeting")).raw == b'{"lmstudio":true}'

    asyncio.run(main())


def check_answer(got: Answer, body: Any) -> None:
    """A refusal, an answer or a stream; no server error."""
    assert got.status in (200, 400, 404), (got.status, got.raw, body)
    if got.headers["Content-Type"] == "text/event-stream":
        assert got.events
    elif got.status != 200:
        same_form({"error": "text"}, got.json)
    else:
        assert "object" in got.json
