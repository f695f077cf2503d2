"""What a scripted model does: steps that tests write down, and what comes out of them."""

import codecs
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from proxy.demo import word_tokens
from proxy.demo.engine import Piece, Sampling

TOKEN_S = 0.02
"""Seconds that a token takes: 50 tokens per second."""


@dataclass(frozen=True, slots=True)
class Text:
    """Text, token by token."""

    text: str
    delay_s: float = TOKEN_S
    """Before each token."""
    is_drafted: bool = False
    """A draft model guessed its tokens, and they were accepted."""


@dataclass(frozen=True, slots=True)
class Burst:
    """Text whose tokens come all at once: nothing else runs between them."""

    text: str


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing, for a while."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prompt processing; counts only as the first step. Without it, the prompt takes 1 ms a token."""

    seconds: float
    steps: int = 1
    """How many times its progress is told, besides the start."""
    cached: int = 0
    """Tokens of the prompt that need no processing."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A draft model takes part: the request's, or another; `Text.is_drafted` are its tokens that were accepted."""

    model: str = ""
    rejected: int = 0
    ignored: int = 0


@dataclass(frozen=True, slots=True)
class Fail:
    """The engine fails; `crashed` means that the model is gone, too."""

    message: str = "The model has crashed without additional information."
    kind: str = "crashed"


@dataclass(frozen=True, slots=True)
class End:
    """The end, which otherwise comes with the last step, by the end token."""

    reason: str = "eos"
    """`eos`, `length` or `context`: a model that stops there although there is room left."""


ScriptStep = Text | Burst | Stall | Prefill | Draft | Fail | End
Script = Sequence[ScriptStep]
"""Without any text in it, the model says nothing and ends."""


@dataclass(slots=True)
class Call:
    """One generation, as the engine was asked for it; for tests to look at."""

    model: str
    """The model's key."""
    prompt: str
    tokens: tuple[int, ...]
    sampling: Sampling
    generated: list[int] = field(default_factory=list)
    """Tokens by now."""
    ended: str | None = None
    """`finished`, `failed`, or `closed` by the caller; None while it runs."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a script."""

    number: int
    is_drafted: bool = False


Rule = Callable[[Call], Script | None]
"""Chooses the script for a call; None: it has nothing to say about it."""


def moves(script: Script) -> Iterator[Token | Stall | Fail | End]:
    """A script in its smallest parts: tokens, and what happens between them."""
    for step in script:
        match step:
            case Text() | Burst():
                is_drafted = isinstance(step, Text) and step.is_drafted
                for token in word_tokens.tokenize(step.text, special=False):
                    if isinstance(step, Text):
                        yield Stall(step.delay_s)
                    yield Token(token, is_drafted)
            case Stall() | Fail() | End():
                yield step
            case Prefill() | Draft():
                continue  # the prompt is processed before all moves; counts are told at the end


class Output:
    """What a generation has said by now: holds back what is half a character or may become a stop string."""

    def __init__(self, call: Call, room: int) -> None:
        self._call = call
        self._room = room
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped: str | None = None
        """The stop string that was met."""
        self.accepted = 0
        """Tokens of a draft model."""

    def take(self, token: Token) -> Piece:
        """The piece that a token makes."""
        self._call.generated.append(token.number)
        self.accepted += token.is_drafted
        self._held += self._decoder.decode(word_tokens.token_bytes(token.number))
        return Piece(self._release(), (token.number,), token.is_drafted)

    def _release(self) -> str:
        stops = [stop for stop in self._call.sampling.stop if stop]
        met = [(self._held.find(stop), stop) for stop in stops if stop in self._held]
        if met:
            at, self.stopped = min(met)
            released, self._held = self._held[:at], ""
            return released
        keep = max((_overlap(self._held, stop) for stop in stops), default=0)
        released, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return released

    def full(self) -> str | None:
        """Why no further token may come."""
        if self.stopped is not None:
            return "stop"
        if self._call.sampling.max_tokens is not None and len(self._call.generated) >= self._call.sampling.max_tokens:
            return "length"
        return "context" if len(self._call.generated) >= self._room else None

    def rest(self) -> Iterator[Piece]:
        """What was held back and is now known to be text."""
        if self.stopped is None and (text := self._held + self._decoder.decode(b"", final=True)):
            yield Piece(text, ())


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text may be the start of the stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
