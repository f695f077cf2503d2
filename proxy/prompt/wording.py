"""How differences are put into words: numbers, quotations, lists."""

from collections.abc import Sequence

MAX_QUOTED = 300
"""Characters of a text that are quoted."""


def count(number: int, noun: str) -> str:
    """`1 message`, `1,200 messages`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def is_or_are(number: int) -> str:
    """The verb behind so many."""
    return "is" if number == 1 else "are"


def quoted(text: str, limit: int = MAX_QUOTED) -> str:
    """A text between quotation marks; of a long one its beginning, and how long it is."""
    if len(text) <= limit:
        return f'"{text}"'
    return f'"{text[:limit]}\u2026" ({count(len(text), "character")})'


def listed(words: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1]))) if words else ""


def numbers(places: Sequence[int]) -> str:
    """`3`, `1 to 4`, `0, 2 to 5 and 9`: three neighbours or more in one."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][1] + 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    words = []
    for first, last in runs:
        words += [f"{first:,} to {last:,}"] if last > first + 1 else [f"{place:,}" for place in range(first, last + 1)]
    return listed(words)
