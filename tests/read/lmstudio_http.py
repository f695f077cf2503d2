"""One HTTP exchange given to a reader, and what the tests of LM Studio's own dialects have in common."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from proxy.meaning import Measured, Parameter, Reading
from proxy.read.reader import End, Reader, RequestHead, ResponseHead

COMPLETED = End("completed", done_us=9_000)
JSON_TYPE, STREAM_TYPE = "application/json; charset=utf-8", "text/event-stream"


def read(
    reader: Reader,
    request: str,
    body: Any = None,
    *,
    answer: Any = None,
    events: Iterable[tuple[int, bytes]] | None = None,
    status: int = 200,
    fields: tuple[tuple[str, str], ...] = (),
    end: End | None = COMPLETED,
) -> Reading:
    """The one reading of an exchange.

    Args:
        reader: it must claim the request.
        request: `POST /api/v1/chat`.
        body: of the request; bytes as they are, or data to be sent as JSON.
        answer: the same of the response; None: there is no response unless there are `events`.
        events: the reads of a response, each with its time: a stream unless `fields` say something else.
        status: of the response.
        fields: of the response's head, instead of its content type.
        end: how it ends.
    """
    method, _, path = request.partition(" ")
    head = RequestHead(method, path)
    assert reader.claims(head)
    session = reader.open(head)
    session.request(_bytes(body), 10)
    if answer is not None or events is not None:
        kind = JSON_TYPE if events is None else STREAM_TYPE
        session.response(ResponseHead(status, fields or (("Content-Type", kind),)), 1_000)
    for at_us, data in events if events is not None else [(2_000, _bytes(answer))] if answer is not None else ():
        session.data(at_us, data)
    (reading,) = session.readings(end)
    assert (reading.reader, reading.version) == (reader.name, reader.version)
    return reading


def _bytes(body: Any) -> bytes:
    return body if isinstance(body, bytes) else b"" if body is None else json.dumps(body, indent=2).encode()


def event(data: Any, name: str = "") -> bytes:
    """A server-sent event."""
    return (f"event: {name}\n" if name else "").encode() + b"data: " + json.dumps(data).encode() + b"\n\n"


def timed(*events: bytes, step_us: int = 1_000) -> list[tuple[int, bytes]]:
    """Each in a read of its own: the first at 2 ms, then one each millisecond."""
    return [(2_000 + step_us * number, one) for number, one in enumerate(events)]


def cut(data: bytes, cuts: Sequence[int]) -> list[tuple[int, bytes]]:
    """The bytes in reads that end at these places."""
    borders = [0, *sorted(one % (len(data) + 1) for one in cuts), len(data)]
    return timed(*(data[begin:end] for begin, end in pairwise(borders)), step_us=1)


def timeless(reading: Reading) -> Reading:
    """All but what our clock saw."""
    return replace(reading, measured=Measured())


def values(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Parameters as names and values."""
    return {one.name: one.value for one in parameters}


def odd_json(names: Sequence[str], texts: Sequence[str] = ()) -> st.SearchStrategy[Any]:
    """JSON of any form in which a dialect's names (and words of its vocabulary) come up."""
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    if texts:
        leaves |= st.sampled_from(texts)
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(names), inner, max_size=6),
        max_leaves=20,
    )


CUTS = st.lists(st.integers(0, 1 << 20), max_size=12)
"""Places to cut at."""
