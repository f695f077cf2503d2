"""Compares answers with samples of LM Studio's documentation by form: keys, their order, and types, not values."""

import re
from collections.abc import Collection
from typing import Any

_SHOWN = 200


def same_form(sample: Any, got: Any, *, optional: Collection[str] = ()) -> None:
    """Assert that `got` has the form of `sample`.

    Objects have the same keys in the same order; values the same JSON type, all the way down. An integer of the sample
    asks for one, any other number takes both. Every element of a list is compared with the first of the sample's list,
    and there must be one; an empty list of the sample takes any list.

    Args:
        sample: JSON data. A compiled pattern stands for a string that it matches as a whole, a tuple for a choice of
            samples, `Any` (the type) for whatever there is.
        got: what came, parsed.
        optional: keys of the sample that may be missing, at any depth.

    Raises:
        AssertionError: the forms differ; it says where.
    """
    problem = _difference(sample, got, "$", optional)
    assert problem is None, problem


def _difference(sample: Any, got: Any, path: str, optional: Collection[str]) -> str | None:
    """Where and how they differ; None: they do not."""
    problem = None
    if isinstance(sample, tuple):
        problems = [_difference(one, got, path, optional) for one in sample]
        problem = None if None in problems else f"{path}: none of the choices: " + "; ".join(map(str, problems))
    elif isinstance(sample, re.Pattern):
        if not (isinstance(got, str) and sample.fullmatch(got)):
            problem = f"{path}: {_short(got)} does not match {sample.pattern}"
    elif sample is not Any and not _is_of_kind(_kind(sample), _kind(got)):
        problem = f"{path}: {_kind(got)} {_short(got)} instead of {_kind(sample)} {_short(sample)}"
    elif isinstance(sample, dict):
        problem = _difference_of_objects(sample, got, path, optional)
    elif isinstance(sample, list):
        problem = _difference_of_lists(sample, got, path, optional)
    return problem


def _is_of_kind(wanted: str, kind: str) -> bool:
    return kind == wanted or (wanted, kind) == ("number", "integer")


def _difference_of_objects(
    sample: dict[str, Any], got: dict[str, Any], path: str, optional: Collection[str]
) -> str | None:
    wanted = [key for key in sample if key in got or key not in optional]
    if wanted != list(got):
        missing = [key for key in wanted if key not in got]
        extra = [key for key in got if key not in sample]
        if not missing and not extra:
            return f"{path}: keys in the order {list(got)} instead of {wanted}"
        return f"{path}: keys {list(got)} instead of {wanted} (missing: {missing}, not in the sample: {extra})"
    for key in wanted:
        if problem := _difference(sample[key], got[key], f"{path}.{key}", optional):
            return problem
    return None


def _difference_of_lists(sample: list[Any], got: list[Any], path: str, optional: Collection[str]) -> str | None:
    if not sample:
        return None
    if not got:
        return f"{path}: an empty list; the sample has {_short(sample[0])} in it"
    for at, one in enumerate(got):
        if problem := _difference(sample[0], one, f"{path}[{at}]", optional):
            return problem
    return None


def _kind(value: Any) -> str:
    """The JSON type; integers apart from other numbers."""
    if value is None:
        return "null"
    kinds = (
        (bool, "boolean"),
        (int, "integer"),
        (float, "number"),
        (str, "string"),
        (list, "array"),
        (dict, "object"),
    )
    return next((name for kind, name in kinds if isinstance(value, kind)), type(value).__name__)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
