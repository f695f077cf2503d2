"""Stretches of a prompt that are known to belong to something; no two overlap."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.meaning import SpanKind


@dataclass(frozen=True, slots=True)
class Claim:
    """Characters `[start, end)` of the prompt, and whose they are."""

    start: int
    end: int
    kind: SpanKind
    position: int
    part: int | None
    part_start: int | None
    """Where in the part's text it begins; None: it is written anew."""


class Claims:
    """Claims in the order in which they stand."""

    def __init__(self) -> None:
        """There are none."""
        self._starts: list[int] = []
        self._claims: list[Claim] = []

    def all(self) -> list[Claim]:
        """A copy of all."""
        return [*self._claims]

    def add(self, claim: Claim) -> None:
        """Take one in. It must be free, and not empty."""
        at = bisect_left(self._starts, claim.start)
        self._starts.insert(at, claim.start)
        self._claims.insert(at, claim)

    def replace(self, claim: Claim, by: Claim) -> None:
        """Put another in its place, within its room."""
        at = bisect_left(self._starts, claim.start)
        self._starts[at], self._claims[at] = by.start, by

    def room(self, claim: Claim, end: int) -> tuple[int, int]:
        """How far a claim may grow in a prompt of `end` characters."""
        at = bisect_left(self._starts, claim.start)
        low = self._claims[at - 1].end if at else 0
        return low, self._starts[at + 1] if at + 1 < len(self._starts) else end

    def is_free(self, start: int, end: int) -> bool:
        """Whether nothing of a stretch is claimed."""
        at = bisect_right(self._starts, start)
        return (not at or self._claims[at - 1].end <= start) and (at == len(self._starts) or self._starts[at] >= end)

    def free(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What is free of a stretch, in order."""
        at = max(0, bisect_right(self._starts, start) - 1)
        for claim in self._claims[at : bisect_left(self._starts, end)]:
            if start < claim.start:
                yield start, min(claim.start, end)
            start = max(start, claim.end)
        if start < end:
            yield start, end
