"""A real model for tests: llama.cpp's server with the demo's model, as fixtures.

The model's file is shared with the user's demo: it lies in the cache folder (`PROXY_LOG_CACHE` names another one) and
is downloaded once.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from proxy.demo.llama_process import LlamaProcess
from proxy.demo.model import SMOLLM2, cache_folder, fetch_model


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The file of SmolLM2-135M-Instruct."""
    return fetch_model(Path(os.environ.get("PROXY_LOG_CACHE") or cache_folder()), Console(quiet=True))


@pytest.fixture(scope="session")
def llama_server(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaProcess]:
    """One model server for all tests; its `url` is the upstream's, its `model` what requests name."""
    log = tmp_path_factory.mktemp("llama") / "engine.log"
    with LlamaProcess.start(smollm2, model=SMOLLM2.name, log=log) as engine:
        yield engine
