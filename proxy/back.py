"""The back process: takes the journal into the trace while the front lives, and what is left when it has gone.

`python -m proxy.back SETTINGS`, SETTINGS being one JSON object: `trace` (path), and if wanted `body_fields` (paths of
secrets inside bodies), `log_level`, `living_run` (when the front's run started, wall ns), `web` (HOST:PORT of the live
page), `index` (how to read what is stored, see `service`), `engine_log` (whose logs to listen to; an API token for that
comes by the environment). On stdin the front rings (see `bell`): a byte says that there is something new or that it is
about to end, the end of stdin that it is dead or has written everything.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from proxy.bell import LAST_ORDERS, TOKEN_VARIABLE
from proxy.errors import ProxyLogError
from proxy.indexer import Indexer, IndexSettings
from proxy.secret import load_key
from proxy.store.ingest import Ingest, hold_writer_lock
from proxy.store.log_mover import MOST_BYTES, LogMover
from proxy.store.schema import let_log_grow
from proxy.worker import WORK_STOP_S, Density, Work, Worker, processors

log = logging.getLogger("proxy.back")

BATCH_EVERY_S = 0.1
"""Under load records gather for so long: bigger batches cost less."""
RETRY_S = 0.25
GIVE_UP_S = 20.0
"""How long the last part is tried again when the front has gone."""
_BIG_BATCH_BYTES = 1 << 20
_FLOOD_BYTES_S = 64 << 20
"""What the journal grows by in a flood."""
_FLOOD_LOOK_S = 0.02
_FLOOD_PASSES_S = 1.0
"""How long a flood may last until some of it is stored."""
_NICENESS = 10
"""More, and it would be starved where a model takes all processors: what ended should be in the trace in 200 ms."""
_MOST_WAL_PAGES = (MOST_BYTES >> 12) * 3 // 2
"""Long before that the log is moved beside the storing."""
_GC_THRESHOLDS = (100_000, 20, 20)
"""A batch makes tens of thousands of objects that live as long as it, and no cycles: Python need not look for them."""


class Doorbell:
    """What the front says through the pipe, heard by a thread (a pipe cannot be waited for otherwise everywhere)."""

    def __init__(self, pipe: int, on_front_gone: Callable[[], None]) -> None:
        """`on_front_gone` is called, in the thread, as soon as the pipe ends."""
        self.is_front_gone = False
        self.is_stopped = False
        self._rang = threading.Event()
        self._pipe = pipe
        self._on_front_gone = on_front_gone
        self._on_last_orders: Callable[[], object] = lambda: None
        self._has_last_orders = False

    def on_last_orders(self, call: Callable[[], object]) -> None:
        """Have something called, from some thread, when the front is about to end; at once if it is already."""
        self._on_last_orders = call
        if self._has_last_orders:
            call()

    def listen(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._listen, name="doorbell", daemon=True).start()

    def _listen(self) -> None:
        while rung := os.read(self._pipe, 65536):
            if LAST_ORDERS in rung:
                self._has_last_orders = True
                self._on_last_orders()
            self._rang.set()
            time.sleep(BATCH_EVERY_S)  # rings gather in the pipe meanwhile: each would cost a switch of threads
        self._on_front_gone()
        self.is_front_gone = True
        self._rang.set()

    def stop(self) -> None:
        """End the process after the batch that is under way."""
        self.is_stopped = True
        self._rang.set()

    def wait(self, timeout_s: float) -> bool:
        """Until it rings, or rang since the last wait; False if it was silent."""
        has_rung = self._rang.wait(timeout_s)
        if not self.is_front_gone and not self.is_stopped:
            self._rang.clear()
        return has_rung

    def pause(self, seconds: float) -> None:
        """Let some time pass, unless there is no more to wait for."""
        if not self.is_front_gone and not self.is_stopped:
            time.sleep(max(0.0, seconds))


class Back:
    """The loop around `Ingest`: when to take in, and what to do when that fails."""

    def __init__(
        self,
        ingest: Ingest,
        doorbell: Doorbell,
        trace: Path,
        *,
        on_taken_in: Callable[[], object],
        density: Density,
        log_mover: LogMover,
    ) -> None:
        """`trace` is for messages; when something new is in it `on_taken_in` is called, and the others are told."""
        self._density = density
        self._log_mover = log_mover
        self._ingest = ingest
        self._on_taken_in = on_taken_in
        self._doorbell = doorbell
        self._trace = trace
        self._failed_since: float | None = None
        self._waiting = (0.0, 0)

    def run(self) -> bool:
        """Take in until the front has gone and everything is stored, or `stop`; False if the rest has to wait."""
        doorbell = self._doorbell
        gone_at: float | None = None
        while not doorbell.is_stopped:
            began = time.monotonic()
            is_last = doorbell.is_front_gone  # asked first: what came before the end is there to be read
            if is_last and gone_at is None:
                gone_at = began
            took = self._take_in(is_last=is_last)
            self._density.note(took or 0)
            if took:
                self._on_taken_in()
            if took is None:
                if gone_at is not None and began - gone_at > GIVE_UP_S:
                    log.error("%s: the rest of the journal waits for `proxy-log ingest`", self._trace)
                    return False
                time.sleep(RETRY_S)
            elif is_last:
                return True
            else:
                self._rest(took, began)
        return True

    def _rest(self, took: int, began: float) -> None:
        """Until it is worth while to look again."""
        if not took:
            if not self._doorbell.wait(self._log_mover.lull_s):  # the journal is looked at all the same
                self._log_mover.lull()
            return
        # A small batch may be the end of a segment behind which others lie.
        is_behind = took >= _BIG_BATCH_BYTES or self._ingest.waiting_bytes() >= _BIG_BATCH_BYTES
        self._log_mover.taken_in(took, can_wait=is_behind or (processors() == 1 and self._density.is_dense))
        if not is_behind:
            self._doorbell.pause(began + BATCH_EVERY_S - time.monotonic())
        elif processors() == 1:
            self._let_flood_pass(took)

    def _let_flood_pass(self, took: int) -> None:
        """On the only processor the traffic goes first: a flood is stored in parts, and the rest when it ebbs."""
        began = time.monotonic()
        while not self._doorbell.is_front_gone and not self._doorbell.is_stopped:
            at, waiting = time.monotonic(), self._ingest.waiting_bytes()
            (since, before), self._waiting = self._waiting, (at, waiting)
            came = waiting + took - before
            self._density.note(max(0, came))
            if came < _FLOOD_BYTES_S * (at - since) or at - began > _FLOOD_PASSES_S:
                break
            took = 0
            time.sleep(_FLOOD_LOOK_S)

    def _take_in(self, *, is_last: bool) -> int | None:
        """How many bytes of journal were taken in; None if it failed."""
        try:
            if is_last:
                self._ingest.finish()
                took = 0
            else:
                took = self._ingest.run_once()
        except (sqlite3.Error, OSError, ProxyLogError) as error:
            if self._failed_since is None:
                self._failed_since = time.monotonic()
                log.warning("%s cannot be written: %s; recording goes on, the journal waits", self._trace, error)
            return None
        if self._failed_since is not None:
            log.warning("%s is written again, after %.1f s", self._trace, time.monotonic() - self._failed_since)
            self._failed_since = None
        return took


def main(argument: str) -> int:
    """Run the back; gives the exit code."""
    settings = json.loads(argument)
    logging.basicConfig(
        level=str(settings.get("log_level", "info")).upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the front decides
    if hasattr(os, "nice"):
        os.nice(_NICENESS)  # the traffic comes first
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    trace = Path(settings["trace"])
    turn = threading.Lock()
    let_log_grow(_MOST_WAL_PAGES)
    ingest = Ingest(
        trace,
        turn=turn,
        key=load_key(trace.with_name(trace.name + ".key")),
        body_fields=tuple(settings.get("body_fields", ())),
        living_run=settings.get("living_run"),
    )
    doorbell = Doorbell(sys.stdin.fileno(), ingest.front_is_dead)
    signal.signal(signal.SIGTERM, lambda *_: doorbell.stop())
    doorbell.listen()
    lock = _wait_for_lock(trace, doorbell)
    if lock is None:
        return 1
    density = Density()
    workers = _workers(settings, trace, turn, density)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_live_page(trace, settings.get("web", "")))
            for worker in workers:
                stack.enter_context(worker)
            stack.enter_context(_engine_log(settings, trace, turn, doorbell))
            log_mover = stack.enter_context(LogMover(ingest, turn))
            wake = [worker.wake for worker in workers]
            back = Back(
                ingest,
                doorbell,
                trace,
                on_taken_in=lambda: [each() for each in wake],
                density=density,
                log_mover=log_mover,
            )
            return 0 if back.run() else 1
    finally:
        ingest.close()
        lock.release()


def _workers(settings: Mapping[str, Any], trace: Path, turn: threading.Lock, density: Density) -> list[Worker]:
    """What else is done with what is stored, as the settings say; `turn` is held by who writes the trace."""

    def worker(name: str, make: Callable[[], Work]) -> Worker:
        return Worker(name, make, trace, density)

    wanted = settings.get("index")
    if not wanted:
        return []
    how = IndexSettings(
        encoding=wanted["encoding"],
        prefix_sessions=wanted["prefix_sessions"],
        body_fields=tuple(settings.get("body_fields", ())),
    )
    key = load_key(trace.with_name(trace.name + ".key"))
    workers = [worker("the indexer", lambda: Indexer(trace, how, key=key, turn=turn))]
    if wanted["ask_tokenizer"]:
        workers.append(worker("counting by the server's tokenizer", lambda: _server_tokens(trace, turn)))
    prompt = settings.get("prompt")
    if prompt:
        encoding = wanted["encoding"]
        workers.append(worker("finding what the models saw", lambda: _prompts(prompt, encoding, trace, turn)))
        if prompt["ask"]:
            workers.append(worker("asking for models' settings", lambda: _snapshots(trace, turn)))
    return workers


# Each of these takes time and memory to import (aiohttp, jinja2): for those who want it, once bytes are being stored.


def _server_tokens(trace: Path, turn: threading.Lock) -> Work:
    from proxy.server_tokens import ServerTokens  # noqa: PLC0415 - see above

    return ServerTokens(trace, turn)


def _prompts(prompt: Mapping[str, Any], encoding: str, trace: Path, turn: threading.Lock) -> Work:
    from proxy.prompt_index.indexer import PromptIndexer, PromptSettings  # noqa: PLC0415 - see above

    token = os.environ.get(TOKEN_VARIABLE, "")
    how = PromptSettings(ask=prompt["ask"], token=token, lmstudio_home=prompt["lmstudio_home"])
    key = load_key(trace.with_name(trace.name + ".key"))
    return PromptIndexer(trace, how, encoding=encoding, key=key, turn=turn)


def _snapshots(trace: Path, turn: threading.Lock) -> Work:
    from proxy.prompt_index.rendering import PromptSettings  # noqa: PLC0415 - see above
    from proxy.snapshots import Snapshots  # noqa: PLC0415 - see above

    credentials = PromptSettings(token=os.environ.get(TOKEN_VARIABLE, "")).credentials
    return Snapshots(trace, turn, credentials=credentials)


@contextlib.contextmanager
def _engine_log(settings: Mapping[str, Any], trace: Path, turn: threading.Lock, doorbell: Doorbell) -> Iterator[None]:
    """The subscriptions to engines' logs, where they are wanted: in a thread of their own while this is entered."""
    if not settings.get("engine_log"):
        yield
        return
    is_over = threading.Event()

    def listen() -> None:
        from proxy.engine_log import EngineLog, LogSource  # noqa: PLC0415 - see above

        sources = [LogSource(one["name"], one["url"], tuple(one["ways"])) for one in settings["engine_log"]]
        engine_log = EngineLog(trace, sources, os.environ.get(TOKEN_VARIABLE, ""), turn)
        doorbell.on_last_orders(engine_log.stop)
        with engine_log:
            is_over.wait()

    thread = threading.Thread(target=listen, name="listening to engines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(WORK_STOP_S)


def _live_page(trace: Path, address: str) -> contextlib.AbstractContextManager[None]:
    """The live page, where it is wanted: served in a thread of its own while this is entered."""
    if not address:
        return contextlib.nullcontext()
    try:
        from proxy.web.app import serving  # noqa: PLC0415 - its packages cost memory, for those who want the page
    except ImportError as error:
        log.warning("no live page: %s; recording goes on", error)
        return contextlib.nullcontext()
    return serving(trace, address)


def _wait_for_lock(trace: Path, doorbell: Doorbell) -> FileLock | None:
    """The writer lock, once the back of an earlier front has let go of it; None if that is not worth waiting for."""
    is_told = False
    gone_at: float | None = None
    while not doorbell.is_stopped:
        try:
            return hold_writer_lock(trace)
        except (ProxyLogError, OSError) as error:
            if not is_told:
                log.warning("%s; waiting", error)
                is_told = True
        if doorbell.is_front_gone:
            gone_at = gone_at or time.monotonic()
            if time.monotonic() - gone_at > GIVE_UP_S:
                return None
        time.sleep(RETRY_S)
    return None


def run() -> None:
    """The process: its exit code says whether all was stored."""
    try:
        sys.exit(main(sys.argv[1]))
    except ProxyLogError as error:
        log.error("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    run()
