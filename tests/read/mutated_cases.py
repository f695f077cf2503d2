"""Recorded cases, changed: other values in their JSON, other bytes, other heads, other cuts."""

import dataclasses
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from proxy.exchange import Outcome, Side
from proxy.read.reader import End, RequestHead, ResponseHead
from proxy.read.websocket import BINARY, TEXT, WebSocketReader
from tests.read.mutated_json import mutated
from tests.recordings.cases import Case, Message, case_files, load

Json = Any
AT_US = 5_000
"""The one time that all pieces have where only their order counts."""


def _by_dialect() -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for path in case_files():
        found[path.parent.name].append(load(path))
    return dict(found)


CASES = _by_dialect()
"""By the name of their reader."""


# --- JSON -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Documents:
    """The JSON of a case, and how to put other JSON in its place."""

    values: list[Json]
    replaced: Callable[[Sequence[Json]], Case]


def documents(case: Case) -> Documents:
    """The request's JSON, then the answer's, that of its events, or that of its messages; what is no JSON stays."""
    values: list[Json] = []
    makers: list[Callable[[Sequence[Json]], bytes]] = []

    def take(data: bytes) -> Callable[[Sequence[Json]], bytes]:
        try:
            value = json.loads(data)
        except ValueError:
            return lambda _: data
        number = len(values)
        values.append(value)
        return lambda others: json.dumps(others[number]).encode()

    body = take(case.body)
    for piece in pieces(case):
        head, data, tail = piece
        made = take(data)
        makers.append(lambda others, made=made, head=head, tail=tail: head + made(others) + tail)  # type: ignore[misc]
    messages = [(side, at_us, opcode, take(data)) for side, at_us, opcode, data in case.messages]
    times = [at_us for at_us, _ in case.reads] or [0]

    def replaced(others: Sequence[Json]) -> Case:
        return dataclasses.replace(
            case,
            body=body(others),
            reads=tuple((times[min(at, len(times) - 1)], make(others)) for at, make in enumerate(makers)),
            messages=tuple((side, at_us, opcode, make(others)) for side, at_us, opcode, make in messages),
        )

    return Documents(values, replaced)


def pieces(case: Case) -> list[tuple[bytes, bytes, bytes]]:
    """The response's body around its JSON: (before, JSON, behind)."""
    body = b"".join(data for _, data in case.reads)
    kind = case.response.field("content-type") if case.response else ""
    if "event-stream" in kind:
        events = [event for event in body.split(b"\n\n") if event]
        split = [event.partition(b"data: ") for event in events]
        return [(before + mark, data, b"\n\n") for before, mark, data in split]
    if "ndjson" in kind:
        return [(b"", line, b"\n") for line in body.split(b"\n") if line]
    return [(b"", body, b"")] if body else []


def _nested(depth: int) -> Json:
    value: Json = "deep"
    for level in range(depth):
        value = [value] if level % 2 else {"deep": value}
    return value


@cache
def _others() -> st.SearchStrategy[Json]:
    """What may stand where something else should: any type, odd numbers and texts, deep nesting, words of dialects."""
    words = [
        "assistant",
        "tool",
        "system",
        "text",
        "reasoning",
        "error",
        "stop",
        "json_schema",
        "function",
        "image_url",
    ]
    leaves = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.integers(1 << 60, 1 << 80)
        | st.floats()
        | st.text(max_size=5)
        | st.sampled_from([*words, "", "\ud800", "data:image/png;base64,@", "1e999", "\u2028", "💥" * 3])
    )
    names = st.sampled_from(["type", "content", "text", "role", "id", "name", "index", "error", "message", "function"])
    inside = st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=8
    )
    return inside | st.integers(1, 900).map(_nested)


@cache
def _documents(dialect: str, number: int) -> tuple[Documents, st.SearchStrategy[Json]]:
    found = documents(CASES[dialect][number])
    return found, mutated(found.values, _others())


# --- strategies -------------------------------------------------------------------------------------------------------


@st.composite
def cases(draw: st.DrawFn, dialect: str, *, changed: bool | None = None) -> Case:
    """A case of that dialect; with other JSON, bytes or head unless `changed` is False."""
    number = draw(st.integers(0, len(CASES[dialect]) - 1))
    case = CASES[dialect][number]
    if changed is False:
        return case
    how = draw(st.sampled_from(["json", "json", "bytes", "head", "end", "lines", "nothing"]))
    if how == "json":
        found, others = _documents(dialect, number)
        return found.replaced(draw(others)) if found.values else case
    if how == "bytes":
        return _with_other_bytes(draw, case)
    if how == "head":
        return _with_other_head(draw, case)
    if how == "lines":
        return _with_other_lines(draw, case)
    return _with_other_end(draw, case) if how == "end" else case


def _with_other_bytes(draw: st.DrawFn, case: Case) -> Case:
    if case.body and draw(st.booleans()):
        return dataclasses.replace(case, body=_bitten(draw, case.body))
    if case.messages:
        at = draw(st.integers(0, len(case.messages) - 1))
        side, at_us, opcode, data = case.messages[at]
        opcode = draw(st.sampled_from([opcode, opcode, None, 2, 8, 9]))
        changed = (side, at_us, opcode, _bitten(draw, data))
        return dataclasses.replace(case, messages=(*case.messages[:at], changed, *case.messages[at + 1 :]))
    body = b"".join(data for _, data in case.reads)
    return dataclasses.replace(case, reads=((AT_US, _bitten(draw, body)),))


def _bitten(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes flipped, taken away, put in, or cut off."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "delete", "insert", "cut", "repeat"]))
        if how == "flip" and data:
            data = data[:at] + bytes((draw(st.integers(0, 255)),)) + data[at + 1 :]
        elif how == "delete":
            data = data[:at] + data[at + draw(st.integers(1, 20)) :]
        elif how == "insert":
            odd = [
                b"\n",
                b"\r\n\r\n",
                b"data: ",
                b"event: x\n",
                b"{",
                b"}",
                b"[",
                b'"',
                b"\\u",
                b"\xff",
                b"\0",
                b"null",
            ]
            data = data[:at] + draw(st.sampled_from(odd) | st.binary(max_size=8)) + data[at:]
        elif how == "cut":
            data = data[:at]
        else:
            data = data[:at] + data[at : at + 200] + data[at:]
    return data


def _with_other_head(draw: st.DrawFn, case: Case) -> Case:
    kinds = ["application/json", "text/event-stream", "application/x-ndjson", "text/html", "", "TEXT/EVENT-STREAM;a=b"]
    codings = ["gzip", "br", "deflate", "identity", "gzip, gzip", "zstd", "x"]
    fields = [("Content-Type", draw(st.sampled_from(kinds)))]
    if draw(st.booleans()):
        fields.append(("Content-Encoding", draw(st.sampled_from(codings))))
    asked = case.head.fields
    if draw(st.booleans()):
        asked = (*asked, ("Content-Encoding", draw(st.sampled_from(codings))))
    response = draw(
        st.none()
        | st.sampled_from([101, 200, 200, 204, 304, 400, 404, 500, 0]).map(lambda s: ResponseHead(s, tuple(fields)))
    )
    return dataclasses.replace(case, head=dataclasses.replace(case.head, fields=asked), response=response)


def _with_other_lines(draw: st.DrawFn, case: Case) -> Case:
    """The lines of the response end another way, as those of events may."""
    end = draw(st.sampled_from([b"\r\n", b"\r"]))
    return dataclasses.replace(case, reads=tuple((at_us, data.replace(b"\n", end)) for at_us, data in case.reads))


def _with_other_end(draw: st.DrawFn, case: Case) -> Case:
    """The exchange ends another way, and perhaps before all of it came."""
    kept = draw(st.integers(0, max(len(case.reads), len(case.messages))))
    end = End(
        draw(st.sampled_from(list(Outcome))).value, draw(st.sampled_from(["", "why"])), draw(st.none() | st.just(9))
    )
    return dataclasses.replace(case, reads=case.reads[:kept], messages=case.messages[:kept], end=end)


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
heads = st.builds(
    RequestHead,
    st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "", "get"]) | _TEXT,
    st.builds(
        "".join,
        st.lists(
            st.sampled_from(
                [
                    *(
                        "/",
                        "/v1",
                        "/api",
                        "/v0",
                        "/chat",
                        "/completions",
                        "/completion",
                        "/models",
                        "/responses",
                        "/messages",
                    ),
                    *(
                        "/embeddings",
                        "/llm",
                        "/diagnostics",
                        "/download",
                        "/status",
                        "/load",
                        "/generate",
                        "/tokenize",
                        "//",
                    ),
                    *("/props", "/apply-template", "/lmstudio-greeting", "/x", "%2F", "\0", "💥", "chat"),
                ]
            ),
            max_size=6,
        ),
    ),
    st.text(max_size=5),
    st.lists(
        st.tuples(st.sampled_from(["Content-Type", "Content-Encoding", "Upgrade"]), st.text(max_size=8)), max_size=3
    ).map(tuple),
    st.booleans(),
)
"""Heads that hit any reader, or none."""


# --- cuts -------------------------------------------------------------------------------------------------------------


def at_one_time(case: Case) -> Case:
    """Its response in one read, or its messages whole, all at the same time."""
    body = b"".join(data for _, data in case.reads)
    messages = tuple((side, AT_US, opcode, data) for side, _, opcode, data in case.messages)
    return dataclasses.replace(case, reads=((AT_US, body),), messages=messages)


def cut(case: Case, places: Sequence[int]) -> Case:
    """The same bytes in pieces that end at these places, all at the same time; messages go over a wire of frames."""
    body = b"".join(data for _, data in case.reads)
    reads = tuple((AT_US, piece) for piece in _cut(body, places))
    return dataclasses.replace(case, reads=reads, messages=tuple(_over_the_wire(case, places)))


def _cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(borders)]


def _over_the_wire(case: Case, places: Sequence[int]) -> list[Message]:
    """Each message in fragments, whose bytes come in pieces: what a reader of frames makes of them."""
    wires = {side: (FrameProtocol(client=side is Side.CLIENT, extensions=[]), WebSocketReader()) for side in Side}
    came: list[Message] = []
    for side, _, opcode, data in case.messages:
        if opcode not in (TEXT, BINARY):
            came.append((side, AT_US, opcode, data))
            continue
        sender, reader = wires[side]
        pieces = _cut(data, places[:3])
        # As binary messages, for the sender takes no text that is none; readers make no difference.
        wire = b"".join(bytes(sender.send_data(piece, fin=at == len(pieces) - 1)) for at, piece in enumerate(pieces))
        for piece in _cut(wire, places):
            came += [(side, AT_US, opcode, message.payload) for message in reader.feed(piece)[0]]
    return came
