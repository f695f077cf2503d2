"""`proxy-log demo --chat`: finds the demo that is running, and types into the window it imagines."""

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from rich.console import Console

from proxy.cli.render import DIM, put
from proxy.demo.behaviour import Behaviour
from proxy.errors import ProxyLogError
from proxy.readable import printable

PATH = "/_demo/window"
"""See `proxy.demo.window`, which is not imported here: it needs a web server."""
_NONE_RUNS = "no demo is running{where}; start one in another terminal: proxy-log demo"


@dataclass(frozen=True, slots=True)
class StateFile:
    """Where the running demo is written down."""

    path: Path

    @classmethod
    def beside(cls, trace: Path) -> Self:
        """The one of demos that record into this trace."""
        return cls(trace.with_name(trace.name + ".running"))

    @contextmanager
    def written(self, url: str, token: str) -> Iterator[None]:
        """Write it; take it away at the end, unless it has become another demo's.

        Raises:
            ProxyLogError: it cannot be written.
        """
        text = json.dumps({"pid": os.getpid(), "url": url, "token": token})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ProxyLogError(
                f"cannot write {self.path}: {error.strerror or error}; choose another place with --trace"
            ) from error
        try:
            yield
        finally:
            if self.path.is_file() and self.path.read_text(encoding="utf-8") == text:
                self.path.unlink(missing_ok=True)

    def read(self) -> tuple[str, str]:
        """Address and token of the demo that is running.

        Raises:
            ProxyLogError: none is.
        """
        try:
            state = json.loads(self.path.read_text(encoding="utf-8"))
            return state["url"], state["token"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ProxyLogError(_NONE_RUNS.format(where="")) from None


def type_into_window(console: Console, text: str, state: StateFile, port: int | None) -> None:
    """Send a chat message as if it were typed in LM Studio's own window, and print the answer.

    Args:
        console: where it is printed.
        text: the message.
        state: where to find the demo.
        port: where its lookalike listens, if that is known.

    Raises:
        ProxyLogError: no demo runs there, or it refuses.
    """
    url, token = state.read() if port is None else (f"http://127.0.0.1:{port}", Behaviour().tokens[0])
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    head = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        connection.request("POST", PATH, json.dumps({"text": text}), head)
        response = connection.getresponse()
        said = response.read().decode(errors="replace")
    except ConnectionRefusedError:
        raise ProxyLogError(_NONE_RUNS.format(where=f" at {url}")) from None
    except (OSError, http.client.HTTPException) as error:
        raise ProxyLogError(f"{url}: the chat broke off: {error or type(error).__name__}") from error
    finally:
        connection.close()
    thought, answer = _answer_of(response.status, said, url)
    if thought:
        put(console, (printable(thought.strip()), DIM))
    put(console, printable(answer.strip()))


def _answer_of(status: int, said: str, url: str) -> tuple[str, str]:
    """The model's reasoning and its answer."""
    try:
        body = json.loads(said)
        if status == 200:
            return str(body["reasoning"]), str(body["text"])
    except (ValueError, KeyError, TypeError):
        body = said
    raise ProxyLogError(f"{url} is no demo that can be typed into; it answers {status}: {body}")
