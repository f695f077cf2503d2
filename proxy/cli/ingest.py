"""`proxy-log ingest`: take in what is left of the journal, without a proxy."""

import json
import sqlite3
from pathlib import Path

import click
from filelock import FileLock, Timeout

from proxy.cli.options import read_config, with_trace
from proxy.cli.render import size
from proxy.errors import InUseError, TraceError
from proxy.record.journal import journal_folder
from proxy.secret import load_key
from proxy.store.ingest import Ingest, hold_writer_lock


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
@with_trace
def ingest(*, as_json: bool, trace: str | None, config: Path | None) -> None:
    """Take in what is left of the journal, and mark what was cut off as interrupted.

    proxy-log serve writes its journal beside the trace and takes it in all the time, also after a crash when it is
    started again. This command does the same once, for instance before you copy a trace off a machine on which no
    proxy will run again. It also brings a trace of an older version up to date (a copy is kept beside it).

    While proxy-log serve runs it is refused: there is nothing to do then.
    """
    settings = read_config(config, trace=trace)
    file = settings.trace_path
    if not file.exists() and not journal_folder(file).exists():
        raise TraceError(f"there is no trace at {file} and no journal beside it; name another with --trace")
    try:
        with FileLock(f"{file}.lock", timeout=0, mode=0o600):
            count = _take_in(file, settings.mask.body_fields)
    except Timeout:
        raise InUseError(f"proxy-log serve records into {file} and takes its journal in by itself") from None
    except OSError as error:
        raise TraceError(f"cannot write beside {file}: {error.strerror or error}") from error
    if as_json:
        click.echo(json.dumps({"trace": str(file), "journal_bytes": count}))
    elif count:
        click.echo(f"Took in {size(count)} bytes of journal: {file} is complete.")
    else:
        click.echo(f"Nothing was left to take in: {file} is complete.")


def _take_in(trace: Path, body_fields: tuple[str, ...]) -> int:
    """Take in everything; gives how many bytes of journal it was."""
    count = 0
    writing = hold_writer_lock(trace)
    try:
        taking = Ingest(trace, key=load_key(Path(f"{trace}.key")), body_fields=body_fields)
        try:
            taking.front_is_dead()
            while read := taking.run_once():
                count += read
            taking.finish()
        finally:
            taking.close()
    except (sqlite3.Error, OSError) as error:
        raise TraceError(f"cannot write the trace {trace}: {error}; nothing is lost, try again") from error
    finally:
        writing.release()
    return count
