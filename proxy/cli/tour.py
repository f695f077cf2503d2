"""What `proxy-log demo` tells in the terminal: the requests with their answers, what was recorded, what to try next."""

import http.client
import json
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from platformdirs import user_data_path
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from proxy.cli.line import Layout
from proxy.cli.options import open_trace
from proxy.cli.render import BOLD, DIM, NAME, WARN, printable, put
from proxy.config import APP_NAME
from proxy.demo.tour import CHAT_PATH, REQUESTS, Answer, Request, ask
from proxy.errors import ProxyLogError, TraceError
from proxy.exchange import Side

if TYPE_CHECKING:
    from proxy.store.trace import ExchangeRow

_IN_TRACE_WAIT_S = 10.0
STREAMED = next(number for number, request in enumerate(REQUESTS) if request.is_streamed)
"""Which request is."""


class Tour:
    """The tour through one running proxy."""

    def __init__(
        self,
        console: Console,
        *,
        url: str,
        model: str,
        token: str | None,
        trace: Path,
        is_once: bool,
        stopped: threading.Event,
    ) -> None:
        """Nothing is sent yet.

        Args:
            console: where it is told.
            url: the proxy's.
            model: as `/v1/models` names it.
            token: an API token, where one is asked for.
            trace: the file that the proxy records into.
            is_once: the proxy ends with the tour, so that nothing can be sent to it afterwards.
            stopped: nothing more will come.
        """
        self._console = console
        self._wrapping = Console(file=console.file, highlight=False, markup=False, emoji=False)
        self._url = url
        self._model = model
        self._token = token
        self._streamed_tokens: int | None = None
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
        self._show_next(rows[min(STREAMED, len(rows) - 1)].id if rows else 1)

    def _show_request(self, number: int, request: Request) -> None:
        question = request.content
        if request.is_streamed:
            question = "the same again, streamed"
        elif request.path != CHAT_PATH:
            question = f"the same again, of {request.path}"
        self._wrapping.print()
        self._wrapping.print(_said(f"{number}", "you", Text(question, BOLD)))
        try:
            answer = self._show_answer(request)
        except (OSError, http.client.HTTPException) as error:
            raise ProxyLogError(
                f"{self._url}: the demo's request broke off: {error or type(error).__name__}"
            ) from error
        if answer.refusal:
            self._wrapping.print(_said("", "", Text(printable(answer.refusal), WARN)))
        elif answer.output_tokens is not None:
            self._wrapping.print(_said("", "", Text(_numbers(answer), DIM)))
        if request.is_streamed:
            self._streamed_tokens = answer.output_tokens

    def _show_answer(self, request: Request) -> Answer:
        """Send a request; on a terminal its answer is shown as it grows."""
        if self._console.is_terminal:
            with Live(console=self._wrapping, refresh_per_second=25) as live:
                return self._ask(request, lambda text: live.update(_said("", "model", Text(printable(text)))))
        answer = self._ask(request, lambda text: None)
        self._wrapping.print(_said("", "model", Text(printable(answer.text))))
        return answer

    def _ask(self, request: Request, on_text: Callable[[str], None]) -> Answer:
        return ask(self._url, request.body(self._model), on_text, path=request.path, token=self._token)

    def _recorded(self, started_at_us: int) -> "list[ExchangeRow]":
        """What came through the proxy since then, once as much has ended as the tour sent."""
        deadline = time.monotonic() + _IN_TRACE_WAIT_S
        while True:
            has_time = not self._stopped.wait(0.02) and time.monotonic() < deadline
            try:
                with open_trace(self._trace) as trace:
                    rows = [
                        row for row in trace.latest(20) if row.started_at_us >= started_at_us and row.kind == "http"
                    ]
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
            return
        streamed = rows[STREAMED]
        if streamed.response_chunks > 1:
            came = f"The streamed answer came in {streamed.response_chunks} chunks, each stored with its time"
            put(self._console, (f"\n  {came}{self._measured_speed(streamed.id)}.", DIM))

    def _measured_speed(self, exchange: int) -> str:
        """Tokens per second between the first and the last chunk, by the trace's own times."""
        with open_trace(self._trace) as trace:
            times = [chunk.at_us for chunk in trace.chunks(exchange, Side.UPSTREAM)]
        if not self._streamed_tokens or self._streamed_tokens < 2 or times[-1] <= times[0]:
            return ""
        rate = (self._streamed_tokens - 1) * 1_000_000 / (times[-1] - times[0])
        return f";\n  by these times the model made {rate:.0f} tokens a second"

    def _show_next(self, exchange: int) -> None:
        put(self._console, ("\nTry next" + ("" if self._is_once else ", in another terminal"), BOLD))
        hints = reading_commands(self._trace, exchange)
        if not self._is_once:
            hints = {**live_commands(self._url, self._model, self._trace, self._token), **hints}
            hints["Type into the lookalike's own window, past the proxy"] = window_command(self._trace)
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


def _numbers(answer: Answer) -> str:
    """Tokens and speed, and who says so."""
    tokens = f"{answer.output_tokens} tokens by its usage"
    if answer.tokens_per_second is None:
        return f"{tokens}; this API tells no speed"
    return f"{tokens}; {answer.tokens_per_second:.0f} a second by its stats"


def live_commands(url: str, model: str, trace: Path, token: str | None = None) -> dict[str, str]:
    """Commands for a POSIX shell that work while the demo runs, by what they are for."""
    messages = [{"role": "user", "content": "Say hello in French."}]
    body = {"model": model, "stream": True, "max_tokens": 60, "messages": messages}
    data = json.dumps(body).replace(' "messages"', '\n       "messages"')
    return {
        "Talk to the model": (
            f"curl -N {shlex.quote(url + CHAT_PATH)} \\\n"
            + (f"  -H 'Authorization: Bearer {token}' \\\n" if token else "")
            + f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(data)}"
        ),
        "Watch requests as they come": f"{_program('proxy-log', 'proxy')} tail -f --trace {shlex.quote(str(trace))}",
    }


def window_command(trace: Path) -> str:
    """What types into the window of a demo that records into this trace."""
    where = "" if trace == demo_trace() else f" --trace {shlex.quote(str(trace))}"
    return f"{_program('proxy-log', 'proxy')} demo --chat hi{where}"


def demo_trace() -> Path:
    """Where demos record by default."""
    return (user_data_path(APP_NAME, appauthor=False) / "demo.db").absolute()


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
