"""`proxy-log calls`: what models were asked, what they answered and how fast; a conversation as a tree."""

import json
from pathlib import Path

import click
from rich.text import Text

from proxy.cli.call_line import CallLayout
from proxy.cli.call_rows import CallRow, calls_of_thread, latest_calls
from proxy.cli.call_tree import tree_lines
from proxy.cli.options import open_trace, read_config, with_trace
from proxy.cli.render import WARN, make_console, unread_note
from proxy.errors import ProxyLogError


@click.command()
@click.option("-n", "count", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="How many to list.")
@click.option(
    "--thread",
    type=click.IntRange(min=1),
    metavar="ID",
    help="The conversation that call ID is part of, as a tree.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line, with all columns of the view calls.")
@with_trace
def calls(*, count: int, thread: int | None, as_json: bool, trace: str | None, config: Path | None) -> None:
    """List the last calls of models, the newest at the end: what was asked, what was answered, how fast.

    \b
    proxy-log calls                  the last 20
    proxy-log calls --thread 41      the conversation of call 41: where it went on, branched, was asked again
    proxy-log calls -n 1000 --json | jq 'select(.stop_reason == "length") | .id'

    The columns: id of the call, exchange that carried it (proxy-log show tells all of it), local time, label, model,
    input and output tokens as reported, then time to the first token and tokens per second, first as the server
    reported them, then as measured here, and the stop reason. Below: > the last message of the input, < the answer.
    What nobody told is "-". An embedding has no label.

    \b
    new          begins a conversation        continue         goes on from an earlier answer
    regenerate   the same input again         retry            the same after a failure
    branch       another turn at that place   continue_answer  the model goes on with its own answer
    tool_round   brings the results of tools

    Where the terminal is narrow they are cont., regen., extend and tool.
    """  # noqa: D301 - \b is click's mark
    with open_trace(read_config(config, trace=trace).trace_path) as opened:
        connection = opened.connection
        rows = latest_calls(connection, count) if thread is None else calls_of_thread(connection, thread)
        (unread,) = connection.execute("SELECT count(*) FROM unread_exchanges").fetchone()
        if thread is not None and not rows:
            raise ProxyLogError(f"no conversation has a call {thread}; proxy-log calls lists the calls there are")
        if as_json:
            for row in rows:
                click.echo(json.dumps(row.as_object(), ensure_ascii=False))
            return
        _print(rows, unread, is_tree=thread is not None)


def _print(rows: list[CallRow], unread: int, *, is_tree: bool) -> None:
    console = make_console()
    layout = CallLayout.fitting(console.width, rows) if console.is_terminal else CallLayout.plain()
    if is_tree:
        for line in tree_lines(rows, console.width if console.is_terminal else 160):
            console.print(line, no_wrap=True)
    else:
        if rows and console.is_terminal:
            for line in layout.head():
                console.print(line, no_wrap=True)
        for row in rows:
            for line in layout.lines(row):
                console.print(line, no_wrap=True)
    if not rows:
        console.print("There is no call yet.")
    if unread:
        console.print(Text(unread_note(unread), style=WARN))
