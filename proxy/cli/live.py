"""Exchanges as they happen: each one's line, and the text of streamed answers as it grows.

Only one answer at a time is written as it comes, so that it can be read; those that run beside it are shown whole when
they end. Nothing is ever drawn over but a line that nothing has followed yet.
"""

import re
import time
from datetime import datetime
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.control import Control
from rich.segment import ControlType
from rich.text import Text

from proxy.cli.line import Layout
from proxy.cli.render import DIM, NAME, local_time, printable, put
from proxy.exchange import Side
from proxy.read.stream_text import StreamText
from proxy.store.trace import ExchangeRow, GapRow, Trace

_POLL_S = 0.05
_BATCH = 500
_STREAM_TYPE = re.compile(r'"content-type",\s*"[^"]*(event-stream|ndjson)', re.IGNORECASE)
_PIECE = re.compile(r"\n|[^\S\n]+|\S{1,20}")
_MARGIN_CELLS = 9


class View(Protocol):
    """What a `Follower` shows things on."""

    def show(self, row: ExchangeRow) -> None:
        """An exchange that began or ended."""

    def write(self, exchange: int, text: str) -> None:
        """More of the text that an exchange streams."""

    def warn(self, gap: GapRow) -> None:
        """Something is missing, and it is not known of which exchange."""


class Screen:
    """A view for people: lines and growing text, one after the other."""

    def __init__(self, console: Console, *, with_text: bool = True) -> None:
        self._console = console
        self._with_text = with_text
        self._writing: int | None = None
        """The exchange whose text is on the last line, which is still open."""
        self._begun: int | None = None
        """The exchange that has just begun, if its line is the last thing on the screen."""
        self._column = 0
        self._id_digits = 0
        self._day = f"{datetime.now():%Y-%m-%d}"

    @property
    def layout(self) -> Layout:
        """Columns for the terminal as it is now."""
        return Layout.fitting(self._console.width, self._id_digits) if self._console.is_terminal else Layout.plain()

    def head(self, last: list[ExchangeRow]) -> None:
        """The names of the columns, on a terminal, before the rows `last`."""
        self._id_digits = max((len(str(row.id)) for row in last), default=0)
        if self._console.is_terminal:
            self._console.print(self.layout.head())

    def note(self, lines: list[str]) -> None:
        """Lines about what is listened to, between the exchanges that were and those to come."""
        for line in lines:
            self._print_cut(Text(printable(line), DIM))

    def show(self, row: ExchangeRow) -> None:
        """An exchange's line, in the place of its own earlier one if that is the last thing there."""
        self._end_line()
        if self._begun == row.id and self._console.is_terminal:
            up = (ControlType.CURSOR_UP, 1)
            self._console.control(Control(up, ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2)))
        layout = self.layout
        day = f"{local_time(row.started_at):%Y-%m-%d}"
        if day != self._day and layout.is_terminal:  # the lines tell the time alone
            put(self._console, (day, DIM))
        self._day = day
        self._console.print(layout.line(row))
        if error := layout.error(row):
            self._print_cut(error)
        self._begun = row.id if row.outcome is None else None

    def warn(self, gap: GapRow) -> None:
        """A line that tells the gap."""
        self._end_line()
        self._print_cut(self.layout.gap(gap))
        self._begun = None

    def write(self, exchange: int, text: str) -> None:
        """The text, behind what is there of this exchange's; wrapped at words on a terminal."""
        if not self._with_text or not text:
            return
        self._begun = None
        if self._writing != exchange:
            self._end_line()
            self._margin(str(exchange))
            self._writing = exchange
        for piece in _PIECE.findall(printable(text)):
            if piece == "\n":
                self._console.print()
                self._margin("")
            elif self._console.is_terminal and self._column + cell_len(piece) >= self._console.width:
                self._console.print()
                self._margin("")
                self._put("" if piece.isspace() else piece)
            else:
                self._put(piece)

    def _print_cut(self, text: Text) -> None:
        if self._console.is_terminal:
            text.truncate(max(self._console.width - 1, 20), overflow="ellipsis")
        self._console.print(text)

    def _put(self, piece: str) -> None:
        self._console.print(piece, end="")
        self._column += cell_len(piece)

    def _margin(self, number: str) -> None:
        put(self._console, (f"{number:>6}", NAME), (" \u2502 ", DIM), end="")
        self._column = _MARGIN_CELLS

    def _end_line(self) -> None:
        if self._writing is not None:
            self._console.print()
        self._writing = None


class _Running:
    """An exchange that has not ended: how far it was read, and the text that is not shown yet."""

    def __init__(self, row: ExchangeRow) -> None:
        self.row = row
        self.pending = ""
        self._seq = -1
        self._text = StreamText()

    def read(self, trace: Trace) -> None:
        """Take what is new in the trace; the row first, so that one which ended is followed by all its text."""
        if self.row.outcome is None:
            self.row = trace.exchange(self.row.id) or self.row
        if not _STREAM_TYPE.search(self.row.sent_headers or ""):
            return
        for chunk in trace.chunks(self.row.id, Side.UPSTREAM, self._seq):
            self._seq = chunk.seq
            self.pending += self._text.feed(chunk.data or b"")
        if self.row.outcome is not None:
            self.pending += self._text.finish()


class Follower:
    """Reads what is new in the trace and hands it to a view."""

    def __init__(self, trace: Trace, view: View, last: list[ExchangeRow]) -> None:
        """`last` are the exchanges that are already shown, the newest at the end."""
        self._trace = trace
        self._view = view
        self._last_id = last[-1].id if last else 0
        self._last_gap = max((gap.id for gap in trace.gaps()), default=0)
        self._running = {row.id: _Running(row) for row in last if row.outcome is None}
        self._foreground: _Running | None = None
        """The one whose text is written as it comes."""

    def run(self) -> None:
        """Poll until interrupted."""
        version = -1
        while True:
            now = self._trace.data_version()
            if now == version:
                time.sleep(_POLL_S)
            else:
                version = now
                self.read()

    def read(self) -> None:
        """Show everything that is new at this moment."""
        while rows := self._trace.after(self._last_id, _BATCH):
            self._last_id = rows[-1].id
            for row in rows:
                self._running[row.id] = _Running(row)
                if row.outcome is None:
                    self._view.show(row)
            self._read_running()
        self._read_running()
        for gap in self._trace.gaps(after=self._last_gap):
            self._last_gap = gap.id
            if gap.exchange_id is None:
                self._view.warn(gap)

    def _read_running(self) -> None:
        for running in list(self._running.values()):
            running.read(self._trace)
            if running.row.outcome is not None:
                self._view.write(running.row.id, running.pending)
                self._view.show(running.row)
                del self._running[running.row.id]
                if running is self._foreground:
                    self._foreground = None
        if self._foreground is None:
            self._foreground = next((each for each in self._running.values() if each.pending), None)
        if self._foreground:
            self._view.write(self._foreground.row.id, self._foreground.pending)
            self._foreground.pending = ""
