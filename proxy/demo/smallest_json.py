"""The smallest JSON value that a schema allows, for a model that is made up."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from proxy.demo.engine import EngineError

_FORMATS = {
    "date-time": "2000-01-01T00:00:00Z",
    "date": "2000-01-01",
    "time": "00:00:00Z",
    "email": "a@example.org",
    "uri": "http://example.org/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
}
_DEPTH = 50


def smallest_json(schema: Any) -> Any:
    """An instance of a JSON schema: no more members, items or characters than it asks for.

    Knows what structured output uses: type, properties, items, enum, const, $ref, anyOf and its kin, limits, formats.

    Raises:
        EngineError: it allows nothing that could be found here.
    """
    try:
        return _smallest(schema, schema, 0)
    except (TypeError, ValueError, LookupError, AttributeError, OverflowError, re.error) as error:
        raise EngineError(f"the JSON schema is malformed: {error}") from None


def _smallest(schema: Any, root: Any, depth: int) -> Any:
    if depth > _DEPTH:
        raise EngineError("the JSON schema has no end: it needs itself")
    if schema is False:
        raise EngineError("the JSON schema allows nothing")
    if not isinstance(schema, Mapping) or not schema:
        return {}
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema or schema.get("allOf"):
        whole = _find(schema["$ref"], root) if "$ref" in schema else _merged(schema, root)
        return _smallest(whole, root, depth + 1)
    kind = schema.get("type")
    kinds = [{**schema, "type": each} for each in kind] if isinstance(kind, list) else None
    if branches := schema.get("anyOf") or schema.get("oneOf") or kinds:
        return _first_possible(branches, root, depth)
    return _of_type(kind or ("array" if "items" in schema else "object"), schema, root, depth)


def _of_type(kind: str, schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    makers: dict[str, Callable[[], Any]] = {
        "object": lambda: _members(schema, root, depth),
        "array": lambda: _items(schema, root, depth),
        "string": lambda: _string(schema),
        "integer": lambda: _number(schema, is_integer=True),
        "number": lambda: _number(schema, is_integer=False),
        "boolean": lambda: False,
        "null": lambda: None,
    }
    if kind not in makers:
        raise EngineError(f"the JSON schema has an unknown type: {kind}")
    return makers[kind]()


def _members(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    return {name: _smallest(properties.get(name, True), root, depth + 1) for name in schema.get("required") or ()}


def _first_possible(branches: Any, root: Any, depth: int) -> Any:
    problem = EngineError("the JSON schema allows nothing")
    for branch in branches:
        try:
            return _smallest(branch, root, depth + 1)
        except EngineError as error:
            problem = error
    raise problem


def _merged(schema: Mapping[str, Any], root: Any) -> dict[str, Any]:
    """A schema and the parts of its allOf in one; where they differ, the later wins."""
    merged = {name: value for name, value in schema.items() if name != "allOf"}
    for part in schema["allOf"]:
        whole = _find(part["$ref"], root) if "$ref" in part else part
        properties = {**merged.get("properties", {}), **whole.get("properties", {})}
        required = [*merged.get("required", ()), *whole.get("required", ())]
        merged |= {**whole, "properties": properties, "required": required}
    return merged


def _find(reference: Any, root: Any) -> Any:
    found = root
    for name in str(reference).removeprefix("#").strip("/").split("/"):
        key = name.replace("~1", "/").replace("~0", "~")
        if key and (not isinstance(found, Mapping) or key not in found):
            raise EngineError(f"the JSON schema has no {reference}")
        found = found[key] if key else found
    return found


def _items(schema: Mapping[str, Any], root: Any, depth: int) -> list[Any]:
    first = schema.get("prefixItems") or []
    count = max(int(schema.get("minItems") or 0), 0)
    rest = schema.get("items", True)
    return [_smallest(first[at] if at < len(first) else rest, root, depth + 1) for at in range(count)]


def _string(schema: Mapping[str, Any]) -> str:
    text: str = _FORMATS.get(str(schema.get("format")), "")
    text = text.ljust(int(schema.get("minLength") or 0), "a")
    if pattern := schema.get("pattern"):
        for candidate in (text, text or "a", "A", "0", "00000", "2000-01-01", "a-0", "a@example.org"):
            if re.search(pattern, candidate):
                return candidate
        raise EngineError(f"found no text for the JSON schema's pattern {pattern}")
    return text


def _number(schema: Mapping[str, Any], *, is_integer: bool) -> float:
    low = max(schema.get("minimum", float("-inf")), schema.get("exclusiveMinimum", float("-inf")))
    high = min(schema.get("maximum", float("inf")), schema.get("exclusiveMaximum", float("inf")))
    step = schema.get("multipleOf") or 1
    value = 0 if low < 0 < high or low == 0 or (high == 0 and low < 0) else low if low > 0 else high
    if is_integer or "multipleOf" in schema:
        value = step * (-(-value // step) if value > 0 else value // step)
    if value == schema.get("exclusiveMinimum"):
        value += step if is_integer or high == float("inf") else (high - low) / 2
    elif value == schema.get("exclusiveMaximum"):
        value -= step if is_integer or low == float("-inf") else (high - low) / 2
    return int(value) if is_integer or value == int(value) else value
