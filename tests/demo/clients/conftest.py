"""Two stages for every client: a scripted engine, whose times are virtual, and a real llama.cpp at temperature 0."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.model import SMOLLM2
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.scripted_models import SCRIPTED_MODELS
from tests.demo.clients.stage import Stage, staged

ODD_MODEL = "scripted/odd-7b@q8_0"
"""As LM Studio names a model of which several quantisations are there: with a slash and an @."""


@pytest.fixture(scope="session")
def scripted_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Says what the prompt makes it say: see `default_script`."""
    odd = dataclasses.replace(SCRIPTED_MODELS[0], key=ODD_MODEL, path="scripted/odd/odd-7b-Q8_0.gguf", reasoning=False)
    engine = ScriptedEngine((*SCRIPTED_MODELS, odd))
    llm, _, embedder = SCRIPTED_MODELS
    folder = tmp_path_factory.mktemp("scripted-clients")
    with staged(engine, folder, llm=llm.key, embedder=embedder.key, is_real=False) as stage:
        yield stage


@pytest.fixture(scope="session")
def llama_stage(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A real model."""
    folder = tmp_path_factory.mktemp("llama-clients")
    engine = LlamaEngine([smollm2], [SMOLLM2.name], log_folder=folder)
    embedder = f"text-embedding-{SMOLLM2.name}"
    with staged(engine, folder, llm=SMOLLM2.name, embedder=embedder, is_real=True) as stage:
        yield stage


@pytest.fixture(params=["scripted", "llama"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Each in turn."""
    chosen: Stage = request.getfixturevalue(f"{request.param}_stage")
    return chosen
