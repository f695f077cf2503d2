"""`proxy-log docs` finds the documents in the package."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from proxy.cli.docs import documents, find, title
from proxy.cli.main import cli
from proxy.errors import ProxyLogError


@pytest.fixture
def known(tmp_path: Path) -> dict[str, Path]:
    for name in ("tutorial", "how-to/anythingllm", "how-to/docker", "decisions/0001-two-processes"):
        file = tmp_path / f"{name}.md"
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"Before.\n\n# About {name}\n")
    return documents(tmp_path)


def test_documents_are_listed_by_name_those_of_the_folder_first(known: dict[str, Path]) -> None:
    assert list(known) == ["tutorial", "decisions/0001-two-processes", "how-to/anythingllm", "how-to/docker"]
    assert title(known["tutorial"]) == "About tutorial"


@pytest.mark.parametrize("name", ["how-to/docker", "docker", "Docker.md", "dock"])
def test_part_of_a_name_is_enough(known: dict[str, Path], name: str) -> None:
    assert find(name, known) == known["how-to/docker"]


@pytest.mark.parametrize(("name", "message"), [("how-to", "may be how-to/anythingllm, how-to/docker"), ("x", "lists")])
def test_name_that_fits_none_or_several_is_refused(known: dict[str, Path], name: str, message: str) -> None:
    with pytest.raises(ProxyLogError, match=message):
        find(name, known)


def test_shipped_documents_are_shown_as_they_are() -> None:
    listed = CliRunner().invoke(cli, ["docs"])
    assert listed.exit_code == 0
    for name, file in documents().items():
        assert name in listed.stdout
        assert CliRunner().invoke(cli, ["docs", name]).stdout == file.read_text(encoding="utf-8")
