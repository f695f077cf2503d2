"""A trace with some traffic, and a way to run commands on it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from proxy.cli.main import cli
from tests.cli.recording import Recording, recording

Run = Callable[..., Result]


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recording]:
    """An empty recording whose trace is the configured one."""
    trace = tmp_path / "trace.db"
    monkeypatch.setenv("PROXY_LOG_TRACE", str(trace))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with recording(trace) as made:
        yield made


@pytest.fixture
def run(recorded: Recording) -> Run:
    """`run("tail", "-n", "3")` on that trace; gives the result of a command that did not raise."""

    def run_command(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run_command
