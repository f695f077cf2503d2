"""Samples of sections 5.8 and 5.9: remote procedures of the SDK, loading, files, the engine."""

import base64
import re
from typing import Any

from tests.demo.facts import EMBEDDING, LLM, VLM, Fact, over_sdk
from tests.demo.facts_sdk import VOID, frame, messages_of, result, rpc
from tests.demo.sdk_client import history, layers, query, stack
from tests.demo.test_sdk_namespaces import CONFIG, INSTANCE, LLM_INFO, PNG

SPECIFIER = {"specifier": query(LLM)}
TEMPLATE = {**SPECIFIER, "history": history(("user", "User message 1")), "predictionConfigStack": stack(), "opts": {}}
TEXT = {**SPECIFIER, "inputString": "Chaos is a ladder."}
UPLOAD = {"name": "a.png", "contentBase64": base64.b64encode(PNG).decode()}
ENGINE = {
    "name": "llama.cpp-...",
    "version": "2.1.0",
    "engine": "llama.cpp",
    "platform": "linux",
    "cpu": {"architecture": "x86_64"},
    "supportedModelFormatNames": ["GGUF"],
}

FACTS = [
    rpc("5.8", "template", result({"formatted": "<|im_start|>user"}), "applyPromptTemplate", TEMPLATE),
    rpc("5.8", "tokens", result({"tokens": [1143]}), "tokenize", TEXT),
    rpc("5.8", "count of tokens", result({"tokenCount": 6}), "countTokens", TEXT),
    rpc("5.8", "loaded", result([INSTANCE]), "listLoaded"),
    rpc("5.8", "not there", VOID, "getModelInfo", {"specifier": query("x"), "throwIfNotFound": False}),
    rpc("5.8", "base configuration", result(CONFIG), "getBasePredictionConfig", SPECIFIER),
    rpc("5.8", "load configuration", result(CONFIG), "getLoadConfig", SPECIFIER),
    rpc(
        "5.8",
        "state",
        result({"status": "generating", "queued": 1}),
        "getInstanceProcessingState",
        {**SPECIFIER, "throwIfNotFound": False},
    ),
    rpc("5.8", "unload", VOID, "unloadModel", {"identifier": LLM}),
    Fact(
        "5.8",
        "load",
        {
            "resolved": {"type": "resolved", "info": LLM_INFO},
            "progress": {"type": "progress", "progress": 0.42},
            "success": {"type": "success", "info": INSTANCE},
        },
        over_sdk(
            "llm",
            messages_of(
                "loadModel",
                {"modelKey": LLM, "identifier": "q", "loadConfigStack": layers()},
                *("resolved", "progress", "success"),
            ),
            loads=[],
        ),
    ),
    Fact(
        "5.8",
        "get or load",
        {
            "startLoading": {"type": "startLoading", "identifier": "q", "info": LLM_INFO},
            "loadProgress": {"type": "loadProgress", "progress": 0.42},
            "loadSuccess": {"type": "loadSuccess", "info": INSTANCE},
        },
        over_sdk(
            "llm",
            messages_of(
                "getOrLoad",
                {"identifier": VLM, "loadConfigStack": layers()},
                *("startLoading", "loadProgress", "loadSuccess"),
            ),
            loads=[],
        ),
    ),
    rpc(
        "5.8",
        "embedding",
        result({"embedding": [0.1]}),
        "embedString",
        {"modelSpecifier": query(EMBEDDING), "inputString": "a"},
        namespace="embedding",
    ),
    Fact(
        "5.9",
        "downloaded models",
        result([LLM_INFO]),
        over_sdk("system", frame("listDownloadedModels"), loads=[]),
        {},
        ["vision", "trainedForToolUse"],
    ),
    rpc("5.9", "application", result({"pid": 1, "isDaemon": False, "version": "..."}), "info", namespace="system"),
    rpc(
        "5.9",
        "upload",
        result({"identifier": "x", "fileType": re.compile("image"), "sizeBytes": 1234}),
        "uploadFileBase64",
        UPLOAD,
        namespace="files",
    ),
    rpc("5.9", "engines", result([ENGINE]), "listEngines", namespace="runtime"),
    rpc("5.9", "selections", result({"json": [Any], "meta": Any}), "getEngineSelections", namespace="runtime"),
]
