"""`proxy-log index` and `proxy-log reread`: make readings of what is recorded, without a proxy."""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import Progress

from proxy.cli.options import read_config, with_trace
from proxy.config import Config
from proxy.errors import InUseError, TraceError
from proxy.indexer import Indexer, IndexSettings
from proxy.prompt_index.indexer import PromptIndexer, PromptSettings
from proxy.secret import load_key
from proxy.store.ingest import hold_writer_lock
from proxy.store.schema import open_for_writing

_SETTLE_S = 3.0
"""How long events of the engine's log that came just now may wait for others."""
_LOOK_AGAIN_S = 0.25


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@with_trace
def index(*, as_json: bool, trace: str | None, config: Path | None) -> None:
    """Read what is recorded and not read yet: calls, messages, conversations, the full-text index.

    proxy-log serve does this all the time, unless index.enabled is off. This command does it once, for instance for a
    trace that came from another machine.

    While proxy-log serve runs it is refused: only one program writes the trace.
    """
    settings = read_config(config, trace=trace)
    with _indexer(settings) as indexer:
        count = _run(indexer, settings.trace_path, is_quiet=as_json)
    _tell(settings.trace_path, count, as_json=as_json)


@click.command()
@click.option("--all", "everything", is_flag=True, help="Everything, not only what other versions of the readers read.")
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@with_trace
def reread(*, everything: bool, as_json: bool, trace: str | None, config: Path | None) -> None:
    """Make readings again, after an upgrade of proxy-log.

    The recordings stay as they are. What this version of the readers has read already is left out, unless --all is
    given. Calls keep their ids.

    While proxy-log serve runs it is refused: only one program writes the trace.
    """
    settings = read_config(config, trace=trace)
    with _indexer(settings) as indexer:
        indexer.reread(everything=everything)
        count = _run(indexer, settings.trace_path, is_quiet=as_json)
    _tell(settings.trace_path, count, as_json=as_json)


@contextmanager
def _indexer(settings: Config) -> Iterator[Indexer]:
    """The indexer of a trace that nobody else writes meanwhile."""
    file = settings.trace_path
    if not file.exists():
        raise TraceError(f"there is no trace at {file}; name another with --trace")
    how = IndexSettings(settings.index.encoding, settings.prefix_sessions, settings.mask.body_fields)
    try:
        with FileLock(f"{file}.lock", timeout=0, mode=0o600):
            writing = hold_writer_lock(file)
            indexer = Indexer(file, how)
            try:
                yield indexer
                _find_prompts(settings)
            finally:
                indexer.close()
                writing.release()
    except Timeout:
        raise InUseError(f"proxy-log serve records into {file} and reads it by itself") from None
    except (sqlite3.Error, OSError) as error:
        raise TraceError(f"cannot write the trace {file}: {error}; nothing is lost, try again") from error


def _run(indexer: Indexer, file: Path, *, is_quiet: bool) -> int:
    connection = open_for_writing(file)
    (waiting,) = connection.execute("SELECT count(*) FROM unread_exchanges").fetchone()
    connection.close()
    count = 0
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=is_quiet or not console.is_terminal) as progress:
        task = progress.add_task("reading", total=waiting)
        while read := indexer.run_once():
            count += read
            progress.update(task, completed=count)
    return count


def _find_prompts(settings: Config) -> None:
    """What the models saw, as far as the trace and the models' files tell: servers are not asked again."""
    if not settings.prompt.enabled:
        return
    file = settings.trace_path
    how = PromptSettings(ask=False, lmstudio_home=settings.prompt.lmstudio_home)
    prompts = PromptIndexer(file, how, encoding=settings.index.encoding, key=load_key(Path(f"{file}.key")))
    try:
        until = time.monotonic() + _SETTLE_S
        while True:
            if prompts.run_once():
                continue
            if not prompts.is_watching or time.monotonic() > until:
                return
            time.sleep(_LOOK_AGAIN_S)
    finally:
        prompts.close()


def _tell(file: Path, count: int, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"trace": str(file), "exchanges": count}))
    elif count:
        click.echo(f"Read {count} exchange{'s' * (count != 1)}: see the views calls, messages and threads.")
    else:
        click.echo("Nothing was left to read.")
