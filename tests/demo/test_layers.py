"""Which layer wins: defaults of all models and of one, the server's tab, presets, the request; and from the command."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import pytest

from proxy.cli.demo_layers import read_defaults, read_presets
from proxy.demo.scripted_engine import ScriptedEngine
from tests.demo.lookalikes import post, running

LLM, VLM = "scripted-7b-instruct", "scripted-vl-2b"
KEY = "llm.prediction.temperature"
ALL, OWN = {KEY: 0.1}, {LLM: {KEY: 0.2}}


def temperatures(
    *bodies: dict[str, Any], session: float | None = None, options: dict[str, Any] | None = None
) -> list[float]:
    """What the model is told for each request."""

    async def main() -> list[float]:
        engine = ScriptedEngine()
        async with running(engine, presets={"mine": {KEY: 0.4}}, **(options or {})) as server:
            if session is not None:
                server.look.server_session = {KEY: session}
            for body in bodies:
                asked = {"model": LLM, "messages": [{"role": "user", "content": "hi"}], **body}
                assert (await post(server, "/v1/chat/completions", asked)).status == 200
        return [call.sampling.temperature for call in engine.calls]

    return asyncio.run(main())


def test_a_models_own_default_lies_above_that_of_all_models() -> None:
    options = {"model_defaults": ALL, "own_defaults": OWN}
    assert temperatures({}, {"model": VLM}, options=options) == [0.2, 0.1]


def test_request_lies_above_preset_above_tab_above_defaults() -> None:
    bodies: tuple[dict[str, Any], ...] = ({}, {"preset": "mine"}, {"preset": "mine", "temperature": 0.5})
    assert temperatures(*bodies, session=0.3, options={"model_defaults": ALL}) == [0.3, 0.4, 0.5]


def test_defaults_that_win_over_the_request_win_over_nothing_else() -> None:
    bodies = ({"temperature": 0.5}, {"preset": "mine", "temperature": 0.5})
    off: dict[str, Any] = {"request_overrides_model": False}
    assert temperatures(*bodies, options={**off, "model_defaults": ALL}) == [0.1, 0.4]
    assert temperatures(*bodies, session=0.3, options={**off, "own_defaults": OWN}) == [0.3, 0.4]
    assert temperatures(*bodies, options=off) == [0.5, 0.5]  # there is no default


@pytest.mark.parametrize(("value", "status"), [("ignored", 200), ("refused", 400)])
def test_unknown_preset_over_http(value: str, status: int) -> None:
    async def main() -> None:
        async with running(unknown_preset=value) as server:
            for path, more in (("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),):
                got = await post(server, path, {"model": LLM, "preset": "nope", **more})
                assert got.status == status
                assert status == 200 or "nope" in got.json["error"]

    asyncio.run(main())


def test_defaults_of_the_command_are_those_of_all_models_or_of_one() -> None:
    found = read_defaults(["temperature=0.1", f"{LLM}:temperature=0.2"])
    assert found == {"": ALL, **OWN}
    with pytest.raises(click.BadParameter, match="there is no parameter 'heat'"):
        read_defaults([f"{LLM}:heat=1"])


def test_presets_of_the_command_are_files_of_parameters_or_lm_studios_own(tmp_path: Path) -> None:
    plain, stored, bad = (tmp_path / name for name in ("plain.json", "stored.json", "bad.json"))
    plain.write_text(json.dumps({"temperature": 0.4}))
    stored.write_text(json.dumps({"name": "x", "operation": {"fields": [{"key": KEY, "value": 0.6}]}}))
    bad.write_text("[]")
    assert read_presets([f"a={plain}", f"b={stored}"]) == {"a": {KEY: 0.4}, "b": {KEY: 0.6}}
    for file, words in ((bad, "not a preset"), (tmp_path / "none.json", "cannot read the preset")):
        with pytest.raises(click.BadParameter, match=words):
            read_presets([f"a={file}"])
