"""An exchange that still runs, read as far as it came, for live views: each time from where the last time ended."""

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import Reader, ResponseHead
from proxy.store.chunks import read_chunks
from proxy.store.recordings import Recording
from proxy.store.trace import Trace


class Live:
    """One such exchange and its reader's session."""

    __slots__ = ("_has_head", "_seq", "_session", "_shown", "is_broken", "reader")

    def __init__(self, reader: Reader, recording: Recording) -> None:
        """Nothing is read yet."""
        self.reader = reader
        self.is_broken = False
        """It could not be read, or its readings not be stored: it is left alone until it ends."""
        self._session = reader.open(recording.head)
        self._has_head = False
        self._seq = -1
        self._shown: tuple[Reading, ...] = ()

    def feed(self, trace: Trace, recording: Recording) -> tuple[Reading, ...] | None:
        """Read what came since; None where that changes nothing."""
        if not self._has_head:
            if recording.status is None:
                return None  # its request may not be complete
            self._has_head = True
            body = b"".join(trace.body(recording.id, Side.CLIENT))
            self._session.request(body, recording.request_complete_us)
            self._session.response(ResponseHead(recording.status, recording.response_fields), recording.first_byte_us)
        for chunk in read_chunks(trace.connection, recording.id, Side.UPSTREAM, self._seq):
            self._seq = chunk.seq
            self._session.data(chunk.at_us, chunk.data or b"")
        readings = tuple(self._session.readings(None))
        if readings == self._shown:
            return None
        self._shown = readings
        return readings
