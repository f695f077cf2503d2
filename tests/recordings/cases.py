"""Recorded exchanges as files, each with what readers say of it beside it.

A case is what a reader gets of one exchange, no more: `<dialect>/<case>.json`; its readings are in
`<case>.reading.json`. Text stands in the files as text; bytes that are no UTF-8 as `{"base64": "..."}`.

    {
      "origin": "who spoke with whom, in which versions; or whose documentation it is from",
      "request": {"method", "path", "query", "fields": [[name, value]], "is_websocket", "complete_us", "body"},
      "response": {"status", "fields", "first_byte_us"},         null: there was none
      "reads": [[at_us, bytes]],                                 of the response's body
      "messages": [[side, at_us, opcode, bytes]],                of a WebSocket; opcode null: bytes that are no frames
      "end": {"outcome", "error", "done_us"}
    }

Times are microseconds since the request's first byte. What is empty is left out.
"""

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import End, Reader, RequestHead, ResponseHead, Session
from proxy.read.registry import Registry

FOLDER = Path(__file__).parent
READING = ".reading.json"
Json = Any
Message = tuple[Side, int, int | None, bytes]
"""Side, time, opcode, payload."""
_SIDES = {side.label: side for side in Side}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One exchange."""

    origin: str
    head: RequestHead
    body: bytes = b""
    complete_us: int | None = None
    response: ResponseHead | None = None
    first_byte_us: int | None = None
    reads: tuple[tuple[int, bytes], ...] = ()
    messages: tuple[Message, ...] = ()
    end: End

    def reader(self, registry: Registry) -> Reader:
        """Who reads it."""
        reader = registry.choose(self.head)
        assert reader is not None
        return reader

    def begin(self, reader: Reader) -> Session:
        """A session that knows the request and the response's head."""
        session = reader.open(self.head)
        if not self.head.is_websocket:
            session.request(self.body, self.complete_us)
        if self.response is not None:
            session.response(self.response, self.first_byte_us)
        return session

    def steps(self, session: Session) -> Iterator[Callable[[], None]]:
        """What is left to be given to it, in order: calls, each with one read or message."""
        for at_us, data in self.reads:
            yield partial(session.data, at_us, data)
        for one in self.messages:
            yield partial(session.message, *one)

    def read(self, registry: Registry) -> Sequence[Reading]:
        """What its reader says of it."""
        session = self.begin(self.reader(registry))
        for step in self.steps(session):
            step()
        return session.readings(self.end)


# --- files ------------------------------------------------------------------------------------------------------------


def case_files(folder: Path = FOLDER) -> list[Path]:
    """All cases, in order of their names."""
    return sorted(path for path in folder.glob("*/*.json") if not path.name.endswith(READING))


def load(path: Path) -> Case:
    """A case from its file."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    request, response, end = stored["request"], stored.get("response"), stored["end"]
    return Case(
        origin=stored["origin"],
        head=RequestHead(
            request["method"],
            request["path"],
            request.get("query", ""),
            _pairs(request.get("fields", ())),
            request.get("is_websocket", False),
        ),
        body=_bytes(request.get("body", "")),
        complete_us=request.get("complete_us"),
        response=ResponseHead(response["status"], _pairs(response.get("fields", ()))) if response else None,
        first_byte_us=response.get("first_byte_us") if response else None,
        reads=tuple((at_us, _bytes(data)) for at_us, data in stored.get("reads", ())),
        messages=tuple(
            (_SIDES[side], at_us, opcode, _bytes(data)) for side, at_us, opcode, data in stored.get("messages", ())
        ),
        end=End(end["outcome"], end.get("error", ""), end.get("done_us")),
    )


def save(path: Path, case: Case) -> None:
    """Write a case's file; one read or message a line."""
    head, end = case.head, case.end
    request = {
        "method": head.method,
        "path": head.path,
        "query": head.query,
        "fields": head.fields,
        "is_websocket": head.is_websocket,
        "complete_us": case.complete_us,
        "body": _shown(case.body),
    }
    response = None
    if case.response is not None:
        response = {
            "status": case.response.status,
            "fields": case.response.fields,
            "first_byte_us": case.first_byte_us,
        }
    stored = {
        "origin": case.origin,
        "request": _filled(request),
        "response": _filled(response) if response else None,
        "reads": [[at_us, _shown(data)] for at_us, data in case.reads],
        "messages": [[side.label, at_us, opcode, _shown(data)] for side, at_us, opcode, data in case.messages],
        "end": _filled({"outcome": end.outcome, "error": end.error, "done_us": end.done_us}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_layout(_filled(stored)) + "\n", encoding="utf-8")


def reading_file(path: Path) -> Path:
    """Where the readings of a case's file stand."""
    return path.with_name(path.name.removesuffix(".json") + READING)


def as_stored(readings: Sequence[Reading]) -> str:
    """Readings as they stand in files: fields in their order, those with their default left out.

    So is the reader's version: it is raised without any case being read differently.
    """
    plain = [{name: value for name, value in _told(one).items() if name != "version"} for one in readings]
    return json.dumps(plain, ensure_ascii=False, indent=2) + "\n"


def _told(value: Any) -> Json:
    if dataclasses.is_dataclass(value):
        return {
            field.name: _told(told)
            for field in dataclasses.fields(value)
            if (told := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, tuple):
        return [_told(one) for one in value]
    return msgspec.to_builtins(value)


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _filled(values: dict[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in values.items() if value or (value == 0 and value is not False)}


def _layout(stored: dict[str, Json]) -> str:
    """JSON with one line for each read, message and field of a head."""
    return "{\n" + ",\n".join(f"  {_text(name)}: {_lines(value, '  ')}" for name, value in stored.items()) + "\n}"


def _lines(value: Json, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, dict):
        rows = [f"{inner}{_text(name)}: {_lines(one, inner)}" for name, one in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list | tuple):
        return "[\n" + ",\n".join(inner + _text(one) for one in value) + f"\n{indent}]"
    return _text(value)


def _text(value: Json) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(data: bytes) -> Json:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _bytes(shown: Json) -> bytes:
    return base64.b64decode(shown["base64"]) if isinstance(shown, dict) else shown.encode()


def _pairs(stored: Sequence[Sequence[str]]) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in stored)
