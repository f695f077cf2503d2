"""`proxy-log tail`: the last exchanges, and the next ones as they happen."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from proxy.cli.options import read_config, with_trace
from proxy.errors import TraceError, TraceTooNewError

if TYPE_CHECKING:
    from proxy.store.trace import ExchangeRow, GapRow, Trace

_JSON_COLUMNS = (
    *("request_headers", "forwarded_headers", "response_headers", "sent_headers"),
    *("interim_heads", "request_trailers", "response_trailers"),
)


@click.command()
@click.option("-n", "--lines", "count", type=click.IntRange(0), default=20, show_default=True, help="How many to list.")
@click.option("-f", "--follow", is_flag=True, help="Go on with those to come, until Ctrl-C (exit code 0).")
@click.option("--text/--no-text", default=True, help="With -f: write the text of streamed answers as it grows.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; with -f each exchange when it has ended.")
@with_trace
def tail(count: int, follow: bool, text: bool, as_json: bool, trace: str | None, config: Path | None) -> None:
    """List the last exchanges, the newest at the end, one line each.

    \b
    proxy-log tail                 the last 20
    proxy-log tail -f              and then live, from any terminal, while proxy-log serve runs
    proxy-log tail -n 1000 --json | jq 'select(.duration_ms > 5000) | .id'

    The columns: id, local time, client, method, path, status, model (as the request names it), bytes in and out, time
    to the first byte of the response, whole duration, and how it ended. completed is the good end; client_gone means
    that the client left early, as many do on purpose; upstream_... that the server could not be reached or broke off.
    "gaps" marks exchanges of which something could not be recorded. Everything about one of them: proxy-log show ID.
    """  # noqa: D301 - \b is click's mark
    file = read_config(config, trace=trace).trace_path
    from proxy.cli.live import Follower, Screen  # noqa: PLC0415 - rich is slow to import
    from proxy.cli.render import make_console  # noqa: PLC0415

    console = make_console()
    view = JsonLines() if as_json else Screen(console, with_text=text)
    try:
        with _waited_for(file) if follow else _opened(file) as opened:
            last = opened.latest(count)
            if isinstance(view, Screen) and console.is_terminal and (last or follow):
                console.print(view.layout.head())
            for row in last:
                view.show(row)
            if follow:
                Follower(opened, view, last or opened.latest(1)).run()
    except KeyboardInterrupt:
        click.echo()  # the ordinary end of -f: leave the prompt a line of its own


class JsonLines:
    """A view for programs: each exchange once, as one JSON object on a line."""

    def __init__(self) -> None:
        self._is_following = False

    def show(self, row: "ExchangeRow") -> None:
        """Print the exchange."""
        click.echo(json.dumps(as_json_object(row)))

    def write(self, exchange: int, text: str) -> None:
        """Nothing: the text is part of the response, which is not listed here."""

    def warn(self, gap: "GapRow") -> None:
        """Print the gap as `{"gap": …}`."""
        click.echo(json.dumps({"gap": asdict(gap)}))


def as_json_object(row: "ExchangeRow") -> dict[str, Any]:
    """An exchange as JSON values; columns that hold JSON text are read."""
    fields = asdict(row)
    for name in _JSON_COLUMNS:
        fields[name] = json.loads(fields[name]) if fields[name] else None
    return fields
