"""Traces with made-up calls: recorded by the package's own journal and ingest, read by its own indexer."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from proxy.exchange import Outcome, Side
from proxy.indexer import Indexer, IndexSettings
from proxy.read.registry import Registry
from proxy.secret import load_key
from tests.cli.recording import Recording, recording

JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
UNCOUNTED = IndexSettings(encoding="off")
Said = str | Mapping[str, Any]
"""A message of the user's or, at every second place, of the assistant's; or the message itself."""


def turns(*said: Said) -> list[dict[str, Any]]:
    """Messages of a conversation: texts are the user's and the assistant's in turn."""
    roles = ("user", "assistant")
    return [
        {"role": roles[number % 2], "content": one} if isinstance(one, str) else dict(one)
        for number, one in enumerate(said)
    ]


def as_json(value: object) -> bytes:
    """As most clients send it."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def request_head(target: str = "/v1/chat/completions", *fields: str, method: str = "POST") -> bytes:
    """A request's head."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost:8234", "Content-Type: application/json", *fields]
    return "".join(f"{line}\r\n" for line in lines).encode()


def chat_answer(answer: Said, **more: Any) -> dict[str, Any]:
    """A chat completion as a server answers it whole."""
    message = {"role": "assistant", "content": answer} if isinstance(answer, str) else answer
    reason = "tool_calls" if "tool_calls" in message else "stop"
    return {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": reason}], **more}


def events(*deltas: str, reason: str | None = "stop") -> list[bytes]:
    """A streamed chat completion; without a reason it has no end."""
    chunks: list[dict[str, Any]] = [{"index": 0, "delta": {"content": delta}} for delta in deltas]
    if reason is not None:
        chunks.append({"index": 0, "delta": {}, "finish_reason": reason})
    written = [b"data: " + as_json({"model": "m", "choices": [chunk]}) + b"\n\n" for chunk in chunks]
    return [*written, b"data: [DONE]\n\n"] if reason is not None else written


class Traffic:
    """A recording whose exchanges are read when `read` is called."""

    def __init__(self, made: Recording, settings: IndexSettings, registry: Registry | None) -> None:
        self.recording = made
        self.trace = made.trace
        self.settings = settings
        self.registry = registry
        self.indexer = self.new_indexer()
        connection = sqlite3.connect(f"file:{made.trace}?mode=ro", uri=True, isolation_level=None)
        connection.row_factory = sqlite3.Row
        self.connection = connection

    def new_indexer(self) -> Indexer:
        """Another one, as after a restart."""
        key = load_key(Path(f"{self.trace}.key"))
        return Indexer(self.trace, self.settings, key=key, registry=self.registry)

    def restart(self, settings: IndexSettings | None = None, registry: Registry | None = None) -> None:
        """Go on with a new indexer, which may have other settings or readers."""
        self.indexer.close()
        self.settings = settings or self.settings
        self.registry = registry or self.registry
        self.indexer = self.new_indexer()

    def read(self) -> int:
        """Take everything in and read it; gives how many exchanges were read."""
        self.recording.take_in()
        count = 0
        while read := self.indexer.run_once():
            count += read
        return count

    def close(self) -> None:
        """Let go of the trace."""
        self.connection.close()
        self.indexer.close()

    def change(self, sql: str) -> None:
        """Let somebody else write to the trace."""
        connection = sqlite3.connect(self.trace, isolation_level=None)
        connection.execute(sql)
        connection.close()

    # --- what happened ------------------------------------------------------------------------------------------------

    def exchange(
        self,
        target: str,
        body: bytes,
        answer: bytes | Sequence[bytes],
        *fields: str,
        method: str = "POST",
        client: str = "127.0.0.1:50123",
        upstream: str = "lmstudio",
        head: bytes = JSON_HEAD,
        outcome: Outcome = Outcome.COMPLETED,
    ) -> int:
        """A whole exchange; gives its id. An answer in pieces is a stream."""
        made = self.recording
        exchange = made.open(request_head(target, *fields, method=method), client=client, upstream=upstream)
        if body:
            made.data(exchange, Side.CLIENT, body)
        made.at_ms += 5
        if isinstance(answer, bytes):
            made.respond(exchange, head)
            made.data(exchange, Side.UPSTREAM, answer)
        elif answer:
            made.respond(exchange, STREAM_HEAD if head == JSON_HEAD else head)
            made.data(exchange, Side.UPSTREAM, *answer, every_ms=10)
        made.at_ms += 1
        made.close(exchange, outcome, "" if outcome is Outcome.COMPLETED else "it broke off")
        made.at_ms += 1000
        return exchange

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        answer: Said = "an answer",
        *fields: str,
        client: str = "127.0.0.1:50123",
        more: Mapping[str, Any] | None = None,
        told: Mapping[str, Any] | None = None,
    ) -> int:
        """A chat completion that is answered whole; `more` is in the request, `told` in the answer."""
        body = as_json({"model": "m", "messages": messages, **(more or {})})
        answered = as_json(chat_answer(answer, **(told or {})))
        return self.exchange("/v1/chat/completions", body, answered, *fields, client=client)

    def failed_chat(self, messages: Sequence[Mapping[str, Any]], *fields: str) -> int:
        """A chat completion that the server refuses."""
        head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\n"
        body = as_json({"model": "m", "messages": messages})
        return self.exchange("/v1/chat/completions", body, as_json({"error": "out of memory"}), *fields, head=head)

    def streamed_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        answer: Sequence[bytes],
        outcome: Outcome = Outcome.COMPLETED,
        *fields: str,
    ) -> int:
        """A chat completion that is streamed; see `events`."""
        body = as_json({"model": "m", "messages": messages, "stream": True})
        return self.exchange("/v1/chat/completions", body, answer, *fields, outcome=outcome)

    # --- what the trace says ------------------------------------------------------------------------------------------

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of a query."""
        return [tuple(row) for row in self.connection.execute(sql, parameters)]

    def values(self, sql: str, *parameters: object) -> list[Any]:
        """The only column of a query."""
        return [value for (value,) in self.rows(sql, *parameters)]

    def call(self, exchange: int) -> sqlite3.Row:
        """The one call of an exchange, as the view has it."""
        (row,) = self.connection.execute("SELECT * FROM calls WHERE exchange_id = ?", (exchange,))
        assert isinstance(row, sqlite3.Row)
        return row

    def labels(self, *exchanges: int) -> list[str]:
        """How each of these calls goes on."""
        return [self.call(exchange)["label"] for exchange in exchanges]

    def threads(self, *exchanges: int) -> list[int]:
        """Which thread each of these calls is in, as the exchange that began it."""
        sql = "SELECT t.exchange_id FROM calls c JOIN calls t ON t.id = c.thread_id WHERE c.exchange_id = ?"
        return [one for exchange in exchanges for one in self.values(sql, exchange)]

    def parent(self, exchange: int) -> int | None:
        """The exchange whose answer a call goes on from."""
        sql = "SELECT p.exchange_id FROM calls c JOIN calls p ON p.id = c.parent_id WHERE c.exchange_id = ?"
        found = self.values(sql, exchange)
        return found[0] if found else None

    def problems(self, exchange: int) -> list[str]:
        """Kinds of an exchange's problems, fields that nobody read aside."""
        sql = "SELECT kind FROM problems WHERE exchange_id = ? AND kind <> 'unread_field'"
        return self.values(sql, exchange)


@contextlib.contextmanager
def traffic(trace: Path, settings: IndexSettings = UNCOUNTED, registry: Registry | None = None) -> Iterator[Traffic]:
    """Traffic that is let go of in the end."""
    with recording(trace) as made:
        made.take_in()
        indexer = Indexer(trace, settings)
        indexer.run_once()  # makes the trace
        indexer.close()
        with contextlib.closing(Traffic(made, settings, registry)) as opened:
            yield opened
