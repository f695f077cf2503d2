"""/v1/responses: the digest's samples, items of all kinds, MCP, failures in each form, cut streams."""

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
    Origin,
    Parameter,
    Part,
    PartKind,
    Problem,
    Reading,
    Reported,
    StopReason,
    Tool,
)
from proxy.read.http_session import HttpReader
from proxy.read.openai_responses import OpenAIResponses
from proxy.read.reader import Claim, End, RequestHead
from tests.demo.lookalikes import post, running
from tests.demo.responses_samples import saying
from tests.read.lmstudio_http import CUTS, cut, event, odd_json, read, timed, timeless, values
from tests.read.mutated_json import data_of, mutated

RESPONSES = HttpReader(OpenAIResponses())
PATH = "POST /v1/responses"
MODEL = "qwen/qwen3-coder-30b"
ASKED = {"model": MODEL, "input": "What is 2 + 2?"}
ID = "resp_4720f2bb3910a23698b831d1e59c2ac64531e254feae5a75"
ARGUMENTS = '{"expression": "2 + 2"}'
CALL_ITEM = {
    "id": "fc_pwgru27yf7wblcrikupu8",
    "call_id": "call_4261366467180000",
    "type": "function_call",
    "name": "calculate",
    "arguments": ARGUMENTS,
    "status": "completed",
}
TEXT_ITEM = {
    "id": "msg_ygzzm5ioggcqwdwqqphii",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "2 + 2 = 4"}],
}
REASONING_ITEM = {
    "id": "rs_1",
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "We need to"}],
}
MCP_ITEM = {
    "id": "mcp_1",
    "type": "mcp_call",
    "server_label": "huggingface",
    "name": "model_search",
    "arguments": "{}",
    "output": '[{"type":"text","text":"one"}]',
    "error": None,
    "status": "completed",
}
LIST_ITEM: dict[str, Any] = {
    "id": "mcpl_1",
    "type": "mcp_list_tools",
    "server_label": "huggingface",
    "tools": [{"name": "model_search", "description": "Search", "input_schema": {"type": "object"}}],
}
USAGE = {
    "input_tokens": 265,
    "output_tokens": 25,
    "total_tokens": 290,
    "output_tokens_details": {"reasoning_tokens": 0},
}
CALL_PART = Part(PartKind.TOOL_CALL, ARGUMENTS, "calculate", "call_4261366467180000")
TEXT_PART = Part(PartKind.TEXT, "2 + 2 = 4")
WHOLE_TEXT = Message("assistant", (TEXT_PART,), path="output[0].content[0].text")
REASONING_PART = Part(PartKind.REASONING, "We need to")
MCP_PARTS = (
    Part(PartKind.TOOL_CALL, "{}", "model_search", "mcp_1"),
    Part(PartKind.TOOL_RESULT, '[{"type":"text","text":"one"}]', "model_search", "mcp_1"),
)
MCP_TOOL = Tool("model_search", "Search", '{"type":"object"}', "mcp")
REPORTED = Reported(input_tokens=265, output_tokens=25, total_tokens=290, reasoning_tokens=0)


def response(*items: Any, **fields: Any) -> dict[str, Any]:
    """The digest's whole answer, around these items."""
    return {
        "id": ID,
        "object": "response",
        "created_at": 1761796133,
        "status": "completed",
        "model": MODEL,
        "output": list(items),
        "usage": USAGE,
        "previous_response_id": None,
    } | fields


def named(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, "sequence_number": 1, **fields}, kind)


def opened(**fields: Any) -> bytes:
    return named("response.created", response=response(status="in_progress", usage=None, **fields))


def item_events(index: int, item: dict[str, Any], *pieces: bytes) -> list[bytes]:
    """An item of a stream from its start to its end."""
    hollow: dict[str, Any] = {"content": [], "arguments": "", "status": "in_progress", "output": None, "tools": []}
    begun = item | {name: value for name, value in hollow.items() if name in item}
    added = named("response.output_item.added", output_index=index, item=begun)
    return [added, *pieces, named("response.output_item.done", output_index=index, item=item)]


def text_piece(index: int, text: str, kind: str = "output_text") -> bytes:
    return named(f"response.{kind}.delta", item_id="x", output_index=index, content_index=0, delta=text)


STREAM = [
    opened(),
    named("response.in_progress", response=response(status="in_progress", usage=None)),
    *item_events(
        0,
        REASONING_ITEM,
        text_piece(0, "We need", "reasoning_text"),
        text_piece(0, " to", "reasoning_text"),
        named("response.reasoning_text.done", item_id="x", output_index=0, content_index=0, text="We need to"),
    ),
    *item_events(
        1,
        TEXT_ITEM,
        named("response.content_part.added", output_index=1, content_index=0, part={"type": "output_text"}),
        text_piece(1, "2 + 2"),
        text_piece(1, " = 4"),
        named("response.output_text.done", item_id="x", output_index=1, content_index=0, text="2 + 2 = 4"),
        named("response.content_part.done", output_index=1, content_index=0, part=TEXT_ITEM["content"]),
    ),
    *item_events(
        2,
        CALL_ITEM,
        named("response.function_call_arguments.delta", item_id="x", output_index=2, delta='{"expression":'),
        named("response.function_call_arguments.delta", item_id="x", output_index=2, delta=' "2 + 2"}'),
        named("response.function_call_arguments.done", item_id="x", output_index=2, arguments=ARGUMENTS),
    ),
    named("response.completed", response=response(REASONING_ITEM, TEXT_ITEM, CALL_ITEM)),
]
ALL_SETTINGS: dict[str, Any] = {
    "model": MODEL,
    "instructions": "Be brief.",
    "input": "Hi",
    "previous_response_id": "resp_1",
    "max_output_tokens": 10,
    "temperature": 0.5,
    "store": False,
    "include": [],
    "reasoning": {"effort": "low", "summary": "auto"},
    "text": {
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "a", "strict": True, "schema": {"type": "object"}},
    },
    "strange": 1,
}
IMAGE = "data:image/png;base64,iVBORw0KGgoA"
ITEMS: list[Any] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "2 + 2?"}]},
    REASONING_ITEM,
    TEXT_ITEM,
    CALL_ITEM,
    {"type": "function_call_output", "call_id": "call_4261366467180000", "output": "4"},
    {
        "type": "function_call_output",
        "call_id": "call_2",
        "output": [{"type": "input_text", "text": "seen"}, {"type": "input_image", "image_url": IMAGE}],
    },
    LIST_ITEM,
    MCP_ITEM,
    {"id": "rs_2", "type": "reasoning", "summary": [], "encrypted_content": "c2VjcmV0"},
    {"type": "item_reference", "id": "msg_1"},
]
ALL_ASKED = ALL_SETTINGS | {"input": ITEMS, "tools": [*LIST_ITEM["tools"], {"type": "mcp", "server_url": "x"}]}
STREAMED = Reading(
    reader="openai_responses",
    version=1,
    operation=Operation.CHAT,
    is_streamed=True,
    model_asked=MODEL,
    model_answered=MODEL,
    messages=(Message("user", (Part(PartKind.TEXT, "What is 2 + 2?"),), path="input"),),
    answers=(Message("assistant", (REASONING_PART, TEXT_PART, CALL_PART)),),
    stop_reason=StopReason.TOOL_CALLS,
    stop_reason_raw="completed",
    reported=REPORTED,
    response_id=ID,
)


@pytest.mark.parametrize(
    ("method", "path", "claim"),
    [
        ("POST", "/v1/responses", Claim.YES),
        ("POST", "/openai/v1/responses", Claim.YES),
        ("GET", f"/v1/responses/{ID}", Claim.YES),
        ("DELETE", f"/v1/responses/{ID}", Claim.YES),
        ("GET", "/v1/responses/latest", Claim.MAYBE),
        ("GET", "/v1/responses", Claim.NO),
        ("POST", "/v1/chat/completions", Claim.NO),
    ],
)
def test_a_path_is_claimed(method: str, path: str, claim: Claim) -> None:
    assert claim == RESPONSES.claims(RequestHead(method, path))


def test_the_documented_answer_is_a_function_call() -> None:
    reading = read(RESPONSES, PATH, ASKED, answer=response(CALL_ITEM))
    assert (Message("assistant", (CALL_PART,)),) == reading.answers
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.TOOL_CALLS, "completed")
    assert (reading.reported, reading.response_id, reading.model_answered) == (REPORTED, ID, MODEL)
    assert (reading.unread, reading.problems) == ((), ())


def test_a_text_answer_stops_by_itself() -> None:
    reading = read(RESPONSES, PATH, ASKED, answer=response(TEXT_ITEM))
    assert reading.answers == (WHOLE_TEXT,)
    assert StopReason.STOP is reading.stop_reason


def test_a_stream_is_read_whole_and_nothing_twice() -> None:
    reading = read(RESPONSES, PATH, ASKED | {"stream": True}, events=timed(*STREAM))
    assert (Parameter("stream", True),) == reading.parameters
    assert timeless(read(RESPONSES, PATH, ASKED, events=timed(*STREAM))) == STREAMED
    assert (
        Measured(
            request_complete_us=10,
            first_byte_us=1_000,
            first_token_us=5_000,
            first_content_us=11_000,
            last_token_us=18_000,
            token_events=7,
            longest_gap_us=5_000,
            done_us=9_000,
        )
        == reading.measured
    )


@given(CUTS)
def test_the_reading_is_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    assert timeless(read(RESPONSES, PATH, ASKED, events=cut(b"".join(STREAM), cuts))) == STREAMED


@given(st.integers(0, len(STREAM) - 1))
def test_a_cut_stream_gives_what_there_is(events: int) -> None:
    reading = read(RESPONSES, PATH, ASKED, events=timed(*STREAM[:events]), end=End("upstream_gone", "reset"))
    assert (CallError("reset", "upstream_gone", where="outcome"),) == reading.errors
    assert reading.stop_reason is None
    if events >= 6:
        assert reading.answers[0].parts[0] == REASONING_PART


def test_a_running_stream_is_read_as_far_as_it_came() -> None:
    reading = read(RESPONSES, PATH, ASKED, events=timed(*STREAM[:4]), end=None)
    assert (Message("assistant", (Part(PartKind.REASONING, "We need"),)),) == reading.answers
    assert (reading.is_running, reading.problems) == (True, ())


def test_a_stream_that_ends_early_is_truncated_and_one_that_ended_is_not() -> None:
    short = read(RESPONSES, PATH, ASKED, events=timed(*STREAM[:12]))
    assert (Problem("truncated", "the exchange ended as completed"),) == short.problems
    whole = read(RESPONSES, PATH, ASKED, events=timed(*STREAM, b"data: [DONE]\n\n"), end=End("client_gone"))
    assert (whole.problems, whole.errors) == ((), ())


def test_the_final_response_wins_over_the_pieces() -> None:
    last = named("response.completed", response=response(TEXT_ITEM))
    reading = read(RESPONSES, PATH, ASKED, events=timed(opened(), text_piece(0, "2 + 3 = 5"), last))
    assert (Message("assistant", (TEXT_PART,)),) == reading.answers
    assert reading.measured.token_events == 1


def test_pieces_stay_where_the_final_response_has_no_output() -> None:
    last = named("response.completed", response=response())
    pieces = [text_piece(0, "a", "reasoning_summary_text"), text_piece(1, "b"), text_piece(2, "c", "refusal")]
    reading = read(RESPONSES, PATH, ASKED, events=timed(opened(), *pieces, last))
    parts = (Part(PartKind.REASONING, "a"), Part(PartKind.TEXT, "b"), Part(PartKind.REFUSAL, "c"))
    assert (Message("assistant", parts),) == reading.answers


def test_text_told_only_at_the_end_counts_as_generated_then() -> None:
    done = named("response.reasoning_text.done", item_id="x", output_index=0, content_index=0, text="We need to")
    last = named("response.completed", response=response(REASONING_ITEM))
    reading = read(RESPONSES, PATH, ASKED, events=timed(opened(), done, last))
    assert (
        reading.measured.first_token_us,
        reading.measured.first_content_us,
        reading.measured.token_events,
    ) == (3_000, None, 1)
    only = read(
        RESPONSES, PATH, ASKED, events=timed(opened(), named("response.completed", response=response(TEXT_ITEM)))
    )
    assert (only.measured.first_content_us, only.measured.token_events) == (3_000, 1)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"incomplete_details": {"reason": "max_output_tokens"}}, (StopReason.LENGTH, "max_output_tokens")),
        ({"incomplete_details": {"reason": "content_filter"}}, (StopReason.CONTENT_FILTER, "content_filter")),
        ({"incomplete_details": {"reason": "boredom"}}, (StopReason.OTHER, "boredom")),
        ({}, (StopReason.OTHER, "incomplete")),
        ({"status": "cancelled"}, (StopReason.CANCELLED, "cancelled")),
        ({"status": "paused"}, (StopReason.OTHER, "paused")),
        ({"status": "in_progress"}, (None, None)),
    ],
)
def test_status_and_details_are_the_stop_reason(fields: Any, expected: Any) -> None:
    reading = read(RESPONSES, PATH, ASKED, answer=response(TEXT_ITEM, **({"status": "incomplete"} | fields)))
    assert expected == (reading.stop_reason, reading.stop_reason_raw)


def test_an_incomplete_stream_stops_at_its_length() -> None:
    last = response(TEXT_ITEM, status="incomplete", incomplete_details={"reason": "max_output_tokens"})
    reading = read(RESPONSES, PATH, ASKED, events=timed(opened(), named("response.incomplete", response=last)))
    assert (reading.stop_reason, reading.problems) == (StopReason.LENGTH, ())


def test_mcp_tools_and_calls_are_read_streamed_and_whole() -> None:
    pieces = [
        opened(),
        *item_events(0, LIST_ITEM, named("response.mcp_list_tools.in_progress", item_id="mcpl_1", output_index=0)),
        *item_events(
            1,
            MCP_ITEM,
            named("response.mcp_call_arguments.delta", item_id="mcp_1", output_index=1, delta="{}"),
            named("response.mcp_call_arguments.done", item_id="mcp_1", output_index=1, arguments="{}"),
            named("response.mcp_call.completed", item_id="mcp_1", output_index=1),
        ),
        *item_events(2, TEXT_ITEM),
    ]
    last = response(LIST_ITEM, MCP_ITEM, TEXT_ITEM)
    answers = (Message("assistant", (*MCP_PARTS, TEXT_PART)),)
    cut_off = read(RESPONSES, PATH, ASKED, events=timed(*pieces), end=None)
    streamed = read(RESPONSES, PATH, ASKED, events=timed(*pieces, named("response.completed", response=last)))
    whole = read(RESPONSES, PATH, ASKED, answer=last)
    for reading in (cut_off, streamed, whole):
        assert answers == reading.answers
        assert reading.tools == (MCP_TOOL,)
        assert (reading.problems, reading.unread) == ((), ())
    assert StopReason.STOP is streamed.stop_reason is whole.stop_reason


def test_what_an_mcp_server_refused_is_told() -> None:
    failed = MCP_ITEM | {"output": None, "error": {"code": 7}, "status": "failed"}
    reading = read(RESPONSES, PATH, ASKED, answer=response(LIST_ITEM | {"tools": [], "error": "no way"}, failed))
    assert Part(PartKind.TOOL_RESULT, '{"code":7}', "model_search", "mcp_1") == reading.answers[0].parts[1]
    assert (Problem("mcp_tools_failed", "huggingface: no way"),) == reading.problems


def test_every_setting_of_a_request_is_read() -> None:
    reading = read(RESPONSES, PATH, ALL_SETTINGS)
    assert (
        Message("system", (Part(PartKind.TEXT, "Be brief."),), path="instructions"),
        Message("user", (Part(PartKind.TEXT, "Hi"),), path="input"),
    ) == reading.messages
    assert values(reading.parameters) == {
        "temperature": 0.5,
        "store": False,
        "max_tokens": 10,
        "include": [],
        "reasoning_effort": "low",
        "reasoning_summary": "auto",
        "verbosity": "low",
        "response_format": "json_schema",
    }
    assert Parameter("max_tokens", 10, sent_as="max_output_tokens") in reading.parameters
    assert (reading.previous_response_id, reading.output_schema) == ("resp_1", '{"type":"object"}')
    assert reading.unread == (("request.strange", 1),)


def test_secrets_of_an_mcp_server_are_not_kept() -> None:
    server = {
        "type": "mcp",
        "server_label": "huggingface",
        "server_url": "https://me:geheim@huggingface.co/mcp?key=geheim",
        "allowed_tools": ["model_search"],
        "headers": {"Authorization": "geheim"},
        "authorization": "geheim",
    }
    function = {"type": "function", "name": "calculate", "description": "Sums", "parameters": {"type": "object"}}
    reading = read(RESPONSES, PATH, ASKED | {"tools": [function, server]})
    assert (Tool("calculate", "Sums", '{"type":"object"}'), Tool("huggingface", kind="mcp")) == reading.tools
    shown = {
        "server_label": "huggingface",
        "server_url": "https://huggingface.co/mcp",
        "allowed_tools": ["model_search"],
    }
    assert {"mcp_servers": [shown]} == reading.details
    assert "geheim" not in repr(reading)


def test_items_of_an_input_become_messages() -> None:
    reading = read(RESPONSES, PATH, ASKED | {"input": ITEMS})
    picture, hidden = reading.messages[4].parts[1], reading.messages[5].parts[2]
    assert (picture.kind, picture.media_type, picture.bytes) == (PartKind.IMAGE, "image/png", 9)
    assert (hidden.kind, hidden.text, hidden.bytes) == (PartKind.REASONING, "", 6)
    assert (
        Message("developer", (Part(PartKind.TEXT, "Be brief."),), path="input[0].content"),
        Message("user", (Part(PartKind.TEXT, "2 + 2?"),), path="input[1].content[0].text"),
        Message("assistant", (REASONING_PART, TEXT_PART, CALL_PART)),
        Message("tool", (Part(PartKind.TOOL_RESULT, "4", None, "call_4261366467180000"),)),
        Message("tool", (Part(PartKind.TOOL_RESULT, "seen", None, "call_2"), picture)),
        Message("assistant", (*MCP_PARTS, hidden)),
        Message("unknown", (Part(PartKind.OTHER, '{"type":"item_reference","id":"msg_1"}'),)),
    ) == reading.messages
    assert (reading.tools, reading.unread, reading.problems) == ((MCP_TOOL,), (), ())


def test_an_answer_that_is_sent_again_is_the_same_message() -> None:
    answered = read(RESPONSES, PATH, ASKED, events=timed(*STREAM)).answers
    asked = ASKED | {"input": [REASONING_ITEM, TEXT_ITEM, CALL_ITEM]}
    assert answered == read(RESPONSES, PATH, asked).messages


def test_the_empty_input_that_codex_loads_a_model_with_is_read() -> None:
    reading = read(RESPONSES, PATH, {"model": MODEL, "input": "", "max_output_tokens": 1})
    assert (Message("user", ()),) == reading.messages


def test_settings_that_the_response_repeats_are_the_servers_word() -> None:
    reading = read(RESPONSES, PATH, ASKED, answer=response(TEXT_ITEM, temperature=0.8, max_output_tokens=None, top_p=1))
    assert (
        Parameter("temperature", 0.8, Origin.SERVER),
        Parameter("top_p", 1, Origin.SERVER),
    ) == reading.parameters


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {
                "error": {
                    "message": "Required",
                    "type": "invalid_request_error",
                    "param": "text.format",
                    "code": "missing_required_parameter",
                }
            },
            CallError("Required", "invalid_request_error", "missing_required_parameter"),
        ),
        ({"error": "No models loaded."}, CallError("No models loaded.")),
        (b"Bad Gateway", CallError("Bad Gateway", code="400")),
    ],
)
def test_a_refusal_is_an_error(body: Any, error: CallError) -> None:
    reading = read(RESPONSES, PATH, ASKED, answer=body, status=400)
    assert ((error,), (), None) == (reading.errors, reading.answers, reading.stop_reason)


def test_the_odd_200_of_an_old_server_is_an_error() -> None:
    words = "Unexpected endpoint or method. (POST /v1/responses)"
    reading = read(RESPONSES, PATH, ASKED, answer={"error": words})
    assert (CallError(words),) == reading.errors
    assert (Problem("error_in_200", "status 200, and the body holds an error"),) == reading.problems


FAILED = response(TEXT_ITEM, status="failed", error={"code": "server_error", "message": "The model has crashed."})


def test_a_failed_response_keeps_what_it_had() -> None:
    whole = read(RESPONSES, PATH, ASKED, answer=FAILED)
    streamed = read(RESPONSES, PATH, ASKED, events=timed(opened(), named("response.failed", response=FAILED)))
    for reading, where in ((whole, "body"), (streamed, "stream")):
        assert (CallError("The model has crashed.", None, "server_error", where),) == reading.errors
        assert (reading.stop_reason, reading.stop_reason_raw, reading.response_id) == (StopReason.FAILED, "failed", ID)
        assert reading.answers[0].parts == (TEXT_PART,)
        assert reading.unread == ()
    assert streamed.problems == ()


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        (
            "error",
            {"type": "error", "code": "e", "message": "Gone.", "param": None, "sequence_number": 3},
            CallError("Gone.", None, "e", "stream"),
        ),
        ("", {"type": "error", "code": "e", "message": "Gone."}, CallError("Gone.", None, "e", "stream")),
        ("", {"type": "error", "error": {"message": "Gone."}}, CallError("Gone.", where="stream")),
        ("error", {"error": {"message": "Gone."}, "message": "Gone."}, CallError("Gone.", where="stream")),
    ],
)
def test_an_error_event_is_an_error_once(name: str, data: Any, error: CallError) -> None:
    reading = read(RESPONSES, PATH, ASKED, events=timed(opened(), text_piece(0, "one"), event(data, name)))
    assert ((error,), (), ()) == (reading.errors, reading.problems, reading.unread)
    assert (Message("assistant", (Part(PartKind.TEXT, "one"),)),) == reading.answers


def test_unknown_events_and_fields_are_told() -> None:
    strange = named("response.dream.delta", delta="x")
    reading = read(RESPONSES, PATH, ASKED, events=timed(opened(mood="good"), strange, *STREAM[2:]))
    assert (Problem("unknown_event", "response.dream.delta"),) == reading.problems
    assert reading.unread == (("event.response.mood", 1), ("event.delta", 1))


def test_a_response_that_is_fetched_or_deleted_is_no_call() -> None:
    got = read(RESPONSES, f"GET /v1/responses/{ID}", answer=response(TEXT_ITEM))
    assert (got.operation, got.response_id, got.details) == (Operation.OTHER, ID, {"status": "completed"})
    assert got.answers == (WHOLE_TEXT,)
    answer = {"id": ID, "object": "response.deleted", "deleted": True}
    gone = read(RESPONSES, f"DELETE /v1/responses/{ID}", answer=answer)
    assert (gone.operation, gone.response_id, gone.details, gone.unread) == (Operation.OTHER, ID, {"deleted": True}, ())


NAMES = (
    *("model", "input", "output", "item", "type", "role", "content", "text", "summary", "arguments", "call_id", "id"),
    *("tools", "headers", "server_url", "response", "status", "error", "usage", "input_tokens", "format", "schema"),
    *("delta", "output_index", "content_index", "name", "reasoning", "effort", "incomplete_details", "reason"),
)
TEXTS = (
    *("message", "reasoning", "function_call", "mcp_call", "mcp_list_tools", "mcp", "function_call_output", "x_output"),
    *("response.output_item.added", "response.output_item.done", "response.output_text.delta", "response.completed"),
    *("response.output_text.done", "response.function_call_arguments.done", "response.failed", "error", "completed"),
    *("input_text", "input_image", "json_schema", "failed", "incomplete", "assistant", "reasoning_text"),
)
ODD = odd_json(NAMES, TEXTS)


@given(ODD, ODD, st.lists(st.tuples(st.sampled_from(("", *TEXTS)), ODD), max_size=6), st.sampled_from((200, 400)))
def test_no_json_makes_it_raise(asked: Any, answer: Any, events: list[tuple[str, Any]], status: int) -> None:
    read(RESPONSES, PATH, asked, answer=answer, status=status)
    read(RESPONSES, f"GET /v1/responses/{ID}", asked, answer=answer, status=status)
    read(RESPONSES, PATH, asked, events=timed(*(event(data, name) for name, data in events)))


@given(mutated([ALL_ASKED, response(*ITEMS, incomplete_details={}), *map(data_of, STREAM)], ODD))
def test_no_change_of_a_sample_makes_it_raise(changed: list[Any]) -> None:
    asked, answer, *events = changed
    read(RESPONSES, PATH, asked, answer=answer)
    read(RESPONSES, PATH, asked, events=timed(*map(event, events)))


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_bytes_make_it_raise(asked: bytes, answer: bytes) -> None:
    read(RESPONSES, PATH, asked, answer=answer)
    read(RESPONSES, PATH, asked, events=timed(b"event: response.completed\ndata: " + answer))


@pytest.mark.parametrize("depth", [90, 300, 900, 960, 990, 100_000])
def test_deep_nesting_does_not_make_it_raise(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    for name in (b"input", b"instructions", b"text", b"tools"):
        read(RESPONSES, PATH, b'{"%s":%s}' % (name, deep))
    for form in (b'{"type":%s}', b'{"type":"mcp_list_tools","error":%s}', b'{"type":"x_output","output":[%s]}'):
        item = form % deep
        read(RESPONSES, PATH, b'{"input":[%s]}' % item, answer=b'{"output":[%s],"status":"completed"}' % item)
        done = b'data: {"type":"response.output_item.done","item":%s}\n\n' % item
        read(RESPONSES, PATH, b"{}", events=timed(done))


def test_the_lookalikes_streamed_and_whole_answers_are_the_same() -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}}
    script = (
        '<think>Hm.</think>Hi.[TOOL_REQUEST]{"name": "get_weather", "arguments": {"city": "Bern"}}[END_TOOL_REQUEST]'
    )

    async def main() -> tuple[bytes, bytes]:
        body = {"input": "hi", "tools": [tool]}
        async with running(saying([script], [script])) as server:
            whole = await post(server, "/v1/responses", body)
            streamed = await post(server, "/v1/responses", body | {"stream": True})
        return whole.raw, streamed.raw

    whole, streamed = asyncio.run(main())
    one = read(RESPONSES, PATH, ASKED, answer=whole)
    other = read(RESPONSES, PATH, ASKED, events=timed(streamed))
    for reading in (one, other):
        assert [part.kind for part in reading.answers[0].parts] == [
            PartKind.REASONING,
            PartKind.TEXT,
            PartKind.TOOL_CALL,
        ]
        assert (reading.problems, reading.unread, reading.stop_reason) == ((), (), StopReason.TOOL_CALLS)
    assert one.reported == other.reported
