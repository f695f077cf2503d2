"""Raw JSON ends here: typed look-ups that never raise, and a memory of what nobody asked for.

Facts
-----
* Wire bodies are not validated: a field of another type than expected is noted and missing, unknown ones are counted.
* `json` takes what others send and the grammar forbids (NaN, a lone surrogate, control characters); msgspec is
  several times as fast. So msgspec reads first. Lone surrogates cannot be stored as UTF-8 and become U+FFFD.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

MAX_DEPTH = 100
"""How deep unread fields are looked for."""
_MAX_NOTES = 50
_decode = msgspec.json.Decoder().decode
_SURROGATES = re.compile("[\ud800-\udfff]")
_MISSING = object()


class NotJsonError(ValueError):
    """The bytes are no JSON; the message says where they stop being it."""


def decode_json(data: bytes | str) -> Any:
    """The value in these bytes.

    Raises:
        NotJsonError: there is none.
    """
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        text = data if isinstance(data, str) else data.decode("utf-8", "replace")
        return _scrub(json.loads(text.removeprefix("\ufeff"), strict=False))
    except RecursionError:
        raise NotJsonError("arrays or objects are nested too deeply") from None
    except ValueError as error:
        raise NotJsonError(str(error)) from None


def _scrub(value: Any) -> Any:
    """Without what cannot be stored: lone surrogates; NaN and infinities become text."""
    if isinstance(value, str):
        return _SURROGATES.sub("\ufffd", value)
    if isinstance(value, list):
        return [_scrub(one) for one in value]
    if isinstance(value, dict):
        return {_scrub(name): _scrub(one) for name, one in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def encode_json(value: Any) -> str:
    """JSON without spaces; keys stay in their order."""
    try:
        return msgspec.json.encode(value).decode()
    except RecursionError:  # what could just be decoded may be too deep a few calls further down
        return '"nested too deeply"'
    except (TypeError, ValueError):
        return json.dumps(repr(value))


class Notes:
    """What was odd in the JSON of one call, collected while its fields are looked up."""

    __slots__ = ("odd", "unread")

    def __init__(self) -> None:
        self.odd: list[str] = []
        """Fields of another type than expected, in words."""
        self.unread: dict[str, int] = {}
        """Paths of fields that nobody asked for, with how often they came."""

    def wrong(self, path: str, expected: str, value: object) -> None:
        """A field is not what it should be."""
        if len(self.odd) < _MAX_NOTES:
            self.odd.append(f"{path}: {expected} expected, {_kind(value)} found")

    def add_unread(self, fields: "Fields") -> None:
        """At the end of a look: count what it left."""
        for path in fields.unread():
            if path in self.unread or len(self.unread) < _MAX_NOTES:
                self.unread[path] = self.unread.get(path, 0) + 1


class Fields:
    """A JSON object. Every look-up marks its field as read; `null` is the same as missing."""

    __slots__ = ("_below", "_data", "_notes", "_read", "path")

    def __init__(self, data: dict[str, Any], notes: Notes, path: str = "") -> None:
        """`path` is where it stands, for notes."""
        self._data = data
        self._notes = notes
        self._read: set[str] = set()
        self._below: list[Fields] | None = None
        self.path = path

    def __contains__(self, name: str) -> bool:
        return name in self._data

    def __bool__(self) -> bool:
        return bool(self._data)

    @property
    def data(self) -> dict[str, Any]:
        """All of it, as it came; nothing is marked as read."""
        return self._data

    def names(self) -> Iterable[str]:
        """Its names, in order."""
        return self._data.keys()

    def known(self, *names: str) -> None:
        """These fields are known and say nothing that is kept."""
        self._read.update(names)

    def known_all(self) -> None:
        """So is everything in it."""
        self._read.update(self._data)

    def raw(self, name: str) -> Any:
        """Whatever stands there, marked as read with all below it; None where it is missing."""
        self._read.add(name)
        return self._data.get(name)

    def text(self, name: str) -> str | None:
        """A text."""
        value = self._data.get(name, _MISSING)
        if value is _MISSING:
            return None
        self._read.add(name)
        if isinstance(value, str):
            return value
        if value is not None:
            self._notes.wrong(self._at(name), "text", value)
        return None

    def word(self, name: str) -> str | None:
        """A text; a number or truth value is taken as its JSON."""
        value = self.raw(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool | int | float):
            return encode_json(value)
        self._notes.wrong(self._at(name), "text", value)
        return None

    def number(self, name: str) -> float | None:
        """A number that may have a fraction."""
        value = self.raw(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            return float(value)
        if value is not None:
            self._notes.wrong(self._at(name), "a number", value)
        return None

    def integer(self, name: str) -> int | None:
        """A whole number that fits into 64 bits."""
        value = self.raw(name)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63:
            return value
        if value is not None:
            self._notes.wrong(self._at(name), "a whole number", value)
        return None

    def flag(self, name: str) -> bool | None:
        """A truth value."""
        value = self.raw(name)
        if isinstance(value, bool):
            return value
        if value is not None:
            self._notes.wrong(self._at(name), "true or false", value)
        return None

    def object(self, name: str) -> "Fields | None":
        """An object."""
        value = self._data.get(name)
        if isinstance(value, dict):
            self._read.add(name)
            return self._child(value, self._at(name))
        self._read.add(name)
        if value is not None:
            self._notes.wrong(self._at(name), "an object", value)
        return None

    def array(self, name: str) -> list[Any]:
        """An array, its elements as they came; empty where it is missing."""
        value = self.raw(name)
        if isinstance(value, list):
            return value
        if value is not None:
            self._notes.wrong(self._at(name), "an array", value)
        return []

    def objects(self, name: str) -> "list[Fields]":
        """The objects in an array; other elements are noted and left out."""
        path = self._at(name)
        found = []
        for value in self.array(name):
            if isinstance(value, dict):
                found.append(self._child(value, f"{path}[]"))
            else:
                self._notes.wrong(f"{path}[]", "an object", value)
        return found

    def elements(self, name: str) -> "list[Fields | Any]":
        """The elements of an array that may have several forms: objects as fields, others as they came."""
        path = f"{self._at(name)}[]"
        return [self._child(value, path) if isinstance(value, dict) else value for value in self.array(name)]

    def wrong(self, name: str, expected: str) -> None:
        """Note that a field is not what it should be."""
        self._notes.wrong(self._at(name), expected, self._data.get(name))

    def unread(self, depth: int = 0) -> Iterator[str]:
        """Paths of what nobody asked for."""
        yield from (self._at(name) for name in self._data if name not in self._read)
        if self._below and depth < MAX_DEPTH:
            for below in self._below:
                yield from below.unread(depth + 1)

    def _child(self, value: dict[str, Any], path: str) -> "Fields":
        child = Fields(value, self._notes, path)
        if self._below is None:
            self._below = [child]
        else:
            self._below.append(child)
        return child

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "an array" if isinstance(value, list) else "an object" if isinstance(value, dict) else "null"
