"""The options that commands share, and the settings they lead to."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from proxy.config import Config

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


def read_config(config: Path | None, **flags: str | None) -> "Config":
    """The settings in force: of the file, the environment, the flags.

    Raises:
        ConfigError: one of them is wrong.
    """
    from proxy.config import load  # noqa: PLC0415 - pydantic is slow to import, and --help needs none of it

    return load(config, os.environ, flags)
