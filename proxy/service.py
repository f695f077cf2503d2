"""The composition root of `serve`: it alone builds the front's parts, connects them, and ends them in order.

The front forwards and writes the journal; the back (`proxy.back`) is a process of its own that takes the journal into
the trace. A pipe joins them: a byte in it says that there is something new, its end that the front has gone.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

import proxy
from proxy.bell import LAST_ORDERS, RING, TOKEN_VARIABLE
from proxy.clock import ClockReading
from proxy.config import Config, UpstreamConfig, parse_address
from proxy.errors import InUseError, ProxyLogError, TraceError
from proxy.forward.cors import Cors
from proxy.forward.roles import Forwarding
from proxy.forward.server import Server
from proxy.forward.upstream import Upstream, Upstreams
from proxy.log_ways import log_sources, log_upstreams
from proxy.record.journal import journal_folder
from proxy.record.recorder import Recorder
from proxy.secret import load_key
from proxy.store.version import check_file

_log = logging.getLogger(__name__)

_BACK = (
    f"import sys; sys.path.insert(0, {str(Path(proxy.__file__).parent.parent)!r}); import proxy; del sys.path[0]; "
    "from proxy.back import run; run()"
)
"""What `python -m proxy.back` does, but blind to a proxy.py or json.py in the folder where the user happens to be."""
_RESTART_S = (0.2, 1.0, 5.0, 30.0)
"""How long a back that died is left alone before it is started again, the first time, the second…"""
_BACK_STOP_S = 30.0
_ASK_S = 1.0
"""How long an upstream may take to answer before the greeting says that it does not."""
_RECORDER_STOP_S = 5.0
_LAST_ORDERS_S = 0.3
"""How long the back may take to end what it listens to itself, before it is told what is waited for."""
_GC_THRESHOLDS = (20_000, 20, 20)
"""An exchange makes few objects that last and no cycles, so Python's own thresholds only cost time."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
_SWITCH_INTERVAL_S = 0.0001
"""How long the recorder's thread may hold the interpreter while the loop waits; Python's own 5 ms are felt."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What `serve` tells once it listens."""

    listen: tuple[str, ...]
    """Each `host:port`."""
    trace: Path
    upstreams: dict[str, str]
    """Name to URL."""
    unreachable: tuple[str, ...]
    """Names of those that did not accept a connection."""


def serve(config: Config, *, on_ready: Callable[[Ready], None] = lambda ready: None) -> None:
    """Forward and record until SIGINT, SIGTERM or SIGHUP; then let what runs end, and store everything.

    Raises:
        InUseError: another proxy-log serves with this trace.
        ProxyLogError: it cannot listen, or cannot write where the trace is.
    """
    trace = config.trace_path
    check_file(trace)
    lock = FileLock(f"{trace}.lock", timeout=0, mode=0o600)
    try:
        trace.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InUseError(
            f"another proxy-log serve records into {trace}; stop it, or give this one a trace of its own with --trace"
        ) from None
    except OSError as error:
        raise _unwritable(trace, error) from error
    with lock:
        _run(_serve(config, trace, on_ready))


def _unwritable(trace: Path, error: OSError) -> TraceError:
    return TraceError(f"cannot write beside {trace}: {error.strerror or error}; choose another place with --trace")


def _run(main: Coroutine[None, None, None]) -> None:
    try:
        import uvloop  # noqa: PLC0415 - not there on every platform
    except ImportError:
        asyncio.run(main)
    else:
        uvloop.run(main)


async def _serve(config: Config, trace: Path, on_ready: Callable[[Ready], None]) -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    _keep_freed_memory()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    _allow_many_connections()
    stop = _StopSignals()
    back = Back(config, trace)
    recorder = _recorder(config, trace, back)
    try:
        extra = log_upstreams(config)
        server = Server(_forwarding(config, recorder, extra))
        try:
            listening = await server.listen(*parse_address(config.listen))
        except OSError as error:
            raise ProxyLogError(
                f"cannot listen on {config.listen}: {os.strerror(error.errno or 0)}; "
                "is another proxy-log running? --listen HOST:PORT chooses another address"
            ) from error
        await back.start(recorder.started, log_sources(config, listening, extra))
        unreachable = [
            upstream.name
            for upstream in server.forwarding.upstreams
            if upstream.name in config.upstreams and not await _answers(upstream)
        ]
        urls = {name: upstream.url for name, upstream in config.upstreams.items()}
        on_ready(Ready(tuple(listening), trace, urls, tuple(unreachable)))
        await stop.first.wait()
        back.last_orders()
        draining = asyncio.ensure_future(server.stop(config.drain_s))
        await asyncio.wait((draining,), timeout=_LAST_ORDERS_S)
        if server.running:
            _log.info("stopping; %d exchanges are given %g s to end", server.running, config.drain_s)
        await asyncio.wait((draining, asyncio.ensure_future(stop.second.wait())), return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            draining.cancel()
            await server.stop(0)
    finally:
        if not await asyncio.to_thread(recorder.stop, _RECORDER_STOP_S):
            _log.error("not all could be written to the journal in %s", journal_folder(trace))
        await back.stop()


def _recorder(config: Config, trace: Path, back: "Back") -> Recorder:
    try:
        return Recorder(
            journal_folder(trace),
            memory_bytes=config.record.memory_bytes,
            batch_s=config.record.batch_ms / 1000,
            segment_bytes=config.record.segment_bytes,
            key=load_key(Path(f"{trace}.key")),
            masked_headers=config.mask.headers,
            masked_websocket_fields=config.mask.websocket_fields,
            on_written=back.ring,
        )
    except OSError as error:
        raise _unwritable(trace, error) from error


def _forwarding(config: Config, recorder: Recorder, extra: Mapping[str, UpstreamConfig]) -> Forwarding:
    """`extra`: upstreams beside those of the configuration."""
    by_prefix = {
        each.prefix: Upstream(
            name,
            each.url,
            connect_timeout_s=config.forward.connect_timeout_s,
            idle_connection_s=config.forward.idle_connection_s,
        )
        for name, each in {**config.upstreams, **extra}.items()
    }
    cors = Cors(
        is_enabled=config.cors.enabled, allow_origins=config.cors.allow_origins, max_age_s=config.cors.max_age_s
    )
    return Forwarding(recorder, Upstreams(by_prefix), cors, config.forward.max_head_bytes)


async def _answers(upstream: Upstream) -> bool:
    try:
        async with asyncio.timeout(_ASK_S):
            link = await upstream.connect()
    except OSError:  # a TimeoutError is one
        return False
    link.abort()
    return True


class Back:
    """The back process: started, started again when it dies, ended after it has taken in everything."""

    def __init__(self, config: Config, trace: Path) -> None:
        self._settings: dict[str, object] = {
            "trace": str(trace),
            "body_fields": list(config.mask.body_fields),
            "log_level": config.log_level,
            "web": "" if config.web == "off" else config.web,
            "index": _index_settings(config),
            "prompt": config.prompt.model_dump() if config.index.enabled and config.prompt.enabled else None,
        }
        self._environment = {**os.environ, TOKEN_VARIABLE: config.engine_log.token}
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()

    def ring(self) -> None:
        """Tell the back that there is something new; called from the recorder's thread."""
        # A full pipe has told it already, and a missing reader will look for itself when it is back.
        with contextlib.suppress(OSError):
            os.write(self._write_end, RING)

    def last_orders(self) -> None:
        """Tell it that the front is about to end: exchanges of our own would be waited for."""
        with contextlib.suppress(OSError):
            os.write(self._write_end, LAST_ORDERS)

    async def start(self, run_started: ClockReading, engine_log: list[dict[str, object]]) -> None:
        """Start it, and see to it that it stays.

        Args:
            run_started: tells this run's segments from older ones.
            engine_log: see `log_sources`.
        """
        self._settings["living_run"] = run_started.wall_ns
        self._settings["engine_log"] = engine_log
        await self._start_process()
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def stop(self) -> None:
        """Close the pipe and wait until it has taken in everything."""
        self._stopping.set()
        os.close(self._write_end)
        if self._watching is not None:
            done, _ = await asyncio.wait((self._watching,), timeout=_BACK_STOP_S)
            if not done:
                _log.warning("the trace is not complete yet; `proxy-log ingest` takes in the rest of the journal")
                self._watching.cancel()
        os.close(self._read_end)

    async def _start_process(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _BACK, json.dumps(self._settings)),
            stdin=self._read_end,
            env=self._environment,
        )

    async def _watch(self) -> None:
        deaths = 0
        is_last = False
        while self._process is not None:
            code = await self._process.wait()
            if self._stopping.is_set() and (code == 0 or is_last):
                return
            wait_s = _RESTART_S[min(deaths, len(_RESTART_S) - 1)]
            deaths += 1
            if code:  # 0: somebody's SIGTERM, often to the whole group
                _log.warning("the trace's writer ended (%s); forwarding goes on; restart in %g s", code, wait_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), wait_s)
            is_last = self._stopping.is_set()  # once more all the same: what is left is to be stored
            try:
                await self._start_process()
            except OSError as error:  # no free process or file; the ended one is waited for again, at once
                _log.warning("the trace's writer cannot be started: %s", error)
                is_last = False
                if self._stopping.is_set():
                    return


def _index_settings(config: Config) -> dict[str, object] | None:
    """What `proxy.back` wants to know of how to read; None: it reads nothing."""
    if not config.index.enabled:
        return None
    index = config.index
    return {
        "encoding": index.encoding,
        "ask_tokenizer": index.ask_tokenizer,
        "prefix_sessions": config.prefix_sessions,
    }


class _StopSignals:
    """SIGINT, SIGTERM and SIGHUP: the first lets what runs end, the second does not wait for it."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)  # its terminal was closed; `nohup` has it ignored
        for number in numbers:
            try:
                loop.add_signal_handler(number, self._received)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._received))

    def _received(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


def _allow_many_connections() -> None:
    """Each client and each upstream connection is an open file; the soft limit is often 1,024 or less."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not there on Windows

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


def _keep_freed_memory() -> None:
    """Tell glibc to keep what is freed for the next read, instead of giving it back and having it made anew.

    Each big read is a block of its own, which by default goes back to the system at once: the page faults that this
    costs are a quarter of what a download takes.
    """
    with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):
        import ctypes  # noqa: PLC0415 - for glibc only

        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 64 << 20)
