"""LM Studio's log over /diagnostics, by the samples of the digest's section 5.10."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Side
from proxy.meaning import (
    CallError,
    Measured,
    Message,
    Operation,
    Part,
    PartKind,
    Problem,
    Reading,
    Reported,
    StopReason,
)
from proxy.read.lmstudio_log import LMStudioLog
from proxy.read.reader import Claim, End, RequestHead
from tests.read.mutated_json import mutated
from tests.read.sdk_socket import AUTH, COMPLETED, JSON, Frame, client, opened, read, read_cut, say, server

LOG = LMStudioLog()
CREATE = client(type="channelCreate", endpoint="streamLogs", channelId=0)
PROMPT = "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n"
PATH = "lmstudio-community/gemma-2-2b-it-GGUF/gemma-2-2b-it-Q4_K_M.gguf"
STATS = {
    "stopReason": "eosFound",
    "tokensPerSecond": 61.2,
    "numGpuLayers": -1,
    "timeToFirstTokenSec": 0.12,
    "promptTokensCount": 11,
    "predictedTokensCount": 4,
    "totalTokensCount": 15,
}


def logged(timestamp: Any, **data: Any) -> Frame:
    message = {"type": "log", "log": {"timestamp": timestamp, "data": data}}
    return server(type="channelSend", channelId=0, message=message)


INPUT = logged(
    1750000000123, type="llm.prediction.input", modelIdentifier="gemma-2-2b-it", modelPath=PATH, input=PROMPT
)
OUTPUT = logged(
    1750000001456, type="llm.prediction.output", modelIdentifier="gemma-2-2b-it", output="Hello!", stats=STATS
)
SERVER = logged(
    1750000001460, type="server.log", level="info", content="[LM STUDIO SERVER] Finished streaming response"
)
RUNTIME = logged(
    1750000001470,
    type="runtime.log",
    level="info",
    message="...",
    engineName="llama.cpp-...",
    engineVersion="2.1.0",
    engineType="llama.cpp",
    modelIdentifier="gemma-2-2b-it",
    instanceReference="...",
    pid=4321,
)
STREAM = [
    (Side.CLIENT, AUTH),
    server(success=True),
    CREATE,
    INPUT,
    OUTPUT,
    SERVER,
    RUNTIME,
    client(type="channelSend", channelId=0, message={"type": "stop"}),
    server(type="channelClose", channelId=0),
]


def lines(*frames: Frame, end: End) -> Reading:
    """The channel's own reading."""
    return read(LOG, "/diagnostics", CREATE, *frames, end=end)[0]


@pytest.mark.parametrize(
    ("path", "is_websocket", "claim"),
    [
        ("/diagnostics", True, Claim.YES),
        ("/prefix/diagnostics", True, Claim.YES),
        ("/diagnostics", False, Claim.NO),
        ("/llm", True, Claim.NO),
    ],
)
def test_diagnostics_is_claimed_under_any_prefix(path: str, is_websocket: bool, claim: Claim) -> None:
    assert LOG.claims(RequestHead("GET", path, is_websocket=is_websocket)) is claim


def test_predictions_are_readings_and_lines_are_counted() -> None:
    assert read(LOG, "/diagnostics", *STREAM) == [
        Reading(
            reader="lmstudio_log",
            version=2,
            operation=Operation.LOG,
            is_streamed=True,
            measured=Measured(started_us=30, request_complete_us=30, first_byte_us=40, done_us=90),
            details={"event": "lines", "server": 1, "runtime": 1},
        ),
        Reading(
            reader="lmstudio_log",
            version=2,
            operation=Operation.LOG,
            model_answered="gemma-2-2b-it",
            messages=(Message("prompt", (Part(PartKind.TEXT, PROMPT),)),),
            measured=Measured(started_us=40, first_byte_us=40, done_us=40),
            details={"event": "input", "timestamp_ms": 1750000000123, "model_path": PATH},
        ),
        Reading(
            reader="lmstudio_log",
            version=2,
            operation=Operation.LOG,
            model_answered="gemma-2-2b-it",
            answers=(Message("assistant", (Part(PartKind.TEXT, "Hello!"),)),),
            stop_reason=StopReason.STOP,
            stop_reason_raw="eosFound",
            reported=Reported(
                input_tokens=11,
                output_tokens=4,
                total_tokens=15,
                tokens_per_second=61.2,
                ttft_s=0.12,
                gpu_layers=-1,
                stats=STATS,
            ),
            measured=Measured(started_us=50, first_byte_us=50, done_us=50),
            details={"event": "output", "timestamp_ms": 1750000001456},
        ),
    ]


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cutting_of_the_bytes_gives_the_same_reading(cuts: list[int]) -> None:
    assert read_cut(LOG, "/diagnostics", STREAM, cuts) == read_cut(LOG, "/diagnostics", STREAM, [])


@given(mutated([frame for _, frame in STREAM[2:7]], JSON))
def test_a_stream_with_something_odd_in_it_is_taken(frames: list[Any]) -> None:
    read(LOG, "/diagnostics", (Side.CLIENT, frames[0]), *((Side.UPSTREAM, frame) for frame in frames[1:]))


@given(st.lists(JSON, max_size=5))
def test_any_json_is_taken_as_data(values: list[Any]) -> None:
    sent = [server(type="channelSend", channelId=0, message={"type": "log", "log": {"data": one}}) for one in values]
    read(LOG, "/diagnostics", CREATE, *sent)


def test_socket_that_ends_is_the_streams_natural_end_unless_it_broke() -> None:
    assert lines(SERVER, end=End("client_gone", "", 700)).problems == ()
    broken = lines(SERVER, end=End("upstream_gone", "reset", 700))
    assert broken.problems == (Problem("truncated", "reset"),)
    assert broken.errors == (CallError("reset", kind="upstream_gone", where="outcome"),)
    assert broken.details["server"] == 1


def test_what_is_not_known_is_a_problem_or_counted() -> None:
    channel, prompt = read(
        LOG,
        "/diagnostics",
        CREATE,
        logged(1, type="llm.prediction.thought", text="..."),
        logged(1, type="server.log", level="info", content="x", color="red"),
        logged(None, type="llm.prediction.input", input="x", mood="good"),
        server(type="channelSend", channelId=0, message={"type": "pause"}),
        server(type="channelSend", channelId=0, message={"type": "log", "log": 5}),
    )
    assert channel.details == {"event": "lines", "server": 1, "runtime": 0}
    assert channel.problems == (
        Problem("unknown_event", "llm.prediction.thought"),
        Problem("unknown_event", "pause"),
        Problem("unexpected", "message.log: an object expected, a number found"),
    )
    assert channel.unread == (("message.log.data.color", 1),)
    assert (prompt.details, prompt.unread) == ({"event": "input"}, (("input.mood", 1),))


def test_live_readings_grow_at_their_end_and_older_ones_stay() -> None:
    session = opened(LOG, "/diagnostics")
    say(session, CREATE, INPUT, SERVER)
    first = session.readings(None)
    say(session, OUTPUT, SERVER, start_us=100)
    second = session.readings(None)
    assert [one.details["event"] for one in first] == ["lines", "input"]
    assert [one.details["event"] for one in second] == ["lines", "input", "output"]
    assert [one.details.get("server") for one in (first[0], second[0])] == [1, 2]
    assert first[0].is_running
    assert second[1] is first[1]


def generated(content: str) -> list[Reading]:
    """What a line of the server says beside being counted."""
    return read(LOG, "/diagnostics", CREATE, logged(5, type="server.log", level="info", content=content))[1:]


LINE = "[2026-08-01 10:00:00][INFO][m] Generated prediction: "
COMPLETION = {"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"message": {"content": 'say "hi"\n\\ ü'}}]}


@pytest.mark.parametrize("indent", [None, 2])
def test_line_with_a_prediction_is_a_reading_with_the_answers_id(indent: int | None) -> None:
    (reading,) = generated(LINE + json.dumps(COMPLETION, indent=indent))
    assert reading.details == {"event": "generated", "timestamp_ms": 5}
    assert reading.response_id == "chatcmpl-1"
    assert reading.answers == (Message("assistant", (Part(PartKind.TEXT, 'say "hi"\n\\ ü'),)),)
    assert reading.operation is Operation.LOG
    assert not reading.is_running


def test_completions_of_raw_prompts_have_their_text_elsewhere() -> None:
    (reading,) = generated(LINE + json.dumps({"id": "cmpl-1", "choices": [{"text": "said"}]}))
    assert reading.answers[0].parts[0].text == "said"


@given(st.text(max_size=30), st.integers(0, 200), st.booleans())
def test_of_a_line_that_was_cut_stays_what_is_there(text: str, end: int, is_marked: bool) -> None:
    whole = json.dumps({"id": "chatcmpl-1", "choices": [{"message": {"content": text}}]})
    cut = whole[: min(end, len(whole) - 3)] + ("... <Truncated in logs> ...}]}" if is_marked else "")
    found = generated(LINE + cut)
    if len(found) == 1:
        assert found[0].response_id == "chatcmpl-1"
        said = "".join(part.text for answer in found[0].answers for part in answer.parts)
        clean = text.encode("utf-8", "replace").decode()
        assert clean.startswith(said.rstrip("\ufffd.? ")) or "... <Truncated" in said
    else:
        assert not found
        assert end < whole.index("chatcmpl-1") + len("chatcmpl-1") + 1


@pytest.mark.parametrize(
    "content", ["Generated prediction:", LINE, LINE + "[1]", LINE + '{"choices":[]}', LINE + "msg_1"]
)
def test_line_without_an_id_is_only_counted(content: str) -> None:
    assert generated(content) == []


@given(st.lists(st.sampled_from([INPUT, OUTPUT, SERVER, RUNTIME]), max_size=12), st.sets(st.integers(0, 12)))
def test_readings_that_are_taken_as_they_come_are_those_of_the_whole(frames: list[Frame], pauses: set[int]) -> None:
    line = logged(7, type="server.log", level="info", content=LINE + json.dumps(COMPLETION))
    odd = server(type="strange")
    sent = [CREATE, *frames, line, odd, *frames]
    session = opened(LOG, "/diagnostics")
    taken: dict[int, Reading] = {}
    finished: list[int] = []
    for at, frame in enumerate(sent):
        say(session, frame, start_us=10 + 10 * at)
        if at in pauses:
            for number, reading in session.take(None):  # type: ignore[attr-defined]
                assert number not in finished, "a finished one comes once"
                taken[number] = reading
                finished += [] if reading.is_running else [number]
    taken |= dict(session.take(COMPLETED))  # type: ignore[attr-defined]
    assert [taken[number] for number in sorted(taken)] == read(LOG, "/diagnostics", *sent)
