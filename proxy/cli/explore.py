"""`proxy-log explore`: the trace in a browser, by Datasette."""

import importlib.util
import socket
import webbrowser
from pathlib import Path

import click

from proxy.cli.options import open_trace, read_config, with_trace
from proxy.errors import MissingExtraError, ProxyLogError
from proxy.store.view_comments import view_comments

DEFAULT_PORT = 8001
"""Datasette's own."""
_NO_DATASETTE = (
    "proxy-log explore needs the package datasette, which is not installed; install it with: "
    "pip install 'proxy-log[datasette]', or in proxy-log's own folder: pip install '.[datasette]'"
)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help=f"Where to listen, on this machine only; by default {DEFAULT_PORT}, or any if that one is taken (0: any).",
)
@click.option("--open/--no-open", "is_opened", default=True, show_default=True, help="Show it in your browser.")
@with_trace
def explore(*, port: int | None, is_opened: bool, trace: str | None, config: Path | None) -> None:
    """Look into the trace in a browser: sort, filter, count, and ask in SQL.

    Opens the trace in Datasette (https://datasette.io), with a page for each view, ready questions (the last calls, a
    conversation, speeds by model, what went wrong), and a place for SQL of your own. Each answer is also there as CSV
    and JSON. Ctrl-C ends it.

    \b
    pip install 'proxy-log[datasette]'    once
    proxy-log explore
    proxy-log explore --no-open --port 9000

    Nothing is written to the trace. It may run while proxy-log serve records: pages show what is stored by then.
    Only this machine reaches it.
    """  # noqa: D301 - \b is click's mark
    if importlib.util.find_spec("datasette") is None:
        raise MissingExtraError(_NO_DATASETTE)
    file = read_config(config, trace=trace).trace_path
    with open_trace(file) as opened:
        comments = view_comments(opened.connection)
        tables = [row[0] for row in opened.connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    with _listen(port) as listening:
        from proxy.cli.explore_site import serve_site  # noqa: PLC0415 - the one place that needs the extra

        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        click.echo(f"{file} is at {url}trace (Ctrl-C ends it)")
        if is_opened:
            webbrowser.open(f"{url}trace")
        serve_site(file, comments, tables, listening)


def _listen(port: int | None) -> socket.socket:
    """A socket on loopback that listens already, so that a browser may come before the site is ready.

    Raises:
        ProxyLogError: the port is taken.
    """
    wanted = (DEFAULT_PORT, 0) if port is None else (port,)
    for each in wanted:
        try:
            return socket.create_server(("127.0.0.1", each))
        except OSError as error:
            if each == wanted[-1]:
                raise ProxyLogError(f"cannot listen on port {each}: {error.strerror}; choose another: --port") from None
    raise AssertionError
