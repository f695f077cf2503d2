"""What keeps others out, and foreign bytes from becoming more than text."""

import pytest

from proxy.exchange import Side
from tests.cli.recording import Recording
from tests.web.conftest import Served

SCRIPT = "<script>document.title='owned'</script>"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_names_of_this_machine_are_answered(recorded: Recording, site: Served, name: str) -> None:
    recorded.take_in()
    assert site.ask("/", host=f"{name}:{site.server.port}").status == 200


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "localhost:1", "localhost", "127.0.0.1.nip.io:{port}", "x@localhost:{port}"]
)
@pytest.mark.parametrize("target", ["/", "/rows", "/exchanges/1/request", "/static/live.js", "/nope"])
def test_other_names_are_refused_and_told_nothing(recorded: Recording, site: Served, host: str, target: str) -> None:
    recorded.chat()
    recorded.take_in()
    answer = site.ask(target, host=host.format(port=site.server.port))
    assert answer.status == 403
    assert str(recorded.trace) not in answer.text


def test_any_name_is_answered_when_every_network_may_come(recorded: Recording) -> None:
    recorded.take_in()
    with Served(recorded.trace, host="0.0.0.0") as site:
        assert site.ask("/", host="logs.example").status == 200


@pytest.mark.parametrize(
    "target", ["/", "/rows", "/exchanges/1", "/exchanges/1/response", "/docs", "/health", "/static/live.js", "/x"]
)
def test_every_answer_carries_the_protecting_fields(recorded: Recording, site: Served, target: str) -> None:
    recorded.chat()
    recorded.take_in()
    headers = site.ask(target, Origin="http://evil.example").headers
    assert "default-src 'none'; script-src 'self';" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
@pytest.mark.parametrize("target", ["/", "/exchanges/1", "/health"])
def test_only_reading_is_allowed(recorded: Recording, site: Served, method: str, target: str) -> None:
    recorded.chat()
    recorded.take_in()
    answer = site.ask(target, method)
    assert (answer.status, answer.headers["allow"]) == (405, "GET,HEAD")
    head = site.ask(target, "HEAD")
    assert (head.status, head.body) == (200, b"")


def record_scripts(recorded: Recording) -> int:
    """An exchange with a script in every place that a client or a server can write to."""
    script = SCRIPT.encode()
    exchange = recorded.open(b"GET /%s?\"'><x HTTP/1.1\r\nX-%s: %s\r\n" % (script, script, script))
    recorded.data(exchange, Side.CLIENT, b'{"model":"%s","text":"</pre>%s"}' % (script, script))
    recorded.respond(exchange, b"HTTP/1.1 200 %s\r\nContent-Type: text/event-stream\r\nY: %s\r\n" % (script, script))
    event = b'data: {"choices":[{"delta":{"content":"%s"}}]}\n\n' % script
    recorded.data(exchange, Side.UPSTREAM, event, script, event, b"\xff\x00", event, every_ms=1)
    recorded.close(exchange, error=SCRIPT)
    recorded.take_in()
    return exchange


def test_scripts_in_the_traffic_are_text(recorded: Recording, site: Served) -> None:
    exchange = record_scripts(recorded)
    for target in ("/", "/rows", f"/exchanges/{exchange}", f"/?model={SCRIPT}&path={SCRIPT}%22%3E&before=99"):
        text = site.ask(target.replace(" ", "%20")).text
        assert "<script>document" not in text
        assert '"><x' not in text
    page = site.ask(f"/exchanges/{exchange}").text
    assert page.count("&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;") >= 10


def test_characters_that_steer_the_reader_are_made_visible(recorded: Recording, site: Served) -> None:
    exchange = recorded.chat(answer="plain \u202edesrever\u0007".encode() + b'"\\ud800"')
    recorded.take_in()
    page = site.ask(f"/exchanges/{exchange}").text
    assert "\u202e" not in page
    assert "plain \ufffddesrever\u2407" in page
