"""The WebSocket reader: any cutting gives the same messages, nothing is lost, nothing raises."""

import itertools
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from proxy.read.websocket import Deflate, Message, WebSocketReader, agreed_deflate
from tests.store.websocket_frames import Sent, frames, messages_of


def feed(reader: WebSocketReader, wire: bytes, cuts: set[int]) -> list[Message]:
    """Feed in pieces; checks what `feed` says about the incomplete message on the way."""
    found: list[Message] = []
    pending = b""
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(wire)), len(wire)]
    for start, end in itertools.pairwise(edges):
        piece = wire[start:end]
        messages, offset = reader.feed(piece)
        found += messages
        pending = piece[offset:] if offset >= 0 else pending + piece
        assert reader.is_inside_message == bool(pending)
        # Read again from the message's first byte, as after a restart: the same is pending.
        again = WebSocketReader()
        again.feed(pending)
        assert again.is_inside_message == bool(pending)
    return found


@given(sent=frames(is_client=True), cuts=st.sets(st.integers(0, 2000), max_size=20))
def test_reader_gives_the_messages_whatever_the_cutting(sent: list[Sent], cuts: set[int]) -> None:
    wire = b"".join(frame.wire for frame in sent)
    assert feed(WebSocketReader(), wire, cuts) == messages_of(sent)


@st.composite
def odd_frames(draw: st.DrawFn) -> bytes:
    """One frame with any bits, its length in any of the three forms, now and then a byte too much or too little."""
    first = draw(st.sampled_from((0x81, 0x82, 0x01, 0x02, 0x00, 0x80, 0xC1, 0x41, 0x89, 0x88, 0x91)))
    size = draw(st.sampled_from((0, 1, 4, 5, 119, 125, 126, 127, 129, 300, 65_535)))
    forms = [form for form, most in ((0, 125), (2, 65_535), (8, 65_535)) if size <= most]
    form = draw(st.sampled_from(forms))
    mask = draw(st.sampled_from((b"", b"\0\0\0\0", b"\1\2\3\4")))
    length = size.to_bytes(form, "big") if form else b""
    second = {0: size, 2: 126, 8: 127}[form] | (0x80 if mask else 0)
    wire = bytes((first, second)) + length + mask + (b"a\xc3{" * 21846)[:size]
    return wire[: len(wire) - draw(st.sampled_from((0, 0, 0, 1)))] + draw(st.sampled_from((b"", b"", b"", b"\x81")))


@given(pieces=st.lists(odd_frames(), min_size=1, max_size=5), is_deflated=st.booleans())
@example(pieces=[b"\x81\x7f" + (119).to_bytes(8, "big") + b"x" * 119], is_deflated=False)  # as long as 127 would be
def test_reads_that_are_frames_give_what_their_bytes_give_one_by_one(pieces: list[bytes], is_deflated: bool) -> None:
    whole, by_byte = WebSocketReader(is_deflated=is_deflated), WebSocketReader(is_deflated=is_deflated)
    found = [message for piece in pieces for message in whole.feed(piece)[0]]
    wire = b"".join(pieces)
    expected = [message for at in range(len(wire)) for message in by_byte.feed(wire[at : at + 1])[0]]
    assert whole.is_inside_message == by_byte.is_inside_message
    assert joined_where_lost(found + whole.rest()) == joined_where_lost(expected + by_byte.rest())


def joined_where_lost(messages: list[Message]) -> list[Message]:
    """What are no frames comes read by read: here as one."""
    found: list[Message] = []
    for opcode, run in itertools.groupby(messages, key=lambda message: message.opcode):
        payloads = [message.payload for message in run]
        found += [Message(None, b"".join(payloads))] if opcode is None else [Message(opcode, one) for one in payloads]
    return found


@given(data=st.data(), cuts=st.sets(st.integers(0, 2000), max_size=20), keeps_context=st.booleans())
def test_reader_inflates_what_was_compressed(data: st.DataObject, cuts: set[int], keeps_context: bool) -> None:
    deflate = PerMessageDeflate(client_no_context_takeover=not keeps_context)
    deflate._enabled = True  # as after a handshake that agreed on it
    sent = data.draw(frames(is_client=True, deflate=deflate))
    reader = WebSocketReader(is_deflated=True, keeps_context=keeps_context)
    wire = b"".join(frame.wire for frame in sent)
    assert feed(reader, wire, cuts) == messages_of(sent)


@given(data=st.data())
def test_reader_goes_on_after_a_restart_with_the_window_alone(data: st.DataObject) -> None:
    deflate = PerMessageDeflate()
    deflate._enabled = True
    sent = data.draw(frames(is_client=False, deflate=deflate))
    window, found = b"", []
    for frame in sent:
        reader = WebSocketReader(is_deflated=True, window=window)
        if not frame.is_final or frame.opcode == 0:
            return  # a message in fragments is read again as a whole
        found += reader.feed(frame.wire)[0]
        window = reader.window
    assert found == messages_of(sent)


@given(pieces=st.lists(st.binary(max_size=60), max_size=12))
def test_reader_keeps_bytes_that_are_no_frames(pieces: list[bytes]) -> None:
    reader = WebSocketReader(is_deflated=True)
    for piece in pieces:
        reader.feed(piece)
    reader.rest()
    assert not reader.is_inside_message


def test_bytes_after_an_impossible_frame_come_as_they_are() -> None:
    good = FrameProtocol(client=False, extensions=[]).send_data("hi", fin=True)
    reader = WebSocketReader()
    assert reader.feed(bytes(good) + b"\x7f garbage")[0] == [Message(1, b"hi"), Message(None, b"\x7f garbage")]
    assert reader.feed(b"more")[0] == [Message(None, b"more")]


def test_uncompressed_message_on_a_compressed_connection_is_left_alone() -> None:
    plain = FrameProtocol(client=True, extensions=[]).send_data("short", fin=True)
    assert WebSocketReader(is_deflated=True).feed(bytes(plain))[0] == [Message(1, b"short")]


def test_a_message_of_6_mb_is_unmasked_whole() -> None:
    payload = os.urandom(6_000_001)
    wire = bytes(FrameProtocol(client=True, extensions=[]).send_data(payload, fin=True))
    reader = WebSocketReader()
    found = [message for at in range(0, len(wire), 65536) for message in reader.feed(wire[at : at + 65536])[0]]
    assert found == [Message(2, payload)]


def test_a_message_cut_short_is_given_as_far_as_it_came() -> None:
    wire = bytes(FrameProtocol(client=False, extensions=[]).send_data(b"0123456789", fin=True))
    reader = WebSocketReader()
    assert reader.feed(wire[:7])[0] == []
    assert reader.rest() == [Message(None, wire[:7])]


@pytest.mark.parametrize(
    ("extensions", "agreed"),
    [
        (b"", None),
        (b"permessage-deflate", Deflate(client_keeps_context=True, server_keeps_context=True)),
        (
            b"permessage-deflate; server_no_context_takeover; client_max_window_bits=12",
            Deflate(client_keeps_context=True, server_keeps_context=False),
        ),
        (b"x-other, permessage-deflate;client_no_context_takeover", Deflate(False, True)),
    ],
)
def test_agreed_deflate(extensions: bytes, agreed: Deflate | None) -> None:
    assert agreed_deflate(extensions) == agreed
