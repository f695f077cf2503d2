"""What readers say of an exchange, for the page of `proxy-log show`."""

import json
from collections.abc import Iterator
from typing import Any

from rich.style import Style
from rich.text import Text

from proxy.cli.call_line import label_style, speed, stop_style
from proxy.cli.call_rows import part_text
from proxy.cli.render import BAD, BOLD, DIM, NAME, WARN, duration, printable

MAX_READINGS = 10
"""So many of an exchange are shown unless all are asked for: a WebSocket may carry hundreds of calls."""
MAX_MESSAGES = 12
MAX_PROBLEMS = 10
MAX_LINES = 6
"""Of one message."""
_LABEL_CELLS = 12
_PLAIN = Style()

_REPORTED = (
    *(("input_tokens", "tokens in"), ("output_tokens", "tokens out"), ("total_tokens", "tokens in all")),
    *(("reasoning_tokens", "of reasoning"), ("cached_tokens", "cached")),
    *(("ttft_s", "first token after"), ("tokens_per_second", "tok/s"), ("generation_time_s", "generation")),
    *(("total_time_s", "totalTimeSec"), ("prompt_time_s", "prompt"), ("prompt_tokens_per_second", "prompt tok/s")),
    *(("load_time_s", "load"), ("draft_model", "draft model"), ("draft_tokens", "draft tokens")),
    *(("accepted_draft_tokens", "of these taken"), ("gpu_layers", "numGpuLayers")),
)
_MEASURED = (
    *(("first_byte_ms", "first byte after"), ("measured_ttft_ms", "first token after")),
    *(("measured_first_content_ms", "first content after"), ("measured_tokens_per_second", "tok/s")),
    *(("longest_gap_ms", "longest gap"), ("token_events", "events with text"), ("measured_load_ms", "load")),
    *(("measured_prompt_ms", "prompt"), ("duration_ms", "whole")),
)


def title_of(reading: dict[str, Any]) -> str:
    """What it is, in a few words, behind the title."""
    kind = f"{reading['operation']} by {reading['dialect']}"
    if "stop_reason" not in reading:
        return kind
    return f"call {reading['id']}: {kind}{', streamed' if reading['is_streamed'] else ''}"


def reading_lines(reading: dict[str, Any], width: int, *, is_full: bool) -> Iterator[Text]:
    """A reading in lines that fit `width`; with `is_full` no message is cut."""
    lines = list(_facts(reading))
    for line in lines:
        yield from _wrapped(line, width)
    for key, title in (("messages", "input"), ("answers", "answer")):
        yield from _messages(reading[key], title, width, is_full=is_full)
    for line in _outcome(reading, is_full=is_full):
        yield from _wrapped(line, width)


def _facts(reading: dict[str, Any]) -> Iterator[Text]:
    """The model, the place in a conversation, the parameters."""
    asked, answered = reading["model_asked"], reading["model_answered"]
    if asked or answered:
        model = _labelled("model", printable(asked or "not named", is_one_line=True))
        if answered and answered != asked:
            model.append(f", answered by {printable(answered, is_one_line=True)}", WARN if asked else _PLAIN)
        yield model
    if reading.get("label"):
        place = _labelled("label", reading["label"], label_style(reading["label"]))
        if reading["parent_id"] is not None:
            place.append(f", goes on from call {reading['parent_id']}")
        place.append(f", conversation {reading['thread_id']}", DIM)
        if reading["is_system_changed"]:
            place.append(", system messages changed", WARN)
        yield place
    if reading["parameters"]:
        line = _labelled("parameters")
        for number, parameter in enumerate(reading["parameters"]):
            line.append(", " if number else "")
            line.append(f"{printable(parameter['name'], is_one_line=True)}", NAME)
            line.append(f"={_value(parameter['value'])}")
            line.append(
                f" ({parameter['origin'].replace('_', ' ')}{', ignored' if parameter['is_ignored'] else ''})", DIM
            )
        yield line


def _value(value: Any) -> str:
    if value is None:
        return "off"
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), is_one_line=True)
    return text if len(text) <= 80 else text[:79] + "\u2026"


def _messages(messages: list[dict[str, Any]], title: str, width: int, *, is_full: bool) -> Iterator[Text]:
    skipped = 0 if is_full else max(len(messages) - MAX_MESSAGES, 0)
    for number, message in enumerate(messages):
        # The first one stays, as it often is the system's.
        if 1 <= number <= skipped:
            if number == 1:
                yield Text(f"  {'':{_LABEL_CELLS}}{skipped} messages more; --full shows them", style=DIM)
            continue
        yield from _message(message, title if number == 0 else "", width, is_full=is_full)


def _message(message: dict[str, Any], title: str, width: int, *, is_full: bool) -> Iterator[Text]:
    parts = message["parts"]
    text = "\n".join(map(part_text, parts)) if parts else message["text"] or ""
    lines = printable(text).split("\n")
    shown = lines if is_full else lines[:MAX_LINES]
    for number, each in enumerate(shown):
        line = Text(f"  {title if number == 0 else '':{_LABEL_CELLS}}", style=DIM)
        line.append(f"{printable(message['role'], is_one_line=True):10.10} " if number == 0 else " " * 11, NAME)
        line.append(each, BOLD if title == "answer" else _PLAIN)
        if not is_full:
            line.truncate(width - 1, overflow="ellipsis")
        yield line
    if len(lines) > len(shown):
        yield Text(f"  {'':{_LABEL_CELLS + 11}}{len(lines) - len(shown)} more lines; --full shows them", style=DIM)


def _outcome(reading: dict[str, Any], *, is_full: bool) -> Iterator[Text]:
    """Why it stopped, the numbers, the problems."""
    if reading.get("stop_reason"):
        line = _labelled("stopped", reading["stop_reason"], stop_style(reading["stop_reason"]))
        raw, string = reading["stop_reason_raw"], reading["stop_string"]
        line.append(f" (sent as {printable(raw, is_one_line=True)!r})" if raw is not None else "", DIM)
        line.append(f" at {printable(string, is_one_line=True)!r}" if string else "")
        yield line
    reported = [(title, _number(name, reading.get(f"reported_{name}"))) for name, title in _REPORTED]
    measured = [(title, _number(name, reading.get(name))) for name, title in _MEASURED]
    for title, numbers in (("reported", reported), ("measured", measured)):
        if told := [f"{name} {number}" for name, number in numbers if number]:
            yield _labelled(title, ", ".join(told))
    problems = reading["problems"] if is_full else reading["problems"][:MAX_PROBLEMS]
    for problem in problems:
        is_error = problem["severity"] == "error"
        detail = printable(problem["detail"], is_one_line=True)
        text = f"{problem['kind']}{f': {detail}' if detail else ''}"
        yield _labelled("error" if is_error else "note", text, BAD if is_error else WARN)
    if len(problems) < len(reading["problems"]):
        yield _labelled("", f"{len(reading['problems']) - len(problems)} problems more; --full shows them", DIM)


def _number(name: str, value: Any) -> str:
    """A number with its unit; empty where nobody told it."""
    if value is None or (name == "token_events" and not value):
        return ""
    if name.endswith("_ms"):
        return duration(value)
    if name.endswith("tokens_per_second"):
        return speed(value)
    return f"{value:g}s" if name.endswith("_s") else printable(str(value), is_one_line=True)


def _labelled(label: str, text: str = "", style: Style = _PLAIN) -> Text:
    return Text.assemble((f"  {label:{_LABEL_CELLS}}", DIM), (text, style))


def _wrapped(line: Text, width: int) -> Iterator[Text]:
    """A line in as many as it takes, the others below the first one's text."""
    from rich.console import Console  # noqa: PLC0415 - wrapping wants one; nothing is printed by it

    indent = _LABEL_CELLS + 2
    head, rest = line[:indent], line[indent:]
    for number, each in enumerate(rest.wrap(Console(width=width), max(width - 1 - indent, 20))):
        yield Text.assemble(head if number == 0 else " " * indent, each)
