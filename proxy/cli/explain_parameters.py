"""Which setting of a call won, for `proxy-log explain --parameters`."""

import json
import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.style import Style
from rich.text import Text

from proxy.cli.render import BOLD, DIM, GOOD, NAME, WARN, fit, printable

_VIEW = "SELECT 1 FROM sqlite_schema WHERE type = 'view' AND name = 'call_settings'"
_SETTINGS = """
SELECT name, request_value, base_value, effective_value, won, value, how, base_at FROM call_settings
WHERE call_id = ? ORDER BY request_value IS NULL, won, how, base_at, name"""
_IS_OBSERVED = "SELECT is_observed FROM calls WHERE id = ?"
_NO_CHAT = "the call is neither a chat nor a completion"
_COLUMNS = (("setting", 24), ("request", 12), ("base", 12), ("in force", 12), ("won", 14))
_STYLES = {"request": GOOD, "unknown": DIM, "ignored": WARN, "server": WARN, "model default": NAME, "preset": NAME}
_PLAIN = Style()


def parameter_lines(connection: sqlite3.Connection, call_id: int, width: int) -> Iterator[Text]:
    """Every setting with the request's value, the server's before it, the one in force, who won, and how that is known.

    Settings that nobody told anything of are only named.
    """
    if not connection.execute(_VIEW).fetchone():
        yield Text("This trace does not tell settings; proxy-log serve brings it up to date.", style=WARN)
        return
    rows = connection.execute(_SETTINGS, (call_id,)).fetchall()
    yield Text.assemble((f"Settings of call {call_id}", BOLD))
    if not rows:
        is_observed = connection.execute(_IS_OBSERVED, (call_id,)).fetchone() == (1,)
        why = "the engine's log tells none of a call that nobody proxied" if is_observed else _NO_CHAT
        yield Text(f"  There are none: {why}.", style=DIM)
        return
    yield Text("  " + "".join(fit(name, cells) for name, cells in _COLUMNS).rstrip(), style=DIM)
    told = [row for row in rows if any(value is not None for value in (*row[1:4], row[5]))]
    for how, group in groupby(told, key=_reason):
        for name, request, base, _, won, value, *_ in group:
            style = _STYLES.get(won, _PLAIN)
            line = Text("  ").append(_cell(name, 24), BOLD if request is not None else _PLAIN)
            line.append(_cell(request, 12)).append(_cell(base, 12)).append(_cell(value, 12), style)
            yield line.append(won, style)
        yield from _wrapped(how, width)
    untold = [row[0] for row in rows if row not in told]
    if untold:
        yield from _wrapped(f"Nobody told anything of {', '.join(untold)}.", width, indent=2)


def _reason(row: tuple[Any, ...]) -> str:
    """How it is known; neighbours that share it are explained together."""
    *_, base, _, _, _, how, base_at = row
    return f"{how} (base told at {base_at})" if base_at and base is not None else str(how)


def _cell(value: Any, cells: int) -> str:
    """A value in a column, with a blank behind it; `-` for none."""
    text = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = text or '""'
    return fit(printable(text, is_one_line=True), cells - 1) + " "


def _wrapped(text: str, width: int, indent: int = 4) -> Iterator[Text]:
    room = max(width - 1 - indent, 20)
    for each in Text(printable(text, is_one_line=True), style=DIM).wrap(Console(width=room), room):
        each.rstrip()
        yield Text(" " * indent).append_text(each)
