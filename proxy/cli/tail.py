"""`proxy-log tail`: the last exchanges, and the next ones as they happen."""

import heapq
import json
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import click

from proxy.cli.json_objects import exchange_object
from proxy.cli.live import Follower, Screen
from proxy.cli.options import open_trace, read_config, with_trace
from proxy.cli.render import make_console
from proxy.errors import TraceError, TraceTooNewError
from proxy.store.engine_log import EngineLogStatus, engine_log_statuses
from proxy.store.trace import ExchangeRow, GapRow, Trace


@click.command()
@click.option(
    "-n", "--lines", "count", type=click.IntRange(0, 1_000_000), default=20, show_default=True, help="How many to list."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with those to come, until Ctrl-C (exit code 0).")
@click.option("--text/--no-text", default=True, help="With -f: write the text of streamed answers as it grows.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line; with -f when an exchange has ended.")
@with_trace
def tail(*, count: int, follow: bool, text: bool, as_json: bool, trace: str | None, config: Path | None) -> None:
    """List the last exchanges, the newest at the end, one line each.

    \b
    proxy-log tail                 the last 20
    proxy-log tail -f              and then live, from any terminal, while proxy-log serve runs
    proxy-log tail -n 1000 --json | jq 'select(.duration_ms > 5000) | .id'

    The columns: id, local time, client, method, path, status, model (as the request names it), bytes in and out, time
    to the first byte of the response, whole duration, and how it ended. completed is the good end; client_gone means
    that the client left early, as many do on purpose; upstream_... that the server could not be reached or broke off.
    "gap" marks exchanges of which something could not be recorded. Everything about one of them: proxy-log show ID.
    """  # noqa: D301 - \b is click's mark
    file = read_config(config, trace=trace).trace_path
    view = JsonLines(only_ended=follow) if as_json else Screen(make_console(), with_text=text)
    try:
        if follow:
            _wait_for(file)
        with open_trace(file) as opened:
            last = opened.latest(count)
            if isinstance(view, Screen):
                view.head(last)
            for row in _with_gaps(last, opened.gaps()):
                if isinstance(row, GapRow):
                    view.warn(row)
                else:
                    view.show(row)
            if isinstance(view, Screen):
                view.note([f"engine's log of {one.upstream}: {one.words}" for one in _logs(opened)])
            if follow:
                Follower(opened, view, last or opened.latest(1)).run()
    except KeyboardInterrupt:
        click.echo(err=True)  # the ordinary end of -f: the prompt gets a line of its own


def _logs(trace: Trace) -> list[EngineLogStatus]:
    """The upstreams that have such a log, or may have."""
    return [one for one in engine_log_statuses(trace.connection) if one.state != "not_lmstudio"]


def _with_gaps(rows: list[ExchangeRow], gaps: list[GapRow]) -> Iterable[ExchangeRow | GapRow]:
    """The exchanges, and between them by time what is missing of nobody knows which."""
    since = rows[0].started_at if rows else ""
    missing = [gap for gap in gaps if gap.exchange_id is None and gap.since >= since]
    # Not sorted: ids count in the order in which heads were complete, times are of their first bytes.
    return heapq.merge(rows, missing, key=lambda row: row.since if isinstance(row, GapRow) else row.started_at)


def _wait_for(file: Path) -> None:
    """Return when there is a trace to open; the back process makes it when `serve` starts."""
    if file.exists():
        return
    click.echo(f"There is no trace at {file} yet; waiting for proxy-log serve to make it.", err=True)
    while not file.exists():
        time.sleep(0.1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # the file is there before its tables are
        try:
            with open_trace(file):
                return
        except TraceTooNewError:
            raise
        except TraceError:
            time.sleep(0.1)


class JsonLines:
    """A view for programs: one JSON object on a line."""

    def __init__(self, *, only_ended: bool) -> None:
        self._only_ended = only_ended

    def show(self, row: ExchangeRow) -> None:
        """Print the exchange."""
        if row.outcome is not None or not self._only_ended:
            click.echo(json.dumps(exchange_object(row)))

    def write(self, exchange: int, text: str) -> None:
        """Nothing: the text is part of the response, which is not listed here."""

    def warn(self, gap: GapRow) -> None:
        """Print the gap as `{"gap": …}`."""
        click.echo(json.dumps({"gap": asdict(gap)}))
