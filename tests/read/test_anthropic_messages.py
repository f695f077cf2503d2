"""/v1/messages: the digest's samples, blocks of all kinds, usage in parts, count_tokens, errors, cut streams."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import (
    CallError,
    Measured,
    Message,
    Operation,
    Parameter,
    Part,
    PartKind,
    Problem,
    Reading,
    Reported,
    StopReason,
    Tool,
)
from proxy.read.anthropic_messages import AnthropicMessages
from proxy.read.http_session import HttpReader
from proxy.read.reader import Claim, End, RequestHead
from tests.demo.anthropic_samples import CALL, HI, TOOL, saying
from tests.demo.lookalikes import post, running
from tests.read.lmstudio_http import CUTS, cut, event, odd_json, read, timed, timeless, values
from tests.read.mutated_json import data_of, mutated

MESSAGES = HttpReader(AnthropicMessages())
PATH, COUNT = "POST /v1/messages", "POST /v1/messages/count_tokens"
MODEL = "ibm/granite-4-micro"
ASKED = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "Say hello."}]}
SAMPLE = (
    b'{"id":"msg_x1y2z3","type":"message","role":"assistant","model":"ibm/granite-4-micro",\n'
    b' "content":[{"type":"text","text":"Hello from LM Studio."}],\n'
    b' "stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":14,"output_tokens":7}}'
)
SAMPLE_STREAM = b"""event: message_start
data: {"type":"message_start","message":{"id":"msg_x1y2z3","type":"message","role":"assistant","model":"ibm/granite-4-micro","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":14,"output_tokens":0}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":7}}

event: message_stop
data: {"type":"message_stop"}

"""  # noqa: E501 (verbatim)
READ = Reading(
    reader="anthropic_messages",
    version=1,
    operation=Operation.CHAT,
    model_asked=MODEL,
    model_answered=MODEL,
    messages=(Message("user", (Part(PartKind.TEXT, "Say hello."),), path="messages[0].content"),),
    parameters=(Parameter("max_tokens", 100),),
    answers=(Message("assistant", (Part(PartKind.TEXT, "Hello from LM Studio."),), path="content[0].text"),),
    stop_reason=StopReason.STOP,
    stop_reason_raw="end_turn",
    reported=Reported(input_tokens=14, output_tokens=7),
    response_id="msg_x1y2z3",
)


def named(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def started(**usage: int) -> bytes:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "content": [], "usage": usage}
    return named("message_start", message=message)


def block(index: int, start: dict[str, Any], *deltas: dict[str, Any]) -> list[bytes]:
    """A content block of a stream from its start to its stop."""
    return [
        named("content_block_start", index=index, content_block=start),
        *(named("content_block_delta", index=index, delta=delta) for delta in deltas),
        named("content_block_stop", index=index),
    ]


def ended(reason: str, sequence: str | None = None, **usage: int) -> list[bytes]:
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    return [named("message_delta", delta=delta, usage=usage), named("message_stop")]


CALL_START = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
STREAM = [
    started(input_tokens=0, output_tokens=1, cache_read_input_tokens=5),
    *block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Let me "},
        {"type": "thinking_delta", "thinking": "see."},
        {"type": "signature_delta", "signature": "c2ln"},
    ),
    named("ping"),
    *block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "It is "}),
    *block(2, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Bern."}),
    *block(
        3,
        CALL_START,
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"city": '},
        {"type": "input_json_delta", "partial_json": '"Bern"}'},
    ),
    *block(4, CALL_START | {"id": "toolu_2", "name": "now"}),
    *ended("tool_use", input_tokens=20, output_tokens=30),
]
ALL_SETTINGS = ASKED | {
    "system": "Be brief.",
    "temperature": 0,
    "top_k": 40,
    "stop_sequences": ["END"],
    "stream": True,
    "tools": [TOOL, {"type": "web_search_20250305", "name": "web_search", "max_uses": 2}],
    "tool_choice": {"type": "any"},
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    "metadata": {"user_id": "u"},
    "mcp_servers": [{"type": "url", "url": "https://x/?k=geheim", "name": "x", "authorization_token": "geheim"}],
    "strange": 1,
}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgoA"}}
ALL_BLOCKS: dict[str, Any] = {
    "model": MODEL,
    "system": [{"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {"role": "user", "content": [IMAGE, {"type": "text", "text": "What is it?"}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
                {"type": "redacted_thinking", "data": "c2VjcmV0"},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": 1}},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "x"}]},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "a"}, IMAGE],
                },
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "b", "is_error": True},
                {"type": "tool_result", "tool_use_id": "toolu_3"},
                {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                {
                    "type": "document",
                    "title": "notes",
                    "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                },
                {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}, "title": "pdf"},
                {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "in"}]}},
                {"type": "image", "source": {"type": "file", "file_id": "f"}},
            ],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "It is"}]},
    ],
}
ASKED_MUCH = ALL_SETTINGS | ALL_BLOCKS
WHOLE = {"content": ALL_BLOCKS["messages"][1]["content"], "stop_reason": "tool_use", "usage": {"output_tokens": 1}}
STREAM_PARTS = (
    Part(PartKind.REASONING, "Let me see."),
    Part(PartKind.TEXT, "It is "),
    Part(PartKind.TEXT, "Bern."),
    Part(PartKind.TOOL_CALL, '{"city": "Bern"}', "get_weather", "toolu_1"),
    Part(PartKind.TOOL_CALL, "{}", "now", "toolu_2"),
)


@pytest.mark.parametrize(
    ("method", "path", "claim"),
    [
        ("POST", "/v1/messages", Claim.YES),
        ("POST", "/anthropic/v1/messages", Claim.YES),
        ("POST", "/v1/messages/count_tokens", Claim.YES),
        ("GET", "/v1/messages", Claim.NO),
        ("POST", "/v1/threads/thread_1/messages", Claim.NO),
    ],
)
def test_a_path_is_claimed(method: str, path: str, claim: Claim) -> None:
    assert claim == MESSAGES.claims(RequestHead(method, path, "beta=true"))


def test_the_documented_answer_is_read_whole() -> None:
    assert timeless(read(MESSAGES, PATH, ASKED, answer=SAMPLE)) == READ


def test_the_documented_stream_is_read_whole() -> None:
    reading = read(MESSAGES, PATH, ASKED, events=timed(SAMPLE_STREAM))
    answers = (Message("assistant", (Part(PartKind.TEXT, "Hello"),)),)
    assert (answers, READ.reported, READ.stop_reason) == (reading.answers, reading.reported, reading.stop_reason)
    assert (
        reading.problems,
        reading.unread,
        reading.response_id,
        reading.is_streamed,
    ) == ((), (), "msg_x1y2z3", True)


def test_a_stream_of_all_blocks_is_read() -> None:
    reading = read(MESSAGES, PATH, ASKED, events=timed(*STREAM))
    assert reading.answers == (Message("assistant", STREAM_PARTS),)
    assert reading.reported == Reported(input_tokens=20, output_tokens=30, cached_tokens=5)
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.TOOL_CALLS, "tool_use")
    assert (reading.problems, reading.unread) == ((), ())
    assert reading.measured == Measured(
        request_complete_us=10,
        first_byte_us=1_000,
        first_token_us=4_000,
        first_content_us=10_000,
        last_token_us=20_000,
        token_events=8,
        longest_gap_us=5_000,
        done_us=9_000,
    )


@given(CUTS)
def test_the_reading_is_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    whole = timeless(read(MESSAGES, PATH, ASKED, events=timed(*STREAM)))
    assert whole == timeless(read(MESSAGES, PATH, ASKED, events=cut(b"".join(STREAM), cuts)))


def test_a_cut_stream_gives_what_there_is() -> None:
    reading = read(MESSAGES, PATH, ASKED, events=timed(*STREAM[:14], STREAM[14][:80]), end=End("client_gone", "left"))
    cut_call = Part(PartKind.TOOL_CALL, "", "get_weather", "toolu_1")
    assert reading.answers == (Message("assistant", (*STREAM_PARTS[:3], cut_call)),)
    assert [problem.kind for problem in reading.problems] == ["truncated", "truncated"]
    assert reading.stop_reason is None


def test_a_client_that_leaves_at_the_stop_reason_has_a_complete_call() -> None:
    reading = read(MESSAGES, PATH, ASKED, events=timed(*STREAM[:-1]), end=End("client_gone"))
    assert (reading.problems, reading.errors, reading.stop_reason) == ((), (), StopReason.TOOL_CALLS)


def test_the_start_of_a_call_may_have_its_whole_input() -> None:
    start = CALL_START | {"input": {"city": "Bern"}}
    pieces = {"type": "input_json_delta", "partial_json": '{"city":"Biel"}'}
    reading = read(
        MESSAGES, PATH, ASKED, events=timed(started(), *block(0, start), *block(1, start, pieces), *ended("tool_use"))
    )
    assert [part.text for part in reading.answers[0].parts] == ['{"city":"Bern"}', '{"city":"Biel"}']


def test_blocks_without_a_start_or_of_unknown_kinds_are_kept() -> None:
    events = [
        started(),
        named("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hi"}),
        *block(1, {"type": "hologram", "beam": 1}),
        *block(2, {"type": "text", "text": "!"}, {"type": "smell_delta", "smell": "x"}),
        named("applause"),
        *ended("tired"),
    ]
    reading = read(MESSAGES, PATH, ASKED, events=timed(*events))
    parts = (
        Part(PartKind.TEXT, "Hi"),
        Part(PartKind.OTHER, '{"type":"hologram","beam":1}'),
        Part(PartKind.TEXT, "!"),
    )
    assert reading.answers == (Message("assistant", parts),)
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.OTHER, "tired")
    assert reading.problems == (
        Problem("unknown_event", "content_block_delta: smell_delta"),
        Problem("unknown_event", "applause"),
    )
    assert reading.unread == (("event.delta.smell", 1),)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("end_turn", StopReason.STOP),
        ("max_tokens", StopReason.LENGTH),
        ("model_context_window_exceeded", StopReason.CONTEXT),
        ("refusal", StopReason.CONTENT_FILTER),
        ("pause_turn", StopReason.OTHER),
    ],
)
def test_stop_reasons_have_one_vocabulary(raw: str, reason: StopReason) -> None:
    reading = read(MESSAGES, PATH, ASKED, answer={"content": [], "stop_reason": raw})
    assert (reading.stop_reason, reading.stop_reason_raw) == (reason, raw)


def test_the_stop_string_that_was_found_is_told() -> None:
    events = [started(), *block(0, {"type": "text", "text": "x"}), *ended("stop_sequence", "END")]
    reading = read(MESSAGES, PATH, ASKED, events=timed(*events))
    assert (reading.stop_reason, reading.stop_string) == (StopReason.STOP_STRING, "END")


def test_usage_of_a_cache_and_of_thinking_is_reported() -> None:
    usage = {
        "input_tokens": 4,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 50,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 3},
        "service_tier": "standard",
    }
    reading = read(MESSAGES, PATH, ASKED, answer={"content": [], "stop_reason": "end_turn", "usage": usage})
    assert reading.reported == Reported(input_tokens=4, output_tokens=9, reasoning_tokens=3, cached_tokens=50)
    assert (reading.details, reading.unread) == ({"cache_creation_input_tokens": 100}, ())


def test_every_setting_of_a_request_is_read() -> None:
    reading = read(MESSAGES, PATH, ALL_SETTINGS)
    assert values(reading.parameters) == {
        "max_tokens": 100,
        "temperature": 0,
        "top_k": 40,
        "stop": ["END"],
        "stream": True,
        "tool_choice": {"type": "any"},
        "metadata": {"user_id": "u"},
        "enable_thinking": "enabled",
        "thinking_budget": 2048,
        "reasoning_effort": "high",
        "response_format": "json_schema",
    }
    assert Parameter("stop", ["END"], sent_as="stop_sequences") in reading.parameters
    schema = '{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}'
    assert reading.tools == (
        Tool("get_weather", "The weather at a place", schema),
        Tool("web_search", kind="web_search_20250305"),
        Tool("x", kind="mcp"),
    )
    assert reading.output_schema == '{"type":"object"}'
    assert reading.messages[0] == Message("system", (Part(PartKind.TEXT, "Be brief."),), path="system")
    assert reading.unread == (("request.strange", 1),)
    assert "geheim" not in repr(reading)


def test_blocks_of_a_request_become_parts() -> None:
    reading = read(MESSAGES, PATH, ALL_BLOCKS)
    picture, hidden = reading.messages[1].parts[0], reading.messages[2].parts[1]
    assert (picture.kind, picture.media_type, picture.bytes) == (PartKind.IMAGE, "image/png", 9)
    assert (hidden.kind, hidden.text, hidden.bytes) == (PartKind.REASONING, "", 6)
    assert reading.messages == (
        Message("system", (Part(PartKind.TEXT, "You are Claude Code."),), path="system[0].text"),
        Message("user", (picture, Part(PartKind.TEXT, "What is it?"))),
        Message(
            "assistant",
            (
                Part(PartKind.REASONING, "Hm."),
                hidden,
                Part(PartKind.TOOL_CALL, '{"at":1}', "look", "toolu_1"),
                Part(PartKind.TOOL_CALL, '{"query":"q"}', "web_search", "srvtoolu_1"),
                Part(PartKind.TOOL_RESULT, '{"type":"x"}', None, "srvtoolu_1"),
            ),
        ),
        Message(
            "user",
            (
                Part(PartKind.TOOL_RESULT, "a", None, "toolu_1"),
                picture,
                Part(PartKind.TOOL_RESULT, "b", None, "toolu_2"),
                Part(PartKind.TOOL_RESULT, "", None, "toolu_3"),
                Part(PartKind.IMAGE, "https://x/y.png"),
                Part(PartKind.TEXT, "words", "notes", media_type="text/plain"),
                Part(PartKind.FILE, "https://x/y.pdf", "pdf"),
                Part(PartKind.TEXT, "in"),
                Part(PartKind.OTHER, '{"type":"image","source":{"type":"file","file_id":"f"}}'),
            ),
        ),
        Message("assistant", (Part(PartKind.TEXT, "It is"),), path="messages[3].content[0].text"),
    )


def test_count_tokens_gives_a_number_or_lm_studios_odd_200() -> None:
    counted = read(MESSAGES, COUNT, ASKED, answer={"input_tokens": 2095})
    assert (counted.operation, counted.details) == (Operation.TOKENIZE, {"input_tokens": 2095})
    assert (counted.reported, counted.answers, counted.problems) == (Reported(), (), ())
    words = "Unexpected endpoint or method. (POST /v1/messages/count_tokens)"
    refused = read(MESSAGES, COUNT, ASKED, answer={"error": words})
    assert refused.errors == (CallError(words),)
    assert refused.problems == (Problem("error_in_200", "status 200, and the body holds an error"),)


def test_a_refusal_is_an_error() -> None:
    body = {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens: Field required"},
        "request_id": "req_1",
    }
    reading = read(MESSAGES, PATH, ASKED, answer=body, status=400)
    assert reading.errors == (CallError("max_tokens: Field required", "invalid_request_error"),)
    assert (reading.unread, reading.problems) == ((), ())


@pytest.mark.parametrize("name", ["error", ""])
def test_an_error_event_is_an_error_once(name: str) -> None:
    data = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    reading = read(MESSAGES, PATH, ASKED, events=timed(*STREAM[:3], event(data, name)))
    assert reading.errors == (CallError("Overloaded", "overloaded_error", where="stream"),)
    assert reading.answers == (Message("assistant", (Part(PartKind.REASONING, "Let me "),)),)
    assert reading.problems == ()


def test_an_error_event_of_a_flat_form_is_an_error() -> None:
    reading = read(MESSAGES, PATH, ASKED, events=timed(event({"type": "error", "message": "Gone."})))
    assert reading.errors == (CallError("Gone.", where="stream"),)


NAMES = (
    *("type", "role", "content", "text", "system", "messages", "source", "data", "media_type", "url", "title", "tools"),
    *("name", "input", "id", "tool_use_id", "thinking", "mcp_servers", "output_config", "format", "schema", "index"),
    *("delta", "content_block", "message", "usage", "input_tokens", "output_tokens", "stop_reason", "stop_sequence"),
    *("partial_json", "error", "output_tokens_details", "thinking_tokens", "cache_creation_input_tokens"),
)
TEXTS = (
    *("text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "base64", "url"),
    *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta"),
    *("text_delta", "thinking_delta", "input_json_delta", "signature_delta", "error", "ping", "web_search_tool_result"),
)
ODD = odd_json(NAMES, TEXTS)


@given(ODD, ODD, st.lists(st.tuples(st.sampled_from(("", *TEXTS)), ODD), max_size=6), st.sampled_from((200, 400)))
def test_no_json_makes_it_raise(asked: Any, answer: Any, events: list[tuple[str, Any]], status: int) -> None:
    read(MESSAGES, PATH, asked, answer=answer, status=status)
    read(MESSAGES, COUNT, asked, answer=answer, status=status)
    read(MESSAGES, PATH, asked, events=timed(*(event(data, name) for name, data in events)))


@given(mutated([ASKED_MUCH, WHOLE, *map(data_of, STREAM)], ODD))
def test_no_change_of_a_sample_makes_it_raise(changed: list[Any]) -> None:
    asked, answer, *events = changed
    read(MESSAGES, PATH, asked, answer=answer)
    read(MESSAGES, PATH, asked, events=timed(*map(event, events)))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_make_it_raise(asked: bytes, answer: bytes) -> None:
    read(MESSAGES, PATH, asked, answer=answer)
    read(MESSAGES, PATH, asked, events=timed(b"event: content_block_start\ndata: " + answer))


@pytest.mark.parametrize("depth", [90, 300, 900, 960, 990, 100_000])
def test_deep_nesting_does_not_make_it_raise(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    forms = (
        b'{"type":%s}',
        b'{"type":"tool_result","content":[%s]}',
        b'{"type":"document","source":{"type":"content","content":[%s]}}',
        b'{"type":"tool_use","input":%s}',
    )
    for block_of in forms:
        content = block_of % deep
        asked = b'{"system":%s,"messages":[{"role":"user","content":[%s]}],"tools":%s}' % (deep, content, deep)
        read(MESSAGES, PATH, asked, answer=b'{"content":[%s],"stop_details":%s}' % (content, deep))
        begun = b'data: {"type":"content_block_start","index":0,"content_block":%s}\n\n' % content
        read(MESSAGES, PATH, b"{}", events=timed(begun))


def test_the_lookalikes_streamed_and_whole_answers_are_the_same() -> None:
    script = ["<think>Hm.</think>Hi.", CALL]

    async def main() -> tuple[bytes, bytes]:
        body = HI | {"tools": [TOOL], "thinking": {"type": "enabled", "budget_tokens": 1024}}
        async with running(saying(script, script)) as server:
            whole = await post(server, "/v1/messages?beta=true", body)
            streamed = await post(server, "/v1/messages?beta=true", body | {"stream": True})
        return whole.raw, streamed.raw

    whole, streamed = asyncio.run(main())
    one = read(MESSAGES, PATH, ASKED, answer=whole)
    other = read(MESSAGES, PATH, ASKED, events=timed(streamed))
    for reading in (one, other):
        kinds = [part.kind for part in reading.answers[0].parts]
        assert kinds == [PartKind.REASONING, PartKind.TEXT, PartKind.TOOL_CALL]
        assert (reading.problems, reading.unread, reading.stop_reason) == ((), (), StopReason.TOOL_CALLS)
    assert one.reported == other.reported
