"""The proxy as users run it: `python -m proxy serve` as a child process, on free ports, with a trace of its own."""

import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TypeVar

from proxy.record.journal import SEGMENT_HEADER, Kind, Record, scan
from tests.raw_client import Address, ClientId
from tests.raw_socket import WAIT_S

REPOSITORY = Path(__file__).parent.parent
T = TypeVar("T")


def wait_until(look: Callable[[], T], what: str, wait_s: float = WAIT_S) -> T:
    """The first true value of `look`; for what another process does and no event can tell."""
    deadline = time.monotonic() + wait_s
    while not (value := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {wait_s} s: {what}")
        time.sleep(0.005)
    return value


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def as_toml(config: Mapping[str, object], name: str = "") -> str:
    """A nested mapping as TOML; values are what JSON writes the same way."""
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    lines = [f"[{name}]"] if name else []
    lines += [f"{key} = {json.dumps(value)}" for key, value in config.items() if key not in tables]
    lines += [as_toml(table, f"{name}.{key}" if name else key) for key, table in tables.items()]
    return "\n".join(lines) + "\n"


class ProxyProcess:
    """One proxy with its config and its trace; may be started again after it stopped."""

    def __init__(self, folder: Path, upstream_url: str, config: Mapping[str, object] | None = None) -> None:
        """Nothing is started yet.

        Args:
            folder: where config, trace and output lie; made where it does not exist.
            upstream_url: the upstream at `/`, named `lmstudio`.
            config: more settings, as `config.toml` nests them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.trace = folder / "trace.db"
        self.journal = folder / "trace.db.journal"
        self.address: Address = ("127.0.0.1", free_port())
        self.authority = f"127.0.0.1:{self.address[1]}"
        self.url = f"http://{self.authority}"
        self._config = folder / "config.toml"
        self._process: subprocess.Popen[bytes] | None = None
        self._output = bytearray()
        self._listening_to: threading.Thread | None = None
        settings: dict[str, object] = {"listen": self.authority, "trace": str(self.trace), **(config or {})}
        lmstudio = {"lmstudio": {"url": upstream_url, "prefix": "/"}}
        upstreams = settings.get("upstreams")
        settings["upstreams"] = {**lmstudio, **upstreams} if isinstance(upstreams, Mapping) else lmstudio
        self._defaults = {} if "engine_log" in settings else {"PROXY_LOG_ENGINE_LOG__ENABLED": "false"}
        self._defaults |= {} if "prompt" in settings else {"PROXY_LOG_PROMPT__ASK": "false"}
        self._config.write_text(as_toml(settings))

    def listen_at(self, listen: str) -> None:
        """Let it listen somewhere else than at `authority`, on the same port."""
        self._config.write_text(self._config.read_text().replace(f'"{self.authority}"', f'"{listen}"', 1))

    # --- the process --------------------------------------------------------------------------------------------------

    def start(self, environment: Mapping[str, str] | None = None) -> "ProxyProcess":
        """Start it and wait until it takes connections.

        It listens to no engine's log and asks no server, which would be more clients of the upstream, unless `config`
        says so.
        """
        # A pipe and not a file, so that a limit on the size of files does not silence it.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proxy", "serve", "--config", self._config],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=REPOSITORY,
            env=_environment() | self._defaults | dict(environment or {}),
        )
        self._listening_to = threading.Thread(target=self._listen, args=(self._process.stdout,))
        self._listening_to.start()
        try:
            wait_until(self._is_listening, "the proxy listens")
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self, wait_s: float = WAIT_S) -> int:
        """SIGTERM, as a service manager sends it; give the exit code once everything is stored."""
        assert self._process
        self._process.terminate()
        try:
            return self._process.wait(wait_s)
        finally:
            self.kill()

    def kill(self, wait_s: float = WAIT_S) -> None:
        """SIGKILL for the front; the back takes in what is left and ends. No harm where they ended before."""
        if not self._process:
            return
        back = self.back_pid()
        self._process.kill()
        self._process.wait()
        self._process = None
        try:
            wait_until(lambda: not (back and _is_alive(back)), "the back took in what was left and ended", wait_s)
        finally:
            if back and _is_alive(back):
                os.kill(back, signal.SIGKILL)
            assert self._listening_to
            self._listening_to.join(wait_s)

    def send_signal(self, number: int) -> subprocess.Popen[bytes]:
        """Send the front a signal; give the process to wait for."""
        assert self._process
        self._process.send_signal(number)
        return self._process

    @property
    def front_pid(self) -> int:
        """The process that forwards."""
        assert self._process
        return self._process.pid

    def back_pid(self) -> int | None:
        """The process that writes the trace, where one runs."""
        assert self._process
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
                    command = (entry / "cmdline").read_bytes()
                except OSError:  # it just ended
                    continue
                if int(parent) == self._process.pid and b"proxy.back" in command:
                    return int(entry.name)
        return None

    def wait_for_back(self, other_than: int = 0) -> int:
        """The back's process id as soon as it runs (another one than `other_than`)."""

        def look() -> int | None:
            pid = self.back_pid()
            return pid if pid != other_than else None

        return wait_until(look, "the back process runs") or 0

    def limit_file_size(self, limit_bytes: int | None) -> None:
        """Let the front write no file beyond so many bytes, as on a full disk; None lifts it."""
        _, hard = resource.prlimit(self.front_pid, resource.RLIMIT_FSIZE)
        soft = hard if limit_bytes is None else limit_bytes
        resource.prlimit(self.front_pid, resource.RLIMIT_FSIZE, (soft, hard))

    def memory_bytes(self, field: str = "VmRSS") -> int:
        """The front's resident memory; `VmHWM` for its highest."""
        status = Path(f"/proc/{self.front_pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith(field + ":")]
        return int(line.split()[1]) * 1024

    def output(self) -> str:
        """What it printed and logged so far, all starts together."""
        return self._output.decode(errors="replace")

    def run(self, *arguments: str, may_fail: bool = False) -> subprocess.CompletedProcess[bytes]:
        """Run another command of proxy-log (`show`, `verify`, `ingest`) with the same config."""
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *arguments],
            capture_output=True,
            cwd=REPOSITORY,
            env=_environment() | {"PROXY_LOG_TRACE": str(self.trace), "PROXY_LOG_CONFIG": str(self._config)},
            timeout=60,
            check=False,
        )
        assert may_fail or done.returncode == 0, f"{arguments}: {done.stdout.decode()}{done.stderr.decode()}"
        return done

    def _listen(self, pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), 65536):
                self._output += data

    def _is_listening(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise ChildProcessError(f"the proxy ended with {self._process.returncode}: {self.output()}")
        with socket.socket() as sock:
            return sock.connect_ex(self.address) == 0

    # --- the trace, through its views and stock SQLite ----------------------------------------------------------------

    def query(self, sql: str, *parameters: object) -> list[sqlite3.Row]:
        """Rows of the trace; none before it is made."""
        result = wait_until(lambda: self._result(sql, parameters), "the trace can be read")
        assert result
        return result[0]

    def _result(self, sql: str, parameters: tuple[object, ...]) -> tuple[list[sqlite3.Row]] | None:
        """The rows; None at the moment when the trace is made: a reader may not make the memory that it shares."""
        if not self.trace.exists():
            return ([],)
        connection = sqlite3.connect(f"file:{self.trace}?mode=ro", uri=True, timeout=WAIT_S)
        connection.row_factory = sqlite3.Row
        try:
            if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'exchanges'").fetchone():
                return ([],)
            return (connection.execute(sql, parameters).fetchall(),)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise
            return None
        finally:
            connection.close()

    def exchanges_now(self, client: ClientId) -> list[sqlite3.Row]:
        """The exchanges of a client that are in the trace by now, in order."""
        sql = "SELECT * FROM exchanges WHERE client = ? AND started_at_us >= ? ORDER BY id"
        return self.query(sql, client.name, client.since_us)

    def exchanges_of(self, client: ClientId, count: int = 1, wait_s: float = WAIT_S) -> list[sqlite3.Row]:
        """The exchanges of a client in order, as soon as `count` of them have ended."""

        def look() -> list[sqlite3.Row]:
            rows = [row for row in self.exchanges_now(client) if row["outcome"]]
            return rows if len(rows) >= count else []

        try:
            return wait_until(look, "the exchange is in the trace", wait_s)
        except TimeoutError as error:
            seen = [dict(row) for row in self.exchanges_now(client)]
            raise TimeoutError(f"{error}; there is: {seen}; output: {self.output()[-2000:]}") from None

    def exchange_of(self, client: ClientId, wait_s: float = WAIT_S) -> sqlite3.Row:
        """The one exchange of a client, once it ended."""
        (row,) = self.exchanges_of(client, wait_s=wait_s)
        return row

    def body(self, exchange: int, side: str) -> bytes:
        """A body's bytes as the view `request_bodies` or `response_bodies` has them; `side` is request or response."""
        sql = f"SELECT CAST(text AS BLOB) AS data FROM {side}_bodies WHERE exchange_id = ?"
        return b"".join(row["data"] or b"" for row in self.query(sql, exchange))

    def files_with(self, secret: bytes) -> list[str]:
        """Which files beside the trace (it and its journal too) hold these bytes anywhere."""
        files = [path for path in self.trace.parent.rglob("*") if path.is_file()]
        return [path.name for path in files if secret in path.read_bytes()]

    def wait_for_journalled_end(self) -> None:
        """Wait until the journal holds an exchange whole; its start may be written a batch before its end."""

        def look() -> bool:
            segments = [path.read_bytes() for path in self.journal.glob("*.seg")]
            records = [record for data in segments for record, _ in scan(data, SEGMENT_HEADER.size)]
            return any(isinstance(record, Record) and record.kind == Kind.CLOSE for record in records)

        wait_until(look, "the journal holds an exchange's end")


def _environment() -> dict[str, str]:
    """This process's environment without settings of proxy-log, which would leak into the test."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PROXY_LOG_")}


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def suspend(pid: int) -> None:
    """SIGSTOP: the process stands still where it is."""
    os.kill(pid, signal.SIGSTOP)


def resume(pid: int) -> None:
    """SIGCONT: it goes on."""
    os.kill(pid, signal.SIGCONT)
