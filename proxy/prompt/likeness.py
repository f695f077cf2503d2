"""How well a call's messages fit a prompt, and its answer an output. Pure.

Facts (lmstudio-api.md 2.4, 5.10, 10.5)
---------------------------------------
* Templates strip blanks, may leave messages out (reasoning of earlier turns), and end with a short head of the answer.
* A prompt that is too long loses its middle or its beginning, if need be within one message; its end is always there.
* Templates write tools in many forms, or not at all; their names and descriptions they leave as they are.
* The server takes reasoning tags, a found stop string and blanks away from an answer, and rewrites a tool call.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.prompt.log_facts import CallFacts, InputEvent, OutputEvent

LONGEST_TAIL = 256
"""Characters of the template behind the last message: templates known end with up to about 80."""
_SHORTEST_CUT = 32
"""Of a message that was cut, so many characters at its end must be there."""
_RAW_EXTRA = 16
"""What may come before a raw prompt: a begin token."""
_MISSING_COSTS = 40
"""Characters: a prompt that lacks messages is the worse fit unless it explains so many more."""
_STOP_STRING = 64
_PLAIN_WORDS = re.compile(r"[A-Za-z0-9 ,.:;()_-]+")
"""What is the same in JSON, XML and plain text."""
_SHORTEST_EVIDENCE = 12
_MARKS = re.compile(r"<[^<>\n]{1,60}>|\[/?[A-Z_]{1,20}\]")
_ROLES = frozenset(
    {"assistant", "model", "response", "answer", "bot", "ai", "chatbot", "gpt4", "correct", "think", "final"}
)
_LEFT = frozenset(":#|*= \n\t")
"""What a template's end may hold besides marks and roles."""
_TOOL = re.compile(r"\[TOOL_REQUEST\](.*?)\[END_TOOL_REQUEST\]|<tool_call>(.*?)</tool_call>", re.DOTALL)
_OUTPUT_MARKS = re.compile(
    r"</?think(?:ing)?>|\[/?THINK\]|<\|(?:channel\|>(?:analysis|final|commentary)|message\|>|end\|>|start\|>assistant|return\|>)"
)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a call's texts are in a prompt."""

    unexplained: int
    """Characters of the prompt that are none of the call's."""
    is_whole: bool
    """Every message is there, in order, entirely."""
    tail: str
    """What follows the last message."""
    is_clean: bool
    """`tail` looks like a template's, and what is before the last message as well."""
    tools: int = 0
    """How many of the call's tools it has."""

    @property
    def cost(self) -> int:
        """The smaller, the better the fit."""
        return self.unexplained + (0 if self.is_whole else _MISSING_COSTS)


def tool_evidence(name: str, description: str | None) -> str:
    """What shows in a prompt that the tool is offered: words of its description no template rewrites, else its name."""
    piece = max(_PLAIN_WORDS.findall(description or ""), key=len, default="").strip()
    return piece if len(piece) >= _SHORTEST_EVIDENCE else name


def model_rank(call: CallFacts, event: InputEvent | OutputEvent) -> int:
    """2: the call names the event's model; 1: it may mean it; 0: another model."""
    if event.model in call.models:
        return 2
    if not call.models:
        return 1
    path = event.model_path if isinstance(event, InputEvent) else None
    names = {_plain(name) for name in (event.model, path) if name}
    for asked in map(_plain, call.models):
        if any(asked == name or name.endswith("/" + asked) or asked.endswith("/" + name) for name in names):
            return 1
        if path and ("/" + path.lower()).find("/" + asked + "/") >= 0:
            return 1
    return 0


def _plain(name: str) -> str:
    return re.sub(r":\d+$|\.gguf$", "", name.lower())


def fit_prompt(texts: Sequence[str], prompt: str, *, is_raw: bool, tools: Sequence[str] = ()) -> Fit | None:
    """How `texts` and `tools` (see `tool_evidence`) are in `prompt`; None: the end of the last text is not in it."""
    wanted = [text.strip() for text in texts if text.strip()]
    if not wanted:
        return None
    if is_raw:
        return _fit_raw(wanted[-1], prompt)
    last = _last(wanted[-1], prompt)
    if last is None:
        return None
    start, end, is_whole, explained = last
    tail = prompt[end:]
    is_clean = _is_template(tail) and _is_border(prompt, start)
    limit = start
    for text in reversed(wanted[:-1]):
        found, length = _find(text, prompt, limit)
        if found >= 0:
            if limit == start and not prompt[found + length : start].strip():  # two parts of one message
                is_clean = _is_template(tail)
            limit = found
            explained += length
        elif text in prompt[:start]:  # templates may move the system's message
            explained += len(text)
        else:
            is_whole = False
            explained += _cut_length(text, prompt[:limit])
    offered = [tool for tool in tools if prompt.count(tool) > sum(text.count(tool) for text in wanted)]
    unexplained = max(0, len(prompt) - explained - sum(map(len, offered)))
    return Fit(unexplained, is_whole, tail, is_clean, len(offered))


def _fit_raw(text: str, prompt: str) -> Fit | None:
    bare = prompt.strip()
    if bare.endswith(text) and len(bare) - len(text) <= _RAW_EXTRA:
        return Fit(len(bare) - len(text), True, "", True)
    suffix = _longest_end(text, bare)
    if suffix >= _SHORTEST_CUT and bare.endswith(text[-suffix:]):
        before = bare[: len(bare) - suffix]
        if text.startswith(before) or len(before) <= _RAW_EXTRA:
            return Fit(len(bare) - suffix, False, "", True)
    return None


def _find(text: str, prompt: str, limit: int, since: int = 0) -> tuple[int, int]:
    """Where the last occurrence begins (-1: nowhere) that ends from `since` to `limit`, and its length.

    It is there as it is, or as in JSON.
    """
    at = prompt.rfind(text, max(0, since - len(text)), limit)
    if at >= 0:
        return at, len(text)
    if any(character in text for character in '"\\\n\t') or not text.isascii():
        for ascii_only in (False, True):
            quoted = json.dumps(text, ensure_ascii=ascii_only)[1:-1]
            at = prompt.rfind(quoted, max(0, since - len(quoted)), limit)
            if at >= 0:
                return at, len(quoted)
    return -1, 0


def _last(text: str, prompt: str) -> tuple[int, int, bool, int] | None:
    """(start, end, is whole, characters) of the last message, which is at the prompt's end but for the template's."""
    at, length = _find(text, prompt, len(prompt), since=len(prompt) - LONGEST_TAIL)
    if at >= 0:
        return at, at + length, True, length
    end = prompt[-(LONGEST_TAIL + len(text)) :]
    if len(text) < _SHORTEST_CUT or text[-_SHORTEST_CUT:] not in prompt[-(LONGEST_TAIL + _SHORTEST_CUT) :]:
        return None
    suffix = _longest_end(text, end)
    at = prompt.rfind(text[-suffix:])
    prefix = _longest_start(text[:-suffix], prompt[:at])
    # Cut in the middle, both halves adjoin; cut at its start, what comes before is something else.
    if prefix and prompt[:at].endswith(text[:prefix]):
        return at - prefix, at + suffix, False, prefix + suffix
    return at, at + suffix, False, suffix


def _cut_length(text: str, prompt: str) -> int:
    """How many characters of a message's beginning or end are in the prompt, if that is no accident."""
    longest = max(_longest_start(text, prompt), _longest_end(text, prompt))
    return longest if longest >= _SHORTEST_CUT else 0


def _longest_end(text: str, prompt: str) -> int:
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[-middle:] in prompt else (low, middle - 1)
    return low


def _longest_start(text: str, prompt: str) -> int:
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if text[:middle] in prompt else (low, middle - 1)
    return low


def _is_template(tail: str) -> bool:
    bare = tail.strip()
    if not bare:
        return True
    if len(tail) > LONGEST_TAIL or tail[0].isalnum() or not (bare[0].isalnum() or bare[0] in "<[#|"):
        return False
    rest = _MARKS.sub(" ", tail)
    words = re.findall(r"\w+", rest)
    return _ROLES.issuperset(word.lower() for word in words) and _LEFT.issuperset(re.sub(r"\w+", "", rest))


def _is_border(prompt: str, start: int) -> bool:
    """Whether a message can begin here: not within a line of words."""
    before = prompt[max(0, start - 16) : start]
    bare = before.rstrip(" ")
    return not bare or not (bare[-1].isalnum() or bare[-1] in ",;-'\".!?")


@dataclass(frozen=True, slots=True)
class Said:
    """What a model said, without what a server may have changed."""

    text: str
    tools: tuple[tuple[str, str], ...]


def said_by_call(call: CallFacts) -> Said:
    """What its client got."""
    inline = _said(call.answer)
    return Said(inline.text, inline.tools + tuple((name, _smallest(given)) for name, given in call.tool_calls))


def said_by_output(output: OutputEvent) -> Said:
    """What its model wrote."""
    return _said(output.text)


def _said(text: str) -> Said:
    tools = []

    def take(found: re.Match[str]) -> str:
        call = _tool_call(found[1] if found[1] is not None else found[2])
        if call is None:
            return found[0]
        tools.append(call)
        return ""

    rest = _TOOL.sub(take, text)
    return Said("".join(_OUTPUT_MARKS.sub("", rest).split()), tuple(tools))


def _tool_call(text: str) -> tuple[str, str] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given = value.get("arguments", value.get("parameters", {}))
    return value["name"], _smallest(given if isinstance(given, str) else json.dumps(given))


def _smallest(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True, separators=(",", ":"))
    except (ValueError, RecursionError):
        return "".join(arguments.split())


def is_said(call: CallFacts, answer: Said, output: OutputEvent, said: Said) -> bool:
    """Whether the output can have become this answer."""
    if not _is_alike(call.input_tokens, output.prompt_tokens, 0):
        return False
    if call.is_cut_short:
        # The arguments of the last tool call may be cut.
        whole, names = len(answer.tools) - 1, [name for name, _ in answer.tools]
        return (
            said.text.startswith(answer.text)
            and answer.tools[: max(0, whole)] == said.tools[: max(0, whole)]
            and names == [name for name, _ in said.tools[: len(names)]]
        )
    if not _is_alike(call.output_tokens, output.predicted_tokens, 1):  # the end token may count, or not
        return False
    if answer == said:
        return True
    if answer.tools != said.tools or not said.text.startswith(answer.text):
        return False
    return output.stop_reason == "stopStringFound" and len(said.text) - len(answer.text) <= _STOP_STRING


def is_exact(call: CallFacts, output: OutputEvent) -> bool:
    """Whether the answer is the output to the last blank and token."""
    return call.answer == output.text and _is_alike(call.output_tokens, output.predicted_tokens, 0)


def _is_alike(one: int | None, other: int | None, tolerance: int) -> bool:
    return one is None or other is None or abs(one - other) <= tolerance
