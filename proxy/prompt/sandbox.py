"""Renders prompt templates, which are strangers' programs, in a process of its own, with limits of time and memory."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from proxy.meaning import Message, Tool
from proxy.prompt.sandbox_process import LENGTH, read_frame
from proxy.prompt.template_messages import template_messages, template_tools

MAX_OUTPUT = 8 << 20
"""Characters of a prompt."""
MAX_REQUEST_BYTES = 64 << 20
"""Of a template with its messages, as JSON: the process must be able to hold them several times."""
_MAX_ANSWER_BYTES = 16 * MAX_OUTPUT
"""As JSON a character may take twelve."""
PATIENCE_S = 2.0
_START_S = 20.0
"""How long the process may take to begin: more than rendering, on a busy machine."""
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_CODE = (
    f"import sys; sys.path.insert(0, {_PACKAGE_ROOT!r}); import proxy; del sys.path[0]; "
    f"from proxy.prompt.sandbox_process import main; main({MAX_OUTPUT})"
)
"""As `python -m` would, but blind to a proxy.py or json.py in the folder where the user happens to be."""
_KEPT = ("PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "VIRTUAL_ENV")
"""Of the environment: it may hold secrets that no template needs."""


class TemplateFailedError(Exception):
    """A template made no prompt."""

    def __init__(self, kind: str, detail: str) -> None:
        """`kind` as in the view `problems`.

        It is `template_` with `refused`, `timed_out`, `too_large`, `unsafe` or `crashed`.
        """
        super().__init__(detail)
        self.kind = kind


class TemplateSandbox:
    """The process; started when it is first needed, and again after a template has got it killed."""

    def __init__(self, patience_s: float = PATIENCE_S) -> None:
        """`patience_s`: how long a template may take."""
        self._patience_s = patience_s
        self._process: subprocess.Popen[bytes] | None = None

    def render(
        self,
        template: str,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        bos_token: str = "",
        eos_token: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt that a template makes of messages, ready for the answer.

        Raises:
            TemplateFailedError: it refuses, fails, takes too long or too much room, or reaches for what it must not.
            OSError: no process can be started.
        """
        request = {
            "template": template,
            "messages": template_messages(messages),
            "tools": template_tools(tools) or None,
            "bos_token": bos_token,
            "eos_token": eos_token,
            "variables": dict(variables or {}),
        }
        try:
            told = json.dumps(request).encode()
        except RecursionError:
            raise TemplateFailedError("template_too_large", "its messages are nested too deeply") from None
        if len(told) > MAX_REQUEST_BYTES:
            detail = f"it was to be given {len(told)} bytes, more than {MAX_REQUEST_BYTES}"
            raise TemplateFailedError("template_too_large", detail)
        answer = self._ask(told)
        if "text" in answer:
            return str(answer["text"])
        raise TemplateFailedError(str(answer.get("kind")), str(answer.get("detail")))

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # there may be something left that nobody reads any more
                        pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, request: bytes) -> dict[str, Any]:
        if self._process is not None and self._process.poll() is not None:
            self.close()  # ended from outside while it had nothing to do: no fault of this template
        if self._process is None:
            self._process = self._start()
            self._exchange(self._process, b'{"template": "", "messages": []}', _START_S)
        answer = self._exchange(self._process, request, self._patience_s)
        try:
            said = json.loads(answer)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self.close()
            raise TemplateFailedError("template_crashed", "its process answered what is no answer")
        return said

    def _exchange(self, process: subprocess.Popen[bytes], request: bytes, patience_s: float) -> bytes:
        answers: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # Writing and reading may both block on a process that does neither; a thread can be left behind.
        thread = threading.Thread(target=_exchange, args=(process, request, answers), name="template", daemon=True)
        thread.start()
        try:
            answer = answers.get(timeout=patience_s)
        except queue.Empty:
            process.kill()
            thread.join()
            self.close()
            raise TemplateFailedError("template_timed_out", f"it was not done after {patience_s:g} s") from None
        thread.join()
        if answer is None:
            self.close()  # it may live on, if it said something else than a frame
            code = process.returncode
            raise TemplateFailedError("template_crashed", f"its process ended ({code})")
        return answer

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
            start_new_session=True,  # Ctrl-C is for the one who started it
        )


def _exchange(process: subprocess.Popen[bytes], request: bytes, answers: "queue.SimpleQueue[bytes | None]") -> None:
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(LENGTH.pack(len(request)) + request)
        process.stdin.flush()
        answers.put(read_frame(process.stdout, _MAX_ANSWER_BYTES))
    except (OSError, ValueError):  # it died, or was killed meanwhile
        answers.put(None)
