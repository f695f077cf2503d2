"""What `proxy-log serve` prints when it is up."""

from pathlib import Path

import pytest

from proxy.cli.serve import client_url, greeting
from proxy.config_sources import load
from proxy.service import Ready


def _greeting(listen: str, listening: tuple[str, ...], upstream: str = "http://localhost:1234", **ready: object) -> str:
    config = load(None, {}, {"listen": listen, "upstream": upstream})
    unreachable = ("lmstudio",) if ready.get("is_down") else ()
    return greeting(config, Ready(listening, Path("/data/trace.db"), {"lmstudio": upstream}, unreachable))


@pytest.mark.parametrize(
    ("listen", "listening", "url"),
    [
        ("localhost:8234", "127.0.0.1:8234", "http://localhost:8234"),
        ("localhost:0", "127.0.0.1:4711", "http://localhost:4711"),
        ("0.0.0.0:8234", "0.0.0.0:8234", "http://localhost:8234"),
        ("[::]:8234", "[::]:8234", "http://localhost:8234"),
        ("[::1]:0", "[::1]:4711", "http://[::1]:4711"),
        ("192.168.0.7:80", "192.168.0.7:80", "http://192.168.0.7:80"),
    ],
)
def test_clients_are_told_what_they_can_reach(listen: str, listening: str, url: str) -> None:
    assert client_url(listen, listening) == url


def test_greeting_names_addresses_trace_and_what_to_point_at_it() -> None:
    text = _greeting("localhost:8234", ("127.0.0.1:8234", "[::1]:8234"))
    assert "http://127.0.0.1:8234\n" in text
    assert "http://[::1]:8234\n" in text
    assert "lmstudio, http://localhost:1234\n" in text
    assert "/data/trace.db\n" in text
    assert "AnythingLLM    provider LM Studio, base URL http://localhost:8234/v1\n" in text
    assert "export OPENAI_BASE_URL=http://localhost:8234/v1 " in text
    assert "ws://localhost:8234\n" in text
    assert "does not answer" not in text
    assert "docker" not in text


def test_greeting_says_that_the_upstream_does_not_answer() -> None:
    assert "does not answer yet" in _greeting("localhost:8234", ("127.0.0.1:8234",), is_down=True)


def test_greeting_names_the_way_from_docker_when_every_network_may_come() -> None:
    assert "http://host.docker.internal:8234/v1" in _greeting("0.0.0.0:8234", ("0.0.0.0:8234",))


def test_greeting_warns_of_v1_in_the_upstreams_url() -> None:
    text = _greeting("localhost:8234", ("127.0.0.1:8234",), "http://localhost:1234/v1")
    assert "http://localhost:8234/v1 will ask http://localhost:1234/v1/v1" in text
