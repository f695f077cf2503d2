"""Messages in the trace: content-addressed; a text that a request's body holds is not stored a second time."""

import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from proxy.meaning import Message, Part, PartKind
from proxy.read.json_fields import NotJsonError, decode_json
from proxy.store.digests import read_digest_of
from proxy.store.search import searchable

MIN_REFERENCE_CHARACTERS = 120
"""A shorter text takes less room by itself than where to find it."""
_MAX_CACHED = 1 << 14
_SEPARATORS = b" \t\r\n,"
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
"""Some clients send reasoning back inside the text of an answer."""
_SYSTEM_ROLES = ("system", "developer")
_READ_BACK = "SELECT json_extract(ltrim(data, char(9, 10, 13, 32, 44)), ?) IS ? FROM blobs WHERE id = ?"
_FIND = "SELECT id FROM read_messages WHERE digest = ?"
_INSERT = "INSERT INTO read_messages VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INDEX = "INSERT INTO message_search(rowid, text) VALUES(?, ?)"

Place = tuple[int, str]
"""Blob id, and a path in its JSON."""
Counter = Callable[[str], int]
_encode = msgspec.json.Encoder().encode
_decode_parts = msgspec.json.Decoder(list[Part]).decode


class Places:
    """Where the texts of messages stand in the stored parts of a body."""

    def __init__(self, connection: sqlite3.Connection, parts: Sequence[tuple[int, bytes]]) -> None:
        """`parts` as (blob id, bytes)."""
        self._connection = connection
        self._parts = parts
        self._by_text: dict[str, Place] | None = None

    def of(self, text: str, path: str | None) -> Place | None:
        """Where a text is, that stands at `path` of the whole body; None where no part by itself gives it to SQL."""
        if path is None or not self._parts or len(text) < MIN_REFERENCE_CHARACTERS:
            return None
        if len(self._parts) == 1:
            return self._checked((self._parts[0][0], f"$.{path}"), text)
        if self._by_text is None:
            self._by_text = dict(self._found())
        place = self._by_text.get(text)
        return self._checked(place, text) if place is not None else None

    def _found(self) -> Iterator[tuple[str, Place]]:
        for blob_id, data in self._parts:
            element = data.lstrip(_SEPARATORS)
            if element[:1] != b"{":
                continue
            try:
                value = decode_json(element)
            except NotJsonError:
                continue  # the first or last part of the body, which is more than one element
            if not isinstance(value, dict):
                continue
            message = value.get("message")
            if isinstance(value.get("content"), str):
                yield value["content"], (blob_id, "$.content")
            elif isinstance(message, dict) and isinstance(message.get("content"), str):
                yield message["content"], (blob_id, "$.message.content")

    def _checked(self, place: Place, text: str) -> Place | None:
        """SQLite's JSON is not quite ours (it takes the first of two fields with one name, say): ask it."""
        blob_id, path = place
        try:
            row = self._connection.execute(_READ_BACK, (path, text, blob_id)).fetchone()
        except sqlite3.OperationalError:  # malformed, to it
            return None
        return place if row == (1,) else None


class MessageRows:
    """Finds and makes rows of messages, inside the caller's transaction. After a rollback it must be thrown away."""

    def __init__(self, connection: sqlite3.Connection, count_tokens: Counter | None) -> None:
        """`count_tokens` counts a text's tokens by tiktoken."""
        self._connection = connection
        self._count_tokens = count_tokens
        self._known: dict[bytes, tuple[int, int]] = {}
        (last,) = connection.execute("SELECT max(id) FROM read_messages").fetchone()
        self._next_id = (last or 0) + 1

    def row(self, message: Message, call_id: int, places: Places) -> tuple[int, int]:
        """(id, key) of a message; it is made if the trace does not have it yet.

        The key is a hash of what makes two messages the same turn of a conversation: role, text without blanks at its
        ends, tools called with which arguments. Reasoning, ids and names do not matter: clients leave them out.
        """
        digest = read_digest_of(_encode((message.role, message.name, message.parts)))
        known = self._known.get(digest)
        if known is not None:
            return known
        key = message_key(message)
        row = self._connection.execute(_FIND, (digest,)).fetchone()
        message_id = int(row[0]) if row is not None else self._make(message, digest, call_id, places)
        if len(self._known) >= _MAX_CACHED:
            self._known.clear()
        self._known[digest] = message_id, key
        return message_id, key

    def _make(self, message: Message, digest: bytes, call_id: int, places: Places) -> int:
        message_id = self._next_id
        self._next_id += 1
        text = message.text
        place = places.of(text, message.path)
        is_plain = len(message.parts) == 1 and message.parts[0] == Part(PartKind.TEXT, text)
        words = text if is_plain else "\n".join(_searched(message.parts))
        parts = None if is_plain or not message.parts else _encode([_slim(part) for part in message.parts]).decode()
        tokens = self._count_tokens(words) if self._count_tokens is not None else None
        blob_id, path = place or (None, None)
        stored = text if place is None else None
        self._connection.execute(
            _INSERT, (message_id, digest, message.role, message.name, stored, blob_id, path, parts, call_id, tokens)
        )
        if words:
            self._connection.execute(_INDEX, (message_id, searchable(words)))
        return message_id


def recount(connection: sqlite3.Connection, count_tokens: Counter | None) -> None:
    """Count the tokens of all messages anew, in the open transaction; without a counter they are not known."""
    if count_tokens is None:
        connection.execute("UPDATE read_messages SET tiktoken_tokens = NULL")
        return
    rows = connection.execute("SELECT id, text, parts FROM messages ORDER BY id")
    while some := rows.fetchmany(256):
        counted = [(count_tokens(words_of(text, parts)), message_id) for message_id, text, parts in some]
        connection.executemany("UPDATE read_messages SET tiktoken_tokens = ? WHERE id = ?", counted)


def words_of(text: str | None, parts: str | None) -> str:
    """All words of a stored message: what is searched, and whose tokens are counted."""
    if parts is None:
        return text or ""
    return "\n".join(_searched(_decode_parts(parts)))


def _searched(parts: Sequence[Part]) -> list[str]:
    """What of a message is worth searching: all its words, and a tool's name beside its arguments."""
    return [f"{part.name}\n{part.text}" if part.name else part.text for part in parts if part.text or part.name]


def _slim(part: Part) -> dict[str, Any]:
    """A part as JSON without what it has not."""
    return {name: value for name, value in msgspec.to_builtins(part).items() if value is not None and value != ""}


def message_key(message: Message) -> int:
    """See `MessageRows.row`."""
    hashed = blake2b(message.role.encode("utf-8", "replace"), digest_size=8)
    for part in message.parts:
        if part.kind is PartKind.TEXT:
            text = part.text if message.role != "assistant" else _THOUGHTS.sub("", part.text)
            if text := text.strip():  # blanks before a tool call are not sent back
                hashed.update(b"\0t" + text.encode("utf-8", "replace"))
        elif part.kind is PartKind.TOOL_CALL:
            hashed.update(f"\0c{part.name}\0{_canonical(part.text)}".encode("utf-8", "replace"))
        elif part.kind is not PartKind.REASONING:
            hashed.update(f"\0{part.kind}\0{part.text.strip()}\0{part.digest}".encode("utf-8", "replace"))
    return int.from_bytes(hashed.digest(), "little", signed=True)


def chain_key(before: int, key: int) -> int:
    """The key of a chain that one message more makes longer."""
    joined = before.to_bytes(8, "little", signed=True) + key.to_bytes(8, "little", signed=True)
    return int.from_bytes(blake2b(joined, digest_size=8).digest(), "little", signed=True)


def text_key(text: str) -> int:
    """A key for a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "replace"), digest_size=8).digest(), "little", signed=True)


def is_system(message: Message) -> bool:
    """Whether it is left out of the matching of conversations."""
    return message.role in _SYSTEM_ROLES


def _canonical(arguments: str) -> str:
    """Arguments of a tool call, whatever blanks and order a client writes them with when it sends them again."""
    try:
        return msgspec.json.encode(decode_json(arguments), order="deterministic").decode()
    except (NotJsonError, TypeError, ValueError, RecursionError):
        return arguments.strip()
