"""`same_form` tells every difference of form, and no difference of values."""

import re
from typing import Any

import pytest

from tests.demo.samples import same_form


@pytest.mark.parametrize(
    ("sample", "got"),
    [
        ({"a": 1, "b": "x"}, {"a": 2, "b": ""}),
        (1.5, 2),
        ([{"a": None}], [{"a": None}, {"a": None}]),
        ([], [1, "x"]),
        (re.compile("x+"), "xxx"),
        (("x", None), None),
        (Any, {"whatever": 1}),
    ],
)
def test_same_form_is_accepted(sample: Any, got: Any) -> None:
    same_form(sample, got)


@pytest.mark.parametrize(
    ("sample", "got", "words"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, r"\$: keys in the order \['b', 'a'\] instead of \['a', 'b'\]"),
        ({"a": 1}, {}, r"missing: \['a'\]"),
        ({}, {"a": 1}, r"not in the sample: \['a'\]"),
        ({"a": {"b": 1}}, {"a": {"b": "1"}}, r"\$\.a\.b: string '1' instead of integer 1"),
        (1, 1.5, "number 1.5 instead of integer 1"),
        (1, True, "boolean True instead of integer 1"),
        (None, 0, "integer 0 instead of null None"),
        ({}, [], r"array \[\] instead of object"),
        ([{"a": 1}], [{"a": 1}, {}], r"\$\[1\]: keys"),
        ([1], [], "an empty list; the sample has 1 in it"),
        (re.compile("x+"), "xy", r"'xy' does not match x\+"),
        (re.compile("x+"), 1, r"1 does not match"),
        (("x", None), 1, "none of the choices"),
    ],
)
def test_other_form_is_refused_and_says_where(sample: Any, got: Any, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        same_form(sample, got)


def test_optional_keys_may_be_missing_but_not_wrong() -> None:
    sample = {"a": [{"b": 1, "c": 2}]}
    same_form(sample, {"a": [{"b": 1}, {"b": 1, "c": 2}]}, optional=["c"])
    with pytest.raises(AssertionError, match=r"\$\.a\[0\]\.c: string"):
        same_form(sample, {"a": [{"b": 1, "c": "x"}]}, optional=["c"])
