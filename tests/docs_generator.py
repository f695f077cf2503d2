"""The generated parts of the documents: `python -m tests.docs_generator` writes them anew, `test_docs.py` compares.

A generated part stands between `[//]: # (generated: NAME)` and `[//]: # (end)`, which no renderer shows.
"""

import ast
import inspect
import io
import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from unittest import mock

from click.testing import CliRunner
from pydantic import BaseModel
from rich.console import Console
from rich.text import Text

from proxy import config, exchange
from proxy.cli.docs import FOLDER
from proxy.cli.main import COMMANDS, cli
from proxy.demo.behaviour import Behaviour
from proxy.demo.parameters import PARAMETERS
from proxy.demo.surfaces import Endpoint, endpoints
from proxy.demo.switches import MARKS, switches
from proxy.meaning import StopReason
from proxy.read import (
    anthropic_messages,
    lmstudio_sdk_config,
    lmstudio_v1_chat,
    ollama_fields,
    openai_fields,
    registry,
)
from proxy.read.http_session import HttpReader
from proxy.record import journal
from proxy.store.version import SCHEMA_VERSION
from proxy.store.view_comments import VIEW_SCRIPTS, view_comments

_PART = re.compile(r"(\[//\]: # \(generated: ([a-z-]+)\)\n).*?(\[//\]: # \(end\)\n)", re.DOTALL)
_VIEW = re.compile(r"((?:^--.*\n)*)^CREATE VIEW (\w+) AS\n(.*?;)$", re.MULTILINE | re.DOTALL)
_PAIRS = re.compile(r"(\[\[.*\.\.\.\])")
_TABLE = re.compile(
    r"^CREATE TABLE (\w+) \((?:\s*-- (.*))?\n(.*?)^\)[^;]*;(?:[ ]*--[ ]*(.*))?$", re.MULTILINE | re.DOTALL
)


def generated(text: str) -> str:
    """A document with its generated parts written anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", text)


# --- settings ---------------------------------------------------------------------------------------------------------


def _meanings(owner: type) -> dict[str, str]:
    """The docstrings below the fields (or members) of a class."""
    (tree,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        match before, after:
            case (
                ast.AnnAssign(target=ast.Name(name)) | ast.Assign(targets=[ast.Name(name)]),
                ast.Expr(ast.Constant(str(meaning))),
            ):
                found[name] = inspect.cleandoc(meaning).replace("\n", " ")
            case _:
                continue
    return found


def _as_toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(_as_toml(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def _setting_rows(tree: type[BaseModel], prefix: str) -> Iterator[str]:
    meanings = _meanings(tree)
    for name, field in tree.model_fields.items():
        if name == "upstreams" or (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            continue
        default = "required" if field.is_required() else f"`{_as_toml(field.default)}`"
        yield f"| `{prefix}{name}` | {default} | {meanings[name]} |"


def settings() -> str:
    """A table for each table of config.toml."""
    parts = []
    trees: dict[str, type[BaseModel]] = {"": config.Config, "upstreams.NAME.": config.UpstreamConfig}
    for name, field in config.Config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            trees[f"{name}."] = field.annotation
    for prefix, tree in trees.items():
        about = _meanings(config.Config)["upstreams"] if "NAME" in prefix else inspect.getdoc(tree)
        title = f"[{prefix.rstrip('.')}]" if prefix else "At the top"
        rows = "\n".join(_setting_rows(tree, prefix))
        parts.append(f"### {title}\n\n{about}\n\n| setting | default | meaning |\n|---|---|---|\n{rows}\n")
    return "\n".join(parts)


# --- commands ---------------------------------------------------------------------------------------------------------


def commands() -> str:
    """The help of every command, as it is printed in a terminal of 100 columns."""
    parts = []
    for name in ("", *COMMANDS):
        arguments = [name, "--help"] if name else ["--help"]
        shown = CliRunner().invoke(cli, arguments, prog_name="proxy-log", terminal_width=100)
        title = f"proxy-log {name}".rstrip()
        text = re.sub(r" +$", "", shown.output, flags=re.MULTILINE).strip("\n")
        parts.append(f"## {title}\n\n```text\n{text}\n```\n")
    return "\n".join(parts)


# --- the trace --------------------------------------------------------------------------------------------------------


def _script(name: str) -> str:
    return files("proxy.store").joinpath(name).read_text(encoding="utf-8")


def _empty_trace() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:")
    connection.executescript(_script("schema.sql") + _script("readings.sql") + _script("prompts.sql"))
    connection.executescript("".join(map(_script, VIEW_SCRIPTS)))
    return connection


def view_columns() -> dict[str, list[str]]:
    """The columns of every view, in a trace as it is made."""
    with closing(_empty_trace()) as connection:
        return {name: list(view.columns) for name, view in view_comments(connection).items()}


def views() -> str:
    """A table for each view. A column without a comment means what it means in a view before."""
    parts = []
    with closing(_empty_trace()) as connection:
        comments = view_comments(connection)
    for name, view in comments.items():
        meanings = {column: _PAIRS.sub(r"`\1`", meaning) for column, meaning in view.columns.items()}
        rows = "\n".join(f"| `{column}` | {meaning} |" for column, meaning in meanings.items())
        text = f"{view.about}\n\n" if view.about else ""
        parts.append(f"### {name}\n\n{text}| column | meaning |\n|---|---|\n{rows}\n")
    return "\n".join(parts)


def tables() -> str:
    """The base tables, as the trace is made."""
    scripts = "\n".join(f"```sql\n{_script(name).strip()}\n```\n" for name in ("schema.sql", "readings.sql"))
    return f"Schema version {SCHEMA_VERSION}.\n\n{scripts}"


# --- outcomes, journal ------------------------------------------------------------------------------------------------


def outcomes() -> str:
    """Every outcome."""
    meanings = _meanings(exchange.Outcome)
    rows = "\n".join(f"| `{each.value}` | {meanings[each.name]} |" for each in exchange.Outcome)
    return f"| outcome | meaning |\n|---|---|\n{rows}\n"


def record_kinds() -> str:
    """Every kind of record in the journal."""
    meanings = _meanings(journal.Kind)
    meanings.setdefault("UPSTREAM_TRAILERS", "The same after a response body.")
    rows = "\n".join(f"| {each.value} | `{each.name}` | {meanings[each.name]} |" for each in journal.Kind)
    return f"| kind | name | meaning |\n|---|---|---|\n{rows}\n"


def journal_facts() -> str:
    """What the journal's module says of its format."""
    facts = (journal.__doc__ or "").partition("-----\n")[2].strip("\n")
    return facts + "\n"


# --- the lookalike ----------------------------------------------------------------------------------------------------


def _cell(text: str) -> str:
    """Text as it may stand in a table."""
    return text.replace("|", "\\|") or " "


def lookalike_surfaces() -> str:
    """Every endpoint, those of one module together."""
    rows: dict[tuple[str, str], list[Endpoint]] = {}
    for one in endpoints(Behaviour()):
        rows.setdefault((one.family, one.module), []).append(one)
    lines = []
    for (family, module), these in rows.items():
        names = ", ".join(f"`{one.name}`" for one in these)
        lines.append(f"| {family} | {names} | {these[0].since or ' '} | `{module}` |")
    return "| family | endpoints | since | module |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"


def lookalike_parameters() -> str:
    """What can be a model's default, with the SDK's name for it."""
    rows = "\n".join(
        f"| `{one.openai}` | `{one.key}` | {'off' if one.default is None else f'`{json.dumps(one.default)}`'} |"
        for one in PARAMETERS
        if one.openai
    )
    return f"| parameter | the SDK's key | default of its schema (S) |\n|---|---|---|\n{rows}\n"


def lookalike_marks() -> str:
    """What the letters mean."""
    rows = "\n".join(f"| {letter} | {meaning} |" for letter, meaning in MARKS.items())
    return f"| mark | means |\n|---|---|\n{rows}\n"


def lookalike_switches() -> str:
    """Every switch."""
    rows = "\n".join(
        f"| `{one.name}` | {_cell(one.values)} | {f'`{one.default}`' if one.default else ' '} | {_cell(one.meaning)} "
        f"| {_cell(one.source)} |"
        for one in switches()
    )
    return f"| switch | values | default | meaning | source |\n|---|---|---|---|---|\n{rows}\n"


# --- readings ---------------------------------------------------------------------------------------------------------


def dialects() -> str:
    """Every built-in reader, in the order in which they are asked."""
    rows = []
    for reader in registry.BUILT_IN:
        owner = type(reader.dialect if isinstance(reader, HttpReader) else reader)
        about = (inspect.getdoc(sys.modules[owner.__module__]) or "").partition("\n\n")[0].replace("\n", " ")
        claims = (inspect.getdoc(owner) or "").partition("\n\n")[0].replace("\n", " ")
        rows.append(f"| `{reader.name}` | {reader.version} | {_cell(about)} | {_cell(claims)} |")
    return "| dialect | version | what it is | what it reads |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"


def parameter_names() -> str:
    """Every parameter that a dialect calls otherwise."""
    sources: dict[str, Mapping[str, str]] = {
        "OpenAI, llama.cpp": openai_fields.RENAMED,
        "Anthropic": anthropic_messages.PARAMETERS,
        "REST v1": lmstudio_v1_chat.PARAMETERS,
        "SDK": lmstudio_sdk_config.NAMES,
        "Ollama": ollama_fields.RENAMED,
    }
    others: dict[str, list[str]] = {}
    for dialect, names in sources.items():
        for theirs, ours in names.items():
            if theirs != ours:
                others.setdefault(ours, []).append(f"`{theirs}` ({dialect})")
    rows = "\n".join(f"| `{ours}` | {', '.join(names)} |" for ours, names in sorted(others.items()))
    kept = ", ".join(f"`{name}`" for name in sorted(openai_fields.PARAMETERS))
    return f"| name | sent as |\n|---|---|\n{rows}\n\nUnder their own names: {kept}.\n"


def stop_reasons() -> str:
    """Every stop reason with the words that dialects have for it."""
    sources: dict[str, Mapping[str, StopReason]] = {
        "OpenAI": openai_fields.STOP_REASONS,
        "LM Studio": openai_fields.SDK_STOP_REASONS,
        "Anthropic": anthropic_messages.STOP_REASONS,
    }
    meanings = _meanings(StopReason)
    rows = []
    for reason in StopReason:
        words = [
            ", ".join(f"`{raw}`" for raw, ours in one.items() if ours is reason) or " " for one in sources.values()
        ]
        rows.append(f"| `{reason.value}` | {' | '.join(words)} | {meanings.get(reason.name, ' ')} |")
    return f"| stop_reason | {' | '.join(sources)} | meaning |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "dialects": dialects,
    "parameter-names": parameter_names,
    "stop-reasons": stop_reasons,
    "settings": settings,
    "commands": commands,
    "views": views,
    "tables": tables,
    "outcomes": outcomes,
    "record-kinds": record_kinds,
    "journal-facts": journal_facts,
    "lookalike-surfaces": lookalike_surfaces,
    "lookalike-parameters": lookalike_parameters,
    "lookalike-marks": lookalike_marks,
    "lookalike-switches": lookalike_switches,
}


# --- the picture ------------------------------------------------------------------------------------------------------


WIDTH = 104


def picture(trace: Path, *lines: str) -> str:
    """What commands print on a terminal for a trace, as an image (SVG) that needs nothing from elsewhere.

    Of a line `COMMAND ... WORD` the output is shown from the line on that begins with the word.
    """
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, emoji=False)
    for number, line in enumerate(lines):
        command, cut, word = line.partition(" ... ")
        console.print(Text.assemble("\n" if number else "", ("$ ", "bold green"), (f"proxy-log {command}", "bold")))
        shown = list(_printed(trace, command).split("\n"))
        while cut and not shown[0].plain.startswith(word):
            del shown[0]
        if cut:
            console.print(Text("...", "dim"))
        console.print(Text("\n").join(shown), soft_wrap=True)
    svg = re.sub(
        r"@font-face \{.*?\}\s*", "", console.export_svg(title="proxy-log", unique_id="terminal"), flags=re.DOTALL
    )
    return re.sub(r"[ ]+$", "", svg, flags=re.MULTILINE)


def _printed(trace: Path, command: str) -> Text:
    console = Console(
        file=io.StringIO(),
        width=WIDTH,
        force_terminal=True,
        color_system="standard",
        soft_wrap=True,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with (
        mock.patch("proxy.cli.tail.make_console", return_value=console),
        mock.patch("proxy.cli.show.make_console", return_value=console),
    ):
        cli.main([*command.split(), "--trace", str(trace)], prog_name="proxy-log", standalone_mode=False)
    assert isinstance(console.file, io.StringIO)
    return Text.from_ansi(console.file.getvalue())


def main() -> None:
    """Write them anew; with a trace and commands, make the README's picture of them."""
    if len(sys.argv) > 2:
        target = FOLDER / "images" / "terminal.svg"
        target.write_text(picture(Path(sys.argv[1]), *sys.argv[2:]), encoding="utf-8")
        return
    for file in sorted(FOLDER.rglob("*.md")):
        before = file.read_text(encoding="utf-8")
        after = generated(before)
        if after != before:
            file.write_text(after, encoding="utf-8")
            print(f"written anew: {file.relative_to(FOLDER.parent.parent)}")


if __name__ == "__main__":
    main()
