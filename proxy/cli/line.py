"""An exchange on one line, in columns that fit the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from proxy.cli.render import BAD, DIM, GOOD, NAME, WARN, duration, fit, local_time, printable, size
from proxy.exchange import Outcome

if TYPE_CHECKING:
    from proxy.store.trace import ExchangeRow, GapRow

_PLAIN = Style()
_FIXED_CELLS = 6 + 8 + 5 + 3 + 4 + 4 + 5 + 5
"""id, time, method, status, in, out, first, total"""


@dataclass(frozen=True, slots=True)
class Layout:
    """How wide the columns are that depend on the terminal; 0 leaves a column out."""

    client: int
    path: int
    model: int
    outcome: int
    is_terminal: bool = True

    @classmethod
    def fitting(cls, width: int) -> "Layout":
        """The columns of a terminal so many cells wide; the line has one cell less, so that it never wraps."""
        client = 0 if width < 100 else 9 if width < 140 else 21
        outcome = 8 if width < 100 else 13 if width < 140 else 20
        columns = 11 if client else 10
        flexible = max(width - 1 - _FIXED_CELLS - client - outcome - columns, 12)
        path = min(flexible * 3 // 5, 48)
        return cls(client, path, min(flexible - path, 48), outcome)

    @classmethod
    def plain(cls) -> "Layout":
        """For files and other programs: nothing is cut."""
        return cls(21, 24, 24, 9, is_terminal=False)

    def head(self) -> Text:
        """The names of the columns."""
        names = [
            *(f"{'id':>6}", "time    "),
            *([fit("client", self.client)] if self.client else []),
            *("meth.", fit("path", self.path), "st.", fit("model", self.model)),
            *("  in", " out", "first", "total", "outcome"),
        ]
        return Text(" ".join(names), style=DIM)

    def line(self, row: "ExchangeRow") -> Text:
        """An exchange; what went wrong stands at its end, or below it on a terminal (`error`)."""
        line = Text()
        for text, style in self._cells(row):
            line.append(text, style).append(" ")
        line.rstrip()
        return line

    def error(self, row: "ExchangeRow") -> Text | None:
        """What went wrong, as a line of its own for a terminal; None where nothing did."""
        if not (self.is_terminal and row.error):
            return None
        return Text("       " + printable(row.error, is_one_line=True), style=outcome_style(row), overflow="ellipsis")

    def gap(self, gap: "GapRow") -> Text:
        """What is missing, where it is not known of which exchange."""
        since, until = local_time(gap.since_us), local_time(gap.until_us)
        lost = f"{gap.lost_exchanges} exchanges" if gap.lost_exchanges else f"{gap.lost_records} records"
        text = f"{since:%H:%M:%S} to {until:%H:%M:%S}: {lost} could not be recorded: {gap.reason}"
        return Text(f"{'gap':>6} {printable(text, is_one_line=True)}", style=WARN)

    def _cells(self, row: "ExchangeRow") -> Iterator[tuple[str, Style]]:
        at = local_time(row.started_at_us)
        path, model = (printable(text or "-", is_one_line=True) for text in (row.path, row.model))
        yield f"{row.id:>6}", NAME
        if self.is_terminal:
            yield f"{at:%H:%M:%S}", DIM
            if self.client:
                host = row.client if self.client > 15 else row.client.rpartition(":")[0]
                yield fit(host, self.client, keep_end=True), DIM
        else:
            yield f"{at:%Y-%m-%d %H:%M:%S}", DIM
            yield f"{row.client:{self.client}}", DIM
        method = "WS" if row.kind == "websocket" else printable(row.method or "-", is_one_line=True)
        cut = fit if self.is_terminal else str.ljust
        yield cut(method, 5), _PLAIN
        yield fit(path, self.path, keep_end=True) if self.is_terminal else path.ljust(self.path), _PLAIN
        yield f"{row.status or '-':>3}", status_style(row.status)
        yield cut(model, self.model), _PLAIN if row.model else DIM
        yield f"{size(row.request_bytes):>4}", DIM
        yield f"{size(row.response_bytes):>4}", DIM
        yield f"{duration(row.first_byte_ms):>5}", DIM
        yield f"{duration(row.duration_ms):>5}", _PLAIN
        yield self._outcome(row), outcome_style(row)

    def _outcome(self, row: "ExchangeRow") -> str:
        outcome: str = row.outcome or "running"
        if not self.is_terminal:
            parts = [
                outcome,
                *(["with gaps"] if row.gaps else []),
                *([printable(row.error, is_one_line=True)] if row.error else []),
            ]
            return ": ".join(parts)
        if self.outcome < 10:  # no room for more than whose doing it was
            outcome = {"completed": "ok", "interrupted": "killed"}.get(outcome, outcome.partition("_")[0])
        return fit(f"{outcome}, gaps" if row.gaps else outcome, self.outcome)


def status_style(status: int | None) -> Style:
    """Green, yellow or red for what an HTTP status tells."""
    if status is None:
        return DIM
    return GOOD if status < 400 else WARN if status < 500 else BAD


def outcome_style(row: "ExchangeRow") -> Style:
    """Quiet where it went well, red where something broke; a client that leaves early is not an error."""
    if row.outcome is None:
        return NAME
    if row.gaps:
        return WARN
    if row.outcome == Outcome.COMPLETED:
        return DIM
    return WARN if row.outcome in (Outcome.CLIENT_GONE, Outcome.PROXY_STOPPED) else BAD
