"""A call in columns that fit the terminal, and below what was asked and answered."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from proxy.cli.call_rows import CallRow
from proxy.cli.render import BAD, BOLD, DIM, GOOD, NAME, WARN, duration, fit, local_time, printable, size

_PLAIN = Style()
_SHORT_LABELS = {"continue": "cont.", "regenerate": "regen.", "continue_answer": "extend", "tool_round": "tool"}
_SHORT_STOPS = {
    "stop_string": "string",
    "context_length": "contxt",
    "tool_calls": "tools",
    "content_filter": "filter",
    "cancelled": "cancel",
    "model_unloaded": "unload",
    "running": "...",
}
_QUIET_STOPS = ("stop", "stop_string", "tool_calls", "-")


@dataclass(frozen=True, slots=True)
class CallLayout:
    """How wide the columns are that depend on the terminal."""

    width: int
    id: int
    exchange: int
    label: int
    model: int
    stop: int
    is_terminal: bool = True

    @classmethod
    def fitting(cls, width: int, rows: Sequence[CallRow]) -> "CallLayout":
        """The columns of a terminal so many cells wide; a line has one cell less, so that it never wraps."""
        number = max([4, *(len(str(row.id)) for row in rows)])
        exchange = max([4, *(len(str(row.fields["exchange_id"])) for row in rows)])
        label, stop = (6, 6) if width < 110 else (15, 14)
        fixed = number + exchange + 8 + label + 4 + 4 + 4 * 5 + stop + 12  # time, tokens, speeds, blanks
        longest = max([5, *(cell_len(row.model) for row in rows)])
        return cls(width, number, exchange, label, min(max(width - 1 - fixed, 8), longest), stop)

    @classmethod
    def plain(cls) -> "CallLayout":
        """For files and other programs: a call is one line."""
        return cls(0, 6, 6, 15, 24, 14, is_terminal=False)

    def head(self) -> tuple[Text, Text]:
        """The names of the columns, above them who tells the numbers."""
        before = [f"{'id':>{self.id}}", f"{'exch':>{self.exchange}}", "time    ", fit("label", self.label)]
        names = " ".join([*before, fit("model", self.model), "  in", " out", " ttft tok/s", " ttft tok/s", " stop"])
        above = " " * (sum(cell_len(each) + 1 for each in before) + self.model + 1)
        return Text(f"{above}   tokens   reported    measured", style=DIM), Text(names, style=DIM)

    def lines(self, row: CallRow) -> Iterator[Text]:
        """A call: on a terminal its numbers, below its input and its answer; otherwise all on one line."""
        line = Text()
        for text, style in self._cells(row):
            line.append(text, style).append(" ")
        error = printable(row.fields["error"] or "", is_one_line=True)
        if not self.is_terminal:
            line.append(f" > {row.input}  < {row.output}")
            yield line.append(f"  ! {error}") if error else line
            return
        line.rstrip()
        yield line
        yield from words(row, " " * (self.id + 1), self.width)

    def _cells(self, row: CallRow) -> Iterator[tuple[str, Style]]:
        fields = row.fields
        at = local_time(fields["started_at"])
        model = printable(row.model, is_one_line=True)
        yield f"{row.id:>{self.id}}", NAME
        yield f"{fields['exchange_id']:>{self.exchange}}", DIM
        yield f"{at:%H:%M:%S}" if self.is_terminal else f"{at:%Y-%m-%d %H:%M:%S}", DIM
        label = fields["label"] or ("embed" if fields["operation"] == "embedding" else "-")
        yield fit(_SHORT_LABELS.get(label, label) if self.label < 10 else label, self.label), label_style(label)
        yield fit(model, self.model) if self.is_terminal else model.ljust(self.model), _PLAIN
        yield f"{size(fields['reported_input_tokens']):>4}", _PLAIN
        yield f"{size(fields['reported_output_tokens']):>4}", _PLAIN
        reported_s = fields["reported_ttft_s"]
        yield f"{duration(None if reported_s is None else reported_s * 1000):>5}", _PLAIN
        yield f"{speed(fields['reported_tokens_per_second']):>5}", _PLAIN
        yield f"{duration(fields['measured_ttft_ms']):>5}", GOOD
        yield f"{speed(fields['measured_tokens_per_second']):>5}", GOOD
        stop = _SHORT_STOPS.get(row.stop, row.stop) if self.stop < 10 else row.stop
        yield f" {stop:{self.stop}}", stop_style(row.stop)


def words(row: CallRow, before: str | Text, width: int) -> Iterator[Text]:
    """What was asked and answered, and what went wrong, a line each."""
    error = printable(row.fields["error"] or "", is_one_line=True)
    for mark, text, style in (("> ", row.input, _PLAIN), ("< ", row.output, BOLD), ("! ", error, BAD)):
        if text:
            line = Text.assemble(before, (mark, DIM), (text, style))
            line.truncate(width - 1, overflow="ellipsis")
            yield line


def speed(tokens_per_second: float | None) -> str:
    """Tokens per second in at most five characters: `7.3`, `61.2`, `128`."""
    if tokens_per_second is None:
        return "-"
    if tokens_per_second < 99.95:
        return f"{tokens_per_second:.1f}"
    return size(round(tokens_per_second))


def label_style(label: str) -> Style:
    """A conversation that goes on is quiet; what is asked again stands out."""
    return {"new": NAME, "branch": WARN, "regenerate": WARN, "retry": BAD}.get(label, DIM)


def stop_style(stop: str) -> Style:
    """Quiet for a model that came to its end, yellow for one that was ended, red for a failure."""
    if stop in _QUIET_STOPS:
        return DIM
    return BAD if stop in ("failed", "error", "model_unloaded") else NAME if stop == "running" else WARN
