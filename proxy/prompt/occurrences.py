"""Where texts stand in a prompt, and which of these places are the likeliest, taken together and in order.

Facts
-----
* A template sets messages in their order, each between marks of its own: special tokens (`<|im_end|>`, `[/INST]`) or
  line breaks. Where such a mark ends or begins is a border. A short text that stands at no border may be anything.
* What an overflow drops are the oldest messages, or those behind the first; the newest stay. So of equal messages the
  later ones are taken to be in the prompt.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

SHORT = 8
"""A text shorter than this counts only between two borders."""
MIDDLING = 24
"""One shorter than this counts only at a border."""
_OVERLAPPING = 32
"""Occurrences of longer texts may not overlap each other: that would take too long to look through."""
_MAX_OCCURRENCES = 1 << 12
"""So many of one text are looked at, and as many from the prompt's end."""
_MAX_CANDIDATES = 100_000
_ROLE_NAMES = {
    "system": ("system", "developer", "sys"),
    "developer": ("developer", "system"),
    "user": ("user", "inst", "human"),
    "assistant": ("assistant", "model", "/inst", "gpt"),
    "tool": ("tool", "ipython", "function", "environment", "user"),
}
_ROLE_WORDS = frozenset(("system", "developer", "user", "human", "assistant", "model", "tool", "ipython", "function"))
_ROLE_REACH = 32
_BEFORE, _AFTER = 4, 3
_NOT_BLANK = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Unit:
    """One text to be found: a part of a piece, or the rest of it that some templates leave over."""

    key: int
    """Units of one key are different forms of one text."""
    text: str
    """Without blanks at its ends; not empty."""
    role: str
    start: int
    """Where in the part it begins."""
    is_verbatim: bool = True
    """False: another way to write it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A unit's place in the prompt."""

    unit: Unit
    start: int
    end: int


class Borders:
    """Where in a prompt a message may begin or end."""

    def __init__(self, prompt: str) -> None:
        """Nothing is looked at yet."""
        self._prompt = prompt
        self._befores: frozenset[str] = frozenset()
        self._afters: frozenset[str] = frozenset()

    def learn(self, found: Iterable[Found]) -> None:
        """What stands around long texts is taken for a mark from now on: `USER: `, ` ASSISTANT:`."""
        sure = [one for one in found if len(one.unit.text) >= MIDDLING]
        self._befores = frozenset(self._prompt[max(0, one.start - _BEFORE) : one.start] for one in sure)
        self._afters = frozenset(self._prompt[one.end : one.end + _AFTER] for one in sure)

    def before(self, start: int) -> bool:
        """Whether a text that begins here begins at a border; blanks between do not count."""
        at = start - 1
        while at >= 0 and self._prompt[at].isspace() and self._prompt[at] not in "\n\r":
            at -= 1
        if at < 0 or self._prompt[at] in "\n\r>]":
            return True
        return start >= _BEFORE and self._prompt[start - _BEFORE : start] in self._befores

    def after(self, end: int) -> bool:
        """Whether a text that ends here ends at a border."""
        at = end
        while at < len(self._prompt) and self._prompt[at].isspace() and self._prompt[at] not in "\n\r":
            at += 1
        if at == len(self._prompt) or self._prompt[at] in "\n\r<[":
            return True
        return self._prompt[end : end + _AFTER] in self._afters

    def weight(self, unit: Unit, start: int, end: int) -> int:
        """How much it is worth to have the unit here; 0: it may not be here.

        Characters count before all else: two short texts are never worth more than a longer one that holds both.
        """
        before, after = self.before(start), self.after(end)
        length = end - start
        if (length < SHORT and not (before and after)) or (length < MIDDLING and not (before or after)):
            return 0
        prompt = self._prompt
        if unit.text.lower() in _ROLE_WORDS and start and not prompt[start - 1].isspace():
            return 0  # the mark of a turn: "<|im_start|>user"
        near = prompt[max(0, start - _ROLE_REACH) : start].lower()
        names = _ROLE_NAMES.get(unit.role, (unit.role.lower(),))
        return length * 4 + before + after + any(name in near for name in names if name)


def places(prompt: str, text: str, start: int = 0, end: int | None = None) -> list[int]:
    """Where a text stands in `prompt[start:end]`, in order; of very many the first and the last."""
    end = len(prompt) if end is None else end
    step = 1 if len(text) < _OVERLAPPING else len(text)
    found: list[int] = []
    at = prompt.find(text, start, end)
    while at >= 0 and len(found) < _MAX_OCCURRENCES:
        found.append(at)
        at = prompt.find(text, at + step, end)
    if at < 0:
        return found
    last: list[int] = []
    behind, at = end, prompt.rfind(text, found[-1] + step, end)
    while at >= 0 and len(last) < _MAX_OCCURRENCES:
        last.append(at)
        behind = at + len(text) - step
        at = prompt.rfind(text, found[-1] + step, behind)
    return found + last[::-1]


def chain(prompt: str, units: Sequence[Unit], borders: Borders) -> list[Found]:
    """The places of units, in order and without overlap, that are worth most together; at most one of each key.

    Units of one key must stand together. Costs about the prompt's length for each different text, and little for each
    place.
    """
    copies: dict[str, int] = {}
    for unit in units:
        copies[unit.text] = copies.get(unit.text, 0) + 1
    weighed: dict[tuple[str, str], list[tuple[int, int]]] = {}
    seen: dict[str, int] = {}
    most = max(8, _MAX_CANDIDATES // max(1, len(units)))
    best = _Best()
    at = 0
    while at < len(units):
        key = units[at].key
        reached = []
        while at < len(units) and units[at].key == key:
            unit = units[at]
            at += 1
            same = unit.text, unit.role
            if same not in weighed:
                weighed[same] = [
                    (start, weight)
                    for start in places(prompt, unit.text)
                    if (weight := borders.weight(unit, start, start + len(unit.text)))
                ]
            number = seen[unit.text] = seen.get(unit.text, -1) + 1
            for start, weight in _likely(weighed[same], number, copies[unit.text], most):
                link = best.until(start)
                found = Found(unit, start, start + len(unit.text))
                reached.append(_Link(found, link, weight + (link.value if link else 0)))
        for one in reached:
            best.add(one)
    return best.path()


def _likely(candidates: list[tuple[int, int]], number: int, copies: int, most: int) -> Collection[tuple[int, int]]:
    """Of very many places those that the `number`-th of `copies` equal texts has if few are dropped."""
    if len(candidates) <= most:
        return candidates
    from_end = len(candidates) - copies + number
    half = most // 2
    indexes = {*range(number - half // 2, number + half // 2), *range(from_end - half // 2, from_end + half // 2)}
    return [candidates[index] for index in sorted(indexes) if 0 <= index < len(candidates)]


@dataclass(frozen=True, slots=True)
class _Link:
    found: Found
    before: "_Link | None"
    value: int


class _Best:
    """For each end the best chain so far; chains that end later and are worth no more are forgotten."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._links: list[_Link] = []

    def until(self, start: int) -> _Link | None:
        """The best chain that ends at `start` or before."""
        at = bisect_right(self._ends, start)
        return self._links[at - 1] if at else None

    def add(self, link: _Link) -> None:
        """Take a chain in; of equal ones with one end the later wins."""
        end = link.found.end
        at = bisect_left(self._ends, end)
        if at and self._links[at - 1].value >= link.value:
            return
        behind = at
        while behind < len(self._ends) and self._links[behind].value <= link.value:
            behind += 1
        if behind == at and at < len(self._ends) and self._ends[at] == end:
            return  # a better one ends here
        self._ends[at:behind] = [end]
        self._links[at:behind] = [link]

    def path(self) -> list[Found]:
        """The best chain."""
        path = []
        link = self._links[-1] if self._links else None
        while link is not None:
            path.append(link.found)
            link = link.before
        return path[::-1]


def stripped(text: str) -> tuple[int, str]:
    """A text without blanks at its ends, and how many stood before it."""
    match = _NOT_BLANK.search(text)
    return (match.start(), text.strip()) if match else (len(text), "")


def skip_blanks(prompt: str, at: int) -> int:
    """Where the blanks that begin there end."""
    while at < len(prompt) and prompt[at].isspace():
        at += 1
    return at


def skip_blanks_back(prompt: str, at: int) -> int:
    """Where the blanks that end there begin."""
    while at > 0 and prompt[at - 1].isspace():
        at -= 1
    return at
