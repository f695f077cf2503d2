"""Other work of the back process: done with what is stored, in threads of its own, and making way for the traffic.

Why it makes way, and how much that is worth: docs/decisions/0011-other-work-makes-way.md.
"""

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

log = logging.getLogger(__name__)

WORK_STOP_S = 5.0
"""How long other work may go on at the end."""
RETRY_S = 0.25
LOOK_ANYWAY_S = 2.0
"""How long nobody may wake a worker until it looks all the same."""
DENSE_BYTES_S = 1 << 18
"""Of journal. That is about 1,000 chunks a second: more than a model on one's own machine says to several clients."""
REST_DENSE, REST_SHARED = 9, 199
"""So many times as long as it worked other work rests while traffic is dense; and where both have one processor.

There one chunk in a hundred should not tell whether anything is read.
"""
LONG_S = 0.02
"""Work done in less, as after a single exchange, needs no rest on the only processor, unless traffic is dense."""
_FLOWS_FOR_S = 0.5
_LOOK_S = 0.05


class Density:
    """How dense the traffic is just now, as its journal shows.

    Where it shares a processor with other work, a scheduler makes a few chunks in a hundred wait for milliseconds.
    """

    def __init__(self) -> None:
        self._at = time.monotonic()
        self._flows_until = 0.0
        self._dense_until = 0.0

    def note(self, took: int) -> None:
        """So many bytes of journal came, or were taken in, since the last time."""
        now = time.monotonic()
        if took:
            self._flows_until = now + _FLOWS_FOR_S
        if took > DENSE_BYTES_S * (now - self._at):
            self._dense_until = now + _FLOWS_FOR_S
        self._at = now

    @property
    def is_dense(self) -> bool:
        """Whether it is, or was half a second ago."""
        return time.monotonic() < self._dense_until

    def rest(self, worked_s: float, stopping: threading.Event) -> None:
        """Wait after so much work, until the traffic lets up or `stopping` is set."""
        now = time.monotonic()
        is_shared = processors() == 1
        until = now + (REST_SHARED if is_shared else REST_DENSE) * worked_s
        is_long = is_shared and worked_s > LONG_S
        while now < min(until, self._flows_until if is_long else self._dense_until) and not stopping.is_set():
            stopping.wait(_LOOK_S)
            now = time.monotonic()


def processors() -> int:
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Work(Protocol):
    """Something that is done with what is stored, a bounded piece at a time, in a thread of its own."""

    @property
    def is_watching(self) -> bool:
        """Whether there is something to look at soon, though nothing new was stored."""
        ...

    def run_once(self) -> int:
        """Do a piece; gives 0 if there was nothing to do. May raise `sqlite3.Error` and `OSError`: try again later."""
        ...

    def close(self) -> None:
        """Let go of the trace."""
        ...


class Worker:
    """Does some work in a thread while this is entered: ingest does not wait for it."""

    def __init__(self, name: str, make: Callable[[], Work], trace: Path, density: Density) -> None:
        """`make` is called in the thread: what it imports is not waited for. `name` and `trace` are for messages."""
        self._make = make
        self._density = density
        self._trace = trace
        self._name = name
        self._woken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def wake(self) -> None:
        """There is something new."""
        self._woken.set()

    def __enter__(self) -> "Worker":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Do what is left, for a bounded time: the rest is done by the next that runs."""
        self._stopping.set()
        self.wake()
        self._thread.join(WORK_STOP_S)

    def _run(self) -> None:
        try:
            with contextlib.closing(self._make()) as work:
                while self._go_on(work):
                    pass
        except Exception:
            log.exception("%s: %s ended; recording goes on", self._trace, self._name)

    def _go_on(self, work: Work) -> bool:
        """A piece of work, or a wait for more; False at the end."""
        is_last = self._stopping.is_set()
        self._woken.clear()
        began_s = time.thread_time()
        try:
            has_done = work.run_once() > 0
        except (sqlite3.Error, OSError) as error:
            log.warning("%s: %s waits: %s", self._trace, self._name, error)
            self._woken.wait(RETRY_S)
            return not is_last
        self._density.rest(time.thread_time() - began_s, self._stopping)
        if not has_done and not is_last:
            self._woken.wait(RETRY_S if work.is_watching else LOOK_ANYWAY_S)
        return has_done or not is_last
