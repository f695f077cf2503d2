"""The journal's records: what is packed is read back, and damage is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clock import ClockReading
from proxy.exchange import Outcome
from proxy.record.journal import (
    Close,
    Damage,
    Gap,
    Kind,
    Open,
    Record,
    Response,
    SegmentHeader,
    pack_block,
    pack_record,
    scan,
)
from proxy.store.segments import parse

TIMES = st.integers(0, 2**62)
SIZES = st.integers(0, 2**63)
KINDS = st.sampled_from([kind for kind in Kind if kind is not Kind.BLOCK])
ONE = st.builds(Record, KINDS, st.integers(0, 2**40), TIMES, st.binary(max_size=40) | st.just(bytes(40_000)))
PIECES = st.lists(ONE | st.lists(ONE, min_size=1, max_size=4), max_size=5)
"""What a journal is made of: records alone (all there was in version 1) and blocks."""
Pieces = list[Record | list[Record]]


def packed(pieces: Pieces) -> bytes:
    parts: list[bytes] = []
    for piece in pieces:
        if isinstance(piece, Record):
            parts += pack_record(piece.kind, piece.exchange, piece.at_ns, piece.payload)
        else:
            kinds, exchanges, times_ns, payloads = zip(
                *[(one.kind, one.exchange, one.at_ns, one.payload) for one in piece], strict=True
            )
            parts += pack_block(kinds, exchanges, times_ns, payloads)
    return b"".join(parts)


def flat(pieces: Pieces) -> list[Record]:
    return [one for piece in pieces for one in ([piece] if isinstance(piece, Record) else piece)]


@given(
    st.builds(Open, SIZES, st.text(), st.text(), st.text(), st.binary(), st.binary(), st.booleans())
    | st.builds(Response, st.binary(), st.binary())
    | st.builds(Close, st.sampled_from(Outcome), st.text(), TIMES, TIMES, TIMES, SIZES, SIZES)
    | st.builds(Gap, TIMES, SIZES, SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.text())
)
def test_a_payload_is_read_back_as_it_was(payload: Open | Response | Close | Gap) -> None:
    assert type(payload).unpack(payload.pack()) == payload


@given(PIECES)
def test_records_come_back_in_order_whether_alone_or_in_blocks(pieces: Pieces) -> None:
    data = packed(pieces)
    found = list(scan(data))
    assert [record for record, _ in found] == flat(pieces)
    assert not found or found[-1][1] == len(data)
    taken, size = parse(data)
    assert [Record(*record) for record in taken] == flat(pieces)
    assert size == len(data)


@given(pieces=PIECES, cut=st.integers(min_value=0))
def test_a_torn_tail_leaves_what_is_whole_before_it(pieces: Pieces, cut: int) -> None:
    data = packed(pieces)
    data = data[: cut % (len(data) + 1)]
    whole = 0
    while whole < len(pieces) and len(packed(pieces[: whole + 1])) <= len(data):
        whole += 1
    assert [record for record, _ in scan(data)] == flat(pieces[:whole])
    assert parse(data)[1] == len(packed(pieces[:whole]))


@given(pieces=PIECES, place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_wrong_bit_never_passes_for_a_record(pieces: Pieces, place: int, bit: int) -> None:
    data = bytearray(packed(pieces))
    if not data:
        return
    data[place % len(data)] ^= 1 << bit
    records = flat(pieces)
    found = [record for record, _ in scan(bytes(data))]
    assert all(isinstance(record, Damage) or record in records for record in found)
    assert found != records


def test_a_segment_of_another_kind_is_refused() -> None:
    header = SegmentHeader(b"r" * 16, 3, ClockReading(1, 2))
    assert SegmentHeader.unpack(header.pack()) == header
    with pytest.raises(ValueError, match="not a segment"):
        SegmentHeader.unpack(b"X" + header.pack()[1:])
    with pytest.raises(ValueError, match="cut short"):
        SegmentHeader.unpack(header.pack()[:-1])
