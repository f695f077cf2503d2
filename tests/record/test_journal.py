"""The journal's records: what is packed is read back, and damage is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clock import ClockReading
from proxy.exchange import Outcome
from proxy.record.journal import Close, Damage, Gap, Kind, Open, Record, Response, SegmentHeader, pack_record, scan

TIMES = st.integers(0, 2**62)
SIZES = st.integers(0, 2**63)
RECORDS = st.lists(
    st.builds(Record, st.sampled_from(Kind), st.integers(0, 2**40), TIMES, st.binary(max_size=40)), max_size=6
)


def packed(records: list[Record]) -> bytes:
    return b"".join(b"".join(pack_record(r.kind, r.exchange, r.at_ns, r.payload)) for r in records)


@given(
    st.builds(Open, SIZES, st.text(), st.text(), st.text(), st.binary(), st.binary(), st.booleans())
    | st.builds(Response, st.binary(), st.binary())
    | st.builds(Close, st.sampled_from(Outcome), st.text(), TIMES, TIMES, TIMES, SIZES, SIZES)
    | st.builds(Gap, TIMES, SIZES, SIZES, SIZES, SIZES, st.booleans(), st.booleans(), st.text())
)
def test_a_payload_is_read_back_as_it_was(payload: Open | Response | Close | Gap) -> None:
    assert type(payload).unpack(payload.pack()) == payload


@given(records=RECORDS, cut=st.integers(min_value=0))
def test_a_torn_tail_leaves_the_whole_records_before_it(records: list[Record], cut: int) -> None:
    data = packed(records)
    data = data[: cut % (len(data) + 1)]
    found = [record for record, _ in scan(data)]
    assert found == records[: len(found)]
    assert len(packed(records[: len(found) + 1])) > len(data) or len(found) == len(records)


@given(records=RECORDS, place=st.integers(min_value=0), bit=st.integers(0, 7))
def test_one_wrong_bit_never_passes_for_a_record(records: list[Record], place: int, bit: int) -> None:
    data = bytearray(packed(records))
    if not data:
        return
    data[place % len(data)] ^= 1 << bit
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
