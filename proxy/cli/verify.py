"""`proxy-log verify`: prove that the trace holds what was recorded."""

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli.options import read_config, with_trace
from proxy.errors import TraceError
from proxy.store import verify as store_verify


@click.command()
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@click.pass_context
@with_trace
def verify(context: click.Context, *, as_json: bool, trace: str | None, config: Path | None) -> None:
    """Hash everything again, put every body together, and compare with what was received.

    Bytes in must be bytes stored: for every exchange that has ended both sides are put together from their parts and
    compared with the digest that was taken when they came in, and with the number of bytes that the proxy counted.

    What has no digest (times, status, outcome) is not compared.

    Masked values and recorded gaps are counted apart: they are not wrong, the trace tells of them. Exit code 0: all is
    as it was recorded; 1: something is not, each of which is named.
    """
    file = read_config(config, trace=trace).trace_path
    try:
        report = store_verify.verify(file)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise TraceError(f"{file} cannot be read: {error}; SQLite needs write access to its folder") from error
        raise TraceError(f"{file} is damaged so badly that SQLite cannot read it: {error}") from error
    if as_json:
        click.echo(json.dumps({"trace": str(file), "is_ok": report.is_ok, **asdict(report)}))
    else:
        click.echo(summary(file, report))
    context.exit(0 if report.is_ok else 1)


def summary(file: Path, report: store_verify.Report) -> str:
    """What was checked, what is known to be missing, and what is wrong."""
    lines = [
        f"{file}",
        f"  exchanges compared    {report.exchanges:,}"
        + (f" ({report.running:,} are still running)" if report.running else ""),
        f"  bytes hashed          {report.bytes:,} in {report.bodies:,} bodies, {report.blobs:,} parts, streams",
        f"  heads                 {report.heads:,}",
    ]
    if report.masked:
        lines.append(f"  with masked values    {report.masked:,} bodies: intact, and on purpose not what was sent")
    if report.gaps:
        lines.append(f"  recorded gaps         {report.gaps:,}, and {report.incomplete:,} bodies are incomplete")
    lines += [f"  wrong: {problem}" for problem in report.problems]
    if report.problem_count > len(report.problems):
        lines.append(f"  and {report.problem_count - len(report.problems):,} more")
    result = "All is as it was recorded." if report.is_ok else f"{report.problem_count:,} things are not as recorded."
    return "\n".join([*lines, result])
