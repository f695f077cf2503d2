"""The documents are true: what can be generated is; every command, setting, column, link and SQL statement is tried."""

import os
import re
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import click
import pytest
from wsproto.frame_protocol import FrameProtocol

from proxy import config
from proxy.cli.docs import FOLDER, documents
from proxy.cli.main import COMMANDS, cli
from proxy.exchange import Outcome, Side
from proxy.indexer import Indexer, IndexSettings
from proxy.meaning import Origin
from proxy.record.journal import Gap, journal_folder
from proxy.store import threads
from tests.cli.recording import CHAT_HEAD, Recording, recording
from tests.docs_generator import generated, view_columns

REPOSITORY = FOLDER.parent.parent
README = REPOSITORY / "README.md"
FILES = [README, REPOSITORY / "CHANGELOG.md", *documents().values()]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HOW_TOS = [name for name in documents() if name.startswith("how-to/")]

_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_COMMAND = re.compile(r"\bproxy-log (?!proxy-log)([a-z]+)((?: +(?:--?[a-z-]+|\S+))*)")

CHAT = (
    b'{"model": "smollm2-135m-instruct", "temperature": 0, "messages": [{"role": "user", "content": "One elephant."}]}'
)
ANSWER = b'{"choices":[{"message":{"role":"assistant","content":"Two."}}],"usage":{"total_tokens":12}}'
HEAD = CHAT_HEAD + b"User-Agent: curl/8\r\nAuthorization: Bearer [masked:1a2b3c4d5e6f]\r\n"


def text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def ids(file: Path) -> str:
    return file.relative_to(REPOSITORY).as_posix()


# --- generated parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_generated_parts_are_up_to_date(file: Path) -> None:
    assert text_of(file) == generated(text_of(file)), "run python -m tests.docs_generator"


def test_reference_has_every_generated_part() -> None:
    """A lost marker would silence the test above."""
    parts = [name for file in FILES for name in re.findall(r"\(generated: (\S+)\)\n", text_of(file))]
    assert sorted(parts) == [
        *("commands", "dialects", "journal-facts"),
        *("lookalike-marks", "lookalike-parameters", "lookalike-surfaces", "lookalike-switches"),
        *("outcomes", "parameter-names", "record-kinds", "settings", "stop-reasons", "tables", "views"),
    ]


@pytest.mark.parametrize("setting", list(config.settings()))
def test_every_setting_is_documented(setting: str) -> None:
    assert f"| `{setting}` |" in text_of(FOLDER / "reference/settings.md")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_is_documented(command: str) -> None:
    assert f"\n## proxy-log {command}\n" in text_of(FOLDER / "reference/cli.md")


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_is_documented(outcome: Outcome) -> None:
    assert f"| `{outcome.value}` |" in text_of(FOLDER / "reference/outcomes.md")


def _table(heading: str) -> list[str]:
    """What stands in the first column below a heading of the reference of readings."""
    section = text_of(FOLDER / "reference/readings.md").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [word for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)]


def test_every_label_is_documented() -> None:
    labels = [value for name, value in vars(threads).items() if name.isupper() and name[0] != "_"]
    assert sorted(_table("Labels")) == sorted(labels)


def test_every_origin_of_a_parameter_is_documented() -> None:
    assert set(_table("Parameters")) >= set(Origin)


def test_every_kind_of_note_is_documented() -> None:
    """Those of errors are the server's own."""
    sources = [*(REPOSITORY / "proxy/read").glob("*.py"), REPOSITORY / "proxy/store/readings.py"]
    kinds = {kind for file in sources for kind in re.findall(r"\b[Pp]roblem\(\s*\"(\w+)\"", text_of(file))}
    assert set(_table("Problems")) == kinds | {"unread_field"}


@pytest.mark.parametrize(("view", "columns"), list(view_columns().items()))
def test_every_view_and_column_is_documented(view: str, columns: list[str]) -> None:
    section = text_of(FOLDER / "reference/trace.md").partition(f"\n### {view}\n")[2].partition("\n##")[0]
    assert re.findall(r"^\| `(\w+)` \| \S", section, re.MULTILINE) == columns


@pytest.mark.parametrize("package", PROJECT["dependencies"])
def test_every_dependency_has_its_reason(package: str) -> None:
    name = re.match(r"[\w-]+", package)
    assert name
    assert name[0] in text_of(FOLDER / "decisions/0007-dependencies.md")


# --- what is written by hand ------------------------------------------------------------------------------------------


def test_readme_starts_with_what_the_project_defines() -> None:
    shell = "".join(body for language, body in _FENCE.findall(text_of(README)) if language == "sh")
    for commands in (
        "pip install '.[demo]' && proxy-log demo",
        "pip install . && proxy-log serve",
        "pip install '.[test]' && pytest",
    ):
        assert f"{commands}\n" in shell
    assert {"demo", "test"} <= PROJECT["optional-dependencies"].keys()
    assert PROJECT["scripts"] == {"proxy-log": "proxy.cli.main:main"}


def _slugs(text: str) -> Iterator[str]:
    for heading in re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE):
        yield re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_links_lead_somewhere(file: Path) -> None:
    for target, anchor in _LINK.findall(_FENCE.sub("", text_of(file))):
        if "://" in target or target == "//":
            continue
        found = (file.parent / target).resolve() if target else file
        assert found.is_file(), f"{target} is not there"
        if anchor:
            assert anchor in _slugs(text_of(found)), f"{target} has no heading #{anchor}"


def test_index_names_every_document() -> None:
    linked = {target for target, _ in _LINK.findall(text_of(FOLDER / "index.md"))}
    assert linked == {f"{name}.md" for name in documents()} - {"index.md"}


@pytest.mark.parametrize("name", HOW_TOS)
def test_how_to_ends_with_verify_and_if_it_fails(name: str) -> None:
    headings = re.findall(r"^## (.+)$", text_of(documents()[name]), re.MULTILINE)
    assert headings[-2:] == ["Verify", "If it fails"]


@pytest.mark.parametrize("file", FILES, ids=ids)
def test_commands_and_options_exist(file: Path) -> None:
    blocks = [body for language, body in _FENCE.findall(text_of(file)) if language == "sh"]
    inline = re.findall(r"`(proxy-log [^`]+)`", _FENCE.sub("", text_of(file)))
    for name, arguments in _COMMAND.findall("\n".join([*blocks, *inline])):
        command = cli.get_command(click.Context(cli), name)
        assert command, f"proxy-log {name} is no command"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = set(re.findall(r"(?<= )--?[a-z-]+", arguments.partition(" | ")[0]))
        assert used <= known | {"--help"}, f"proxy-log {name} has no {used - known}"


@pytest.mark.parametrize("file", [*FILES, REPOSITORY / "Dockerfile"], ids=ids)
def test_environment_variables_are_known(file: Path) -> None:
    others = {"CONFIG", "UPSTREAM", "CACHE", ""}
    for name in re.findall(r"PROXY_LOG_([A-Z_]*)", text_of(file)):
        setting = re.sub(r"^upstreams\.\w+\.", "upstreams.NAME.", name.lower().replace("__", "."))
        assert name in others or setting in config.settings()


# --- SQL --------------------------------------------------------------------------------------------------------------


def _statements() -> Iterator[tuple[str, str]]:
    for file in FILES:
        if file.name == "queries.md":
            continue  # test_queries.py runs them
        for number, (language, body) in enumerate(_FENCE.findall(text_of(file))):
            if language == "sql" and "CREATE TABLE" not in body:
                for index, statement in enumerate(filter(str.strip, body.split(";\n"))):
                    yield f"{ids(file)}-{number}-{index}", statement


STATEMENTS = dict(_statements())


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace with everything that the documents ask for."""
    with recording(tmp_path_factory.mktemp("docs") / "trace.db") as made:
        _record(made)
    indexer = Indexer(made.trace, IndexSettings())
    while indexer.run_once():
        pass
    indexer.close()
    return made.trace


def _record(made: Recording) -> None:
    for body in (CHAT, CHAT):
        exchange = made.open(HEAD)
        made.data(exchange, Side.CLIENT, body)
        made.at_ms += 40
        made.respond(exchange, b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nKeep-Alive: timeout=5\r\n")
        made.data(exchange, Side.UPSTREAM, ANSWER)
        made.close(exchange)
    assert made.stream() == 3
    tunnel = made.open(b"GET /llm HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n", is_websocket=True)
    made.respond(tunnel, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    frames = FrameProtocol(client=True, extensions=[])
    made.data(tunnel, Side.CLIENT, bytes(frames.send_data("hi", fin=True)), bytes(frames.close(1000, "bye")))
    made.close(tunnel)
    made.gap(tunnel, Gap(made.now_ns, 0, 1, 10, 0, reason="more than record.memory_bytes waited for the disk"))
    cut = made.begin_stream()
    made.close(cut, Outcome.INTERRUPTED, "the proxy ended before the exchange did")
    for _ in range(3):
        made.chat(CHAT, ANSWER)
    made.take_in()


@pytest.mark.parametrize("name", list(STATEMENTS))
def test_sql_gives_a_result(trace: Path, name: str) -> None:
    with closing(sqlite3.connect(f"{trace.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute(STATEMENTS[name]).fetchall()
    assert any(value is not None for row in rows for value in row)


def test_cookbook_puts_a_stream_together(trace: Path) -> None:
    (statement,) = [each for each in STATEMENTS.values() if "RECURSIVE" in each]
    with closing(sqlite3.connect(trace)) as connection:
        assert connection.execute(statement).fetchone() == ("Once upon a time there was a mouse.",)


def test_python_of_the_journal_reads_a_segment(tmp_path: Path) -> None:
    (program,) = [
        body for language, body in _FENCE.findall(text_of(FOLDER / "reference/journal.md")) if language == "python"
    ]
    with recording(tmp_path / "trace.db") as made:
        made.chat()
        (segment,) = journal_folder(made.trace).glob("*.seg")
        told = subprocess.run(
            [sys.executable, "-c", program, segment],
            cwd=REPOSITORY,
            check=True,
            capture_output=True,
            env=dict(os.environ),
        )
    kinds = [line.split()[0] for line in told.stdout.decode().splitlines()]
    assert kinds == ["segment", "OPEN", "CLIENT_DATA", "RESPONSE", "UPSTREAM_DATA", "CLOSE"]
