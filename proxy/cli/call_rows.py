"""Rows of the view `calls`, and what of them fits into a line."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from proxy.cli.render import printable

SHORT_CHARACTERS = 500
"""More of a text than any line has."""
JSON_COLUMNS = ("answer_parts", "stats", "model_info", "runtime", "output_schema", "details")
_MAX_ID = (1 << 63) - 1
"""What SQLite counts to."""
_LATEST = "SELECT * FROM calls WHERE id IN (SELECT id FROM calls ORDER BY id DESC LIMIT ?) ORDER BY id"
_OF_THREAD = "SELECT * FROM calls WHERE thread_id = (SELECT thread_id FROM calls WHERE id = ?) ORDER BY id"
_LAST_PARTS = "SELECT parts FROM call_messages WHERE call_id = ? AND NOT is_answer ORDER BY position DESC LIMIT 1"


@dataclass(frozen=True, slots=True)
class CallRow:
    """A call."""

    fields: dict[str, Any]
    """The view's columns; it tells what each means."""
    input: str
    """The last message of its input, on one line."""
    output: str
    """Its answer, on one line: text, tool calls, or reasoning where there is nothing else."""

    def as_object(self) -> dict[str, Any]:
        """The columns for JSON; those that hold JSON are read."""
        return {
            name: json.loads(value) if name in JSON_COLUMNS and value else value for name, value in self.fields.items()
        }

    @property
    def id(self) -> int:
        """Its id."""
        return int(self.fields["id"])

    @property
    def parent_id(self) -> int | None:
        """The call whose answer it goes on from."""
        parent: int | None = self.fields["parent_id"]
        return parent

    @property
    def model(self) -> str:
        """As the answer names it, or else the request."""
        return str(self.fields["model_answered"] or self.fields["model_asked"] or "-")

    @property
    def stop(self) -> str:
        """How it ended: its stop reason, or that it runs or failed."""
        if self.fields["is_running"]:
            return "running"
        return str(self.fields["stop_reason"] or ("error" if self.fields["error"] else "-"))


def latest_calls(connection: sqlite3.Connection, count: int) -> list[CallRow]:
    """The last `count` calls, oldest first."""
    return list(_rows(connection, _LATEST, count))


def calls_of_thread(connection: sqlite3.Connection, call_id: int) -> list[CallRow]:
    """All calls of the conversation that a call is part of, oldest first."""
    return list(_rows(connection, _OF_THREAD, min(call_id, _MAX_ID)))


def _rows(connection: sqlite3.Connection, query: str, value: int) -> Iterator[CallRow]:
    cursor = connection.execute(query, (value,))
    names = [column[0] for column in cursor.description]
    for row in cursor.fetchall():
        fields = dict(zip(names, row, strict=True))
        last = fields["last_input"]
        if not last and fields["operation"] == "chat":
            found = connection.execute(_LAST_PARTS, (fields["id"],)).fetchone()
            last = parts_text(found[0]) if found and found[0] else last
        answer = fields["answer"] or (parts_text(fields["answer_parts"]) if fields["answer_parts"] else "")
        if fields["answer"] and fields["answer_parts"]:
            answer = parts_text(fields["answer_parts"], without=("reasoning",)) or fields["answer"]
        yield CallRow(fields, one_line(last or ""), one_line(answer))


def parts_text(parts: str, *, without: tuple[str, ...] = ()) -> str:
    """The parts of a message (JSON) in words: `[image] What is this?`, `weather({"city":"Paris"})`."""
    return " ".join(part_text(part) for part in json.loads(parts) if part["kind"] not in without)


def part_text(part: dict[str, Any]) -> str:
    """One part in words."""
    text = part.get("text", "")
    match part["kind"]:
        case "text":
            return str(text)
        case "tool_call":
            return f"{part.get('name', '?')}({text})"
        case "tool_result" | "reasoning" | "refusal" as kind:
            return f"[{kind.replace('_', ' ')}] {text}"
        case kind:
            about = " ".join(str(part[name]) for name in ("name", "media_type") if part.get(name))
            size = f" {part['bytes']:,} bytes" if part.get("bytes") else ""
            return f"[{kind}{f' {about}' if about else ''}{size}]"


def one_line(text: str) -> str:
    """How a text begins, on one line."""
    return printable(text[:SHORT_CHARACTERS].strip(), is_one_line=True) + (
        "\u2026" if len(text) > SHORT_CHARACTERS else ""
    )
