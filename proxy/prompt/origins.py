"""Where the text of a prompt came from, and what became of each message: the words that differences are told in."""

from dataclasses import dataclass

from proxy.meaning import Message, Part, PartKind, SpanKind

SYSTEM_ROLES = ("system", "developer")


@dataclass(frozen=True, slots=True)
class PromptSpan:
    """A piece of a prompt; characters from 0."""

    start: int
    end: int
    kind: SpanKind
    position: int | None = None
    """Of the message in the request, or of the tool; None: neither, or a message of an earlier call."""
    message_id: int | None = None
    part: int | None = None
    part_start: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class MessageFate:
    """What became of a message on its way into the prompt."""

    position: int | None
    """In the request; None: it was not sent with it."""
    message: Message
    fate: str
    """`kept`, `partly`, `missing`, `changed` or `not_text`."""
    ranges: tuple[tuple[int, int, int], ...] | None = None
    """Part, start, end: what the prompt has of its texts (see `part_text`); None: not known."""
    tokens: int | None = None
    dropped_by: str | None = None
    """`client`, `server` or `refused`."""

    @property
    def name(self) -> str:
        """`message 3 (assistant)`."""
        if self.position is None:
            return f"an earlier message ({self.message.role})"
        return f"message {self.position} ({self.message.role})"


def part_text(part: Part) -> str:
    """The text of a part that ranges are about."""
    return f"{part.name or ''}\n{part.text}" if part.kind is PartKind.TOOL_CALL else part.text
