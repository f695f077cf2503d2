"""Finds what is left of a text that was cut: its head, its tail, both, and whole lines between them.

A cut goes through tokens: head and tail end anywhere. But where a text begins or ends stands a border, and where the
prompt itself begins or ends the rest may be short. A template's own text often begins like a message (`You are a
helpful...`), so that one end alone has to be long.
"""

from proxy.prompt.occurrences import MIDDLING, SHORT, Borders, places

_ONE_END = 32
"""A head or a tail without the other counts from this length on."""
_MAX_SEEDS = 8
_MAX_LINES = 256

Range = tuple[int, int, int]
"""Characters of the text, from and to, and where in the prompt they stand."""


def cut_ranges(prompt: str, low: int, high: int, text: str, borders: Borders) -> list[Range]:
    """What of a text stands in `prompt[low:high]`, in order; empty: nothing that is sure."""
    if high - low < 1 or len(text) < 2:
        return []
    head = _head(prompt, low, high, text, borders)
    tail = _tail(prompt, low, high, text, borders)
    if head and tail and tail[2] < head[2] + head[1]:  # they overlap, or stand in the wrong order
        if tail[2] > head[2]:
            cut = head[2] + head[1] - tail[2]
            tail = (tail[0] + cut, tail[1], tail[2] + cut) if tail[0] + cut < tail[1] else None
        elif tail[1] - tail[0] > head[1]:
            head = None
        else:
            tail = None
    if head and tail and tail[0] < head[1]:  # of the text
        cut = head[1] - tail[0]
        tail = (tail[0] + cut, tail[1], tail[2] + cut) if tail[0] + cut < tail[1] else None
    if head and not tail:
        tail = _short_tail(prompt, head, high, text, borders)
    elif tail and not head:
        head = _short_head(prompt, tail, low, text, borders)
    ends = [one for one in (head, tail) if one]
    if not _is_sure(prompt, ends, text):
        ends = []
    return _with_lines(prompt, low, high, text, ends)


def _is_sure(prompt: str, ends: list[Range], text: str) -> bool:
    length = sum(end - start for start, end, _ in ends)
    if len(ends) != 1:
        return length >= SHORT
    start, end, place = ends[0]
    is_at_end = place == 0 if start else place + end - start == len(prompt)
    return length >= (SHORT if is_at_end else _ONE_END)


def _head(prompt: str, low: int, high: int, text: str, borders: Borders) -> Range | None:
    seed = text[:SHORT]
    best = 0, 0
    for place in places(prompt, seed, low, high)[:_MAX_SEEDS]:
        if borders.before(place):
            best = max(best, (_common(text, 0, prompt, place, high), -place))
    return (0, best[0], -best[1]) if best[0] else None


def _tail(prompt: str, low: int, high: int, text: str, borders: Borders) -> Range | None:
    seed = text[-SHORT:]
    best = 0, 0
    for place in places(prompt, seed, low, high)[-_MAX_SEEDS:]:
        end = place + len(seed)
        if borders.after(end):
            best = max(best, (_common_back(text, prompt, low, end), end))
    return (len(text) - best[0], len(text), best[1] - best[0]) if best[0] else None


def _short_tail(prompt: str, head: Range, high: int, text: str, borders: Borders) -> Range | None:
    """The last characters of a text, directly behind its head."""
    at = head[2] + head[1]
    for length in range(min(SHORT, len(text) - head[1], high - at), 0, -1):
        if prompt.startswith(text[-length:], at) and borders.after(at + length):
            return len(text) - length, len(text), at
    return None


def _short_head(prompt: str, tail: Range, low: int, text: str, borders: Borders) -> Range | None:
    """The first characters of a text, directly before its tail."""
    for length in range(min(SHORT, tail[0], tail[2] - low), 0, -1):
        at = tail[2] - length
        if prompt.startswith(text[:length], at) and borders.before(at):
            return 0, length, at
    return None


def _with_lines(prompt: str, low: int, high: int, text: str, ends: list[Range]) -> list[Range]:
    """Besides head and tail those whole lines that stand between them, in order."""
    head = next((one for one in ends if one[0] == 0), None)
    tail = next((one for one in ends if one is not head), None)
    at, stop = (head[1] if head else 0), (tail[0] if tail else len(text))
    place, limit = (head[2] + head[1] if head else low), (tail[2] if tail else high)
    found = [head] if head else []
    looked = 0
    while at < stop and limit - place >= MIDDLING and looked < _MAX_LINES:
        line_end = text.find("\n", at, stop)
        line_end = stop if line_end < 0 else line_end
        if line_end - at >= _ONE_END:
            looked += 1
            where = prompt.find(text[at:line_end], place, limit)
            if where >= 0:
                found.append((at, line_end, where))
                place = where + line_end - at
        at = line_end + 1
    return [*found, tail] if tail else found


def _common(text: str, at: int, prompt: str, place: int, high: int) -> int:
    """How many characters from there on are equal."""
    low, most = 0, min(len(text) - at, high - place)
    while low < most:
        middle = (low + most + 1) // 2
        if prompt.startswith(text[at + low : at + middle], place + low):
            low = middle
        else:
            most = middle - 1
    return low


def _common_back(text: str, prompt: str, start: int, end: int) -> int:
    """How many characters before `end` are equal to the text's last ones."""
    low, most = 0, min(len(text), end - start)
    while low < most:
        middle = (low + most + 1) // 2
        if prompt.startswith(text[len(text) - middle : len(text) - low], end - middle):
            low = middle
        else:
            most = middle - 1
    return low
