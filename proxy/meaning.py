"""Words of sense: what a reader says that recorded bytes mean.

Each number names its source by where it stands: what the server said is `Reported`, what our clock saw is `Measured`;
neither fills in for the other, and what is not known is None.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = Any
"""What JSON can hold: None, bool, int, float, str, list, dict."""


class Operation(StrEnum):
    """What was asked of the server."""

    CHAT = "chat"
    COMPLETION = "completion"
    """Text goes on from a raw prompt; no template is applied."""
    EMBEDDING = "embedding"
    MODELS = "models"
    """A list of models, or one of them."""
    LOAD = "load"
    UNLOAD = "unload"
    DOWNLOAD = "download"
    TEMPLATE = "template"
    """A prompt template applied without generating."""
    TOKENIZE = "tokenize"
    CONFIG = "config"
    """Settings that are in force: base prediction configuration, load configuration, properties."""
    LOG = "log"
    """An engine's own log."""
    PREDICTION = "prediction"
    """Known from the engine's log alone: its prompt and output, not how it was asked for."""
    OTHER = "other"


MODEL_CALLS = frozenset((Operation.CHAT, Operation.COMPLETION, Operation.EMBEDDING, Operation.PREDICTION))
"""The operations in which a model computes something from an input: the calls."""


class StopReason(StrEnum):
    """Why a generation ended, in one vocabulary; the dialect's own word stands beside it."""

    STOP = "stop"
    """The model's end token, or (where the dialect does not tell them apart) a stop string."""
    STOP_STRING = "stop_string"
    """A stop string that was asked for."""
    LENGTH = "length"
    """The limit of tokens that was asked for; in some dialects also the context window's."""
    CONTEXT = "context_length"
    """The context window is full."""
    TOOL_CALLS = "tool_calls"
    """The model called tools."""
    CONTENT_FILTER = "content_filter"
    """A filter stopped it, or the model refused."""
    CANCELLED = "cancelled"
    """The client stopped it."""
    UNLOADED = "model_unloaded"
    """The model was unloaded meanwhile."""
    FAILED = "failed"
    """Something went wrong; see the error."""
    OTHER = "other"
    """The server gave a reason that is not known here; see the raw one."""


class PartKind(StrEnum):
    """What a part of a message is."""

    TEXT = "text"
    IMAGE = "image"
    AUDIO = "audio"
    FILE = "file"
    REASONING = "reasoning"
    TOOL_CALL = "tool_call"
    TOOL_RESULT = "tool_result"
    REFUSAL = "refusal"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a message. Bytes of images and files are not repeated here: they stand in the recorded body."""

    kind: PartKind
    text: str = ""
    """Text, reasoning, refusal, a tool's result; of a tool call its arguments as sent (JSON as a rule); of an image or
    file its address where it has one; of anything else its JSON."""
    name: str | None = None
    """Of a tool, or a file's name."""
    id: str | None = None
    """Of a tool call: joins it with its result."""
    media_type: str | None = None
    """Of an image, audio or file: `image/png`."""
    bytes: int | None = None
    """How long its data is, decoded."""
    digest: str | None = None
    """BLAKE2b, 16 bytes, as hex, of its data as sent (base64): tells one image from another."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of an input, or an answer."""

    role: str
    """As sent: `system`, `developer`, `user`, `assistant`, `tool`. `prompt` for a raw prompt, `input` for what is to
    be embedded."""
    parts: tuple[Part, ...]
    name: str | None = None
    path: str | None = None
    """Where in the request's JSON its one text stands (`messages[0].content`), if it is nothing but that text."""

    @property
    def text(self) -> str:
        """Its text parts, with line ends between them."""
        if len(self.parts) == 1 and self.parts[0].kind is PartKind.TEXT:
            return self.parts[0].text
        return "\n".join(part.text for part in self.parts if part.kind is PartKind.TEXT)


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the model was offered."""

    name: str
    description: str | None = None
    schema: str | None = None
    """JSON Schema of its arguments, as JSON."""
    kind: str = "function"
    """`function`, `mcp`, `plugin`, or the dialect's own word."""


class PromptSource(StrEnum):
    """Where a rendered prompt is known from, the most trusted first."""

    OBSERVED = "observed"
    """In the engine's own log."""
    ASKED = "asked"
    """The server applied the template when it was asked, later."""
    COMPUTED = "computed"
    """Rendered here, from the template that the model is known to have."""


class SpanKind(StrEnum):
    """What a stretch of a rendered prompt came from."""

    MESSAGE = "message"
    """A message of the call's input."""
    TOOLS = "tools"
    """The definition of a tool that the model was offered."""
    TEMPLATE = "template"
    """Neither: the prompt template's own text."""


class Origin(StrEnum):
    """Where a parameter's value came from."""

    REQUEST = "request"
    PRESET = "preset"
    MODEL_DEFAULT = "model_default"
    """The base prediction configuration, before the request."""
    EFFECTIVE = "effective"
    """In force, all layers merged, as the server told."""
    SERVER = "server"
    """The server told it, without saying where it took it from."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One setting of a call, from one source."""

    name: str
    """The project's one name for it (`max_tokens`, whatever the dialect calls it), or the dialect's own."""
    value: Json
    """None: known to be unset (off)."""
    origin: Origin = Origin.REQUEST
    sent_as: str | None = None
    """The dialect's name, where it differs: `max_output_tokens`, `llm.prediction.maxPredictedTokens`."""
    note: str | None = None
    """Why it is known to have no effect, or what else is to be known."""
    is_ignored: bool = False
    """The server is known to ignore it."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What the server said. Seconds stay seconds: as reported, nothing computed from them."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    reasoning_tokens: int | None = None
    """Of the output."""
    cached_tokens: int | None = None
    """Of the input."""
    tokens_per_second: float | None = None
    ttft_s: float | None = None
    total_time_s: float | None = None
    """`totalTimeSec`: in most versions the generation alone, in some with the time to the first token."""
    generation_time_s: float | None = None
    load_time_s: float | None = None
    prompt_time_s: float | None = None
    prompt_tokens_per_second: float | None = None
    gpu_layers: int | None = None
    """`numGpuLayers`: marked as not correct in the SDK, -1 in every capture."""
    draft_model: str | None = None
    draft_tokens: int | None = None
    accepted_draft_tokens: int | None = None
    stats: dict[str, Json] | None = None
    """The whole block, as sent."""
    model_info: dict[str, Json] | None = None
    runtime: dict[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What our clock saw: microseconds since the request's first byte, the proxy's own time included."""

    started_us: int = 0
    """Of the call; within a WebSocket it begins later than the exchange."""
    request_complete_us: int | None = None
    """The request's last byte was read: what a time to first token counts from."""
    first_byte_us: int | None = None
    """The first byte of the response's head; on a WebSocket of the call's first message."""
    first_token_us: int | None = None
    """The first generated text or tool call, reasoning included; an event with only a role does not count."""
    first_content_us: int | None = None
    """The first generated text that is no reasoning."""
    last_token_us: int | None = None
    token_events: int = 0
    """Events with generated text. An event is not a token."""
    longest_gap_us: int | None = None
    """The longest time between two of them."""
    load_us: int | None = None
    """From a load's first event to its last."""
    prompt_us: int | None = None
    """From the start of prompt processing to its end, where events tell."""
    done_us: int | None = None


@dataclass(frozen=True, slots=True)
class CallError:
    """What the server said went wrong."""

    message: str
    kind: str | None = None
    """Its type: `invalid_request`, `exceed_context_size_error`."""
    code: str | None = None
    where: str = "body"
    """`body`, `stream` (after a head that said 200), `channel`, or `outcome` (the connection broke)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that whoever looks at the trace should know: what could not be read, or is not as documented."""

    kind: str
    """`truncated`, `not_json`, `unexpected`, `unknown_event`, `unknown_endpoint`, `error_in_200`, `reader_failed`…"""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader says of one call, or of one request that is none; an exchange has any number of them."""

    reader: str
    """Which reader: the dialect's name."""
    version: int
    operation: Operation
    is_streamed: bool = False
    is_running: bool = False
    """It is read while the exchange goes on."""
    is_observed: bool = False
    """Known from the engine's log alone: no exchange carried it."""
    model_asked: str | None = None
    model_answered: str | None = None
    messages: tuple[Message, ...] = ()
    """The input as sent, in order, system messages among them."""
    tools: tuple[Tool, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    output_schema: str | None = None
    """JSON Schema that the answer has to follow, as JSON."""
    answers: tuple[Message, ...] = ()
    """One, or as many as were asked for."""
    stop_reason: StopReason | None = None
    stop_reason_raw: str | None = None
    stop_string: str | None = None
    reported: Reported = field(default_factory=Reported)
    measured: Measured = field(default_factory=Measured)
    response_id: str | None = None
    previous_response_id: str | None = None
    """Of the call that a server that keeps chats is to go on from."""
    errors: tuple[CallError, ...] = ()
    problems: tuple[Problem, ...] = ()
    unread: tuple[tuple[str, int], ...] = ()
    """Paths of fields that the reader does not know, each with how often it came."""
    details: dict[str, Json] = field(default_factory=dict)
    """What fits nowhere else and is worth showing: vectors and dimensions of an embedding, number of models."""
