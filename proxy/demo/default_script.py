"""What a scripted model says that nobody wrote a script for: it repeats what it was told."""

import json
import re
from collections.abc import Sequence
from typing import Any

from proxy.demo import word_tokens
from proxy.demo.script import Call, Script, Text
from proxy.demo.smallest_json import smallest_json

_NO_THOUGHT = "<think>\n\n</think>\n\n"
_EFFORT = re.compile(r"<\|im_start\|>system\nReasoning: (\w+)\n")
_TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>|\Z)", re.DOTALL)


def default_script(call: Call, *, reasoning: bool) -> Script:
    """An answer that depends on the prompt alone.

    A schema is answered with its smallest instance; a message that names a tool, with a call of it.
    """
    if call.sampling.json_schema is not None:
        return [Text(json.dumps(smallest_json(call.sampling.json_schema), ensure_ascii=False))]
    prompt = call.prompt.removesuffix(_NO_THOUGHT)
    turns = [(role, text.replace("<|image|>", "")) for role, text in _TURN.findall(prompt)]
    spoken = [turn for turn in turns if turn[1] or turn[0] != "assistant"]
    role, said = spoken[-1] if spoken else ("", call.prompt)
    if not spoken:
        return [Text(f" {said.split()[-1]}" if said.split() else "…")]  # a completion goes on as it was
    thought = _thought(call, role) if reasoning and prompt == call.prompt else ""
    if role == "tool" or said.startswith("[TOOL_RESULT]"):  # the latter where the template knows no such role
        return [Text(f"{thought}The tool said: {said}")]
    for tool in _offered_tools(turns):
        if tool["name"] in said:
            arguments = smallest_json(tool.get("parameters") or {"type": "object"})
            request = json.dumps({"name": tool["name"], "arguments": arguments}, ensure_ascii=False)
            return [Text(f"{thought}[TOOL_REQUEST]{request}[END_TOOL_REQUEST]")]
    # a draft model guesses everything but the thought
    return [
        *([Text(thought)] if thought else []),
        Text(f"You said: {said}", is_drafted=bool(call.sampling.draft_model)),
    ]


def _thought(call: Call, role: str) -> str:
    """Within its budget; tells the level that was asked for."""
    effort = _EFFORT.match(call.prompt)
    text = f"The last message is from the {role}." + (f" Effort: {effort[1]}." if effort else "")
    if (budget := call.sampling.reasoning_budget) is not None:
        text = word_tokens.detokenize(word_tokens.tokenize(text, special=False)[:budget])
    return f"<think>{text}</think>\n\n"


def _offered_tools(turns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """The functions that the system message offers: each a line of JSON, whatever stands around it."""
    tools = []
    for line in turns[0][1].splitlines() if turns[0][0] == "system" else ():
        try:
            function = json.loads(line)["function"]
            tools.append({"name": str(function["name"]), "parameters": function.get("parameters")})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # any other line
    return tools
