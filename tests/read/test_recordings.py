"""Every recorded case reads as the file beside it says; `pytest --update-readings` writes those files anew."""

import json
from pathlib import Path

import pytest

from proxy.read.registry import BUILT_IN, Registry
from tests.recordings.cases import FOLDER, READING, as_stored, case_files, load, reading_file, save

FILES = case_files()


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.stem}" for path in FILES])
def test_a_case_reads_as_it_is_known_to(path: Path, request: pytest.FixtureRequest) -> None:
    case = load(path)
    registry = Registry(BUILT_IN)
    assert case.reader(registry).name == path.parent.name
    read = as_stored(case.read(registry))
    if request.config.getoption("--update-readings"):
        reading_file(path).write_text(read, encoding="utf-8")
    # Compared as data first: pytest shows where they differ.
    assert json.loads(read) == json.loads(reading_file(path).read_text(encoding="utf-8"))
    assert read == reading_file(path).read_text(encoding="utf-8")


def test_every_reader_has_cases() -> None:
    assert {path.parent.name for path in FILES} == {reader.name for reader in BUILT_IN}


def test_no_reading_stands_without_its_case() -> None:
    assert {reading_file(path) for path in FILES} == set(FOLDER.glob(f"*/*{READING}"))


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.stem}" for path in FILES])
def test_a_case_is_saved_as_it_was_loaded(path: Path, tmp_path: Path) -> None:
    again = tmp_path / path.name
    save(again, load(path))
    assert again.read_bytes() == path.read_bytes()


def test_no_case_holds_a_secret_or_a_path_of_the_machine_it_was_made_on() -> None:
    for path in FILES:
        case = load(path)
        assert "/home/" not in (text := path.read_text(encoding="utf-8")), path
        assert f"{Path.home()}/" not in text, path
        assert "/tmp/" not in text, path
        secrets = [value for name, value in case.head.fields if name.lower() in ("authorization", "x-api-key")]
        assert all("[masked:" in value for value in secrets), (path, secrets)
        assert text.count("clientPasskey") == text.count("[masked:") or not case.head.is_websocket, path
