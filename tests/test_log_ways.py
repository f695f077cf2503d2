"""By which ways the log is listened to: always through the front, once for each server."""

import json
from pathlib import Path

import pytest

from proxy.config import Config, EngineLogConfig, PromptConfig, UpstreamConfig
from proxy.log_ways import internal_port, is_local, log_sources, log_upstreams

Places = dict[str, tuple[str, str]]
ONE: Places = {"lmstudio": ("http://localhost:1234", "/")}


def config(upstreams: Places, log: EngineLogConfig | None = None, home: Path = Path("/nowhere")) -> Config:
    found = {name: UpstreamConfig(url=url, prefix=prefix) for name, (url, prefix) in upstreams.items()}
    prompt = PromptConfig(lmstudio_home=str(home))
    return Config(upstreams=found, engine_log=log or EngineLogConfig(), prompt=prompt)


@pytest.mark.parametrize(
    ("listening", "front"),
    [
        ("127.0.0.1:8234", "ws://127.0.0.1:8234"),
        ("0.0.0.0:8234", "ws://127.0.0.1:8234"),
        ("[::]:8234", "ws://[::1]:8234"),
        ("[::1]:8234", "ws://[::1]:8234"),
        ("192.168.0.7:80", "ws://192.168.0.7:80"),
    ],
)
def test_front_is_reached_where_it_listens(listening: str, front: str) -> None:
    (source,) = log_sources(config(ONE), [listening], {})
    assert source == {"name": "lmstudio", "url": "http://localhost:1234", "ways": [front]}


def test_several_names_of_one_server_are_listened_to_once() -> None:
    places = {"anna": ("http://127.0.0.1:1234", "/anna"), "other": ("http://localhost:11434", "/other"), **ONE}
    made = config(places)
    sources = log_sources(made, ["127.0.0.1:1"], {})
    assert [(one["name"], one["ways"]) for one in sources] == [
        ("lmstudio", ["ws://127.0.0.1:1"]),
        ("other", ["ws://127.0.0.1:1/other"]),
    ]


def test_nothing_is_listened_to_where_it_is_off() -> None:
    off = config(ONE, EngineLogConfig(enabled=False, internal_url="http://127.0.0.1:5"))
    assert log_upstreams(off) == {}
    assert log_sources(off, ["127.0.0.1:1"], {}) == []


def test_internal_port_is_a_further_way_by_a_prefix_that_nobody_guesses(tmp_path: Path) -> None:
    (tmp_path / ".internal").mkdir()
    (tmp_path / ".internal" / "http-server.json").write_text(json.dumps({"port": 41343}))
    made = config(ONE, home=tmp_path)
    found = log_upstreams(made)
    (name,) = found
    assert (name, found[name].url) == ("lmstudio-log", "http://127.0.0.1:41343")
    assert len(found[name].prefix) == 33
    assert found[name].prefix != log_upstreams(made)[name].prefix
    (source,) = log_sources(made, ["127.0.0.1:1"], found)
    assert source["ways"] == ["ws://127.0.0.1:1", f"ws://127.0.0.1:1{found[name].prefix}"]
    assert log_upstreams(config({"lmstudio": ("http://192.168.0.9:1234", "/")}, home=tmp_path)) == {}
    taken = config({**ONE, "lmstudio-log": ("http://localhost:9", "/x")}, home=tmp_path)
    assert log_upstreams(taken) == {}, "a name of the user's own stays the user's"


@pytest.mark.parametrize("content", [None, "", "[]", "{", '{"port": "1"}', '{"port": 0}', '{"port": 70000}'])
def test_file_that_names_no_port_is_none(tmp_path: Path, content: str | None) -> None:
    folder = tmp_path / ".internal"
    folder.mkdir()
    if content is not None:
        (folder / "http-server.json").write_text(content)
    assert internal_port(tmp_path) is None


@pytest.mark.parametrize(
    ("url", "local"),
    [("http://localhost:1", True), ("http://127.0.0.1", True), ("http://[::1]:1", True), ("http://192.168.0.1", False)],
)
def test_this_machine_is_known_by_name(url: str, local: bool) -> None:
    assert is_local(url) is local


def test_token_is_not_shown() -> None:
    token = "sk-lm-demo0001:abcdefghij0123456789"
    assert token not in repr(Config(engine_log=EngineLogConfig(token=token)))
    with pytest.raises(ValueError, match="no API token") as error:
        EngineLogConfig(token="abcdefghij0123456789")
    assert "abcdefghij" not in str(error.value)
