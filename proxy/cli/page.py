"""An exchange on a page: what came, what went on, what came back, and when."""

import json
from difflib import SequenceMatcher

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.padding import Padding
from rich.text import Text

from proxy.cli.body_text import read_body
from proxy.cli.line import outcome_style, status_style
from proxy.cli.reading_objects import readings_of
from proxy.cli.reading_text import MAX_READINGS, reading_lines, title_of
from proxy.cli.render import BAD, BOLD, DIM, GOOD, NAME, WARN, duration, local_time, printable, put
from proxy.cli.timeline import timeline
from proxy.exchange import Side
from proxy.store.trace import ExchangeRow, Trace

Pairs = list[tuple[str, str]]


class Page:
    """Prints one exchange."""

    def __init__(self, console: Console, trace: Trace, row: ExchangeRow, *, is_full: bool) -> None:
        self._console = console
        self._trace = trace
        self._row = row
        self._is_full = is_full

    def print(self, *, with_chunks: bool | None) -> None:
        """Everything; `with_chunks` None shortens a long timeline."""
        self._summary()
        self._readings()
        self._request()
        self._response()
        if with_chunks is not False and self._row.request_chunks + self._row.response_chunks:
            self._title("Messages" if self._row.kind == "websocket" else "Chunks")
            width = self._console.width if self._console.is_terminal else 160
            for line in timeline(self._trace, self._row, width, is_whole=bool(with_chunks)):
                self._console.print(line)

    def _summary(self) -> None:
        row = self._row
        put(
            self._console,
            (f"Exchange {row.id}  ", BOLD),
            f"{printable(row.method or '(malformed)')} {printable(row.path or '', is_one_line=True)}  ",
            (f"{row.status or 'no response'} {printable(row.reason or '')}".rstrip(), status_style(row.status)),
            "  ",
            (row.outcome or "running", outcome_style(row)),
        )
        upstream = f"{row.upstream} ({row.upstream_url})" if row.upstream else "nobody: the proxy answered"
        started = local_time(row.started_at)
        put(self._console, (f"{started:%Y-%m-%d %H:%M:%S.%f %Z}, from {row.client} to {upstream}", DIM))
        if row.error:
            put(self._console, (printable(row.error), BAD))
        times = {"request complete": row.request_complete_ms, "first byte": row.first_byte_ms, "done": row.duration_ms}
        put(self._console, "  ".join(f"{name} {duration(ms)}" for name, ms in times.items() if ms is not None))
        if row.masked:
            values = "value is" if row.masked == 1 else "values are"
            put(self._console, (f"{row.masked} {values} masked in what follows", WARN))
        for gap in self._trace.gaps(row.id):
            lost = f"{gap.lost_records} records, {gap.request_bytes} + {gap.response_bytes} body bytes"
            put(self._console, (f"Not recorded: {lost}, at {local_time(gap.since):%H:%M:%S.%f}: {gap.reason}", WARN))

    def _readings(self) -> None:
        readings = readings_of(self._trace.connection, self._row.id)
        width = self._console.width if self._console.is_terminal else 160
        shown = len(readings) if self._is_full else MAX_READINGS
        for number, reading in enumerate(readings[:shown]):
            self._title(
                f"Reading {number + 1} of {len(readings)}" if len(readings) > 1 else "Reading", title_of(reading)
            )
            for line in reading_lines(reading, width, is_full=self._is_full):
                self._console.print(line)
        if len(readings) > shown:
            put(self._console, (f"\n{len(readings) - shown} more readings; --full shows them", DIM))

    def _title(self, title: str, about: str = "") -> None:
        put(self._console, "\n", (title, BOLD), (f"  {about}" if about else "", DIM))

    def _amount(self, count: int, chunks: int) -> str:
        if not chunks:
            return "no body" if self._row.outcome else "nothing yet"
        unit = "message" if self._row.kind == "websocket" else "chunk"
        return f"{count:,} bytes in {chunks:,} {unit}{'s' * (chunks != 1)}"

    def _request(self) -> None:
        row = self._row
        self._title("Request", self._amount(row.request_bytes, row.request_chunks))
        received = _pairs(row.request_headers)
        forwarded = _pairs(row.forwarded_headers) if row.forwarded_headers is not None else None
        version = f" HTTP/{row.http_version}" if row.http_version else ""
        first = f"{row.method} {row.path}{version}" if row.method else ""
        first_forwarded = f"{row.method} {row.forwarded_path}{version}" if row.forwarded_path else first
        self._head([first, *_lines(received)], [first_forwarded, *_lines(forwarded or received)], "forwarded")
        self._trailers(row.request_trailers)
        self._body(Side.CLIENT, received)

    def _response(self) -> None:
        row = self._row
        if row.status is None:
            return
        self._title("Response", self._amount(row.response_bytes, row.response_chunks))
        for status, fields in json.loads(row.interim_heads or "[]"):
            self._put_lines(" ", [str(status), *_lines(fields)])
        sent = _pairs(row.sent_headers)
        received = _pairs(row.response_headers) if row.response_headers is not None else sent
        first = f"{row.status} {row.reason or ''}".rstrip()
        self._head([first, *_lines(received)], [first, *_lines(sent)], "sent to the client")
        self._trailers(row.response_trailers)
        self._body(Side.UPSTREAM, sent)

    def _head(self, old: list[str], new: list[str], passed_on: str) -> None:
        """Both heads in one: what only the first has behind `-`, what only the second has behind `+`."""
        for tag, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
            if tag == "equal":
                self._put_lines(" ", old[a:b])
            else:
                self._put_lines("-", old[a:b])
                self._put_lines("+", new[c:d])
        if old != new:
            put(self._console, (f"  (- as received, + as {passed_on})", DIM))

    def _put_lines(self, mark: str, lines: list[str]) -> None:
        style = {"-": BAD, "+": GOOD}.get(mark, NAME)
        for line in lines:
            name, colon, value = printable(line, is_one_line=True).partition(": ")
            put(self._console, (f"{mark} {name}{colon}", style if colon or mark != " " else BOLD), value)

    def _trailers(self, fields: str | None) -> None:
        if fields:
            put(self._console, ("  after the body:", DIM))
            self._put_lines(" ", _lines(_pairs(fields)))

    def _body(self, side: Side, headers: Pairs) -> None:
        row = self._row
        if row.kind == "websocket" and row.status == 101:
            return
        if not (row.request_bytes if side is Side.CLIENT else row.response_bytes):
            return
        fields = {name.lower(): value.lower() for name, value in headers}
        body = read_body(
            self._trace.body(row.id, side),
            fields.get("content-type", ""),
            fields.get("content-encoding", ""),
            is_full=self._is_full,
        )
        put(self._console, "")
        text = Text(body.text)
        if body.is_json and self._console.is_terminal:
            JSONHighlighter().highlight(text)
        if self._console.is_terminal:
            self._console.print(Padding(text, (0, 0, 0, 2)), soft_wrap=False)
        else:
            for line in text.split("\n", allow_blank=True):
                self._console.print(Text("  ").append_text(line))
        for note in body.notes:
            put(self._console, (f"  ({note})", DIM))


def _pairs(fields: str | None) -> Pairs:
    return [(name, value) for name, value in json.loads(fields or "[]")]


def _lines(fields: Pairs) -> list[str]:
    return [f"{name}: {value}" for name, value in fields]
