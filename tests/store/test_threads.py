"""Conversations come out of the messages: labels, parents, and what must not tear a thread apart."""

import json
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Outcome
from tests.store.traffic import JSON_HEAD, Traffic, as_json, events, turns

TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1, "b": 2}'}}


# --- labels -----------------------------------------------------------------------------------------------------------


def test_a_conversation_is_new_and_goes_on(made: Traffic) -> None:
    first = made.chat(turns("u1"), "a1")
    second = made.chat(turns("u1", "a1", "u2"), "a2")
    third = made.chat(turns("u1", "a1", "u2", "a2", "u3"), "a3")
    made.read()
    assert made.labels(first, second, third) == ["new", "continue", "continue"]
    assert made.threads(first, second, third) == [first] * 3
    assert [made.parent(one) for one in (first, second, third)] == [None, first, second]
    assert made.rows("SELECT calls, branches, repeats, beginning FROM threads") == [(3, 0, 0, "u1")]


def test_the_same_input_again_regenerates(made: Traffic) -> None:
    first = made.chat(turns("u1"), "a1")
    second = made.chat(turns("u1", "a1", "u2"), "a2")
    again = made.chat(turns("u1", "a1", "u2"), "another a2")
    goes_on = made.chat(turns("u1", "a1", "u2", "another a2", "u3"), "a3")
    made.read()
    assert made.labels(first, second, again, goes_on) == ["new", "continue", "regenerate", "continue"]
    assert [made.parent(one) for one in (again, goes_on)] == [first, again]
    assert made.threads(again, goes_on) == [first, first]


def test_the_same_input_after_a_refusal_is_a_retry(made: Traffic) -> None:
    first = made.failed_chat(turns("u1"))
    second = made.chat(turns("u1"), "a1")
    made.read()
    assert made.labels(first, second) == ["new", "retry"]
    assert made.threads(second) == [first]


def test_the_same_input_after_a_stream_that_broke_off_is_a_retry(made: Traffic) -> None:
    first = made.streamed_chat(turns("u1"), events("It was", reason=None), Outcome.UPSTREAM_GONE)
    second = made.streamed_chat(turns("u1"), events("It was once"))
    third = made.streamed_chat(turns("u1"), events("Once"))
    made.read()
    assert made.labels(first, second, third) == ["new", "retry", "regenerate"]


def test_the_same_input_while_the_first_still_runs_is_no_retry(made: Traffic) -> None:
    running = made.recording.begin_stream()
    made.read()
    assert made.values("SELECT label FROM calls WHERE is_running") == ["new"]
    other = made.exchange("/v1/chat/completions", as_json({"messages": turns("hi")}), as_json({"choices": []}))
    made.read()
    assert made.labels(other) == ["regenerate"]
    assert made.threads(other) == [running]


def test_another_question_at_an_earlier_turn_is_a_branch(made: Traffic) -> None:
    first = made.chat(turns("u1"), "a1")
    second = made.chat(turns("u1", "a1", "u2"), "a2")
    third = made.chat(turns("u1", "a1", "u2", "a2", "u3"), "a3")
    edited = made.chat(turns("u1", "a1", "other u2"), "other a2")
    goes_on = made.chat(turns("u1", "a1", "other u2", "other a2", "u3"), "a3")
    made.read()
    assert made.labels(first, second, third, edited, goes_on) == ["new", "continue", "continue", "branch", "continue"]
    assert made.parent(edited) == first
    assert made.parent(goes_on) == edited
    assert made.threads(edited, goes_on) == [first, first]


def test_an_answer_that_the_user_rewrote_is_a_branch(made: Traffic) -> None:
    first = made.chat(turns("u1"), "the answer of the model")
    second = made.chat(turns("u1", "what I would have said", "u2"))
    made.read()
    assert made.labels(first, second) == ["new", "branch"]
    assert made.parent(second) == first


def test_an_answer_that_is_to_be_continued(made: Traffic) -> None:
    first = made.chat(turns("u1"), "Once upon")
    second = made.chat(turns("u1", "Once upon"), " a time")
    alone = made.chat(turns("u9", "As a pirate,"), " ahoy")
    made.read()
    assert made.labels(first, second, alone) == ["new", "continue_answer", "continue_answer"]
    assert made.parent(second) == first
    assert made.threads(first, second, alone) == [first, first, alone]


@pytest.mark.parametrize("arguments", ['{"a": 1, "b": 2}', '{"b":2,"a":1}'])
def test_tools_are_called_in_rounds(made: Traffic, arguments: str) -> None:
    call = {**TOOL_CALL, "function": {"name": "find", "arguments": arguments}, "id": "renamed"}
    first = made.chat(turns("u1"), {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]})
    sent_back = turns("u1", {"role": "assistant", "content": "", "tool_calls": [call]})
    result = {"role": "tool", "tool_call_id": "renamed", "content": "found"}
    second = made.chat([*sent_back, result], "here it is")
    third = made.chat([*sent_back, result, *turns({"role": "assistant", "content": "here it is"}), *turns("thanks")])
    made.read()
    assert made.labels(first, second, third) == ["new", "tool_round", "continue"]
    assert [made.parent(one) for one in (second, third)] == [first, second]


def test_rounds_of_tools_are_told_in_anthropics_dialect(made: Traffic) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "find", "input": {"a": 1}}
    answer = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [use]}
    body = {"model": "m", "max_tokens": 9, "messages": turns("u1")}
    first = made.exchange("/v1/messages", as_json(body), as_json({**answer, "stop_reason": "tool_use"}))
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "found"}
    messages = [*turns("u1"), {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    answer = {**answer, "content": [{"type": "text", "text": "here"}], "stop_reason": "end_turn"}
    second = made.exchange("/v1/messages", as_json({**body, "messages": messages}), as_json(answer))
    made.read()
    assert made.labels(first, second) == ["new", "tool_round"]
    assert made.parent(second) == first
    assert made.rows("SELECT tool, arguments, result FROM tool_calls") == [("find", '{"a":1}', "found")]


# --- what must not tear a thread ----------------------------------------------------------------------------------


def test_system_messages_may_change_at_each_turn(made: Traffic) -> None:
    """AnythingLLM writes what it retrieved into the system message of each request."""

    def system(found: str) -> dict[str, str]:
        return {"role": "system", "content": f"Answer from this context: {found}"}

    first = made.chat([system("one"), *turns("u1")], "a1")
    second = made.chat([system("two"), *turns("u1", "a1", "u2")], "a2")
    third = made.chat([system("two"), *turns("u1", "a1", "u2", "a2", "u3")], "a3")
    without = made.chat(turns("u1", "a1", "u2", "a2", "u3", "a3", "u4"), "a4")
    made.read()
    exchanges = (first, second, third, without)
    assert made.labels(*exchanges) == ["new", "continue", "continue", "continue"]
    assert made.threads(*exchanges) == [first] * 4
    assert [made.call(one)["is_system_changed"] for one in exchanges] == [None, 1, 0, 1]


@pytest.mark.parametrize("sent", ["It was a dark and", "It was a dark and stormy", "It was a dark and stormy night."])
def test_a_client_that_cut_the_answer_goes_on(made: Traffic, sent: str) -> None:
    """What the client had, what was on its way, or what the model would have said to the end."""
    answer = events("It was", " a dark", " and stormy", reason=None)
    first = made.streamed_chat(turns("u1"), answer, Outcome.CLIENT_GONE)
    second = made.chat(turns("u1", sent, "u2"))
    made.read()
    assert made.labels(first, second) == ["new", "continue"]
    assert made.parent(second) == first
    assert made.threads(second) == [first]


def test_blanks_around_an_answer_do_not_matter(made: Traffic) -> None:
    first = made.chat(turns("u1"), "\n\n a1 ")
    second = made.chat(turns("u1", "a1", "u2"))
    made.read()
    assert made.labels(first, second) == ["new", "continue"]


def test_reasoning_does_not_matter(made: Traffic) -> None:
    answer = {"role": "assistant", "content": "a1", "reasoning_content": "let me think"}
    first = made.chat(turns("u1"), answer)
    without = made.chat(turns("u1", "a1", "u2"))
    with_it = made.chat(turns("u1", answer, "u3"))
    made.read()
    assert made.labels(first, without, with_it) == ["new", "continue", "branch"]
    assert made.parent(with_it) == first


def test_side_calls_of_clients_stay_apart(made: Traffic) -> None:
    """Open WebUI asks for a title with the whole chat inside one message of its own, in between."""
    first = made.chat(turns("u1"), "a1")
    title = made.chat(turns("Give a title to: USER: u1 ASSISTANT: a1"), "Greetings")
    second = made.chat(turns("u1", "a1", "u2"), "a2")
    tags = made.chat(turns("Give tags to: USER: u1 ASSISTANT: a1"), "chat")
    third = made.chat(turns("u1", "a1", "u2", "a2", "u3"), "a3")
    made.read()
    assert made.labels(first, second, third) == ["new", "continue", "continue"]
    assert made.threads(first, second, third) == [first] * 3
    assert made.threads(title, tags) == [title, tags]


def test_a_side_call_at_the_end_of_the_history_makes_no_branch(made: Traffic) -> None:
    """Other clients append the question for a title to the chat, under a system message of its own or without one."""
    system = {"role": "system", "content": "You are kind."}
    first = made.chat([system, *turns("u1")], "a1")
    title = made.chat(turns("u1", "a1", "Give this chat a title"), "Greetings")
    second = made.chat([system, *turns("u1", "a1", "u2")], "a2")
    made.read()
    assert made.threads(first, title, second) == [first] * 3
    assert made.labels(first, second) == ["new", "continue"]


def test_two_clients_with_the_same_words_are_two_threads(made: Traffic) -> None:
    one = made.chat(turns("hi"), "Hello", client="10.0.0.1:5000")
    other = made.chat(turns("hi"), "Hello", client="10.0.0.2:5000")
    later = made.chat(turns("hi", "Hello", "bye"), client="10.0.0.1:6000")
    made.read()
    assert made.labels(one, other, later) == ["new", "new", "continue"]
    assert made.threads(one, other, later) == [one, other, one]


def test_two_sessions_of_one_client_are_two_threads(made: Traffic) -> None:
    one = made.chat(turns("hi"), "Hello", "X-Proxy-Log-Session: a")
    other = made.chat(turns("hi"), "Hello", "X-Proxy-Log-Session: b")
    later = made.chat(turns("hi", "Hello", "bye"), "Bye", "X-Proxy-Log-Session: b")
    made.read()
    assert made.labels(one, other, later) == ["new", "new", "continue"]
    assert made.parent(later) == other


def test_other_requests_are_in_no_thread(made: Traffic) -> None:
    embedding = made.exchange("/v1/embeddings", as_json({"model": "e", "input": "hi"}), as_json({"data": []}))
    completion = made.exchange("/v1/completions", as_json({"model": "m", "prompt": "hi"}), as_json({"choices": []}))
    made.read()
    assert made.labels(embedding, completion) == [None, None]
    assert made.rows("SELECT * FROM threads") == []


# --- servers that keep the chat ---------------------------------------------------------------------------------------


def v1_chat(made: Traffic, text: str, answer: str, number: int, previous: int | None = None) -> int:
    body: dict[str, Any] = {"model": "m", "input": text}
    if previous is not None:
        body["previous_response_id"] = f"resp_{previous}"
    output = [{"type": "message", "content": answer}]
    told = {"model_instance_id": "m", "output": output, "stats": {}, "response_id": f"resp_{number}"}
    return made.exchange("/api/v1/chat", as_json(body), as_json(told))


def responses(made: Traffic, text: str, answer: str, number: int, previous: int | None = None) -> int:
    body: dict[str, Any] = {"model": "m", "input": text}
    if previous is not None:
        body["previous_response_id"] = f"resp_{previous}"
    content = [{"type": "output_text", "text": answer, "annotations": []}]
    output = [{"type": "message", "role": "assistant", "content": content}]
    told = {"id": f"resp_{number}", "object": "response", "status": "completed", "model": "m", "output": output}
    return made.exchange("/v1/responses", as_json(body), as_json(told))


@pytest.mark.parametrize("ask", [v1_chat, responses])
def test_a_chat_that_the_server_keeps_is_one_thread(made: Traffic, ask: Any) -> None:
    first = ask(made, "u1", "a1", 1)
    second = ask(made, "u2", "a2", 2, previous=1)
    third = ask(made, "u3", "a3", 3, previous=2)
    again = ask(made, "u3", "other a3", 4, previous=2)
    branch = ask(made, "other u2", "b2", 5, previous=1)
    made.read()
    exchanges = (first, second, third, again, branch)
    assert made.labels(*exchanges) == ["new", "continue", "continue", "regenerate", "branch"]
    assert [made.parent(one) for one in exchanges] == [None, first, second, second, first]
    assert made.threads(*exchanges) == [first] * 5


@pytest.mark.parametrize("ask", [v1_chat, responses])
def test_what_goes_on_from_an_answer_that_is_not_recorded_says_so(made: Traffic, ask: Any) -> None:
    exchange = ask(made, "u2", "a2", 2, previous=1)
    goes_on = ask(made, "u3", "a3", 3, previous=2)
    made.read()
    assert made.labels(exchange, goes_on) == ["continue", "continue"]
    assert made.problems(exchange) == ["previous_missing"]
    assert made.problems(goes_on) == []
    assert made.values("SELECT detail FROM problems") == ["resp_1 is not recorded"]
    assert made.threads(exchange, goes_on) == [exchange] * 2


def test_a_chat_that_the_server_keeps_joins_the_tree_of_sent_histories(made: Traffic) -> None:
    """The same client may go on with the whole history; it finds the kept one."""
    first = responses(made, "u1", "a1", 1)
    second = responses(made, "u2", "a2", 2, previous=1)
    third = made.chat(turns("u1", "a1", "u2", "a2", "u3"))
    made.read()
    assert made.labels(first, second, third) == ["new", "continue", "continue"]
    assert made.parent(third) == second


# --- sessions are in test_sessions.py; a tree of any shape -----------------------------------------------------------


@dataclass
class Node:
    """A call that was made, and what it must be found to be."""

    exchange: int
    inputs: tuple[str, ...]
    answer: str
    label: str
    parent: int | None
    children: set[tuple[str, ...]] = field(default_factory=set)


@st.composite
def operations(draw: st.DrawFn) -> list[tuple[str, int]]:
    kinds = st.sampled_from(["continue", "continue", "regenerate", "edit", "new"])
    return draw(st.lists(st.tuples(kinds, st.integers(0, 1 << 16)), min_size=1, max_size=14))


numbers = count()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations(), with_system=st.booleans())
def test_any_tree_is_found_as_it_was_made(shared: Traffic, steps: list[tuple[str, int]], with_system: bool) -> None:
    session = f"X-Proxy-Log-Session: tree {next(numbers)}"
    nodes: list[Node] = []
    roots: set[tuple[str, ...]] = set()
    text = count()

    def ask(inputs: tuple[str, ...], label: str, parent: Node | None) -> None:
        answer = f"answer {next(text)}"
        system = [{"role": "system", "content": f"context {next(text)}"}] if with_system else []
        exchange = shared.chat([*system, *turns(*inputs)], answer, session)
        (roots if parent is None else parent.children).add(inputs)
        nodes.append(Node(exchange, inputs, answer, label, parent.exchange if parent is not None else None))

    ask((f"question {next(text)}",), "new", None)
    for kind, choice in steps:
        node = nodes[choice % len(nodes)]
        parent = next((one for one in nodes if one.exchange == node.parent), None)
        if kind == "continue":
            label = "branch" if node.children else "continue"
            ask((*node.inputs, node.answer, f"question {next(text)}"), label, node)
        elif kind == "regenerate":
            ask(node.inputs, "regenerate", parent)
        elif kind == "edit" and parent is not None:
            ask((*parent.inputs, parent.answer, f"question {next(text)}"), "branch", parent)
        else:
            ask((f"question {next(text)}",), "new", None)
    shared.read()
    found = [(shared.call(one.exchange)["label"], shared.parent(one.exchange)) for one in nodes]
    assert found == [(one.label, one.parent) for one in nodes]
    first_of = {one.inputs[0]: one.exchange for one in reversed(nodes)}
    assert shared.threads(*(one.exchange for one in nodes)) == [first_of[one.inputs[0]] for one in nodes]


def test_a_tree_is_found_the_same_when_it_is_read_again(made: Traffic) -> None:
    made.chat(turns("u1"), "a1")
    made.failed_chat(turns("u1", "a1", "u2"))
    made.chat(turns("u1", "a1", "u2"), "a2")
    made.chat(turns("u1", "a1", "u2"), "other a2")
    made.chat(turns("u1", "a1", "other u2"), "b2")
    made.chat(turns("u1", "a1", "u2", "a2", "u3"), "a3")
    made.read()
    sql = "SELECT id, exchange_id, label, thread_id, parent_id, is_system_changed FROM calls ORDER BY id"
    before = made.rows(sql)
    assert [row[2] for row in before] == ["new", "continue", "retry", "regenerate", "branch", "continue"]
    made.indexer.reread(everything=True)
    made.read()
    assert made.rows(sql) == before


def test_odd_requests_are_placed_too(made: Traffic) -> None:
    """No messages, no roles, nothing but system messages."""
    bodies: list[Any] = [{}, {"messages": []}, {"messages": [{}]}, {"messages": [{"role": "system", "content": "s"}]}]
    exchanges = [
        made.exchange("/v1/chat/completions", as_json(body), json.dumps({"choices": []}).encode(), head=JSON_HEAD)
        for body in bodies
    ]
    made.read()
    assert made.labels(*exchanges) == [None, None, "new", None]
