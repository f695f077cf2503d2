"""The settings: where they come from, which one wins, and what a mistake is told."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.config import Address, Config, parse_address, settings
from proxy.config_sources import load
from proxy.errors import ConfigError

SAMPLE = Path(__file__).parent.parent / "config.toml"


@pytest.fixture(autouse=True)
def _no_own_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def _file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "my.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_sample_file_equals_the_defaults() -> None:
    assert load(SAMPLE, {}) == Config() == load(None, {})


def test_sample_file_mentions_every_setting_and_no_other() -> None:
    def leaves(tree: dict[str, object], prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, value in tree.items():
            found |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name}
        return found

    sample = leaves(tomllib.loads(SAMPLE.read_text(encoding="utf-8")))
    assert sample == {name.replace("NAME", "lmstudio") for name in settings()}


def test_flag_wins_over_environment_over_file(tmp_path: Path) -> None:
    file = _file(tmp_path, 'listen = "localhost:1"\nweb = "localhost:2"\ndrain_s = 3\n')
    config = load(
        file,
        {"PROXY_LOG_LISTEN": "localhost:4", "PROXY_LOG_WEB": "localhost:5"},
        {"listen": "localhost:6", "web": None},
    )
    assert (config.listen, config.web, config.drain_s) == ("localhost:6", "localhost:5", 3.0)


def test_environment_names_the_file(tmp_path: Path) -> None:
    file = _file(tmp_path, "drain_s = 3")
    assert load(None, {"PROXY_LOG_CONFIG": str(file)}).drain_s == 3.0


def test_own_file_is_found_in_the_config_folder(tmp_path: Path) -> None:
    own = tmp_path / "config" / "proxy-log" / "config.toml"
    own.parent.mkdir(parents=True)
    own.write_text("drain_s = 3", encoding="utf-8")
    assert load(None, {}).drain_s == 3.0


@pytest.mark.parametrize("value", ['["http://a:1", "http://b"]', "http://a:1, http://b"])
def test_environment_gives_lists_as_json_or_with_commas(value: str) -> None:
    assert load(None, {"PROXY_LOG_CORS__ALLOW_ORIGINS": value}).cors.allow_origins == ("http://a:1", "http://b")


def test_environment_reaches_nested_settings() -> None:
    config = load(None, {"PROXY_LOG_CORS__ENABLED": "false", "PROXY_LOG_RECORD__BATCH_MS": "2.5", "HOME": "/"})
    assert (config.cors.enabled, config.record.batch_ms) == (False, 2.5)


def test_upstream_flag_replaces_the_url_of_the_default_upstream(tmp_path: Path) -> None:
    file = _file(
        tmp_path, '[upstreams.llama]\nurl = "http://a:1"\n[upstreams.far]\nurl = "https://b"\nprefix = "/far/"\n'
    )
    config = load(file, {"PROXY_LOG_UPSTREAM": "http://c:3"}, {"upstream": "http://d:4/base/"})
    assert config.default_upstream == "llama"
    assert config.upstreams["llama"].url == "http://d:4/base"
    assert config.upstreams["far"].prefix == "/far"
    assert load(None, {}, {"upstream": "http://d:4"}).upstreams["lmstudio"].url == "http://d:4"


def test_further_upstream_leaves_the_default_in_place(tmp_path: Path) -> None:
    config = load(_file(tmp_path, '[upstreams.far]\nurl = "https://b"\nprefix = "/far"\n'), {})
    assert {name: each.prefix for name, each in config.upstreams.items()} == {"lmstudio": "/", "far": "/far"}


def test_trace_in_a_file_counts_from_the_files_folder(tmp_path: Path) -> None:
    config = load(_file(tmp_path, 'trace = "deep/t.db"'), {})
    assert config.trace_path == tmp_path / "deep" / "t.db"
    assert load(None, {}, {"trace": "t.db"}).trace_path == Path.cwd() / "t.db"
    assert load(None, {}).trace_path.is_absolute()


def test_addresses_are_read() -> None:
    assert parse_address("[::]:80") == Address("::", 80)
    assert load(None, {}, {"web": "localhost:8235"}).web_address == Address("localhost", 8235)
    assert load(None, {}).web_address is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cors.alow_origins = []", "cors.alow_origins is not a setting; did you mean cors.allow_origins?"),
        ("allow_origins = []", "allow_origins is not a setting; did you mean cors.allow_origins?"),
        ("colour = 1", "colour is not a setting; config.toml of the project lists them all"),
        ('upstreams.a.uri = "http://a"', "upstreams.a.url is missing"),
        ('upstreams.lmstudio = { url = "http://a", prefx = "/" }', "did you mean upstreams.lmstudio.prefix?"),
        ("listen = 8234", "listen: Input should be a valid string"),
        ('listen = "8234"', "listen: '8234' is not HOST:PORT; write for example localhost:8234"),
        ('listen = "::1:80"', "is not HOST:PORT"),
        ('listen = "localhost:70000"', "is not HOST:PORT"),
        ('web = "on"', "web: 'on' is not HOST:PORT"),
        ('upstreams.a.url = "localhost:1234"', "does not begin with http:// or https://"),
        ('upstreams.a.url = "ftp://localhost"', "does not begin with http:// or https://"),
        ('upstreams.a.url = "http://"', "names no host"),
        ('upstreams.a.url = "http://a:99999"', "is not a URL"),
        ('upstreams.a.url = "http://me:pass@a"', "a user name or password does not belong"),
        ('upstreams.a.url = "http://a/?b=c"', "has a query or a fragment"),
        ('upstreams.a = { url = "http://a", prefix = "a" }', "upstreams.a.prefix: 'a' is not a path"),
        (
            'upstreams.a = { url = "http://a", prefix = "/a" }\nupstreams.b = { url = "http://b", prefix = "/a/" }',
            "upstreams.b and upstreams.a have the same prefix '/a'",
        ),
        ('upstreams.lmstudio = { url = "http://a", prefix = "/a" }', 'no upstream has the prefix "/"'),
        ('cors.allow_origins = ["http://a/"]', "'http://a/' is not an origin"),
        ("cors = 3", "cors is a table; write [cors] and its settings below"),
        ("forward.connect_timeout_s = 0", "forward.connect_timeout_s: Input should be greater than 0"),
        ("record.memory_bytes = -1", "record.memory_bytes: Input should be greater than 0"),
        ('mask.headers = ["a b"]', "'a b' is not the name of a header field"),
        ('mask.body_fields = ["*"]', "'*' is not a path into JSON"),
        ('mask.body_fields = ["a..b"]', "'a..b' is not a path into JSON"),
        ('log_level = "loud"', "log_level: Input should be 'debug', 'info', 'warning' or 'error'"),
        ("listen = ", "cannot be read as TOML: Invalid value (at end of document)"),
    ],
)
def test_mistake_in_the_file_is_told_in_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    file = _file(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load(file, {})
    assert str(raised.value).startswith(f"{file}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("environ", "flags", "message"),
    [
        ({"PROXY_LOG_LISTEN": "x"}, {}, "PROXY_LOG_LISTEN: listen: 'x' is not HOST:PORT"),
        (
            {"PROXY_LOG_UPSTREM": "x"},
            {},
            "PROXY_LOG_UPSTREM: upstrem is not a setting; did you mean PROXY_LOG_UPSTREAM?",
        ),
        ({"PROXY_LOG_CORS__ORIGINS": "x"}, {}, "did you mean PROXY_LOG_CORS__ALLOW_ORIGINS?"),
        ({"PROXY_LOG_UPSTREAM": "x"}, {}, "PROXY_LOG_UPSTREAM: upstreams.lmstudio.url: 'x' does not begin"),
        ({"PROXY_LOG_MASK__HEADERS": "[1"}, {}, "not a list in JSON"),
        ({"PROXY_LOG_UPSTREAM": "x"}, {"upstream": "y"}, "--upstream: upstreams.lmstudio.url: 'y'"),
        ({"PROXY_LOG_CONFIG": "/nowhere.toml"}, {}, "/nowhere.toml: there is no such configuration file"),
    ],
)
def test_mistake_elsewhere_names_the_variable_or_flag(
    environ: dict[str, str], flags: dict[str, str | None], message: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load(None, environ, flags)
    assert message in str(raised.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().listen = "localhost:1"


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_address(text)
    except ValueError:
        return
    assert parse_address(str(address)) == address
