"""/api/v1/chat: samples of LM Studio's documentation, tools that the server calls, loads, errors, cut streams."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import CallError, Measured, Message, Part, PartKind, Problem, Reported, Tool
from proxy.read.http_session import HttpReader
from proxy.read.lmstudio_v1_chat import LMStudioV1Chat
from proxy.read.reader import Claim, End, RequestHead
from tests.read.lmstudio_http import CUTS, cut, event, odd_json, read, timed, timeless, values

CHAT = HttpReader(LMStudioV1Chat())
PATH = "POST /api/v1/chat"
ASKED = {"model": "ibm/granite-4-micro", "input": "Hi"}
MCP_OUTPUT = '[{"type":"text","text":"Showing first 1 models..."}]'
ARGUMENTS = {"sort": "trendingScore", "query": "", "limit": 1}
ARGUMENTS_TEXT = '{"sort":"trendingScore","query":"","limit":1}'
HUGGINGFACE = {"type": "ephemeral_mcp", "server_label": "huggingface"}
INVALID = {
    "reason": "Cannot find tool with name open_browser.",
    "metadata": {"type": "invalid_name", "tool_name": "open_browser"},
}
STATS = {
    "input_tokens": 646,
    "total_output_tokens": 586,
    "reasoning_output_tokens": 0,
    "tokens_per_second": 29.753900615398926,
    "time_to_first_token_seconds": 1.088,
    "model_load_time_seconds": 2.656,
}
RESPONSE_ID = "resp_4ef013eba0def1ed23f19dde72b67974c579113f544086de"
RESULT = {
    "model_instance_id": "ibm/granite-4-micro",
    "output": [
        {"type": "reasoning", "content": "Need to call function."},
        {
            "type": "tool_call",
            "tool": "model_search",
            "arguments": ARGUMENTS,
            "output": MCP_OUTPUT,
            "provider_info": HUGGINGFACE,
        },
        {"type": "invalid_tool_call", **INVALID},
        {"type": "message", "content": "The current top model is ..."},
    ],
    "stats": STATS,
    "response_id": RESPONSE_ID,
}
ANSWER = Message(
    "assistant",
    (
        Part(PartKind.REASONING, "Need to call function."),
        Part(PartKind.TOOL_CALL, ARGUMENTS_TEXT, "model_search"),
        Part(PartKind.TOOL_RESULT, MCP_OUTPUT, "model_search"),
        Part(PartKind.TOOL_CALL, "", "open_browser"),
        Part(PartKind.TOOL_RESULT, "Cannot find tool with name open_browser.", "open_browser"),
        Part(PartKind.TEXT, "The current top model is ..."),
    ),
)
REPORTED = Reported(
    input_tokens=646,
    output_tokens=586,
    reasoning_tokens=0,
    tokens_per_second=29.753900615398926,
    ttft_s=1.088,
    load_time_s=2.656,
    stats=STATS,
)
INVALID_CALL = Problem("invalid_tool_call", "Cannot find tool with name open_browser.")
DOCUMENTED = b"""\
event: chat.start
data: {"type":"chat.start","model_instance_id":"openai/gpt-oss-20b"}

event: model_load.start
data: {"type":"model_load.start","model_instance_id":"openai/gpt-oss-20b"}

event: model_load.progress
data: {"type":"model_load.progress","model_instance_id":"openai/gpt-oss-20b","progress":0.65}

event: model_load.end
data: {"type":"model_load.end","model_instance_id":"openai/gpt-oss-20b","load_time_seconds":12.34}

event: prompt_processing.start
data: {"type":"prompt_processing.start"}

event: prompt_processing.progress
data: {"type":"prompt_processing.progress","progress":0.5}

event: prompt_processing.end
data: {"type":"prompt_processing.end"}

event: message.start
data: {"type":"message.start"}

event: message.delta
data: {"type":"message.delta","content":"The current"}

event: message.delta
data: {"type":"message.delta","content":" ..."}

event: message.end
data: {"type":"message.end"}

event: chat.end
data: {"type":"chat.end","result":{"model_instance_id":"openai/gpt-oss-20b","output":[{"type":"message","content":\
"The current ..."}],"stats":{"input_tokens":329,"total_output_tokens":268,"reasoning_output_tokens":5,\
"tokens_per_second":43.73,"time_to_first_token_seconds":0.781},\
"response_id":"resp_02b2017dbc06c12bfc353a2ed6c2b802f8cc682884bb5716"}}

"""
"""The documentation's sample, with one more delta."""


def told(kind: str, **data: Any) -> bytes:
    return event({"type": kind, **data}, kind)


SEARCH = {"tool": "model_search", "provider_info": HUGGINGFACE}
ROUNDS = (
    told("chat.start", model_instance_id="ibm/granite-4-micro"),
    told("prompt_processing.start"),
    told("prompt_processing.progress", progress=0.5),
    told("prompt_processing.end"),
    told("reasoning.start"),
    told("reasoning.delta", content="Need to "),
    told("reasoning.delta", content="call function."),
    told("reasoning.end"),
    told("tool_call.start", **SEARCH),
    told("tool_call.arguments", arguments=ARGUMENTS, **SEARCH),
    told("tool_call.success", arguments=ARGUMENTS, output=MCP_OUTPUT, **SEARCH),
    told("prompt_processing.start"),
    told("prompt_processing.end"),
    told("tool_call.failure", **INVALID),
    told("message.start"),
    told("message.delta", content="The current top "),
    told("message.delta", content="model is ..."),
    told("message.end"),
    told("chat.end", result=RESULT),
)
STREAM = b"".join(ROUNDS)


# --- the request ------------------------------------------------------------------------------------------------------


def test_request_with_everything_is_read() -> None:
    reading = read(
        CHAT,
        PATH,
        {
            "model": "qwen",
            "input": [
                {"type": "text", "content": "What is this?"},
                {"type": "image", "data_url": "data:image/png;base64,iVBORw0KGgo="},
            ],
            "system_prompt": "Be brief.",
            "stream": True,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.05,
            "repeat_penalty": 1.1,
            "max_output_tokens": 64,
            "reasoning": "off",
            "context_length": 8192,
            "store": False,
            "previous_response_id": RESPONSE_ID,
        },
    )

    image = reading.messages[1].parts[1]
    assert image.digest is not None
    assert reading.messages == (
        Message("system", (Part(PartKind.TEXT, "Be brief."),), path="system_prompt"),
        Message(
            "user",
            (
                Part(PartKind.TEXT, "What is this?"),
                Part(PartKind.IMAGE, media_type="image/png", bytes=8, digest=image.digest),
            ),
        ),
    )
    assert values(reading.parameters) == {
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.1,
        "max_tokens": 64,
        "reasoning_effort": "off",
        "context_length": 8192,
        "store": False,
    }
    assert {one.name: one.sent_as for one in reading.parameters if one.sent_as} == {
        "max_tokens": "max_output_tokens",
        "reasoning_effort": "reasoning",
    }
    assert (reading.model_asked, reading.previous_response_id, reading.unread) == ("qwen", RESPONSE_ID, ())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("Hi", Message("user", (Part(PartKind.TEXT, "Hi"),), path="input")),
        ([{"type": "text", "content": "Hi"}], Message("user", (Part(PartKind.TEXT, "Hi"),), path="input[0].content")),
        (
            [{"type": "message", "content": "Hi"}],
            Message("user", (Part(PartKind.TEXT, "Hi"),), path="input[0].content"),
        ),
        (["Hi"], Message("user", (Part(PartKind.TEXT, "Hi"),))),
        ("", Message("user", ())),
        ([], Message("user", ())),
        (7, Message("user", (Part(PartKind.OTHER, "7"),))),
        ([{"type": "text"}], Message("user", (Part(PartKind.OTHER, '{"type":"text"}'),))),
        ([{"type": "file", "x": 1}], Message("user", (Part(PartKind.OTHER, '{"type":"file","x":1}'),))),
    ],
)
def test_input_of_any_form_is_the_users_message(value: Any, message: Message) -> None:
    assert read(CHAT, PATH, {"input": value}).messages == (message,)


def test_integrations_are_tools_without_secrets() -> None:
    reading = read(
        CHAT,
        PATH,
        {
            "integrations": [
                "mcp/playwright",
                {"type": "plugin", "id": "mcp/files", "allowed_tools": ["list"]},
                {
                    **HUGGINGFACE,
                    "server_url": "https://me:secret@huggingface.co/mcp?key=secret",
                    "allowed_tools": ["model_search"],
                    "headers": {"Authorization": "Bearer secret"},
                },
                {"type": "new", "token": "secret"},
                7,
            ]
        },
    )

    assert reading.tools == (
        Tool("mcp/playwright", kind="plugin"),
        Tool("mcp/files", kind="plugin"),
        Tool("huggingface", kind="ephemeral_mcp"),
        Tool("new", kind="new"),
    )
    assert reading.details["integrations"] == [
        {"type": "plugin", "id": "mcp/playwright"},
        {"type": "plugin", "id": "mcp/files", "allowed_tools": ["list"]},
        {
            "type": "ephemeral_mcp",
            "id": "huggingface",
            "server_url": "https://huggingface.co/mcp",
            "allowed_tools": ["model_search"],
        },
        {"type": "new", "id": "new"},
    ]
    assert "secret" not in repr(reading)
    assert reading.unread == (("request.integrations[].token", 1),)


def test_fields_that_this_surface_lacks_are_counted() -> None:
    reading = read(CHAT, PATH, {**ASKED, "seed": 1, "messages": [], "input_audio": {}})

    assert reading.unread == (("request.seed", 1), ("request.messages", 1), ("request.input_audio", 1))


# --- the answer -------------------------------------------------------------------------------------------------------


def test_documented_answer_is_read() -> None:
    reading = read(CHAT, PATH, ASKED, answer=RESULT)

    assert reading.answers == (ANSWER,)
    assert reading.reported == REPORTED
    assert (reading.model_answered, reading.response_id) == ("ibm/granite-4-micro", RESPONSE_ID)
    assert (reading.stop_reason, reading.stop_reason_raw) == (None, None)
    assert reading.details == {"tool_providers": {"model_search": HUGGINGFACE}}
    assert (reading.problems, reading.unread, reading.errors) == ((INVALID_CALL,), (), ())
    assert not reading.is_streamed


def test_answer_of_one_message_tells_where_its_text_stands() -> None:
    output = [{"type": "message", "content": "Hello"}]
    whole = read(CHAT, PATH, ASKED, answer={"output": output})
    streamed = read(CHAT, PATH, ASKED, events=timed(told("chat.end", result={"output": output})))

    assert whole.answers == (Message("assistant", (Part(PartKind.TEXT, "Hello"),), path="output[0].content"),)
    assert streamed.answers == (Message("assistant", (Part(PartKind.TEXT, "Hello"),)),)


def test_invalid_arguments_are_told_with_the_call() -> None:
    metadata = {
        "type": "invalid_arguments",
        "tool_name": "add",
        "arguments": {"a": "x"},
        "provider_info": {"type": "plugin", "plugin_id": "mcp/sums"},
    }
    item = {"type": "invalid_tool_call", "reason": "Bad.", "metadata": metadata}
    reading = read(CHAT, PATH, ASKED, answer={"output": [item]})

    assert reading.answers == (
        Message("assistant", (Part(PartKind.TOOL_CALL, '{"a":"x"}', "add"), Part(PartKind.TOOL_RESULT, "Bad.", "add"))),
    )
    assert reading.details == {"tool_providers": {"add": {"type": "plugin", "plugin_id": "mcp/sums"}}}
    assert reading.unread == ()


def test_unknown_items_and_fields_are_kept_or_counted() -> None:
    answer = {"output": [{"type": "video", "x": 1}], "stats": {"input_tokens": 1, "watts": 3}, "new": 1}
    reading = read(CHAT, PATH, ASKED, answer=answer)

    assert reading.answers == (Message("assistant", (Part(PartKind.OTHER, '{"type":"video","x":1}'),)),)
    assert reading.problems == (Problem("unknown_item", "video"),)
    assert reading.unread == (("response.new", 1), ("response.stats.watts", 1))
    assert reading.reported == Reported(input_tokens=1, stats={"input_tokens": 1, "watts": 3})


# --- the stream -------------------------------------------------------------------------------------------------------


def test_documented_stream_is_read() -> None:
    *begin, last = DOCUMENTED.split(b"\n\n")[:-1]
    reading = read(CHAT, PATH, ASKED, events=timed(*(one + b"\n\n" for one in (*begin, last))))

    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, "The current ..."),)),)
    assert reading.reported == Reported(
        input_tokens=329,
        output_tokens=268,
        reasoning_tokens=5,
        tokens_per_second=43.73,
        ttft_s=0.781,
        load_time_s=12.34,
        stats={
            "input_tokens": 329,
            "total_output_tokens": 268,
            "reasoning_output_tokens": 5,
            "tokens_per_second": 43.73,
            "time_to_first_token_seconds": 0.781,
        },
    )
    assert reading.measured == Measured(
        request_complete_us=10,
        first_byte_us=1_000,
        load_us=2_000,
        prompt_us=2_000,
        first_token_us=10_000,
        first_content_us=10_000,
        last_token_us=11_000,
        token_events=2,
        longest_gap_us=1_000,
        done_us=13_000,
    )
    assert reading.response_id == "resp_02b2017dbc06c12bfc353a2ed6c2b802f8cc682884bb5716"
    assert reading.model_answered == "openai/gpt-oss-20b"
    assert (reading.problems, reading.unread, reading.errors) == ((), (), ())
    assert (reading.is_streamed, reading.is_running, reading.stop_reason) == (True, False, None)


def test_stream_with_rounds_gives_what_the_whole_answer_gives() -> None:
    reading = read(CHAT, PATH, ASKED, events=timed(*ROUNDS))

    assert reading.answers == (ANSWER,)
    assert reading.reported == REPORTED
    assert reading.problems == (INVALID_CALL,)
    assert reading.measured.prompt_us == 2_000 + 1_000  # of both rounds
    assert reading.measured.first_token_us == 7_000
    assert reading.measured.first_content_us == 10_000  # the tool's name
    assert reading.measured.token_events == 7
    assert reading.measured.load_us is None


def test_stream_that_is_cut_gives_what_came() -> None:
    reading = read(CHAT, PATH, ASKED, events=timed(*ROUNDS[:17]), end=End("upstream_gone", "reset"))

    assert reading.answers == (ANSWER,)
    assert reading.errors == (CallError("reset", "upstream_gone", where="outcome"),)
    assert reading.reported == Reported()


def test_stream_that_the_client_left_is_truncated() -> None:
    reading = read(CHAT, PATH, ASKED, events=timed(*ROUNDS[:6]), end=End("client_gone"))

    assert reading.answers == (Message("assistant", (Part(PartKind.REASONING, "Need to "),)),)
    assert reading.problems == (Problem("truncated", "the exchange ended as client_gone"),)


@pytest.mark.parametrize("outcome", ["client_gone", "proxy_stopped", "interrupted", "upstream_gone"])
def test_socket_that_stays_open_after_the_end_is_a_complete_call(outcome: str) -> None:
    reading = read(CHAT, PATH, ASKED, events=timed(*ROUNDS), end=End(outcome, done_us=99_000_000))

    assert (reading.errors, reading.problems) == ((), (INVALID_CALL,))
    assert reading.measured.done_us == 20_000


def test_failure_before_an_earlier_success_is_no_difference() -> None:
    """As the lookalike tells a round with a good call and then a wrong one."""
    call = {"tool": "add", "arguments": {"a": 1}}
    items = [{"type": "tool_call", "output": "1", **call}, {"type": "invalid_tool_call", **INVALID}]
    events = timed(
        told("tool_call.start", tool="add"),
        told("tool_call.arguments", **call),
        told("tool_call.failure", **INVALID),
        told("tool_call.success", output="1", **call),
        told("chat.end", result={"output": items}),
    )
    reading = read(CHAT, PATH, ASKED, events=events)

    assert [part.kind for part in reading.answers[0].parts] == [PartKind.TOOL_CALL, PartKind.TOOL_RESULT] * 2
    assert reading.problems == (INVALID_CALL,)


def test_running_stream_has_a_reading() -> None:
    running = read(CHAT, PATH, ASKED, events=timed(*ROUNDS[:7]), end=None)
    ended = read(CHAT, PATH, ASKED, events=timed(*ROUNDS), end=None)

    assert (running.is_running, ended.is_running) == (True, False)
    assert running.answers == (Message("assistant", (Part(PartKind.REASONING, "Need to call function."),)),)


def test_result_wins_over_pieces() -> None:
    events = timed(told("message.delta", content="Helo"), told("chat.end", result={"output": RESULT["output"]}))
    reading = read(CHAT, PATH, ASKED, events=events)

    assert reading.answers == (ANSWER,)
    assert [one.kind for one in reading.problems] == ["invalid_tool_call", "result_differs"]


@pytest.mark.parametrize("result", [{"output": []}, {}, {"output": 7}])
def test_result_without_output_leaves_the_pieces(result: Any) -> None:
    events = timed(told("message.delta", content="Hello"), told("chat.end", result=result))
    reading = read(CHAT, PATH, ASKED, events=events)

    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, "Hello"),)),)
    assert "result_differs" in [one.kind for one in reading.problems]


def test_order_of_parallel_calls_and_white_space_are_no_difference() -> None:
    both = [{"type": "tool_call", "tool": "add", "arguments": {"a": n}, "output": str(n)} for n in (1, 2)]
    events = [
        *(told("tool_call.arguments", tool="add", arguments=one["arguments"]) for one in both),
        *(told("tool_call.success", tool="add", arguments=one["arguments"], output=one["output"]) for one in both),
        told("message.delta", content="\n\nDone"),
        told("chat.end", result={"output": [*both, {"type": "message", "content": "Done"}]}),
    ]
    cut_off = read(CHAT, PATH, ASKED, events=timed(*events[:4]), end=None)
    reading = read(CHAT, PATH, ASKED, events=timed(*events))

    calls = [Part(PartKind.TOOL_CALL, f'{{"a":{n}}}', "add") for n in (1, 2)]
    results = [Part(PartKind.TOOL_RESULT, str(n), "add") for n in (1, 2)]
    assert cut_off.answers == (Message("assistant", (*calls, *results)),)
    done = Part(PartKind.TEXT, "Done")
    assert reading.answers == (Message("assistant", (calls[0], results[0], calls[1], results[1], done)),)
    assert reading.problems == ()


@pytest.mark.parametrize("first", [(), ("tool_call.start",), ("tool_call.start", "tool_call.arguments")])
@pytest.mark.parametrize("last", ["success", "failure"])
def test_call_is_told_once_whatever_events_it_has(first: tuple[str, ...], last: str) -> None:
    call = {"tool": "add", "arguments": {"a": 1}}
    metadata = {"type": "invalid_arguments", "tool_name": "add", "arguments": {"a": 1}}
    outcome = (
        told("tool_call.success", output="1", **call)
        if last == "success"
        else told("tool_call.failure", reason="1", metadata=metadata)
    )
    reading = read(CHAT, PATH, ASKED, events=timed(*(told(kind, **call) for kind in first), outcome), end=None)

    parts = (Part(PartKind.TOOL_CALL, '{"a":1}', "add"), Part(PartKind.TOOL_RESULT, "1", "add"))
    assert reading.answers == (Message("assistant", parts),)


def test_unknown_event_is_a_problem() -> None:
    events = timed(event({"type": "video.delta", "frame": 1}, "video.delta"), event({"x": 1}, "later"))
    reading = read(CHAT, PATH, ASKED, events=events, end=None)

    assert reading.problems == (Problem("unknown_event", "video.delta"), Problem("unknown_event", "later"))
    assert reading.unread == (("event.frame", 1), ("event.x", 1))


def test_words_of_stop_reasons_do_not_exist() -> None:
    reading = read(CHAT, PATH, ASKED, answer={**RESULT, "stop_reason": "stop"})

    assert reading.stop_reason is None
    assert reading.unread == (("response.stop_reason", 1),)


# --- errors -----------------------------------------------------------------------------------------------------------


def test_error_in_a_stream_is_read_and_the_end_still_counts() -> None:
    error = {
        "type": "invalid_request",
        "message": '"model" is required',
        "code": "missing_required_parameter",
        "param": "model",
    }
    result = {"model_instance_id": "m", "output": [{"type": "message", "content": "Hal"}], "stats": STATS}
    events = timed(
        told("message.delta", content="Hal"), told("error", error=error), told("chat.end", result=result), step_us=1
    )
    reading = read(CHAT, PATH, ASKED, events=events)

    expected = CallError('"model" is required', "invalid_request", "missing_required_parameter", "stream")
    assert reading.errors == (expected,)
    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, "Hal"),)),)
    assert (reading.reported, reading.problems, reading.unread) == (REPORTED, (), ())


def test_error_event_without_an_end_is_no_truncation() -> None:
    reading = read(CHAT, PATH, ASKED, events=timed(told("error", error={"message": "Model is unloaded."})))

    assert reading.errors == (CallError("Model is unloaded.", where="stream"),)
    assert reading.problems == ()


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            400,
            {"error": {"message": "Invalid", "type": "invalid_request", "code": "invalid_union", "param": "input"}},
            CallError("Invalid", "invalid_request", "invalid_union"),
        ),
        (
            403,
            {"error": {"message": "Denied", "type": "invalid_request", "param": "integrations", "code": None}},
            CallError("Denied", "invalid_request"),
        ),
        (
            200,
            {"error": "Unexpected endpoint or method. (POST /api/v1/chat)"},
            CallError("Unexpected endpoint or method. (POST /api/v1/chat)"),
        ),
        (500, b"Internal Server Error", CallError("Internal Server Error", code="500")),
        (502, b"", CallError("status 502 without a body", code="502")),
    ],
)
def test_error_in_each_form_is_read(status: int, body: Any, error: CallError) -> None:
    reading = read(CHAT, PATH, ASKED, answer=body, status=status)

    assert (reading.errors, reading.answers) == ((error,), ())


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "claim"),
    [
        ("POST", "/api/v1/chat", Claim.YES),
        ("POST", "/api/v1/chat/", Claim.YES),
        ("GET", "/api/v1/chat", Claim.NO),
        ("POST", "/api/v1/chat/completions", Claim.NO),
        ("POST", "/v1/chat", Claim.NO),
    ],
)
def test_claim_is_by_method_and_path(method: str, path: str, claim: Claim) -> None:
    assert CHAT.claims(RequestHead(method, path)) is claim


@given(CUTS, st.sampled_from([DOCUMENTED, STREAM, STREAM[:-2], STREAM[:-40], STREAM.replace(b"\n", b"\r\n")]))
def test_any_cutting_gives_the_same_reading(cuts: list[int], data: bytes) -> None:
    whole = read(CHAT, PATH, ASKED, events=cut(data, []))

    assert timeless(read(CHAT, PATH, ASKED, events=cut(data, cuts))) == timeless(whole)


NAMES = (
    *("type", "model", "input", "system_prompt", "integrations", "content", "data_url", "id", "server_url", "store"),
    *(
        "model_instance_id",
        "output",
        "stats",
        "response_id",
        "tool",
        "arguments",
        "provider_info",
        "reason",
        "metadata",
    ),
    *("tool_name", "progress", "load_time_seconds", "result", "error", "message", "input_tokens", "context_length"),
)
KINDS = (
    *("chat.start", "model_load.start", "model_load.end", "prompt_processing.start", "prompt_processing.end"),
    *("reasoning.delta", "message.delta", "tool_call.start", "tool_call.arguments", "tool_call.success"),
    *("tool_call.failure", "error", "chat.end", "message", "reasoning", "tool_call", "invalid_tool_call", "text"),
)
ODD = odd_json(NAMES, KINDS)


@given(ODD, ODD, st.integers(200, 599))
def test_no_json_makes_it_raise(body: Any, answer: Any, status: int) -> None:
    read(CHAT, PATH, body, answer=answer, status=status)


@given(ODD, st.lists(st.tuples(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), ODD)), max_size=6))
def test_no_event_makes_it_raise(body: Any, events: list[tuple[str, Any]]) -> None:
    data = [event({"type": kind} | data, kind) for kind, data in events]

    read(CHAT, PATH, body, events=timed(*data))


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_no_bytes_make_it_raise(data: list[bytes]) -> None:
    read(CHAT, PATH, b"".join(data), events=timed(*data))
    read(CHAT, PATH, b"".join(data), answer=b"".join(data))


@pytest.mark.parametrize("depth", [600, 990, 100_000])
def test_deep_nesting_is_read_or_noted(depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    item = b'{"type":"tool_call","tool":"t","arguments":' + deep + b"}"
    request = b'{"input":[{"type":"x","y":' + deep + b"}]}"
    reading = read(CHAT, PATH, request, answer=b'{"output":[' + item + b"]}")

    assert reading.answers or [one.kind for one in reading.problems] == ["not_json", "not_json"]
