"""Sessions: by a client's own word, by the path prefix it uses, or else by client and time."""

from proxy.indexer import IndexSettings
from proxy.store.sessions import IDLE_US
from tests.store.traffic import Traffic, as_json, chat_answer, turns

BY_NAME = "SELECT name, origin, calls FROM sessions ORDER BY id"


def asked(made: Traffic, *fields: str, client: str = "10.0.0.1:5000", upstream: str = "lmstudio") -> int:
    body = as_json({"model": "m", "messages": turns("hi")})
    answer = as_json(chat_answer("Hello"))
    return made.exchange("/v1/chat/completions", body, answer, *fields, client=client, upstream=upstream)


def sessions(made: Traffic, *exchanges: int) -> list[int]:
    return [made.call(exchange)["session_id"] for exchange in exchanges]


def test_a_client_names_its_session_and_tags_its_calls(made: Traffic) -> None:
    one = asked(made, "X-Proxy-Log-Session: homework", "x-proxy-log-tag: first try")
    other = asked(made, "x-PROXY-log-session: homework", client="10.0.0.2:6000")
    made.read()
    assert made.rows(BY_NAME) == [("homework", "header", 2)]
    assert sessions(made, one, other) == [1, 1]
    assert [made.call(exchange)["tag"] for exchange in (one, other)] == ["first try", None]
    assert made.call(one)["session"] == "homework"


def test_a_path_prefix_has_a_session_of_its_own(made: Traffic) -> None:
    made.restart(IndexSettings(encoding="off", prefix_sessions={"course": "the course"}))
    by_prefix = asked(made, upstream="course")
    by_header = asked(made, "X-Proxy-Log-Session: mine", upstream="course")
    plain = asked(made)
    made.read()
    assert made.rows(BY_NAME) == [("the course", "prefix", 1), ("mine", "header", 1), ("10.0.0.1", "client", 1)]
    assert len(set(sessions(made, by_prefix, by_header, plain))) == 3


def test_clients_are_told_by_address_and_program(made: Traffic) -> None:
    curl = asked(made, "User-Agent: curl/8")
    same = asked(made, "User-Agent: curl/8", client="10.0.0.1:5001")
    python = asked(made, "User-Agent: OpenAI/Python")
    other = asked(made, "User-Agent: curl/8", client="10.0.0.2:5000")
    made.read()
    assert made.rows(BY_NAME) == [
        ("10.0.0.1 curl/8", "client", 2),
        ("10.0.0.1 OpenAI/Python", "client", 1),
        ("10.0.0.2 curl/8", "client", 1),
    ]
    assert sessions(made, curl, same, python, other) == [1, 1, 2, 3]


def test_after_a_pause_a_client_begins_a_new_session(made: Traffic) -> None:
    first = asked(made)
    made.recording.at_ms += IDLE_US / 1000 - 10_000
    second = asked(made)
    made.recording.at_ms += IDLE_US / 1000 + 10_000
    third = asked(made)
    fourth = asked(made)
    made.read()
    assert sessions(made, first, second, third, fourth) == [1, 1, 2, 2]


def test_a_pause_does_not_end_a_named_session(made: Traffic) -> None:
    first = asked(made, "X-Proxy-Log-Session: mine")
    made.recording.at_ms += IDLE_US / 1000 * 50
    second = asked(made, "X-Proxy-Log-Session: mine")
    made.read()
    assert sessions(made, first, second) == [1, 1]


def test_a_session_goes_on_after_a_restart(made: Traffic) -> None:
    first = asked(made)
    named = asked(made, "X-Proxy-Log-Session: mine")
    made.read()
    made.restart()
    second = asked(made)
    again = asked(made, "X-Proxy-Log-Session: mine")
    made.read()
    assert sessions(made, first, second) == [1, 1]
    assert sessions(made, named, again) == [2, 2]


def test_a_session_tells_when_it_was_used_last(made: Traffic) -> None:
    asked(made)
    made.read()
    last = asked(made)
    made.read()
    assert made.values("SELECT last_at_us FROM sessions") == [made.call(last)["started_at_us"]]


def test_a_name_that_is_one_of_a_client_is_another_session(made: Traffic) -> None:
    plain = asked(made)
    named = asked(made, "X-Proxy-Log-Session: 10.0.0.1")
    made.read()
    assert made.rows(BY_NAME) == [("10.0.0.1", "client", 1), ("10.0.0.1", "header", 1)]
    assert len(set(sessions(made, plain, named))) == 2
    assert made.call(named)["label"] == "new"


def test_requests_that_nobody_reads_make_no_session(made: Traffic) -> None:
    made.exchange("/v1/models", b"", b"", method="OPTIONS", upstream="")
    made.read()
    assert made.rows(BY_NAME) == []
