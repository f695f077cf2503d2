"""Clients for Node, unmodified: `openai`, the version of it that AnythingLLM pins, and `@lmstudio/sdk`.

The scripts beside this file play a scenario and print what they saw.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.demo.clients.stage import Stage

pytestmark = pytest.mark.through_proxy

SCRIPTS = Path(__file__).parent / "node"
_UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH")
RunNode = Callable[[str, Stage], Callable[[str], Any]]


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts, with what `package.json` names installed beside them."""
    npm = shutil.which("npm")
    if not npm or not shutil.which("node"):
        pytest.skip("Node and npm are not on this machine: the clients for Node are not tested")
    folder = tmp_path_factory.mktemp("node") / "clients"
    shutil.copytree(SCRIPTS, folder)
    install = [npm, "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode and any(code in done.stderr for code in _UNREACHABLE):
        pytest.skip(f"npm cannot reach its registry: the clients for Node are not tested: {done.stderr[-300:]}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run_node(node_folder: Path) -> RunNode:
    """Makes a scenario of a script."""

    def scenario_of(script: str, stage: Stage) -> Callable[[str], Any]:
        settings = json.dumps({"llm": stage.llm, "embedder": stage.embedder, "cancels": stage.is_real})

        def scenario(url: str) -> Any:
            done = subprocess.run(
                ["node", script, url, settings],
                cwd=node_folder,
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        return scenario

    return scenario_of


def test_openai(stage: Stage, run_node: RunNode) -> None:
    seen = stage.both_ways(run_node("openai_sdk.mjs", stage))
    assert {stage.llm, stage.embedder} <= {model["id"] for model in seen["models"]}
    message = seen["chat"]["choices"][0]["message"]
    assert message["content"] == "".join(
        one["delta"].get("content", "") for chunk in seen["stream"] for one in chunk["choices"]
    )
    assert seen["stream"][-1]["usage"] == seen["chat"]["usage"]
    assert seen["completion"]["choices"][0]["text"]
    assert len(seen["embeddings"]) == 2
    first, events = seen["responses"]
    assert events[-1]["response"]["previous_response_id"] == first["id"]
    assert (seen["refusal"]["name"], seen["refusal"]["status"]) == ("NotFoundError", 404)


def test_anythingllm(stage: Stage, run_node: RunNode) -> None:
    """Every chat of it ends a few bytes early: for the proxy that is no error, and the trace lacks nothing."""
    seen = stage.both_ways(run_node("anythingllm.mjs", stage))
    assert stage.llm in dict(seen["limits"])
    assert stage.llm in [model["id"] for model in seen["dropdown"]]
    assert len(seen["capabilities"]) == 1
    assert all(chat["text"] and chat["finish"] in ("stop", "length") for chat in seen["chats"])
    assert all(isinstance(number, float) for number in seen["embedding"]["data"][0]["embedding"])
    chats = [heard for heard in stage.heard() if heard.target == "/v1/chat/completions"]
    assert len(chats) == 4
    assert all(heard.request.startswith(b'{\n  "model": ') for heard in chats), "it sends pretty JSON"


def test_lmstudio_sdk(stage: Stage, run_node: RunNode) -> None:
    seen = stage.both_ways(run_node("lmstudio_sdk.mjs", stage))
    assert seen["version"]["version"] == stage.look.behaviour.version
    assert {stage.llm, stage.embedder} <= {model["modelKey"] for model in seen["downloaded"]}
    assert seen["loaded"] == [stage.llm]
    assert "".join(one["content"] for one in seen["fragments"]) == seen["content"]
    assert seen["stats"]["stopReason"] in ("eosFound", "maxPredictedTokensReached")
    assert "yes" in json.loads(seen["structured"])
    assert len(seen["tokens"]) == seen["count"]
    assert "User message 1" in seen["prompt"]
    assert seen["embedding"]
    assert seen["stopped"] == ("userStopped" if stage.is_real else False)
    assert "no-such-model" in seen["refusal"]


def test_roo_code(stage: Stage, run_node: RunNode) -> None:
    """HTTP and the SDK's sockets at one address."""
    seen = stage.both_ways(run_node("roo.mjs", stage))
    assert stage.llm in [model["id"] for model in seen["listed"]]
    assert stage.llm in [model["modelKey"] for model in seen["downloaded"]]
    assert seen["before"] == 0
    assert [model["identifier"] for model in seen["loaded"]] == [stage.llm]
    assert all(not chunk.get("usage") for chunk in seen["chunks"]), "it did not ask for it"
    heard = {(one.target, one.status) for one in stage.heard()}
    assert {("/v1/models", 200), ("/system", 101), ("/llm", 101), ("/v1/chat/completions", 200)} <= heard
