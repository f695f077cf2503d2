"""Pairs calls with the events of the engine's log, by what they contain. Pure.

Facts (lmstudio-api.md 5.10)
----------------------------
* Events carry no request id. Inputs of concurrent calls come with equal times, outputs in any order, some not at all:
  nothing is concluded from their order.
* `Generated prediction: {json}` in `server.log` has the HTTP answer's id, and comes beside the output.

How it is decided
-----------------
1. Each event is given to the calls that explain it best (`proxy.prompt.candidates`), also if they are several.
2. What is the only possibility is a pair; what others lose thereby may leave the only possibility, and so on.
3. Of calls left with events whose text is the same, each gets one of them: the text is right whichever it is. Where
   texts differ, or events are fewer than calls, none is given.
4. Outputs that are alike are told apart by the line with the response's id, by the input which they end, or not at all.
5. Calls of which each began when the one before had ended, with as many events alike, have these in their order.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from proxy.prompt.candidates import input_candidates, links, may_have_ended, output_candidates
from proxy.prompt.elimination import Edges, components, forced_pairs
from proxy.prompt.likeness import is_said, model_rank, said_by_call, said_by_output
from proxy.prompt.log_facts import (
    CallFacts,
    GeneratedLine,
    InputEvent,
    Matching,
    OutputEvent,
    Pairing,
    Unproxied,
)

__all__ = [
    "CallFacts",
    "GeneratedLine",
    "InputEvent",
    "Matching",
    "OutputEvent",
    "Pairing",
    "Unproxied",
    "match",
]

_LINE_US = 50_000
"""So near is a response's line to its output, and no other output as near as twice that."""
_MOST_RIVALS = 32
_EXACT_MODEL = 2
_SURE, _LIKELY, _ALIKE = 1.0, 0.9, 0.5
_OTHER_NAME = 0.7
_BY_TIME = 0.7
_NO_EVENT = "no event of the engine's log came in its time"
_NO_TEXT = "it has no text by which its prompt could be found"
_NOT_IN_ANY = "prompts came in its time, but none of them ends with its last message"
_ENDED_OTHERWISE = "by the log's times, the prompt that ends with its last message led to another answer"
_BEFORE_ENGINE = "it seems to have failed before the engine: there is neither an answer nor an event"
_SEVERAL = "several prompts of the log might be its own, and nothing tells which"
_TOO_FEW = "several calls asked the same at the same time, and the log has fewer prompts: nothing tells whose they are"
_NO_OUTPUT = "the log has no output that is its answer"
_ALIKE_OUTPUTS = "several outputs of the log might be its own, and nothing tells which"


def match(
    calls: Sequence[CallFacts],
    inputs: Sequence[InputEvent],
    outputs: Sequence[OutputEvent],
    lines: Sequence[GeneratedLine],
) -> Matching:
    """Which events belong to which call, and which to none.

    Every sequence may be in any order. Costs grow nearly linearly unless very many calls run at the same time.
    """
    return _Match(calls, inputs, outputs, lines).result()


@dataclass(slots=True)
class _Found:
    """Of one kind of event, what is decided."""

    pairs: dict[int, int] = field(default_factory=dict)
    """Event id by call id."""
    rivals: Edges = field(default_factory=dict)
    """By call: what it might be as well."""
    sharers: dict[int, int] = field(default_factory=dict)
    """By call: how many calls asked the same, where that leaves a doubt."""


class _Match:
    def __init__(
        self,
        calls: Sequence[CallFacts],
        inputs: Sequence[InputEvent],
        outputs: Sequence[OutputEvent],
        lines: Sequence[GeneratedLine],
    ) -> None:
        self._calls = {call.id: call for call in calls}
        self._inputs = {event.id: event for event in inputs}
        self._outputs = {event.id: event for event in outputs}
        self._lines = lines
        self._lines_by_text: dict[str | None, list[int]] = defaultdict(list)
        """When each text was said in a line, blanks apart; None: of lines without a text."""
        for line in lines:
            self._lines_by_text[_bare(line.text) if line.text is not None else None].append(line.at_us)
        self._outputs_of, self._inputs_of = links(inputs, outputs)
        self._said = output_candidates(calls, outputs)
        self._asked, self._ranks = input_candidates(calls, inputs)
        self._claimants: Edges = defaultdict(set)
        for call_id, found in self._said.items():
            for output in found:
                self._claimants[output].add(call_id)
        self._input = _Found()
        self._output = _Found()
        self._by_order: set[int] = set()
        """Calls with events which only the order tells from others: nearly sure."""
        self._undecided: set[int] = set()
        self._contradicted: Edges = {}
        self._doubted: set[int] = set()
        """Inputs taken from a call for the times of its answer: whose they are then is not quite sure."""

    def result(self) -> Matching:
        """All steps."""
        self._drop_contradicted()
        self._decide_inputs()
        self._decide_outputs()
        times = sorted([*(one.at_us for one in self._inputs.values()), *(one.at_us for one in self._outputs.values())])
        pairings = [self._pairing(call, times) for call in self._calls.values()]
        return Matching(pairings, list(self._unproxied()))

    def _drop_contradicted(self) -> None:
        """Take prompts away from a call whose prediction, by the times, became another answer than the call's.

        Where that settles nothing (events may be lost, times may agree by accident) they stay.
        """
        for call_id, found in self._asked.items():
            before = set(found)
            if len(before) > _MOST_RIVALS:  # they are alike, or else nothing can be told
                continue
            call, said = self._calls[call_id], self._said.get(call_id, set())
            led = {event for event in found if self._outputs_of.get(event, set()) & said}
            if led and all(self._claimants[output] == {call_id} for output in said):
                found.intersection_update(led)
            elif said and not led:
                others = {event for event in found if self._has_own_end(event)}
                found.difference_update(others)
                self._doubted |= others
            if call.input_tokens is not None:
                found.difference_update([event for event in found if self._is_other_length(event, call.input_tokens)])
            if before and not found:
                self._contradicted[call_id] = before
                if not said:  # its own output may be lost, and the times agree by accident
                    self._undecided |= before

    def _has_own_end(self, event: int) -> bool:
        """Whether an output ends this prompt's prediction and can end no other one's."""
        return any(self._inputs_of[output] == {event} for output in self._outputs_of.get(event, ()))

    def _is_other_length(self, event: int, tokens: int) -> bool:
        counts = {self._outputs[output].prompt_tokens for output in self._outputs_of.get(event, ())}
        return bool(counts) and None not in counts and tokens not in counts

    def _decide_inputs(self) -> None:
        edges = {call: set(found) for call, found in self._asked.items() if found}
        self._input.pairs = forced_pairs(edges)
        for component in components(edges):
            found = set().union(*(edges[call] for call in component))
            texts = {self._inputs[event].text for event in found}
            ordered = self._in_order(component, found, edges, self._inputs) if len(texts) == 1 else {}
            if ordered:
                self._input.pairs |= ordered
                self._by_order |= ordered.keys()
                continue
            wanting = component
            if len(wanting) > len(found):  # some did not get as far as the engine, or events are lost
                wanting = [call for call in component if call in self._said or self._calls[call].answer]
            if len(texts) == 1 and len(wanting) <= len(found):
                self._share(wanting, edges, found)
            if len(texts) > 1 or not self._input.pairs.keys() >= set(component):
                self._undecided |= found
            for call in component:
                self._input.sharers[call] = len(component)
                self._input.rivals[call] = edges[call] - {self._input.pairs.get(call)}

    def _in_order(
        self,
        calls: Sequence[int],
        found: set[int],
        edges: Edges,
        events: Mapping[int, InputEvent] | Mapping[int, OutputEvent],
    ) -> dict[int, int]:
        """As many events as calls one after the other: each has its own, in the order of the engine's clock."""
        one_by_one = sorted(calls, key=lambda call: self._calls[call].started_us)
        in_time = sorted(found, key=lambda event: events[event].timestamp_ms)
        is_sequence = all(
            self._calls[one].ended_us <= self._calls[after].started_us for one, after in pairwise(one_by_one)
        )
        pairs = dict(zip(one_by_one, in_time, strict=False))
        is_possible = all(event in edges[call] for call, event in pairs.items())
        return pairs if is_sequence and is_possible and len(calls) == len(found) > 1 else {}

    def _share(self, calls: Sequence[int], edges: Edges, found: set[int]) -> None:
        """Give each call one event; all have the same text. The call that ends first chooses first."""
        left = sorted(found, key=lambda event: self._inputs[event].at_us)
        for call in sorted(calls, key=lambda one: self._calls[one].ended_us):
            own = next((event for event in left if event in edges[call]), None)
            if own is not None:
                left.remove(own)
                self._input.pairs[call] = own

    def _is_sure(self, call_id: int) -> bool:
        if self._input.pairs.get(call_id) in self._doubted:
            return False
        return call_id in self._input.pairs and not self._input.rivals.get(call_id)

    def _decide_outputs(self) -> None:
        by_line = self._by_line()
        taken = set(by_line.values())
        edges: Edges = {}
        for call, found in self._said.items():
            if call in by_line:
                continue
            possible = {output for output in found - taken if self._may_end(output, call)}
            if possible:
                edges[call] = possible
        forced = forced_pairs(edges)
        for component in components(edges):
            left = set().union(*(edges[call] for call in component))
            ordered = self._in_order(component, left, edges, self._outputs)
            forced |= ordered
            self._by_order |= ordered.keys()
            for call in ordered:
                del edges[call]
        self._output.pairs = by_line | {call: one for call, one in forced.items() if self._is_consistent(one, call)}
        self._output.rivals = edges
        self._by_time_alone()

    def _may_end(self, output: int, call: int) -> bool:
        """False if the output ends the prompt of another call that may have it.

        That can be told only where the prompts of all such calls are known: otherwise it may end one that is lost.
        """
        rivals = self._claimants[output]
        if not all(map(self._is_sure, rivals)):
            return True
        begun = self._inputs_of.get(output, set())
        return self._input.pairs[call] in begun or not any(self._input.pairs[one] in begun for one in rivals)

    def _is_consistent(self, output: int, call: int) -> bool:
        """Whether the output may end the call's own prompt, as far as that and the times are known."""
        if not self._is_sure(call):
            return True
        own, begun = self._input.pairs[call], self._inputs_of.get(output, set())
        return own in begun or not (begun or self._outputs_of.get(own))

    def _by_line(self) -> dict[int, int]:
        """Outputs that a line with the response's id stands beside, and no other one."""
        lines = {line.response_id: line for line in self._lines}
        found: dict[int, int] = {}
        for call, outputs in self._said.items():
            line = lines.get(self._calls[call].response_id or "")
            if line is None:
                continue
            near = [one for one in outputs if abs(self._outputs[one].at_us - line.at_us) <= 2 * _LINE_US]
            if len(near) != 1 or abs(self._outputs[near[0]].at_us - line.at_us) > _LINE_US:
                continue
            (output,) = near
            others = self._lines_by_text[None] + self._lines_by_text[_bare(self._outputs[output].text)]
            if sum(abs(other - line.at_us) <= 2 * _LINE_US for other in others) == 1:
                found[call] = output
        counts = Counter(found.values())
        return {call: output for call, output in found.items() if counts[output] == 1}

    def _by_time_alone(self) -> None:
        """Outputs of calls cut short with hardly any answer: what alone ends their own prompt, and no other."""
        claimed = set().union(*self._said.values(), self._output.pairs.values())
        for call_id, event in self._input.pairs.items():
            call = self._calls[call_id]
            ends = self._outputs_of.get(event, set())
            if call_id in self._said or not call.is_cut_short or len(ends) != 1:
                continue
            (output,) = ends
            event_of = self._outputs[output]
            if (
                self._is_sure(call_id)
                and self._inputs_of[output] == {event}
                and output not in claimed
                and may_have_ended(call, event_of)
                and is_said(call, said_by_call(call), event_of, said_by_output(event_of))
            ):
                self._output.pairs[call_id] = output

    def _pairing(self, call: CallFacts, times: list[int]) -> Pairing:
        input_id, output_id = self._input.pairs.get(call.id), self._output.pairs.get(call.id)
        input_rivals = self._input.rivals.get(call.id, self._contradicted.get(call.id, set())) - {input_id}
        output_rivals = self._output.rivals.get(call.id, set()) - {output_id}
        reasons = []
        if input_id is None:
            reasons.append(self._why_no_input(call, times))
        elif input_rivals or call.id in self._input.sharers:
            count = self._input.sharers.get(call.id, 1)
            reasons.append(
                f"ambiguous: {count} calls sent the same at the same time; the prompt is the same for each"
                if count > 1
                else "ambiguous: the log has the same prompt several times at that time"
            )
        elif self._ranks[input_id] < _EXACT_MODEL:
            reasons.append(f"the log calls the model {self._inputs[input_id].model}")
        if output_id is None and output_rivals:
            reasons.append(_ALIKE_OUTPUTS)
        elif output_id is None and self._outputs and input_id is not None:
            reasons.append(_NO_OUTPUT)
        return Pairing(
            call_id=call.id,
            input_id=input_id,
            input_confidence=self._input_confidence(call.id, input_id, input_rivals),
            input_rivals=tuple(sorted(input_rivals)[:_MOST_RIVALS]),
            output_id=output_id,
            output_confidence=self._output_confidence(call, output_id),
            output_rivals=tuple(sorted(output_rivals)[:_MOST_RIVALS]) if output_id is None else (),
            why="; ".join(reasons) or None,
        )

    def _input_confidence(self, call_id: int, input_id: int | None, rivals: set[int]) -> float:
        if input_id is None:
            return 0.0
        named = _SURE if self._ranks[input_id] == _EXACT_MODEL else _OTHER_NAME
        if rivals or call_id in self._input.sharers:
            return named * _ALIKE
        if call_id in self._by_order:
            return named * _LIKELY
        output = self._output.pairs.get(call_id) if input_id not in self._doubted else None
        # Content alone is nearly always right; the answer beside it leaves no doubt.
        return named if output is not None and input_id in self._inputs_of.get(output, ()) else named * _LIKELY

    def _output_confidence(self, call: CallFacts, output_id: int | None) -> float:
        if output_id is None:
            return 0.0
        if call.id not in self._said:
            return _BY_TIME
        output = self._outputs[output_id]
        named = _SURE if model_rank(call, output) == _EXACT_MODEL else _OTHER_NAME
        is_counted = call.output_tokens is not None and output.predicted_tokens is not None
        is_sure = is_counted and not call.is_cut_short and call.id not in self._by_order
        return named if is_sure else named * _LIKELY

    def _why_no_input(self, call: CallFacts, times: list[int]) -> str:
        if self._asked.get(call.id):
            is_too_few = self._input.sharers.get(call.id, 1) > len(self._asked[call.id])
            return _TOO_FEW if is_too_few else _SEVERAL
        if call.id in self._contradicted:
            return _ENDED_OTHERWISE
        first = bisect_left(times, call.started_us)
        is_any = first < len(times) and times[first] <= call.ended_us + 2_500_000
        if not call.answer and not call.tool_calls and not call.is_cut_short:
            return _BEFORE_ENGINE
        if not is_any:
            return _NO_EVENT
        return _NOT_IN_ANY if any(text.strip() for text in call.texts) else _NO_TEXT

    def _unproxied(self) -> "list[Unproxied]":
        """Events that are no call's, nor might be: prompts with the outputs that end them, then outputs alone."""
        used = self._undecided.union(self._input.pairs.values())
        said = set(self._output.pairs.values()).union(*self._output.rivals.values())
        free = {event: self._outputs_of.get(event, set()) - said for event in self._inputs if event not in used}
        edges = {event: set(ends) for event, ends in free.items() if ends}
        pairs = forced_pairs(edges)
        result = []
        for event in free:
            output = pairs.get(event)
            rivals = tuple(sorted(edges.get(event, ()))[:_MOST_RIVALS]) if output is None else ()
            result.append(
                Unproxied(
                    input_id=event,
                    output_id=output,
                    confidence=0.0 if output is None else _BY_TIME,
                    rivals=rivals,
                )
            )
        maybe = set(pairs.values()).union(*edges.values())
        for output in self._outputs:
            # What ends a call's prompt is that call's, although its text is not the answer.
            if output not in said and output not in maybe and not self._inputs_of.get(output, set()) & used:
                result.append(Unproxied(input_id=None, output_id=output, confidence=0.0, rivals=()))
        return result


def _bare(text: str) -> str:
    """Without its blanks."""
    return "".join(text.split())
