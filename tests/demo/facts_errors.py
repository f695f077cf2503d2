"""Samples of sections 3 and 8: errors of the HTTP surfaces, and those of MCP."""

import re
from typing import Any

from proxy.demo.script import Fail
from proxy.demo.scripted_engine import Loading, ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.facts import LLM, Fact, Provoke, answered, streamed
from tests.demo.facts_compatible import ANTHROPIC, CHAT, HI, MESSAGES, RESPONSES
from tests.demo.lookalikes import post, raw_head, raw_request

V0_CHAT, V1_CHAT = "/api/v0/chat/completions", "/api/v1/chat"
LONG: dict[str, Any] = {"model": LLM, "messages": [{"role": "user", "content": "word " * 3000}]}
ASK: dict[str, Any] = {"model": LLM, "input": "hi"}
CATCH_ALL = re.compile(
    r"HTTP/1\.1 200 OK\r\nX-Powered-By: Express\r\nContent-Type: application/json; charset=utf-8\r\n"
    r'Content-Length: 67\r\nETag: W/"[^"]+"\r\nDate: [^\r]+\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\n'
    r'\{"error":"Unexpected endpoint or method\. \(POST /chat/completions\)"\}'
)


def _object(message: str | re.Pattern[str], kind: str = "x", param: str | None = "x", code: str | None = "x") -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _text(beginning: str) -> Any:
    return {"error": re.compile(f"{re.escape(beginning)}.*", re.DOTALL)}


async def _catch_all(server: LookalikeServer, _: ScriptedEngine) -> str:
    head = await raw_head(server, raw_request("POST", "/chat/completions", {}))
    return (head + (await post(server, "/chat/completions", {})).raw).decode()


def _load_fails(server: LookalikeServer, engine: ScriptedEngine) -> Any:
    engine.loading[LLM] = Loading(fail="Model loading was stopped due to insufficient system resources.")
    return answered(CHAT, HI, status=400)(server, engine)


def _failing(fail: Fail, status: int = 400) -> Provoke:
    return answered(CHAT, HI, says=[fail], status=status)


FORMS = [
    Fact("3.1", "text", {"error": "text"}, answered(V0_CHAT, {"model": LLM}, status=400)),
    Fact("3.1", "object", _object("Required"), answered(RESPONSES, {"model": LLM}, status=400)),
    Fact(
        "3.1",
        "of the engine",
        {
            "error": {
                "code": 400,
                "message": "request (17398 tokens) exceeds",
                "type": re.compile("exceed_context_size_error"),
                "n_prompt_tokens": 17398,
                "n_ctx": 8192,
            }
        },
        answered(CHAT, LONG, status=400),
        {"overflow_message": "engine"},
    ),
    Fact(
        "3.1",
        "in a stream of /v1",
        [[(re.compile("error"), {"error": {"message": "x"}, "message": "x"})]],
        streamed(CHAT, LONG, "error"),
    ),
    Fact(
        "3.1",
        "in a stream of /api/v1",
        [
            [
                (
                    re.compile("error"),
                    {"type": "error", "error": {"type": "x", "message": "x", "code": "x", "param": "x"}},
                )
            ]
        ],
        streamed(V1_CHAT, {"model": LLM, "input": "word " * 3000}, "error"),
        optional=["code", "param"],
    ),
    Fact(
        "3.1",
        "Anthropic's",
        {"type": "error", "error": {"type": "invalid_request_error", "message": "x"}},
        answered(MESSAGES, {**ANTHROPIC, "max_tokens": None}, status=400),
    ),
    Fact("3.2", "head and body", CATCH_ALL, _catch_all),
]
MESSAGES_OF = [
    Fact("3.3", "no messages", _text("'messages' field is required"), answered(CHAT, {"model": LLM}, status=400)),
    Fact(
        "3.3",
        "role",
        _text(
            "'messages' array must only contain objects with a 'role' field that is in [user, assistant, system, tool]"
        ),
        answered(CHAT, HI | {"messages": [{"role": "developer", "content": "x"}]}, status=400),
    ),
    Fact(
        "3.3",
        "json_object",
        _text("'response_format.type' must be 'json_schema' or 'text'"),
        answered(CHAT, HI | {"response_format": {"type": "json_object"}}, status=400),
    ),
    Fact("3.3", "nothing loaded", _text("No models loaded."), answered(CHAT, HI, status=404), {"jit": False}),
    Fact("3.3", "load", _text(f'Failed to load model "{LLM}". Error: Model loading was stopped'), _load_fails),
    *(
        Fact("3.3", f"overflow, {value}", _text(begins), answered(CHAT, LONG, status=400), {"overflow_message": value})
        for value, begins in {
            "keep": "Trying to keep the first ",
            "prompt": "The number of tokens to keep from the initial prompt is greater than the context length",
            "n_keep": "Cannot truncate prompt with n_keep (",
            "request": "request (",
            "input": "Input does not fit in context length. The input has ",
        }.items()
    ),
    Fact(
        "3.3",
        "context during generation",
        _text("Context size has been exceeded"),
        _failing(Fail("Context size has been exceeded", "context")),
    ),
    Fact(
        "3.3",
        "template",
        _text("Engine protocol applyPromptTemplate request returned 500: Jinja Exception: "),
        _failing(Fail("bad", "template"), 500),
    ),
    Fact(
        "3.3",
        "template of 0.3",
        _text("Error rendering prompt with jinja template: "),
        _failing(Fail("bad", "template")),
        {"template_error": "render"},
    ),
    Fact("3.3", "crash", _text("The model has crashed without additional information."), _failing(Fail())),
    Fact(
        "3.3",
        "text.format",
        _object(re.compile("Required"), "x", "x", "x"),
        answered(RESPONSES, ASK | {"text": {"verbosity": "low"}}, status=400),
    ),
    Fact(
        "3.3",
        "type of a tool",
        _object(re.compile("Invalid discriminator value. Expected 'function' | 'mcp'".replace("|", r"\|"))),
        answered(RESPONSES, ASK | {"tools": [{"type": "web_search"}]}, status=400),
        {"version": "0.4.0"},
    ),
    Fact(
        "3.3",
        "previous response",
        _object("x", code="previous_response_not_found"),
        answered(RESPONSES, ASK | {"previous_response_id": "resp_0"}, status=404),
    ),
    Fact(
        "3.3",
        "input of /api/v1",
        _object("x", code="invalid_union"),
        answered(V1_CHAT, {"model": LLM, "input": [{"type": "message"}]}, status=400),
    ),
]
MCP = [
    Fact(
        "8",
        "plugin",
        _object(re.compile(r"Permission denied to use plugin 'mcp/playwright'\. .*"), code=None),
        answered(V1_CHAT, ASK | {"integrations": ["mcp/playwright"]}, status=403),
    ),
    Fact(
        "8",
        "local server",
        _object(re.compile(r"Permission denied to use local MCP server 'wazuh'.*"), code=None),
        answered(RESPONSES, ASK | {"tools": [{"type": "mcp", "server_label": "wazuh"}]}, status=403),
    ),
    Fact(
        "8",
        "no address",
        _object("x", "external_connector_error", "tools", "http_error"),
        answered(RESPONSES, ASK | {"tools": [{"type": "mcp", "server_label": "wazuh"}]}, status=424),
        {"version": "0.3.29"},
    ),
]
FACTS = [*FORMS, *MESSAGES_OF, *MCP]
