"""The plain text in a streamed response, whatever its dialect: enough to watch it grow, not to understand it.

Facts
-----
* A line ends with CRLF, LF or CR and with nothing else: U+2028 may stand inside JSON. An event's JSON stands on a
  line that begins with `data:` (server-sent events) or is a line of its own (NDJSON).
* Where the text is: OpenAI chat `choices[].delta.content`, and `reasoning_content` or `reasoning` before it; OpenAI
  completions `choices[].text`; OpenAI responses `delta`, a string, in events whose type has `text` in it; Anthropic
  `delta.text` and `delta.thinking`; LM Studio's own and llama.cpp's `content`; Ollama `message.content`, `response`.
"""

import json
import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"[\r\n]")
_MAX_LINE_BYTES = 1 << 20
"""Longer lines carry no text that a person watches; they are passed over, so that memory stays flat."""


class StreamText:
    """Feed it a response's bytes, cut anywhere; it gives the text in them. Never raises; what it cannot read is ""."""

    def __init__(self) -> None:
        self._line = bytearray()

    def feed(self, data: bytes) -> str:
        """The text of the lines that end in `data`."""
        *ended, rest = _LINE_END.split(data)
        texts = []
        for part in ended:
            self._keep(part)
            texts.append(self.finish())
        self._keep(rest)
        return "".join(texts)

    def finish(self) -> str:
        """The text of a last line that no line end follows."""
        line = bytes(self._line)
        self._line.clear()
        return "" if len(line) > _MAX_LINE_BYTES else _line_text(line)

    def _keep(self, part: bytes) -> None:
        # One byte more than the limit says that the line is too long, however it is cut.
        self._line += part[: _MAX_LINE_BYTES + 1 - len(self._line)]


def _line_text(line: bytes) -> str:
    line = line.removeprefix(b"data:").strip()
    if not line.startswith(b"{"):
        return ""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return ""
    return "".join(text for text in _texts(event) if isinstance(text, str))


def _texts(event: dict[str, object]) -> Iterator[object]:
    """Everything that stands where text stands; not all of it need be a string."""
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            yield from _fields(choice.get("delta"), "reasoning_content", "reasoning", "content")
            yield choice.get("text")
    delta = event.get("delta")
    if isinstance(delta, str) and "text" in str(event.get("type", "text")):
        yield delta
    yield from _fields(delta, "thinking", "text")
    yield event.get("content")
    yield from _fields(event.get("message"), "content")
    if "done" in event:
        yield event.get("response")


def _fields(value: object, *names: str) -> Iterator[object]:
    if isinstance(value, dict):
        yield from (value.get(name) for name in names)
