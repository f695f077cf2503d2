"""Finds the processes that a test started, and theirs: all of them have its mark in their environment."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = "DEMO_TEST_MARK"


@contextmanager
def marker() -> Iterator[str]:
    """Mark every process that is started until the end of this context; gives the mark."""
    mark = secrets.token_hex(8)
    os.environ[_NAME] = mark
    try:
        yield mark
    finally:
        del os.environ[_NAME]


def environment(mark: str) -> dict[str, str]:
    """This process's own, with the mark."""
    return {**os.environ, _NAME: mark}


def marked(mark: str) -> list[int]:
    """The processes with that mark which run now."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                is_marked = f"{_NAME}={mark}".encode() in (entry / "environ").read_bytes()
                is_zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue  # it ended meanwhile, or is none of ours
            if is_marked and not is_zombie:
                found.append(int(entry.name))
    return found


def command_line(pid: int) -> str:
    """What a process was started with; "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
