"""An exchange on one line, in columns that fit the terminal."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.style import Style
from rich.text import Text

from proxy.cli.render import BAD, DIM, GOOD, NAME, WARN, duration, fit, local_time, printable, size
from proxy.exchange import Outcome
from proxy.store.trace import ExchangeRow, GapRow

_PLAIN = Style()
_FIXED_CELLS = 8 + 3 + 4 + 4 + 5 + 5
"""time, status, in, out, first, total"""
_SHORT_OUTCOMES = {
    "completed": "ok",
    "client_gone": "client",
    "upstream_unreachable": "upstr.",
    "upstream_gone": "upstr.",
    "upstream_timeout": "upstr.",
    "proxy_stopped": "proxy",
    "interrupted": "killed",
    "running": "...",
}
"""Where there is no room for more than who ended it."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How wide the columns are that depend on the terminal; 0 leaves a column out."""

    id: int
    client: int
    method: int
    path: int
    model: int
    outcome: int
    is_terminal: bool = True

    @classmethod
    def fitting(cls, width: int, id_digits: int = 0) -> "Layout":
        """The columns of a terminal so many cells wide; the line has one cell less, so that it never wraps.

        `id_digits` is how many digits the greatest id has, if that may be more than usual.
        """
        if width < 100:
            number, client, method, outcome = 5, 0, 4, 6
        elif width < 140:
            number, client, method, outcome = 6, 9, 5, 14
        else:
            number, client, method, outcome = 6, 21, 5, 20
        number = max(number, id_digits)
        gaps = 11 if client else 10
        flexible = max(width - 1 - _FIXED_CELLS - number - client - method - outcome - gaps, 12)
        path = max(min(flexible // 2, 32), min(flexible * 2 // 3, 20))
        return cls(number, client, method, path, min(flexible - path, 36), outcome)

    @classmethod
    def plain(cls) -> "Layout":
        """For files and other programs: nothing is cut."""
        return cls(6, 21, 5, 24, 24, 9, is_terminal=False)

    def head(self) -> Text:
        """The names of the columns."""
        names = [
            *(f"{'id':>{self.id}}", "time    "),
            *([fit("client", self.client)] if self.client else []),
            *(" " * self.method, fit("path", self.path), "   ", fit("model", self.model)),
            *("  in", " out", "first", "total", "outcome"),
        ]
        return Text(" ".join(names), style=DIM)

    def line(self, row: ExchangeRow) -> Text:
        """An exchange; what went wrong stands at its end, or below it on a terminal (`error`)."""
        line = Text()
        for text, style in self._cells(row):
            line.append(text, style).append(" ")
        line.rstrip()
        return line

    def error(self, row: ExchangeRow) -> Text | None:
        """What went wrong, as a line of its own for a terminal; None where nothing did."""
        if not (self.is_terminal and row.error):
            return None
        return Text("       " + printable(row.error, is_one_line=True), style=outcome_style(row), overflow="ellipsis")

    def gap(self, gap: GapRow) -> Text:
        """What is missing, where it is not known of which exchange."""
        since, until = local_time(gap.since), local_time(gap.until)
        lost = f"{gap.lost_exchanges} exchanges" if gap.lost_exchanges else f"{gap.lost_records} records"
        text = f"{since:%H:%M:%S} to {until:%H:%M:%S}: {lost} could not be recorded: {gap.reason}"
        return Text(f"{'gap':>6} {printable(text, is_one_line=True)}", style=WARN)

    def _cells(self, row: ExchangeRow) -> Iterator[tuple[str, Style]]:
        at = local_time(row.started_at)
        path, model = (printable(text or "-", is_one_line=True) for text in (row.path, row.model))
        yield f"{row.id:>{self.id}}", NAME
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
        yield cut(method, self.method), _PLAIN
        yield fit(path, self.path, keep_end=True) if self.is_terminal else path.ljust(self.path), _PLAIN
        yield f"{row.status or '-':>3}", status_style(row.status)
        yield cut(model, self.model), _PLAIN if row.model else DIM
        yield f"{size(row.request_bytes):>4}", DIM
        yield f"{size(row.response_bytes):>4}", DIM
        yield f"{duration(row.first_byte_ms):>5}", DIM
        yield f"{duration(row.duration_ms):>5}", _PLAIN
        yield self._outcome(row), outcome_style(row)

    def _outcome(self, row: ExchangeRow) -> str:
        outcome: str = row.outcome or "running"
        if not self.is_terminal:
            parts = [
                outcome,
                *(["gap"] if row.gaps else []),
                *([printable(row.error, is_one_line=True)] if row.error else []),
            ]
            return ": ".join(parts)
        if self.outcome < 10:
            return fit(_SHORT_OUTCOMES[outcome] + (" gap" if row.gaps else ""), self.outcome)
        return fit(f"{outcome}, gap" if row.gaps else outcome, self.outcome)


def status_style(status: int | None) -> Style:
    """Green, yellow or red for what an HTTP status tells."""
    if status is None:
        return DIM
    return GOOD if status < 400 else WARN if status < 500 else BAD


def outcome_style(row: ExchangeRow) -> Style:
    """Quiet where it went well, red where something broke; a client that leaves early is not an error."""
    if row.outcome is None:
        return NAME
    if row.gaps:
        return WARN
    if row.outcome == Outcome.COMPLETED:
        return DIM
    return WARN if row.outcome in (Outcome.CLIENT_GONE, Outcome.PROXY_STOPPED) else BAD
