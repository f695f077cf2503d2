"""Prompt templates as LM Studio's configuration writes them, and the tool prompt of models that know no tools."""

import json
from collections.abc import Sequence
from typing import Any

from proxy.demo.engine import Message
from proxy.demo.output_parser import TOOL_MARKERS

_START, _END = TOOL_MARKERS[0]


def as_jinja(setting: dict[str, Any] | None, models_own: str) -> str | None:
    """The Jinja text of `llm.prediction.promptTemplate`; None where it is the model's own.

    S, schema.ts: `{"type": "jinja", "jinjaPromptTemplate": {"template"}}`, or "manual" with role prefixes.
    """
    if not setting:
        return None
    if setting.get("type") == "manual":
        return _manual(setting.get("manualPromptTemplate") or {})
    template = (setting.get("jinjaPromptTemplate") or {}).get("template")
    return template if template and template != models_own else None


def _manual(prefixes: dict[str, str]) -> str:
    """Role prefixes and suffixes as a template."""
    branches = []
    for word, role in (("if", "System"), ("elif", "User"), ("elif", "Assistant")):
        before, after = (json.dumps(prefixes.get(f"{side}{role}", "")) for side in ("before", "after"))
        branches.append(f"{{%- {word} m.role == '{role.lower()}' -%}}{{{{ {before} + m.content + {after} }}}}")
    start = json.dumps(prefixes.get("beforeAssistant", ""))
    return "{%- for m in messages -%}" + "".join(branches) + "{%- endif -%}{%- endfor -%}{{ " + start + " }}"


def with_tool_prompt(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> list[Message]:
    """The messages with the tools told in the system prompt, and earlier calls written out. D: tools.mdx."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    prompt = (
        "You can call tools. They are listed here as JSON:\n"
        f"{listed}\n"
        f'To call one, write {_START}{{"name": "its name", "arguments": {{}}}}{_END} and nothing after it.'
    )
    found: list[Message] = []
    for message in messages:
        if message.get("tool_calls"):
            calls = "".join(_START + json.dumps(_plain(call)) + _END for call in message["tool_calls"])
            found.append({"role": "assistant", "content": (message.get("content") or "") + calls})
        elif message["role"] == "tool":
            found.append({"role": "user", "content": f"[TOOL_RESULT]{message.get('content', '')}[END_TOOL_RESULT]"})
        else:
            found.append(message)
    if found and found[0]["role"] == "system":
        return [{**found[0], "content": f"{found[0]['content']}\n\n{prompt}"}, *found[1:]]
    return [{"role": "system", "content": prompt}, *found]


def _plain(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function.get("arguments")
    return {"name": function["name"], "arguments": json.loads(arguments) if isinstance(arguments, str) else arguments}
