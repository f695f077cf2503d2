"""Each known form in which a server says that a prompt does not fit."""

import pytest

from proxy.demo.behaviour import Behaviour
from proxy.demo.http import overflow_words
from proxy.demo.overflow import ContextOverflowError
from proxy.prompt.refusals import Refusal, read_refusal


@pytest.mark.parametrize(
    ("form", "refusal"),
    [
        ("input", Refusal(31430, 30000)),
        ("request", Refusal(31430, 30000)),
        ("engine", Refusal(31430, 30000)),
        ("keep", Refusal(None, 30000)),
        ("n_keep", Refusal(None, 30000)),
        ("prompt", Refusal(None, None)),
    ],
)
def test_the_forms_of_lm_studios_versions_are_read(form: str, refusal: Refusal) -> None:
    words = overflow_words(ContextOverflowError(31430, 30000), Behaviour(overflow_message=form))  # type: ignore[arg-type]
    assert read_refusal(words) == refusal


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (("Context size has been exceeded",), Refusal(None, None)),
        (("the prompt", "exceed_context_size_error"), Refusal(None, None)),
        (("no room", None, "context_length_exceeded"), Refusal(None, None)),
        (("This model's maximum context length is 4096 tokens.",), Refusal(None, 4096)),
        (("The model has crashed without additional information.",), None),
        (("",), None),
    ],
)
def test_other_forms_are_told_from_other_errors(error: tuple[str, ...], refusal: Refusal | None) -> None:
    assert read_refusal(*error) == refusal
