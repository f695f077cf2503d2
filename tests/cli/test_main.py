"""The command itself: it starts fast, lists its commands, survives broken plug-ins, and fails with the right code."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.cli.main import COMMANDS, cli
from proxy.errors import ProxyLogError


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROXY_LOG_")}
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        capture_output=True,
        text=True,
        env=clean | environment,
        check=False,
        timeout=60,
    )


def test_help_lists_every_command_and_loads_none() -> None:
    ran = _run("--help")
    assert ran.returncode == 0
    for name, entry in COMMANDS.items():
        assert f"  {name} " in ran.stdout
        assert entry.summary in ran.stdout
    program = "import sys; from proxy.cli.main import cli; cli(['--help'], standalone_mode=False); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pydantic", "rich", "sqlite3", "sqlite_utils", "asyncio", "proxy.cli.tail"} & set(modules)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_explains_itself(name: str) -> None:
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: cli {name}" in result.stdout
    assert len(result.stdout.splitlines()) > 8, "a help text that teaches"


def test_serve_loads_neither_rich_nor_sqlite() -> None:
    program = "import proxy.cli.serve, proxy.cli.options, proxy.service, sys; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "sqlite3", "sqlite_utils", "msgspec"} & set(modules)


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["tail", "--nonsense"], ["tail", "-n", "x"], ["show"], ["show", "x"]]
)
def test_wrong_use_exits_with_2(arguments: list[str], tmp_path: Path) -> None:
    ran = _run(*arguments, PROXY_LOG_TRACE=str(tmp_path / "t.db"))
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "Usage: proxy-log" in ran.stderr


def test_mistake_in_the_settings_is_one_line_and_exits_with_1(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("lisen = 3")
    ran = _run("path", "--config", str(file))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"Error: {file}: lisen is not a setting; did you mean listen?\n"


def test_missing_trace_is_one_line_and_exits_with_1(tmp_path: Path) -> None:
    ran = _run("tail", "--trace", str(tmp_path / "none.db"))
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("Error: there is no trace at ")
    assert ran.stderr.count("\n") == 1


def test_version() -> None:
    assert CliRunner().invoke(cli, ["--version"]).stdout == "proxy-log, version 0.1.0\n"


@click.command()
def _hello() -> None:
    """Say hello."""
    click.echo("hello")


@click.command()
def _failing() -> None:
    raise ProxyLogError("what, where, what to do")


def _plugins(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = [EntryPoint(name, f"{__name__}:{target}", main.PLUGIN_GROUP) for name, target in targets.items()]
    monkeypatch.setattr(main, "entry_points", lambda group: points if group == main.PLUGIN_GROUP else [])
    cli.__dict__.pop("_plugins", None)


@pytest.fixture(autouse=True)
def _forget_plugins() -> Iterator[None]:
    """The command line is one object for all tests of this process, and remembers the plug-ins it found."""
    yield
    cli.__dict__.pop("_plugins", None)


def test_plugin_adds_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, hello="_hello")
    assert CliRunner().invoke(cli, ["hello"]).stdout == "hello\n"
    assert "hello       Say hello." in CliRunner().invoke(cli, ["--help"]).stdout


def test_plugin_replaces_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, path="_hello")
    assert "trace.db" in CliRunner().invoke(cli, ["path"]).stdout


@pytest.mark.parametrize(("target", "problem"), [("nothing", "AttributeError"), ("_run", "is no click command")])
def test_broken_plugin_is_named_and_left_out(monkeypatch: pytest.MonkeyPatch, target: str, problem: str) -> None:
    _plugins(monkeypatch, broken=target, hello="_hello")
    result = CliRunner().invoke(cli, ["--help"])
    assert result.exit_code == 0
    assert "hello" in result.stdout
    assert "broken" not in result.stdout
    assert result.stderr.startswith("Warning: the plug-in command 'broken' is left out: ")
    assert problem in result.stderr
    assert CliRunner().invoke(cli, ["broken"]).exit_code == 2


def test_operators_mistake_in_a_command_becomes_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugins(monkeypatch, failing="_failing")
    result = CliRunner().invoke(cli, ["failing"])
    assert (result.exit_code, result.stderr) == (1, "Error: what, where, what to do\n")


def test_output_into_a_closed_pipe_is_quiet() -> None:
    program = f"{sys.executable} -m proxy --help | true"
    ran = subprocess.run(["sh", "-c", program], capture_output=True, text=True, check=True)
    assert ran.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_names_the_command(shell: str) -> None:
    result = CliRunner().invoke(cli, ["completion", shell])
    assert result.exit_code == 0
    assert "_PROXY_LOG_COMPLETE" in result.stdout


def test_completion_knows_the_commands() -> None:
    ran = _run(_PROXY_LOG_COMPLETE="bash_complete", COMP_WORDS="proxy-log ver", COMP_CWORD="1")
    assert ran.stdout.split("\n")[0] == "plain,verify"
