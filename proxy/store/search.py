"""Full-text search by trigrams: the same for every language, without accents and case.

Facts (https://www.sqlite.org/fts5.html, sections 4.3.4 and 4.6)
----------------------------------------------------------------
* The trigram tokenizer indexes every three characters in a row. With `detail=none` the index says which messages have a
  trigram, not where: half of the room. So a text is found by all its trigrams together, and then looked at.
* Fewer than three characters make no trigram, yet Chinese words are often two. Indexed texts end in two blanks, so that
  every character begins a trigram, and the index's own vocabulary tells those that begin with one or two characters.
"""

import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_PADDING = "  "
_MARKS = re.compile("[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]+")
"""What accents become when letters are decomposed."""
_AT_ONCE = 400
_MAX_TRIGRAMS = 24
_MAX_TERMS = 600
_HIGHEST = "\U0010ffff" * 3
_BLOCK = 512
_AROUND = 60

_CANDIDATES = "SELECT rowid FROM message_search WHERE message_search MATCH ? AND rowid < ? ORDER BY rowid DESC LIMIT ?"
_ALL = "SELECT id FROM read_messages WHERE id < ? ORDER BY id DESC LIMIT ?"
_TERMS = "SELECT term FROM message_trigrams WHERE term >= ? AND term < ? LIMIT ?"
_TEXTS = (
    "SELECT m.id, m.role, m.text, m.parts, m.first_call_id, c.exchange_id FROM messages m"
    " JOIN read_calls c ON c.id = m.first_call_id WHERE m.id IN (SELECT value FROM json_each(?)) ORDER BY m.id DESC"
)


@dataclass(frozen=True, slots=True)
class Hit:
    """A message that has the words."""

    message_id: int
    role: str
    call_id: int
    """The call that had the message first."""
    exchange_id: int
    before: str
    found: str
    """As it is written there."""
    after: str


def folded(text: str) -> str:
    """Text without accents and case: what is compared."""
    if text.isascii():
        return text.lower()
    # Some letters are found to be capitals only when they are decomposed, and some that are folded decompose.
    return _MARKS.sub("", unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold()))


def searchable(text: str) -> str:
    """What is indexed of a text."""
    return _without_nul(folded(text)) + _PADDING


class Search:
    """Searches the messages of one trace."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def find(self, words: str, limit: int = 20, *, before_id: int = 1 << 62) -> list[Hit]:
        """The newest messages that have `words` as they are written, case and accents aside; the newest first."""
        wanted = folded(words)
        hits: list[Hit] = []
        if not _can_be_stored(words) or (query := self._query(_without_nul(wanted))) is None:
            return hits
        while len(hits) < limit:
            ids = self._candidates(query, before_id)
            if not ids:
                break
            before_id = ids[-1]
            for row in self._connection.execute(_TEXTS, (str(ids),)):
                hits += self._hit(wanted, row)
                if len(hits) == limit:
                    break
        return hits

    def _candidates(self, query: str, before_id: int) -> list[int]:
        """The newest messages that may have the words."""
        if not query:
            return [row[0] for row in self._connection.execute(_ALL, (before_id, _AT_ONCE))]
        return [row[0] for row in self._connection.execute(_CANDIDATES, (query, before_id, _AT_ONCE))]

    def _query(self, wanted: str) -> str | None:
        """FTS5's query for the candidates; None where nothing can be found, "" where it may be anywhere."""
        if not wanted.strip():
            return None
        if len(wanted) < 3:
            found = self._connection.execute(_TERMS, (wanted, wanted + _HIGHEST, _MAX_TERMS + 1))
            terms = [row[0] for row in found]
            if len(terms) > _MAX_TERMS:  # what goes on in so many ways is not rare
                return ""
            return " OR ".join(map(_quoted, terms)) or None
        trigrams = list(dict.fromkeys(wanted[at : at + 3] for at in range(len(wanted) - 2)))
        step = max(1, len(trigrams) // _MAX_TRIGRAMS)
        return " AND ".join(map(_quoted, trigrams[::step]))

    def _hit(self, wanted: str, row: tuple[Any, ...]) -> Iterator[Hit]:
        message_id, role, text, parts, call_id, exchange_id = row
        for piece in _texts(text, parts):
            at = folded(piece).find(wanted)
            if at < 0:
                continue
            start, end = _original(piece, at, len(wanted))
            yield Hit(
                message_id,
                role,
                call_id,
                exchange_id,
                piece[max(0, start - _AROUND) : start],
                piece[start:end],
                piece[end : end + _AROUND],
            )
            return


def _texts(text: str | None, parts: str | None) -> Iterator[str]:
    if parts is None:
        yield text or ""
        return
    import msgspec  # noqa: PLC0415 - most messages are one text

    for part in msgspec.json.decode(parts):
        for name in ("text", "name"):
            if part.get(name):
                yield part[name]


def _original(text: str, at: int, size: int) -> tuple[int, int]:
    """Where a place of the folded text lies in the text itself: folding may change its length."""
    if text.isascii():
        return at, at + size
    begin = folded_so_far = 0
    while (length := len(folded(text[begin : begin + _BLOCK]))) + folded_so_far <= at:
        folded_so_far += length
        begin += _BLOCK
    start = end = begin
    for index in range(begin, len(text)):
        length = len(folded(text[index]))
        if folded_so_far <= at:
            start = index
        if length and folded_so_far >= at + size:
            break
        folded_so_far += length
        end = index + 1
    return start, end


def _without_nul(text: str) -> str:
    """FTS5 takes NUL for the end of a text."""
    return text.replace("\0", " ")


def _can_be_stored(text: str) -> bool:
    """Whether a text can be in the trace at all: lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _quoted(term: str) -> str:
    return '"' + term.replace('"', '""') + '"'
