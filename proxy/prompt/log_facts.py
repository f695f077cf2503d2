"""What matching works on: the calls that the proxy recorded, the engine's log, and what came out of comparing them.

All times `_us` are UTC microseconds of our own clock: of an event, when we received it. `timestamp_ms` is LM Studio's
clock, which is never compared with ours.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFacts:
    """A call that the proxy recorded, and that ended."""

    id: int
    models: tuple[str, ...]
    """As asked, as answered."""
    started_us: int
    ended_us: int
    texts: tuple[str, ...]
    """Of its messages, in order; empty ones are left out. The prompt, if `is_raw`."""
    is_raw: bool
    """A completion: no template is applied."""
    answer: str
    """Reasoning and text as received, in order."""
    tool_calls: tuple[tuple[str, str], ...]
    """(name, arguments) in the answer."""
    tools: tuple[str, ...] = ()
    """Of each tool that it offers, what a prompt with the tool has: a piece of its description, else its name."""
    input_tokens: int | None
    output_tokens: int | None
    is_cut_short: bool
    """The client left early or the stream broke: the answer is the beginning of the output."""
    response_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InputEvent:
    """`llm.prediction.input`: a prompt, as its engine got it."""

    id: int
    at_us: int
    timestamp_ms: int
    model: str
    model_path: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputEvent:
    """`llm.prediction.output`: all that the model wrote, with its statistics."""

    id: int
    at_us: int
    timestamp_ms: int
    model: str
    text: str
    prompt_tokens: int | None
    predicted_tokens: int | None
    ttft_s: float | None
    total_s: float | None
    stop_reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedLine:
    """`Generated prediction: {json}` of `server.log`: the only line with the id of the HTTP answer."""

    at_us: int
    response_id: str
    text: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """What the log has of a call. Confidences are 0 to 1; rivals are events that might be it as well."""

    call_id: int
    input_id: int | None
    input_confidence: float
    input_rivals: tuple[int, ...]
    output_id: int | None
    output_confidence: float
    output_rivals: tuple[int, ...]
    why: str | None
    """In a user's words, what is missing or uncertain, and the reason; None: all is sure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unproxied:
    """A prediction of no call that is known."""

    input_id: int | None
    output_id: int | None
    confidence: float
    """That the two belong together."""
    rivals: tuple[int, ...]
    """Outputs that might be it as well."""


@dataclass(frozen=True, slots=True)
class Matching:
    """The result: a pairing for each call, in their order, and what is left of the events."""

    pairings: list[Pairing]
    unproxied: list[Unproxied]
