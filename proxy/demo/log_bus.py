"""LM Studio's own log: what /diagnostics streams, of every surface.

Events (`llm.prediction.input`, `llm.prediction.output`, `server.log`, `runtime.log`): S, lmstudio-js
DiagnosticsLogEvent.ts; the lines of `server.log`: R, many issues.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_KEPT = 200

Event = dict[str, Any]
"""`{"timestamp": milliseconds, "data": {"type": ...}}`."""


class LogBus:
    """Everybody who listens gets every event from then on; there is no filter in the protocol."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[Event]] = set()
        self.latest: deque[Event] = deque(maxlen=_KEPT)
        """The last events, for those who look by themselves."""

    @contextmanager
    def listening(self) -> Iterator[asyncio.Queue[Event]]:
        """A queue that gets the events as long as the context lasts."""
        queue: asyncio.Queue[Event] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield queue
        finally:
            self._listeners.discard(queue)

    def put(self, data: dict[str, Any]) -> None:
        """Tell an event; it gets its time here."""
        event = {"timestamp": time.time_ns() // 1_000_000, "data": data}
        self.latest.append(event)
        for queue in self._listeners:
            queue.put_nowait(event)

    def server(self, content: str, level: str = "info", *, model: str = "") -> None:
        """A line of `server.log`, with the prefix it has in LM Studio."""
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        about = f"[{model}] " if model else " "
        self.put({"type": "server.log", "level": level, "content": f"[{stamp}][{level.upper()}]{about}{content}"})
