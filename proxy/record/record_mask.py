"""Records on their way to the journal: payloads become bytes, secrets in them are masked."""

import re
from collections.abc import Iterable
from functools import lru_cache, partial

from proxy.record.journal import Close, Kind, Open, Response
from proxy.record.redact import FirstMessageMask, HeadMask

MOST_PAYLOAD_BYTES = 1 << 20
"""What a compressed WebSocket inflates to is recorded in pieces of this size."""
_CLIENT_DATA = Kind.CLIENT_DATA
_EXTENSIONS = re.compile(rb"(?i)\r\nsec-websocket-extensions:[ \t]*([^\r]*)")

Payload = bytes | Open | Response | Close
Ready = tuple[Kind, int, int, bytes, int]
"""kind, exchange, monotonic ns, payload, and 0 in place of what a waiting record counts for in memory."""


class RecordMask:
    """Masks records, each once, in their order: it remembers the beginning of every WebSocket."""

    def __init__(self, masked_headers: Iterable[str], masked_websocket_fields: Iterable[str], key: bytes) -> None:
        """The names of what is secret, as `Recorder` takes them; `key` is that of the digests."""
        mask = HeadMask(masked_headers, key)
        self._mask_head = lru_cache(maxsize=256)(mask)  # heads repeat themselves
        self.malformed = mask.malformed
        """Masks what should have been a head."""
        self._new_first_message_mask = partial(FirstMessageMask, tuple(masked_websocket_fields), key)
        self._websockets: dict[int, FirstMessageMask | None] = {}

    def ready(self, kind: Kind, exchange: int, at_ns: int, payload: Payload) -> list[Ready]:
        """What to write for one record, its payload as bytes, secrets masked; nothing if it has to wait for more."""
        before: list[Ready] = []
        if isinstance(payload, bytes):
            if kind is not _CLIENT_DATA:
                # Trailers have no start line before them, and the mask looks behind line ends.
                packed = self._mask_head(b"\n" + payload)[1:]
            else:
                packed = self._client_data(exchange, payload)
                if len(packed) > MOST_PAYLOAD_BYTES:  # as no read is
                    parts = range(0, len(packed), MOST_PAYLOAD_BYTES)
                    return [(kind, exchange, at_ns, packed[at : at + MOST_PAYLOAD_BYTES], 0) for at in parts]
                if not packed:
                    return []
        elif isinstance(payload, Open):
            if payload.is_websocket:
                self._websockets[exchange] = None  # nothing of it is recorded before it is known how to mask it
            packed = payload.pack(self._mask_head)
        elif isinstance(payload, Response):
            self._websockets.pop(exchange, None)
            if payload.received_head[9:12] == b"101":
                extensions = _EXTENSIONS.search(payload.received_head)
                self._websockets[exchange] = self._new_first_message_mask(extensions[1] if extensions else b"")
            packed = payload.pack(self._mask_head)
        else:
            websocket = self._websockets.pop(exchange, None)
            if websocket is not None and (rest := websocket.finish()):
                before = [(_CLIENT_DATA, exchange, at_ns, rest, 0)]
            packed = payload.pack()
        return [*before, (kind, exchange, at_ns, packed, 0)]

    def _client_data(self, exchange: int, data: bytes) -> bytes:
        if exchange not in self._websockets:
            return data
        websocket = self._websockets[exchange]
        if websocket is None:
            return b"[not recorded: %d bytes of a WebSocket whose handshake is lost]" % len(data)
        return websocket.feed(data)
