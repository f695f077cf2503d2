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


class HeadMask:
    """Masks the values of some header fields in a raw head."""

    def __init__(self, names: Iterable[str], key: bytes) -> None:
        """`key` is that of the digests."""
        alternatives = b"|".join(re.escape(name.encode()) for name in names)
        # It begins with one fixed byte, so that the search jumps from line to line.
        self._secret = re.compile(rb"(?i)(\n(?:" + alternatives + rb")[ \t]*:[ \t]*)([^\r\n]+)")
        self._names = bool(alternatives)
        self._key = key

    def __call__(self, head: bytes) -> bytes:
        """The head with the values masked; the same bytes where there is nothing to mask."""
        return self._secret.sub(self._masked_line, head) if self._names else head

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
        if self._is_deflated:
            deflate.finalize(extensions.decode("latin-1"))
        self._decoder = FrameDecoder(client=False, extensions=[deflate] if self._is_deflated else [])
        self._opcode: Opcode | None = None
        self._message = b""
        self._recoded = b""
        self._held = b""
        self._is_done = not alternatives

    def feed(self, data: bytes) -> bytes:
        """The bytes to record for the bytes read; b"" while the first message is not whole."""
        if self._is_done:
            return data
        self._held += data
        try:
            self._decoder.receive_bytes(data)
            while (frame := self._decoder.process_buffer()) is not None:
                if self._take(frame) and not self._is_deflated:
                    self._is_done = True
                    self._recoded += bytes(self._decoder.buffer.buffer)
                    break
        except (ParseFailed, ValueError) as error:
            self._is_done = True
            self._held = b""
            return b"[not recorded: %d bytes that are no WebSocket frames: %s]" % (len(data), str(error).encode())
        if self._message or self._opcode is not None or (not self._recoded and not self._is_done):
            if len(self._held) < _MAX_FIRST_MESSAGE_BYTES or self._is_deflated:
                return b""
            # No handshake is that long: what was held is content.
            recorded, self._is_done = self._held, True
        else:
            recorded = self._recoded
        self._recoded = self._held = b""
        return recorded

    def finish(self) -> bytes:
        """What to record when the connection ends with the first message still cut short: its size, not its bytes."""
        held, self._held = self._held, b""
        return b"[masked: %d bytes of a first message cut short]" % len(held) if held and not self._is_done else b""

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
        message = self._secret.sub(lambda match: match[1] + masked(match[2], self._key), self._message)
        self._recoded += _unmasked_frame(self._opcode, message)
        self._opcode, self._message = None, b""
        return True


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
