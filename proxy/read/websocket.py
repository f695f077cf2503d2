"""WebSocket traffic, sans-io: one side's bytes in, its messages and control frames out.

Facts (RFC 6455 sections 5.2-5.6, RFC 7692 sections 7.2.2-7.2.3)
----------------------------------------------------------------
* A frame: FIN, RSV1-3 and opcode; MASK and length (7, 16 or 64 bits); the client's frames carry a masking key.
* A message may come in fragments (opcode 0 continues it), with control frames (8, 9, 10) between them.
* With permessage-deflate, RSV1 on a message's first frame says that this message is compressed; others are not. The
  window goes on from one message to the next unless "..._no_context_takeover" was agreed.

An observer judges less than an endpoint: text need not be UTF-8, a missing mask is no matter. What cannot be understood
at all is given back as it came, with opcode None, up to the end. wsproto's FrameProtocol raises at these and ends with
the first; so it serves in the tests, as the peer that shares no line with this reader.
"""

import zlib
from typing import NamedTuple

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
WINDOW_BYTES = 32768
MAX_INFLATED_BYTES = 1 << 28
"""A message that would become longer stays compressed: a few KB can claim to be gigabytes."""
_FIN, _RSV1, _RSV23, _OPCODE = 0x80, 0x40, 0x30, 0x0F
_PLAIN_STARTS = (_FIN | TEXT, _FIN | BINARY)
_SYNC_TAIL = b"\x00\x00\xff\xff"


class Message(NamedTuple):
    """A message, whole and readable, or a control frame."""

    opcode: int | None
    """1 text, 2 binary, 8 close, 9 ping, 10 pong; None for bytes that are no WebSocket frames."""
    payload: bytes


class Deflate(NamedTuple):
    """What permessage-deflate was agreed upon."""

    client_keeps_context: bool
    server_keeps_context: bool


def agreed_deflate(extensions: bytes) -> Deflate | None:
    """What the 101's `Sec-WebSocket-Extensions` (in lower case) agrees to; None: nothing is compressed."""
    for extension in extensions.split(b","):
        name, *parameters = [part.strip() for part in extension.split(b";")]
        if name == b"permessage-deflate":
            return Deflate(
                b"client_no_context_takeover" not in parameters, b"server_no_context_takeover" not in parameters
            )
    return None


class WebSocketReader:
    """Reads one side. `feed` bytes as they come; `rest` is what never became a message."""

    def __init__(self, *, is_deflated: bool = False, keeps_context: bool = True, window: bytes = b"") -> None:
        """`window`: the text that earlier compressed messages ended with, when reading goes on after a restart."""
        self._is_deflated = is_deflated
        self._keeps_context = keeps_context
        self.window = window
        """The last 32 KiB that came compressed, as text."""
        self._buffer = bytearray()
        self._fragments: list[bytes] = []
        self._message_opcode: int | None = None
        self._is_compressed = False
        self._is_lost = False

    @property
    def is_inside_message(self) -> bool:
        """Whether bytes wait for the rest of their message."""
        return bool(self._buffer) or self._message_opcode is not None

    def feed(self, data: bytes) -> tuple[list[Message], int]:
        """The messages these bytes complete, and where in `data` the one starts that is still incomplete.

        The offset is `len(data)` if nothing is incomplete and -1 if the message began in earlier bytes.
        """
        if self._is_lost:
            return [Message(None, data)], len(data)
        if not self._buffer and self._message_opcode is None and (message := _only_message(data)) is not None:
            return [message], len(data)
        messages: list[Message] = []
        message_start = -1 if self.is_inside_message else 0
        self._buffer += data
        at = 0
        before = len(self._buffer) - len(data)
        while not self._is_lost:
            if self._message_opcode is None and at >= before:
                message_start = at - before
            end = self._frame_end(at)
            if end is None:
                break
            self._frame(at, end, messages)
            at = end
        if self._is_lost:
            messages.append(Message(None, b"".join(self._fragments) + bytes(self._buffer[at:])))
            self._fragments, self._message_opcode = [], None
            self._buffer.clear()
            return messages, len(data)
        del self._buffer[:at]
        return messages, message_start if self.is_inside_message else len(data)

    def rest(self) -> list[Message]:
        """What is left at the end: a message or frame that was cut short, as far as it came."""
        left = b"".join(self._fragments) + bytes(self._buffer)
        self._fragments, self._message_opcode = [], None
        self._buffer.clear()
        return [Message(None, left)] if left else []

    def _frame_end(self, at: int) -> int | None:
        """Where the frame at `at` ends; None while it is incomplete."""
        have = len(self._buffer) - at
        if have < 2:
            return None
        first, second = self._buffer[at], self._buffer[at + 1]
        length, header = second & 0x7F, 2
        opcode = first & _OPCODE
        if first & _RSV23 or opcode not in (0, TEXT, BINARY, CLOSE, PING, PONG) or (opcode >= 8 and length > 125):
            self._is_lost = True
            return None
        if length >= 126:
            header += 2 if length == 126 else 8
            if have < header:
                return None
            length = int.from_bytes(self._buffer[at + 2 : at + header], "big")
        end = at + header + (4 if second & 0x80 else 0) + length
        return end if end <= len(self._buffer) else None

    def _frame(self, at: int, end: int, messages: list[Message]) -> None:
        first, second = self._buffer[at], self._buffer[at + 1]
        opcode = first & _OPCODE
        start = at + {126: 4, 127: 10}.get(second & 0x7F, 2)
        if second & 0x80:
            payload = _unmasked(memoryview(self._buffer)[start + 4 : end], bytes(self._buffer[start : start + 4]))
        else:
            payload = bytes(memoryview(self._buffer)[start:end])
        if opcode >= CLOSE:
            messages.append(Message(opcode, payload))
            return
        if opcode:  # a new message; an unfinished one before it is given back as it came
            if self._message_opcode is not None:
                messages.append(Message(None, b"".join(self._fragments)))
            self._message_opcode, self._fragments = opcode, []
            self._is_compressed = bool(first & _RSV1) and self._is_deflated
        elif self._message_opcode is None:  # a continuation of nothing
            messages.append(Message(None, payload))
            return
        self._fragments.append(payload)
        if first & _FIN:
            whole = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
            messages.append(Message(self._message_opcode, self._inflated(whole) if self._is_compressed else whole))
            self._message_opcode, self._fragments = None, []

    def _inflated(self, data: bytes) -> bytes:
        inflater = zlib.decompressobj(-15, zdict=self.window) if self.window else zlib.decompressobj(-15)
        try:
            text = inflater.decompress(data + _SYNC_TAIL, MAX_INFLATED_BYTES)
        except zlib.error:
            return data
        if inflater.unconsumed_tail:
            return data
        if self._keeps_context:
            self.window = (self.window + text[-WINDOW_BYTES:])[-WINDOW_BYTES:]
        return text


def _only_message(data: bytes) -> Message | None:
    """What a read holds if that is one short frame that is one plain message, as most are; None: look closer."""
    size = len(data)
    if size < 6 or data[0] not in _PLAIN_STARTS:
        return None
    length, start = data[1] & 0x7F, 2
    if length == 126:
        length, start = data[2] << 8 | data[3], 4
    if data[1] & 0x80:
        start += 4
    if length == 127 or start + length != size:
        return None
    payload = _unmasked(data[start:], data[start - 4 : start]) if data[1] & 0x80 else data[start:]
    return Message(data[0] & _OPCODE, payload)


def _unmasked(payload: bytes | memoryview, key: bytes) -> bytes:
    """The payload with its mask taken off, as one big number (some 1 GB/s)."""
    size = len(payload)
    if not size or key == b"\0\0\0\0":
        return bytes(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")
