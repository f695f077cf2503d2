"""A new version of a server shows itself: a field that nobody knows is counted, in whichever object it stands."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from proxy.meaning import Reading
from proxy.read.reader import RequestHead
from proxy.read.registry import BUILT_IN, Registry
from tests.read.lmstudio_http import event, read, timed
from tests.read.mutated_cases import documents
from tests.recordings.cases import FOLDER, load

REGISTRY = Registry(BUILT_IN)
NEW = "zzz_new"

# A case; the objects of its JSON that get a field more (`!`: made where they lack); where it is counted.
PLACES = (
    ("openai_chat/documented-tools", "usage", "response.usage"),
    ("openai_chat/documented-tools", "usage.completion_tokens_details!", "response.usage.completion_tokens_details"),
    ("openai_chat/documented-tools", "usage.prompt_tokens_details!", "response.usage.prompt_tokens_details"),
    ("openai_chat/documented-tools", "stats", "response.stats"),
    ("openai_chat/documented-tools", "tools[]", "request.tools[]"),
    ("openai_chat/documented-tools", "tools[].function", "request.tools[].function"),
    ("openai_chat/llamacpp-openai-streamed-usage", "usage", "event.usage"),
    ("openai_chat/llamacpp-openai-streamed-usage", "timings", "event.timings"),
    ("openai_chat/documented-error-in-stream", "error", "event.error"),
    ("openai_chat/locked-curl-401", "error", "response.error"),
    ("openai_completions/llamacpp-openai-plain", "usage", "response.usage"),
    ("openai_completions/llamacpp-openai-plain", "timings", "response.timings"),
    ("openai_completions/documented-completion", "stats", "response.stats"),
    ("openai_embeddings/scripted-openai-two", "usage", "response.usage"),
    ("openai_responses/documented-function-call", "usage", "response.usage"),
    ("openai_responses/documented-function-call", "usage.input_tokens_details!", "response.usage.input_tokens_details"),
    (
        "openai_responses/documented-function-call",
        "usage.output_tokens_details",
        "response.usage.output_tokens_details",
    ),
    ("openai_responses/documented-function-call", "output[]", "response.output[]"),
    ("openai_responses/documented-function-call", "tools[]", "request.tools[]"),
    ("openai_responses/llama-openai-stateful-streamed", "response.usage", "event.response.usage"),
    ("anthropic_messages/documented-plain", "usage", "response.usage"),
    ("anthropic_messages/documented-plain", "usage.cache_creation!", "response.usage.cache_creation"),
    ("anthropic_messages/documented-plain", "usage.server_tool_use!", "response.usage.server_tool_use"),
    ("anthropic_messages/documented-plain", "usage.output_tokens_details!", "response.usage.output_tokens_details"),
    ("anthropic_messages/documented-streamed", "message.usage", "event.message.usage"),
    ("anthropic_messages/documented-streamed", "usage", "event.usage"),
    ("anthropic_messages/scripted-anthropic-tools-streamed", "tools[]", "request.tools[]"),
    ("lmstudio_v0/documented-chat", "usage", "response.usage"),
    ("lmstudio_v0/documented-chat", "stats", "response.stats"),
    ("lmstudio_v0/documented-extra-chunk", "stats", "event.stats"),
    ("lmstudio_v1_chat/documented-mcp", "stats", "response.stats"),
    ("lmstudio_v1_chat/documented-mcp", "output[]", "response.output[]"),
    ("lmstudio_v1_chat/documented-mcp", "output[].provider_info", "response.output[].provider_info"),
    ("lmstudio_v1_chat/documented-mcp", "integrations[]", "request.integrations[]"),
    ("lmstudio_v1_chat/documented-events", "result.stats", "event.result.stats"),
    ("lmstudio_v1_chat/documented-tool-events", "error", "event.error"),
    ("lmstudio_v1_models/documented-list", "models[].capabilities", "response.models[].capabilities"),
    ("lmstudio_v1_models/documented-load", "load_config", "response.load_config"),
    ("lmstudio_v1_models/scripted-curl-unload-refused", "error", "response.error"),
    ("lmstudio_sdk/documented-predict", "message.stats", "message.stats"),
    ("lmstudio_sdk/documented-predict", "message.modelInfo", "message.modelInfo"),
    ("lmstudio_sdk/documented-predict", "message.details", "message.details"),
    ("lmstudio_sdk/documented-predict", "message.fragment", "message.fragment"),
    (
        "lmstudio_sdk/documented-predict",
        "creationParameter.history.messages[].content[]",
        "parameter.history.messages[].content[]",
    ),
    ("lmstudio_sdk/scripted-lmstudio-py-unknown-model", "error", "error"),
    ("lmstudio_log/documented-log", "message.log.data", "output"),
    ("lmstudio_log/documented-log", "message.log.data.stats", "output.stats"),
    ("llamacpp/llamacpp-curl-plain", "timings", "response.timings"),
    ("llamacpp/llamacpp-curl-streamed", "timings", "event.timings"),
    ("llamacpp/llamacpp-curl-overflow", "error", "response.error"),
    ("ollama/synthetic-chat-streamed", "message", "event.message"),
    ("ollama/synthetic-generate", "options", "request.options"),
    ("openai_models/documented-models", "data[]", "response.data[]"),
)


def objects_at(value: Any, steps: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The objects at a place below a value."""
    if not isinstance(value, dict):
        return
    if not steps:
        yield value
        return
    name = steps[0].removesuffix("!").removesuffix("[]")
    if steps[0].endswith("!"):
        value.setdefault(name, {})
    below = value.get(name)
    for one in below if steps[0].endswith("[]") and isinstance(below, list) else [below]:
        yield from objects_at(one, steps[1:])


@pytest.mark.parametrize(("name", "place", "told"), PLACES, ids=[f"{one[0]}-{one[1]}" for one in PLACES])
def test_a_new_field_is_counted(name: str, place: str, told: str) -> None:
    case = load(FOLDER / f"{name}.json")
    found = documents(case)
    changed = json.loads(json.dumps(found.values))
    for value in changed:
        for one in objects_at(value, place.split(".")):
            one[NEW] = 1
    assert changed != found.values, "the case has no such object"
    new = _unread(found.replaced(changed).read(REGISTRY)) - _unread(case.read(REGISTRY))
    assert f"{told}.{NEW}" in new
    assert {path.rpartition(".")[2] for path in new} == {NEW}  # objects of a kind may stand in several places


def _unread(readings: Any) -> set[str]:
    return {path for reading in readings for path, _ in reading.unread}


def test_every_dialect_that_tells_of_calls_is_looked_at() -> None:
    assert {reader.name for reader in BUILT_IN} - {name.partition("/")[0] for name, _, _ in PLACES} == {
        "discovery",
        "unknown",
    }


# --- what is known ----------------------------------------------------------------------------------------------------

OPENAI_USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {
        **{"cached_tokens": 1, "audio_tokens": 0, "image_tokens": 0, "text_tokens": 9, "cache_write_tokens": 0}
    },
    "completion_tokens_details": {
        **{"reasoning_tokens": 2, "audio_tokens": 0, "text_tokens": 3},
        **{"accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0},
    },
}
RESPONSES_USAGE = {
    **{"input_tokens": 9, "output_tokens": 5, "total_tokens": 14},
    "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0, "cache_write_tokens_details": {}},
    "output_tokens_details": {"reasoning_tokens": 2},
}
ANTHROPIC_USAGE: dict[str, Any] = {
    **{"input_tokens": 9, "output_tokens": 5, "cache_read_input_tokens": 1, "cache_creation_input_tokens": 0},
    "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
    "server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 0},
    "output_tokens_details": {"thinking_tokens": 2},
    **{"service_tier": "standard", "inference_geo": "eu", "iterations": [], "speed": "fast", "fallback_credit": None},
}
V0_STATS = {
    **{"tokens_per_second": 51.4, "time_to_first_token": 0.1, "generation_time": 0.9, "stop_reason": "eosFound"},
    **{"draft_model": "d", "total_draft_tokens_count": 7, "accepted_draft_tokens_count": 4},
    **{"rejected_draft_tokens_count": 3, "ignored_draft_tokens_count": 0},
}
TIMINGS = {
    **{"cache_n": 1, "prompt_n": 8, "prompt_ms": 1.5, "prompt_per_token_ms": 0.2, "prompt_per_second": 5000.0},
    **{"predicted_n": 5, "predicted_ms": 9.5, "predicted_per_token_ms": 1.9, "predicted_per_second": 500.0},
    **{"draft_n": 7, "draft_n_accepted": 4},
}


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/v1/chat/completions", {"usage": OPENAI_USAGE, "stats": {}, "timings": TIMINGS}),
        ("/api/v0/chat/completions", {"usage": OPENAI_USAGE, "stats": V0_STATS}),
        ("/v1/responses", {"usage": RESPONSES_USAGE}),
        ("/v1/messages", {"usage": ANTHROPIC_USAGE}),
        ("/completion", {"timings": TIMINGS}),
    ],
    ids=["openai", "v0", "responses", "anthropic", "llamacpp"],
)
def test_documented_statistics_are_known(path: str, answer: dict[str, Any]) -> None:
    reading = _asked(path, {}, answer=answer)
    assert (reading.unread, reading.problems, reading.details.get("usage")) == ((), (), None)


def test_documented_tools_are_known() -> None:
    nested = {
        "type": "function",
        "function": {"name": "add", "description": "Adds", "parameters": {"type": "object"}, "strict": True},
    }
    flat = {"type": "function", "name": "add", "parameters": {}, "strict": False, "cache_control": {"type": "x"}}
    server = {
        **{"type": "mcp", "server_label": "x", "server_url": "https://x/mcp", "headers": {"A": "b"}},
        **{"authorization": "b", "allowed_tools": ["a"], "require_approval": "never", "server_description": "d"},
    }
    other = {"type": "web_search", "filters": {}, "search_context_size": "low"}
    for path in ("/v1/chat/completions", "/v1/responses"):
        reading = _asked(path, {"tools": [nested, flat, server, other]})
        assert (reading.unread, reading.problems) == ((), ())
        assert [tool.name for tool in reading.tools] == ["add", "add", "x", "web_search"]


# --- what is kept of it -----------------------------------------------------------------------------------------------


def test_usage_with_new_fields_is_kept() -> None:
    usage = {"prompt_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 2, NEW: 7}, "cost": 0.5}
    reading = _asked("/v1/chat/completions", {}, answer={"usage": usage})
    assert dict(reading.unread) == {"response.usage.cost": 1, f"response.usage.completion_tokens_details.{NEW}": 1}
    assert (reading.details["usage"], reading.reported.input_tokens) == (usage, 9)


def test_usage_of_several_events_is_kept_together() -> None:
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 0, NEW: 1}}}
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5, NEW: 2}}
    events = timed(*(event(one, one["type"]) for one in (start, delta, {"type": "message_stop"})))  # type: ignore[arg-type]
    reading = _asked("/v1/messages", {}, events=events)
    assert reading.details["usage"] == {"input_tokens": 9, "output_tokens": 5, NEW: 2}


def test_an_item_of_no_known_type_is_a_problem_and_kept() -> None:
    item, known = {"type": "hologram", "depth": 3}, {"type": "web_search_call", "id": "ws_1", "action": {}}
    asked = _asked("/v1/responses", {"input": [item, known]})
    answered = _asked("/v1/responses", {}, answer={"status": "completed", "output": [item, known]})
    for reading in (asked, answered):
        assert [(one.kind, one.detail) for one in reading.problems] == [("unknown_item", "hologram")]
        assert reading.unread == ()
    assert [json.loads(part.text) for part in answered.answers[0].parts] == [item, known]


def test_a_new_field_of_a_list_of_tools_is_counted() -> None:
    item = {
        "type": "mcp_list_tools",
        "id": "mcpl_1",
        "server_label": "x",
        "tools": [{"name": "a"}],
        "error": None,
        NEW: 1,
    }
    added = {"type": "response.output_item.added", "output_index": 0, "item": item}
    asked = _asked("/v1/responses", {"input": [item]})
    answered = _asked("/v1/responses", {}, answer={"status": "completed", "output": [item]})
    streamed = _asked("/v1/responses", {}, events=timed(event(added, added["type"])))  # type: ignore[arg-type]
    paths = [f"request.input[].{NEW}", f"response.output[].{NEW}", f"event.item.{NEW}"]
    assert [reading.unread for reading in (asked, answered, streamed)] == [((path, 1),) for path in paths]


def test_an_item_of_a_new_type_in_lm_studios_chat_is_counted_and_kept() -> None:
    reading = _asked("/api/v1/chat", {"model": "m", "input": [{"type": "video", "frames": 3}]})
    assert reading.unread == (("request.input[].frames", 1),)
    assert [json.loads(part.text) for part in reading.messages[0].parts] == [{"type": "video", "frames": 3}]


def test_the_timings_of_each_of_several_answers_are_looked_at() -> None:
    one = {"index": 0, "content": "a", "stop": True, "timings": {**TIMINGS, NEW: 1}}
    reading = _asked("/completion", {"prompt": ["a", "b"]}, answer=[one, {**one, "index": 1}])
    assert reading.unread == ((f"response.[][].timings.{NEW}", 2),)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/apply-template"])
@pytest.mark.parametrize("messages", ["hi", {"role": "user"}, 5])
def test_messages_that_are_no_array_are_one_problem(path: str, messages: Any) -> None:
    (problem,) = _asked(path, {"messages": messages}).problems
    assert problem.detail.startswith("request.messages: an array expected")


def _asked(path: str, body: Any, **answered: Any) -> Reading:
    reader = REGISTRY.choose(RequestHead("POST", path))
    assert reader is not None
    return read(reader, f"POST {path}", body, **answered or {"answer": {}})
