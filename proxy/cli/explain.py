"""`proxy-log explain`: what one call's model really got and made, layer by layer, and what changed between them."""

import json
import sys
from pathlib import Path

import click

from proxy.cli.explain_objects import layers_object
from proxy.cli.explain_page import page_lines
from proxy.cli.explain_parameters import parameter_lines
from proxy.cli.options import open_trace, read_config, with_trace
from proxy.cli.render import make_console, unread_note
from proxy.cli.show import exchange_number, find
from proxy.errors import ProxyLogError
from proxy.store.call_layers import CallLayers, calls_of_exchange, read_layers
from proxy.store.trace import Trace

_PLAIN_WIDTH = 160
"""Where the output is no terminal."""


@click.command(context_settings={"ignore_unknown_options": True})  # so that -1 is an ID
@click.argument("number", metavar="ID", callback=exchange_number)
@click.option(
    "--call", "call_id", type=click.IntRange(min=1), metavar="N", help="Of several calls in the exchange, call N."
)
@click.option("--prompt", "only_prompt", is_flag=True, help="Write the rendered prompt, byte for byte, nothing else.")
@click.option("--parameters", "only_parameters", is_flag=True, help="Which value each setting had, and who set it.")
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
@click.option("--full", is_flag=True, help="Cut nothing, however long the texts are.")
@with_trace
def explain(
    *,
    number: int,
    call_id: int | None,
    only_prompt: bool,
    only_parameters: bool,
    as_json: bool,
    full: bool,
    trace: str | None,
    config: Path | None,
) -> None:
    """Explain the call in exchange ID: what the client sent, what was forwarded, the prompt that the engine saw, what
    the engine made of it, what the client got; and what changed at each step, in words.

    \b
    proxy-log explain 41
    proxy-log explain last                   or -1: the last exchange with a call; -2 is the one before
    proxy-log explain 41 --prompt | less     the very text that the model got
    proxy-log explain 41 --json | jq '.prompt.differences'
    proxy-log explain 41 --parameters        which setting won

    Lines with ">" say what changed. Each line of the prompt tells in its margin where the text is from: "0 system" is
    message 0 of the request, "tool 0" a tool definition, "template" what the client never sent; then how many tokens
    that piece has, where they could be counted. A line end of the prompt is shown as \u21b5.

    "observed" is the engine's own log. Where nobody listened to it, the prompt is "asked" (the server applied its
    template again) or "computed" (from the model's template); where there are two, they are compared.
    """  # noqa: D205, D301 - one sentence; \b is click's mark
    with open_trace(read_config(config, trace=trace).trace_path) as opened:
        layers, calls = _layers(opened, number, call_id)
        if only_prompt:
            _write_prompt(layers, calls)
            return
        if as_json:
            click.echo(json.dumps(layers_object(layers)))
            return
        console = make_console()
        width = console.width if console.is_terminal else _PLAIN_WIDTH
        shown = (
            parameter_lines(opened.connection, layers.call["id"], width)
            if only_parameters
            else page_lines(layers, calls, width, is_full=full)
        )
        for line in shown:
            console.print(line, no_wrap=True)


def _layers(trace: Trace, number: int, call_id: int | None) -> tuple[CallLayers, list[int]]:
    """The layers of the call that is asked for, and all calls of its exchange.

    Raises:
        ProxyLogError: there is none.
    """
    exchange = _with_a_call(trace, -number) if number < 0 else find(trace, number).id
    calls = calls_of_exchange(trace.connection, exchange)
    if not calls:
        raise ProxyLogError(_why_none(trace, exchange))
    if call_id is not None and call_id not in calls:
        raise ProxyLogError(f"exchange {exchange} has no call {call_id}; its calls are {_numbers(calls)}")
    layers = read_layers(trace, call_id if call_id is not None else calls[-1])
    if layers is None:
        raise ProxyLogError(f"the calls of exchange {exchange} are being read again; try it once more")
    return layers, calls


def _with_a_call(trace: Trace, place: int) -> int:
    """The exchange at that place from the end, among those with a call."""
    (unread,) = trace.connection.execute("SELECT count(*) FROM unread_exchanges").fetchone()
    if unread:
        click.echo(f"Note: {unread_note(unread)}", err=True)
    row = trace.connection.execute(
        "SELECT exchange_id FROM calls GROUP BY exchange_id ORDER BY exchange_id DESC LIMIT 1 OFFSET ?", (place - 1,)
    ).fetchone()
    if row is None:
        raise ProxyLogError(
            f"there is no exchange -{place} with a call in it; proxy-log calls lists the calls there are"
        )
    return int(row[0])


def _why_none(trace: Trace, exchange: int) -> str:
    if trace.connection.execute("SELECT 1 FROM unread_exchanges WHERE exchange_id = ?", (exchange,)).fetchone():
        return f"exchange {exchange} is not read yet; proxy-log index reads it"
    last = trace.connection.execute("SELECT max(exchange_id) FROM calls").fetchone()[0]
    there_is = f"the last with a call is {last}" if last is not None else "there is no call in the trace yet"
    return f"exchange {exchange} asked no model for anything; {there_is}"


def _numbers(calls: list[int]) -> str:
    shown = ", ".join(map(str, calls[:20]))
    return shown if len(calls) <= 20 else f"{shown}... up to {calls[-1]}"


def _write_prompt(layers: CallLayers, calls: list[int]) -> None:
    """The most trusted prompt's UTF-8.

    Raises:
        ProxyLogError: there is none.
    """
    prompt = layers.prompt
    if prompt is None:
        raise ProxyLogError(f"the prompt of call {layers.call['id']} is not known: {layers.why_no_prompt}")
    if len(calls) > 1:
        click.echo(f"Note: this is call {layers.call['id']}; --call chooses among {_numbers(calls)}.", err=True)
    sys.stdout.buffer.write(prompt.text.encode())
    sys.stdout.buffer.flush()
