"""How LM Studio is found: the greeting and the daemon's status."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meaning import CallError, Operation
from proxy.read.discovery import Discovery
from proxy.read.http_session import HttpReader
from proxy.read.reader import Claim, RequestHead
from tests.read.lmstudio_http import CUTS, JSON_TYPE, cut, event, odd_json, read, timed, timeless

DISCOVERY = HttpReader(Discovery())
GREETING, STATUS = "GET /lmstudio-greeting", "GET /lms-status"


@pytest.mark.parametrize(
    ("request_line", "answer", "details"),
    [
        (GREETING, b'{"lmstudio":true}', {"lmstudio": True}),
        (STATUS, b'{"package":"lmstudio","version":"1.2.3"}', {"package": "lmstudio", "version": "1.2.3"}),
        (GREETING, b'{"lmstudio":null}', {}),
    ],
)
def test_answer_is_told(request_line: str, answer: bytes, details: dict[str, Any]) -> None:
    reading = read(DISCOVERY, request_line, answer=answer)

    assert (reading.operation, reading.details) == (Operation.OTHER, details)
    assert (reading.problems, reading.unread, reading.errors) == ((), (), ())


def test_server_that_does_not_know_it_gives_an_error() -> None:
    reading = read(DISCOVERY, STATUS, answer={"error": "Unexpected endpoint or method. (GET /lms-status)"})

    assert reading.errors == (CallError("Unexpected endpoint or method. (GET /lms-status)"),)


def test_unknown_fields_are_counted() -> None:
    assert read(DISCOVERY, GREETING, answer={"lmstudio": True, "port": 1}).unread == (("response.port", 1),)


@pytest.mark.parametrize(
    ("method", "path", "claim"),
    [
        ("GET", "/lmstudio-greeting", Claim.YES),
        ("GET", "/lms-status", Claim.YES),
        ("POST", "/lms-status", Claim.NO),
        ("GET", "/lms", Claim.NO),
    ],
)
def test_claim_is_by_method_and_path(method: str, path: str, claim: Claim) -> None:
    assert DISCOVERY.claims(RequestHead(method, path)) is claim


@given(CUTS)
def test_any_cutting_gives_the_same_reading(cuts: list[int]) -> None:
    answer = b'{"package":"lmstudio","version":"1.2.3"}'
    reading = read(DISCOVERY, STATUS, events=cut(answer, cuts), fields=(("Content-Type", JSON_TYPE),))

    assert timeless(reading) == timeless(read(DISCOVERY, STATUS, answer=answer))


@given(st.sampled_from([GREETING, STATUS]), odd_json(["lmstudio", "package", "version", "error"]))
def test_no_json_makes_it_raise(request_line: str, answer: Any) -> None:
    read(DISCOVERY, request_line, answer, answer=answer)
    read(DISCOVERY, request_line, answer, events=timed(event(answer)))
