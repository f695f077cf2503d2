"""What holds for every reader and every recorded case, however its bytes are cut or spoilt."""

import gzip
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import Reader, RequestHead, ResponseHead
from proxy.read.registry import BUILT_IN, Registry
from tests.read.mutated_cases import CASES, at_one_time, cases, cut, heads
from tests.recordings.cases import Case

REGISTRY = Registry(BUILT_IN)
DIALECTS = sorted(CASES)
PLACES = st.lists(st.integers(0, 1 << 20), max_size=12)
DEFLATERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
many = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])


def _read(case: Case) -> Sequence[Reading]:
    return case.read(REGISTRY)


def _read_asking(case: Case, moments: frozenset[int]) -> Sequence[Reading]:
    """Read it and ask for what is known by then at these moments, before and between its steps; None is every one."""
    session = case.begin(case.reader(REGISTRY))
    for number, step in enumerate(case.steps(session)):
        if not moments or number in moments:
            assert all(isinstance(one, Reading) for one in session.readings(None))
        step()
    session.readings(None)
    return session.readings(case.end)


@pytest.mark.parametrize("dialect", DIALECTS)
@many
@given(data=st.data())
def test_any_cutting_of_the_bytes_gives_the_same_readings(dialect: str, data: st.DataObject) -> None:
    case = data.draw(cases(dialect))
    assert _read(cut(case, data.draw(PLACES))) == _read(at_one_time(case))


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_bytes_that_come_one_by_one_give_the_same_readings(dialect: str, line_end: bytes) -> None:
    """However lines end, if it is a stream of events."""
    for case in map(at_one_time, CASES[dialect]):
        ((at_us, body),) = case.reads
        is_stream = case.response is not None and "event-stream" in case.response.field("content-type")
        spelt = body.replace(b"\n", line_end) if is_stream else body
        assert _read(replace(case, reads=tuple((at_us, bytes((byte,))) for byte in spelt))) == _read(case)


@pytest.mark.parametrize("dialect", DIALECTS)
@many
@given(data=st.data())
def test_no_bytes_make_a_reader_raise(dialect: str, data: st.DataObject) -> None:
    """What comes out can be stored, too: it is UTF-8, and as JSON not deeper than JSON may be."""
    readings = _read(data.draw(cases(dialect)))
    assert msgspec.json.decode(msgspec.json.encode(readings)) is not None


@many
@given(head=heads, case=st.sampled_from(DIALECTS).flatmap(cases))
def test_no_head_makes_a_reader_raise(head: RequestHead, case: Case) -> None:
    """Whoever reads it: what was said in one dialect at another's address."""
    readings = _read(replace(case, head=head))
    assert msgspec.json.encode(readings)


@pytest.mark.parametrize("reader", BUILT_IN, ids=lambda reader: reader.name)
@many
@given(data=st.data())
def test_no_reader_raises_at_what_is_not_its_own(reader: Reader, data: st.DataObject) -> None:
    """Every method may be called, whatever the head said: HTTP at a WebSocket's reader, messages at HTTP's."""
    case = data.draw(st.sampled_from(DIALECTS).flatmap(cases))
    session = reader.open(case.head)
    session.request(case.body, case.complete_us)
    if case.response is not None:
        session.response(case.response, case.first_byte_us)
    session.data(1, case.body)
    for step in case.steps(session):
        step()
    session.message(Side.CLIENT, 1, None, case.body)
    assert msgspec.json.encode(session.readings(case.end))


@pytest.mark.parametrize("dialect", DIALECTS)
@many
@given(data=st.data())
def test_asking_while_it_goes_on_changes_nothing(dialect: str, data: st.DataObject) -> None:
    case = data.draw(cases(dialect))
    moments = data.draw(st.frozensets(st.integers(0, 40), max_size=5))
    assert _read_asking(case, moments) == _read(case)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_is_known_grows_with_every_step(dialect: str) -> None:
    """What it says stays said, and what has ended does not begin again."""
    for case in CASES[dialect]:
        session = case.begin(case.reader(REGISTRY))
        before: Sequence[Reading] = session.readings(None)
        for step in case.steps(session):
            step()
            now = session.readings(None)
            assert len(now) >= len(before)
            for old, new in zip(before, now, strict=False):
                assert old.is_running or not new.is_running
                assert new.messages[: len(old.messages)] == old.messages
                assert new.measured.token_events >= old.measured.token_events
            before = now
        assert not any(one.is_running for one in session.readings(case.end))


@pytest.mark.parametrize("coding", DEFLATERS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_compressed_body_reads_as_the_plain_one(dialect: str, coding: str) -> None:
    deflate = DEFLATERS[coding]
    field = ("Content-Encoding", coding)
    for case in map(at_one_time, CASES[dialect]):
        if case.response is None or case.head.is_websocket:
            continue
        (at_us, body) = case.reads[0]
        packed = replace(
            case,
            head=replace(case.head, fields=(*case.head.fields, field)),
            body=deflate(case.body) if case.body else b"",
            response=ResponseHead(case.response.status, (*case.response.fields, field)),
            reads=((at_us, deflate(body)),),
        )
        assert _read(packed) == _read(case)
