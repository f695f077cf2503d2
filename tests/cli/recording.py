"""Traces with made-up traffic: a journal written by the package's own functions, taken in by its own ingest."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from proxy.clock import ClockReading
from proxy.exchange import Outcome, Side
from proxy.record.journal import Close, Gap, Kind, Open, Response, journal_folder, pack_record
from proxy.record.segments import SegmentWriter
from proxy.secret import load_key
from proxy.store.ingest import Ingest

MS = 1_000_000
_DATA = {Side.CLIENT: Kind.CLIENT_DATA, Side.UPSTREAM: Kind.UPSTREAM_DATA}
CHAT_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8234\r\nContent-Type: application/json\r\n"
CHAT = b'{"model":"smollm2-135m-instruct","messages":[{"role":"user","content":"hi"}],"temperature":1.50}'
ANSWER = b'{"choices":[{"message":{"role":"assistant","content":"Hello! \xc3\xbc"}}],"usage":{"total_tokens":12}}'
EVENTS = [
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"%s"}}]}\n\n' % word
    for word in (b"Once", b" upon", b" a", b" time", b" there", b" was", b" a", b" mouse", b".")
] + [b"data: [DONE]\n\n"]


LMSTUDIO_URL = "http://localhost:1234"


class Recording:
    """A journal that grows call by call; what is in it reaches the trace with `take_in`."""

    def __init__(self, trace: Path, started: ClockReading | None = None) -> None:
        self.trace = trace
        self.started = started or ClockReading.now()
        self._segments = SegmentWriter(journal_folder(trace), self.started, 1 << 25)
        self._ingest = Ingest(trace, key=load_key(Path(f"{trace}.key")), body_fields=("tools[].authorization",))
        self._exchanges = 0
        self._bytes: dict[tuple[int, Side], int] = {}
        self._first_ns: dict[int, int] = {}
        self.at_ms = 0.0
        """The time of what is written next, since the start."""

    def write(self, kind: Kind, exchange: int, payload: bytes = b"") -> None:
        """Any record."""
        self._segments.append([*pack_record(kind, exchange, self.now_ns, payload)])

    def open(
        self,
        head: bytes = CHAT_HEAD,
        *,
        upstream: str = "lmstudio",
        is_websocket: bool = False,
        client: str = "127.0.0.1:50123",
    ) -> int:
        """A request's head; gives its exchange."""
        self._exchanges += 1
        forwarded = head.replace(b"localhost:8234", b"localhost:1234") if upstream else b""
        url = {"": "", "lmstudio": LMSTUDIO_URL}.get(upstream, f"http://{upstream}:1234")
        opened = Open(self._exchanges, client, upstream, url, head, forwarded, is_websocket)
        self.write(Kind.OPEN, self._exchanges, opened.pack())
        return self._exchanges

    def data(self, exchange: int, side: Side, *parts: bytes, every_ms: float = 0.0) -> None:
        """Reads of body bytes, so many ms one after the other."""
        for part in parts:
            self.at_ms += every_ms
            self.write(_DATA[side], exchange, part)
            self._bytes[exchange, side] = self._bytes.get((exchange, side), 0) + len(part)

    def respond(self, exchange: int, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n") -> None:
        """A response's head, and what CORS makes of it."""
        self._first_ns[exchange] = self.now_ns
        self.write(Kind.RESPONSE, exchange, Response(head, head + b"Access-Control-Allow-Origin: *\r\n").pack())

    def close(self, exchange: int, outcome: Outcome = Outcome.COMPLETED, error: str = "") -> None:
        """The end."""
        client, upstream = (self._bytes.get((exchange, side), 0) for side in Side)
        first_ns = self._first_ns.get(exchange, 0)
        closed = Close(outcome, error, first_ns and first_ns - MS, first_ns, self.now_ns, client, upstream)
        self.write(Kind.CLOSE, exchange, closed.pack())

    def gap(self, exchange: int, gap: Gap) -> None:
        """Something that was lost."""
        self.write(Kind.GAP, exchange, gap.pack())

    def take_in(self) -> Self:
        """Everything written so far is in the trace afterwards."""
        while self._ingest.run_once():
            pass
        return self

    def crash(self) -> None:
        """The front is gone, and so is the back: nothing more is written or taken in."""
        self._segments.close()
        self._ingest.close()

    @property
    def now_ns(self) -> int:
        """The monotonic time of what is written next."""
        return self.started.monotonic_ns + int(self.at_ms * MS)

    # --- whole exchanges ----------------------------------------------------------------------------------------------

    def chat(self, body: bytes = CHAT, answer: bytes = ANSWER) -> int:
        """A plain request and its answer."""
        exchange = self.open()
        self.data(exchange, Side.CLIENT, body)
        self.at_ms += 83
        self.respond(exchange)
        self.data(exchange, Side.UPSTREAM, answer)
        self.at_ms += 2
        self.close(exchange)
        return exchange

    def begin_stream(self) -> int:
        """A streamed answer, as far as its head."""
        exchange = self.open()
        self.data(exchange, Side.CLIENT, CHAT)
        self.at_ms += 40
        self.respond(exchange, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        return exchange

    def stream(self) -> int:
        """A streamed answer, whole."""
        exchange = self.begin_stream()
        self.data(exchange, Side.UPSTREAM, *EVENTS, every_ms=12.5)
        self.close(exchange)
        return exchange


@contextlib.contextmanager
def recording(trace: Path) -> Iterator[Recording]:
    """A recording that is let go of in the end."""
    made = Recording(trace)
    try:
        yield made
    finally:
        made.crash()
