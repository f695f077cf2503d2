"""The options that commands share, and the settings they lead to."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from proxy.config import Config
from proxy.config_sources import load
from proxy.errors import TraceError

if TYPE_CHECKING:
    from proxy.store.trace import Trace

F = TypeVar("F", bound=Callable[..., Any])


def with_trace(command: F) -> F:
    """Give a command `--trace` and `--config`; it gets them as `trace` and `config`, to hand to `read_config`."""
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Settings; by default config.toml in your configuration folder.",
    )
    trace = click.option(
        "--trace",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The trace; by default the configured one (see: proxy-log path).",
    )
    return trace(config(command))


def read_config(config: Path | None, **flags: str | None) -> Config:
    """The settings in force: of the file, the environment, the flags.

    Raises:
        ConfigError: one of them is wrong.
    """
    return load(config, os.environ, flags)


@contextmanager
def open_trace(file: Path) -> Iterator["Trace"]:
    """The trace for reading; what SQLite complains about becomes one line.

    Raises:
        TraceError: it is not there, or cannot be read.
    """
    import sqlite3  # noqa: PLC0415 - `serve` uses this module too and must stay lean

    from proxy.store.trace import Trace  # noqa: PLC0415

    try:
        with Trace.open(file) as trace:
            yield trace
    except sqlite3.Error as error:
        raise TraceError(f"cannot read the trace {file}: {error}; proxy-log verify tells more") from error
