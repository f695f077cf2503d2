"""What the tests of /v1/messages share: the digest's samples, scripts and requests."""

import re
from typing import Any

from proxy.demo.script import Text
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import post

PATH = "/v1/messages"
HI: dict[str, Any] = {"max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {
    "name": "get_weather",
    "description": "The weather at a place",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALL = Text('[TOOL_REQUEST]{"name": "get_weather", "arguments": {"city": "Bern"}}[END_TOOL_REQUEST]')
USAGE = {"input_tokens": 14, "output_tokens": 7}
WHOLE = {
    "id": re.compile(r"msg_[0-9a-z]+"),
    "type": "message",
    "role": "assistant",
    "model": "ibm/granite-4-micro",
    "content": [{"type": "text", "text": "Hello from LM Studio."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
EVENTS = {
    "message_start": {
        "type": "message_start",
        "message": WHOLE | {"content": [], "stop_reason": None, "usage": USAGE},
    },
    "content_block_start": {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    },
    "content_block_delta": {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hello"},
    },
    "content_block_stop": {"type": "content_block_stop", "index": 0},
    "message_delta": {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": 7},
    },
    "message_stop": {"type": "message_stop"},
}
"""The digest's samples."""


def saying(*scripts: list[Any]) -> ScriptedEngine:
    """An engine that says these, one in each call."""
    engine = ScriptedEngine()
    for script in scripts:
        engine.say(*script)
    return engine


async def ask(server: LookalikeServer, **members: Any) -> Any:
    """A whole answer, which must be one."""
    got = await post(server, PATH, HI | members)
    assert got.status == 200, got
    return got.json
