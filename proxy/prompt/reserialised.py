r"""JSON objects that stand in a prompt: what templates make of tool calls and tool definitions.

Facts
-----
* Templates write JSON anew: other blanks, other order of keys, non-ASCII characters escaped or not, `<` as `\u003c`.
  So a call or a definition is known by what it says.
* A call is `{"name": ..., "arguments": {...}}`; some write `parameters`, some put it into `function`, some write the
  arguments as a string that holds JSON, some the name before the arguments alone. A definition is
  `{"name": ..., "description": ..., "parameters": {...}}`, as a rule within `{"type": "function", "function": ...}`.
"""

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

_MAX_ATTEMPTS = 4096
_MAX_WORK = 4_000_000
"""So many characters of what turns out to be no JSON are looked at."""
_NUMBERS = count()
_DECODER = json.JSONDecoder()
_ARGUMENTS = ("arguments", "parameters")
_SCHEMAS = ("parameters", "inputSchema", "input_schema", "schema", "arguments")


@dataclass(frozen=True, slots=True)
class JsonObject:
    """An object in a prompt, and what it says."""

    start: int
    end: int
    value: dict[str, Any]


def objects_in(prompt: str) -> list[JsonObject]:
    """The outermost JSON objects, in order. What is nearly JSON is none."""
    found = []
    attempts = work = 0
    at = prompt.find("{")
    while at >= 0 and attempts < _MAX_ATTEMPTS and work < _MAX_WORK:
        attempts += 1
        try:
            value, end = _DECODER.raw_decode(prompt, at)
        except json.JSONDecodeError as error:
            work += max(error.pos - at, 1)
            end = at + 1
        except (RecursionError, ValueError):  # too deep, or a number of too many digits
            work += _MAX_WORK >> 4
            end = at + 1
        else:
            found.append(JsonObject(at, end, value))
        at = prompt.find("{", end)
    return found


def parsed(text: str) -> Any:
    """What a text says as a JSON object or list; None: it is neither."""
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def call_of(text: str) -> tuple[str, Any] | None:
    """Name and arguments of a tool call's text, which has them on two lines; None: it is none."""
    name, line_end, arguments = text.partition("\n")
    value = parsed(arguments.strip()) if line_end else None
    return (name, value) if isinstance(value, dict) and name else None


def is_definition(value: dict[str, Any], name: str, schema: Any) -> bool:
    """Whether an object defines this tool; `schema` is None where it has none."""
    for one in _dicts(value):
        if one.get("name") != name:
            continue
        schemas = [one[key] for key in _SCHEMAS if key in one]
        if any(_says(each, schema) for each in schemas) or "description" in one or not schemas:
            return True
    return False


class WrittenAnew:
    """The JSON objects of a prompt, to be looked up by what they say."""

    def __init__(self, prompt: str) -> None:
        """Look at the whole prompt."""
        self.all = objects_in(prompt)
        self._values: dict[str, list[JsonObject]] = {}
        self._calls: dict[tuple[str, str], list[JsonObject]] = {}
        for one in self.all:
            self._values.setdefault(_canonical(one.value), []).append(one)
            for call in {*_calls(one.value)}:
                self._calls.setdefault(call, []).append(one)

    def saying(self, value: Any, low: int, high: int) -> Iterator[JsonObject]:
        """Those between two places that say the same as a value."""
        return _within(self._values.get(_canonical(value), []), low, high)

    def calling(self, name: str, arguments: Any, low: int, high: int) -> Iterator[JsonObject]:
        """Those between two places that are this tool call."""
        return _within(self._calls.get((name, _canonical(arguments)), []), low, high)


def _within(objects: list[JsonObject], low: int, high: int) -> Iterator[JsonObject]:
    for at in range(bisect_left(objects, low, key=lambda one: one.start), len(objects)):
        if objects[at].end > high:
            return
        yield objects[at]


def _calls(value: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and arguments of each call that an object may be."""
    for one in _dicts(value):
        name = one.get("name")
        for key in _ARGUMENTS:
            if isinstance(name, str) and key in one:
                told = one[key]
                inner = parsed(told.strip()) if isinstance(told, str) else None
                yield name, _canonical(told if inner is None else inner)


def _canonical(value: Any) -> str:
    """Equal for values that say the same: 2.0 is 2. What is too deep equals nothing."""
    try:
        plain = json.loads(json.dumps(value), parse_float=_number)
        return json.dumps(plain, sort_keys=True)
    except (RecursionError, ValueError):
        return f"too deep: {next(_NUMBERS)}"


def _number(text: str) -> float | int:
    number = float(text)
    return int(number) if number.is_integer() else number


def _says(value: Any, expected: Any) -> bool:
    inner = parsed(value.strip()) if isinstance(value, str) else None
    return _canonical(value if inner is None else inner) == _canonical(expected)


def _dicts(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The object, and those directly in it."""
    yield value
    yield from (each for each in value.values() if isinstance(each, dict))


def escaped(text: str) -> list[str]:
    """A text as templates write it into JSON, or with plain line ends; none of them is the text itself."""
    text_as_utf8 = json.dumps(text, ensure_ascii=False)[1:-1]
    text_as_ascii = json.dumps(text)[1:-1]
    forms = [text_as_utf8, text_as_ascii, text.replace("\r\n", "\n")]
    for form in (text_as_utf8, text_as_ascii):
        html = form
        for character in "<>&'":
            html = html.replace(character, f"\\u{ord(character):04x}")
        forms.append(html)
    return [form for form in dict.fromkeys(forms) if form != text]
