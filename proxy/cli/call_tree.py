"""A conversation as a tree: calls below each other where it went on, side by side where it branched."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.text import Text

from proxy.cli.call_line import label_style, speed, stop_style, words
from proxy.cli.call_rows import CallRow
from proxy.cli.render import DIM, NAME, WARN, local_time, printable, size

MAX_INDENT = 40
"""So many cells of branches, at most: the rest of the line is for words."""


def tree_lines(rows: Sequence[CallRow], width: int) -> Iterator[Text]:
    """The calls of one thread. One that alone goes on from its parent stands below it, others are set in."""
    known = {row.id for row in rows}
    children: dict[int | None, list[CallRow]] = defaultdict(list)
    for row in rows:
        children[row.parent_id if row.parent_id in known else None].append(row)
    # (call, what stands before its first line, what stands before its other lines); a stack, as chats may be long
    waiting = _placed(children[None], "")
    while waiting:
        row, first, rest = waiting.pop()
        below = children[row.id]
        yield _line(row, first, width)
        yield from words(row, Text(rest + ("\u2502  " if below else "   "), style=DIM), width)
        waiting += _placed(below, rest)


def _placed(rows: Sequence[CallRow], before: str) -> list[tuple[CallRow, str, str]]:
    """Siblings with what stands before their lines; the first one last, as from a stack."""
    if len(rows) < 2:
        return [(row, before, before) for row in rows]
    is_deep = len(before) >= MAX_INDENT
    placed = []
    for row in rows:
        is_last = row is rows[-1]
        first = before if is_deep else before + ("\u2514\u2500 " if is_last else "\u251c\u2500 ")
        rest = before if is_deep else before + ("   " if is_last else "\u2502  ")
        placed.append((row, first, rest))
    return placed[::-1]


def _line(row: CallRow, before: str, width: int) -> Text:
    fields = row.fields
    label = fields["label"] or "-"
    line = Text.assemble(
        (before, DIM),
        (f"{row.id}", NAME),
        " ",
        (label, label_style(label)),
        (f", exchange {fields['exchange_id']}", DIM),
        (", system changed" if fields["is_system_changed"] else "", WARN),
        (f"  {row.stop}", stop_style(row.stop)),
        f"  {printable(row.model, is_one_line=True)}",
        (f"  {size(fields['reported_input_tokens'])} in, {size(fields['reported_output_tokens'])} out", DIM),
    )
    for source in ("reported", "measured"):
        if fields[f"{source}_tokens_per_second"] is not None:
            line.append(f"  {speed(fields[f'{source}_tokens_per_second'])} tok/s {source}", DIM)
    line.append(f"  {local_time(fields['started_at']):%H:%M:%S}", DIM)
    line.truncate(width - 1, overflow="ellipsis")
    return line
