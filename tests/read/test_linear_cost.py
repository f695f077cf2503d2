"""What a reader costs grows no faster than what it reads: long bodies, long lists, many events, deep nesting.

Two measures, neither of them a time: how many functions are called (exact, so that little input is enough), and how
much longer the processor works for eight times as much (which also sees copies within one call; so it needs much).
"""

import dataclasses
import gc
import gzip
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from proxy.read.reader import ResponseHead
from proxy.read.registry import BUILT_IN, Registry
from tests.read.mutated_cases import AT_US, CASES, documents, pieces
from tests.recordings.cases import Case

Json = Any
Grown = Callable[[int], Case]
"""A case of a size."""
Again = Callable[[list[Any], int], list[Any]]
"""Events, and how many there shall be."""
REGISTRY = Registry(BUILT_IN)
DIALECTS = sorted(CASES)
FACTOR = 8
"""How much more there is to read the second time."""
CALLS_SLACK, SLACK = 1.1, 2.0
"""What that may cost above the factor."""
COPIES = 30
"""So many times may a reader copy what it reads; if it did so with every read, it would be hundreds."""
BODY_BYTES, EVENTS, NESTED_BYTES = 40_000_000, 200_000, 8_000_000
IN_FULL = {"lmstudio_sdk", "openai_chat", "openai_responses"}
"""Of these dialects so much; of the others, which share the most of their code with them, a quarter: it takes long."""
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


def _check_calls(grown: Grown, little: int) -> None:
    _calls(grown(little))  # what is done once is done
    few, many = _calls(grown(little)), _calls(grown(little * FACTOR))
    assert many <= few * FACTOR * CALLS_SLACK, (few, many)


def _check_work(grown: Grown, much: int) -> None:
    few, many = grown(much // FACTOR), grown(much)
    _work_s(grown(much // 100))  # what is done once is done
    less, more = min(_work_s(few), _work_s(few)), _work_s(many)
    size = sum(
        len(data) for data in (many.body, *(read[-1] for read in many.reads), *(one[-1] for one in many.messages))
    )
    assert more <= less * FACTOR * SLACK + COPIES * _copy_s(size), (less, more)


def _copy_s(size: int) -> float:
    """How long the processor works to copy so many bytes: dearer for long ones, whose memory is always new."""
    data = bytes(size)
    began = time.process_time()
    bytearray(data)
    return time.process_time() - began


# --- cases that grow --------------------------------------------------------------------------------------------------


def _longest(value: Json, kind: type[str] | type[list[Json]]) -> Json:
    """The longest text or array in it that is to be found; None if there is none."""
    found: list[Any] = [value] if isinstance(value, kind) else []
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


def _grown(case: Case, kind: type, of_request: bool, size: int) -> Case | None:
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


def _growing(dialect: str, kind: type, *, of_request: bool) -> list[Grown]:
    """How one of its cases grows: with a whole answer, then as a stream, where the dialect has such a thing in them."""
    made: dict[bool, Grown] = {}
    for case in CASES[dialect]:
        if _grown(case, kind, of_request, 1) is not None:
            made.setdefault(_is_stream(case), partial(_surely_grown, case, kind, of_request))
    return [made[is_stream] for is_stream in sorted(made)]


def _is_stream(case: Case) -> bool:
    return case.response is not None and "json;" not in case.response.field("content-type")


def _surely_grown(case: Case, kind: type, of_request: bool, size: int) -> Case:
    grown = _grown(case, kind, of_request, size)
    assert grown is not None
    return grown


def _repeated(case: Case, how: Again, count: int) -> Case:
    """A stream, or a WebSocket's messages, in which at least so many events come."""
    if case.messages:
        return dataclasses.replace(case, messages=tuple(how(list(case.messages), count)))
    events = [head + data + tail for head, data, tail in pieces(case)]
    return dataclasses.replace(case, reads=_cut(b"".join(how(events, count))))


def _each_again(events: list[Any], count: int) -> list[Any]:
    """Every one of them several times before the next."""
    return [one for one in events for _ in range(count // len(events) + 1)]


def _all_again(events: list[Any], count: int) -> list[Any]:
    """All of them in order, and then all of them again."""
    return events * (count // len(events) + 1)


def _short_again(events: list[Any], count: int) -> list[Any]:
    """The shorter half of them, each several times: in a stream, the pieces of an answer."""
    sizes = [len(one[-1] if isinstance(one, tuple) else one) for one in events]
    limit = sorted(sizes)[len(sizes) // 2]
    again = count // sum(size <= limit for size in sizes) + 1
    return [one for one, size in zip(events, sizes, strict=True) for _ in range(again if size <= limit else 1)]


def _streams(dialect: str) -> list[Case]:
    """The dialect's longest stream, if it has any, and its longest WebSocket."""
    streams = [case for case in CASES[dialect] if len(pieces(case)) > 3 or len(case.messages) > 3]
    return sorted(streams, key=lambda case: len(pieces(case)) + len(case.messages))[-1:]


STREAMING = [dialect for dialect in DIALECTS if _streams(dialect)]


def _size(dialect: str, full: int) -> int:
    return full if dialect in IN_FULL else full // 4


# --- laws -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, list])
@pytest.mark.parametrize("of_request", [True, False], ids=["request", "answer"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_long_texts_and_lists_cost_calls_by_their_length(dialect: str, kind: type, of_request: bool) -> None:
    for grown in _growing(dialect, kind, of_request=of_request):
        _check_calls(grown, 500 if kind is list else 200_000)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_body_of_up_to_40_mb_costs_work_by_its_length(dialect: str) -> None:
    for of_request in (True, False):
        for grown in _growing(dialect, str, of_request=of_request)[:1]:
            _check_work(grown, _size(dialect, BODY_BYTES))


@pytest.mark.parametrize("how", [_each_again, _all_again])
@pytest.mark.parametrize("dialect", STREAMING)
def test_a_stream_costs_calls_by_its_events(dialect: str, how: Again) -> None:
    for case in CASES[dialect]:
        if len(pieces(case)) > 3 or len(case.messages) > 3:
            _check_calls(partial(_repeated, case, how), 100)


@pytest.mark.parametrize("dialect", STREAMING)
def test_a_stream_of_up_to_200_000_events_costs_work_by_its_length(dialect: str) -> None:
    for case in _streams(dialect):
        _check_work(partial(_repeated, case, _short_again), _size(dialect, EVENTS))


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

    _check_work(nested, _size(dialect, NESTED_BYTES))
    _check_calls(nested, 10_000)


def _files_of_one_byte(size: int) -> bytes:
    one = gzip.compress(b" ")
    return one * (size // len(one))


def _blocks_of_nothing(size: int) -> bytes:
    return zlib.compress(b"")[:2] + b"\x00\x00\x00\xff\xff" * (size // 5)


@pytest.mark.parametrize(
    ("coding", "body"), [("gzip", _files_of_one_byte), ("deflate", _blocks_of_nothing)], ids=["files", "blocks"]
)
def test_a_compressed_body_costs_work_by_its_length(coding: str, body: Callable[[int], bytes]) -> None:
    """Also where it is compressed in the oddest way: gzip files of one byte each, or blocks with nothing in them."""
    fields = (("Content-Type", "application/json"), ("Content-Encoding", coding))
    case = dataclasses.replace(CASES["openai_chat"][0], response=ResponseHead(200, fields))
    _check_work(lambda size: dataclasses.replace(case, reads=((AT_US, body(size)),)), 4_000_000)
    _check_work(lambda size: dataclasses.replace(case, reads=_cut(body(size))), 4_000_000)
