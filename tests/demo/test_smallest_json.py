"""The smallest instance of a schema."""

from typing import Any

import pytest

from proxy.demo.engine import EngineError
from proxy.demo.smallest_json import smallest_json


@pytest.mark.parametrize(
    ("schema", "instance"),
    [
        ({}, {}),
        ({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}, "required": ["a"]}, {"a": ""}),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        (
            {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"}, "minItems": 2},
            [None, False],
        ),
        ({"enum": ["x", "y"]}, "x"),
        ({"const": 3}, 3),
        ({"type": ["string", "null"]}, ""),
        ({"type": "string", "minLength": 3}, "aaa"),
        ({"type": "string", "format": "date"}, "2000-01-01"),
        ({"type": "string", "pattern": "^[a-z]+$"}, "a"),
        ({"type": "integer", "minimum": 5}, 5),
        ({"type": "integer", "exclusiveMinimum": 5}, 6),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "minimum": 5, "multipleOf": 4}, 8),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"anyOf": [False, {"type": "null"}]}, None),
        ({"$defs": {"n": {"type": "integer"}}, "type": "array", "items": {"$ref": "#/$defs/n"}, "minItems": 1}, [0]),
        (
            {"allOf": [{"required": ["a"]}, {"properties": {"a": {"type": "null"}}}], "type": "object"},
            {"a": None},
        ),
    ],
)
def test_instance_has_what_the_schema_asks_for_and_no_more(schema: dict[str, Any], instance: object) -> None:
    assert smallest_json(schema) == instance


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (False, "nothing"),
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/nope"}, "#/nope"),
        ({"$ref": "#"}, "no end"),
        ({"type": "string", "pattern": "(?!)"}, "pattern"),
    ],
)
def test_impossible_schema_is_refused(schema: object, problem: str) -> None:
    with pytest.raises(EngineError, match=problem):
        smallest_json(schema)
