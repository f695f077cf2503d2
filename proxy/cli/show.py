"""`proxy-log show`: one exchange, as a page, as JSON, or the very bytes of a body."""

import json
import sys
from pathlib import Path

import click

from proxy.cli.json_objects import whole_object
from proxy.cli.options import open_trace, read_config, with_trace
from proxy.cli.page import Page
from proxy.cli.render import make_console
from proxy.errors import ProxyLogError
from proxy.exchange import Side
from proxy.store.trace import ExchangeRow, Trace

_SIDES = {"request": Side.CLIENT, "response": Side.UPSTREAM}


def exchange_number(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """The number that is typed for an exchange: its id, or -1 (`last`) for the newest."""
    try:
        number = -1 if value == "last" else int(value)
        if abs(number) >= 1 << 62:  # beyond what SQLite counts
            raise ValueError
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no exchange; give a number that proxy-log tail lists, or last"
        ) from None
    return number


@click.command(context_settings={"ignore_unknown_options": True})  # so that -1 is an ID
@click.argument("number", metavar="ID", callback=exchange_number)
@click.option("--raw", type=click.Choice(list(_SIDES)), help="Write that body's bytes as recorded, nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
@click.option("--chunks/--no-chunks", default=None, help="List all chunks, or none. By default a long list is cut.")
@click.option("--full", is_flag=True, help="Cut nothing, however long the bodies are.")
@with_trace
def show(
    *,
    number: int,
    raw: str | None,
    as_json: bool,
    chunks: bool | None,
    full: bool,
    trace: str | None,
    config: Path | None,
) -> None:
    """Show exchange ID: what it means, its heads, its bodies, its chunks with their times, and how it ended.

    \b
    proxy-log show 41
    proxy-log show last                             or -1; -2 is the one before
    proxy-log show 41 --raw response > answer.json  byte for byte what was received
    proxy-log show 41 --json | jq .response_body.text

    In the heads, "-" marks a line only as it was received, "+" one only as it was passed on. Bodies are laid out for
    reading (decompressed, JSON indented, the text of streamed answers put together). In the list of chunks each line
    is one read from a socket, or one message of a WebSocket: when it came, how long after the one before, from which
    side, how many bytes, and how it begins.

    "Reading" is what the bytes mean, once they are read (serve does that by itself, proxy-log index does it too): the
    model, the parameters with where each came from, the messages, the answer, why it stopped. What the server
    reported and what was measured here stand apart.
    """  # noqa: D301 - \b is click's mark
    with open_trace(read_config(config, trace=trace).trace_path) as opened:
        row = find(opened, number)
        if raw:
            _write_raw(opened, row, _SIDES[raw])
        elif as_json:
            click.echo(json.dumps(whole_object(opened, row, with_chunks=chunks is not False)))
        else:
            Page(make_console(), opened, row, is_full=full).print(with_chunks=chunks)


def find(trace: Trace, number: int) -> ExchangeRow:
    """The exchange of an id; -1 is the newest, -2 the one before.

    Raises:
        ProxyLogError: there is none.
    """
    if number < 0:
        rows = trace.latest(-number)
        row = rows[0] if len(rows) == -number else None
    else:
        row = trace.exchange(number)
    if row is None:
        newest = trace.latest(1)
        there_is = f"the newest is {newest[0].id}" if newest else "the trace is still empty"
        raise ProxyLogError(f"there is no exchange {number}; {there_is}")
    return row


def _write_raw(trace: Trace, row: ExchangeRow, side: Side) -> None:
    if row.outcome is None:
        click.echo("Note: the exchange is still running; this is what there is so far.", err=True)
    if masked := trace.masked(row.id, side):
        click.echo(f"Note: {masked} values in it are masked; those bytes are not the ones sent.", err=True)
    if row.gaps:
        click.echo("Note: not all of it could be recorded; proxy-log show tells what is missing.", err=True)
    for part in trace.body(row.id, side):
        sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
