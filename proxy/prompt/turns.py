"""Which turns a rendered prompt is made of, by the marks that common templates put around them.

Facts (the chat templates of the models' own repositories on Hugging Face, as of 2026)
-------------------------------------------------------------------------------------
* ChatML (SmolLM, Qwen): `<|im_start|>role` and a line end, text, `<|im_end|>`. Llama 3: `<|start_header_id|>role
  <|end_header_id|>`, an empty line, text, `<|eot_id|>`. Gemma: `<start_of_turn>role` and a line end, text,
  `<end_of_turn>`. Granite, Phi, gpt-oss (Harmony) and Command R have marks of their own.
* Mistral and Llama 2 mark what is not the assistant's: `[INST]...[/INST]`; Mistral's system prompt may stand in
  `[SYSTEM_PROMPT]`, Llama 2's between `<<SYS>>` within the first user turn.
* A prompt that waits for the answer ends within a turn that is not closed.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_ROLES = {
    "developer": "system",
    "model": "assistant",
    "chatbot": "assistant",
    "ipython": "tool",
    "environment": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
_FORMS = tuple(
    re.compile(form, re.DOTALL)
    for form in (
        r"<\|im_start\|>(?P<role>[^\n<|]{1,40})\n(?P<text>.*?)(?:<\|im_end\|>|\Z)",
        r"<\|start_header_id\|>(?P<role>[^\n<|]{1,40})<\|end_header_id\|>\n{0,2}"
        r"(?P<text>.*?)(?:<\|eot_id\|>|<\|eom_id\|>|\Z)",
        r"<start_of_turn>(?P<role>[^\n<|]{1,40})\n(?P<text>.*?)(?:<end_of_turn>|\Z)",
        r"<\|start\|>(?P<role>[^\n<|]{1,80})(?:<\|channel\|>[^<]{0,80})?(?:<\|constrain\|>[^<]{0,80})?"
        r"(?:<\|message\|>(?P<text>.*?))?(?:<\|end\|>|<\|return\|>|<\|call\|>|\Z)",
        r"<\|start_of_role\|>(?P<role>[^\n<|]{1,40})<\|end_of_role\|>(?P<text>.*?)(?:<\|end_of_text\|>|\Z)",
        r"<\|START_OF_TURN_TOKEN\|><\|(?P<role>[A-Z]+)_TOKEN\|>(?P<text>.*?)(?:<\|END_OF_TURN_TOKEN\|>|\Z)",
        r"<\|(?P<role>system|user|assistant|tool)\|>\n?"
        r"(?P<text>.*?)(?:<\|end\|>|</s>|(?=<\|(?:system|user|assistant|tool)\|>)|\Z)",
        r"\[(?:(?P<role>SYSTEM_PROMPT)\](?P<text>.*?)(?:\[/SYSTEM_PROMPT\]|\Z)"
        r"|INST\](?P<user>.*?)(?:\[/INST\]|\Z))",
    )
)
_INNER_SYSTEM = re.compile(r"<<SYS>>\n?(?P<text>.*?)(?:\n?<</SYS>>|\Z)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn; characters of the prompt, from 0."""

    role: str
    """`system`, `user`, `assistant`, `tool`, or the template's own word."""
    start: int
    """Where its first mark begins."""
    text_start: int
    """Where the text between its marks begins."""
    text_end: int
    end: int
    """Behind its last mark."""


def read_turns(prompt: str, not_the_template: Iterable[tuple[int, int]] = ()) -> list[Turn]:
    """The turns, in order; empty where the marks are of no known form.

    Args:
        prompt: the whole of it.
        not_the_template: ranges that are known to be messages or tools: marks in them are somebody's text.
    """
    marks = _without(prompt, not_the_template)
    firsts = [(found.start(), form) for form in _FORMS if (found := form.search(marks))]
    if not firsts:
        return []
    _, form = min(firsts, key=lambda first: first[0])
    return list(_turns(form, marks))


def _without(prompt: str, ranges: Iterable[tuple[int, int]]) -> str:
    """The prompt with these ranges blanked, as long as it was."""
    pieces, at = [], 0
    for start, end in sorted(ranges):
        if end > at:
            pieces += [prompt[at : max(start, at)], "\0" * (end - max(start, at))]
            at = end
    return "".join([*pieces, prompt[at:]])


def _turns(form: re.Pattern[str], marks: str) -> Iterator[Turn]:
    for found in form.finditer(marks):
        group = "user" if "user" in form.groupindex and found["user"] is not None else "text"
        role = "user" if group == "user" else found["role"].strip().lower()
        role = "system" if role == "system_prompt" else _ROLES.get(role, role)
        start, end = found.span(group) if found[group] is not None else (found.end(), found.end())
        inner = _INNER_SYSTEM.search(marks, start, end) if group == "user" else None
        if inner is not None:
            yield Turn("system", inner.start(), *inner.span("text"), inner.end())
            start = inner.end()
        yield Turn(role, found.start() if inner is None else start, start, end, found.end())
