"""Tells what each stretch of a rendered prompt came from, and what became of each message on its way into it.

Facts
-----
* Templates strip blanks around messages, put the system's text into the first user's turn (Gemma), leave out what was
  thought in earlier turns (`<think>`, Qwen3), write tool calls and definitions anew, and add text of their own.
* An overflow drops the oldest messages, those behind the first, or tokens out of the middle (design.md 6; D for the
  policies' names, U for how much is cut). Of a message that is cut its head, its tail, or both stay.

Nothing is guessed: what is too short or in no likely place is given to the template, and its message is missing.
Works on any strings, raises on none, and costs little more than some searches of the prompt for each message.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from proxy.meaning import SpanKind
from proxy.prompt.claims import Claim, Claims
from proxy.prompt.cuts import cut_ranges
from proxy.prompt.fates import Alignment, Fate, MessageFate, Piece, Span
from proxy.prompt.occurrences import (
    MIDDLING,
    Borders,
    Found,
    Unit,
    chain,
    places,
    skip_blanks,
    skip_blanks_back,
    stripped,
)
from proxy.prompt.reserialised import JsonObject, WrittenAnew, call_of, escaped, is_definition, parsed

__all__ = ["Alignment", "Fate", "MessageFate", "Piece", "Span", "align"]

_THOUGHT_END = "</think>"
_NEAR = 96
"""So far before a call's arguments its name may stand."""


def align(prompt: str, pieces: Sequence[Piece]) -> Alignment:
    """Find pieces in a prompt. Messages are given in their order; tools may stand anywhere among them."""
    return _Aligner(prompt, pieces).align()


@dataclass(slots=True)
class _Part:
    """A message's text on its way."""

    piece: Piece
    number: int
    text: str
    start: int
    """Where in the part the text without blanks begins."""
    span: tuple[int, int] | None = None
    """Where in the prompt it stands, or what there is of it."""
    is_changed: bool = False
    is_elsewhere: bool = False
    """It stands out of its order."""


class _Aligner:
    def __init__(self, prompt: str, pieces: Sequence[Piece]) -> None:
        self._prompt = prompt
        self._messages = [piece for piece in pieces if piece.kind is SpanKind.MESSAGE]
        self._tools = [piece for piece in pieces if piece.kind is not SpanKind.MESSAGE]
        self._claims = Claims()
        self._borders = Borders(prompt)
        self._objects: WrittenAnew | None = None
        self._parts: list[_Part] = []
        for piece in self._messages:
            for number, text in enumerate(piece.texts):
                start, bare = stripped(text)
                if bare:
                    self._parts.append(_Part(piece, number, bare, start))

    def align(self) -> Alignment:
        self._find_whole()
        self._find_beside()
        self._find_elsewhere()
        self._find_calls()
        self._find_tools()
        self._find_cut()
        self._take_blanks()
        return Alignment(tuple(self._spans()), tuple(self._fates()))

    def _claim(self, part: _Part, start: int, end: int, part_start: int | None) -> None:
        """Give a stretch to a part."""
        self._claims.add(Claim(start, end, part.piece.kind, part.piece.position, part.number, part_start))
        part.span = (start, end) if part.span is None else (min(part.span[0], start), max(part.span[1], end))
        part.is_changed = part.is_changed or part_start is None

    # --- whole texts --------------------------------------------------------------------------------------------------

    def _find_whole(self) -> None:
        """Texts that stand there whole, in order."""
        units = [unit for key, part in enumerate(self._parts) for unit in self._units(key, part)]
        found = chain(self._prompt, units, self._borders)
        if any(len(part.text) < MIDDLING for part in self._parts) and self._is_short_of(found):
            self._borders.learn(found)
            found = chain(self._prompt, units, self._borders)
        for one in found:
            self._claim(self._parts[one.unit.key], one.start, one.end, one.unit.start if one.unit.is_verbatim else None)

    def _units(self, key: int, part: _Part) -> Iterable[Unit]:
        text, role = part.text, part.piece.role
        yield Unit(key, text, role, part.start)
        _, is_thought, rest = text.rpartition(_THOUGHT_END)
        if is_thought:
            blanks, bare = stripped(rest)
            if bare:
                yield Unit(key, bare, role, part.start + len(text) - len(rest) + blanks)
        if ("\\" in text or not text.isascii() or not text.isprintable() or '"' in text) and text not in self._prompt:
            for form in escaped(text):
                yield Unit(key, form, role, part.start, is_verbatim=False)

    def _is_short_of(self, found: Sequence[Found]) -> bool:
        keys = {one.unit.key for one in found}
        return any(len(part.text) < MIDDLING for key, part in enumerate(self._parts) if key not in keys)

    def _find_beside(self) -> None:
        """Short texts of a message that stand directly beside its other ones."""
        prompt = self._prompt
        for before, part in pairwise(self._parts):
            if part.piece is before.piece and part.span is None and before.span is not None:
                start = skip_blanks(prompt, before.span[1])
                if prompt.startswith(part.text, start) and self._claims.is_free(start, start + len(part.text)):
                    self._claim(part, start, start + len(part.text), part.start)
        for part, behind in reversed([*pairwise(self._parts)]):
            if part.piece is behind.piece and part.span is None and behind.span is not None:
                end = skip_blanks_back(prompt, behind.span[0])
                start = end - len(part.text)
                if start >= 0 and prompt.startswith(part.text, start) and self._claims.is_free(start, end):
                    self._claim(part, start, end, part.start)

    def _find_elsewhere(self) -> None:
        """Long texts that a template has put out of their order."""
        for part in self._parts:
            if part.span is None and len(part.text) >= MIDDLING:
                for start in places(self._prompt, part.text)[:16]:
                    end = start + len(part.text)
                    if self._claims.is_free(start, end) and (self._borders.before(start) or self._borders.after(end)):
                        self._claim(part, start, end, part.start)
                        part.is_elsewhere = True
                        break

    # --- what was written anew ----------------------------------------------------------------------------------------

    def _anew(self) -> WrittenAnew:
        if self._objects is None:
            self._objects = WrittenAnew(self._prompt)
        return self._objects

    def _first_free(self, objects: Iterable[JsonObject]) -> JsonObject | None:
        return next((one for one in objects if self._claims.is_free(one.start, one.end)), None)

    def _find_calls(self) -> None:
        """Tool calls, and other texts that are JSON."""
        for part, low, high in self._open_parts():
            call = call_of(part.text)
            value = parsed(part.text) if call is None else None
            if call is None and not value:
                continue
            if call is None:
                same = self._first_free(self._anew().saying(value, low, high))
                if same is not None:
                    self._claim(part, same.start, same.end, None)
                continue
            name, arguments = call
            written = self._first_free(self._anew().calling(name, arguments, low, high))
            if written is not None:
                self._claim_call(part, written.start, written.end, name)
                continue
            alone = self._first_free(self._anew().saying(arguments, low, high)) if arguments else None
            if alone is not None:
                begin = self._prompt.rfind(name, max(low, alone.start - _NEAR), alone.start)
                if begin >= 0 and self._claims.is_free(begin, alone.end):
                    self._claim_call(part, begin, alone.end, name)

    def _claim_call(self, part: _Part, start: int, end: int, name: str) -> None:
        """Name and arguments as they were sent, if they stand there so; otherwise the stretch, as written anew."""
        arguments = part.text[len(name) + 1 :].strip()
        name_at = self._prompt.find(name, start, end)
        at = self._prompt.find(arguments, start, end)
        if name_at >= 0 and at >= 0 and (name_at + len(name) <= at or at + len(arguments) <= name_at):
            self._claim(part, name_at, name_at + len(name), part.start)
            self._claim(part, at, at + len(arguments), part.start + part.text.index(arguments, len(name)))
        else:
            self._claim(part, start, end, None)

    def _find_tools(self) -> None:
        """Definitions of tools, or what there is of them."""
        for tool in self._tools:
            texts = [*enumerate(tool.texts)]
            if not texts or not texts[0][1]:
                continue
            name = texts[0][1]
            schema = parsed(tool.texts[-1].strip()) if len(texts) > 1 else None
            definitions = (one for one in self._anew().all if is_definition(one.value, name, schema))
            written = self._first_free(definitions)
            if written is not None:
                claim = Claim(written.start, written.end, SpanKind.TOOLS, tool.position, None, None)
                self._claims.add(claim)
                continue
            first: int | None = None
            for number, text in texts[1:]:
                start = self._free_place(text) if len(text) >= MIDDLING else None
                if start is not None:
                    self._claims.add(Claim(start, start + len(text), SpanKind.TOOLS, tool.position, number, 0))
                    first = start if first is None else min(first, start)
            if first is not None:
                start = self._prompt.rfind(name, max(0, first - _NEAR), first)
                if start >= 0 and self._claims.is_free(start, start + len(name)):
                    self._claims.add(Claim(start, start + len(name), SpanKind.TOOLS, tool.position, 0, 0))

    def _free_place(self, text: str) -> int | None:
        starts = places(self._prompt, text)[:16]
        return next((start for start in starts if self._claims.is_free(start, start + len(text))), None)

    # --- what was cut -------------------------------------------------------------------------------------------------

    def _open_parts(self) -> Iterator[tuple[_Part, int, int]]:
        """What is not found yet, each with the stretch between what is found before and behind it."""
        highs = []
        high = len(self._prompt)
        for part in reversed(self._parts):
            highs.append(high)
            if part.span is not None and not part.is_elsewhere:
                high = part.span[0]
        low = 0
        for part, high in zip(self._parts, reversed(highs), strict=True):
            if part.span is None:
                yield part, low, high
            if part.span is not None and not part.is_elsewhere:
                low = part.span[1]

    def _find_cut(self) -> None:
        """Heads and tails of texts that do not stand there whole."""
        for part, low, high in self._open_parts():
            for start, end in self._claims.free(low, high):
                ranges = cut_ranges(self._prompt, start, end, part.text, self._borders)
                for text_start, text_end, place in ranges:
                    self._claim(part, place, place + text_end - text_start, part.start + text_start)
                if ranges:
                    break

    # --- the result ---------------------------------------------------------------------------------------------------

    def _take_blanks(self) -> None:
        """Blanks at the ends of texts, where the template has kept them."""
        texts = {(piece.position, number): text for piece in self._messages for number, text in enumerate(piece.texts)}
        for claim in self._claims.all():
            if claim.kind is not SpanKind.MESSAGE or claim.part_start is None or claim.position is None:
                continue
            text = texts[claim.position, claim.part or 0]
            start, end, part_start = claim.start, claim.end, claim.part_start
            low, high = self._claims.room(claim, len(self._prompt))
            is_first, is_last = not text[:part_start].strip(), not text[part_start + end - start :].strip()
            while is_first and part_start and start > low and self._prompt[start - 1] == text[part_start - 1]:
                start, part_start = start - 1, part_start - 1
            while (
                is_last
                and end < high
                and self._prompt[end] == text[part_start + end - start : part_start + end - start + 1]
            ):
                end += 1
            self._claims.replace(claim, Claim(start, end, claim.kind, claim.position, claim.part, part_start))

    def _spans(self) -> Iterable[Span]:
        at = 0
        for one in self._claims.all():
            if at < one.start:
                yield Span(at, one.start, SpanKind.TEMPLATE, None, None, None)
            yield Span(one.start, one.end, one.kind, one.position, one.part, one.part_start)
            at = one.end
        if at < len(self._prompt):
            yield Span(at, len(self._prompt), SpanKind.TEMPLATE, None, None, None)

    def _fates(self) -> Iterable[MessageFate]:
        ranges: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for one in self._claims.all():
            if one.kind is SpanKind.MESSAGE and one.part_start is not None:
                key = one.position, one.part or 0
                ranges.setdefault(key, []).append((one.part_start, one.part_start + one.end - one.start))
        parts: dict[int, list[_Part]] = {}
        for part in self._parts:
            parts.setdefault(part.piece.position, []).append(part)
        for piece in self._messages:
            own = parts.get(piece.position, [])
            fates = {_fate(part, ranges.get((piece.position, part.number), [])) for part in own}
            told = [
                (part.number, start, end)
                for part in own
                for start, end in sorted(ranges.get((piece.position, part.number), []))
            ]
            yield MessageFate(piece.position, _together(fates), tuple(told))


def _fate(part: _Part, ranges: list[tuple[int, int]]) -> Fate:
    if part.span is None:
        return Fate.MISSING
    if part.is_changed:
        return Fate.CHANGED
    text = part.piece.texts[part.number]
    at = 0
    for start, end in sorted(ranges):
        if text[at:start].strip():
            return Fate.PARTLY
        at = max(at, end)
    return Fate.PARTLY if text[at:].strip() else Fate.KEPT


def _together(fates: set[Fate]) -> Fate:
    """A message's fate, by those of its texts."""
    if not fates:
        return Fate.NOT_TEXT
    if len(fates) == 1:
        return next(iter(fates))
    return Fate.CHANGED if fates == {Fate.KEPT, Fate.CHANGED} else Fate.PARTLY
