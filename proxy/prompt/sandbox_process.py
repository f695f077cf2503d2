"""The process in which templates run: it renders what it is told, within limits that it sets itself.

Both directions: eight bytes with the length of what follows, then JSON. A request is `{"template", "messages", "tools",
"bos_token", "eos_token", "variables"}`, an answer `{"text"}` or `{"kind", "detail"}`. It ends with its standard input.
"""

import json
import struct
import sys
from typing import IO, Any

from jinja2.exceptions import SecurityError

from proxy.prompt.template import render_template

LENGTH = struct.Struct(">Q")
CPU_S = 4
"""Of one rendering, in case that nobody is there any more to end it."""
MEMORY_BYTES = 1 << 29
_MAX_DETAIL = 500


def main(max_output: int) -> None:
    """Render until standard input ends; texts of more than `max_output` characters are not given."""
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    _warm_up()
    limit = _limits()
    while (request := read_frame(requests, MEMORY_BYTES)) is not None:
        limit()
        try:
            answer = _answer(json.loads(request), max_output)
        except (MemoryError, RecursionError) as error:  # what the client sent is too much already
            answer = _failure("template_too_large", error)
        data = json.dumps(answer).encode()
        answers.write(LENGTH.pack(len(data)) + data)
        answers.flush()


def read_frame(stream: IO[bytes], most: int) -> bytes | None:
    """The next frame; None at the end.

    Raises:
        ValueError: it is said to have more than `most` bytes.
    """
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    if length > most:
        raise ValueError(f"a frame of {length} bytes")
    return stream.read(length)


def _answer(request: dict[str, Any], max_output: int) -> dict[str, str]:
    try:
        text = render_template(request.pop("template"), request.pop("messages"), **request)
        text = text.encode("utf-8", "replace").decode()  # half a surrogate pair is no text for anybody else
    except SecurityError as error:
        return _failure("template_unsafe", error)
    except (MemoryError, OverflowError) as error:  # an OverflowError: the sandbox's limit of a range
        return _failure("template_too_large", error)
    except Exception as error:  # noqa: BLE001 - a template is a program: whatever it raises is its own mistake
        return _failure("template_refused", error)
    if len(text) > max_output:
        detail = f"the prompt has {len(text)} characters, more than {max_output}"
        return {"kind": "template_too_large", "detail": detail}
    return {"text": text}


def _failure(kind: str, error: Exception) -> dict[str, str]:
    try:
        words = str(error)
    except Exception:  # noqa: BLE001 - it may hold what cannot be shown, or what takes more memory than there is
        words = ""
    return {"kind": kind, "detail": f"{type(error).__name__}: {words[:_MAX_DETAIL]}" if words else type(error).__name__}


def _warm_up() -> None:
    """Have everything loaded that rendering needs: later no file can be opened."""
    loop = "{% for m in messages %}{{ m | tojson }}{{ strftime_now('%d %b %Y') }}{% endfor %}"
    late = "{{ 'a b' | striptags | wordwrap(1) }}{{ lipsum(n=1) }}{{ 1 | pprint }}"  # they import when they run
    for template in (loop, late, "{% if %}", "{{ ''.__class__.__mro__ }}", "{{ raise_exception('') }}", "{{ 1 / 0 }}"):
        _answer({"template": template, "messages": [{"a": "é"}]}, 1000)


def _limits() -> Any:
    """Set what is set once; gives the function that is called before each rendering."""
    try:
        import resource  # noqa: PLC0415 - not there on Windows
    except ImportError:
        return lambda: None

    def limit(which: int, soft: int) -> None:
        _, hard = resource.getrlimit(which)
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
        resource.setrlimit(which, (soft, hard))

    def limit_time() -> None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + CPU_S)

    for which, value in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 3)):
        resource.setrlimit(which, (value, value))
    if sys.platform == "linux":  # elsewhere it counts what cannot be helped, or is not heeded
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    return limit_time
