"""A trace with traffic that can be read."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.store.traffic import Traffic, traffic


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Traffic]:
    """No traffic yet."""
    with traffic(tmp_path / "t.db") as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """One trace for all examples of the properties in a file."""
    with traffic(tmp_path_factory.mktemp("shared") / "t.db") as opened:
        yield opened
