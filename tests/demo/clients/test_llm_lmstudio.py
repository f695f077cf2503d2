"""The command `llm` with the plug-in `llm-lmstudio`, unmodified.

At its start it asks for the models, before each prompt for the one model (its name as it is in the path, with slash and
@), and loads what is not loaded.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.demo.clients.conftest import ODD_MODEL
from tests.demo.clients.stage import Stage

pytestmark = pytest.mark.through_proxy
RunLlm = Callable[..., str]


@pytest.fixture
def run_llm(tmp_path: Path) -> RunLlm:
    """Runs `llm`; gives what it printed."""

    def run(url: str, *arguments: str) -> str:
        settings = {"LMSTUDIO_API_BASE": url, "LLM_USER_PATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_lists_models(stage: Stage, run_llm: RunLlm) -> None:
    def scenario(url: str) -> Any:
        return [line for line in run_llm(url, "models", "list").splitlines() if "lmstudio" in line.lower()]

    assert any(stage.llm in line for line in stage.both_ways(scenario))


def test_prompts_a_model_that_it_loads_first(stage: Stage, run_llm: RunLlm) -> None:
    def scenario(url: str) -> Any:
        return run_llm(
            url, "-m", f"lmstudio/{stage.llm}", "Say hello.", "-o", "temperature", "0", "-o", "max_tokens", "40"
        )

    assert stage.both_ways(scenario).strip()
    asked = [(heard.method, heard.target) for heard in stage.heard()]
    assert ("POST", "/api/v1/models/load") in asked
    assert asked[-1] == ("POST", "/api/v0/chat/completions")
    assert len(stage.look.catalog.instances) == 1, "the chat is answered by the instance that was loaded"


def test_names_a_model_unencoded(scripted_stage: Stage, run_llm: RunLlm) -> None:
    def scenario(url: str) -> Any:
        return run_llm(url, "-m", f"lmstudio/{ODD_MODEL}", "hi")

    assert scripted_stage.both_ways(scenario) == "You said: hi\n"
    heard = {one.target: one for one in scripted_stage.heard()}
    assert heard[f"/api/v0/models/{ODD_MODEL}"].status == 200


def test_asks_for_a_schema(stage: Stage, run_llm: RunLlm) -> None:
    """Over /v1, not streamed."""

    def scenario(url: str) -> Any:
        return run_llm(
            url, "-m", f"lmstudio/{stage.llm}", "Is water wet?", "--schema", "yes bool", "-o", "temperature", "0"
        )

    assert '"yes"' in stage.both_ways(scenario)
    assert stage.heard()[-1].target == "/v1/chat/completions"


def test_calls_a_tool(scripted_stage: Stage, run_llm: RunLlm) -> None:
    """Two rounds in one run."""

    def scenario(url: str) -> Any:
        return run_llm(url, "-m", f"lmstudio/{ODD_MODEL}", "-T", "llm_version", "Please llm_version now.", "--td")

    assert "The tool said:" in scripted_stage.both_ways(scenario)
    assert [one.target for one in scripted_stage.heard()].count("/api/v0/chat/completions") == 2


def test_embeds_a_text(stage: Stage, run_llm: RunLlm) -> None:
    def scenario(url: str) -> Any:
        return run_llm(url, "embed", "-m", stage.embedder, "-c", "hello")

    assert stage.both_ways(scenario).startswith("[")
