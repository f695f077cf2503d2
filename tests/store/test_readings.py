"""Readings in the trace: what the views say of calls, and that reading again gives the same."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Outcome, Side
from proxy.indexer import IndexSettings
from proxy.record.journal import Gap
from tests.store.traffic import JSON_HEAD, Traffic, as_json, chat_answer, events, request_head, turns

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
EVERYTHING = (
    "SELECT * FROM read_calls ORDER BY id",
    "SELECT * FROM read_messages ORDER BY id",
    "SELECT * FROM read_problems ORDER BY exchange_id, seq",
    "SELECT * FROM unread_fields ORDER BY reader_id, path",
    "SELECT * FROM read_sessions ORDER BY id",
    "SELECT * FROM model_configs ORDER BY model, at_us",
    "SELECT * FROM read_exchanges ORDER BY exchange_id",
    "SELECT * FROM read_values ORDER BY id",
)


def props(made: Traffic, model: str, **defaults: Any) -> int:
    """llama.cpp tells its base configuration."""
    told = {"model_alias": model, "default_generation_settings": {"params": defaults, "n_ctx": 4096}}
    return made.exchange("/props", b"", as_json(told), method="GET")


# --- a call -----------------------------------------------------------------------------------------------------------


def test_a_call_tells_what_was_asked_answered_and_measured(made: Traffic) -> None:
    exchange = made.recording.open(request_head())
    body = as_json({"model": "asked", "messages": turns("hi"), "stream": True})
    made.recording.data(exchange, Side.CLIENT, body)
    made.recording.at_ms += 40
    made.recording.respond(exchange, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    made.recording.data(exchange, Side.UPSTREAM, *events("One", " two", " three"), every_ms=10)
    usage = as_json({"model": "answered", "choices": [], "usage": USAGE})
    made.recording.data(exchange, Side.UPSTREAM, b"data: " + usage + b"\n\n", every_ms=10)
    made.recording.close(exchange)
    made.read()
    row = dict(made.call(exchange))
    expected = {
        "operation": "chat",
        "dialect": "openai_chat",
        "client": "127.0.0.1",
        "model_asked": "asked",
        "model_answered": "answered",
        "last_input": "hi",
        "answer": "One two three",
        "stop_reason": "stop",
        "error": None,
        "is_streamed": 1,
        "is_running": 0,
        "reported_input_tokens": 7,
        "reported_output_tokens": 5,
        "reported_total_tokens": 12,
        "token_events": 3,
        "longest_gap_ms": 10,
        "first_byte_ms": 40,
        "duration_ms": 100,
    }
    assert {name: row[name] for name in expected} == expected
    assert row["measured_tokens_per_second"] == pytest.approx(4 / 0.02)
    assert made.rows("SELECT model, operation, is_streamed FROM speeds") == [("answered", "chat", 1)]
    assert made.values("SELECT dialect FROM readings") == ["openai_chat"]


def test_more_answers_than_one_follow_each_other(made: Traffic) -> None:
    choices = [
        {"index": number, "message": {"role": "assistant", "content": f"answer {number}"}, "finish_reason": "stop"}
        for number in range(3)
    ]
    body = as_json({"messages": turns("hi"), "n": 3})
    exchange = made.exchange("/v1/chat/completions", body, as_json({"choices": choices}))
    made.read()
    sql = "SELECT position, is_answer, text FROM call_messages WHERE call_id = ? ORDER BY position"
    assert made.rows(sql, made.call(exchange)["id"]) == [
        (0, 0, "hi"),
        (1, 1, "answer 0"),
        (2, 1, "answer 1"),
        (3, 1, "answer 2"),
    ]


def test_requests_that_are_no_calls_are_readings(made: Traffic) -> None:
    made.exchange("/v1/models", b"", as_json({"data": [{"id": "m"}], "object": "list"}), method="GET")
    made.chat(turns("hi"))
    made.read()
    assert made.rows("SELECT seq, operation FROM readings ORDER BY id") == [(0, "models"), (0, "chat")]
    assert made.values("SELECT operation FROM calls") == ["chat"]


def test_the_schema_an_answer_has_to_follow_and_the_tools_are_kept(made: Traffic) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    exchanges = [
        made.chat(turns(text), more={"response_format": form, "tools": [tool]}) for text in ("one", "two", "three")
    ]
    made.read()
    assert json.loads(made.call(exchanges[0])["output_schema"]) == schema
    tools = [{"name": "find", "schema": '{"type":"object"}', "kind": "function"}]
    assert [json.loads(one) for one in made.values("SELECT data FROM read_values WHERE data LIKE '[{%'")] == [tools]
    assert made.values("SELECT count(DISTINCT tools_id) FROM read_calls") == [1]


# --- parameters -------------------------------------------------------------------------------------------------------


def parameters(made: Traffic, exchange: int, *names: str) -> set[tuple[Any, ...]]:
    sql = "SELECT name, value, origin, sent_as FROM call_parameters WHERE call_id = ?"
    return {row for row in made.rows(sql, made.call(exchange)["id"]) if row[0] in names}


def test_parameters_tell_where_their_values_came_from(made: Traffic) -> None:
    early = made.chat(turns("before anything was told"))
    props(made, "m", temperature=0.8, top_k=40, n_predict=-1)
    props(made, "other", temperature=0.1)
    exchange = made.chat(turns("hi"), more={"temperature": 0.5, "max_completion_tokens": 9, "stop": ["\n", "END"]})
    props(made, "m", temperature=0.7)
    later = made.chat(turns("hi again"))
    made.read()
    assert parameters(made, exchange, "temperature", "top_k", "max_tokens", "stop", "seed") == {
        ("temperature", 0.5, "request", None),
        ("temperature", 0.8, "model_default", None),
        ("top_k", 40, "model_default", None),
        ("max_tokens", 9, "request", "max_completion_tokens"),
        ("max_tokens", -1, "model_default", "n_predict"),
        ("stop", '["\\n","END"]', "request", None),
        ("seed", None, "unknown", None),
    }
    assert parameters(made, early, "temperature") == {("temperature", None, "unknown", None)}
    assert parameters(made, later, "temperature", "top_k") == {
        ("temperature", 0.7, "model_default", None),
        ("top_k", None, "unknown", None),
    }


def test_an_unknown_parameter_says_why(made: Traffic) -> None:
    made.chat(turns("hi"))
    made.read()
    rows = made.rows("SELECT name, note FROM call_parameters WHERE origin = 'unknown'")
    assert "temperature" in [name for name, _ in rows]
    assert {note for _, note in rows} == {
        "not in the request, and the server told neither its value nor the model's default"
    }


def test_an_embedding_has_no_unknown_parameters(made: Traffic) -> None:
    made.exchange("/v1/embeddings", as_json({"model": "e", "input": "hi"}), as_json({"data": []}))
    made.read()
    assert made.values("SELECT count(*) FROM call_parameters WHERE origin = 'unknown'") == [0]


# --- tokens and tools -------------------------------------------------------------------------------------------------


def test_tokens_are_counted_side_by_side(made: Traffic) -> None:
    made.restart(IndexSettings(encoding="cl100k_base"))
    exchange = made.chat(turns("hello world"), "hello world, hello", told={"usage": USAGE})
    made.read()
    sql = "SELECT what, counter, tokens FROM token_counts WHERE call_id = ?"
    assert set(made.rows(sql, made.call(exchange)["id"])) == {
        ("input", "reported", 7),
        ("output", "reported", 5),
        ("total", "reported", 12),
        ("input", "tiktoken:cl100k_base", 2),
        ("output", "tiktoken:cl100k_base", 4),
        ("message", "tiktoken:cl100k_base", 2),
    }


def tool_call(number: int, **arguments: Any) -> dict[str, Any]:
    function = {"name": "find", "arguments": as_json(arguments).decode()}
    return {"id": f"c{number}", "type": "function", "function": function}


def test_tool_calls_have_their_results(made: Traffic) -> None:
    answer = {"role": "assistant", "content": None, "tool_calls": [tool_call(1, a=1), tool_call(2, a=2)]}
    results = [{"role": "tool", "tool_call_id": f"c{number}", "content": f"found {number}"} for number in (2, 1)]
    made.chat(turns("u1"), answer)
    made.chat([*turns("u1", answer), *results], {"role": "assistant", "content": None, "tool_calls": [tool_call(3)]})
    made.read()
    assert made.rows("SELECT call_id, tool, arguments, tool_call_id, result FROM tool_calls ORDER BY tool_call_id") == [
        (1, "find", '{"a":1}', "c1", "found 1"),
        (1, "find", '{"a":2}', "c2", "found 2"),
        (2, "find", "{}", "c3", None),
    ]


# --- problems ---------------------------------------------------------------------------------------------------------


def test_problems_tell_errors_from_notes(made: Traffic) -> None:
    failed = made.failed_chat(turns("hi"))
    cut = made.streamed_chat(turns("hi"), events("One", reason=None))
    made.read()
    assert made.rows(
        "SELECT exchange_id, severity, kind, detail, place FROM problems WHERE exchange_id = ?", failed
    ) == [(failed, "error", "error", "out of memory", "body")]
    assert made.call(failed)["error"] == "out of memory"
    assert made.rows("SELECT severity, kind, place FROM problems WHERE exchange_id = ?", cut) == [
        ("note", "truncated", None)
    ]
    assert made.call(cut)["error"] is None


def test_a_gap_in_the_recording_is_a_problem_of_the_reading(made: Traffic) -> None:
    exchange = made.recording.open(request_head())
    made.recording.data(exchange, Side.CLIENT, as_json({"messages": turns("hi")}))
    made.recording.respond(exchange, JSON_HEAD)
    made.recording.gap(exchange, Gap(0, 0, 1, 0, 50, reason="the disk was full"))
    made.recording.close(exchange)
    made.read()
    assert "gap" in made.problems(exchange)


def test_fields_that_no_reader_knows_are_counted(made: Traffic) -> None:
    *_, last = [made.chat(turns("hi"), more={"shininess": 9}, told={"mood": "good"}) for _ in range(3)]
    made.chat(turns("hi"))
    made.read()
    sql = "SELECT exchange_id, detail, count FROM problems WHERE kind = 'unread_field' ORDER BY detail"
    expected = [(last, "openai_chat: request.shininess", 3), (last, "openai_chat: response.mood", 3)]
    assert made.rows(sql) == expected
    made.indexer.reread(everything=True)
    made.read()
    assert made.rows(sql) == expected


def test_a_running_call_does_not_count_unknown_fields_each_time_it_is_looked_at(made: Traffic) -> None:
    exchange = made.recording.open(request_head())
    body = as_json({"messages": turns("hi"), "stream": True, "shininess": 9})
    made.recording.data(exchange, Side.CLIENT, body)
    made.recording.respond(exchange, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
    for event in events("One", " two", " three"):
        made.recording.data(exchange, Side.UPSTREAM, event)
        made.read()
        made.indexer._live_at = 0.0
    made.recording.close(exchange)
    made.read()
    assert made.rows("SELECT detail, count FROM problems WHERE kind = 'unread_field'") == [
        ("openai_chat: request.shininess", 1)
    ]


# --- again ------------------------------------------------------------------------------------------------------------


def variety(made: Traffic) -> None:
    """Exchanges of many kinds, some of them hours apart."""
    props(made, "m", temperature=0.8)
    made.chat(turns("u1"), "a1", told={"usage": USAGE})
    made.chat(turns("u1", "a1", "u2"), "a2", "X-Proxy-Log-Tag: t", more={"temperature": 0.1, "shininess": 9})
    made.recording.at_ms += 3_600_000
    made.failed_chat(turns("u1", "a1", "u2"))
    made.chat(turns("u1"), {"role": "assistant", "content": None, "tool_calls": [tool_call(1)]})
    made.streamed_chat(turns("u1"), events("One", reason=None), Outcome.CLIENT_GONE)
    made.recording.at_ms += 3_600_000
    made.chat(turns("u3"), "a3", "X-Proxy-Log-Session: mine")
    made.exchange("/nowhere", b"{}", as_json({"error": "Unexpected endpoint or method."}))
    made.exchange("/v1/embeddings", as_json({"model": "e", "input": ["a", "b"]}), as_json({"data": []}))
    made.exchange("/v1/models", b"", as_json({"data": [{"id": "m"}]}), method="GET")
    made.exchange("/v1/chat/completions", b"{", b"no JSON")
    made.exchange("/v1/chat/completions", b"", b"", method="OPTIONS", upstream="")


def test_reading_again_keeps_ids_and_gives_the_same_rows(made: Traffic) -> None:
    variety(made)
    made.read()
    before = [made.rows(sql) for sql in EVERYTHING]
    totals = made.rows("SELECT * FROM models ORDER BY model")
    for _ in range(2):
        made.restart()
        assert made.indexer.reread(everything=True) == 12
        assert made.read() == 12
        assert [made.rows(sql) for sql in EVERYTHING] == before
        assert made.rows("SELECT * FROM models ORDER BY model") == totals


def test_only_what_others_read_is_read_again_unless_all_is_asked_for(made: Traffic) -> None:
    variety(made)
    made.read()
    made.indexer.reread()
    made.read()
    before = made.rows(EVERYTHING[1])
    made.change("UPDATE readers SET version = 0 WHERE name = 'openai_embeddings'")
    made.restart()
    assert made.indexer.reread() >= 1
    made.read()
    rows = made.rows("SELECT name, version FROM readers WHERE name = 'openai_embeddings' ORDER BY version")
    assert rows == [("openai_embeddings", 0), ("openai_embeddings", 1)]
    assert made.rows(EVERYTHING[1]) == before
    assert made.values("SELECT reader_version FROM readings WHERE dialect = 'openai_embeddings'") == [1]


# --- totals -----------------------------------------------------------------------------------------------------------

GROUPED = """
SELECT coalesce(model_answered, model_asked, ''), count(*), sum(error IS NOT NULL),
    sum(coalesce(reported_input_tokens, 0)), sum(coalesce(reported_output_tokens, 0)),
    avg(reported_tokens_per_second), avg(measured_ttft_ms), avg(measured_tokens_per_second)
FROM calls WHERE NOT is_running GROUP BY 1 ORDER BY 1"""
TOTALS = """
SELECT model, calls, failed_calls, input_tokens, output_tokens,
    mean_reported_tokens_per_second, mean_measured_ttft_ms, mean_measured_tokens_per_second
FROM models WHERE calls ORDER BY model"""

whole_answers = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "n", ""])},
    optional={
        "usage": st.fixed_dictionaries(
            {}, optional={"prompt_tokens": st.integers(0, 500), "completion_tokens": st.integers(0, 500)}
        ),
        "stats": st.fixed_dictionaries({"tokens_per_second": st.floats(0.5, 500)}),
        "error": st.just("out of memory"),
    },
)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("whole"), whole_answers),
            st.tuples(st.just("stream"), st.lists(st.integers(0, 300), min_size=0, max_size=4)),
            st.tuples(st.sampled_from(["read", "reread", "restart", "move"]), st.none()),
        ),
        min_size=1,
        max_size=10,
    )
)
def test_totals_are_what_grouping_the_calls_gives(shared: Traffic, steps: list[tuple[str, Any]]) -> None:
    for step, what in steps:
        if step == "whole":
            shared.exchange("/v1/chat/completions", as_json({"messages": turns("hi")}), as_json(what))
        elif step == "stream":
            answer = [event for after in what for event in events("x" * after, reason=None)]
            usage = {"model": "m", "choices": [], "usage": {"completion_tokens": sum(what)}}
            answer.append(b"data: " + as_json(usage) + b"\n\ndata: [DONE]\n\n")
            shared.streamed_chat(turns("hi"), answer)
        elif step == "read":
            shared.read()
        elif step == "restart":
            shared.restart()
        elif step == "reread":
            shared.indexer.reread(everything=True)
    shared.read()
    grouped, totals = shared.rows(GROUPED), shared.rows(TOTALS)
    assert [row[:5] for row in totals] == [row[:5] for row in grouped]
    for total, group in zip(totals, grouped, strict=True):
        assert total[5:] == pytest.approx(group[5:])


def test_a_model_that_answers_no_call_any_more_has_no_totals(made: Traffic) -> None:
    """A newer reader may say that another model answered."""
    made.chat(turns("hi"), told={"model": "first"})
    made.read()
    made.change("UPDATE read_calls SET model_answered = 'second'")
    made.change("UPDATE call_totals SET model = 'second'")
    made.restart()
    made.indexer.reread(everything=True)
    made.read()
    assert made.rows("SELECT model, calls FROM models ORDER BY model") == [("first", 1), ("m", 0)]


def test_sums_of_ended_exchanges_stand_beside_those_of_calls(made: Traffic) -> None:
    made.chat(turns("hi"), told={"model": "answered", "usage": USAGE})
    made.exchange("/v1/chat/completions", b"{}", as_json(chat_answer("hi")))
    made.read()
    rows = made.rows("SELECT model, exchanges, calls FROM models ORDER BY model")
    assert rows == [("", 1, 0), ("answered", 0, 1), ("m", 1, 1)]
