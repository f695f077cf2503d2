"""Two demos at once log beside each other; old logs go."""

import os
from pathlib import Path

from proxy.demo.log_files import log_file


def test_log_is_this_processs_own_and_old_ones_are_taken_away(tmp_path: Path) -> None:
    old, young, other = (tmp_path / name for name in ("llama-7-1.log", "lookalike-8.log", "model.gguf"))
    for file in (old, young, other):
        file.write_text("x")
    for file in (old, other):
        os.utime(file, (1e9, 1e9))
    assert log_file(tmp_path, "lookalike") == tmp_path / f"lookalike-{os.getpid()}.log"
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
