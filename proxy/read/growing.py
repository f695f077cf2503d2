"""A numbered item of a streamed answer: its pieces come by kind and place, or it is told whole at its end.

For dialects whose streams number what they are made of (Responses' items, Anthropic's content blocks).
"""

from collections.abc import Hashable

from proxy.meaning import Part, PartKind


class Growing:
    """One item; an `Answer` holds it where it began."""

    __slots__ = ("_pieces", "_whole", "id", "name")

    def __init__(self) -> None:
        """Nothing of it came yet."""
        self.id: str | None = None
        """Of a tool call."""
        self.name: str | None = None
        self._pieces: dict[tuple[PartKind, Hashable], list[str]] = {}
        self._whole: tuple[Part, ...] | None = None

    def add(self, kind: PartKind, text: str, place: Hashable = 0) -> None:
        """A piece goes on; `place` tells it from others of the item."""
        pieces = self._pieces.setdefault((kind, place), [])
        if text:
            pieces.append(text)

    def set(self, kind: PartKind, text: str, place: Hashable = 0) -> bool:
        """A piece as told at its end, which replaces what came of it. Gives whether nothing had come."""
        is_new = not self._pieces.get((kind, place))
        self._pieces[kind, place] = [text] if text else []
        return is_new

    def put(self, *parts: Part) -> None:
        """The whole item: it takes the place of its pieces."""
        self._whole = parts

    @property
    def has_text(self) -> bool:
        """Whether anything of it came, by pieces or whole."""
        return self._whole is not None or any(self._pieces.values())

    def parts(self) -> tuple[Part, ...]:
        """As it is by now."""
        if self._whole is not None:
            return self._whole
        return tuple(
            Part(kind, "".join(texts), self.name, self.id) if kind is PartKind.TOOL_CALL else Part(kind, "".join(texts))
            for (kind, _), texts in self._pieces.items()
            if texts or kind is PartKind.TOOL_CALL
        )
