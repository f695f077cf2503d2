"""A rendered prompt for reading: each line with where its text is from, in the margin and by its colour."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from proxy.cli.render import DIM, fit, printable
from proxy.meaning import SpanKind
from proxy.prompt.differences import PromptSpan

LINE_END = "\u21b5"
MAX_ROWS = 8
"""Of one piece of a prompt, unless all are asked for."""
MAX_PIECES = 24
"""Of one prompt; the middle ones are left out."""
MAX_NAMES = 12
"""Of the legend."""
_LEGEND_CELLS = 28
_TAB = "\u2409"
_NAME_CELLS = 13
_TOKEN_CELLS = 5
MARGIN = 2 + _NAME_CELLS + _TOKEN_CELLS + 3
"""Cells before the text."""
_COLOURS = ("cyan", "green", "yellow", "magenta", "bright_blue", "bright_red")
"""Of messages, by position."""
_TOOLS = Style(color="blue", italic=True)


class Origins:
    """What the pieces of a prompt are called, and how they look."""

    def __init__(self, roles: Sequence[str], tools: Sequence[str] = ()) -> None:
        """`roles` are those of the messages of the request, in order; `tools` the names of what it offers."""
        self._roles = roles
        self._tools = tools

    def name(self, span: PromptSpan) -> str:
        """`0 system`, `tool 1`, `template`; `earlier` for a message that the server kept."""
        if span.kind is SpanKind.TEMPLATE:
            return "template"
        if span.kind is SpanKind.TOOLS:
            return self._numbered("tool", span.position, self._tools)
        return "earlier" if span.position is None else self.message(span.position)

    def message(self, position: int) -> str:
        """`0 system`."""
        return self._numbered("", position, self._roles)

    def _numbered(self, kind: str, position: int | None, names: Sequence[str]) -> str:
        name = names[position] if position is not None and position < len(names) else ""
        return printable(" ".join(filter(None, (kind, str(position), name))), is_one_line=True)

    def long_name(self, span: PromptSpan) -> str:
        """The same for the legend."""
        if span.kind is SpanKind.TEMPLATE:
            return "the template"
        if span.kind is SpanKind.TOOLS:
            return "tool definitions"
        return "messages kept by the server" if span.position is None else f"message {self.name(span)}"

    def style(self, span: PromptSpan) -> Style:
        """Quiet for the template; neighbours among the messages differ."""
        if span.kind is SpanKind.TEMPLATE:
            return DIM
        if span.kind is SpanKind.TOOLS:
            return _TOOLS
        return self.message_style(span.position)

    @staticmethod
    def message_style(position: int | None) -> Style:
        """Of a message at that place in the request."""
        return Style(color=_COLOURS[(position or 0) % len(_COLOURS)])


@dataclass(slots=True)
class _Share:
    """What of a prompt is from one place."""

    span: PromptSpan
    """One of its pieces."""
    characters: int = 0
    tokens: int | None = 0
    """None: not all of it was counted."""

    def add(self, span: PromptSpan) -> None:
        self.characters += span.end - span.start
        self.tokens = None if self.tokens is None or span.tokens is None else self.tokens + span.tokens


def legend_lines(spans: Sequence[PromptSpan], origins: Origins, *, is_full: bool) -> Iterator[Text]:
    """How much of a prompt is from where: characters, and tokens where they were counted."""
    shares: dict[str, _Share] = {}
    together = _Share(spans[0])
    for span in sorted(spans, key=_rank):
        shares.setdefault(origins.long_name(span), _Share(span)).add(span)
        together.add(span)
    yield Text(f"  {'from':{_LEGEND_CELLS}}{'characters':>11}{'tokens':>9}{'share':>8}", style=DIM)
    left_out = 0 if is_full else max(len(shares) - MAX_NAMES, 0)
    for number, (name, share) in enumerate(shares.items()):
        if 4 <= number < 4 + left_out:
            if number == 4:
                yield Text(f"  ({left_out:,} more; --full shows them)", style=DIM)
            continue
        line = Text("  ").append(fit(name, _LEGEND_CELLS), origins.style(share.span))
        yield line.append(f"{_counts(share)}{share.characters / max(together.characters, 1):>8.0%}")
    yield Text(f"  {'together':{_LEGEND_CELLS}}{_counts(together)}", style=DIM)


def _counts(share: _Share) -> str:
    tokens = "-" if share.tokens is None else f"{share.tokens:,}"
    return f"{share.characters:>11,}{tokens:>9}"


def _rank(span: PromptSpan) -> tuple[int, int]:
    """The template, the tools, then messages by position, those of earlier calls first."""
    order = (SpanKind.TEMPLATE, SpanKind.TOOLS, SpanKind.MESSAGE)
    return order.index(span.kind), -1 if span.position is None else span.position


def prompt_lines(
    prompt: str, spans: Sequence[PromptSpan], origins: Origins, width: int, *, is_full: bool
) -> Iterator[Text]:
    """The prompt, every line end of it shown; a new line is also begun where a new piece begins."""
    if not spans:
        yield from _rows(prompt, "", None, Style(), width, is_full=is_full)
        return
    pieces = [list(group) for _, group in groupby(spans, key=origins.name)]  # neighbours from one place in one
    left_out = 0 if is_full else max(len(pieces) - MAX_PIECES, 0)
    for number, group in enumerate(pieces):
        if MAX_PIECES // 2 <= number < MAX_PIECES // 2 + left_out:
            if number == MAX_PIECES // 2:
                yield _note(f"{left_out:,} pieces more; --full shows them")
            continue
        tokens = [one.tokens for one in group]
        count = None if None in tokens else sum(one or 0 for one in tokens)
        text = prompt[group[0].start : group[-1].end]
        name, style = origins.name(group[0]), origins.style(group[0])
        yield from _rows(text, name, count, style, width, is_full=is_full)


def text_lines(
    text: str, width: int, *, is_full: bool, name: str = "", style: Style | None = None, max_rows: int = MAX_ROWS
) -> Iterator[Text]:
    """Any other text in the same columns, with a name in the margin."""
    yield from _rows(text, name, None, style or Style(), width, is_full=is_full, max_rows=max_rows)


def _rows(
    text: str,
    name: str,
    tokens: int | None,
    style: Style,
    width: int,
    *,
    is_full: bool,
    max_rows: int = MAX_ROWS,
) -> Iterator[Text]:
    rows = list(_cut(text, max(width - 1 - MARGIN, 20)))
    skipped = 0 if is_full else max(len(rows) - max_rows, 0)
    skipped = 0 if skipped == 1 else skipped  # the line that says so would take as much room
    for number, (row, is_end) in enumerate(rows):
        if max_rows - 2 <= number < max_rows - 2 + skipped:
            if number == max_rows - 2:
                yield _note(f"{skipped:,} lines more; --full shows them")
            continue
        line = margin(name, tokens, style) if number == 0 else margin("", None, style)
        yield line.append(row, style).append(LINE_END if is_end else "", DIM)


def margin(name: str, tokens: int | None, style: Style) -> Text:
    """What stands before a line: where it is from, and how many tokens that piece has."""
    count = f"{tokens:,}" if tokens is not None else ""
    line = Text("  ").append(fit(name, _NAME_CELLS), style).append(f"{count:>{_TOKEN_CELLS}} ", DIM)
    return line.append("\u2502 ", DIM)


def _note(text: str) -> Text:
    return margin("", None, Style()).append(f"({text})", DIM)


def _cut(text: str, room: int) -> Iterator[tuple[str, bool]]:
    """A text in rows that fit, each with whether a line of the text ends there; cut between words where it can be."""
    lines = text.split("\n")
    for number, raw in enumerate(lines):
        is_last = number == len(lines) - 1
        rest = printable(raw.replace("\t", _TAB), is_one_line=True)
        if is_last and not rest:
            return
        while len(rest) >= room or cell_len(rest) > room - 1:
            row = rest[: room - 1]
            while cell_len(row) > room - 1:
                row = row[:-1]
            blank = row.rfind(" ") + 1
            row = row[:blank] if blank > room // 2 else row
            yield row, False
            rest = rest[len(row) :]
        yield rest, not is_last
