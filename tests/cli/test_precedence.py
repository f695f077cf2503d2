"""`proxy-log precedence`, through a running proxy: before the lookalike with the real model, and before llama.cpp."""

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from proxy.demo.llama_process import LlamaProcess
from proxy.demo.lookalike_process import LookalikeProcess, Settings
from proxy.demo.model import SMOLLM2
from proxy.precedence import experiments
from tests.conftest import running
from tests.llama import llama_server, smollm2
from tests.proxy_process import ProxyProcess

__all__ = ["llama_server", "smollm2"]

P = "llm.prediction."
DEFAULTS = {
    P + "temperature": 0.9,
    P + "maxPredictedTokens": {"checked": True, "value": 12},
    P + "stopStrings": ["zzz"],
}
Found = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(params=[True, False], ids=["request wins", "default wins"])
def before_lookalike(
    request: pytest.FixtureRequest, smollm2: Path, tmp_path: Path
) -> Iterator[tuple[ProxyProcess, bool]]:
    """A proxy before a lookalike whose requests win, or lose against the model's defaults."""
    wins: bool = request.param
    settings = Settings(
        model_file=str(smollm2),
        model=SMOLLM2.name,
        port=0,
        defaults=DEFAULTS,
        switches={"request_overrides_model": "on" if wins else "off"},
    )
    with (
        LookalikeProcess.start(settings, log=tmp_path / "log") as look,
        running(tmp_path / "proxy", look.ready.url, {"engine_log": {"enabled": True}}) as proxy,
    ):
        yield proxy, wins


def ask(proxy: ProxyProcess, *arguments: str, may_fail: bool = False) -> CompletedProcess[bytes]:
    """Run the command through that proxy."""
    return proxy.run("precedence", "--through", proxy.url, *arguments, may_fail=may_fail)


def found(proxy: ProxyProcess, *settings: str, model: str = SMOLLM2.name) -> Found:
    """The table, by setting and surface."""
    chosen = [word for name in settings for word in ("--setting", name)]
    done = ask(proxy, "--model", model, "--json", *chosen)
    return {(row["setting"], row["surface"]): row for row in json.loads(done.stdout)}


def test_who_wins_is_found_out_over_http_and_told_over_the_sdk(before_lookalike: tuple[ProxyProcess, bool]) -> None:
    proxy, wins = before_lookalike
    table = found(proxy, "temperature", "max_tokens", "stop", "top_k")
    http = {name: row["won"] for (name, surface), row in table.items() if surface == "openai_chat"}
    for name in ("temperature", "max_tokens", "stop"):
        # The default is known if it was asked for by then.
        assert http[name] in ({"request"} if wins else {"server", "model default"}), table
    assert http["top_k"] == "request", "no default is set for it"
    sdk = {name: row["won"] for (name, surface), row in table.items() if surface == "lmstudio_sdk"}
    assert sdk == dict.fromkeys(("temperature", "max_tokens", "stop", "top_k"), "request"), table
    assert table["temperature", "lmstudio_sdk"]["in_force"] == [0, 1.9]
    # Left out, the model's default is in force.
    assert table["temperature", "lmstudio_sdk"]["left_out_in_force"] == DEFAULTS[P + "temperature"]
    assert table["temperature", "openai_chat"]["left_out_exchange_id"] is not None
    assert table["max_tokens", "openai_chat"]["left_out_exchange_id"] is None, "an answer might have no end"
    # Whether a system message gets into the prompt is seen there.
    system = found(proxy, "system_prompt")
    row = system["system_prompt", "openai_chat"]
    assert (row["won"], row["evidence"]) == ("request", "each rendered prompt has the system message of its request")
    assert row["request"] == ["Be brief.", "Be kind."]
    assert len(row["call_ids"]) == 4
    assert row["left_out_exchange_id"] not in row["exchange_ids"]
    assert system["system_prompt", "lmstudio_sdk"]["in_force"] == ["Be brief.", "Be kind."]
    # Later calls have it as measured.
    how = proxy.query(
        "SELECT how, won, value FROM call_settings WHERE name = 'temperature' AND call_id ="
        " (SELECT min(id) FROM calls WHERE tag = 'precedence:temperature')"
    )
    assert how[0]["how"].startswith("measured by proxy-log precedence on 20")
    in_force = [("request", 0)] if wins else [("server", None), ("model default", DEFAULTS[P + "temperature"])]
    assert (how[0]["won"], how[0]["value"]) in in_force


def test_llama_cpp_follows_its_requests_and_the_table_is_readable(llama_server: LlamaProcess, tmp_path: Path) -> None:
    with running(tmp_path, llama_server.url, {"prompt": {"ask": True}}) as proxy:
        table = found(proxy, "temperature", "seed", "max_tokens", "stop", "system_prompt", model=llama_server.model)
        assert {row["won"] for row in table.values()} == {"request"}, table
        assert {surface for _, surface in table} == {"openai_chat"}
        text = ask(proxy, "--model", llama_server.model, "--setting", "max_tokens").stdout.decode()
        assert text.splitlines()[0].split() == ["setting", "surface", "default", "request", "in", "force", "won"]
        assert "4 | 9" in text
        assert "exchanges" in text


def test_what_cannot_be_asked_is_told(tmp_path: Path) -> None:
    settings = Settings(port=0)
    with (
        LookalikeProcess.start(settings, log=tmp_path / "log") as look,
        running(tmp_path / "proxy", look.ready.url) as proxy,
    ):
        nobody = ask(proxy, "--model", "nobody", may_fail=True)
        assert nobody.returncode == 1
        assert b"does not answer for the model 'nobody'" in nobody.stderr
    gone = ask(proxy, "--model", "m", may_fail=True)
    assert gone.returncode == 1
    assert b"is proxy-log serve running there?" in gone.stderr


def test_an_engine_whose_answers_never_change_settles_nothing(tmp_path: Path) -> None:
    """The scripted one: it samples nothing."""
    settings = Settings(port=0)
    with (
        LookalikeProcess.start(settings, log=tmp_path / "log") as look,
        running(tmp_path / "proxy", look.ready.url) as proxy,
    ):
        table = found(proxy, "temperature", "top_k", model=look.ready.model)
        assert table["temperature", "openai_chat"]["won"] == "unknown"
        unseen = found(proxy, "system_prompt", model=look.ready.model)["system_prompt", "openai_chat"]
        assert (unseen["won"], unseen["evidence"].partition(":")[0]) == ("unknown", "no rendered prompt is known")
        assert table["temperature", "lmstudio_sdk"]["won"] == "request"


def test_stop_strings_are_taken_from_the_answer() -> None:
    (one,) = experiments(["stop"], "The fox met the crow, and the crow sang.")
    assert one.values == (["fox"], ["the"])
    assert experiments(["stop"], "No.") == []
