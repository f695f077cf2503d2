"""The switches as a table: what each is called, takes and means, and how it is known. `Behaviour` is where they are."""

import ast
import inspect
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any, get_type_hints

from proxy.demo.behaviour import Behaviour, choices

MARKS = {
    "D": "official documentation",
    "S": "source of an official SDK",
    "R": "a real capture in an issue",
    "T": "measured by third parties",
    "U": "unconfirmed",
}
"""How sure it is that LM Studio behaves like that."""
_SOURCE = re.compile(r"(?:^|(?<=\. ))[DSRTU](?=[:.,;])")
"""Where, in the docstring of a field, the meaning ends and its source begins."""


@dataclass(frozen=True, slots=True)
class Switch:
    """One of them."""

    name: str
    values: str
    """What it takes, in words."""
    default: str
    meaning: str
    source: str
    """Begins with its mark; there may be more marks in it. Empty where it is not LM Studio's, but the demo's own."""


def switches() -> tuple[Switch, ...]:
    """All of them, in their order."""
    hints, told = get_type_hints(Behaviour), _docstrings()
    found = []
    for field in fields(Behaviour):
        text = told.get(field.name, "")
        cut = _SOURCE.search(text)
        at = cut.start() if cut else len(text)
        default = None if field.default is MISSING else field.default
        found.append(
            Switch(field.name, _values(hints[field.name]), _as_text(default), text[:at].strip(), text[at:].strip())
        )
    return tuple(found)


def _docstrings() -> dict[str, str]:
    """The text below each field."""
    (tree,) = ast.parse(inspect.getsource(Behaviour)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        match before, after:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                found[name] = inspect.cleandoc(text).replace("\n", " ")
            case _:
                continue
    return found


def _values(hint: Any) -> str:
    words = {bool: "on, off", int: "a whole number", float: "a number", str: "text"}
    return words.get(hint) or ", ".join(choices(hint)) or "texts, with commas between"


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return ",".join(value) if isinstance(value, tuple) else str(value)
