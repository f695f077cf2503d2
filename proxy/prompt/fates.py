"""Words of an alignment: what was sent, stretches of a prompt, and what became of each message."""

from dataclasses import dataclass
from enum import StrEnum

from proxy.meaning import SpanKind


@dataclass(frozen=True, slots=True)
class Piece:
    """What was sent: a message, or a tool's definition."""

    kind: SpanKind
    """`MESSAGE` or `TOOLS`."""
    position: int
    """Of the message in the call, or of the tool."""
    role: str
    texts: tuple[str, ...]
    """One for each of a message's parts, in order; empty for an image. Of a tool call its name, a line end, and its
    arguments. Of a tool its name, and where it has them its description and its schema as JSON."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `[start, end)` of a prompt."""

    start: int
    end: int
    kind: SpanKind
    position: int | None
    """Of the message, or of the tool."""
    part: int | None
    """Which of the piece's texts; None: the whole of a tool, written anew."""
    part_start: int | None
    """Where in that text it begins; None: it says the same, but was written anew."""


class Fate(StrEnum):
    """What became of a message."""

    KEPT = "kept"
    """All its texts are there; blanks at their ends do not count."""
    PARTLY = "partly"
    MISSING = "missing"
    CHANGED = "changed"
    """All it says is there, but written anew by the template."""
    NOT_TEXT = "not_text"
    """It has no text that could be found: images alone, or nothing at all."""


@dataclass(frozen=True, slots=True)
class MessageFate:
    """What became of one message."""

    position: int
    fate: Fate
    ranges: tuple[tuple[int, int, int], ...]
    """What of its texts stands in the prompt as it was sent: part, start, end."""


@dataclass(frozen=True, slots=True)
class Alignment:
    """A prompt and its pieces, side by side."""

    spans: tuple[Span, ...]
    """The whole prompt, in order, without holes."""
    fates: tuple[MessageFate, ...]
    """One for each message, as they were given."""
