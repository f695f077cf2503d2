"""`proxy-log path`: where the trace is."""

import json
import os
from pathlib import Path

import click

from proxy.cli.options import read_config, with_trace
from proxy.config_sources import find_config_file
from proxy.record.journal import journal_folder


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Everything that belongs to it, as one JSON object.")
@with_trace
def path(as_json: bool, trace: str | None, config: Path | None) -> None:
    """Print the path of the trace, whether it is there already or not.

    \b
    Ask it with any SQLite tool:
      sqlite3 "$(proxy-log path)" "SELECT id, model, duration_ms FROM exchanges ORDER BY id DESC LIMIT 10"
      datasette "$(proxy-log path)"

    --json adds its journal, the key of its digests, its size, and the configuration file that is looked for.
    """  # noqa: D301 - \b is click's mark
    file = read_config(config, trace=trace).trace_path
    if not as_json:
        click.echo(file)
        return
    about = {
        "trace": str(file),
        "exists": file.exists(),
        "size_bytes": _size(file) if file.exists() else None,
        "journal": str(journal_folder(file)),
        "key": str(file.with_name(file.name + ".key")),
        "config_file": str(find_config_file(config, os.environ)[0]),
    }
    click.echo(json.dumps(about))


def _size(file: Path) -> int:
    """Bytes of the trace, what SQLite has not yet moved into the file included."""
    file = file.resolve()  # where it is a link, SQLite has its files beside what it leads to
    log = file.with_name(file.name + "-wal")
    return file.stat().st_size + (log.stat().st_size if log.exists() else 0)
