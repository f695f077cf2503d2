"""Calls of clients that cannot be run here, as they go over the wire: head by head, and what must come back.

Sources: captures of the libraries that the clients use (`openai` 4.95.1 and 6.49, plain fetch of Node 20, `requests`);
the clients' own sources for paths and bodies. Where no capture was to be had (reqwest, axios, Claude Code's own build),
names, case and order of the head are as far as the library's source tells.

`$HOST`, `$LLM` and `$EMBEDDER` are put in when it is played, and `$LENGTH` counts the body.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

_STAINLESS = """x-stainless-lang: js
x-stainless-package-version: {version}
x-stainless-os: Linux
x-stainless-arch: x64
x-stainless-runtime: node
x-stainless-runtime-version: v20.20.2"""
_SAID = [{"role": "user", "content": "Say hello."}]
_IMAGE = "data:image/png;base64," + "iVBORw0KGgoA" * 200_000
"""2.4 MB, as AnythingLLM sends it again with every turn."""


def _tool(name: str) -> dict[str, Any]:
    return {"name": name, "description": name, "parameters": {"type": "object", "properties": {}}}


def _pretty(body: Any) -> str:
    return json.dumps(body, indent=2)


def _compact(body: Any) -> str:
    return json.dumps(body, separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Replay:
    """One call."""

    name: str
    head: str
    """Lines without their ends."""
    body: str = ""
    status: int = 200
    form: Any = None
    """A JSON answer has this form: see `same_form`."""
    holds: tuple[str, ...] = ()
    """Regular expressions that are found in the answer, one after the other."""
    leaves_at: bytes = b""
    """The client closes the connection as soon as it has read this."""
    is_scripted_only: bool = False
    """It asks for what the real model does not have: images, tools it calls for sure."""

    def request(self, **values: str) -> bytes:
        """The bytes to send."""
        body = _put_in(self.body, values).encode()
        head = _put_in(self.head, {**values, "LENGTH": str(len(body))})
        return head.strip("\n").replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


def _put_in(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$([A-Z]+)", lambda found: values[found[1]], text)


# --- AnythingLLM ------------------------------------------------------------------------------------------------------


def _undici(target: str) -> str:
    return f"""
GET {target} HTTP/1.1
host: $HOST
connection: keep-alive
Content-Type: application/json
accept: */*
accept-language: *
sec-fetch-mode: cors
user-agent: node
accept-encoding: gzip, deflate"""


def _openai_4(first: str, *, retry_count: int = 2) -> str:
    """The retry count is no proof of a retry: AnythingLLM sets the limit to 0 after the request was made."""
    length = "content-length: $LENGTH\n" if first.startswith("POST") else ""
    return f"""
{first} HTTP/1.1
{length}accept: application/json
content-type: application/json
user-agent: OpenAI/JS 4.95.1
{_STAINLESS.format(version="4.95.1")}
authorization: Bearer null
x-stainless-retry-count: {retry_count}
x-stainless-timeout: 600
Accept-Encoding: gzip,deflate
Host: $HOST
Connection: keep-alive"""


_CHAT_CHUNK = r'data: {"id":"chatcmpl-\w+","object":"chat.completion.chunk","created":\d+,"model":"$LLM"'
_V0_ROW = {
    "id": "m",
    "object": "model",
    "type": re.compile("llm|vlm|embeddings"),
    "publisher": "p",
    "arch": "a",
    "compatibility_type": re.compile("gguf|mlx"),
    "quantization": "Q",
    "state": re.compile("loaded|loading|not-loaded"),
    "max_context_length": 1,
    "loaded_context_length": 1,
    "capabilities": ["tool_use"],
}
_V0_LIST = {"data": [_V0_ROW], "object": "list"}
_V1_LIST = {"data": [{"id": "m", "object": "model", "owned_by": "organization_owner"}], "object": "list"}

ANYTHINGLLM = (
    Replay(name="anythingllm-boot", head=_undici("/api/v0/models"), form=_V0_LIST),
    Replay(name="anythingllm-capabilities", head=_undici("/api/v1/models"), holds=(r'"key": "$LLM"', "capabilities")),
    Replay(name="anythingllm-dropdown", head=_openai_4("GET /v1/models"), form=_V1_LIST),
    Replay(
        name="anythingllm-chat-leaves-at-finish-reason",
        head=_openai_4("POST /v1/chat/completions"),
        body=_pretty({"model": "$LLM", "stream": True, "messages": _SAID, "temperature": 0}),
        holds=(_CHAT_CHUNK, '"finish_reason":"stop"'),
        leaves_at=b'"finish_reason":"',
    ),
    Replay(
        name="anythingllm-chat-whole",
        head=_openai_4("POST /v1/chat/completions"),
        body=_pretty({"model": "$LLM", "messages": _SAID, "temperature": 0}),
        holds=('"object": "chat.completion"', '"finish_reason": "stop"', '"usage"'),
    ),
    Replay(
        name="anythingllm-agent-with-tools",
        head=_openai_4("POST /v1/chat/completions"),
        body=_pretty(
            {
                "model": "$LLM",
                "stream": True,
                "stream_options": {"include_usage": True},
                "messages": [{"role": "system", "content": "You are an agent."}, *_SAID],
                "tools": [{"type": "function", "function": _tool("rag-memory")}],
                "temperature": 0,
            }
        ),
        holds=(_CHAT_CHUNK, '"choices":\\[\\],"usage":{"prompt_tokens":\\d+', r"data: \[DONE\]\n\n$"),
    ),
    Replay(
        name="anythingllm-image",
        head=_openai_4("POST /v1/chat/completions"),
        body=_pretty(
            {
                "model": "scripted-vl-2b",
                "messages": [
                    {
                        "role": "user",
                        "content": [
                            {"type": "text", "text": "What is this?"},
                            {"type": "image_url", "image_url": {"url": _IMAGE, "detail": "auto"}},
                        ],
                    }
                ],
                "temperature": 0.7,
            }
        ),
        holds=("What is this", '"finish_reason": "stop"|"usage"'),
        is_scripted_only=True,
    ),
    Replay(
        name="anythingllm-embedding",
        head=_openai_4("POST /v1/embeddings"),
        body=_pretty({"model": "$EMBEDDER", "input": "one string", "encoding_format": "base64"}),
        holds=(r'"embedding": ("|\[)',),
    ),
)

# --- Zed: strict about every line -------------------------------------------------------------------------------------


def _reqwest(first: str, *more: str) -> str:
    lines = [f"{first} HTTP/1.1", *more, "accept: */*", "host: $HOST"]
    return "\n".join([*lines, "content-length: $LENGTH"] if first.startswith("POST") else lines)


_ZED = ("content-type: application/json", "user-agent: Zed/0.211.6 (linux; x86_64)", "accept-encoding: gzip, br")
ZED = (
    Replay(name="zed-models", head=_reqwest("GET /api/v0/models", _ZED[1], _ZED[2]), form=_V0_LIST),
    Replay(
        name="zed-chat",
        head=_reqwest("POST /api/v0/chat/completions", *_ZED),
        body=_compact(
            {
                "model": "$LLM",
                "messages": [{"role": "system", "content": "You are Zed."}, *_SAID],
                "stream": True,
                "max_tokens": -1,
                "stop": [],
                "temperature": 0.0,
                "tools": [],
            }
        ),
        holds=(_CHAT_CHUNK, '"stats":', r"data: \[DONE\]\n\n$"),
    ),
)

# --- Cline: the AI SDK's openai-compatible provider -------------------------------------------------------------------


def _ai_sdk(target: str) -> str:
    return f"""
POST {target} HTTP/1.1
host: $HOST
connection: keep-alive
content-type: application/json
user-agent: ai-sdk/openai-compatible/1.0.22 ai-sdk/provider-utils/3.0.12 runtime/node.js/v20.20.2
accept: */*
accept-language: *
sec-fetch-mode: cors
accept-encoding: gzip, deflate
content-length: $LENGTH"""


CLINE = (
    Replay(name="cline-models", head=_undici("/api/v0/models"), form=_V0_LIST),
    Replay(
        name="cline-chat-with-usage-and-tools",
        head=_ai_sdk("/v1/chat/completions"),
        body=_compact(
            {
                "model": "$LLM",
                "temperature": 0,
                "messages": [
                    {"role": "system", "content": "You are Cline."},
                    {"role": "user", "content": [{"type": "text", "text": "Please read_file for me."}]},
                ],
                "tools": [{"type": "function", "function": _tool("read_file")}],
                "tool_choice": "auto",
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        ),
        holds=(
            _CHAT_CHUNK,
            r'"tool_calls":\[{"index":0,"id":"\d{9}","type":"function","function":{"name":"read_file","arguments":""',
            '"finish_reason":"tool_calls"',
            r'"choices":\[\],"usage"',
            r"data: \[DONE\]\n\n$",
        ),
        is_scripted_only=True,
    ),
)

# --- Roo Code: axios, and openai for Node (its sockets are in test_node.py) -------------------------------------------

ROO = (
    Replay(
        name="roo-models",
        head="""
GET /v1/models HTTP/1.1
Accept: application/json, text/plain, */*
User-Agent: axios/1.12.0
Accept-Encoding: gzip, compress, deflate, br
Host: $HOST
Connection: keep-alive""",
        form=_V1_LIST,
    ),
    Replay(
        name="roo-chat",
        head=f"""
POST /v1/chat/completions HTTP/1.1
host: $HOST
connection: keep-alive
accept: application/json
user-agent: OpenAI/JS 6.49.0
x-stainless-retry-count: 0
{_STAINLESS.format(version="6.49.0")}
authorization: Bearer noop
content-type: application/json
accept-language: *
sec-fetch-mode: cors
accept-encoding: gzip, deflate
content-length: $LENGTH""",
        body=_compact(
            {
                "model": "$LLM",
                "messages": [{"role": "system", "content": "You are Roo."}, *_SAID],
                "temperature": 0,
                "stream": True,
                "tools": [{"type": "function", "function": _tool("read_file")}],
                "parallel_tool_calls": True,
            }
        ),
        holds=(_CHAT_CHUNK, '"finish_reason":"(?:stop|tool_calls)"}\\]}\n\ndata: \\[DONE\\]\n\n$'),
    ),
)

# --- Codex ------------------------------------------------------------------------------------------------------------

_CODEX = ("content-type: application/json", "originator: codex_cli_rs", "user-agent: codex_cli_rs/0.63.0 (Debian 12)")
_CODEX_ASKS: dict[str, Any] = {
    "model": "$LLM",
    "instructions": "You are Codex.",
    "input": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Say hello."}]}],
    "tools": [{"type": "function", "strict": False, **_tool("shell")}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "reasoning": None,
    "store": False,
    "stream": True,
    "include": [],
    "prompt_cache_key": "019a8f0e-8a4f-7c33-9d0e-0b1c2d3e4f50",
}
CODEX = (
    Replay(name="codex-models", head=_reqwest("GET /v1/models"), form=_V1_LIST),
    Replay(
        name="codex-load-command",
        head=_reqwest("POST /v1/responses", "content-type: application/json"),
        body=_compact({"model": "$LLM", "input": "", "max_output_tokens": 1}),
        holds=(r'"id": "resp_[0-9a-f]{48}"', '"output_tokens": 1'),
    ),
    Replay(
        name="codex-turn",
        head=_reqwest("POST /v1/responses", *_CODEX, "session_id: 019a8f0e-8a4f-7c33-9d0e-0b1c2d3e4f50").replace(
            "accept: */*", "accept: text/event-stream"
        ),
        body=_compact(_CODEX_ASKS),
        holds=(
            r"^event: response.created\ndata: {",
            r"event: response.output_item.added\n",
            r"event: response.output_text.delta\n",
            r"event: response.completed\ndata: {",
            r'"usage":{"input_tokens":\d+',
        ),
    ),
    Replay(
        name="codex-tool-that-is-refused",
        head=_reqwest("POST /v1/responses", *_CODEX),
        body=_compact(_CODEX_ASKS | {"tools": [*_CODEX_ASKS["tools"], {"type": "web_search"}]}),
        status=400,
        holds=(r'"param": "tools\.1\.type"',),
    ),
)

# --- Claude Code ------------------------------------------------------------------------------------------------------


def _claude(target: str, beta: str) -> str:
    return f"""
POST {target} HTTP/1.1
host: $HOST
connection: keep-alive
Accept: application/json
X-Stainless-Retry-Count: 0
X-Stainless-Timeout: 600
{_STAINLESS.format(version="0.70.0").replace("x-stainless", "X-Stainless")}
anthropic-dangerous-direct-browser-access: true
anthropic-version: 2023-06-01
authorization: Bearer lmstudio
x-app: cli
User-Agent: claude-cli/2.0.51 (external, cli)
content-type: application/json
anthropic-beta: {beta}
accept-language: *
sec-fetch-mode: cors
accept-encoding: br, gzip, deflate
content-length: $LENGTH"""


_CLAUDE_ASKS: dict[str, Any] = {
    "model": "$LLM",
    "messages": [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}],
    "system": [
        {
            "type": "text",
            "text": "You are Claude Code, a command line tool.",
            "cache_control": {"type": "ephemeral"},
        }
    ],
    "tools": [
        {"name": name, "description": name, "input_schema": {"type": "object", "properties": {}}}
        for name in ("Task", "Bash", "Glob", "Grep", "Read", "Edit")
    ],
    "metadata": {"user_id": "user_1_account__session_2"},
    "max_tokens": 32000,
    "temperature": 0,
    "stream": True,
}
CLAUDE_CODE = (
    Replay(
        name="claude-code-turn",
        head=_claude("/v1/messages?beta=true", "claude-code-20250219,interleaved-thinking-2025-05-14"),
        body=_compact(_CLAUDE_ASKS),
        holds=(
            r"^event: message_start\ndata: {",
            r'event: content_block_delta\ndata: {"type":"content_block_delta","index":\d,"delta":{"type":"text_delta"',
            r"event: content_block_stop\n",
            r"event: message_delta\n",
            r'event: message_stop\ndata: {"type":"message_stop"}\n\n$',
        ),
    ),
    Replay(
        name="claude-code-count-tokens-gets-the-odd-200",
        head=_claude("/v1/messages/count_tokens?beta=true", "claude-code-20250219,token-counting-2024-11-01"),
        body=_compact({key: _CLAUDE_ASKS[key] for key in ("model", "messages", "system", "tools")}),
        form={"error": re.compile(r"Unexpected endpoint or method\. \(POST /v1/messages/count_tokens(\?beta=true)?\)")},
    ),
)

# --- llm-lmstudio -----------------------------------------------------------------------------------------------------


def _requests(first: str) -> str:
    head = f"""
{first} HTTP/1.1
Host: $HOST
User-Agent: python-requests/2.34.2
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive"""
    return f"{head}\nContent-Length: $LENGTH\nContent-Type: application/json" if first.startswith("POST") else head


LLM_LMSTUDIO = (
    Replay(
        name="llm-asks-for-one-model-unencoded",
        head=_requests("GET /api/v0/models/scripted/odd-7b@q8_0"),
        form=_V0_ROW,
        is_scripted_only=True,
    ),
    Replay(
        name="llm-loads-it",
        head=_requests("POST /api/v1/models/load"),
        body=json.dumps({"model": "$LLM"}),
        form={"type": "llm", "instance_id": "m", "load_time_seconds": 0.1, "status": "loaded"},
    ),
)

REPLAYS = (*ANYTHINGLLM, *ZED, *CLINE, *ROO, *CODEX, *CLAUDE_CODE, *LLM_LMSTUDIO)
