"""`proxy-log search`: find words in everything that was asked and answered."""

import json
from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from proxy.cli.options import open_trace, read_config, with_trace
from proxy.cli.render import DIM, NAME, WARN, make_console, printable, unread_note
from proxy.store.search import Hit, Search


@click.command()
@click.argument("words", nargs=-1, required=True)
@click.option("-n", "count", type=click.IntRange(1, 100_000), default=20, show_default=True, help="How many to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@with_trace
def search(*, words: tuple[str, ...], count: int, as_json: bool, trace: str | None, config: Path | None) -> None:
    """Find WORDS in prompts, answers, reasoning and tool calls, the newest message first.

    \b
    proxy-log search rhyme
    proxy-log search 'un éléphant'         the words in this order, side by side
    proxy-log search --json def | jq .exchange_id

    Case and accents make no difference, and parts of words are found too, in any language. A message that was sent
    again and again, as chats do, is listed once: with the exchange that had it first. proxy-log show ID shows it.
    """  # noqa: D301 - \b is click's mark
    wanted = " ".join(words)
    with open_trace(read_config(config, trace=trace).trace_path) as opened:
        hits = Search(opened.connection).find(wanted, count)
        (unread,) = opened.connection.execute("SELECT count(*) FROM unread_exchanges").fetchone()
    if as_json:
        for hit in hits:
            click.echo(json.dumps(asdict(hit), ensure_ascii=False))
        return
    console = make_console()
    for hit in hits:
        console.print(_line(hit), no_wrap=True, overflow="ellipsis")
    if not hits:
        console.print(f"No message has {printable(wanted)!r}.")
    if unread:
        console.print(Text(unread_note(unread), style=WARN))


def _line(hit: Hit) -> Text:
    before, found, after = (printable(part, is_one_line=True) for part in (hit.before, hit.found, hit.after))
    line = Text()
    line.append(f"{hit.exchange_id:>6} ", style=NAME)
    line.append(f"{printable(hit.role, is_one_line=True):<9.9} ", style=DIM)
    line.append(before[-24:])
    line.append(found, style="bold reverse")
    line.append(after)
    return line
