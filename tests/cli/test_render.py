"""Numbers, times and foreign text in the terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from proxy.cli.render import duration, fit, printable, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *((None, "-"), (0, "0"), (999, "999"), (1000, "1.0k"), (9949, "9.9k"), (9950, "10k"), (999_499, "999k")),
        *((999_500, "1.0M"), (64_000_000, "64M"), (2_500_000_000, "2.5G"), (10**12, "1.0T")),
    ],
)
def test_size(count: int | None, text: str) -> None:
    assert size(count) == text


@given(st.integers(0, 10**12))
def test_size_fits_its_column(count: int) -> None:
    assert len(size(count)) <= 4


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        *((None, "-"), (0.04, "0.0ms"), (9.94, "9.9ms"), (83.4, "83ms"), (999.4, "999ms"), (999.6, "1.00s")),
        *(
            (12_345, "12.3s"),
            (59_960, "1m00s"),
            (125_000, "2m05s"),
            (599_400, "9m59s"),
            (599_500, "10.0m"),
            (3_600_000, "1.0h"),
        ),
    ],
)
def test_duration(ms: float | None, text: str) -> None:
    assert duration(ms) == text


@given(st.floats(0, 99 * 3.6e6))
def test_duration_fits_its_column(ms: float) -> None:
    assert len(duration(ms)) <= 5


@given(st.text(), st.integers(1, 40), st.booleans())
def test_fitted_text_has_exactly_that_width(text: str, width: int, keep_end: bool) -> None:
    assert cell_len(fit(printable(text, is_one_line=True), width, keep_end=keep_end)) == width


def test_end_of_a_long_path_stays() -> None:
    assert fit("/v1/chat/completions", 15, keep_end=True) == "\u2026at/completions"


def test_printable_text_cannot_steer_the_terminal() -> None:
    assert printable("a\x1b[2Jb\x9b\u202ec\x7f\r\nd\re\tf") == "a\u241b[2Jb\ufffd\ufffdc\u2421\nd\u240de\tf"
    assert printable("a\r\nb\nc\td", is_one_line=True) == "a\u23ceb\u23cec d"


@given(st.text())
def test_printable_text_can_always_be_encoded(text: str) -> None:
    assert "\x1b" not in printable(text).encode().decode()
