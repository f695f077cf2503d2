"""Writes real segment files: what a front would have written, with times and ids of the test's choosing."""

from dataclasses import dataclass, field
from pathlib import Path

from proxy.clock import ClockReading
from proxy.exchange import Outcome, Side
from proxy.record.journal import (
    RECORD_HEADER,
    Close,
    Gap,
    Kind,
    Open,
    Response,
    SegmentHeader,
    journal_folder,
    pack_block,
    pack_record,
    segment_name,
)

START_WALL_NS = 1_760_000_000_000_000_000
START_NS = 5_000_000_000

REQUEST_FIELDS = b"\r\n".join(
    [
        b"Host: localhost:8234",
        b"User-Agent: OpenAI/Python 1.60.0",
        b"Accept: application/json",
        b"Accept-Encoding: gzip, deflate",
        b"Connection: keep-alive",
        b"Content-Type: application/json",
        b"Content-Length: 70",
        b"Authorization: Bearer [masked:1a2b3c4d5e6f]",
        b"X-Stainless-Lang: python",
        b"X-Stainless-Async: false",
    ]
)
KEY = b"k" * 32


@dataclass
class Journal:
    """The journal of one run beside a trace."""

    trace: Path
    wall_ns: int = START_WALL_NS
    run_id: bytes = b"run-0123456789ab"
    now_ns: int = START_NS
    segment: int = 0
    exchange: int = 0
    packed: list[bytes] = field(default_factory=list)
    client_bytes: dict[int, int] = field(default_factory=dict)
    upstream_bytes: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The key lies beside the trace, as the front puts it there."""
        self.trace.with_name(f"{self.trace.name}.key").write_bytes(KEY)

    @property
    def path(self) -> Path:
        """The current segment."""
        return journal_folder(self.trace) / segment_name(self.wall_ns, self.segment)

    def header(self) -> bytes:
        """The current segment's header."""
        return SegmentHeader(self.run_id, self.segment, ClockReading(self.wall_ns, START_NS)).pack()

    def add(self, kind: int, exchange: int, payload: bytes, after_us: int = 100) -> None:
        """A record, `after_us` after the one before."""
        self.now_ns += after_us * 1000
        self.packed.append(b"".join(pack_record(kind, exchange, self.now_ns, payload)))

    def open(
        self,
        target: bytes = b"/v1/chat/completions",
        *,
        method: bytes = b"POST",
        is_websocket: bool = False,
        fields: bytes = REQUEST_FIELDS,
    ) -> int:
        """A request's head; gives its number."""
        self.exchange += 1
        head = method + b" " + target + b" HTTP/1.1\r\n" + fields
        record = Open(1, "127.0.0.1:50000", "lmstudio", "http://localhost:1234", head, head, is_websocket)
        self.add(Kind.OPEN, self.exchange, record.pack())
        return self.exchange

    def data(self, exchange: int, side: Side, data: bytes, after_us: int = 100) -> None:
        """One read."""
        counted = self.client_bytes if side is Side.CLIENT else self.upstream_bytes
        counted[exchange] = counted.get(exchange, 0) + len(data)
        self.add(Kind.CLIENT_DATA + side, exchange, data, after_us)

    def response(
        self,
        exchange: int,
        content_type: bytes = b"application/json",
        *,
        status: bytes = b"200 OK",
        fields: bytes = b"",
    ) -> None:
        """A final response's head."""
        head = b"HTTP/1.1 " + status + b"\r\nContent-Type: " + content_type + b"\r\nX-Powered-By: Express" + fields
        self.add(Kind.RESPONSE, exchange, Response(head, head + b"\r\nAccess-Control-Allow-Origin: *").pack())

    def close(self, exchange: int, outcome: Outcome = Outcome.COMPLETED, error: str = "") -> None:
        """The end."""
        record = Close(
            outcome,
            error,
            self.now_ns,
            self.now_ns,
            self.now_ns + 100_000,
            self.client_bytes.pop(exchange, 0),
            self.upstream_bytes.pop(exchange, 0),
        )
        self.add(Kind.CLOSE, exchange, record.pack())

    def gap(self, exchange: int, gap: Gap) -> None:
        """Something was lost."""
        self.add(Kind.GAP, exchange, gap.pack())

    def end(self) -> None:
        """The run ends in order."""
        self.add(Kind.END, 0, b"")

    def exchange_of(
        self,
        request: list[bytes],
        response: list[bytes],
        content_type: bytes = b"application/json",
        target: bytes = b"/v1/chat/completions",
    ) -> int:
        """A whole exchange."""
        number = self.open(target)
        for data in request:
            self.data(number, Side.CLIENT, data)
        self.response(number, content_type)
        for data in response:
            self.data(number, Side.UPSTREAM, data, 30_000)
        self.close(number)
        return number

    def join(self, count: int) -> None:
        """Put what was added into blocks of so many records, as a front writes it; the last has the rest."""
        alone, self.packed = self.packed, []
        for start in range(0, len(alone), count):
            some = alone[start : start + count]
            kinds, exchanges, times_ns = zip(*[RECORD_HEADER.unpack_from(one)[2:] for one in some], strict=True)
            block = pack_block(kinds, exchanges, times_ns, [one[RECORD_HEADER.size :] for one in some])
            self.packed.append(b"".join(block))

    def write(self) -> None:
        """Append what was added to the current segment."""
        self.path.parent.mkdir(exist_ok=True)
        is_new = not self.path.exists()
        with self.path.open("ab") as file:
            file.write((self.header() if is_new else b"") + b"".join(self.packed))
        self.packed = []

    def next_segment(self) -> None:
        """Write what was added and go on in a new segment."""
        self.write()
        self.segment += 1
