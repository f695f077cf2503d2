"""`proxy-log precedence`: whether a request's settings are in force, found out by asking a live server."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import click

from proxy.cli.options import open_trace, read_config, with_trace
from proxy.cli.render import BAD, BOLD, DIM, GOOD, WARN, make_console, printable, put
from proxy.config import parse_address
from proxy.errors import ProxyLogError, TraceError
from proxy.precedence import SETTINGS, Run, run_experiments
from proxy.store.trace import Trace

READ_S = 30.0
"""How long the proxy may take to read what was sent."""
_EVERY_S = 0.2
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_STYLES = {"request": GOOD, "model default": WARN, "server": WARN, "unknown": BAD}
_COUNT = """
SELECT count(*), max(session_id) FROM calls WHERE session = ? AND NOT is_running"""
_FINDINGS = """
SELECT name, surface, won, evidence, call_ids FROM precedence_findings WHERE session_id = ? ORDER BY surface, name"""
_LEFT_OUT = """
SELECT c.exchange_id, s.effective_value FROM calls c LEFT JOIN call_settings s ON s.call_id = c.id AND s.name = ?1
WHERE c.session_id = ?2 AND c.tag = 'precedence:' || ?1 AND c.dialect = ?3 AND s.request_value IS NULL
    AND (?1 <> 'system_prompt'
        OR NOT EXISTS (SELECT 1 FROM call_messages m WHERE m.call_id = c.id AND m.role = 'system'))
ORDER BY c.id LIMIT 1"""
_SYSTEM = """
SELECT DISTINCT text FROM call_messages
WHERE role = 'system' AND call_id IN (SELECT value FROM json_each(?)) ORDER BY call_id"""
_PROMPTS_TO_COME = """
SELECT 1 FROM prompt_queue q JOIN read_calls c ON c.id = q.call_id
WHERE c.session_id = ? AND c.tag = 'precedence:system_prompt' LIMIT 1"""
_SETTINGS = """
SELECT request_value, base_value, effective_value FROM call_settings WHERE call_id = ? AND name = ?"""


@click.command()
@click.option("--model", required=True, metavar="M", help="Which model to ask, as requests name it.")
@click.option("--through", metavar="URL", help="The running proxy; by default the configured one (listen).")
@click.option(
    "--setting",
    "settings",
    multiple=True,
    type=click.Choice(SETTINGS),
    help="Try this setting; may be given several times. By default all of them.",
)
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
@with_trace
def precedence(
    *,
    model: str,
    through: str | None,
    settings: tuple[str, ...],
    as_json: bool,
    trace: str | None,
    config: Path | None,
) -> None:
    """Find out whether a request's settings win over the model's defaults, by asking a live server.

    \b
    proxy-log precedence --model qwen3-4b
    proxy-log precedence --model qwen3-4b --setting temperature --setting top_p

    For each setting, requests that are equal but for its value go through the running proxy, each value twice: over
    HTTP, and on LM Studio over the SDK's WebSocket, too. There the server tells the configuration in force; over HTTP
    the answers show it. It takes some dozens of short answers. All of it is recorded with the tag precedence; proxy-log
    explain shows each of the calls in the last column, and for later calls to this model what was found counts as
    measured.
    """  # noqa: D301 - \b is click's mark
    found = read_config(config, trace=trace)
    url = (through or _url(found.listen)).rstrip("/")
    token = found.engine_log.token.partition(":")
    credentials = (token[0], token[2]) if token[2] else None
    told: list[str] = []

    def tell(what: str) -> None:
        if told:  # dozens of answers are not to be in vain
            _see_trace(found.trace_path)
        told.append(what)
        click.echo(f"{what}...", err=True)

    run = asyncio.run(run_experiments(url, model, settings or SETTINGS, credentials=credentials, tell=tell))
    with open_trace(found.trace_path) as opened:
        rows = _rows(opened, _wait_until_read(opened, run, url, found.trace_path))
    for note in run.notes:
        click.echo(f"Note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(rows))
    else:
        _print(rows)


def _see_trace(file: Path) -> None:
    """See to it that the trace is there; a proxy that has just begun makes it with its first exchange.

    Raises:
        TraceError: it is not.
    """
    deadline = time.monotonic() + READ_S
    while True:
        try:
            with open_trace(file):
                return
        except TraceError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_EVERY_S)


def _url(listen: str) -> str:
    host, port = parse_address(listen)
    host = _EVERYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _wait_until_read(trace: Trace, run: Run, url: str, file: Path) -> int:
    """Until everything that was sent is read; gives the id of its session.

    Raises:
        ProxyLogError: it does not come.
    """
    deadline = time.monotonic() + READ_S
    count, session_id = 0, None
    while time.monotonic() < deadline:
        count, session_id = trace.connection.execute(_COUNT, (run.session,)).fetchone()
        if session_id is not None and count >= run.calls:
            _wait_for_prompts(trace, int(session_id), deadline)
            return int(session_id)
        time.sleep(_EVERY_S)
    why = (
        f"is {url} a proxy-log serve that writes this trace?"
        if not count
        else f"only {count} are there; proxy-log index reads the others, if serve does not"
    )
    raise ProxyLogError(f"{run.calls} calls were made, but {READ_S:g} s later they are not in the trace {file}: {why}")


def _wait_for_prompts(trace: Trace, session_id: int, deadline: float) -> None:
    """Until they are found that show system messages; where that is switched off there will be no finding of these."""
    while time.monotonic() < deadline:
        if trace.connection.execute(_PROMPTS_TO_COME, (session_id,)).fetchone() is None:
            return
        time.sleep(_EVERY_S)


def _rows(trace: Trace, session_id: int) -> list[dict[str, Any]]:
    """A row for each setting and surface."""
    rows = []
    for name, surface, won, evidence, ids in trace.connection.execute(_FINDINGS, (session_id,)).fetchall():
        calls = sorted(json.loads(ids))
        told = [trace.connection.execute(_SETTINGS, (call, name)).fetchone() for call in calls]
        default = next((one[1] for one in told if one is not None and one[1] is not None), None)
        left_out = trace.connection.execute(_LEFT_OUT, (name, session_id, surface)).fetchone() or (None, None)
        requested = [one[0] for one in told if one is not None]
        if name == "system_prompt" and not any(requested):
            requested = [text for (text,) in trace.connection.execute(_SYSTEM, (json.dumps(calls),))]
        in_force = [one[2] for one in told if one is not None and one[2] is not None]
        rows.append(
            {
                "setting": name,
                "surface": surface,
                "model_default": default,
                "request": list(dict.fromkeys(requested)),
                "in_force": list(dict.fromkeys(in_force)) or None,
                "won": "model default" if won == "server" and default is not None else won,
                "evidence": evidence,
                "left_out_in_force": left_out[1],
                "left_out_exchange_id": left_out[0],
                "call_ids": calls,
                "exchange_ids": _exchanges(trace, calls),
            }
        )
    return rows


def _exchanges(trace: Trace, calls: list[int]) -> list[int]:
    """The exchanges of these calls, which `show` and `explain` take."""
    found = trace.connection.execute(
        "SELECT DISTINCT exchange_id FROM calls WHERE id IN (SELECT value FROM json_each(?)) ORDER BY 1",
        (json.dumps(calls),),
    )
    return [row[0] for row in found]


def _print(rows: list[dict[str, Any]]) -> None:
    console = make_console()
    cells = [
        [_cell(row, name) for name in ("setting", "surface", "model_default", "request", "in_force", "won")]
        for row in rows
    ]
    heads = ["setting", "surface", "default", "request", "in force", "won"]
    widths = [max(len(row[at]) for row in [heads, *cells]) for at in range(len(heads))]
    put(console, ("  ".join(head.ljust(width) for head, width in zip(heads, widths, strict=True)).rstrip(), DIM))
    for row, texts in zip(rows, cells, strict=True):
        padded = [text.ljust(width) for text, width in zip(texts, widths, strict=True)]
        put(console, (padded[0], BOLD), "  " + "  ".join(padded[1:5]) + "  ", (padded[5].rstrip(), _STYLES[row["won"]]))
        exchanges = ", ".join(map(str, row["exchange_ids"]))
        put(console, (f"    {row['evidence']}; exchanges {exchanges}", DIM))
        if row["left_out_exchange_id"] is not None:
            value = _cell(row, "left_out_in_force")
            told = f"in force was {value}" if value != "-" else "the answer does not tell what was in force"
            put(console, (f"    left out, {told}; exchange {row['left_out_exchange_id']}", DIM))


def _cell(row: dict[str, Any], name: str) -> str:
    value = row[name]
    if value is None:
        return "-"
    words = value if isinstance(value, list) else [value]
    return printable(
        " | ".join(f"{word:g}" if isinstance(word, float) else str(word) for word in words), is_one_line=True
    )
