"""What a reader costs grows no faster than what it reads: long bodies, long lists, many events, deep nesting.

Two measures, neither of them a time: how many functions are called (exact, so that little input is enough), and how
much longer the processor works for eight times as much (which also sees copies within one call; so it needs much).
"""

import dataclasses
import gc
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from proxy.read.reader import ResponseHead
from proxy.read.registry import BUILT_IN, Registry
from tests.read.mutated_cases import AT_US, CASES, documents, pieces
from tests.recordings.cases import Case

Json = Any
REGISTRY = Registry(BUILT_IN)
DIALECTS = sorted(CASES)
FACTOR = 8
"""How much more there is to read the second time."""
CALLS_SLACK, WORK_SLACK = 1.1, 2.0
"""What that may cost above the factor."""
BODY_BYTES, EVENTS = 40_000_000, 200_000
READ_BYTES = 65536
STREAM_TYPE = ResponseHead(200, (("Content-Type", "text/event-stream"),))


# --- measures ---------------------------------------------------------------------------------------------------------


def _calls(case: Case) -> int:
    """How many functions are called while it is read."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        case.read(REGISTRY)
    finally:
        sys.setprofile(None)
    return count


def _work_s(case: Case) -> float:
    """How long the processor works at it."""
    gc.collect()
    began = time.process_time()
    case.read(REGISTRY)
    return time.process_time() - began


def _check_calls(grown: Callable[[int], Case], little: int) -> None:
    _calls(grown(little))  # what is done once is done
    few, many = _calls(grown(little)), _calls(grown(little * FACTOR))
    assert many <= few * FACTOR * CALLS_SLACK, (few, many)


def _check_work(grown: Callable[[int], Case], much: int) -> None:
    few, many = grown(much // FACTOR), grown(much)
    _work_s(few)
    less, more = min(_work_s(few), _work_s(few)), _work_s(many)
    assert more <= less * FACTOR * WORK_SLACK, (less, more)


# --- cases that grow --------------------------------------------------------------------------------------------------


def _longest(value: Json, kind: type) -> Json:
    """The longest text or array in it that is to be found; None if there is none."""
    found = [value] if isinstance(value, kind) else []
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    found += [one for one in (_longest(each, kind) for each in below) if one is not None]
    return max(found, key=len, default=None)


def _with(value: Json, old: Json, new: Json) -> Json:
    """The same with one thing in it replaced."""
    if value is old:
        return new
    if isinstance(value, dict):
        return {name: _with(one, old, new) for name, one in value.items()}
    return [_with(one, old, new) for one in value] if isinstance(value, list) else value


def _cut(data: bytes) -> tuple[tuple[int, bytes], ...]:
    borders = [*range(0, len(data), READ_BYTES), len(data)]
    return tuple((AT_US, data[begin:end]) for begin, end in pairwise(borders))


def _grown(case: Case, kind: type, size: int, *, of_request: bool) -> Case | None:
    """The longest text or array of its request, or of what was answered, is that long; None if it has none."""
    found = documents(case)
    has_body = bool(case.body)
    chosen = found.values[:1] if of_request and has_body else found.values[has_body:]
    old = _longest(chosen, kind) if chosen else None
    if not old or old is chosen:
        return None
    new = (old * (size // len(old) + 1))[:size]
    grown = found.replaced(_with(found.values, old, new))
    return dataclasses.replace(grown, reads=_cut(b"".join(data for _, data in grown.reads)))


def _growing(dialect: str, kind: type, *, of_request: bool) -> list[Callable[[int], Case]]:
    """For each form of answer in which the dialect has such a thing, how one of its cases grows."""
    made: dict[bool, Callable[[int], Case]] = {}
    for case in CASES[dialect]:
        if _grown(case, kind, 1, of_request=of_request) is not None:
            streams = case.response is not None and "json;" not in case.response.field("content-type")
            made.setdefault(
                streams,
                lambda size, case=case: _grown(case, kind, size, of_request=of_request),  # type: ignore[misc]
            )
    return list(made.values())


def _repeated(case: Case, count: int) -> Case:
    """A stream, or a WebSocket's messages, in which so many events come: every one of it again and again, in order."""
    if case.messages:
        again = count // len(case.messages) + 1
        return dataclasses.replace(case, messages=tuple(one for one in case.messages for _ in range(again)))
    events = [head + data + tail for head, data, tail in pieces(case)]
    again = count // len(events) + 1
    return dataclasses.replace(case, reads=_cut(b"".join(event * again for event in events)))


def _streams(dialect: str) -> list[Case]:
    """The dialect's longest stream, if it has any, and its longest WebSocket."""
    streams = [case for case in CASES[dialect] if len(pieces(case)) > 3 or len(case.messages) > 3]
    return sorted(streams, key=lambda case: len(pieces(case)) + len(case.messages))[-1:]


STREAMING = [dialect for dialect in DIALECTS if _streams(dialect)]


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, list])
@pytest.mark.parametrize("of_request", [True, False], ids=["request", "answer"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_long_texts_and_lists_cost_calls_by_their_length(dialect: str, kind: type, of_request: bool) -> None:
    for grown in _growing(dialect, kind, of_request=of_request):
        _check_calls(grown, 500 if kind is list else 200_000)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_of_40_mb_costs_work_by_its_length(dialect: str) -> None:
    for of_request in (True, False):
        for grown in _growing(dialect, str, of_request=of_request)[:1]:
            _check_work(grown, BODY_BYTES)


@pytest.mark.parametrize("dialect", STREAMING)
def test_a_stream_costs_calls_by_its_events(dialect: str) -> None:
    for case in CASES[dialect]:
        if len(pieces(case)) > 3 or len(case.messages) > 3:
            _check_calls(lambda count, case=case: _repeated(case, count), 500)  # type: ignore[misc]


@pytest.mark.parametrize("dialect", STREAMING)
def test_a_stream_of_200_000_events_costs_work_by_its_length(dialect: str) -> None:
    for case in _streams(dialect):
        _check_work(lambda count, case=case: _repeated(case, count), EVENTS)  # type: ignore[misc]


@pytest.mark.parametrize("brackets", [b"[", b'{"content":', b'[{"type":'], ids=["arrays", "objects", "both"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_deep_nesting_costs_work_by_its_length(dialect: str, brackets: bytes) -> None:
    """In the request, in the answer, in an event, in a message; well-formed or not."""

    def nested(count: int) -> Case:
        deep = brackets * (count // len(brackets))
        within = b'{"messages":' + deep
        case = CASES[dialect][0]
        if case.head.is_websocket:
            side, at_us, opcode, _ = case.messages[-1]
            return dataclasses.replace(case, messages=(*case.messages, (side, at_us, opcode, within)))
        event = b"data: " + within + b"\n\n"
        return dataclasses.replace(case, body=within, response=STREAM_TYPE, reads=_cut(event))

    _check_work(nested, 8_000_000)
    _check_calls(nested, 10_000)
