"""A server in a process of its own, which never outlives the one that started it, however that one dies.

The child says one line of JSON on its standard output when it listens or when it cannot, and ends with its standard
input. What native code prints goes to its log.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from proxy.errors import ProxyLogError

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_IMPORT = f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); import proxy; del sys.path[0]; "
"""As `python -m` would, but blind to a proxy.py or json.py in the folder where the user happens to be."""
_TERMINATION_S = 5.0


class Child:
    """The process, seen by who started it; a context manager that ends it."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self.log = log
        """Its standard error."""

    @classmethod
    def start(cls, module: str, arguments: Sequence[str], *, log: Path) -> Self:
        """Run `main` of a module; `log` is written anew.

        Raises:
            ProxyLogError: the log cannot be written.
        """
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _IMPORT + f"from {module} import main; main()", *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,  # Ctrl-C is for the one who started it: the proxy drains first
                )
        except OSError as error:
            raise ProxyLogError(f"{log}: cannot write the engine's log: {error.strerror}") from error
        return cls(process, log)

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def next_line(self) -> dict[str, Any]:
        """What it says next, as soon as it does; {} if it ends before."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        if line:
            said: dict[str, Any] = json.loads(line)
            return said
        self._process.wait()
        return {}

    def ended(self) -> str | None:
        """How the process ended, in words; None while it runs."""
        code = self._process.poll()
        if code is None:
            return None
        return f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def await_end(self) -> None:
        """Wait a moment for it to end by itself, as it does once it has said that it cannot serve."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_TERMINATION_S)

    def stop(self, *, orderly_s: float = 0.0) -> None:
        """End it; nothing happens if it has ended.

        Args:
            orderly_s: how long it may take to end by itself, now that its standard input does; 0: it is ended at once.
        """
        try:
            if orderly_s and self._process.stdin:
                self._process.stdin.close()
                self._process.wait(orderly_s)
            else:
                self._process.terminate()
                self._process.wait(_TERMINATION_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# --- in the child -----------------------------------------------------------------------------------------------------


def begin(on_end: Callable[[], None] | None = None) -> Callable[..., None]:
    """What a child does first; gives the function that says a line: `say(url=...)`.

    Args:
        on_end: called in a thread of its own when standard input ends; None: the process ends at once, even where
            native code keeps Python from running.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_await_end, args=(on_end or _exit,), daemon=True).start()
    if on_end is None:
        _let_kernel_end_it()
    stdout = os.dup(1)
    os.dup2(2, 1)  # native code prints where it likes; only our own lines go to the standard output

    def say(**what: object) -> None:
        os.write(stdout, json.dumps(what).encode() + b"\n")

    return say


def _await_end(on_end: Callable[[], None]) -> None:
    os.read(0, 1)
    on_end()


def _exit() -> None:
    """Nobody is left to serve, and nothing is worth saving."""
    os._exit(0)


def _let_kernel_end_it() -> None:
    """Let the end of standard input be a deadly signal: a model that is being loaded holds the interpreter's lock."""
    if sys.platform == "linux":  # elsewhere SIGIO is ignored by default; the thread ends it, after the load
        import fcntl  # noqa: PLC0415 - not there on every platform

        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)
