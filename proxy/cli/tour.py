"""What `proxy-log demo` tells in the terminal: the requests with their answers, what was recorded, what to try next."""

import http.client
import json
import shlex
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proxy.cli.line import Layout
from proxy.cli.options import open_trace
from proxy.cli.render import BOLD, DIM, NAME, WARN, printable, put
from proxy.demo.tour import CHAT_PATH, REQUESTS, Answer, Request, ask
from proxy.errors import ProxyLogError, TraceError

if TYPE_CHECKING:
    from proxy.store.trace import ExchangeRow

_IN_TRACE_WAIT_S = 10.0


class Tour:
    """The tour through one running proxy."""

    def __init__(
        self, console: Console, *, url: str, model: str, trace: Path, is_once: bool, stopped: threading.Event
    ) -> None:
        """Nothing is sent yet.

        Args:
            console: where it is told.
            url: the proxy's.
            model: as `/v1/models` names it.
            trace: the file that the proxy records into.
            is_once: the proxy ends with the tour, so that nothing can be sent to it afterwards.
            stopped: nothing more will come.
        """
        self._console = console
        self._wrapping = Console(file=console.file, highlight=False, markup=False, emoji=False)
        self._url = url
        self._model = model
        self._trace = trace
        self._is_once = is_once
        self._stopped = stopped

    def make(self) -> None:
        """Send the requests, show what was recorded of them, and say what to try next.

        Raises:
            ProxyLogError: the proxy does not answer, or the trace cannot be read.
        """
        started_at_us = time.time_ns() // 1000
        for number, request in enumerate(REQUESTS, 1):
            self._show_request(number, request)
        rows = self._recorded(started_at_us)
        self._show_recorded(rows)
        self._show_next(rows[-1].id if rows else 1)

    def _show_request(self, number: int, request: Request) -> None:
        question = "the same again, streamed" if request.is_streamed else request.content
        self._wrapping.print()
        self._wrapping.print(_said(f"{number}", "you", Text(question, BOLD)))
        try:
            answer = self._show_answer(request.body(self._model))
        except (OSError, http.client.HTTPException) as error:
            raise ProxyLogError(
                f"{self._url}: the demo's request broke off: {error or type(error).__name__}"
            ) from error
        if answer.refusal:
            self._wrapping.print(_said("", "", Text(printable(answer.refusal), WARN)))
        elif answer.output_tokens and answer.tokens_per_second:
            speed = f"{answer.output_tokens} tokens, {answer.tokens_per_second:.0f} a second as llama.cpp reports it"
            self._wrapping.print(_said("", "", Text(speed, DIM)))

    def _show_answer(self, body: dict[str, object]) -> Answer:
        """Send a request; on a terminal its answer is shown as it grows."""
        if self._console.is_terminal:
            with Live(console=self._wrapping, refresh_per_second=25) as live:
                return ask(self._url, body, lambda text: live.update(_said("", "model", Text(printable(text)))))
        answer = ask(self._url, body, lambda text: None)
        self._wrapping.print(_said("", "model", Text(printable(answer.text))))
        return answer

    def _recorded(self, started_at_us: int) -> "list[ExchangeRow]":
        """What came through the proxy since then, once as much has ended as the tour sent."""
        deadline = time.monotonic() + _IN_TRACE_WAIT_S
        while True:
            has_time = not self._stopped.wait(0.02) and time.monotonic() < deadline
            try:
                with open_trace(self._trace) as trace:
                    rows = [row for row in trace.latest(20) if row.started_at_us >= started_at_us]
            except TraceError:  # the file is there before its tables are
                if not has_time:
                    raise
                continue
            if sum(row.outcome is not None for row in rows) >= len(REQUESTS) or not has_time:
                return rows

    def _show_recorded(self, rows: "list[ExchangeRow]") -> None:
        put(self._console, ("\nWhat was recorded\n", BOLD))
        layout = Layout.fitting(self._console.width)
        self._console.print(layout.head())
        for row in rows:
            self._console.print(layout.line(row))
        if len(rows) < len(REQUESTS):
            put(self._console, (f"{len(REQUESTS) - len(rows)} requests are not in the trace yet", WARN))
        elif rows[-1].response_chunks > 1:
            chunks = f"The streamed answer came in {rows[-1].response_chunks} chunks, each stored with its time."
            put(self._console, ("\n  " + chunks, DIM))

    def _show_next(self, exchange: int) -> None:
        put(self._console, ("\nTry next" + ("" if self._is_once else ", in another terminal"), BOLD))
        hints = reading_commands(self._trace, exchange)
        if not self._is_once:
            hints = {**live_commands(self._url, self._model, self._trace), **hints}
            hints["Point an app at it: base URL, OpenAI-compatible, any API key"] = f"{self._url}/v1"
        for what, command in hints.items():
            put(self._console, (f"\n  {what}", DIM))
            put(self._console, ("  " + command.replace("\n", "\n  "), NAME))


def _said(number: str, who: str, text: Text) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=3, justify="right", style=NAME)
    table.add_column(width=5, style=DIM)
    table.add_column(overflow="fold")
    table.add_row(number, who, text)
    return table


def live_commands(url: str, model: str, trace: Path) -> dict[str, str]:
    """Commands for a POSIX shell that work while the demo runs, by what they are for."""
    messages = [{"role": "user", "content": "Say hello in French."}]
    body = {"model": model, "stream": True, "max_tokens": 60, "messages": messages}
    data = json.dumps(body).replace(' "messages"', '\n       "messages"')
    return {
        "Talk to the model": (
            f"curl -N {shlex.quote(url + CHAT_PATH)} \\\n"
            f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(data)}"
        ),
        "Watch requests as they come": f"{_program('proxy-log', 'proxy')} tail -f --trace {shlex.quote(str(trace))}",
    }


def reading_commands(trace: Path, exchange: int) -> dict[str, str]:
    """Commands for a POSIX shell that work on this trace at any time, by what they are for."""
    sql = f"select at_ms, text from chunks\n   where exchange_id = {exchange} and side = 'upstream' limit 5"
    file = shlex.quote(str(trace))
    sqlite = "sqlite3" if shutil.which("sqlite3") else _program("sqlite-utils", "sqlite_utils")
    return {
        "See one whole": f"{_program('proxy-log', 'proxy')} show {exchange} --trace {file}",
        "Ask with SQL: how the streamed answer arrived": f'{sqlite} {file} \\\n  "{sql}"',
    }


def _program(name: str, module: str) -> str:
    """How to start a program of this Python environment: by its name where the shell finds that one."""
    found = shutil.which(name)
    if found and Path(found).parent == Path(sys.executable).parent:
        return name
    return f"{shlex.quote(sys.executable)} -m {module}"
