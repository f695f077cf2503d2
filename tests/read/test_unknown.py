"""What nobody knows: it is listed with its error, whatever its bytes are."""

import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Side
from proxy.meaning import CallError, Measured, Operation, Problem, Reading
from proxy.read.reader import Claim, End, RequestHead, ResponseHead
from proxy.read.unknown import MAX_BODY_BYTES, Unknown
from tests.read.lmstudio_http import COMPLETED, CUTS, JSON_TYPE, cut, event, odd_json, read, timed, timeless

UNKNOWN = Unknown()
RERANK = "POST /v1/rerank"
LISTED = Problem("unknown_endpoint", RERANK)
CATCH_ALL = b'{"error":"Unexpected endpoint or method. (POST /v1/rerank)"}'
IN_200 = Problem("error_in_200", "status 200, and the body holds an error")


def test_everything_is_claimed_after_all_others() -> None:
    assert UNKNOWN.claims(RequestHead("BREW", "/pot")) is Claim.MAYBE
    assert UNKNOWN.claims(RequestHead("GET", "/new", is_websocket=True)) is Claim.MAYBE


def test_unknown_endpoint_is_listed() -> None:
    reading = read(UNKNOWN, RERANK, {"model": "m", "query": "q"}, answer={"results": [], "object": "list"})

    assert reading == Reading(
        reader="unknown",
        version=1,
        operation=Operation.OTHER,
        measured=Measured(request_complete_us=10, first_byte_us=1_000, done_us=9_000),
        problems=(LISTED,),
    )


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/assets/index.js"])
def test_static_page_is_listed_as_everything_else(path: str) -> None:
    fields = (("Content-Type", "text/html"),)
    reading = read(UNKNOWN, f"GET {path}", events=[(1, b"<html>{</html>")], fields=fields)

    assert (reading.problems, reading.errors) == ((Problem("unknown_endpoint", f"GET {path}"),), ())


def test_catch_all_of_lm_studio_is_an_error_in_200() -> None:
    reading = read(UNKNOWN, RERANK, answer=CATCH_ALL)

    assert reading.errors == (CallError("Unexpected endpoint or method. (POST /v1/rerank)"),)
    assert reading.problems == (LISTED, IN_200)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (404, b"Not found", CallError("status 404", code="404")),
        (500, b"", CallError("status 500", code="500")),
        (404, b"[1]", CallError("status 404", code="404")),
        (404, b'{"error":', CallError("status 404", code="404")),
        (404, b'{"message":"gone"}', CallError("gone")),
        (
            401,
            b'{"error":{"type":"invalid_request","code":"x","message":"no"}}',
            CallError("no", "invalid_request", "x"),
        ),
    ],
)
def test_error_in_each_form_is_read(status: int, body: bytes, error: CallError) -> None:
    assert read(UNKNOWN, RERANK, answer=body, status=status).errors == (error,)


def test_coded_error_is_decoded() -> None:
    fields = (("Content-Encoding", "gzip"), ("Content-Type", JSON_TYPE))
    reading = read(UNKNOWN, RERANK, events=[(1, gzip.compress(CATCH_ALL))], fields=fields)

    assert reading.errors == (CallError("Unexpected endpoint or method. (POST /v1/rerank)"),)


@pytest.mark.parametrize("size", [MAX_BODY_BYTES - 60, MAX_BODY_BYTES + 1, 20 * MAX_BODY_BYTES])
@pytest.mark.parametrize("is_coded", [False, True])
def test_big_body_is_not_looked_at(size: int, is_coded: bool) -> None:
    body = CATCH_ALL[:-1] + b"," + b" " * (size - len(CATCH_ALL) - 6) + b'"a":1}'
    fields: tuple[tuple[str, str], ...] = (("Content-Type", JSON_TYPE),)
    if is_coded:
        body, fields = gzip.compress(body), (*fields, ("Content-Encoding", "gzip"))
    reading = read(UNKNOWN, RERANK, events=[(1, body)], fields=fields)

    assert bool(reading.errors) is (size < MAX_BODY_BYTES)


def test_stream_is_told_and_not_read() -> None:
    reading = read(UNKNOWN, RERANK, events=timed(event({"error": "x"})))

    assert (reading.is_streamed, reading.errors, reading.problems) == (True, (), (LISTED,))


@pytest.mark.parametrize(
    ("end", "errors", "problems"),
    [
        (End("client_gone"), (), (LISTED, Problem("truncated", "the exchange ended as client_gone"))),
        (
            End("upstream_unreachable", "refused"),
            (CallError("refused", "upstream_unreachable", where="outcome"),),
            (LISTED,),
        ),
        (End("interrupted"), (CallError("interrupted", "interrupted", where="outcome"),), (LISTED,)),
    ],
)
def test_end_that_is_none_is_told(end: End, errors: tuple[CallError, ...], problems: tuple[Problem, ...]) -> None:
    reading = read(UNKNOWN, RERANK, end=end)

    assert (reading.errors, reading.problems) == (errors, problems)


def test_running_exchange_has_a_reading() -> None:
    reading = read(UNKNOWN, RERANK, answer=CATCH_ALL, end=None)

    assert (reading.is_running, reading.problems, reading.errors) == (True, (LISTED,), ())


@pytest.mark.parametrize("outcome", ["completed", "client_gone"])
def test_websocket_that_nobody_claims_is_listed(outcome: str) -> None:
    session = UNKNOWN.open(RequestHead("GET", "/new", is_websocket=True))
    session.response(ResponseHead(101), 1_000)
    for number, data in enumerate([b'{"error":"x"}', b"\xff\x00", b""]):
        session.message(Side(number % 2), 2_000 + number, number, data)
    session.message(Side.UPSTREAM, 3_000, None, b"")
    (reading,) = session.readings(End(outcome, done_us=4_000))

    assert reading == Reading(
        reader="unknown",
        version=1,
        operation=Operation.OTHER,
        measured=Measured(first_byte_us=1_000, done_us=4_000),
        problems=(Problem("unknown_endpoint", "GET /new (WebSocket)"),),
    )


def test_websocket_that_is_refused_has_an_error() -> None:
    session = UNKNOWN.open(RequestHead("GET", "/new", is_websocket=True))
    session.response(ResponseHead(401, (("Content-Type", JSON_TYPE),)), 1_000)
    session.data(2_000, b'{"error":"no token"}')
    (reading,) = session.readings(COMPLETED)

    assert reading.errors == (CallError("no token"),)


def test_long_path_is_told_in_part() -> None:
    reading = read(UNKNOWN, f"GET /{'x' * 10_000}")

    assert len(reading.problems[0].detail) < 400


CODED = gzip.compress(CATCH_ALL)
SAMPLES = [CATCH_ALL, CODED, CODED[:-20], CODED[:20] + b"\xff" * 30, b"<html>" * 9, b"{" + b"\0" * (MAX_BODY_BYTES + 9)]


@given(CUTS, st.sampled_from(SAMPLES), st.sampled_from(["gzip", "deflate", "br", ""]), st.sampled_from([200, 404]))
def test_any_cutting_gives_the_same_reading(cuts: list[int], data: bytes, coding: str, status: int) -> None:
    fields = (("Content-Encoding", coding),)
    whole = read(UNKNOWN, RERANK, events=cut(data, []), fields=fields, status=status)

    assert timeless(read(UNKNOWN, RERANK, events=cut(data, cuts), fields=fields, status=status)) == timeless(whole)


@given(st.binary(max_size=100), odd_json(["error", "message", "type", "code", "detail"]), st.integers(0, 999))
def test_nothing_makes_it_raise(data: bytes, answer: Any, status: int) -> None:
    read(UNKNOWN, RERANK, data, answer=data, status=status)
    read(UNKNOWN, RERANK, data, answer=answer, status=status)
    read(UNKNOWN, RERANK, data, answer={"error": answer}, status=status, fields=(("Content-Encoding", "gzip"),))
