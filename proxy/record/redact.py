"""Mask secrets before they leave memory: header fields, and the keys in a WebSocket's first message.

A masked value keeps a short keyed digest (`proxy.secret`), so that two uses of one key can be told together without
knowing it; `Authorization` keeps its scheme.
"""

import re
from collections.abc import Iterable

from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import Frame, FrameDecoder, Opcode, ParseFailed

from proxy.secret import masked, masked_credentials

_MAX_FIRST_MESSAGE_BYTES = 64 * 1024
_MAX_INFLATED_BYTES = 16 << 20
"""A longer compressed message is not recorded: a few bytes can inflate to thousands of times their size."""
_INFLATED_AT_ONCE = 4096
_USER = re.compile(rb"(?m)^(\S+ \w+://)([^/@\s]+)@")


class HeadMask:
    """Masks the values of some header fields in a raw head."""

    def __init__(self, names: Iterable[str], key: bytes) -> None:
        """`key` is that of the digests."""
        alternatives = b"|".join(re.escape(name.encode()) for name in names)
        # It begins with one fixed byte, so that the search jumps from line to line.
        self._secret = re.compile(rb"(?i)(\n(?:" + alternatives + rb")[ \t]*:[ \t]*)([^\r\n]+)")
        # What is no head of HTTP may have such a line all the same, in any shape: folded, indented, behind a lone CR.
        self._secret_somehow = re.compile(
            rb"(?i)((?:^|[\r\n])[^\w\r\n-]*(?:"
            + alternatives
            + rb")[^:\r\n]*:)([^\r\n]*(?:(?:\r\n?|\n)[ \t][^\r\n]*)*)"
        )
        self._names = bool(alternatives)
        self._key = key

    def __call__(self, head: bytes) -> bytes:
        """The head with the values masked; the same bytes where there is nothing to mask."""
        if b"://" in head[:64]:
            head = _USER.sub(lambda match: match[1] + masked(match[2], self._key) + b"@", head)
        return self._secret.sub(self._masked_line, head) if self._names else head

    def malformed(self, data: bytes) -> bytes:
        """The same for bytes that were meant for a head and are none."""
        if not self._names:
            return data
        return self._secret_somehow.sub(lambda match: match[1] + masked(match[2].strip(), self._key), data)

    def _masked_line(self, match: re.Match[bytes]) -> bytes:
        return match[1] + masked_credentials(match[2].rstrip(), self._key)


class FirstMessageMask:
    """Masks some JSON strings in the first message a client sends over a WebSocket (the LM Studio SDK's passkey).

    Feed it the tunnel's bytes as they are read; it gives the bytes to record. It holds back the first message until
    that is whole, then lets everything pass untouched. Where the two ends agreed on permessage-deflate, later messages
    may refer to the first, so there every message is recorded as if it had been sent uncompressed.
    """

    def __init__(self, fields: Iterable[str], key: bytes, extensions: bytes = b"") -> None:
        """`key` is that of the digests, `extensions` the value of the response's `Sec-WebSocket-Extensions`."""
        alternatives = b"|".join(re.escape(field.encode()) for field in fields)
        self._secret = re.compile(rb'("(?:' + alternatives + rb')"\s*:\s*")((?:[^"\\]|\\.)+)')
        self._key = key
        deflate = PerMessageDeflate()
        self._is_deflated = b"permessage-deflate" in extensions
        self._is_unreadable = False
        if self._is_deflated:
            try:
                # It takes no window of 8 bits, and one of 9 inflates the same.
                deflate.finalize(extensions.decode("latin-1").replace("window_bits=8", "window_bits=9"))
            except (ValueError, LookupError):
                self._is_unreadable = True
        self._decoder = FrameDecoder(client=False, extensions=[deflate] if self._is_deflated else [])
        self._opcode: Opcode | None = None
        self._message = bytearray()
        self._recoded = bytearray()
        self._held = bytearray()
        self._is_done = not alternatives

    def feed(self, data: bytes) -> bytes:
        """The bytes to record for the bytes read; b"" while the first message is not whole."""
        if self._is_done:
            return data
        if self._is_unreadable:
            return _not_recorded(len(data), "compressed in a way that is not known")
        if not self._is_deflated:
            self._held += data
        try:
            for start in range(0, len(data), _INFLATED_AT_ONCE):
                self._decoder.receive_bytes(data[start : start + _INFLATED_AT_ONCE])
                if self._take_frames():
                    self._recoded += bytes(self._decoder.buffer.buffer) + data[start + _INFLATED_AT_ONCE :]
                    break
        except (ParseFailed, ValueError) as error:
            self._is_done = not self._is_deflated
            self._is_unreadable = True
            self._held.clear()
            self._message.clear()
            return _not_recorded(len(data), str(error))
        recorded = b""
        if self._is_done or self._is_deflated:
            recorded = bytes(self._recoded)
        elif len(self._held) >= _MAX_FIRST_MESSAGE_BYTES:  # no handshake is that long: what was held is content
            recorded, self._is_done = bytes(self._held), True
        if recorded:
            self._recoded.clear()
            self._held.clear()
        return recorded

    def _take_frames(self) -> bool:
        """Recode the frames that are whole; True when the first message was the last to be looked at."""
        while (frame := self._decoder.process_buffer()) is not None:
            if self._take(frame) and not self._is_deflated:
                self._is_done = True
                return True
            if len(self._message) > _MAX_INFLATED_BYTES:
                raise ValueError(f"a compressed message is longer than {_MAX_INFLATED_BYTES} bytes")
        return False

    def finish(self) -> bytes:
        """What to record when the connection ends with the first message still cut short: its size, not its bytes."""
        waiting = len(self._held) or len(self._message)
        return b"[masked: %d bytes of a message cut short]" % waiting if waiting and not self._is_done else b""

    def _take(self, frame: Frame) -> bool:
        """Recode one frame; True when it ended a message."""
        payload = bytes(frame.payload)  # type: ignore[arg-type] # a decoder's frame has bytes
        if frame.opcode.iscontrol():
            self._recoded += _unmasked_frame(frame.opcode, payload)
            return False
        self._opcode = self._opcode or frame.opcode
        self._message += payload
        if not (frame.frame_finished and frame.message_finished):
            return False
        message = self._secret.sub(lambda match: match[1] + masked(match[2], self._key), bytes(self._message))
        self._recoded += _unmasked_frame(self._opcode, message)
        self._opcode = None
        self._message.clear()
        return True


def _not_recorded(size: int, why: str) -> bytes:
    return b"[not recorded: %d bytes that are no WebSocket frames as agreed: %s]" % (size, why.encode())


def _unmasked_frame(opcode: Opcode, payload: bytes) -> bytes:
    """One client frame with the masking key zero, so that its payload stands in it as it is."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    elif size < 1 << 16:
        length = b"\xfe" + size.to_bytes(2, "big")
    else:
        length = b"\xff" + size.to_bytes(8, "big")
    return bytes([0x80 | opcode]) + length + bytes(4) + payload
