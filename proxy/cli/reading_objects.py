"""What readers say of an exchange, as JSON values: rows of the views, put together."""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from proxy.cli.call_rows import JSON_COLUMNS

_READINGS = "SELECT * FROM readings WHERE exchange_id = ? ORDER BY seq"
_CALLS = "SELECT * FROM calls WHERE exchange_id = ?"
_PARAMETERS = (
    "SELECT name, value, origin, sent_as, note, is_ignored FROM call_parameters"
    " WHERE call_id = ? AND origin <> 'unknown' ORDER BY name, origin"
)
_MESSAGES = "SELECT is_answer, message_id, role, text, parts FROM call_messages WHERE call_id = ? ORDER BY position"
_PROBLEMS = "SELECT call_id, severity, kind, detail, code, place FROM problems WHERE exchange_id = ? AND kind <> ?"


def readings_of(connection: sqlite3.Connection, exchange_id: int) -> list[dict[str, Any]]:
    """What an exchange means, a reading for each call, or for what is none; empty while nobody has read it.

    Each has the columns of the view `readings`, and for a call those of `calls`; then `parameters` (those that somebody
    told), `messages`, `answers` and `problems`.
    """
    calls = {row["id"]: row for row in _rows(connection, _CALLS, exchange_id)}
    problems = list(_rows(connection, _PROBLEMS, exchange_id, "unread_field"))
    found = []
    for row in _rows(connection, _READINGS, exchange_id):
        reading = row | calls.get(row["id"], {})
        messages = list(_rows(connection, _MESSAGES, row["id"]))
        reading["parameters"] = list(_rows(connection, _PARAMETERS, row["id"]))
        for name, is_answer in (("messages", 0), ("answers", 1)):
            reading[name] = [
                {key: value for key, value in each.items() if key != "is_answer"}
                for each in messages
                if each["is_answer"] == is_answer
            ]
        reading["problems"] = [
            {key: value for key, value in problem.items() if key != "call_id"}
            for problem in problems
            if problem["call_id"] in (row["id"], None)
        ]
        found.append(reading)
    return found


def _rows(connection: sqlite3.Connection, query: str, *values: Any) -> Iterator[dict[str, Any]]:
    cursor = connection.execute(query, values)
    names = [column[0] for column in cursor.description]
    for row in cursor.fetchall():
        fields = dict(zip(names, row, strict=True))
        yield {
            name: json.loads(value) if value and (name in JSON_COLUMNS or name == "parts") else value
            for name, value in fields.items()
        }
