"""The tour: a course's first requests, sent through the proxy; then what the trace has of them, and what to try next.

Only the standard library's HTTP client is needed, so that the demo shows the wire and no SDK.
"""

import http.client
import json
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proxy.errors import ProxyLogError
from proxy.exchange import Outcome
from proxy.store.trace import ExchangeRow, Trace

CHAT_PATH = "/v1/chat/completions"
RHYME = "Continue the rhyme:\n" + "\n".join(
    f"{count} went out to play." for count in ("One elephant", "Two elephants", "Three elephants", "Four elephants")
)
"""A counting rhyme: it has no end, so a longer one finds the end of the context window."""
_IN_TRACE_WAIT_S = 10.0
_INDENT = 4


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the tour."""

    title: str
    content: str
    """What the user says."""
    is_streamed: bool = False

    def body(self, model: str) -> dict[str, object]:
        """The body to send; the same request gives the same answer, and a short one."""
        stream = {"stream": True} if self.is_streamed else {}
        messages = [{"role": "user", "content": self.content}]
        return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 80, **stream}


REQUESTS = (Request("hi", "hi"), Request(RHYME, RHYME), Request("The same, streamed", RHYME, is_streamed=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    text: str
    output_tokens: int | None
    """As llama.cpp counts them; None where it does not say."""
    tokens_per_second: float | None
    """As llama.cpp reports it: decoding alone."""
    refusal: str | None = None
    """The status and what the server said; None for an answer."""


def ask(url: str, body: dict[str, object], on_text: Callable[[str], None]) -> Answer:
    """Send one chat request to the server at `url`; `on_text` gets the text as far as it has come.

    Raises:
        OSError, http.client.HTTPException: the connection failed or broke off.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    try:
        connection.request("POST", CHAT_PATH, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            said = response.read().decode(errors="replace")
            return Answer("", None, None, f"{response.status} {response.reason}: {said}")
        if not body.get("stream"):
            answer = json.loads(response.read())
            text = answer["choices"][0]["message"].get("content") or ""
            on_text(text)
            return _answer(text, answer)
        text = ""
        last: dict[str, Any] = {}
        for line in response:  # llama.cpp writes an event as one line `data: JSON`
            data = line.partition(b"data:")[2].strip()
            if data and data != b"[DONE]":
                last = json.loads(data)
                for choice in last.get("choices", ()):
                    text += choice["delta"].get("content") or ""
                on_text(text)
        return _answer(text, last)
    finally:
        connection.close()


def _answer(text: str, last: dict[str, Any]) -> Answer:
    timings = last.get("timings", {})
    return Answer(text, timings.get("predicted_n"), timings.get("predicted_per_second"))


class Tour:
    """The requests, the table and the hints, for one running proxy."""

    def __init__(self, console: Console, *, url: str, model: str, trace: Path) -> None:
        """Nothing is sent yet.

        Args:
            console: where it is told.
            url: the proxy's.
            model: as `/v1/models` names it.
            trace: the file that the proxy records into.
        """
        self._console = console
        self._url = url
        self._model = model
        self._trace = trace

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

    # --- requests -----------------------------------------------------------------------------------------------------

    def _show_request(self, number: int, request: Request) -> None:
        self._print(
            Text(f"\n {number}  ", "bold cyan") + Text(request.title.replace("\n", f"\n{' ' * _INDENT}"), "bold")
        )
        try:
            with Live(console=self._console, refresh_per_second=25) as live:

                def show(text: str) -> None:
                    live.update(Padding(Text(text), (0, 0, 0, _INDENT)))

                answer = ask(self._url, request.body(self._model), show)
        except (OSError, http.client.HTTPException) as error:
            raise ProxyLogError(
                f"{self._url}: the tour's request broke off: {error or type(error).__name__}"
            ) from error
        if answer.refusal:
            self._print(Padding(Text(answer.refusal, "yellow"), (0, 0, 0, _INDENT)))
        elif answer.output_tokens and answer.tokens_per_second:
            speed = f"{answer.output_tokens} tokens, {answer.tokens_per_second:.0f} a second as llama.cpp reports it"
            self._print(Text(" " * _INDENT + speed, "dim"))

    # --- what was recorded --------------------------------------------------------------------------------------------

    def _recorded(self, started_at_us: int) -> list[ExchangeRow]:
        """What came through the proxy since then, once the tour's requests are all in the trace."""
        deadline = time.monotonic() + _IN_TRACE_WAIT_S
        with Trace.open(self._trace) as trace:
            while True:
                rows = [row for row in trace.latest(20) if row.started_at_us >= started_at_us]
                if sum(row.outcome is not None for row in rows) >= len(REQUESTS) or time.monotonic() > deadline:
                    return rows
                time.sleep(0.02)

    def _show_recorded(self, rows: list[ExchangeRow]) -> None:
        self._print(Text("\nRecorded, byte for byte", "bold"))
        if len(rows) < len(REQUESTS):
            self._print(Text(f"  {len(REQUESTS) - len(rows)} of the requests are not in the trace yet.", "yellow"))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name, justify in (
            ("id", "right"),
            ("time", "left"),
            ("request", "left"),
            ("status", "right"),
            ("model", "left"),
            ("in", "right"),
            ("out", "right"),
            ("first", "right"),
            ("total", "right"),
            ("chunks", "right"),
            ("outcome", "left"),
        ):
            is_long = name in ("request", "model")
            table.add_column(name, justify=justify, no_wrap=True, min_width=8 if is_long else len(name))  # type: ignore[arg-type]
        for row in rows:
            started = datetime.fromtimestamp(row.started_at_us / 1e6).astimezone()
            table.add_row(
                str(row.id),
                f"{started:%H:%M:%S}",
                f"{row.method or ''} {row.path or ''}",
                str(row.status or ""),
                row.model or "",
                decimal(row.request_bytes),
                decimal(row.response_bytes),
                _duration(row.first_byte_ms),
                _duration(row.duration_ms),
                str(row.response_chunks),
                Text(row.outcome or "running", "green" if row.outcome == Outcome.COMPLETED else "yellow"),
            )
        self._print(Padding(table, (0, 0, 0, 1)))

    # --- what to try next ---------------------------------------------------------------------------------------------

    def _show_next(self, exchange_id: int) -> None:
        self._print(Text("\nTry next, in another terminal", "bold"))
        for what, command in self.commands(exchange_id).items():
            self._print(Text(f"\n  {what}", "dim"))
            self._print(Text("\n".join(f"  {line}" for line in command.split("\n")), "cyan"))
        self._print(Text("\n  point an app at it (OpenAI-compatible; any API key will do)", "dim"))
        self._print(Text(f"  {self._url}/v1", "cyan"))

    def commands(self, exchange_id: int) -> dict[str, str]:
        """Commands for a POSIX shell that work on this trace, by what they are for."""
        body = {"model": self._model, "stream": True, "messages": [{"role": "user", "content": "Say hello in French."}]}
        data = json.dumps(body).replace(' "messages"', '\n       "messages"')
        chunks = f"select at_ms, text from chunks where exchange_id = {exchange_id} and side = 'upstream' limit 5"
        trace = shlex.quote(str(self._trace))
        proxy_log = _program("proxy-log", "proxy")
        query = "sqlite3" if shutil.which("sqlite3") else _program("sqlite-utils", "sqlite_utils")
        return {
            "talk to the model": (
                f"curl -N {shlex.quote(self._url + CHAT_PATH)} \\\n"
                f"  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(data)}"
            ),
            "watch requests as they come": f"{proxy_log} tail -f --trace {trace}",
            "see one request whole": f"{proxy_log} show {exchange_id} --trace {trace}",
            "ask with SQL: how the streamed answer arrived": f'{query} {trace} \\\n  "{chunks}"',
        }

    def _print(self, what: Text | Padding) -> None:
        # Soft: a command that is longer than the line must stay one line, or it could not be copied.
        self._console.print(what, soft_wrap=isinstance(what, Text), highlight=False)


def _program(name: str, module: str) -> str:
    """How the user starts a program of this Python environment: its name where the shell finds it."""
    found = shutil.which(name)
    if found and Path(found).parent == Path(sys.executable).parent:
        return name
    return f"{shlex.quote(sys.executable)} -m {module}"


def _duration(ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"
