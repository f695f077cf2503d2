"""JSON as JavaScript writes it, where Python would write it otherwise: whole numbers without a point."""

from typing import Any

_LEAST_WITH_EXPONENT = 1e21
"""From here on JavaScript writes an exponent, as Python does."""


def with_whole_numbers(value: Any) -> Any:
    """The same data; 2.0 is 2."""
    if isinstance(value, float) and value.is_integer() and abs(value) < _LEAST_WITH_EXPONENT:
        return int(value)
    if isinstance(value, dict):
        return {name: with_whole_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [with_whole_numbers(one) for one in value]
    return value
