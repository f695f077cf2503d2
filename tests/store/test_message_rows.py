"""Messages are stored once, and their texts come back as they were sent, wherever they stand."""

import gzip
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.meaning import Message, Part, PartKind
from proxy.store.message_rows import MIN_REFERENCE_CHARACTERS, chain_key, is_system, message_key, text_key, words_of
from tests.store.traffic import Traffic, as_json, chat_answer, request_head, turns

LONG = "A text that is long enough to be looked up where the body holds it. " * 4
TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40)
numbers = count()


def plain(role: str, text: str) -> Message:
    return Message(role, (Part(PartKind.TEXT, text),))


# --- stored once ------------------------------------------------------------------------------------------------------


def test_a_history_that_is_sent_again_adds_only_its_end(made: Traffic) -> None:
    said: list[str] = []
    for turn in range(12):
        said.append(f"question {turn}: {LONG}")
        made.chat(turns(*said), f"answer {turn}: {LONG}")
        said.append(f"answer {turn}: {LONG}")
    made.read()
    assert made.values("SELECT text FROM messages ORDER BY id") == said
    assert made.values("SELECT doc FROM message_trigrams WHERE term = 'loo'") == [24]
    assert made.values("SELECT text FROM call_messages WHERE call_id = 12 ORDER BY position") == said
    assert made.values("SELECT input FROM read_calls WHERE id = 12") == ["[[1,23]]"]


def test_a_long_text_is_not_stored_beside_the_body_that_holds_it(made: Traffic) -> None:
    """Of a body in several parts from its second element on: the first one shares its part with what is before."""
    made.chat(turns(LONG), f"a {LONG}")
    made.chat(turns("s" * 100, f"b {LONG}", f"c {LONG}", f"d {LONG}"), "short too")
    made.read()
    stored = made.rows("SELECT text, path FROM read_messages ORDER BY id")
    long = (LONG, f"a {LONG}", "s" * 100, f"b {LONG}", f"c {LONG}", f"d {LONG}", "short too")
    assert [text for text, _ in stored] == [text if len(text) <= 100 else None for text in long]
    assert [path is None for _, path in stored] == [text is not None for text, _ in stored]
    assert made.values("SELECT text FROM messages ORDER BY id") == list(long)


@pytest.mark.parametrize("length", [MIN_REFERENCE_CHARACTERS - 1, MIN_REFERENCE_CHARACTERS])
def test_a_text_is_looked_up_from_a_certain_length_on(made: Traffic, length: int) -> None:
    made.chat(turns("x" * length))
    made.read()
    assert made.values("SELECT text IS NULL FROM read_messages WHERE role = 'user'") == [
        length >= MIN_REFERENCE_CHARACTERS
    ]


def test_the_same_words_of_another_role_or_author_are_another_message(made: Traffic) -> None:
    made.chat([{"role": "user", "content": "hi"}, {"role": "system", "content": "hi"}])
    made.chat([{"role": "user", "name": "ann", "content": "hi"}, {"role": "user", "name": "bob", "content": "hi"}])
    made.read()
    assert made.rows("SELECT role, name FROM messages WHERE text = 'hi' ORDER BY id") == [
        ("user", None),
        ("system", None),
        ("user", "ann"),
        ("user", "bob"),
    ]


# --- read back --------------------------------------------------------------------------------------------------------


def pretty(value: object) -> bytes:
    return json.dumps(value, indent=4).encode()


def escaped(value: object) -> bytes:
    return json.dumps(value).encode()


def with_bom(value: object) -> bytes:
    return b"\xef\xbb\xbf" + as_json(value)


def with_two_contents(value: Any) -> bytes:
    """Each message says something else first; JSON readers disagree which of the two holds."""
    messages = [
        b'{"content":"%s","role":%s,"content":%s}' % (b"x" * 200, as_json(one["role"]), as_json(one["content"]))
        for one in value["messages"]
    ]
    return b'{"model":"m","messages":[%s]}' % b",".join(messages)


def with_two_arrays(value: Any) -> bytes:
    """The messages are preceded by others under the same name."""
    return b'{"messages":%s,"model":"m","messages":%s}' % (
        as_json(turns("x" * 200, "y" * 200)),
        as_json(value["messages"]),
    )


FORMS = (as_json, escaped, pretty, with_bom, with_two_contents, with_two_arrays)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.tuples(TEXT, st.sampled_from([1, 5, 200])), min_size=1, max_size=5),
    answer=st.tuples(TEXT, st.sampled_from([1, 200])),
    form=st.sampled_from(FORMS),
    is_gzipped=st.booleans(),
)
def test_any_text_reads_back_as_it_was_sent(
    shared: Traffic, texts: list[tuple[str, int]], answer: tuple[str, int], form: Any, is_gzipped: bool
) -> None:
    said = [text * times for text, times in texts]
    answered = answer[0] * answer[1]
    body = form({"model": "m", "messages": turns(*said)})
    fields = ["Content-Encoding: gzip"] if is_gzipped else []
    exchange = shared.exchange(
        "/v1/chat/completions",
        gzip.compress(body) if is_gzipped else body,
        (pretty if form is pretty else as_json)(chat_answer(answered)),
        f"X-Proxy-Log-Session: {next(numbers)}",
        *fields,
    )
    shared.read()
    sql = "SELECT text FROM call_messages WHERE call_id = ? ORDER BY position"
    call = shared.call(exchange)
    assert shared.values(sql, call["id"]) == [*said, answered]
    assert call["answer"] == answered
    assert call["last_input"] == said[-1]
    assert shared.problems(exchange) == []


def test_a_text_with_a_lone_surrogate_is_kept_as_far_as_can_be(made: Traffic) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"%s\\ud800"}]}' % (b"a" * 200)
    exchange = made.exchange("/v1/chat/completions", body, as_json(chat_answer("ok")))
    made.read()
    assert made.call(exchange)["last_input"] == "a" * 200 + "\ufffd"


def test_the_texts_of_other_dialects_read_back_too(made: Traffic) -> None:
    told = {"output": [{"type": "message", "content": f"answer {LONG}"}], "model_instance_id": "m", "stats": {}}
    body: dict[str, Any] = {"model": "m", "system_prompt": f"system {LONG}", "input": f"input {LONG}"}
    v1 = made.exchange("/api/v1/chat", as_json(body), pretty(told))
    content = [{"type": "output_text", "text": f"answer {LONG}"}]
    told = {"id": "r", "status": "completed", "output": [{"type": "message", "role": "assistant", "content": content}]}
    items = [{"role": "user", "content": [{"type": "input_text", "text": f"input {LONG}"}]}]
    body = {"model": "m", "instructions": f"system {LONG}", "input": items}
    responses = made.exchange("/v1/responses", pretty(body), as_json(told))
    made.read()
    sql = "SELECT role, text FROM call_messages WHERE call_id = ? ORDER BY position"
    expected = [("system", f"system {LONG}"), ("user", f"input {LONG}"), ("assistant", f"answer {LONG}")]
    for exchange in (v1, responses):
        assert made.rows(sql, made.call(exchange)["id"]) == expected
    assert made.values("SELECT count(*) FROM messages") == [3]


# --- parts ------------------------------------------------------------------------------------------------------------


def test_an_image_is_told_and_not_stored_again(made: Traffic) -> None:
    data = "aGVsbG8g" * 4000
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    content = [{"type": "text", "text": "What is this?"}, image]
    exchange = made.chat([{"role": "user", "content": content}], "a letter")
    made.read()
    assert made.call(exchange)["last_input"] == "What is this?"
    ((parts,),) = made.rows("SELECT parts FROM messages WHERE role = 'user'")
    text, found = json.loads(parts)
    assert text == {"kind": "text", "text": "What is this?"}
    assert (found["kind"], found["media_type"], found["bytes"]) == ("image", "image/png", 24000)
    assert len(found["digest"]) == 32
    (other,) = made.values("SELECT sum(length(coalesce(text, '')) + length(coalesce(parts, ''))) FROM read_messages")
    assert other < 500


def test_two_images_are_two_messages(made: Traffic) -> None:
    for data in ("aGVsbG8g", "aGVsbG8h", "aGVsbG8g"):
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        made.chat([{"role": "user", "content": [image]}], "a letter")
    made.read()
    assert made.values("SELECT count(*) FROM messages WHERE role = 'user'") == [2]
    assert made.values("SELECT label FROM calls ORDER BY id") == ["new", "new", "regenerate"]


def test_reasoning_and_tool_calls_are_parts_of_an_answer(made: Traffic) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a":1}'}}
    answer = {"role": "assistant", "content": "Wait.", "reasoning_content": "hm", "tool_calls": [call]}
    exchange = made.chat(turns("u1"), answer)
    made.read()
    row = made.call(exchange)
    assert row["answer"] == "Wait."
    kinds = {part["kind"]: part for part in json.loads(row["answer_parts"])}
    assert kinds["reasoning"] == {"kind": "reasoning", "text": "hm"}
    assert kinds["tool_call"] == {"kind": "tool_call", "text": '{"a":1}', "name": "find", "id": "c1"}
    assert kinds["text"] == {"kind": "text", "text": "Wait."}


def test_an_empty_message_is_a_message(made: Traffic) -> None:
    exchange = made.chat(turns("", "", "u2"))
    made.read()
    sql = "SELECT role, text FROM call_messages WHERE call_id = ? ORDER BY position"
    assert made.rows(sql, made.call(exchange)["id"])[:3] == [("user", ""), ("assistant", ""), ("user", "u2")]


# --- keys -------------------------------------------------------------------------------------------------------------


@given(role=TEXT, text=TEXT, before=st.text(" \n\t", max_size=3), after=st.text(" \n\t", max_size=3))
def test_blanks_at_the_ends_make_no_other_turn(role: str, text: str, before: str, after: str) -> None:
    assert message_key(plain(role, text)) == message_key(plain(role, before + text + after))


@given(one=st.tuples(TEXT, TEXT), other=st.tuples(TEXT, TEXT))
def test_other_words_make_another_turn(one: tuple[str, str], other: tuple[str, str]) -> None:
    is_same = (one[0], one[1].strip()) == (other[0], other[1].strip())
    assert (message_key(plain(*one)) == message_key(plain(*other))) == is_same


def test_what_clients_leave_out_makes_no_other_turn() -> None:
    said = Part(PartKind.TEXT, "a")
    thought = Part(PartKind.REASONING, "hm")
    assert message_key(Message("assistant", (thought, said))) == message_key(plain("assistant", "a"))
    calls = [
        Part(PartKind.TOOL_CALL, '{"a": 1, "b": [2]}', "find", "c1"),
        Part(PartKind.TOOL_CALL, '{"b":[2],"a":1}', "find", "other"),
    ]
    assert len({message_key(Message("assistant", (one,))) for one in calls}) == 1


@given(before=st.text(" \n\t", max_size=3), after=st.text(" \n\t", max_size=3))
def test_blanks_beside_a_tool_call_make_no_other_turn(before: str, after: str) -> None:
    """A part of nothing but blanks is none: clients send `content: null` in its place."""
    call = Part(PartKind.TOOL_CALL, "{}", "find")
    blanks = Part(PartKind.TEXT, before), Part(PartKind.TEXT, f"<think>hm</think>{after}")
    assert message_key(Message("assistant", (*blanks, call))) == message_key(Message("assistant", (call,)))


def test_words_beside_a_tool_call_make_another_turn() -> None:
    call = Part(PartKind.TOOL_CALL, "{}", "find")
    said = Message("assistant", (Part(PartKind.TEXT, "I look it up."), call))
    assert message_key(said) != message_key(Message("assistant", (call,)))


def test_what_was_called_makes_another_turn() -> None:
    calls = [
        Part(PartKind.TOOL_CALL, "{}", "find"),
        Part(PartKind.TOOL_CALL, '{"a":1}', "find"),
        Part(PartKind.TOOL_CALL, "no JSON", "find"),
        Part(PartKind.TOOL_CALL, "{}", "seek"),
        Part(PartKind.TOOL_RESULT, "{}", "find"),
        Part(PartKind.TEXT, "{}"),
        Part(PartKind.REFUSAL, "{}"),
    ]
    assert len({message_key(Message("assistant", (one,))) for one in calls}) == len(calls)


def test_deep_arguments_have_a_key() -> None:
    for deep in ("[" * 20_000, "[" * 20_000 + "]" * 20_000):
        assert message_key(Message("assistant", (Part(PartKind.TOOL_CALL, deep, "find"),)))


@given(st.lists(TEXT, max_size=6), st.lists(TEXT, max_size=6))
def test_chains_are_the_same_where_all_their_messages_are(one: list[str], other: list[str]) -> None:
    def chain(texts: list[str]) -> int:
        key = text_key("scope")
        for text in texts:
            key = chain_key(key, text_key(text))
        return key

    assert (chain(one) == chain(other)) == (one == other)


def test_system_messages_are_told_by_their_role() -> None:
    assert [role for role in ("system", "developer", "user", "assistant", "tool") if is_system(plain(role, "x"))] == [
        "system",
        "developer",
    ]


def test_the_words_of_a_message_are_those_of_all_its_parts() -> None:
    parts = as_json(
        [
            {"kind": "reasoning", "text": "hm"},
            {"kind": "image", "bytes": 5, "digest": "00"},
            {"kind": "tool_call", "text": '{"a":1}', "name": "find", "id": "c1"},
            {"kind": "file", "name": "notes.txt", "bytes": 3},
        ]
    ).decode()
    assert words_of("", parts) == 'hm\nfind\n{"a":1}\nnotes.txt\n'
    assert words_of("text", None) == "text"
    assert words_of(None, None) == ""


def test_a_head_that_says_gzip_of_a_body_that_is_none_is_noted(made: Traffic) -> None:
    body = as_json({"model": "m", "messages": turns(LONG)})
    assert request_head("/", "Content-Encoding: gzip")
    exchange = made.exchange("/v1/chat/completions", body, as_json(chat_answer("ok")), "Content-Encoding: gzip")
    made.read()
    assert "request_undecoded" in made.problems(exchange)
    assert made.call(exchange)["answer"] == "ok"
