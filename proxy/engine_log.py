"""Listens to LM Studio's log, in the back process and in a thread of its own, and says in the trace whether it does.

Whatever goes wrong here is told in the log and in the trace; recording and reading go on.
"""

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from proxy.prompt.log_stream import LogSource, LogState, LogStream
from proxy.store.courtesy import NOBODY_ELSE
from proxy.store.engine_log import EngineLogStatus, forget_statuses, put_status
from proxy.store.schema import open_for_writing

__all__ = ["EngineLog", "LogSource"]

log = logging.getLogger(__name__)

STOP_S = 3.0
"""How long saying goodbye to LM Studio may take."""
_WRITE_AGAIN_S = 0.5
_QUIET = (LogState.ASKING, LogState.UNREACHABLE, LogState.NOT_LMSTUDIO)


class EngineLog:
    """Listens to the logs of some upstreams while this is entered."""

    def __init__(
        self,
        trace: Path,
        sources: Sequence[LogSource],
        token: str = "",
        turn: AbstractContextManager[object] = NOBODY_ELSE,
    ) -> None:
        """`token` is LM Studio's API token, if it asks for one; `turn` is held while the trace is written."""
        self._trace = trace
        self._sources = sources
        self._token = token
        self._turn = turn
        self._statuses: queue.SimpleQueue[EngineLogStatus | None] = queue.SimpleQueue()
        self._listened: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = threading.Event()
        self._main: asyncio.Task[None] | None = None
        self._threads = (
            threading.Thread(target=self._run, name="engine log", daemon=True),
            threading.Thread(target=self._write, name="engine log status", daemon=True),
        )

    def __enter__(self) -> "EngineLog":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        for thread in self._threads:
            thread.join(STOP_S)

    def stop(self) -> None:
        """Take leave; does not wait. May be called more than once, from any thread."""
        self._stopping.set()
        loop, main = self._loop, self._main
        if loop is not None and main is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself, and the loop is closed
                loop.call_soon_threadsafe(main.cancel)

    # --- the listening thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(self._listen())
        except Exception:
            log.exception("listening to the engine's log ended; recording goes on")
        finally:
            self._statuses.put(None)

    async def _listen(self) -> None:
        self._main = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        if self._stopping.is_set():
            return
        streams = [LogStream(source, self._token, self._told) for source in self._sources]
        async with asyncio.TaskGroup() as group:
            for stream in streams:
                group.create_task(stream.run())

    def _told(self, source: LogSource, state: LogState, detail: str) -> None:
        status = EngineLogStatus(source.name, state.value, detail, time.time_ns() // 1000)
        self._statuses.put(status)
        was_listening = source.name in self._listened
        if state is LogState.LISTENING:
            self._listened.add(source.name)
        else:
            self._listened.discard(source.name)
        is_told = state not in _QUIET or was_listening
        log.log(logging.INFO if is_told else logging.DEBUG, "the engine's log of %s: %s", source.name, status.words)

    # --- the writing thread -------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Keep the table up to date. A trace that cannot be written now is tried again as long as there is time."""
        self._put(forget_statuses)
        while (status := self._statuses.get()) is not None:
            self._put(lambda connection, status=status: put_status(connection, status))  # type: ignore[misc]
        self._put(forget_statuses)

    def _put(self, write: Callable[[sqlite3.Connection], None]) -> None:
        while True:
            try:
                with contextlib.closing(open_for_writing(self._trace)) as connection, self._turn:
                    connection.execute("BEGIN IMMEDIATE")
                    write(connection)
                    connection.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                log.debug("the engine log's status cannot be stored yet: %s", error)
                if self._stopping.wait(_WRITE_AGAIN_S):
                    return
            else:
                return
