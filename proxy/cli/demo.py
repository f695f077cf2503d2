"""`proxy-log demo`: a real model, the proxy in front of it, the first requests, and a place to go on from."""

import errno
import os
import signal
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import click
from platformdirs import user_data_path
from rich.console import Console

from proxy import service
from proxy.cli.render import DIM, NAME, make_console, put
from proxy.cli.serve import client_url
from proxy.cli.tour import Tour
from proxy.config import APP_NAME, Config, UpstreamConfig, parse_address
from proxy.demo.llama_process import DEFAULT_CONTEXT_LENGTH, LlamaProcess, require_engine
from proxy.demo.model import SMOLLM2, cache_folder, check_model_file, fetch_model
from proxy.errors import ProxyLogError


def _check_listen(context: click.Context, parameter: click.Parameter, listen: str) -> str:
    try:
        parse_address(listen)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return listen


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="localhost:8234",
    show_default=True,
    callback=_check_listen,
    help="Where the proxy listens.",
)
@click.option("--port", default=0, metavar="PORT", help="Where the model's server listens; 0, the default: a free one.")
@click.option(
    "--model",
    "model_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A GGUF file to serve instead of SmolLM2-135M-Instruct.",
)
@click.option(
    "--context-length",
    type=click.IntRange(min=256),
    default=DEFAULT_CONTEXT_LENGTH,
    metavar="TOKENS",
    show_default=True,
    help="How much the model can see at once, its answer included; llama.cpp rounds up to 256, 512, 768 and so on.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to record; by default demo.db in your data folder, apart from your own trace.",
)
@click.option("--once", is_flag=True, help="End after the first requests instead of staying up.")
def demo(
    *, listen: str, port: int, model_file: Path | None, context_length: int, trace: Path | None, once: bool
) -> None:
    """Try proxy-log with a real model on this machine.

    Starts llama.cpp with SmolLM2-135M-Instruct (98 MB, fetched once), puts the proxy in front of it, sends the first
    requests through, shows what was recorded, and stays up until Ctrl-C.
    """
    console = make_console()
    trace = (trace or user_data_path(APP_NAME, appauthor=False) / "demo.db").absolute()
    folder = Path(os.environ.get("PROXY_LOG_CACHE") or cache_folder()).absolute()
    previous = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        require_engine()
        _require_free(listen)
        if model_file:
            check_model_file(model_file)
        file = (model_file or fetch_model(folder, console)).absolute()
        started = time.monotonic()
        with LlamaProcess.start(
            file,
            model=model_file.stem.lower() if model_file else SMOLLM2.name,
            log=folder / "engine.log",
            port=port,
            context_length=context_length,
        ) as engine:
            start_s = time.monotonic() - started
            _Demo(console, engine, listen=listen, trace=trace, is_once=once, engine_start_s=start_s).run()
    finally:
        signal.signal(signal.SIGTERM, previous)


class _Demo:
    """The proxy in front of a running engine; the tour runs in a thread beside it."""

    def __init__(
        self, console: Console, engine: LlamaProcess, *, listen: str, trace: Path, is_once: bool, engine_start_s: float
    ) -> None:
        self._console = console
        self._engine = engine
        self._listen = listen
        self._trace = trace
        self._is_once = is_once
        self._engine_start_s = engine_start_s
        self._stopped = threading.Event()

    def run(self) -> None:
        """Serve until Ctrl-C, or the tour's end with `--once`."""
        config = Config(
            listen=self._listen, trace=str(self._trace), upstreams={"demo": UpstreamConfig(url=self._engine.url)}
        )
        beside: list[Future[None]] = []

        def on_ready(ready: service.Ready) -> None:
            beside.append(executor.submit(self._accompany, ready))
            beside[0].add_done_callback(self._stop_serving)

        with ThreadPoolExecutor(1, "tour") as executor:
            try:
                service.serve(config, on_ready=on_ready)
            finally:
                self._stopped.set()
        for future in beside:
            future.result()
        put(self._console, f"\nEnded. The trace stays: {self._trace}")

    def _accompany(self, ready: service.Ready) -> None:
        """What happens beside the traffic: the tour, then an eye on the engine. The proxy stops when this returns."""
        url = client_url(self._listen, ready.listen[0])
        self._show_start(url)
        try:
            Tour(
                self._console,
                url=url,
                model=self._engine.model,
                trace=self._trace,
                is_once=self._is_once,
                stopped=self._stopped,
            ).make()
        except ProxyLogError as error:
            if self._is_once or not isinstance(error.__cause__, ConnectionRefusedError):
                raise
            # It listened before: it has been told to stop in the middle of the tour, and lets other requests end.
            self._stopped.wait()
        if self._is_once:
            return
        if not self._stopped.is_set():
            put(self._console, "\nRunning. Ctrl-C ends it.")
        while not self._stopped.wait(0.5):
            if ended := self._engine.ended():
                raise ProxyLogError(f"the model's server {ended}; its log is {self._engine.log}")

    def _stop_serving(self, _: "Future[None]") -> None:
        if not self._stopped.is_set():
            signal.raise_signal(signal.SIGINT)

    def _show_start(self, url: str) -> None:
        engine = self._engine
        size_mb = engine.model_file.stat().st_size / 1e6
        for name, *parts in (
            ("model", f"{engine.model}, {size_mb:.0f} MB"),
            ("", (str(engine.model_file), DIM)),
            ("engine", f"llama.cpp at {engine.url}, ready after {self._engine_start_s:.1f} s"),
            ("proxy", (url, NAME)),
            ("trace", str(self._trace)),
        ):
            put(self._console, (f" {name:<7} ", DIM), *parts)


def _require_free(listen: str) -> None:
    """Refuse an address that is taken before anything is fetched and started for it."""
    host, port = parse_address(listen)
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError:
        return  # what else is wrong with it the proxy says
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":  # what has just closed does not count; elsewhere the option means something else
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ProxyLogError(
                    f"{listen} is taken, perhaps by proxy-log serve or another demo; choose another address: "
                    f"proxy-log demo --listen localhost:{port % 65535 + 1}"
                ) from None
