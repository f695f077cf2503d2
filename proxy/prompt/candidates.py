"""Which events might be whose: by content and time, without comparing every call with every event. Pure.

Facts (lmstudio-api.md 5.10, 6.2, 10.4)
---------------------------------------
* An event is emitted while its call runs; it reaches us up to about two seconds later.
* The input's timestamp is the start of prompt processing, the output's the end. `totalTimeSec` is the generation alone
  in some versions, in others all of it: both are tried.
* After a client left, the prompt may be processed to its end before the output comes.
"""

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from proxy.prompt.elimination import Edges
from proxy.prompt.likeness import (
    LONGEST_TAIL,
    Fit,
    Said,
    fit_prompt,
    is_exact,
    is_said,
    model_rank,
    said_by_call,
    said_by_output,
)
from proxy.prompt.log_facts import CallFacts, InputEvent, OutputEvent

_BEFORE_US = 250_000
_AFTER_US = 2_500_000
_AFTER_LEAVING_US = 30_000_000
_MEASURE_US = 100_000
"""By which durations of LM Studio and of ours may differ."""
_LINK_MS = 50.0
_LINK_SHARE = 0.05
_SHORTEST_BEGINNING = 8
"""So many characters of an answer that was cut short tell whose it is; fewer begin many an output."""
_LACKING_COSTS = 40
"""Characters, for each tool that a prompt lacks."""
_WORDS = 64
_FEW = 64
_TAILS = 200


@dataclass(slots=True)
class _Asked:
    """Calls that asked the same."""

    models: tuple[str, ...]
    texts: tuple[str, ...]
    is_raw: bool
    tools: tuple[str, ...]
    calls: list[CallFacts] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    longest_us: int = 0

    def open_at(self, at_us: int) -> list[CallFacts]:
        """Those during which an event may have been emitted that came at this time."""
        first = bisect_left(self.starts, at_us - self.longest_us - _AFTER_US)
        last = bisect_right(self.starts, at_us + _BEFORE_US)
        return [call for call in self.calls[first:last] if at_us <= call.ended_us + _AFTER_US]


@dataclass(slots=True)
class _Prompt:
    """Events with the same prompt for the same model."""

    event: InputEvent
    events: list[InputEvent] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    fits: list["_Fit"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a prompt fits calls."""

    rank: int
    """Of the model."""
    fit: Fit
    lacks_tools: int
    """How many of the calls' tools another prompt shows, and this one does not."""
    asked: _Asked

    @property
    def cost(self) -> int:
        """The smaller, the better the fit."""
        return self.fit.cost + _LACKING_COSTS * self.lacks_tools


def input_candidates(calls: Sequence[CallFacts], inputs: Sequence[InputEvent]) -> tuple[Edges, dict[int, int]]:
    """For each call the prompts that may be its own: those that no other call explains better.

    Returns:
        The candidates, and how well each event's best call names its model (2: exactly).
    """
    prompts = _prompts(inputs)
    index = _Words(prompts)
    tails: dict[tuple[str, str], bool] = {}
    for asked in _asked(calls):
        fits = []
        for prompt in index.holding(asked):
            text, rank = prompt.event.text, model_rank(asked.calls[0], prompt.event)
            fit = fit_prompt(asked.texts, text, is_raw=asked.is_raw, tools=asked.tools) if rank else None
            if fit is not None and (fit.is_clean or _is_usual(fit.tail, prompt, prompts, tails)):
                fits.append((prompt, rank, fit))
        # Some templates show no tools at all: only a prompt that shows them tells that another one lacks them.
        shown = max((fit.tools for _, _, fit in fits), default=0)
        for prompt, rank, fit in fits:
            prompt.fits.append(_Fit(rank, fit, shown - fit.tools, asked))
    edges: Edges = defaultdict(set)
    ranks: dict[int, int] = {}
    for prompt in prompts:
        prompt.fits.sort(key=lambda one: (-one.rank, one.cost))
        for event in prompt.events:
            for rank, call in _owners(prompt, event):
                edges[call.id].add(event.id)
                ranks[event.id] = rank
    for candidates in edges.values():  # another name of the model is tolerated where nothing better is there
        best = max(ranks[each] for each in candidates)
        candidates.intersection_update([each for each in candidates if ranks[each] == best])
    return edges, ranks


def _owners(prompt: _Prompt, event: InputEvent) -> Iterator[tuple[int, CallFacts]]:
    """The calls that explain the prompt best, of those that were running."""
    best: _Fit | None = None
    for one in prompt.fits:
        # One that lacks messages and yet explains more may be right as well.
        if best is not None and (
            one.rank < best.rank or (one.cost > best.cost and one.fit.unexplained >= best.fit.unexplained)
        ):
            continue
        running = one.asked.open_at(event.at_us)
        if running and best is None:
            best = one
        yield from ((one.rank, call) for call in running)


def _is_usual(tail: str, prompt: _Prompt, prompts: Iterable[_Prompt], known: dict[tuple[str, str], bool]) -> bool:
    """Whether most prompts of this model end so: then it is the template's end, strange as it looks."""
    if len(tail) > LONGEST_TAIL:
        return False
    key = (prompt.event.model, tail)
    if key not in known:
        others = list(islice((each for each in prompts if each.event.model == prompt.event.model), _TAILS))
        same = sum(each.event.text.endswith(tail) for each in others)
        known[key] = same >= 3 and same * 2 > len(others)
    return known[key]


def _asked(calls: Sequence[CallFacts]) -> list[_Asked]:
    found: dict[tuple[tuple[str, ...], tuple[str, ...], bool, tuple[str, ...]], _Asked] = {}
    for call in sorted(calls, key=lambda one: one.started_us):
        key = (call.models, call.texts, call.is_raw, call.tools)
        asked = found.setdefault(key, _Asked(*key))
        asked.calls.append(call)
        asked.starts.append(call.started_us)
        asked.longest_us = max(asked.longest_us, call.ended_us - call.started_us)
    return list(found.values())


def _prompts(inputs: Sequence[InputEvent]) -> list[_Prompt]:
    found: dict[tuple[str, str | None, str], _Prompt] = {}
    for event in sorted(inputs, key=lambda one: one.at_us):
        prompt = found.setdefault((event.model, event.model_path, event.text), _Prompt(event))
        prompt.events.append(event)
        prompt.times.append(event.at_us)
    return list(found.values())


class _Words:
    """Finds prompts by words that they hold."""

    def __init__(self, prompts: list[_Prompt]) -> None:
        self._prompts = prompts
        self._by_first_time = sorted(prompts, key=lambda one: one.times[0])
        self._holders: dict[str, list[_Prompt]] = defaultdict(list)
        for prompt in prompts:
            for word in set(re.findall(r"\w+", prompt.event.text)):
                self._holders[word].append(prompt)

    def holding(self, asked: _Asked) -> list[_Prompt]:
        """Those which came while such a call ran and which may hold the last text, or its end."""
        text = next((text for text in reversed(asked.texts) if text.strip()), "")
        # The first and the last word may be grown together with the template.
        words = re.findall(r"\w+", text[-4000:])[1:-1][-_WORDS:]
        found = [self._holders.get(word, []) for word in words]
        if found:
            whole = min(found, key=len)
            likely = {
                id(prompt): prompt
                for some in (whole, *(one for one in found[-8:] if len(one) <= _FEW))
                for prompt in some
            }
            return [prompt for prompt in likely.values() if self._is_in_time(prompt, asked)]
        return [prompt for prompt in self._prompts if self._is_in_time(prompt, asked)] if text else []

    @staticmethod
    def _is_in_time(prompt: _Prompt, asked: _Asked) -> bool:
        first = bisect_left(prompt.times, asked.starts[0] - _BEFORE_US)
        return first < len(prompt.times) and prompt.times[first] <= asked.starts[-1] + asked.longest_us + _AFTER_US


def output_candidates(calls: Sequence[CallFacts], outputs: Sequence[OutputEvent]) -> Edges:
    """For each call the outputs which can have become its answer; none for a call with hardly any answer."""
    by_text: dict[str, list[tuple[OutputEvent, Said]]] = defaultdict(list)
    for output in sorted(outputs, key=lambda one: one.at_us):
        said = said_by_output(output)
        by_text[said.text].append((output, said))
    texts = sorted(by_text)
    stopped = sorted({text for text in texts if any(one.stop_reason == "stopStringFound" for one, _ in by_text[text])})
    edges: Edges = defaultdict(set)
    for call in calls:
        answer = said_by_call(call)
        if not answer.tools and len(answer.text) < (_SHORTEST_BEGINNING if call.is_cut_short else 1):
            continue
        found = {answer.text} if answer.text in by_text else set()
        found.update(_beginning_with(answer.text, texts if call.is_cut_short else stopped))
        for text in found:
            for output, said in _during(call, by_text[text]):
                if model_rank(call, output) and is_said(call, answer, output, said):
                    edges[call.id].add(output.id)
    _prefer_exact(edges, {call.id: call for call in calls}, {output.id: output for output in outputs})
    return edges


def _prefer_exact(edges: Edges, calls: dict[int, CallFacts], outputs: dict[int, OutputEvent]) -> None:
    """Of answers that differ by little, as blanks or one token, each keeps what was written exactly so.

    A call loses an output that is exactly another call's answer, if it has one that is exactly its own.
    """
    exact = {
        (call_id, output_id)
        for call_id, found in edges.items()
        if len(found) > 1
        for output_id in found
        if is_exact(calls[call_id], outputs[output_id])
    }
    callers = {call_id for call_id, _ in exact}
    others = {output_id for _, output_id in exact}
    for call_id in callers:
        edges[call_id].difference_update([each for each in edges[call_id] & others if (call_id, each) not in exact])


def _beginning_with(start: str, texts: Sequence[str]) -> Iterator[str]:
    for at in range(bisect_left(texts, start), len(texts)):
        if not texts[at].startswith(start):
            return
        yield texts[at]


def _during(call: CallFacts, outputs: list[tuple[OutputEvent, Said]]) -> Iterator[tuple[OutputEvent, Said]]:
    until = call.ended_us + (_AFTER_LEAVING_US if call.is_cut_short else _AFTER_US)
    first = bisect_left(outputs, call.started_us - _BEFORE_US, key=lambda one: one[0].at_us)
    for output, said in islice(outputs, first, None):
        if output.at_us > until:
            return
        if may_have_ended(call, output):
            yield output, said


def may_have_ended(call: CallFacts, output: OutputEvent) -> bool:
    """Whether the output came in the call's time, and its generation took no longer than there was."""
    until = call.ended_us + (_AFTER_LEAVING_US if call.is_cut_short else _AFTER_US)
    took_us = int(max(output.ttft_s or 0.0, output.total_s or 0.0) * 1e6)
    if not call.started_us + took_us - _MEASURE_US - _BEFORE_US <= output.at_us <= until:
        return False
    return call.is_cut_short or took_us <= call.ended_us - call.started_us + _MEASURE_US


def links(inputs: Sequence[InputEvent], outputs: Sequence[OutputEvent]) -> tuple[Edges, Edges]:
    """Which output may be the end of which input's prediction, by LM Studio's own times: both ways.

    Outputs without a time to the first token are in none.
    """
    by_model: dict[str, list[InputEvent]] = defaultdict(list)
    for event in sorted(inputs, key=lambda one: one.timestamp_ms):
        by_model[event.model].append(event)
    outputs_of: Edges = defaultdict(set)
    inputs_of: Edges = defaultdict(set)
    for output in outputs:
        if output.ttft_s is None:
            continue
        told = output.total_s or 0.0
        for took_s in {output.ttft_s + told, max(output.ttft_s, told)}:
            begun_ms = output.timestamp_ms - took_s * 1000
            room_ms = _LINK_MS + took_s * 1000 * _LINK_SHARE
            of_model = by_model.get(output.model, [])
            first = bisect_left(of_model, begun_ms - room_ms, key=lambda one: one.timestamp_ms)
            for event in islice(of_model, first, None):
                if event.timestamp_ms > begun_ms + room_ms:
                    break
                outputs_of[event.id].add(output.id)
                inputs_of[output.id].add(event.id)
    return outputs_of, inputs_of
