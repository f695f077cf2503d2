"""What the tests of /v1/responses share: the digest's samples, scripts and requests."""

import re
from typing import Any

from proxy.demo.script import Burst
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import post

PATH = "/v1/responses"
TOOL: dict[str, Any] = {
    "type": "function",
    "name": "calculate",
    "description": "Evaluate an expression",
    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
}
CALL = Burst('[TOOL_REQUEST]{"name": "calculate", "arguments": {"expression":"2 + 2"}}[END_TOOL_REQUEST]')
RESP = re.compile(r"resp_[0-9a-f]{48}")
USAGE = {
    "input_tokens": 265,
    "output_tokens": 25,
    "total_tokens": 290,
    "output_tokens_details": {"reasoning_tokens": 0},
}
CALL_ITEM = {
    "id": re.compile(r"fc_[0-9a-z]{21}"),
    "call_id": re.compile(r"call_\d{16}"),
    "type": "function_call",
    "name": "calculate",
    "arguments": '{"expression":"2 + 2"}',
    "status": "completed",
}
MESSAGE_ITEM = {
    "id": re.compile(r"msg_[0-9a-z]{21}"),
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "2 + 2 = 4"}],
}
REASONING_ITEM = {
    "id": re.compile(r"rs_[0-9a-z]{21}"),
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "We need to"}],
}
DELTA = {
    "type": "response.output_text.delta",
    "item_id": re.compile(r"msg_[0-9a-z]{21}"),
    "output_index": 0,
    "content_index": 0,
    "delta": "Hi",
    "sequence_number": 4,
}


def sample(*items: Any) -> dict[str, Any]:
    """The digest's whole answer, around these items."""
    return {
        "id": RESP,
        "object": "response",
        "created_at": 1761796133,
        "status": "completed",
        "model": "qwen/qwen3-coder-30b",
        "output": [items],
        "usage": USAGE,
        "previous_response_id": None,
    }


def saying(*scripts: list[Any]) -> ScriptedEngine:
    """An engine that says these, one in each call."""
    engine = ScriptedEngine()
    for script in scripts:
        engine.say(*script)
    return engine


def text_of(response: dict[str, Any]) -> str:
    """All text of its messages."""
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


async def ask(server: LookalikeServer, **body: Any) -> Any:
    """A whole answer, which must be one."""
    got = await post(server, PATH, body)
    assert got.status == 200, got
    return got.json
