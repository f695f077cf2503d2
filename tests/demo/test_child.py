"""A process that serves another one: it says what it has to, and ends with whoever started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.demo.child import Child
from proxy.errors import ProxyLogError
from tests.proxy_process import REPOSITORY, wait_until

MODULE = """
import ctypes, os, sys, threading, time
from proxy.demo.child import begin

def main():
    how = sys.argv[1]
    if how == "orderly":
        ended = threading.Event()
        say = begin(ended.set)
        print("native noise", flush=True)
        say(pid=os.getpid())
        ended.wait()
        say(last="word")
    elif how == "stubborn":
        begin(lambda: None)(pid=os.getpid())
        time.sleep(60)
    else:
        begin()(pid=os.getpid())
        ctypes.PyDLL(None).sleep(60)  # holds the interpreter's lock, as loading a model does
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that children can run."""
    (tmp_path / "served.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "served"


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_child_says_only_its_own_lines_and_ends_in_order(module: str, tmp_path: Path) -> None:
    child = Child.start(module, ["orderly"], log=tmp_path / "new folder" / "log")
    assert child.next_line() == {"pid": child.pid}
    assert child.ended() is None
    child.stop(orderly_s=10)
    assert child.ended() == "ended with exit code 0"
    assert (tmp_path / "new folder" / "log").read_text() == "native noise\n"


def test_child_that_does_not_end_by_itself_is_killed(module: str, tmp_path: Path) -> None:
    child = Child.start(module, ["stubborn"], log=tmp_path / "log")
    assert child.next_line()
    child.stop(orderly_s=0.2)
    assert child.ended() == "died of SIGKILL"


def test_child_that_ends_early_has_said_nothing(tmp_path: Path) -> None:
    with Child.start("proxy.no_such_module", [], log=tmp_path / "log") as child:
        assert child.next_line() == {}
        assert child.ended() == "ended with exit code 1"
    assert "No module named" in (tmp_path / "log").read_text()


def test_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ProxyLogError, match="file/log: cannot write"):
        Child.start("json", [], log=tmp_path / "file" / "log")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it ends when native code lets Python run again")
def test_child_in_native_code_ends_when_its_parent_is_killed(module: str, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from proxy.demo.child import Child\n"
        "child = Child.start('served', ['native'], log=Path(sys.argv[1]))\n"
        "print(child.next_line()['pid'], flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "log"], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the child ended")
