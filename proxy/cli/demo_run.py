"""The two ways in which `proxy-log demo` runs: the lookalike behind the proxy, with a tour, or the lookalike alone."""

import errno
import os
import signal
import socket
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.style import Style

from proxy import service
from proxy.cli.render import BOLD, DIM, NAME, WARN, put
from proxy.cli.serve import client_url
from proxy.cli.tour import Tour, live_commands, window_command
from proxy.config import Config, EngineLogConfig, UpstreamConfig, parse_address
from proxy.demo.behaviour import Behaviour
from proxy.demo.lookalike_process import LMSTUDIO_PORT, LookalikeProcess, Settings
from proxy.errors import ProxyLogError
from proxy.readable import printable

Line = tuple[str, str | tuple[str, Style]]


class Demo:
    """A lookalike that runs, and what is told about it."""

    def __init__(
        self,
        console: Console,
        lookalike: LookalikeProcess,
        settings: Settings,
        behaviour: Behaviour,
        *,
        trace: Path,
        start_s: float,
    ) -> None:
        self._console = console
        self._lookalike = lookalike
        self._ready = lookalike.ready
        self._settings = settings
        self._behaviour = behaviour
        self._trace = trace
        self._start_s = start_s
        self._stopped = threading.Event()

    @property
    def _token(self) -> str | None:
        """What requests need."""
        return self._behaviour.tokens[0] if self._behaviour.auth else None

    # --- alone --------------------------------------------------------------------------------------------------------

    def alone(self) -> None:
        """Tell what there is to ask, then the server's log, until Ctrl-C.

        Raises:
            ProxyLogError: the lookalike died.
        """
        try:
            self._show(*self._about_lookalike())
            self._show_surfaces()
            self._show_next()
            put(self._console, "\nRunning; what follows is the server's log. Ctrl-C ends it.")
            while (line := self._lookalike.log_line()) is not None:
                put(self._console, (printable(line), DIM))
        except KeyboardInterrupt:
            put(self._console, "\nEnded.")
            return
        self._require_alive()

    def _show_surfaces(self) -> None:
        put(self._console, ("\nSurfaces\n", BOLD))
        before = ""
        for family, endpoint in self._ready.endpoints:
            put(self._console, (f" {'' if family == before else family:<10} ", DIM), endpoint)
            before = family

    def _show_next(self) -> None:
        put(self._console, ("\nTry next, in another terminal", BOLD))
        url = self._ready.url
        upstream = "" if url.endswith(f":{LMSTUDIO_PORT}") else f" --upstream {url}"
        hints = {
            "Talk to the model": live_commands(url, self._ready.model, self._trace, self._token)["Talk to the model"],
            "Point an app at it: base URL, OpenAI-compatible": f"{url}/v1",
            "Type into its window": window_command(self._trace),
            "Record what your programs ask it": f"proxy-log serve{upstream}",
            "Let it behave otherwise": "proxy-log demo --switch list",
        }
        for what, command in hints.items():
            put(self._console, (f"\n  {what}", DIM))
            put(self._console, ("  " + command.replace("\n", "\n  "), NAME))

    # --- behind the proxy ---------------------------------------------------------------------------------------------

    def behind_proxy(self, listen: str, *, is_once: bool, hears_log: bool) -> None:
        """Serve until Ctrl-C, or until the tour's end with `is_once`; the tour runs in a thread beside it.

        With `hears_log` the proxy listens to the lookalike's log, which is one exchange more.

        Raises:
            ProxyLogError: the proxy cannot listen, a request of the tour failed, or the lookalike died.
        """
        config = Config(
            listen=listen,
            trace=str(self._trace),
            upstreams={"demo": UpstreamConfig(url=self._ready.url)},
            engine_log=EngineLogConfig(enabled=hears_log, token=self._token or ""),
        )
        beside: list[Future[None]] = []

        def on_ready(ready: service.Ready) -> None:
            url = client_url(listen, ready.listen[0])
            beside.append(executor.submit(self._accompany, url, is_once=is_once))
            beside[0].add_done_callback(self._stop_serving)

        with ThreadPoolExecutor(1, "tour") as executor:
            try:
                service.serve(config, on_ready=on_ready)
            finally:
                self._stopped.set()
        for future in beside:
            future.result()
        put(self._console, f"\nEnded. The trace stays: {self._trace}")

    def _accompany(self, url: str, *, is_once: bool) -> None:
        """What happens beside the traffic: the tour, then an eye on the model. The proxy stops when this returns."""
        self._show(*self._about_lookalike(), ("proxy", (url, NAME)), ("trace", str(self._trace)))
        tour = Tour(
            self._console,
            url=url,
            model=self._ready.model,
            token=self._token,
            trace=self._trace,
            is_once=is_once,
            stopped=self._stopped,
        )
        try:
            tour.make()
        except ProxyLogError as error:
            if is_once or not isinstance(error.__cause__, ConnectionRefusedError):
                raise
            # It listened before: it has been told to stop in the middle of the tour, and lets other requests end.
            self._stopped.wait()
        if is_once:
            return
        if not self._stopped.is_set():
            put(self._console, "\nRunning. Ctrl-C ends it.")
        while not self._stopped.wait(0.5):
            self._require_alive()

    def _stop_serving(self, _: "Future[None]") -> None:
        if not self._stopped.is_set():
            signal.raise_signal(signal.SIGINT)

    # --- both ---------------------------------------------------------------------------------------------------------

    def _require_alive(self) -> None:
        if ended := self._lookalike.ended():
            raise ProxyLogError(f"the lookalike {ended}; its log is {self._lookalike.log}")

    def _about_lookalike(self) -> list[Line]:
        ready, file = self._ready, self._settings.model_file
        size = f", {Path(file).stat().st_size / 1e6:.0f} MB" if file else ""
        lines: list[Line] = [("model", f"{ready.model}{size}, context of {ready.context_length} tokens")]
        if file:
            lines.append(("", (file, DIM)))
        lines += [("", (f"also {name}, loaded when asked for", DIM)) for name in ready.models if name != ready.model]
        lines.append(("server", f"{ready.url}, behaves like LM Studio; ready after {self._start_s:.1f} s"))
        if self._settings.port is None and not ready.url.endswith(f":{LMSTUDIO_PORT}"):
            lines.append(("", (f"port {LMSTUDIO_PORT} is taken, perhaps by LM Studio itself", WARN)))
        lines.append(("", (ready.engine, DIM)))
        if self._token:
            lines.append(("token", (self._token, NAME)))
        return lines

    def _show(self, *lines: Line) -> None:
        for name, what in lines:
            put(self._console, (f" {name:<7} ", DIM), what)


def require_free(listen: str) -> None:
    """Refuse an address that is taken before anything is fetched and started for it.

    Raises:
        ProxyLogError: it is.
    """
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
