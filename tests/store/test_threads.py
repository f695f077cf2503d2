"""Conversations come out of the messages: labels, parents, and what must not tear a thread apart."""

import json
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Outcome
from tests.store.traffic import JSON_HEAD, Traffic, as_json, chat_answer, events, turns

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


@pytest.mark.parametrize(
    ("said", "sent_back"),
    [
        *((None, None), ("", None), ("\n\n", None), ("\n\n", ""), (None, "\n")),
        *(("<think>\nwhich one?\n</think>\n\n", None), ("I will look it up.", None), ("I will look it up.", "")),
    ],
)
def test_a_round_of_tools_is_one_though_the_words_beside_the_call_are_not_sent_back(
    made: Traffic, said: str | None, sent_back: str | None
) -> None:
    """Models begin with line ends or say something first; many clients then send `content: null` beside the call."""

    def called(content: str | None, number: int) -> dict[str, Any]:
        function = {"name": "find", "arguments": f'{{"a": {number}}}'}
        call = {"id": f"c{number}", "type": "function", "function": function}
        return {"role": "assistant", "content": content, "tool_calls": [call]}

    def found(number: int) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": f"c{number}", "content": f"found {number}"}

    first = made.chat(turns("u1"), called(said, 1))
    messages = [*turns("u1"), called(sent_back, 1), found(1)]
    second = made.chat(messages, called(said, 2))
    messages += [called(sent_back, 2), found(2)]
    third = made.chat(messages, "here it is")
    messages += [{"role": "assistant", "content": "here it is"}, *turns("thanks")]
    fourth = made.chat(messages)
    made.read()
    assert made.labels(first, second, third, fourth) == ["new", "tool_round", "tool_round", "continue"]
    assert [made.parent(one) for one in (second, third, fourth)] == [first, second, third]
    assert made.threads(first, second, third, fourth) == [first] * 4


def test_a_question_behind_a_changed_answer_without_results_stays_a_branch(made: Traffic) -> None:
    first = made.chat(turns("u1"), {"role": "assistant", "content": "Let me see.", "tool_calls": [TOOL_CALL]})
    second = made.chat([*turns("u1", "I would have said this"), *turns("u2")])
    made.read()
    assert made.labels(first, second) == ["new", "branch"]


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


SYSTEM = {"role": "system", "content": "You are kind."}
TITLE_SYSTEM = {"role": "system", "content": "You write titles."}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
OTHER_TOOLS = [{"type": "function", "function": {"name": "set_title", "parameters": {"type": "object"}}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "t", "schema": {"type": "object"}}}
CHAT: dict[str, Any] = {"tools": TOOLS, "stream": True, "max_tokens": 4000}
MANNERS: dict[str, dict[str, Any]] = {
    "without tools": {"stream": True, "max_tokens": 4000},
    "with other tools": {**CHAT, "tools": OTHER_TOOLS},
    "not streamed": {"tools": TOOLS, "max_tokens": 4000},
    "as JSON": {**CHAT, "response_format": {"type": "json_object"}},
    "by a schema": {**CHAT, "response_format": SCHEMA},
    "short": {**CHAT, "max_tokens": 20},
    "without a limit": {"tools": TOOLS, "stream": True},
    "with a tag": {**CHAT, "tag": "title"},
    "in every way": {"max_tokens": 20, "response_format": SCHEMA, "tag": "title", "model": "small"},
}
"""How a client may ask for a title, where its chat asks by `CHAT`; `tag` is for the header field."""


def ask(made: Traffic, messages: list[dict[str, Any]], answer: str, manner: dict[str, Any]) -> int:
    """A chat completion, streamed if that is asked for."""
    body = {name: value for name, value in {"model": "m", **manner, "messages": messages}.items() if name != "tag"}
    fields = [f"X-Proxy-Log-Tag: {manner['tag']}"] if "tag" in manner else []
    answered = events(answer) if manner.get("stream") else as_json(chat_answer(answer))
    return made.exchange("/v1/chat/completions", as_json(body), answered, *fields)


@pytest.mark.parametrize("manner", MANNERS.values(), ids=MANNERS)
@pytest.mark.parametrize("title_answer", ["Greetings", "a1"])
def test_a_side_call_with_the_first_question_is_a_call_of_its_own(
    made: Traffic, manner: dict[str, Any], title_answer: str
) -> None:
    """A coding agent asks for a title as soon as there is a question, under a system message of its own."""
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    title = ask(made, [TITLE_SYSTEM, *turns("u1")], title_answer, manner)
    second = ask(made, [SYSTEM, *turns("u1", "a1", "u2")], "a2", CHAT)
    again = ask(made, [SYSTEM, *turns("u1")], "other a1", CHAT)
    made.read()
    assert made.labels(first, title, second, again) == ["new", "new", "continue", "regenerate"]
    assert made.threads(first, title, second, again) == [first, title, first, first]
    assert [made.parent(one) for one in (title, second)] == [None, first]


def test_a_side_call_before_its_chat_is_a_call_of_its_own(made: Traffic) -> None:
    title = ask(made, [TITLE_SYSTEM, *turns("u1")], "Greetings", {"max_tokens": 20})
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    second = ask(made, [SYSTEM, *turns("u1", "a1", "u2")], "a2", CHAT)
    made.read()
    assert made.labels(title, first, second) == ["new", "new", "continue"]
    assert made.threads(title, first, second) == [title, first, first]


def test_a_side_call_does_not_take_the_next_turn_from_an_answer_that_was_cut(made: Traffic) -> None:
    first = made.streamed_chat([SYSTEM, *turns("u1")], events("It was", " a dark", reason=None), Outcome.CLIENT_GONE)
    ask(made, [TITLE_SYSTEM, *turns("u1")], "Greetings", {"max_tokens": 20})
    second = ask(made, [SYSTEM, *turns("u1", "It was a", "u2")], "a2", {"stream": True})
    made.read()
    assert made.labels(first, second) == ["new", "continue"]
    assert made.threads(second) == [first]


def test_a_second_side_call_with_the_same_question_repeats_the_first(made: Traffic) -> None:
    ask(made, [SYSTEM, *turns("hi")], "a1", CHAT)
    title = ask(made, [TITLE_SYSTEM, *turns("hi")], "Greetings", {"max_tokens": 20})
    chat = ask(made, [SYSTEM, *turns("hi")], "other a1", CHAT)
    again = ask(made, [TITLE_SYSTEM, *turns("hi")], "Salutation", {"max_tokens": 20})
    made.read()
    assert made.labels(title, chat, again) == ["new", "regenerate", "regenerate"]
    assert made.threads(again) == [title]


def test_another_system_message_alone_makes_no_side_call(made: Traffic) -> None:
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    again = ask(made, [{"role": "system", "content": "other passages"}, *turns("u1")], "other a1", CHAT)
    made.read()
    assert made.labels(first, again) == ["new", "regenerate"]
    assert made.threads(again) == [first]
    assert [made.call(one)["is_system_changed"] for one in (first, again)] == [None, 1]


@pytest.mark.parametrize("manner", [*MANNERS.values(), {**CHAT, "model": "other"}], ids=[*MANNERS, "another model"])
def test_another_manner_alone_makes_no_side_call(made: Traffic, manner: dict[str, Any]) -> None:
    """People compare what a setting does."""
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    again = ask(made, [SYSTEM, *turns("u1")], "other a1", manner)
    made.read()
    assert made.labels(first, again) == ["new", "regenerate"]
    assert made.threads(again) == [first]


def test_another_model_with_another_system_message_makes_no_side_call(made: Traffic) -> None:
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    again = ask(made, [{"role": "system", "content": "other passages"}, *turns("u1")], "b1", {**CHAT, "model": "other"})
    made.read()
    assert made.labels(first, again) == ["new", "regenerate"]


def test_a_refused_stream_is_retried_though_the_passages_are_others(made: Traffic) -> None:
    """A refusal is not streamed: what was asked for counts."""
    body = {"model": "m", "stream": True, "messages": [SYSTEM, *turns("u1")]}
    head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
    first = made.exchange("/v1/chat/completions", as_json(body), as_json({"error": "out of memory"}), head=head)
    again = ask(made, [{"role": "system", "content": "other passages"}, *turns("u1")], "a1", {"stream": True})
    made.read()
    assert made.labels(first, again) == ["new", "retry"]


OWN_SYSTEM = [("its own system message", [TITLE_SYSTEM], CHAT), ("no system message", [], CHAT)]
AT_THE_END = [(name, [SYSTEM], manner) for name, manner in MANNERS.items()]
AT_THE_END += [("another model", [SYSTEM], {**CHAT, "model": "small"}), *OWN_SYSTEM]


@pytest.mark.parametrize(("system", "manner"), [one[1:] for one in AT_THE_END], ids=[one[0] for one in AT_THE_END])
def test_a_side_call_that_goes_on_from_the_chat_makes_no_branch_of_its_next_turn(
    made: Traffic, system: list[dict[str, Any]], manner: dict[str, Any]
) -> None:
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    title = ask(made, [*system, *turns("u1", "a1", "Give a title for this conversation")], "Greetings", manner)
    second = ask(made, [SYSTEM, *turns("u1", "a1", "u2")], "a2", CHAT)
    edited = ask(made, [SYSTEM, *turns("u1", "a1", "other u2")], "b2", CHAT)
    made.read()
    assert made.labels(first, title, second, edited) == ["new", "continue", "continue", "branch"]
    assert made.threads(first, title, second, edited) == [first] * 4
    assert [made.parent(one) for one in (title, second, edited)] == [first] * 3


def test_a_side_call_in_the_manner_of_its_chat_is_taken_for_a_turn(made: Traffic) -> None:
    """Nothing tells it from one; the documents say so."""
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    title = ask(made, [SYSTEM, *turns("u1", "a1", "Give a title for this conversation")], "Greetings", CHAT)
    second = ask(made, [SYSTEM, *turns("u1", "a1", "u2")], "a2", CHAT)
    made.read()
    assert made.labels(first, title, second) == ["new", "continue", "branch"]


def test_an_edited_question_under_passages_of_its_own_is_a_branch(made: Traffic) -> None:
    """Other system messages at each turn, and an edit: nothing else differs."""
    first, second, edited = [{"role": "system", "content": f"passages {number}"} for number in range(3)]
    exchanges = [
        ask(made, [first, *turns("u1")], "a1", CHAT),
        ask(made, [second, *turns("u1", "a1", "u2")], "a2", CHAT),
        ask(made, [edited, *turns("u1", "a1", "other u2")], "b2", CHAT),
    ]
    made.read()
    assert made.labels(*exchanges) == ["new", "continue", "branch"]


def test_many_side_calls_do_not_hide_the_chat(made: Traffic) -> None:
    first = ask(made, [SYSTEM, *turns("u1")], "a1", CHAT)
    for number in range(30):
        system = {"role": "system", "content": f"Write title {number}."}
        ask(made, [system, *turns("u1")], "a1", {"max_tokens": 20 + number})
    second = ask(made, [SYSTEM, *turns("u1", "a1", "u2")], "a2", CHAT)
    again = ask(made, [SYSTEM, *turns("u1")], "other a1", CHAT)
    made.read()
    assert made.labels(first, second, again) == ["new", "continue", "regenerate"]
    assert made.threads(second, again) == [first] * 2


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


def v1_chat(
    made: Traffic, text: str, answer: str, number: int, previous: int | None = None, *, system: str | None = None
) -> int:
    body: dict[str, Any] = {"model": "m", "input": text}
    if system is not None:
        body["system_prompt"] = system
    if previous is not None:
        body["previous_response_id"] = f"resp_{previous}"
    output = [{"type": "message", "content": answer}]
    told = {"model_instance_id": "m", "output": output, "stats": {}, "response_id": f"resp_{number}"}
    return made.exchange("/api/v1/chat", as_json(body), as_json(told))


def responses(
    made: Traffic, text: str, answer: str, number: int, previous: int | None = None, *, system: str | None = None
) -> int:
    body: dict[str, Any] = {"model": "m", "input": text}
    if system is not None:
        body["instructions"] = system
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


@pytest.mark.parametrize(("ask", "left_out"), [(v1_chat, 0), (responses, None)])
def test_a_system_message_that_is_left_out_is_not_changed(made: Traffic, ask: Any, left_out: int | None) -> None:
    """REST v1 keeps it with the chat; whether LM Studio keeps `instructions` of a response is not known."""
    exchanges = [
        ask(made, "u1", "a1", 1, system="s"),
        ask(made, "u2", "a2", 2, previous=1),
        ask(made, "u3", "a3", 3, previous=2),
        ask(made, "u3", "other a3", 4, previous=2),
        ask(made, "u4", "a4", 5, previous=3, system="s"),
        ask(made, "u5", "a5", 6, previous=5, system="other"),
        ask(made, "u6", "a6", 7, previous=6),
    ]
    made.read()
    assert made.labels(*exchanges) == [
        *("new", "continue", "continue", "regenerate", "continue", "continue", "continue")
    ]
    changed = [made.call(one)["is_system_changed"] for one in exchanges]
    assert changed == [None, left_out, left_out, 0, 0, 1, left_out]


@pytest.mark.parametrize("ask", [v1_chat, responses])
def test_a_chat_without_a_system_message_has_not_changed_it(made: Traffic, ask: Any) -> None:
    exchanges = [ask(made, "u1", "a1", 1), ask(made, "u2", "a2", 2, previous=1)]
    exchanges.append(ask(made, "u3", "a3", 3, previous=2, system="s"))
    made.read()
    assert [made.call(one)["is_system_changed"] for one in exchanges] == [None, 0, 1]


@pytest.mark.parametrize("ask", [v1_chat, responses])
def test_an_edit_is_a_branch_whether_or_not_the_system_message_is_sent_again(made: Traffic, ask: Any) -> None:
    first = ask(made, "u1", "a1", 1, system="s")
    second = ask(made, "u2", "a2", 2, previous=1)
    edited = ask(made, "other u2", "b2", 3, previous=1, system="s")
    made.read()
    assert made.labels(first, second, edited) == ["new", "continue", "branch"]


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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
