"""One prediction, from messages to statistics: what every surface that generates has in common.

A surface makes an `Ask`, and turns the events of `Lookalike.predict` into its own dialect.
"""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from proxy.demo import output_parser as out
from proxy.demo.catalog import Instance, runtime_event
from proxy.demo.engine import Drafted, EngineError, Finish, Message, Piece, Progress, Sampling
from proxy.demo.overflow import ContextOverflowError, Fitted, fit, shifted
from proxy.demo.parameters import OVERFLOW, REASONING_PARSING, TEMPLATE, Layer, sampling_of, template_variables
from proxy.demo.stats import STOP_REASONS, Stats, timing_lines
from proxy.demo.templates import as_jinja, with_tool_prompt

if TYPE_CHECKING:
    from proxy.demo.lookalike import Lookalike


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is to be predicted."""

    messages: Sequence[Message] = ()
    prompt: str | None = None
    """Raw text instead of messages: no template is applied."""
    tools: Sequence[dict[str, Any]] = ()
    """OpenAI's nested form: `{"type": "function", "function": {"name", "description", "parameters"}}`."""
    tool_choice: str = "auto"
    """`auto`, `none`, `required`, or a tool's name."""
    layer: Layer = field(default_factory=dict)
    """The request's own parameters."""
    preset: str | None = None
    overflow: str | None = None
    """A policy, or `refuse`; None: the configuration's."""
    is_streamed: bool = False
    is_sdk: bool = False
    """Its parameters are an `apiOverride`: they win over everything, whatever the switches say."""
    ignores_server_session: bool = False


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: the prompt is rendered and fits."""

    prompt: str
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Done:
    """The last event."""

    text: str
    """What is neither reasoning nor a tool call."""
    reasoning: str
    tool_calls: tuple[out.ToolCallEnd, ...]
    stats: Stats
    config: Layer
    """In force, all layers merged."""


Event = Started | Progress | out.Event | Done


@dataclass(slots=True)
class _Tally:
    """What is counted while it runs."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[out.ToolCallEnd] = field(default_factory=list)
    whole: list[str] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Those that the engine has not told of yet by a `Finish`."""
    reasoning_tokens: int = 0
    predicted: int = 0
    generation_s: float = 0.0
    first_s: float | None = None
    round_s: float | None = None
    """When the first piece came that the engine has not told of yet by a `Finish`."""
    cached: int = 0
    drafted: Drafted | None = None

    def take(self, event: out.Event) -> None:
        if isinstance(event, out.ToolCallEnd):
            self.calls.append(event)
        elif isinstance(event, out.ToolCallFailed):
            self.text.append(event.raw)
        elif isinstance(event, out.Text) and event.reasoning == "none":
            self.text.append(event.content)
        elif isinstance(event, out.Text):
            self.reasoning_tokens += event.tokens
            if event.reasoning == "reasoning":
                self.reasoning.append(event.content)


class Prediction:
    """One run of one ask on one instance."""

    def __init__(self, lookalike: "Lookalike", instance: Instance, ask: Ask) -> None:
        """Nothing happens before `events`."""
        self._lookalike = lookalike
        self._instance = instance
        self._ask = ask
        self._clock: Callable[[], float] = lookalike.engine.clock.now
        self._tally = _Tally()
        self._prompt = ""
        self._prompt_tokens = 0
        self._kept = 0
        self._started_s = 0.0
        self._is_told = False
        self._is_over = False
        self.config = lookalike.config(instance.model, ask)
        """In force, all layers merged."""

    async def events(self) -> AsyncGenerator[Event, None]:
        """Everything in order. Closing the iterator stops the model.

        Raises:
            EngineError: before anything was generated, or in the middle.
            ContextOverflowError: the prompt is too long and may not be cut.
        """
        instance, log = self._instance, self._lookalike.log
        about = "text" if self._ask.prompt is not None else f"conversation with {len(self._ask.messages)} messages"
        log.server(f"Running chat completion on {about}.", model=instance.identifier)
        with instance.in_use(self._clock) as place:
            async with place:
                try:
                    async with aclosing(self._run()) as events:
                        async for event in events:
                            yield event
                except BaseException as error:
                    if (
                        not isinstance(error, Exception) and not self._is_over
                    ):  # cancelled or closed: whoever asked has gone
                        log.server(
                            "Client disconnected. Stopping generation... "
                            "(If the model is busy processing the prompt, it will finish first.)",
                            model=instance.identifier,
                        )
                        self._tell_output(self._stats("userStopped", None))
                    self._lookalike.release_output()
                    self._lookalike.catalog.drop_dead(instance)
                    raise

    def cancelled(self, reason: str = "userStopped") -> Done:
        """The end of a prediction whose events ended early: by the client's word (`cancel`), or `modelUnloaded`."""
        return self._done(self._stats(reason, None))

    async def _run(self) -> AsyncGenerator[Event, None]:
        instance = self._instance
        instance.status = "processingPrompt"
        ask, config = self._ask, self.config
        policy = ask.overflow or str(config.get(OVERFLOW))
        forced = ask.tool_choice not in ("auto", "none") and bool(ask.tools)
        tokens = await self._tokens(policy, forced=forced)
        sampling = sampling_of(config)
        if forced:
            sampling = replace(sampling, json_schema=_schema_of_call(ask))
        self._started_s = self._clock()
        self._tell_input()
        yield Started(self._prompt, len(tokens))
        parsing = config.get(REASONING_PARSING) or {}
        parser = out.OutputParser(
            reasoning=(parsing["startString"], parsing["endString"]) if parsing.get("enabled") else None,
            has_tools=bool(ask.tools) and ask.tool_choice != "none",
            is_inside_call=forced,
        )
        if forced:
            for event in parser.feed("", 0):
                yield event
        finish = None
        async with aclosing(self._generate(tokens, sampling, policy)) as steps:
            async for step in steps:
                if isinstance(step, Finish):
                    finish = step
                elif isinstance(step, Progress):
                    yield step
                else:
                    for event in self._piece(step, parser):
                        yield event
        if finish is None:
            raise EngineError("The model has crashed without additional information.", kind="crashed")
        for event in parser.end():
            self._tally.take(event)
            yield event
        reason = "toolCalls" if self._tally.calls else STOP_REASONS[finish.reason]
        stats = self._stats(reason, finish.stop_string)
        self._tell_output(stats)
        self._is_over = True
        yield self._done(stats)

    async def _generate(
        self, tokens: list[int], sampling: Sampling, policy: str
    ) -> AsyncGenerator[Progress | Piece | Finish, None]:
        """The engine's steps; where the context gets full and the policy cuts it, the generation goes on."""
        tally, is_first = self._tally, True
        while True:
            finish: Finish | None = None
            async with aclosing(self._instance.loaded.generate(tokens, sampling)) as steps:
                async for step in steps:
                    if isinstance(step, Finish):
                        finish = step
                    elif is_first or isinstance(step, Piece):
                        yield step
            if finish is None:
                return
            told, tally.tokens, tally.round_s = tally.tokens, [], None
            tally.predicted += finish.predicted_tokens
            tally.generation_s += finish.predicted_s
            if finish.drafted is not None:
                tally.drafted = finish.drafted if tally.drafted is None else tally.drafted + finish.drafted
            tally.cached = tally.cached or finish.cached_tokens
            self._tell_timings(finish)
            if finish.reason != "context" or policy in ("refuse", "stopAtLimit"):
                yield finish
                return
            is_first = False
            sampling = _less(sampling, finish.predicted_tokens)
            tokens = shifted([*tokens, *told], 0 if policy == "rollingWindow" else self._kept)

    async def _tokens(self, policy: str, *, forced: bool) -> list[int]:
        """The prompt's tokens, cut by the policy where they are too many; sets what the log tells."""
        loaded, ask = self._instance.loaded, self._ask
        if ask.prompt is not None:
            fitted = await self._fitted_text(ask.prompt, policy)
        else:
            fitted = await self._fitted_messages(policy, forced=forced)
        self._kept = fitted.kept
        self._prompt = await loaded.detokenize(fitted.tokens) if fitted.is_cut else fitted.prompt
        self._prompt_tokens = len(fitted.tokens)
        return fitted.tokens

    async def _fitted_text(self, text: str, policy: str) -> Fitted:
        loaded = self._instance.loaded
        tokens = await loaded.tokenize(text)
        if len(tokens) < loaded.context_length:
            return Fitted(text, tokens, 0)
        if policy in ("refuse", "stopAtLimit"):
            raise ContextOverflowError(len(tokens), loaded.context_length)
        return Fitted(text, shifted(tokens, 0, loaded.context_length * 3 // 4), 0, is_cut=True)

    async def _fitted_messages(self, policy: str, *, forced: bool) -> Fitted:
        loaded, ask, model = self._instance.loaded, self._ask, self._instance.model
        messages, tools = list(ask.messages), list(ask.tools) if ask.tool_choice != "none" else []
        if tools and not model.trained_for_tool_use:
            messages, tools = with_tool_prompt(messages, tools), []
        template = as_jinja(self.config.get(TEMPLATE), model.template)
        variables = template_variables(self.config)
        tail = out.TOOL_MARKERS[0][0] if forced else ""

        async def render(some: Sequence[Message]) -> tuple[str, list[int]]:
            prompt = await loaded.render(some, tools=tools or None, template=template, variables=variables) + tail
            return prompt, await loaded.tokenize(prompt)

        return await fit(render, messages, policy, loaded.context_length)

    def _piece(self, piece: Piece, parser: out.OutputParser) -> list[out.Event]:
        tally = self._tally
        tally.round_s = tally.round_s or self._clock()
        if tally.first_s is None:
            tally.first_s = self._clock() - self._started_s
            self._instance.status = "generating"
            if self._ask.is_streamed:
                self._lookalike.log.server(
                    "First token generated. Continuing to stream response..", model=self._instance.identifier
                )
        tally.whole.append(piece.text)
        tally.tokens += piece.tokens
        events = parser.feed(piece.text, len(piece.tokens), is_drafted=piece.is_drafted)
        for event in events:
            tally.take(event)
        return events

    def _stats(self, reason: str, stop_string: str | None) -> Stats:
        tally, behaviour = self._tally, self._lookalike.behaviour
        predicted = tally.predicted + len(tally.tokens)
        if behaviour.length_counts_one_less and reason == "maxPredictedTokensReached":
            predicted -= 1
        total_s = tally.generation_s
        if tally.round_s is not None:  # stopped in the middle: the engine's own time never came
            total_s += self._clock() - tally.round_s
        generation_s = total_s
        if behaviour.total_time == "whole":
            total_s += tally.first_s or 0.0
        return Stats(
            reason,
            stop_string,
            self._prompt_tokens,
            predicted,
            tally.reasoning_tokens,
            tally.cached,
            tally.first_s,
            generation_s,
            total_s,
            tally.drafted,
        )

    def _done(self, stats: Stats) -> Done:
        tally = self._tally
        return Done("".join(tally.text), "".join(tally.reasoning), tuple(tally.calls), stats, self.config)

    def _tell_input(self) -> None:
        if self._lookalike.behaviour.prediction_log:
            instance = self._instance
            event = {"modelIdentifier": instance.identifier, "modelPath": instance.model.path, "input": self._prompt}
            self._lookalike.log.put({"type": "llm.prediction.input", **event})

    def _tell_output(self, stats: Stats) -> None:
        if self._is_told or not self._prompt or not self._lookalike.behaviour.prediction_log:
            return
        self._is_told = True
        self._lookalike.tell_output(
            {
                "type": "llm.prediction.output",
                "modelIdentifier": self._instance.identifier,
                "output": "".join(self._tally.whole),
                "stats": stats.sdk(),
            },
            is_alone=self._instance.in_line < 2,
        )

    def _tell_timings(self, finish: Finish) -> None:
        self._lookalike.log.put(runtime_event(self._lookalike.engine, self._instance, timing_lines(finish)))


def _less(sampling: Sampling, predicted: int) -> Sampling:
    """The same for the rest of an answer that goes on after the context was cut."""
    if sampling.max_tokens is None:
        return sampling
    return replace(sampling, max_tokens=max(0, sampling.max_tokens - predicted))


def _schema_of_call(ask: Ask) -> dict[str, Any]:
    """What a forced tool call must look like."""
    functions = [tool["function"] for tool in ask.tools]
    if ask.tool_choice != "required":
        functions = [one for one in functions if one["name"] == ask.tool_choice] or functions
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": one["name"]},
                "arguments": one.get("parameters") or {"type": "object", "properties": {}},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for one in functions
    ]
    return calls[0] if len(calls) == 1 else {"anyOf": json.loads(json.dumps(calls))}
