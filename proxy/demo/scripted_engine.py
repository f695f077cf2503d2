"""An engine whose models say what a script says: tests decide what is generated, when, and how it fails.

Limits are the engine's own whatever the script says: stop strings, `max_tokens` and the context window end a
generation, so that counts stay true. The other sampling parameters are only recorded (`calls`): nothing is sampled.
"""

import asyncio
import hashlib
import math
import os
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from proxy.demo import word_tokens
from proxy.demo.chat_template import render
from proxy.demo.default_script import default_script
from proxy.demo.engine import Drafted, EngineError, Finish, Message, Model, Progress, Sampling, Step
from proxy.demo.script import (
    Call,
    Draft,
    End,
    Fail,
    Output,
    Prefill,
    Rule,
    Script,
    ScriptStep,
    Stall,
    Text,
    Token,
    moves,
)
from proxy.demo.scripted_models import SCRIPTED_MODELS, load_config
from proxy.demo.virtual_clock import VirtualClock

PREFILL_S = 0.001
"""Seconds that a token of the prompt takes."""
_LONG_TEXT = 50_000
_DIMENSIONS = 64
_CRASHED = "The model has crashed without additional information."


def _drafted(script: Script, call: Call, accepted: int) -> Drafted | None:
    step = next((step for step in script if isinstance(step, Draft)), None)
    name = (step.model if step else "") or call.sampling.draft_model
    return Drafted(name, accepted, step.rejected if step else 0, step.ignored if step else 0) if name else None


@dataclass(frozen=True, slots=True)
class Loading:
    """How loading a model goes."""

    seconds: float = 0.5
    steps: int = 4
    """How many times its progress is told, besides the start."""
    fail: str | None = None
    """The message it fails with, after that time."""


class ScriptedEngine:
    """Scripts in, text out; an `Engine`."""

    def __init__(self, models: Sequence[Model] = SCRIPTED_MODELS, *, time: VirtualClock | None = None) -> None:
        """`time`: virtual by default; `VirtualClock(real_time=True)` lets people watch."""
        self.name = "llama.cpp-linux-x86_64-scripted"
        self.version = "1.0.0"
        self.drafts = True
        self.models: Sequence[Model] = tuple(models)
        self.time = time or VirtualClock()
        self.clock = self.time.clock
        self.queue: deque[Script] = deque()
        """What the next calls say, in their order."""
        self.rule: Rule | None = None
        """Asked when the queue is empty; after it comes the default script."""
        self.loading: dict[str, Loading] = {}
        """By model key; `Loading()` for all others."""
        self.calls: list[Call] = []
        self.loaded: list[ScriptedModel] = []
        """In memory now."""

    def say(self, *steps: ScriptStep | str) -> None:
        """Queue a script for the next call that has none; a string is `Text`."""
        self.queue.append([Text(step) if isinstance(step, str) else step for step in steps])

    def script_for(self, call: Call, model: Model) -> Script:
        """The script of a call: from the queue, the rule, or the default."""
        if self.queue:
            return self.queue.popleft()
        script = self.rule(call) if self.rule else None
        return default_script(call, reasoning=model.reasoning) if script is None else script

    async def load(
        self,
        model: Model,
        *,
        context_length: int,
        parallel: int,
        on_progress: Callable[[float], None],
        config: Mapping[str, Any] | None = None,
    ) -> "ScriptedModel":
        """Load a model, as `loading` says; whatever `config` asks for is granted.

        Raises:
            EngineError: kind `load`, if `loading` says so or there is no such model.
        """
        if model not in self.models:
            raise EngineError(f"Failed to load the model: {model.key} is not there", kind="load")
        loading = self.loading.get(model.key, Loading())
        on_progress(0.0)
        for step in range(1, loading.steps + 1):
            await self.time.spend(loading.seconds / loading.steps)
            if step < loading.steps:
                on_progress(step / loading.steps)
        if loading.fail is not None:
            raise EngineError(loading.fail, kind="load")
        on_progress(1.0)
        loaded = ScriptedModel(self, model, min(context_length, model.max_context_length), parallel, config or {})
        self.loaded.append(loaded)
        return loaded


class ScriptedModel:
    """A scripted model in memory; a `LoadedModel`."""

    def __init__(
        self, engine: ScriptedEngine, model: Model, context_length: int, parallel: int, config: Mapping[str, Any]
    ) -> None:
        self._engine = engine
        self.model = model
        self.context_length = context_length
        self.parallel = parallel
        self.load_config = load_config(model, parallel, config)
        self.pid = os.getpid()
        self.running = 0
        """Generations under way."""
        self.most_running = 0
        """The highest that `running` ever was."""
        self._ended: str | None = None

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt, by the model's template or another."""
        self._require_alive()
        if template is None and not self.model.template:
            raise EngineError(f"{self.model.key} has no chat template", kind="template")
        known = variables if self.model.reasoning else None
        template = template or self.model.template
        return render(template, messages, tools=tools, eos_token="<|im_end|>", variables=known)

    async def tokenize(self, text: str) -> list[int]:
        """Tokens of a text."""
        self._require_alive()
        if len(text) > _LONG_TEXT:  # others are to be answered meanwhile
            return await asyncio.to_thread(word_tokens.tokenize, text)
        return word_tokens.tokenize(text)

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        self._require_alive()
        return word_tokens.detokenize(tokens)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Step, None]:
        """Play the script of this call."""
        self._require_alive()
        if self.model.type == "embedding":
            raise EngineError(f"{self.model.key} is an embedding model, it generates no text")
        call = Call(self.model.key, word_tokens.detokenize(prompt), tuple(prompt), sampling)
        self._engine.calls.append(call)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            if len(prompt) >= self.context_length:
                raise EngineError(
                    f"The prompt has {len(prompt)} tokens, the context window {self.context_length}", kind="context"
                )
            async with aclosing(self._play(call)) as steps:
                async for step in steps:
                    yield step
            call.ended = "finished"
        except EngineError as error:
            call.ended = "failed"
            if error.kind == "crashed" and self._ended is None:
                self._end(str(error))
            raise
        finally:
            call.ended = call.ended or "closed"
            self.running -= 1

    async def _play(self, call: Call) -> AsyncGenerator[Step, None]:
        script = list(self._engine.script_for(call, self.model))
        total = len(call.tokens)
        prefill = script[0] if script and isinstance(script[0], Prefill) else Prefill(total * PREFILL_S)
        cached = min(prefill.cached, max(total - 1, 0))  # the last token is always processed
        now = self._engine.time.now
        started = now()
        yield Progress(cached, total, cached)
        for part in range(1, prefill.steps + 1):
            await self._spend(prefill.seconds / prefill.steps)
            yield Progress(cached + (total - cached) * part // prefill.steps, total, cached)
        prompted = now()
        output = Output(call, room=self.context_length - total)
        end = output.full()
        for move in moves(script) if end is None else ():
            match move:
                case Stall(seconds):
                    await self._spend(seconds)
                case Fail(message, kind):
                    raise EngineError(message, kind=kind)
                case End(reason):
                    end = reason
                case Token():
                    yield output.take(move)
                    end = output.full()
            if end:
                break
        for piece in output.rest():
            yield piece
        reason = end or "eos"
        yield Finish(
            reason=reason,
            stop_string=output.stopped,
            prompt_tokens=total,
            cached_tokens=cached,
            predicted_tokens=len(call.generated) + (reason == "eos"),
            prompt_s=prompted - started,
            predicted_s=now() - prompted,
            drafted=_drafted(script, call, output.accepted),
        )

    async def _spend(self, seconds: float) -> None:
        await self._engine.time.spend(seconds)
        self._require_alive()

    async def embed(self, text: str) -> tuple[list[float], int]:
        """An embedding that is the same in every run; texts that share words are near each other."""
        self._require_alive()
        if self.model.type != "embedding":
            raise EngineError(f"{self.model.key} is no embedding model")
        tokens = word_tokens.tokenize(text)
        if len(tokens) > self.context_length:
            raise EngineError(f"The text has {len(tokens)} tokens, the context {self.context_length}", kind="context")
        await self._spend(len(tokens) * PREFILL_S)
        sums = [0.0] * _DIMENSIONS
        for token in tokens or [word_tokens.BEGIN]:
            for at, byte in enumerate(hashlib.blake2b(str(token).encode(), digest_size=_DIMENSIONS).digest()):
                sums[at] += byte - 127.5
        length = math.sqrt(sum(value * value for value in sums))
        return [value / length for value in sums], len(tokens)

    async def unload(self) -> None:
        """Free it; what is being generated fails with its next token."""
        self._end("unloaded")

    def crash(self, message: str = _CRASHED) -> None:
        """Let it be gone, as after a crash in native code."""
        self._end(message)

    def ended(self) -> str | None:
        """Why it is gone."""
        return self._ended

    def _end(self, why: str) -> None:
        self._ended = self._ended or why
        if self in self._engine.loaded:
            self._engine.loaded.remove(self)

    def _require_alive(self) -> None:
        if self._ended is not None:
            raise EngineError(self._ended, kind="crashed")
