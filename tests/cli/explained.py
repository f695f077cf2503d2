"""Traces whose calls' prompts are found: recorded by the package's own journal, read and paired by its own indexers."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsproto.frame_protocol import FrameProtocol

from proxy.exchange import Outcome, Side
from proxy.prompt_index.indexer import PromptIndexer
from proxy.prompt_index.rendering import PromptSettings
from proxy.store.prompts import PromptRows
from proxy.store.schema import open_for_writing
from tests.store.traffic import JSON_HEAD, Said, Traffic, as_json, chat_answer, request_head, traffic

LONG_AGO_MS = -60_000.0
"""Before now: a call is paired when its events have had time to arrive."""
LOG_HEAD = b"GET /diagnostics HTTP/1.1\r\nHost: localhost:8234\r\nUpgrade: websocket\r\nX-Proxy-Log-Tag: engine-log\r\n"
AUTH = {"authVersion": 1, "clientIdentifier": "guest:1", "clientPasskey": "x"}
DEFAULT = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


class Explained(Traffic):
    """Traffic beside an engine's log."""

    log = 0
    """The exchange that carries it."""
    begun_ms = 0.0
    """When the last prediction began."""

    def listen(self) -> None:
        """The log is listened to from now on."""
        self.log = self.recording.open(LOG_HEAD, is_websocket=True)
        self.recording.respond(self.log, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
        self._frame(Side.CLIENT, AUTH)
        self._frame(Side.UPSTREAM, {"success": True})
        self._frame(Side.CLIENT, {"type": "channelCreate", "endpoint": "streamLogs", "channelId": 0})

    def logged(self, kind: str, text: str, stats: Mapping[str, Any] | None = None) -> None:
        """An event: `input`, or the `output` that ends the one before; `stats` are added to its times."""
        data: dict[str, Any] = {"type": f"llm.prediction.{kind}", "modelIdentifier": "m", kind: text}
        if kind == "input":
            self.begun_ms = self.recording.at_ms
        else:
            took_s = (self.recording.at_ms - self.begun_ms) / 1000
            data["stats"] = {"timeToFirstTokenSec": took_s / 2, "totalTimeSec": took_s / 2, **(stats or {})}
        self._frame(
            Side.UPSTREAM, {"type": "channelSend", "channelId": 0, "message": {"type": "log", "log": self._at(data)}}
        )

    def _at(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"timestamp": self.recording.now_ns // 1_000_000, "data": data}

    def _frame(self, side: Side, value: Any) -> None:
        frames = FrameProtocol(client=side is Side.CLIENT, extensions=[])
        self.recording.data(self.log, side, bytes(frames.send_data(json.dumps(value), fin=True)), every_ms=1)

    def predicted(
        self,
        messages: Sequence[Mapping[str, Any]],
        prompt: str,
        output: str,
        answer: Said,
        *,
        outcome: Outcome = Outcome.COMPLETED,
        target: str = "/v1/chat/completions",
        told: Mapping[str, Any] | None = None,
        stats: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """A chat completion with its two events; gives the exchange. `told` is in the answer, `more` in the request."""
        made = self.recording
        exchange = made.open(request_head(target))
        made.data(exchange, Side.CLIENT, as_json({"model": "m", "messages": messages, **more}))
        made.at_ms += 2
        self.logged("input", prompt)
        made.at_ms += 1000
        made.respond(exchange, JSON_HEAD)
        made.data(exchange, Side.UPSTREAM, as_json(chat_answer(answer, **(told or {}))))
        self.logged("output", output, stats)
        made.at_ms += 1
        made.close(exchange, outcome, "" if outcome is Outcome.COMPLETED else "it broke off")
        made.at_ms += 1000
        return exchange

    def find_prompts(self) -> None:
        """Take everything in, read it, and find what the model saw."""
        if self.log:
            self.recording.close(self.log)
        self.read()
        indexer = PromptIndexer(
            self.trace, PromptSettings(ask=False, lmstudio_home=str(self.trace.parent)), encoding="off"
        )
        with contextlib.closing(indexer):
            while indexer.run_once():
                pass

    @contextlib.contextmanager
    def rows_of_prompts(self) -> Iterator[PromptRows]:
        """To write what a server would have been asked for."""
        connection = open_for_writing(self.trace)
        with contextlib.closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            yield PromptRows(connection)
            connection.execute("COMMIT")

    def change_rows(self, sql: str, *values: object) -> None:
        """Let somebody else write to the trace."""
        with contextlib.closing(sqlite3.connect(self.trace, isolation_level=None)) as connection:
            connection.execute(sql, values)


def chatml(*turns: tuple[str, str]) -> str:
    """A prompt as ChatML has it, ready for the answer."""
    return "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns) + "<|im_start|>assistant\n"


@contextlib.contextmanager
def explained(trace: Path) -> Iterator[Explained]:
    """Such traffic, let go of in the end."""
    with traffic(trace) as opened:
        made = Explained(opened.recording, opened.settings, opened.registry)
        made.recording.at_ms = LONG_AGO_MS
        with contextlib.closing(made):
            yield made
