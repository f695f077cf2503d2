"""What a server made of its engine's raw output for the client, in words.

Facts (lmstudio-api.md 2.3, 7; the chat templates of the models' own repositories)
---------------------------------------------------------------------------------
* Reasoning stands between tags that the model writes. Where the prompt ends with the first tag, the output begins
  within. gpt-oss writes channels instead.
* Models that were not trained for tools are told to write `[TOOL_REQUEST]{"name":..,"arguments":..}[END_TOOL_REQUEST]`;
  trained ones have marks of their own. Their JSON is read and written anew, so only its values can be compared.
* The engine's log has a prediction's whole text, whatever the client got of it, and the stop string that it ended at.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from proxy.meaning import Json, Message, Part, PartKind
from proxy.prompt.wording import count, listed, quoted

_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)
_TOOL_MARKS = (
    ("[TOOL_REQUEST]", "[END_TOOL_REQUEST]"),
    ("<tool_call>", "</tool_call>"),
    ("<|tool_call|>", "<|/tool_call|>"),
    ("<|python_tag|>", "<|eom_id|>"),
    ("[TOOL_CALLS]", "</s>"),
)
_MARKS = re.compile(r"(?:<\|[a-z_]+\|>(?:assistant|final|commentary|analysis)?)+")
"""What may stand before an answer: `<|start|>assistant<|channel|>final<|message|>`."""
_END_TOKENS = re.compile(
    r"\s*(?:<\|(?:im_end|eot_id|eom_id|end|endoftext|end_of_text|return|call|END_OF_TURN_TOKEN)\|>"
    r"|</s>|<eos>|<end_of_turn>)\s*"
)
_QUOTED = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the answer ended for the client."""

    outcome: str | None = "completed"
    """Of the exchange; None while it runs."""
    stop_reason: str | None = None
    stop_string: str | None = None
    """That was met, where the server tells it."""
    stops: Sequence[str] = field(default_factory=tuple)
    """Those that were asked for."""


def answer_differences(
    output: str | None,
    answer: Message | None,
    ending: Ending,
    *,
    prompt: str | None = None,
    reasoning_field: str | None = None,
) -> list[str]:
    """What of the engine's raw output the client got, and in which form.

    Args:
        output: None: it is not known.
        answer: None: there was none.
        ending: how it ended.
        prompt: what the output goes on from, where that is known.
        reasoning_field: what the dialect calls reasoning, as it stands in the response.
    """
    told: list[str] = []
    if answer is None:
        if output is not None:
            told.append(f"the client got no answer; the engine made {count(len(output), 'character')}")
    elif output is not None:
        told += _compared(output, answer, ending, prompt or "", reasoning_field)
    told += _leaving(answer, ending)
    return told


def _compared(output: str, answer: Message, ending: Ending, prompt: str, reasoning_field: str | None) -> Iterator[str]:
    if any(part.kind is PartKind.TOOL_RESULT for part in answer.parts):
        yield (
            "the server ran tools within this call, so that its answer is made of several outputs of the engine:"
            " they are not compared with this one"
        )
        return
    marks = [opened for opened, _ in (*_TAGS, *_TOOL_MARKS)]
    opened = next((mark for mark in marks if prompt.rstrip().endswith(mark)), "")
    work = _Work(opened + output, len(opened))
    told = [*_reasoning(work, answer, reasoning_field), *_tool_calls(work, answer)]
    text = "".join(part.text for part in answer.parts if part.kind is PartKind.TEXT)
    told += _text(work.left(), text, ending)
    yield from told or ["nothing changed: the client got the engine's output as it was"]


@dataclass(slots=True)
class _Work:
    """The raw output, of which more and more is explained."""

    text: str
    """Behind the mark that the prompt ended with."""
    begin: int
    """How long that is."""
    taken: list[tuple[int, int]] = field(default_factory=list)

    def left(self) -> str:
        """What is not explained yet."""
        pieces, at = [], self.begin
        for start, end in sorted(self.taken):
            pieces.append(self.text[at : max(start, at)])
            at = max(at, end)
        return "".join([*pieces, self.text[at:]])

    def blocks(self, opened: str, closed: str) -> list[tuple[int, int, str]]:
        """Start, end and content of all text between two marks; the last one may lack its end."""
        found, at = [], 0
        while (start := self.text.find(opened, at)) >= 0:
            inner = start + len(opened)
            end = self.text.find(closed, inner)
            at = len(self.text) if end < 0 else end + len(closed)
            found.append((start, at, self.text[inner : len(self.text) if end < 0 else end]))
        return found


# --- reasoning --------------------------------------------------------------------------------------------------------


def _reasoning(work: _Work, answer: Message, reasoning_field: str | None) -> Iterator[str]:
    thought = "".join(part.text for part in answer.parts if part.kind is PartKind.REASONING)
    text = "".join(part.text for part in answer.parts if part.kind is PartKind.TEXT)
    where = reasoning_field or "a field of its own"
    for opened, closed in _TAGS:
        blocks = work.blocks(opened, closed)
        inner = "".join(content for _, _, content in blocks)
        if not blocks:
            continue
        length = count(len(inner.strip()), "character")
        first = f"{opened} text" if blocks[0][0] >= work.begin else f"the text before {closed}"
        if thought.strip() and _squeezed(inner) == _squeezed(thought):
            work.taken += [(start, end) for start, end, _ in blocks]
            yield f"{first} moved to {where}, {length}"
            return
        if not thought and opened in text:
            yield f"the {opened} text, {length}, stayed in the answer's text"
            return
        if not thought and inner.strip() and inner.strip() not in text:
            work.taken += [(start, end) for start, end, _ in blocks]
            yield f"{first}, {length}, was left out: the client did not get it"
            return
        if not thought and not inner.strip() and opened not in text:
            work.taken += [(start, end) for start, end, _ in blocks]
            yield f"an empty {opened} text was left out"
            return
    if not thought.strip():
        return
    at = work.text.find(thought.strip(), work.begin)
    if at >= 0:
        work.taken.append((at, at + len(thought.strip())))
        yield f"{count(len(thought.strip()), 'character')} moved to {where}; by which marks cannot be told"
    else:
        yield f"the reasoning that the client got ({where}) is not in the engine's output as it was"


def _squeezed(text: str) -> str:
    return "".join(text.split())


# --- tool calls -------------------------------------------------------------------------------------------------------


def _tool_calls(work: _Work, answer: Message) -> Iterator[str]:
    waiting = [part for part in answer.parts if part.kind is PartKind.TOOL_CALL]
    if not waiting:
        return
    for opened, closed in _TOOL_MARKS:
        for start, end, content in work.blocks(opened, closed):
            parts = [part for made in _made(content) if (part := _same(made, waiting)) is not None]
            if not parts:
                continue
            for part in parts:
                waiting.remove(part)
            work.taken.append((start, end))
            raw = work.text[max(start, work.begin) : end]
            calls = listed([_shown(part) for part in parts])
            what = "the tool call" if len(parts) == 1 else "the tool calls"
            yield f"{what} {quoted(raw, _QUOTED)} was rewritten as {what} {calls}"
    for part in waiting:
        yield f"where in the engine's output the tool call {_shown(part)} stands cannot be told"


def _made(content: str) -> Iterator[dict[str, Json]]:
    """The calls in a block's JSON."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return
    yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict))


def _same(made: dict[str, Json], parts: Sequence[Part]) -> Part | None:
    arguments = made.get("arguments", made.get("parameters", {}))
    for part in parts:
        if part.name == made.get("name") and (part.text == arguments or _value(part.text) == _plain(arguments)):
            return part
    return None


def _plain(arguments: Json) -> Json:
    return _value(arguments) if isinstance(arguments, str) else arguments


def _value(text: str) -> Json:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _shown(part: Part) -> str:
    text = part.text if len(part.text) <= _QUOTED else f"{part.text[:_QUOTED]}\u2026"
    return f"{part.name or '?'}({text})"


# --- text -------------------------------------------------------------------------------------------------------------


def _text(raw: str, text: str, ending: Ending) -> Iterator[str]:
    """How the answer's text differs from what is left of the raw output."""
    marks = _MARKS.match(raw.lstrip())
    if marks and marks[0] not in text:
        yield f"{quoted(marks[0])} before the text was cut off"
        raw = raw.lstrip()[marks.end() :]
    before, after = _blanks(raw), _blanks(text)
    if before != after and text.strip():
        number, done = abs(before - after), "stripped" if before > after else "added"
        yield f"{count(number, 'blank character')} before the text {_was(number)} {done}"
        raw, text = raw.lstrip(), text.lstrip()
    trimmed = text.rstrip()
    if raw.startswith(text):
        yield from _cut(raw[len(text) :], len(text), ending)
    elif text.startswith(raw):
        yield from _added(text[len(raw) :])
    elif raw.startswith(trimmed):  # blanks at the end are others, and then something was cut off
        yield from _cut(raw[len(trimmed) :], len(trimmed), ending)
    else:
        at = next(place for place, (one, other) in enumerate(zip(raw, text, strict=False)) if one != other)
        yield (
            f"the text differs from the engine's output from character {at + 1:,} on: the engine wrote"
            f" {quoted(raw[at:], 60)}, the client got {quoted(text[at:], 60)}"
        )


def _blanks(text: str) -> int:
    """Blank characters that it begins with."""
    return len(text) - len(text.lstrip())


def _cut(rest: str, length: int, ending: Ending) -> Iterator[str]:
    """The answer lacks the end of the output."""
    if not rest.strip():
        if rest:
            yield f"{count(len(rest), 'blank character')} at the end {_was(len(rest))} stripped"
        return
    stops = [ending.stop_string] if ending.stop_string else ending.stops
    stop = next((one for one in stops if one and (rest.startswith(one) or rest.lstrip().startswith(one))), None)
    if stop is not None:
        behind = rest.lstrip()[len(stop.lstrip()) :] if not rest.startswith(stop) else rest[len(stop) :]
        more = f", with {count(len(behind), 'character')} behind it" if behind.strip() else ""
        yield f"the stop string {quoted(stop)} was cut off the end{more}"
    elif _END_TOKENS.fullmatch(rest):
        yield f"the end token {quoted(rest.strip())} was cut off"
    elif ending.outcome == "client_gone":
        yield (
            f"the answer the client got is shorter: it left after {count(length, 'character')} of the"
            f" {length + len(rest):,} that the engine made"
        )
    elif ending.outcome is None:
        yield f"the answer still comes: the client has {length:,} of {count(length + len(rest), 'character')}"
    else:
        why = "why cannot be told" if ending.outcome == "completed" else f"the exchange ended as {ending.outcome}"
        yield f"the answer the client got is shorter: {length:,} of {count(length + len(rest), 'character')}; {why}"


def _added(extra: str) -> Iterator[str]:
    if not extra.strip():
        yield f"{count(len(extra), 'blank character')} at the end {_was(len(extra))} added"
    elif _END_TOKENS.fullmatch(extra):
        yield f"the server added the end token {quoted(extra.strip())}"
    else:
        yield f"the answer has {count(len(extra), 'character')} more than the engine's output: {quoted(extra, 60)}"


def _was(number: int) -> str:
    return "was" if number == 1 else "were"


def _leaving(answer: Message | None, ending: Ending) -> Iterator[str]:
    """Whether a client that left had the whole answer."""
    if ending.outcome != "client_gone" or answer is None:
        return
    if ending.stop_reason is not None:
        yield f"the client closed the connection when the answer had come to its end ({ending.stop_reason})"
    else:
        yield "the client closed the connection before the answer had come to its end"
