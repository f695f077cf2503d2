"""Which setting won: what the view says of a call, from what was recorded and what servers told."""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.meaning import Json, Origin, Parameter
from proxy.store.model_snapshots import ModelSnapshots
from proxy.store.schema import open_for_writing
from tests.store.traffic import Traffic, as_json, chat_answer, turns

URL = "http://localhost:1234"
SECOND_US = 1_000_000
BASE, LOAD, PROPS = "getBasePredictionConfig", "getLoadConfig", "/props"


def tell(made: Traffic, source: str, at_us: int, **values: Json) -> None:
    """A server's word on the model `m`; `context_length` is what it was loaded with."""
    connection = open_for_writing(made.trace)
    parameters = [
        Parameter(name, value, Origin.EFFECTIVE if name == "context_length" else Origin.MODEL_DEFAULT)
        for name, value in values.items()
    ]
    ModelSnapshots(connection).put(URL, "m", source, parameters, at_us)
    connection.close()


def chat(made: Traffic, **more: Json) -> tuple[int, int]:
    """A chat; gives its call's id and when it began."""
    made.chat(turns("hi"), "yes", more=more)
    made.read()
    (row,) = made.rows("SELECT id, started_at_us FROM calls ORDER BY id DESC LIMIT 1")
    return row[0], row[1]


def completion(made: Traffic, in_force: dict[str, Json], **more: Json) -> int:
    """A completion of llama.cpp's, which tells the settings in force; gives the call's id."""
    answer = {"content": "yes", "model": "m", "stop": True, "generation_settings": in_force}
    made.exchange("/completion", as_json({"model": "m", "prompt": "hi", **more}), as_json(answer))
    made.read()
    return int(made.values("SELECT max(id) FROM calls")[0])


def setting(made: Traffic, call_id: int, name: str = "temperature") -> dict[str, Any]:
    """The row of one setting."""
    return row_of(made, f"SELECT * FROM call_settings WHERE call_id = {call_id} AND name = '{name}'")


def row_of(made: Traffic, sql: str) -> dict[str, Any]:
    """The one row of a query, by column."""
    (row,) = made.connection.execute(sql).fetchall()
    return dict(row)


def outcome(made: Traffic, call_id: int, name: str = "temperature") -> tuple[Any, ...]:
    """What it asked for, what was before, what won, what is in force."""
    row = setting(made, call_id, name)
    return row["request_value"], row["base_value"], row["won"], row["value"]


def test_what_nobody_told_is_unknown(made: Traffic) -> None:
    call_id, _ = chat(made)
    assert outcome(made, call_id) == (None, None, "unknown", None)
    assert setting(made, call_id)["how"] == "not told"
    assert outcome(made, call_id, "context_length") == (None, None, "unknown", None)


def test_over_http_a_request_is_not_said_to_win_where_no_documentation_says_so(made: Traffic) -> None:
    call_id, at_us = chat(made, temperature=0.7)
    tell(made, BASE, at_us - SECOND_US, temperature=0.2)
    assert outcome(made, call_id) == (0.7, 0.2, "unknown", None)
    assert "no documentation states it for HTTP" in setting(made, call_id)["how"]


def test_what_the_request_leaves_out_is_the_models_default(made: Traffic) -> None:
    call_id, at_us = chat(made)
    tell(made, BASE, at_us - SECOND_US, temperature=0.2, seed=None)
    assert outcome(made, call_id) == (None, 0.2, "model default", 0.2)
    assert setting(made, call_id)["how"] == f"the request leaves it out; {BASE}, asked before the call"
    assert outcome(made, call_id, "seed") == (None, "off", "model default", "off")


@pytest.mark.parametrize(
    ("asked", "base"), [(0.2, 0.2), (0.2, 0.20000000298023224), (1, 1.0), ("a", ["a"]), (["a"], ["a"]), (-1, None)]
)
def test_a_request_that_asks_for_the_default_gets_it_whoever_wins(made: Traffic, asked: Json, base: Json) -> None:
    call_id, at_us = chat(made, max_tokens=asked)
    tell(made, BASE, at_us - SECOND_US, max_tokens=base)
    row = setting(made, call_id, "max_tokens")
    assert (row["won"], row["value"]) == ("request", row["request_value"])
    assert "are the same" in row["how"]


def test_llama_cpp_documents_that_requests_win(made: Traffic) -> None:
    call_id, at_us = chat(made, temperature=0.7)
    tell(made, PROPS, at_us + SECOND_US, temperature=0.2)
    assert outcome(made, call_id) == (0.7, 0.2, "request", 0.7)
    assert setting(made, call_id)["how"].startswith("llama.cpp documents")


@pytest.mark.parametrize(
    ("in_force", "won"), [(0.7, "request"), (0.699999988079071, "request"), (0.2, "model default"), (0.4, "server")]
)
def test_the_configuration_in_force_decides_where_it_is_told(made: Traffic, in_force: float, won: str) -> None:
    call_id = completion(made, {"temperature": in_force}, temperature=0.7)
    at_us = made.values("SELECT started_at_us FROM calls")[0]
    tell(made, PROPS, at_us - SECOND_US, temperature=0.2)
    assert outcome(made, call_id) == (0.7, 0.2, won, in_force)
    assert setting(made, call_id)["how"].startswith("the answer tells the configuration in force")


def test_what_is_set_at_load_time_is_never_the_requests(made: Traffic) -> None:
    body = {"model": "m", "input": "hi", "context_length": 9000}
    made.exchange("/api/v1/chat", as_json(body), as_json({"model_instance_id": "m", "output": [], "stats": {}}))
    made.read()
    (call_id, at_us) = next(iter(made.rows("SELECT id, started_at_us FROM calls")))
    tell(made, LOAD, at_us - SECOND_US, context_length=4096)
    assert outcome(made, call_id, "context_length") == (9000, 4096, "server", 4096)
    assert "does not change it" in setting(made, call_id, "context_length")["how"]


def test_an_ignored_field_leaves_the_default(made: Traffic) -> None:
    call_id, at_us = chat(made, temperature=0.7)
    tell(made, BASE, at_us - SECOND_US, temperature=0.2)
    ignored = '[["temperature",0.7,"request",null,"nobody reads it",1]]'
    made.change(f"UPDATE read_values SET data = '{ignored}' WHERE id = (SELECT parameters_id FROM read_calls)")
    assert outcome(made, call_id) == (0.7, 0.2, "ignored", 0.2)
    assert setting(made, call_id)["how"] == "nobody reads it"


def test_the_word_nearest_to_the_call_counts(made: Traffic) -> None:
    call_id, at_us = chat(made)
    tell(made, BASE, at_us - 3600 * SECOND_US, temperature=0.1)
    assert setting(made, call_id)["value"] == 0.1  # better than nothing
    tell(made, BASE, at_us + 30 * SECOND_US, temperature=0.3)
    assert setting(made, call_id)["how"].endswith("asked after the call")
    assert setting(made, call_id)["value"] == 0.3
    later_id, later_us = chat(made)
    made.change(f"UPDATE read_calls SET started_at_us = {at_us + 40 * SECOND_US} WHERE id = {later_id}")
    assert later_us
    tell(made, BASE, at_us + 90 * SECOND_US, temperature=0.3)
    row = setting(made, later_id)
    assert row["how"].endswith("asked before and after the call")
    assert (
        row["base_at"]
        == made.values(f"SELECT strftime('%Y-%m-%dT%H:%M:%SZ', {at_us + 30 * SECOND_US} / 1000000, 'unixepoch')")[0]
    )
    tell(made, BASE, at_us + 200 * SECOND_US, temperature=0.9)
    assert setting(made, later_id)["value"] == 0.3


def test_snapshots_are_model_defaults_in_call_parameters_unless_a_client_asked_itself(made: Traffic) -> None:
    call_id, at_us = chat(made)
    tell(made, BASE, at_us - SECOND_US, temperature=0.2)
    rows = made.rows(f"SELECT value, origin FROM call_parameters WHERE call_id = {call_id} AND name = 'temperature'")
    assert [tuple(row) for row in rows] == [(0.2, "model_default")]
    props = {"default_generation_settings": {"n_ctx": 512, "params": {"temperature": 0.5}}, "model_alias": "m"}
    made.exchange("/props", b"", as_json(props), method="GET")
    call_id, _ = chat(made)
    rows = made.rows(f"SELECT value, origin FROM call_parameters WHERE call_id = {call_id} AND name = 'temperature'")
    assert [tuple(row) for row in rows] == [(0.5, "model_default")]


@pytest.mark.parametrize(
    ("tokens", "reason", "won"), [(5, "length", "unknown"), (12, "length", "request"), (20, "stop", "unknown")]
)
def test_a_limit_that_the_answer_contradicts_is_not_in_force(made: Traffic, tokens: int, reason: str, won: str) -> None:
    body = {"model": "m", "messages": turns("tell"), "max_tokens": 12}
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    for value, answer in ((1, "a"), (1, "a"), (2, "b"), (2, "b")):
        tried(made, "max_tokens", value, answer, tokens=1)
    answered = chat_answer("ok", usage=usage)
    answered["choices"][0]["finish_reason"] = reason
    exchange = made.exchange("/v1/chat/completions", as_json(body), as_json(answered))
    made.read()
    row = setting(made, made.call(exchange)["id"], "max_tokens")
    assert (row["won"], row["value"]) == (won, 12 if won == "request" else None)


def test_a_load_configuration_hides_no_base_configuration(made: Traffic) -> None:
    props = {"default_generation_settings": {"n_ctx": 512, "params": {"temperature": 0.5}}, "model_alias": "m"}
    made.exchange("/props", b"", as_json(props), method="GET")
    made.read()
    loaded = as_json([["context_length", 512, "effective", None, None, 0]]).decode()
    made.change(f"INSERT INTO read_values VALUES(999, x'00', '{loaded}')")
    made.change("INSERT INTO model_configs SELECT model, at_us + 1, call_id, 999 FROM model_configs")
    call_id, _ = chat(made)
    rows = made.rows(f"SELECT value, origin FROM call_parameters WHERE call_id = {call_id} AND name = 'temperature'")
    assert [tuple(row) for row in rows] == [(0.5, "model_default")]
    assert setting(made, call_id)["base_value"] == 0.5


# --- what proxy-log precedence found ----------------------------------------------------------------------------------


def tried(made: Traffic, name: str, value: Json, answer: str, *, run: str = "precedence 1", tokens: int = 5) -> None:
    """One call of an experiment."""
    body = {"model": "m", "messages": turns("tell"), name: value}
    usage = {"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens}
    fields = (f"X-Proxy-Log-Tag: precedence:{name}", f"X-Proxy-Log-Session: {run}")
    made.exchange("/v1/chat/completions", as_json(body), as_json(chat_answer(answer, usage=usage)), *fields)


@pytest.mark.parametrize(
    ("name", "answers", "won"),
    [
        ("temperature", ("a", "a", "b", "b"), "request"),
        ("temperature", ("a", "a", "b", "c"), "request"),
        ("temperature", ("a", "a", "a", "a"), "unknown"),
        ("temperature", ("a", "b", "c", "d"), "unknown"),
        ("seed", ("a", "a", "b", "b"), "request"),
        ("seed", ("a", "b", "c", "c"), "server"),
        ("stop", ("a", "a", "a", "a"), "server"),
        ("max_tokens", ("a", "a", "a", "a"), "server"),
    ],
)
def test_findings_are_what_the_answers_show(made: Traffic, name: str, answers: tuple[str, ...], won: str) -> None:
    for at, answer in enumerate(answers):
        tried(made, name, (1, 2)[at // 2], answer)
    made.read()
    row = row_of(made, "SELECT * FROM precedence_findings")
    assert (row["won"], row["name"], row["model"], row["surface"]) == (won, name, "m", "openai_chat")
    assert row["call_ids"].count(",") == len(answers) - 1


def test_no_effect_says_something_only_where_another_setting_has_one(made: Traffic) -> None:
    for at in range(4):
        tried(made, "temperature", at // 2, "a")
        tried(made, "top_k", at // 2, "ab"[at // 2])
    made.read()
    found = dict(tuple(row) for row in made.rows("SELECT name, won FROM precedence_findings"))
    assert found == {"temperature": "server", "top_k": "request"}


def test_an_answer_that_a_shorter_limit_ended_shows_that_the_limit_is_in_force(made: Traffic) -> None:
    for at in range(4):
        tried(made, "max_tokens", 4, "a b c d", tokens=4) if at < 2 else tried(
            made, "max_tokens", 9, "a b c d e", tokens=5
        )
    made.read()
    assert made.values("SELECT won FROM precedence_findings") == ["request"]


def test_what_was_measured_last_decides_for_calls_to_the_same_model_and_surface(made: Traffic) -> None:
    for at in range(4):
        tried(made, "temperature", at // 2, "ab"[at // 2])
    call_id, at_us = chat(made, temperature=0.7)
    tell(made, BASE, at_us - SECOND_US, temperature=0.2)
    assert outcome(made, call_id) == (0.7, 0.2, "request", 0.7)
    assert setting(made, call_id)["how"].startswith("measured by proxy-log precedence on ")
    for at in range(4):
        tried(made, "temperature", at // 2, "a", run="precedence 2")
        tried(made, "top_k", at // 2, "ab"[at // 2], run="precedence 2")
    made.read()
    assert outcome(made, call_id) == (0.7, 0.2, "model default", 0.2)
    made.exchange(
        "/v1/responses",
        as_json({"model": "m", "input": "hi", "temperature": 0.7}),
        as_json({"object": "response", "model": "m", "status": "completed", "output": []}),
    )
    made.read()
    other_id = made.values("SELECT max(id) FROM calls WHERE tag IS NULL")[0]
    assert outcome(made, other_id)[2] == "unknown"  # another surface


VALUE = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(0, 2, width=32) | st.sampled_from(["a", ["a"], []])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=VALUE, base=VALUE, source=st.sampled_from((BASE, PROPS)))
def test_a_value_in_force_is_always_one_that_somebody_told(
    shared: Traffic, asked: Json, base: Json, source: str
) -> None:
    call_id, at_us = chat(shared, **({} if asked is None else {"temperature": asked}))
    tell(shared, source, at_us, temperature=base)
    row = setting(shared, call_id)
    told = (row["request_value"], row["base_value"], row["effective_value"])
    assert row["won"] in {"request", "model default", "server", "unknown"}
    assert row["value"] is None or row["value"] in told
    assert (row["value"] is None) == (row["won"] == "unknown")
    assert row["how"]
