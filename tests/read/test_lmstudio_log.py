"""LM Studio's log over /diagnostics, by the samples of the digest's section 5.10."""

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
from tests.read.sdk_socket import AUTH, JSON, Frame, client, opened, read, read_cut, say, server

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
            version=1,
            operation=Operation.LOG,
            is_streamed=True,
            measured=Measured(started_us=30, request_complete_us=30, first_byte_us=40, done_us=90),
            details={"event": "lines", "server": 1, "runtime": 1},
        ),
        Reading(
            reader="lmstudio_log",
            version=1,
            operation=Operation.LOG,
            model_answered="gemma-2-2b-it",
            messages=(Message("prompt", (Part(PartKind.TEXT, PROMPT),)),),
            measured=Measured(started_us=40, first_byte_us=40, done_us=40),
            details={"event": "input", "timestamp_ms": 1750000000123, "model_path": PATH},
        ),
        Reading(
            reader="lmstudio_log",
            version=1,
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
