"""Where processes of the demo log: in the cache folder, each with its own file, for several may run at once."""

import contextlib
import os
import time
from pathlib import Path

_KEPT_S = 7 * 24 * 3600.0
_NAMES = ("lookalike-*.log", "llama-*.log")


def log_file(folder: Path, name: str) -> Path:
    """A log of this process: `NAME-PID.log`. Takes away those that nobody has written to for a week."""
    for pattern in _NAMES:
        for old in folder.glob(pattern):
            with contextlib.suppress(OSError):  # somebody else was faster, or it is open and the system minds
                if time.time() - old.stat().st_mtime > _KEPT_S:
                    old.unlink()
    return folder / f"{name}-{os.getpid()}.log"
