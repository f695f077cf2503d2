"""WebSocket frames as a peer would send them, made by wsproto, which shares nothing with the reader under test."""

from dataclasses import dataclass

from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol, Opcode

from proxy.read.websocket import Message

LONG = st.sampled_from((125, 126, 127, 300, 65_535, 65_536)).map(lambda size: ("0123456789" * 6554)[:size])
"""Payloads whose lengths are written in one, three and nine bytes."""


@dataclass(frozen=True)
class Sent:
    """One frame."""

    wire: bytes
    opcode: int
    payload: bytes
    is_final: bool


@st.composite
def frames(draw: st.DrawFn, *, is_client: bool, deflate: PerMessageDeflate | None = None) -> list[Sent]:
    """A list of frames: messages, some in fragments with pings between them."""
    protocol = FrameProtocol(client=is_client, extensions=[deflate] if deflate else [])
    sent = []
    for _ in range(draw(st.integers(0, 5))):
        is_text = draw(st.booleans())
        fragments = draw(st.lists(st.text(max_size=150) | LONG, min_size=1, max_size=3))
        for number, fragment in enumerate(fragments):
            is_final = number == len(fragments) - 1
            payload: str | bytes = fragment if is_text else fragment.encode()
            wire = protocol.send_data(payload, fin=is_final)
            opcode = (1 if is_text else 2) if number == 0 else 0
            sent.append(Sent(bytes(wire), opcode, fragment.encode(), is_final))
            if draw(st.booleans()):
                ping = draw(st.binary(max_size=20))
                sent.append(Sent(bytes(protocol.ping(ping)), int(Opcode.PING), ping, True))
    return sent


def messages_of(sent: list[Sent]) -> list[Message]:
    """The messages and control frames, in the order of their last frames."""
    messages = []
    opcode, parts = 0, []
    for frame in sent:
        if frame.opcode >= 8:
            messages.append(Message(frame.opcode, frame.payload))
            continue
        opcode = frame.opcode or opcode
        parts.append(frame.payload)
        if frame.is_final:
            messages.append(Message(opcode, b"".join(parts)))
            parts = []
    return messages
