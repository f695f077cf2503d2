"""The SDK's WebSockets: every call its own reading, by the samples of the digest's sections 5.3 to 5.9."""

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
from proxy.read.lmstudio_sdk import LMStudioSdk
from proxy.read.reader import Claim, End, RequestHead, ResponseHead
from tests.read.mutated_json import mutated
from tests.read.sdk_socket import AUTH, COMPLETED, JSON, Frame, client, opened, read, read_cut, say, server, told

SDK = LMStudioSdk()
TEMPLATE = {"type": "jinja", "jinjaPromptTemplate": {"template": "..."}, "stopStrings": []}
STATS = {
    "stopReason": "eosFound",
    "tokensPerSecond": 92.4,
    "numGpuLayers": -1,
    "timeToFirstTokenSec": 0.031,
    "totalTimeSec": 0.085,
    "promptTokensCount": 41,
    "predictedTokensCount": 5,
    "totalTokensCount": 46,
}
INFO = {
    "type": "llm",
    "modelKey": "qwen2.5-0.5b-instruct",
    "format": "gguf",
    "displayName": "Qwen2.5 0.5B Instruct",
    "publisher": "lmstudio-community",
    "path": "lmstudio-community/Qwen2.5-0.5B-Instruct-GGUF/Qwen2.5-0.5B-Instruct-Q4_K_M.gguf",
    "sizeBytes": 397807936,
    "indexedModelIdentifier": "lmstudio-community/Qwen2.5-0.5B-Instruct-GGUF/Qwen2.5-0.5B-Instruct-Q4_K_M.gguf",
    "deviceIdentifier": None,
    "paramsString": "0.5B",
    "architecture": "qwen2",
    "quantization": {"name": "Q4_K_M", "bits": 4},
    "identifier": "qwen2.5-0.5b-instruct",
    "instanceReference": "CYvBNf0eY3yUqYf3QZ5pXk2m",
    "ttlMs": 3600000,
    "lastUsedTime": 1750000000000,
    "vision": False,
    "trainedForToolUse": True,
    "maxContextLength": 32768,
    "contextLength": 4096,
}
ROW = {
    "identifier": "qwen2.5-0.5b-instruct",
    "modelKey": "qwen2.5-0.5b-instruct",
    "type": "llm",
    "format": "gguf",
    "path": "lmstudio-community/Qwen2.5-0.5B-Instruct-GGUF/Qwen2.5-0.5B-Instruct-Q4_K_M.gguf",
    "paramsString": "0.5B",
    "architecture": "qwen2",
    "quantization": {"name": "Q4_K_M", "bits": 4},
    "sizeBytes": 397807936,
    "maxContextLength": 32768,
    "contextLength": 4096,
    "vision": False,
    "trainedForToolUse": True,
}
SUCCESS = {
    "type": "success",
    "stats": STATS,
    "modelInfo": INFO,
    "loadModelConfig": {
        "fields": [
            {"key": "llm.load.contextLength", "value": 4096},
            {"key": "llm.load.llama.acceleration.offloadRatio", "value": "max"},
        ]
    },
    "predictionConfig": {
        "fields": [
            {"key": "llm.prediction.temperature", "value": 0},
            {"key": "llm.prediction.promptTemplate", "value": TEMPLATE},
        ]
    },
}
ERROR = {
    "title": "No model found that fits the query",
    "cause": "...",
    "suggestion": "...",
    "displayData": {
        "code": "generic.noModelMatchingQuery",
        "query": {"identifier": "foo"},
        "loadedModelsSample": ["qwen2.5-7b"],
        "totalLoadedModels": 1,
    },
    "stack": "...",
}
CALL_ERROR = CallError("No model found that fits the query\n...", code="generic.noModelMatchingQuery", where="channel")
QUERY = {"type": "query", "query": {"identifier": "q05"}}
CLOSE = server(type="channelClose", channelId=2)
EMPTY_STACK: dict[str, Any] = {"layers": []}


def text(value: str) -> Part:
    return Part(PartKind.TEXT, value)


def layers(**named: dict[str, Any]) -> dict[str, Any]:
    return {
        "layers": [
            {"layerName": name, "config": {"fields": [{"key": key, "value": value} for key, value in fields.items()]}}
            for name, fields in named.items()
        ]
    }


def created(parameter: Any, endpoint: str = "predict") -> Frame:
    return client(type="channelCreate", endpoint=endpoint, channelId=2, creationParameter=parameter)


def fragment(content: str, kind: str = "none", *, is_structural: bool = False, tokens: int = 1) -> Frame:
    said = {
        "content": content,
        "tokensCount": tokens,
        "containsDrafted": False,
        "reasoningType": kind,
        "isStructural": is_structural,
    }
    return told(2, type="fragment", fragment=said)


def progress(share: float, processed: int = 0) -> Frame:
    details = {
        "cachedTokenCount": 3,
        "totalPromptTokenCount": 41,
        "processedPromptTokenCount": processed,
        "unprocessedPromptTokenCount": 41 - processed,
    }
    return told(2, type="promptProcessingProgress", progress=share, details=details)


def asked(*content: dict[str, Any], role: str = "user", config: Any = EMPTY_STACK, **more: Any) -> dict[str, Any]:
    history = {"messages": [{"role": role, "content": list(content)}]}
    return {"modelSpecifier": QUERY, "history": history, "predictionConfigStack": config, **more}


def rpc(endpoint: str, parameter: Any = None, result: Any = None, number: int = 1) -> list[Frame]:
    call = {"type": "rpcCall", "endpoint": endpoint, "callId": number}
    answer = {"type": "rpcResult", "callId": number}
    return [
        (Side.CLIENT, call if parameter is None else {**call, "parameter": parameter}),
        (Side.UPSTREAM, answer if result is None else {**answer, "result": result}),
    ]


def one(*frames: Frame, path: str = "/llm", end: End = COMPLETED) -> Reading:
    (reading,) = read(SDK, path, *frames, end=end)
    return reading


PARAMETER = {
    "modelSpecifier": {"type": "instanceReference", "instanceReference": "CYvBNf0eY3yUqYf3QZ5pXk2m"},
    "history": {
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "Answer briefly."}]},
            {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
        ]
    },
    "predictionConfigStack": layers(
        apiOverride={
            "llm.prediction.temperature": 0,
            "llm.prediction.maxPredictedTokens": {"checked": True, "value": 200},
            "llm.prediction.topPSampling": {"checked": False, "value": 0.9},
            "llm.prediction.tools": {"type": "none"},
        }
    ),
    "fuzzyPresetIdentifier": "my-preset",
    "ignoreServerSessionConfig": True,
}
PREDICTION = [
    (Side.CLIENT, AUTH),
    server(success=True),
    created(PARAMETER),
    progress(0),
    progress(1, 41),
    fragment("Assistant"),
    fragment(" message"),
    told(2, **SUCCESS),
    CLOSE,
]

TOOL = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}
REQUEST = {"id": "7", "type": "function", "name": "add", "arguments": {"a": 1, "b": 2}}
HISTORY = {
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "file", "name": "a.png", "identifier": "f1", "sizeBytes": 9, "fileType": "image"},
            ],
        },
        {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": REQUEST}]},
        {"role": "tool", "content": [{"type": "toolCallResult", "content": "3", "toolCallId": "7", "name": "add"}]},
    ]
}
STACK = layers(
    apiOverride={
        "llm.prediction.topPSampling": {"checked": True, "value": 0.9},
        "llm.prediction.tools": {"type": "toolArray", "tools": [TOOL]},
        "llm.prediction.structured": {"type": "json", "jsonSchema": {"type": "string"}},
    }
)
EVERYTHING = [
    (Side.CLIENT, AUTH),
    server(success=True),
    created({"modelKey": "q05", "identifier": "q", "ttlMs": 60000, "loadConfigStack": STACK}, "loadModel"),
    told(2, type="resolved", info=ROW, ambiguous=["a", "b"]),
    told(2, type="progress", progress=0.42),
    told(2, type="success", info=INFO),
    CLOSE,
    created({"identifier": "q05", "deviceIdentifier": None, "loadTtlMs": 1, "loadConfigStack": STACK}, "getOrLoad"),
    told(2, type="unloadingOtherJITModel", info=INFO),
    told(2, type="startLoading", identifier="q05", info=ROW),
    told(2, type="loadProgress", progress=0.5),
    told(2, type="loadSuccess", info=INFO),
    CLOSE,
    created({**PARAMETER, "history": HISTORY, "predictionConfigStack": STACK}),
    progress(0),
    progress(1),
    fragment("Hm.", "reasoning"),
    fragment("a"),
    told(2, type="toolCallGenerationStart", toolCallId="7"),
    told(2, type="toolCallGenerationNameReceived", name="add"),
    told(2, type="toolCallGenerationArgumentFragmentGenerated", content="{}"),
    told(2, type="toolCallGenerationEnd", toolCallRequest=REQUEST, rawContent="..."),
    client(type="channelSend", channelId=2, message={"type": "cancel"}),
    told(2, **SUCCESS),
    CLOSE,
    created({"modelSpecifier": QUERY, "rawPrompt": "One,", "predictionConfigStack": STACK}, "completeRawText"),
    told(2, type="fragment", fragment="two"),
    told(2, **SUCCESS),
    CLOSE,
    *rpc("listLoaded", None, [INFO]),
    *rpc("getBasePredictionConfig", {"specifier": QUERY}, SUCCESS["predictionConfig"]),
    *rpc(
        "applyPromptTemplate",
        {"specifier": QUERY, "history": HISTORY, "predictionConfigStack": STACK, "opts": {"toolDefinitions": [TOOL]}},
        {"formatted": "x"},
    ),
    *rpc("tokenize", {"specifier": QUERY, "inputString": "x"}, {"tokens": [1]}),
]


@pytest.mark.parametrize(
    ("path", "is_websocket", "claim"),
    [
        *((f"/{name}", True, Claim.YES) for name in ("llm", "embedding", "system", "files", "repository", "plugins")),
        ("/runtime", True, Claim.YES),
        ("/a/prefix/llm", True, Claim.YES),
        ("/llm", False, Claim.NO),
        ("/llm/more", True, Claim.NO),
        ("/diagnostics", True, Claim.NO),
        ("/", True, Claim.NO),
    ],
)
def test_namespaces_are_claimed_under_any_prefix(path: str, is_websocket: bool, claim: Claim) -> None:
    assert SDK.claims(RequestHead("GET", path, is_websocket=is_websocket)) is claim


def test_prediction_is_read_whole() -> None:
    expected = Reading(
        reader="lmstudio_sdk",
        version=1,
        operation=Operation.CHAT,
        is_streamed=True,
        model_asked="CYvBNf0eY3yUqYf3QZ5pXk2m",
        model_answered="qwen2.5-0.5b-instruct",
        messages=(Message("system", (text("Answer briefly."),)), Message("user", (text("1+1?"),))),
        parameters=(
            Parameter("temperature", 0, sent_as="llm.prediction.temperature"),
            Parameter("max_tokens", 200, sent_as="llm.prediction.maxPredictedTokens"),
            Parameter("top_p", None, sent_as="llm.prediction.topPSampling"),
            Parameter("preset", "my-preset", sent_as="fuzzyPresetIdentifier"),
            Parameter("ignore_server_session_config", True, sent_as="ignoreServerSessionConfig"),
            Parameter("context_length", 4096, Origin.EFFECTIVE, "llm.load.contextLength"),
            Parameter("gpu_offload", "max", Origin.EFFECTIVE, "llm.load.llama.acceleration.offloadRatio"),
            Parameter("temperature", 0, Origin.EFFECTIVE, "llm.prediction.temperature"),
            Parameter("prompt_template", TEMPLATE, Origin.EFFECTIVE, "llm.prediction.promptTemplate"),
        ),
        answers=(Message("assistant", (text("Assistant message"),)),),
        stop_reason=StopReason.STOP,
        stop_reason_raw="eosFound",
        reported=Reported(
            input_tokens=41,
            output_tokens=5,
            total_tokens=46,
            cached_tokens=3,
            tokens_per_second=92.4,
            ttft_s=0.031,
            total_time_s=0.085,
            gpu_layers=-1,
            stats=STATS,
            model_info=INFO,
        ),
        measured=Measured(
            started_us=30,
            request_complete_us=30,
            first_byte_us=40,
            first_token_us=60,
            first_content_us=60,
            last_token_us=70,
            token_events=2,
            longest_gap_us=10,
            prompt_us=10,
            done_us=90,
        ),
        details={"instance_reference": "CYvBNf0eY3yUqYf3QZ5pXk2m"},
    )
    assert read(SDK, "/llm", *PREDICTION) == [expected]


@given(st.lists(st.integers(0, 10_000), max_size=12))
def test_any_cutting_of_the_bytes_gives_the_same_reading(cuts: list[int]) -> None:
    assert read_cut(SDK, "/llm", PREDICTION, cuts) == read_cut(SDK, "/llm", PREDICTION, [])


@pytest.mark.parametrize("path", ["/llm", "/system", "/plugins"])
@given(frames=st.lists(st.tuples(st.sampled_from(Side), JSON), max_size=8))
def test_any_json_is_taken(path: str, frames: list[Frame]) -> None:
    read(SDK, path, *frames)


@given(
    endpoint=st.sampled_from([("llm", name) for name in ("predict", "completeRawText", "loadModel", "getOrLoad")]),
    parameter=JSON,
    messages=st.lists(JSON, max_size=4),
)
def test_any_json_is_taken_on_a_channel(endpoint: tuple[str, str], parameter: Any, messages: list[Any]) -> None:
    sent = [server(type="channelSend", channelId=2, message=message) for message in messages]
    assert len(read(SDK, f"/{endpoint[0]}", created(parameter, endpoint[1]), *sent, CLOSE)) == 1


@given(mutated([frame for _, frame in EVERYTHING], JSON))
def test_a_socket_with_something_odd_in_it_is_taken(frames: list[Any]) -> None:
    sides = [side for side, _ in EVERYTHING]
    read(SDK, "/llm", *zip(sides, frames, strict=True))


def test_a_socket_with_everything_has_no_problems() -> None:
    readings = read(SDK, "/llm", *EVERYTHING)
    assert [(one.operation, one.problems, one.unread) for one in readings] == [
        (operation, (), ())
        for operation in (
            *(Operation.LOAD, Operation.LOAD, Operation.CHAT, Operation.COMPLETION, Operation.MODELS, Operation.CONFIG),
            *(Operation.TEMPLATE, Operation.TOKENIZE),
        )
    ]


class TestPredict:
    def test_reasoning_and_structure_are_told_apart(self) -> None:
        reading = one(
            created(asked({"type": "text", "text": "hi"})),
            fragment("<think>", "reasoningStartTag"),
            fragment("Hm.", "reasoning"),
            fragment("</think>", "reasoningEndTag"),
            fragment("<|channel|>", is_structural=True),
            fragment("Yes"),
            told(2, type="fragment", fragment="."),
            told(2, **SUCCESS),
            CLOSE,
        )
        assert reading.answers == (Message("assistant", (Part(PartKind.REASONING, "Hm."), text("Yes."))),)
        measured = reading.measured
        assert (measured.first_token_us, measured.first_content_us, measured.token_events) == (20, 60, 6)
        assert reading.problems == ()

    def test_tool_calls_are_put_together_one_after_the_other(self) -> None:
        add, sub = {"a": 1, "b": 2}, {"a": 3}
        reading = one(
            created(asked({"type": "text", "text": "1+2"})),
            told(2, type="toolCallGenerationStart", toolCallId="7"),
            told(2, type="toolCallGenerationNameReceived", name="add"),
            told(2, type="toolCallGenerationArgumentFragmentGenerated", content='{"a": 1, '),
            told(2, type="toolCallGenerationArgumentFragmentGenerated", content='"b": 2}'),
            told(
                2,
                type="toolCallGenerationEnd",
                toolCallRequest={"id": "7", "type": "function", "name": "add", "arguments": add},
                rawContent="...",
            ),
            told(2, type="toolCallGenerationStart"),
            told(
                2, type="toolCallGenerationEnd", toolCallRequest={"type": "function", "name": "sub", "arguments": sub}
            ),
            told(2, type="toolCallGenerationStart"),
            told(2, type="toolCallGenerationFailed", error={"title": "Failed to parse"}, rawContent="oops"),
            told(2, **{**SUCCESS, "stats": {"stopReason": "toolCalls"}}),
            CLOSE,
        )
        assert reading.answers == (
            Message(
                "assistant",
                (
                    Part(PartKind.TOOL_CALL, '{"a":1,"b":2}', "add", "7"),
                    Part(PartKind.TOOL_CALL, '{"a":3}', "sub"),
                    Part(PartKind.OTHER, "oops"),
                ),
            ),
        )
        assert reading.stop_reason is StopReason.TOOL_CALLS
        assert reading.problems == (Problem("tool_call_failed", "Failed to parse"),)

    def test_every_part_of_a_history_is_a_part_of_a_message(self) -> None:
        call = {"id": "1", "type": "function", "name": "add", "arguments": {"a": 1}}
        file = {"type": "file", "name": "a.png", "identifier": "f1", "sizeBytes": 9, "fileType": "image"}
        notes = {"type": "file", "name": "a.txt", "identifier": "f2", "sizeBytes": 3, "fileType": "text/plain"}
        history = {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Look"}, file, notes]},
                {"role": "assistant", "content": [{"type": "toolCallRequest", "toolCallRequest": call}]},
                {"role": "tool", "content": [{"type": "toolCallResult", "content": "3", "toolCallId": "1"}]},
                {"role": "user", "content": [{"type": "hologram", "x": 1}]},
            ]
        }
        reading = one(created({"history": history}), told(2, **SUCCESS), CLOSE)
        assert reading.messages == (
            Message(
                "user",
                (
                    text("Look"),
                    Part(PartKind.IMAGE, "f1", "a.png", bytes=9),
                    Part(PartKind.FILE, "f2", "a.txt", media_type="text/plain", bytes=3),
                ),
            ),
            Message("assistant", (Part(PartKind.TOOL_CALL, '{"a":1}', "add", "1"),)),
            Message("tool", (Part(PartKind.TOOL_RESULT, "3", None, "1"),)),
            Message("user", (Part(PartKind.OTHER, '{"type":"hologram","x":1}'),)),
        )
        assert (reading.unread, reading.problems) == ((("parameter.history.messages[].content[].x", 1),), ())

    def test_layers_say_where_a_value_came_from(self) -> None:
        config = layers(
            preset={"llm.prediction.topKSampling": 20},
            completeModeFormatting={"llm.prediction.promptTemplate": TEMPLATE},
            conversationSpecific={"llm.prediction.seed": {"checked": False, "value": -1}},
            apiOverride={"llm.prediction.new.thing": [1], "llm.prediction.llama.presencePenalty": {"checked": True}},
        )
        reading = one(created(asked({"type": "text", "text": "1,"}, config=config)), told(2, type="success"), CLOSE)
        assert reading.operation is Operation.COMPLETION
        assert reading.parameters == (
            Parameter("top_k", 20, Origin.PRESET, "llm.prediction.topKSampling", "preset"),
            Parameter(
                "prompt_template", TEMPLATE, sent_as="llm.prediction.promptTemplate", note="completeModeFormatting"
            ),
            Parameter("seed", None, sent_as="llm.prediction.seed", note="conversationSpecific"),
            Parameter("llm.prediction.new.thing", [1]),
        )

    def test_tools_and_schema_are_the_last_layers(self) -> None:
        tool = {
            "type": "function",
            "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}},
        }
        config = layers(
            conversationGlobal={
                "llm.prediction.tools": {"type": "toolArray", "tools": [{"function": {"name": "old"}}]}
            },
            apiOverride={
                "llm.prediction.tools": {"type": "toolArray", "tools": [tool]},
                "llm.prediction.structured": {"type": "json", "jsonSchema": {"type": "string"}},
            },
        )
        reading = one(created(asked(config=config)), told(2, **SUCCESS), CLOSE)
        assert reading.tools == (Tool("add", "Add.", '{"type":"object"}'),)
        assert reading.output_schema == '{"type":"string"}'
        assert reading.parameters[0] == Parameter("response_format", "json", sent_as="llm.prediction.structured")

    def test_raw_text_is_a_completion(self) -> None:
        parameter = {"modelSpecifier": QUERY, "rawPrompt": "One, two,", "predictionConfigStack": EMPTY_STACK}
        reading = one(created(parameter, "completeRawText"), fragment(" three"), told(2, **SUCCESS), CLOSE)
        assert reading.operation is Operation.COMPLETION
        assert reading.model_asked == "q05"
        assert reading.messages == (Message("prompt", (text("One, two,"),)),)
        assert reading.unread == ()

    def test_cancelled_prediction_is_complete(self) -> None:
        reading = one(
            created(asked()),
            fragment("on"),
            client(type="channelSend", channelId=2, message={"type": "cancel"}),
            told(2, type="success", stats={"stopReason": "userStopped"}),
            CLOSE,
            fragment("late"),
        )
        assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.CANCELLED, "userStopped")
        assert reading.details == {"cancelled": True}
        assert reading.problems == ()

    @pytest.mark.parametrize(
        "frames",
        [
            [server(type="channelError", channelId=2, error=ERROR)],
            [told(2, type="error", error=ERROR), CLOSE],
        ],
    )
    def test_error_of_a_channel_is_told(self, frames: list[Frame]) -> None:
        reading = one(created(asked()), fragment("ha"), *frames)
        assert reading.errors == (CALL_ERROR,)
        assert reading.answers == (Message("assistant", (text("ha"),)),)
        assert (reading.problems, reading.unread) == ((), ())

    def test_unknown_stop_reason_keeps_its_word_and_the_prompts_count_stands_in(self) -> None:
        reading = one(created(asked()), progress(0), told(2, type="success", stats={"stopReason": "bored"}), CLOSE)
        assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.OTHER, "bored")
        assert reading.reported == Reported(input_tokens=41, cached_tokens=3, stats={"stopReason": "bored"})

    def test_what_is_not_known_is_counted(self) -> None:
        strange = {"type": "fragment", "fragment": {"content": "a", "reasoningType": "daydream", "mood": 1}}
        reading = one(
            created(asked(surprise=1)),
            told(2, **strange),
            told(2, **strange),
            told(2, type="toolCallGenerationPaused"),
            server(type="channelClose", channelId=2, why="x"),
        )
        assert reading.unread == (("parameter.surprise", 1), ("message.fragment.mood", 2), ("frame.why", 1))
        assert reading.problems == (
            Problem("unknown_event", "a fragment of the type daydream"),
            Problem("unknown_event", "toolCallGenerationPaused"),
            Problem("unexpected", "the channel was closed without `success`"),
        )

    def test_socket_that_ends_within_a_channel_is_truncated(self) -> None:
        frames = (created(asked()), fragment("half"))
        left = one(*frames, end=End("client_gone", "", 700))
        assert (left.errors, left.measured.done_us) == ((), 700)
        assert left.problems == (Problem("truncated", "the exchange ended as client_gone"),)
        broken = one(*frames, end=End("upstream_gone", "reset", 700))
        assert broken.errors == (CallError("reset", kind="upstream_gone", where="outcome"),)
        assert broken.problems == (Problem("truncated", "reset"),)
        told_all = one(*frames, told(2, **SUCCESS), end=End("upstream_gone", "reset", 700))
        assert (told_all.errors, told_all.problems) == ((), ())


class TestModels:
    def test_load_is_measured_and_names_the_model_for_later_calls(self) -> None:
        parameter = {
            "modelKey": "qwen2.5-0.5b-instruct",
            "identifier": "q05",
            "ttlMs": 3600000,
            "loadConfigStack": layers(
                apiOverride={
                    "llm.load.contextLength": 8192,
                    "llm.load.llama.acceleration.offloadRatio": "max",
                    "llm.load.seed": {"checked": True, "value": 42},
                }
            ),
        }
        info = {**INFO, "identifier": "q05"}
        load, chat = read(
            SDK,
            "/llm",
            created(parameter, "loadModel"),
            told(2, type="resolved", info={"type": "llm", "modelKey": "qwen2.5-0.5b-instruct"}, ambiguous=["a", "b"]),
            told(2, type="progress", progress=0.42),
            told(2, type="success", info=info),
            CLOSE,
            *PREDICTION[2:],
        )
        assert load == Reading(
            reader="lmstudio_sdk",
            version=1,
            operation=Operation.LOAD,
            is_streamed=True,
            model_asked="qwen2.5-0.5b-instruct",
            model_answered="q05",
            parameters=(
                Parameter("identifier", "q05"),
                Parameter("ttl", 3600, sent_as="ttlMs", note="sent in milliseconds"),
                Parameter("context_length", 8192, sent_as="llm.load.contextLength"),
                Parameter("gpu_offload", "max", sent_as="llm.load.llama.acceleration.offloadRatio"),
                Parameter("load_seed", 42, sent_as="llm.load.seed"),
            ),
            reported=Reported(model_info=info),
            measured=Measured(started_us=10, request_complete_us=10, first_byte_us=20, load_us=20, done_us=50),
            details={"ambiguous": ["a", "b"], "status": "loaded"},
        )
        assert chat.model_asked == "q05"

    def test_get_or_load_tells_what_had_to_go_or_that_it_was_there(self) -> None:
        parameter = {"identifier": "q05", "loadTtlMs": 1500, "loadConfigStack": EMPTY_STACK}
        loaded, there = read(
            SDK,
            "/llm",
            created(parameter, "getOrLoad"),
            told(2, type="unloadingOtherJITModel", info={"identifier": "other"}),
            told(2, type="startLoading", identifier="q05", info=INFO),
            told(2, type="loadProgress", progress=0.5),
            told(2, type="loadSuccess", info=INFO),
            CLOSE,
            created(parameter, "getOrLoad"),
            told(2, type="alreadyLoaded", info=INFO),
            CLOSE,
        )
        assert loaded.details == {"unloaded": ["other"], "status": "loaded"}
        assert loaded.measured.load_us == 20
        assert there.details == {"status": "already_loaded"}
        assert there.measured.load_us is None
        assert loaded.parameters[0].value == 1.5

    def test_lists_are_counted_and_configurations_are_parameters(self) -> None:
        fields = [{"key": "llm.prediction.temperature", "value": 0.8}]
        listed, missing, found, base, load, unload = read(
            SDK,
            "/llm",
            *rpc("listLoaded", None, [INFO]),
            *rpc("getModelInfo", {"specifier": QUERY, "throwIfNotFound": False}),
            *rpc("getModelInfo", {"specifier": QUERY, "throwIfNotFound": False}, INFO),
            *rpc(
                "getBasePredictionConfig", {"specifier": QUERY, "ignoreServerSessionConfig": True}, {"fields": fields}
            ),
            *rpc("getLoadConfig", {"specifier": QUERY}, {"fields": [{"key": "llm.load.contextLength", "value": 4096}]}),
            *rpc("unloadModel", {"identifier": "q05"}),
        )
        assert (listed.operation, listed.details) == (Operation.MODELS, {"models": [ROW]})
        assert (missing.model_asked, missing.details) == ("q05", {"models": []})
        assert (found.model_answered, found.details) == ("qwen2.5-0.5b-instruct", {"models": [ROW]})
        assert base.operation is Operation.CONFIG
        assert base.parameters == (
            Parameter("ignore_server_session_config", True, sent_as="ignoreServerSessionConfig"),
            Parameter("temperature", 0.8, Origin.MODEL_DEFAULT, "llm.prediction.temperature"),
        )
        assert load.parameters == (Parameter("context_length", 4096, Origin.EFFECTIVE, "llm.load.contextLength"),)
        assert (unload.operation, unload.model_asked) == (Operation.UNLOAD, "q05")
        assert all(reading.unread == () for reading in (listed, missing, found, base, load, unload))

    def test_text_calls_tell_their_result(self) -> None:
        history = {"messages": [{"role": "user", "content": [{"type": "text", "text": "User message 1"}]}]}
        formatted = "<|im_start|>user\nUser message 1<|im_end|>\n<|im_start|>assistant\n"
        asked_for = {
            "specifier": QUERY,
            "history": history,
            "predictionConfigStack": EMPTY_STACK,
            "opts": {"omitBosToken": False},
        }
        said = {"specifier": QUERY, "inputString": "Chaos is a ladder."}
        template, tokens, count = read(
            SDK,
            "/llm",
            *rpc("applyPromptTemplate", asked_for, {"formatted": formatted}),
            *rpc("tokenize", said, {"tokens": [1143, 64866, 374, 264, 35765, 13]}),
            *rpc("countTokens", said, {"tokenCount": 6}),
        )
        assert (template.operation, template.details) == (Operation.TEMPLATE, {"prompt": formatted})
        assert template.messages == (Message("user", (text("User message 1"),)),)
        assert template.parameters == (Parameter("omit_bos_token", False, sent_as="omitBosToken"),)
        for reading in (tokens, count):
            assert (reading.operation, reading.details) == (Operation.TOKENIZE, {"text_chars": 18, "tokens": 6})

    def test_embedding_is_measured_by_its_frames(self) -> None:
        frames = rpc("embedString", {"modelSpecifier": QUERY, "inputString": "hi"}, {"embedding": [0.5, 1, 2]})
        assert one(*frames, path="/embedding") == Reading(
            reader="lmstudio_sdk",
            version=1,
            operation=Operation.EMBEDDING,
            model_asked="q05",
            messages=(Message("input", (text("hi"),)),),
            measured=Measured(started_us=10, request_complete_us=10, first_byte_us=20, done_us=20),
            details={"vectors": 1, "dimensions": 3, "encoding": "float"},
        )


class TestSocket:
    def test_calls_side_by_side_stay_in_the_order_they_began_and_ids_may_be_used_again(self) -> None:
        readings = read(
            SDK,
            "/llm",
            created(asked({"type": "text", "text": "first"})),
            client(type="rpcCall", endpoint="countTokens", callId=2, parameter={"inputString": "x"}),
            fragment("a"),
            server(type="rpcResult", callId=2, result={"tokenCount": 1}),
            fragment("b"),
            told(2, **SUCCESS),
            CLOSE,
            created(asked({"type": "text", "text": "second"})),
            fragment("c"),
            told(2, **SUCCESS),
            CLOSE,
        )
        assert [(one.operation, [said.text for said in one.answers]) for one in readings] == [
            (Operation.CHAT, ["ab"]),
            (Operation.TOKENIZE, []),
            (Operation.CHAT, ["c"]),
        ]

    def test_what_says_nothing_of_models_gives_no_reading(self) -> None:
        frames = [
            *rpc("version", None, {"version": "0.4.21", "build": 2}),
            *rpc("info", None, {"pid": 1234, "isDaemon": False, "version": "0.4.21+2"}),
            client(type="keepAlive"),
            server(type="keepAliveAck"),
            client(type="channelCreate", endpoint="alive", channelId=1),
        ]
        assert read(SDK, "/system", (Side.CLIENT, AUTH), server(success=True), *frames) == []
        upload = rpc("uploadFileBase64", {"name": "a.png", "contentBase64": "iVBOR"}, {"identifier": "x"})
        assert read(SDK, "/files", *upload) == []

    def test_what_is_quiet_is_told_where_it_fails(self) -> None:
        reading = one(
            client(type="rpcCall", endpoint="uploadFileBase64", callId=4, parameter={"contentBase64": "secret"}),
            server(type="rpcError", callId=4, error=ERROR),
            path="/files",
        )
        assert (reading.operation, reading.errors) == (Operation.OTHER, (CALL_ERROR,))
        assert reading.details == {"endpoint": "uploadFileBase64"}
        assert reading.measured == Measured(started_us=10, request_complete_us=10, first_byte_us=20, done_us=20)
        unanswered = one(client(type="rpcCall", endpoint="info", callId=4), path="/system")
        assert unanswered.problems == (Problem("truncated", "the exchange ended as completed"),)

    def test_unknown_endpoint_and_its_warning_are_problems_and_keep_no_parameter(self) -> None:
        unknown, socket = read(
            SDK,
            "/llm",
            client(type="rpcCall", endpoint="newest", callId=1, parameter={"token": "SECRET"}),
            server(
                type="communicationWarning",
                warning="Received invalid parameter for rpcCall, endpointName = newest,\n parameter = {SECRET}. Zod",
                kind="rpcParameterTypeError",
            ),
            client(type="signalSubscribe", endpoint="signs", subscribeId=1),
        )
        assert unknown.problems == (Problem("unknown_endpoint", "newest"),)
        assert unknown.details == {"endpoint": "newest"}
        assert socket.problems == (
            Problem(
                "communication_warning",
                "of the upstream (rpcParameterTypeError): "
                "Received invalid parameter for rpcCall, endpointName = newest",
            ),
            Problem("unknown_endpoint", "signalSubscribe signs"),
        )
        assert "SECRET" not in repr((unknown, socket))

    def test_frames_that_are_none_are_problems_of_the_socket(self) -> None:
        session = opened(SDK, "/llm")
        say(
            session,
            (Side.CLIENT, b"no JSON"),
            (Side.UPSTREAM, [1]),
            server(type="brandNew"),
            server(type="channelSend", channelId=77, message={}),
            server(type="rpcResult", callId="x"),
            server(type="keepAliveAck", extra=1),
        )
        session.message(Side.UPSTREAM, 90, None, b"\x00\x01")
        session.message(Side.UPSTREAM, 95, 8, b"\x03\xe8")
        (reading,) = session.readings(COMPLETED)
        assert reading.operation is Operation.OTHER
        assert [problem.kind for problem in reading.problems] == [
            *("not_json", "unexpected", "unknown_event", "unexpected", "unexpected", "truncated"),
        ]
        assert reading.unread == (("frame.extra", 1),)

    def test_client_that_is_refused_is_an_error(self) -> None:
        words = "Failed to validate client: Invalid client passkey. ..."
        reading = one((Side.CLIENT, AUTH), server(success=False, error=words))
        assert reading.errors == (CallError(words, kind="authentication", where="channel"),)
        assert "k9T1" not in repr(reading)

    def test_upgrade_that_is_refused_is_an_error(self) -> None:
        for body, message in (
            (b'{"error":{"message":"No token","type":"invalid_request"}}', "No token"),
            (b"Forbidden", "status 403 instead of an upgrade"),
        ):
            session = SDK.open(RequestHead("GET", "/llm", is_websocket=True))
            session.response(ResponseHead(403), 5)
            session.data(6, body)
            (reading,) = session.readings(COMPLETED)
            assert [error.message for error in reading.errors] == [message]
        session = SDK.open(RequestHead("GET", "/llm", is_websocket=True))
        (reading,) = session.readings(End("upstream_unreachable", "refused", 7))
        assert reading.errors == (CallError("refused", kind="upstream_unreachable", where="outcome"),)

    def test_live_readings_keep_their_places_and_finished_ones_are_made_once(self) -> None:
        session = opened(SDK, "/llm")
        say(session, *rpc("countTokens", {"inputString": "x"}, {"tokenCount": 1}), created(asked()), fragment("a"))
        first = session.readings(None)
        say(session, fragment("b"), *rpc("countTokens", {}, {"tokenCount": 1}, number=5), start_us=100)
        second = session.readings(None)
        assert [one.is_running for one in first] == [False, True]
        assert [one.is_running for one in second] == [False, True, False]
        assert second[0] is first[0]
        assert [one.answers[0].text for one in (first[1], second[1])] == ["a", "ab"]
        third = session.readings(None)
        assert all(one is other for one, other in zip(second, third, strict=True))
        assert session.readings(COMPLETED)[1].problems == (Problem("truncated", "the exchange ended as completed"),)


def test_odd_types_are_noted_and_the_rest_is_read() -> None:
    parameter = asked({"type": "text", "text": 7}, "plain", config={"layers": ["x", {"layerName": 5, "config": []}]})  # type: ignore[arg-type]
    reading = one(
        created({**parameter, "fuzzyPresetIdentifier": 3}),
        told(2, type="fragment", fragment=[1]),
        fragment("a"),
        told(2, type="success", stats={"stopReason": 4, "promptTokensCount": "many"}, modelInfo="x"),
        CLOSE,
    )
    assert reading.messages == (Message("user", (Part(PartKind.OTHER, '{"type":"text","text":7}'), text("plain"))),)
    assert reading.answers == (Message("assistant", (text("a"),)),)
    assert (reading.stop_reason, reading.stop_reason_raw) == (StopReason.OTHER, "4")
    assert {problem.kind for problem in reading.problems} == {"unexpected"}
    assert json.dumps([problem.detail for problem in reading.problems]).count("expected") == len(reading.problems) == 8
