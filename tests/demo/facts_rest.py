"""Samples of section 4: LM Studio's own REST, v0 and v1, tools of an MCP server among them."""

import json
import re
from typing import Any

from proxy.demo.script import Draft, Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.facts import EMBEDDING, LLM, VLM, Fact, Provoke, answered, streamed
from tests.demo.facts_compatible import COMPLETION, EMBEDDINGS, HI
from tests.demo.lookalikes import get, post
from tests.demo.mcp_server import mcp_server
from tests.demo.openai_calls import WHOLE as CHAT_ANSWER
from tests.demo.openai_calls import chunk

V0, V1 = "/api/v0", "/api/v1"
ASK: dict[str, Any] = {"model": LLM, "input": "hi"}
ROW = {
    "id": "qwen2-vl-7b-instruct",
    "object": "model",
    "type": re.compile("llm|vlm|embeddings"),
    "publisher": "mlx-community",
    "arch": "qwen2_vl",
    "compatibility_type": re.compile("gguf|mlx"),
    "quantization": "4bit",
    "state": re.compile("loaded|not-loaded"),
    "max_context_length": 32768,
    "loaded_context_length": 8192,
    "capabilities": ["tool_use"],
}
ABSENT = ("loaded_context_length", "capabilities")
ADDED: dict[str, Any] = {
    "stats": {
        "tokens_per_second": 51.43709529007664,
        "time_to_first_token": 0.111,
        "generation_time": 0.954,
        "stop_reason": "eosFound",
    },
    "model_info": {"arch": "granite", "quant": "Q4_K_M", "format": "gguf", "context_length": 4096},
    "runtime": {"name": "llama.cpp-mac-arm64", "version": "1.3.0", "supported_formats": ["gguf"]},
}
DRAFTED = {
    "draft_model": "small",
    "total_draft_tokens_count": 7,
    "accepted_draft_tokens_count": 4,
    "rejected_draft_tokens_count": 3,
    "ignored_draft_tokens_count": 0,
}
V0_ANSWER = {name: value for name, value in CHAT_ANSWER.items() if name not in ("stats", "system_fingerprint")} | ADDED
LAST = chunk({}, "stop") | {"usage": CHAT_ANSWER["usage"]} | {name: ADDED[name] for name in ("stats", "model_info")}
PROVIDER = {"type": "ephemeral_mcp", "server_label": "sums"}
METADATA = {"type": "invalid_name", "tool_name": "open_browser"}
CALLED = {"tool": "add", "arguments": {"a": 1, "b": 2}}
OUTPUT = re.compile(r'\[\{"type":"text","text":".*"\}\]')
ITEMS = (
    {"type": re.compile("reasoning|message"), "content": "Need to call function."},
    {"type": re.compile("tool_call"), **CALLED, "output": OUTPUT, "provider_info": PROVIDER},
    {"type": re.compile("invalid_tool_call"), "reason": "Cannot find tool", "metadata": METADATA},
)
ANSWER = {
    "model_instance_id": "ibm/granite-4-micro",
    "output": [ITEMS],
    "stats": {
        "input_tokens": 646,
        "total_output_tokens": 586,
        "reasoning_output_tokens": 0,
        "tokens_per_second": 29.753900615398926,
        "time_to_first_token_seconds": 1.088,
        "model_load_time_seconds": 2.656,
    },
    "response_id": re.compile("resp_[0-9a-f]{48}"),
}
EVENTS: dict[str, dict[str, Any]] = {
    "chat.start": {"model_instance_id": "openai/gpt-oss-20b"},
    "model_load.start": {"model_instance_id": "openai/gpt-oss-20b"},
    "model_load.progress": {"model_instance_id": "openai/gpt-oss-20b", "progress": 0.65},
    "model_load.end": {"model_instance_id": "openai/gpt-oss-20b", "load_time_seconds": 12.34},
    "prompt_processing.start": {},
    "prompt_processing.progress": {"progress": 0.5},
    "prompt_processing.end": {},
    "reasoning.start": {},
    "reasoning.delta": {"content": "Need"},
    "reasoning.end": {},
    "tool_call.start": {"tool": "add", "provider_info": PROVIDER},
    "tool_call.arguments": {**CALLED, "provider_info": PROVIDER},
    "tool_call.success": {**CALLED, "output": OUTPUT, "provider_info": PROVIDER},
    "tool_call.failure": {"reason": "Cannot find tool", "metadata": METADATA},
    "message.start": {},
    "message.delta": {"content": "The current"},
    "message.end": {},
    "chat.end": {"result": ANSWER},
}
INSTANCE_CONFIG = {
    "context_length": 4096,
    "eval_batch_size": 512,
    "parallel": 4,
    "flash_attention": True,
    "num_experts": 8,
    "offload_kv_cache_to_gpu": True,
}
V1_MODEL = {
    "type": re.compile("llm|embedding"),
    "publisher": "google",
    "key": "google/gemma-4-26b-a4b",
    "display_name": "Gemma 4 26B A4B",
    "architecture": "gemma4",
    "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
    "size_bytes": 17990911801,
    "params_string": "26B-A4B",
    "loaded_instances": [{"id": "google/gemma-4-26b-a4b", "config": (INSTANCE_CONFIG, {"context_length": 4096})}],
    "max_context_length": 262144,
    "format": "gguf",
    "capabilities": {
        "vision": True,
        "trained_for_tool_use": True,
        "reasoning": {"allowed_options": ["off", "on"], "default": "on"},
    },
    "description": None,
    "variants": ["google/gemma-4-26b-a4b@q4_k_m"],
    "selected_variant": "google/gemma-4-26b-a4b@q4_k_m",
}
LOADED = {
    "type": "llm",
    "instance_id": "openai/gpt-oss-20b",
    "load_time_seconds": 9.099,
    "status": "loaded",
    "load_config": {name: INSTANCE_CONFIG[name] for name in INSTANCE_CONFIG if name not in ("parallel", "num_experts")},
}
JOB = {
    "job_id": re.compile("job_[0-9a-f]{10}"),
    "status": "downloading",
    "total_size_bytes": 2279145003,
    "started_at": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"),
}


def _tool(name: str, **arguments: int) -> str:
    return f"[TOOL_REQUEST]{json.dumps({'name': name, 'arguments': arguments})}[END_TOOL_REQUEST]"


def _with_tools(*, is_streamed: bool) -> Provoke:
    """An answer with every kind of item, or the events of one, with their names."""

    async def provoke(server: LookalikeServer, engine: ScriptedEngine) -> Any:
        engine.say("<think>Need to call function.</think>", _tool("add", a=1, b=2))
        engine.say(_tool("open_browser"))
        engine.say("The current top model is ...")
        with mcp_server() as url:
            integration = {"type": "ephemeral_mcp", "server_label": "sums", "server_url": url}
            body = ASK | {"integrations": [integration], "stream": is_streamed}
            got = await post(server, f"{V1}/chat", body)
        assert got.status == 200, got
        return [list(event) for event in got.events] if is_streamed else got.json

    return provoke


async def _all_events(server: LookalikeServer, engine: ScriptedEngine) -> Any:
    """One of each name: all of them must be there."""
    events = await _with_tools(is_streamed=True)(server, engine)
    found = {name: data for name, data in reversed(events)}
    assert set(found) == set(EVENTS)
    assert all(name == data["type"] for name, data in events)
    return {name: found[name] for name in EVENTS}


async def _status(server: LookalikeServer, _: ScriptedEngine) -> Any:
    job = (await post(server, f"{V1}/models/download", {"model": "ibm/granite-4-micro"})).json
    return (await get(server, f"{V1}/models/download/status/{job['job_id']}")).json


async def _unload(server: LookalikeServer, engine: ScriptedEngine) -> Any:
    await server.look.catalog.load(LLM)
    return await answered(f"{V1}/models/unload", {"instance_id": LLM})(server, engine)


FACTS = [
    Fact("4.1", "models", {"data": [ROW], "object": "list"}, answered(f"{V0}/models", loads=[LLM]), {}, ABSENT),
    Fact("4.1", "one of them", ROW, answered(f"{V0}/models/{LLM}", loads=[LLM])),
    Fact("4.2", "whole", V0_ANSWER, answered(f"{V0}/chat/completions", HI), {}, ["reasoning_content", "tool_calls"]),
    Fact("4.2", "end of a stream", [LAST], streamed(f"{V0}/chat/completions", HI, -2)),
    Fact(
        "4.2",
        "extra chunk",
        [LAST | {"choices": []}],
        streamed(f"{V0}/chat/completions", HI, -2),
        {"v0_stats": "extra"},
    ),
    Fact(
        "4.2",
        "draft model",
        V0_ANSWER | {"stats": ADDED["stats"] | DRAFTED},
        answered(f"{V0}/chat/completions", HI, says=[Draft("small", 3), Text("a b c d", is_drafted=True)]),
        {},
        ["reasoning_content", "tool_calls"],
    ),
    Fact(
        "4.3",
        "completions",
        COMPLETION | ADDED,
        answered(f"{V0}/completions", {"model": LLM, "prompt": "I am", "max_tokens": 3}, says=["one two three four"]),
    ),
    Fact("4.3", "embeddings", EMBEDDINGS, answered(f"{V0}/embeddings", {"model": EMBEDDING, "input": "a"})),
    Fact(
        "4.4",
        "every field",
        ANSWER,
        answered(
            f"{V1}/chat",
            {
                "model": LLM,
                "input": [{"type": "text", "content": "hi"}],
                "system_prompt": "Be brief.",
                "integrations": [],
                "stream": False,
                "temperature": 0.5,
                "top_p": 0.9,
                "min_p": 0.1,
                "top_k": 20,
                "repeat_penalty": 1,
                "max_output_tokens": 50,
                "reasoning": "off",
                "context_length": 1000,
                "store": True,
            },
        ),
    ),
    Fact("4.4", "not stored", {n: ANSWER[n] for n in list(ANSWER)[:3]}, answered(f"{V1}/chat", ASK | {"store": False})),
    Fact(
        "4.5",
        "every item",
        ANSWER,
        _with_tools(is_streamed=False),
        {"mcp_per_request": True, "mcp_local_addresses": True},
    ),
    Fact(
        "4.6",
        "every event",
        {name: {"type": re.compile(re.escape(name)), **more} for name, more in EVENTS.items()},
        _all_events,
        {"mcp_per_request": True, "mcp_local_addresses": True},
    ),
    Fact(
        "4.7",
        "models",
        {"models": [V1_MODEL]},
        answered(f"{V1}/models", loads=[LLM, VLM, EMBEDDING]),
        {},
        ["num_experts", "reasoning", "architecture", "capabilities", "description", "variants", "selected_variant"],
    ),
    Fact("4.8", "load", LOADED, answered(f"{V1}/models/load", {"model": LLM, "echo_load_config": True})),
    Fact("4.8", "unload", {"instance_id": "x"}, _unload),
    Fact("4.8", "download", JOB, answered(f"{V1}/models/download", {"model": "ibm/granite-4-micro"})),
    Fact("4.8", "downloaded", {"status": "already_downloaded"}, answered(f"{V1}/models/download", {"model": LLM})),
    Fact(
        "4.8",
        "status",
        {name: JOB[name] for name in ("job_id", "status", "total_size_bytes")}
        | {"downloaded_bytes": 0, "started_at": "x", "bytes_per_second": 1.5, "estimated_completion": "x"},
        _status,
    ),
    Fact(
        "4.8",
        "unknown job",
        {"error": {"message": "x", "type": re.compile("job_not_found"), "param": "x", "code": "x"}},
        answered(f"{V1}/models/download/status/job_0", status=404),
    ),
]
