"""Imports go strictly down: this parses every file and holds it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "proxy"
FLOORS = [
    # words; "" is the package itself
    {"", "errors", "clock", "config", "config_sources", "exchange", "meaning", "plugins", "readable", "secret", "bell"},
    {"record", "read"},  # pure
    {"forward", "prompt"},  # the traffic, and what is asked for
    {"store"},  # the trace
    # recordings become readings, and what is asked of servers for them
    {"indexer", "server_tokens", "engine_log", "log_ways", "prompt_index", "snapshots", "precedence"},
    {"demo"},
    {"web"},
    {"worker"},
    {"service", "back"},  # composition roots of the two processes
    {"cli"},
    {"__main__"},
]
FLOOR_OF = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
BANNED = {
    "record": {"socket", "asyncio", "sqlite3", "sqlite_utils", "json", "msgspec", "pydantic"},
    "forward": {"sqlite3", "sqlite_utils", "json", "msgspec", "pydantic"},
    "read": {"socket", "asyncio", "sqlite3", "sqlite_utils", "click", "rich"},
    "store": {"socket", "click", "rich"},
}


def _modules() -> dict[str, ast.Module]:
    return {
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            file.read_text(encoding="utf-8")
        )
        for file in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = _modules()


def _part(module: str) -> str:
    """The word of a module on its floor: `record` for `proxy.record.journal`."""
    return module.partition("proxy.")[2].partition(".")[0]


def _is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _imports(node: ast.AST, *, at_run_time: bool = True, at_import: bool = False) -> Iterator[str]:
    """The modules that are imported below `node`, `proxy.x.y` for `from proxy.x import y`.

    `at_run_time` leaves out what only type checkers see, `at_import` also what functions import when they are called.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "absolute imports only"
            for alias in child.names:
                dotted = f"{child.module}.{alias.name}"
                yield dotted if dotted in MODULES else child.module or ""
        elif isinstance(child, ast.If) and at_run_time and _is_type_checking(child):
            for other in child.orelse:
                yield from _imports(other, at_run_time=at_run_time, at_import=at_import)
        elif at_import and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        else:
            yield from _imports(child, at_run_time=at_run_time, at_import=at_import)


def test_every_part_has_a_floor() -> None:
    assert {_part(module) for module in MODULES} <= set(FLOOR_OF)


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_lower_floors(module: str) -> None:
    here = FLOOR_OF[_part(module)]
    for imported in _imports(MODULES[module], at_run_time=False):
        if imported.partition(".")[0] != "proxy" or _part(imported) == _part(module):
            continue
        floor = FLOOR_OF[_part(imported)]
        assert floor < here or floor == here == 0, f"{module} imports {imported}"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_its_floor_must_not_know(module: str) -> None:
    banned = BANNED.get(_part(module), set())
    found = {imported.partition(".")[0] for imported in _imports(MODULES[module])}
    assert not found & banned
    if _part(module) in {"record", "forward"}:
        # its types are wanted, pydantic in the process that moves the bytes is not
        assert "proxy.config" not in set(_imports(MODULES[module]))


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {
        module: {each for each in _imports(tree, at_import=True) if each in MODULES} for module, tree in MODULES.items()
    }
    while leaves := [module for module, below in graph.items() if not below & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"these import each other: {sorted(graph)}"
