"""How things look in the terminal: colours, cells, and what is readable anywhere."""

import sys

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from proxy.readable import duration, local_time, printable, size

__all__ = [
    "BAD",
    "BOLD",
    "DIM",
    "GOOD",
    "NAME",
    "WARN",
    "duration",
    "fit",
    "local_time",
    "make_console",
    "printable",
    "put",
    "size",
    "unread_note",
]

DIM = Style(dim=True)
BOLD = Style(bold=True)
GOOD = Style(color="green")
BAD = Style(color="red")
WARN = Style(color="yellow")
NAME = Style(color="cyan")


def make_console() -> Console:
    """Standard output: colours only on a terminal and without NO_COLOR; nothing is wrapped or interpreted."""
    return Console(file=sys.stdout, soft_wrap=True, highlight=False, markup=False, emoji=False)


def put(console: Console, *parts: str | tuple[str, Style], end: str = "\n") -> None:
    """Print a line of parts, each plain or with its style."""
    console.print(Text.assemble(*parts), end=end)


def unread_note(count: int) -> str:
    """That exchanges wait to be read, and what reads them."""
    if count == 1:
        return "1 exchange is not read yet; proxy-log index reads it."
    return f"{count} exchanges are not read yet; proxy-log index reads them."


def fit(text: str, width: int, *, keep_end: bool = False) -> str:
    """The text in exactly `width` terminal cells: padded, or cut with an ellipsis (at its start with `keep_end`)."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    if not keep_end:
        return set_cell_size(text, width - 1) + "\u2026"
    while cell_len(text) > width - 1:
        text = text[1:]
    return set_cell_size("\u2026" + text, width)
