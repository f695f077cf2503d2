"""Fields of /api/v1 requests, each checked for its type: what they all have in common.

Codes as far as they are known (R: `missing_required_parameter`, `invalid_union`); the others are of the same style (U).
The words for a missing field: D, streaming-events.md.
"""

from collections.abc import Mapping
from typing import Any

from proxy.demo.http import Failure

_MOST = 2**31 - 1


def required(body: Mapping[str, Any], name: str) -> Any:
    """A field that must be there.

    Raises:
        Failure: it is not.
    """
    if body.get(name) is None:
        raise Failure(400, f'"{name}" is required', code="missing_required_parameter", param=name)
    return body[name]


def string(body: Mapping[str, Any], name: str) -> str | None:
    """A string.

    Raises:
        Failure: it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "a string")
    return value


def boolean(body: Mapping[str, Any], name: str) -> bool | None:
    """True or false.

    Raises:
        Failure: it is something else.
    """
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(name, "a boolean")
    return value


def integer(body: Mapping[str, Any], name: str, low: int, high: int = _MOST) -> int | None:
    """A whole number.

    Raises:
        Failure: it is something else, or out of its range.
    """
    value = number(body, name, low, high)
    if value is not None and value != int(value):
        raise _wrong(name, "an integer")
    return None if value is None else int(value)


def number(body: Mapping[str, Any], name: str, low: float, high: float = _MOST) -> float | None:
    """A number.

    Raises:
        Failure: it is something else, or out of its range.
    """
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "a number")
    if not low <= value <= high:
        code, words = ("too_small", f"at least {low}") if value < low else ("too_big", f"at most {high}")
        raise Failure(400, f'"{name}" must be {words}', code=code, param=name)
    return value


def choice(body: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str | None:
    """One of some words.

    Raises:
        Failure: it is something else.
    """
    value = string(body, name)
    if value is not None and value not in choices:
        raise Failure(400, f'"{name}" must be one of {", ".join(choices)}', code="invalid_enum_value", param=name)
    return value


def _wrong(name: str, kind: str) -> Failure:
    return Failure(400, f'"{name}" must be {kind}', code="invalid_type", param=name)
