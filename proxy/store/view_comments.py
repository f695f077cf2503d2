"""What the views and their columns mean, read from the comments of their scripts: one text for documents and pages.

Facts
-----
* The comment of a view stands right before its statement.
* The comment of a column stands behind its name, at the end of the line, and goes on in lines that hold nothing else.
* A column without a comment means what a column of that name means in a view before.
"""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

VIEW_SCRIPTS = ("views.sql", "prompt_views.sql")
_NAMED = re.compile(r"\b(\w+),?[ ]*$")
"""What a line of a SELECT's list ends with: the column's name."""


@dataclass(frozen=True, slots=True)
class ViewComment:
    """A view in words."""

    about: str
    """What its rows are; may be empty."""
    columns: dict[str, str]
    """The meaning of every column, in their order."""


def view_comments(connection: sqlite3.Connection) -> dict[str, ViewComment]:
    """Every view of a trace, in the order of the scripts.

    Raises:
        KeyError: a column has no comment, neither here nor in a view before.
    """
    folder = files("proxy.store")
    script = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in VIEW_SCRIPTS)
    known: dict[str, str] = {}
    found = {}
    for about, statement in _statements(script):
        view = statement.split()[2]
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({view})")]
        commented = _comments(statement)
        known |= {name: commented[name] for name in columns if name in commented}
        found[view] = ViewComment(about, {name: known[name] for name in columns})
    return found


def _comments(statement: str) -> dict[str, str]:
    """Comments by the word they stand behind."""
    found: dict[str, str] = {}
    name = ""
    for line in statement.splitlines():
        code, dashes, comment = line.partition("--")
        if code.strip():
            named = _NAMED.search(code)
            name = named[1] if named else ""
        if dashes and name:
            found[name] = f"{found[name]} {comment.strip()}" if name in found and not code.strip() else comment.strip()
    return found


def _statements(script: str) -> Iterator[tuple[str, str]]:
    """Each statement of a script, after the comment that stands right before it."""
    comment, statement = "", ""
    for line in script.splitlines(keepends=True):
        if not statement and (line.startswith("--") or not line.strip()):
            comment = f"{comment} {line.removeprefix('--').strip()}".strip() if line.strip() else ""
            continue
        statement += line
        if sqlite3.complete_statement(statement):
            yield comment, statement
            comment, statement = "", ""
