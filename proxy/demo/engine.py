"""What generates: the one interface between the lookalike's surfaces and a model, real or scripted.

An `Engine` makes `LoadedModel`s, one for each instance that is loaded. All text that a client sees, every token
count and every time is theirs: the lookalike makes nothing up.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

Message = dict[str, Any]
"""As chat templates take it: role, content (text), and where they belong tool_calls, tool_call_id, name, images."""


class EngineError(Exception):
    """The engine failed: the model crashed, the template is broken; the message is the engine's own."""

    def __init__(self, message: str, *, kind: str = "failed") -> None:
        """`kind`: `failed`, `template` (the prompt cannot be rendered), `crashed`, `load` or `context`."""
        super().__init__(message)
        self.kind = kind
        self.model = ""
        """The model's key, once it is known that a load failed."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is downloaded: what its file says of itself."""

    key: str
    """What requests name: `smollm2-135m-instruct`."""
    type: str
    """`llm`, `vlm` or `embedding`."""
    publisher: str
    display_name: str
    path: str
    """Below LM Studio's models folder: `publisher/repo/file.gguf`."""
    architecture: str
    quantization: str
    """`Q4_K_M`."""
    bits: float
    size_bytes: int
    parameters: str
    """`135M`."""
    max_context_length: int
    """Tokens it was trained for."""
    experts: int = 0
    """How many take part in each token; 0: it is not made of experts."""
    template: str = ""
    """Jinja; empty for embedding models."""
    file: Path | None = None
    """None for a scripted model."""
    trained_for_tool_use: bool = False
    reasoning: bool = False

    @property
    def vision(self) -> bool:
        """Whether it takes images."""
        return self.type == "vlm"

    @property
    def domain(self) -> str:
        """`embedding`, or `llm` for what generates."""
        return "embedding" if self.type == "embedding" else "llm"

    @property
    def variant(self) -> str:
        """Key and quantisation: `smollm2-135m-instruct@q4_1`."""
        return f"{self.key}@{self.quantization.lower()}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is in force for one generation, all layers merged. None: off."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float | None = 0.95
    min_p: float | None = 0.05
    repeat_penalty: float | None = 1.1
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    json_schema: dict[str, Any] | None = None
    """The text must be JSON of this schema; {}: any JSON."""
    grammar: str | None = None
    """GBNF."""
    reasoning_budget: int | None = None
    """Tokens that may be spent on reasoning."""
    draft_model: str = ""
    """The key of a model that guesses ahead; only for an engine that `drafts`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of prompt processing."""

    processed: int
    """Tokens by now, those from the cache included."""
    total: int
    cached: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Text as it is generated."""

    text: str
    tokens: tuple[int, ...]
    """The tokens it is made of; none where the text of earlier ones was held back. The text may be ""."""
    is_drafted: bool = False
    """A draft model guessed them."""


@dataclass(frozen=True, slots=True)
class Drafted:
    """How a draft model did."""

    model: str
    """Its key."""
    accepted: int
    """Tokens."""
    rejected: int = 0
    ignored: int = 0

    @property
    def total(self) -> int:
        """S: the SDK's tests, it is the sum."""
        return self.accepted + self.rejected + self.ignored

    def __add__(self, other: "Drafted") -> "Drafted":
        """Of both together."""
        counts = (getattr(self, name) + getattr(other, name) for name in ("accepted", "rejected", "ignored"))
        return Drafted(self.model, *counts)


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of a generation, in the engine's own numbers."""

    reason: str
    """`eos`, `stop` (a stop string), `length` (max_tokens) or `context` (the context window is full)."""
    stop_string: str | None
    prompt_tokens: int
    """Tokens of the prompt, cached ones included."""
    cached_tokens: int
    predicted_tokens: int
    """The end token counts."""
    prompt_s: float
    """Seconds of prompt processing, by the engine's own clock."""
    predicted_s: float
    """Seconds of generation."""
    drafted: Drafted | None = None
    """None: without a draft model."""


Step = Progress | Piece | Finish


class LoadedModel(Protocol):
    """A model in memory. Calls may overlap, up to the number of places it was loaded with."""

    context_length: int
    """Tokens that one prompt and its answer may have together: what it really got, not what was asked for."""
    pid: int
    load_config: dict[str, Any]
    """What it was loaded with besides, by the SDK's keys, as it is in force: not what was asked for."""

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt: the model's own template (or `template`, Jinja) over the messages, ready for the answer.

        `variables` are told to the template besides: `enable_thinking`, `reasoning_effort`.

        Raises:
            EngineError: kind `template`.
        """
        ...

    async def tokenize(self, text: str) -> list[int]:
        """Tokens of a text; its special tokens are parsed, none is added."""
        ...

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        ...

    def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Step, None]:
        """Generate: `Progress` (at least 0 and the whole), then `Piece`s, then one `Finish`.

        Closing the iterator (`aclose`, or cancelling the task) stops the generation at once.

        Raises:
            EngineError: kind `context` where the prompt does not fit, `crashed` or `failed` otherwise, at any time.
        """
        ...

    async def embed(self, text: str) -> tuple[list[float], int]:
        """The embedding of a text, and how many tokens it has.

        Raises:
            EngineError: it was not loaded for that.
        """
        ...

    async def unload(self) -> None:
        """Free it; what is being generated ends with `EngineError`."""
        ...

    def ended(self) -> str | None:
        """Why it is gone, in words; None while it lives."""
        ...


class Engine(Protocol):
    """A kind of engine, with the models it has."""

    name: str
    """As v0's `runtime.name`: `llama.cpp-linux-x86_64-cpu`."""
    version: str
    drafts: bool
    """It has speculative decoding."""
    models: Sequence[Model]
    clock: "Clock"

    async def load(
        self,
        model: Model,
        *,
        context_length: int,
        parallel: int,
        on_progress: Callable[[float], None],
        config: Mapping[str, Any] | None = None,
    ) -> LoadedModel:
        """Load a model; `on_progress` gets 0..1, `config` has the SDK's keys and what was asked for.

        Raises:
            EngineError: kind `load`.
        """
        ...


@dataclass(slots=True)
class Clock:
    """The time that delays and statistics go by: the machine's, or a scripted engine's own."""

    now: Callable[[], float] = field(kw_only=True)
    """Seconds, monotonic."""
    sleep: Callable[[float], Awaitable[None]] = field(kw_only=True)
