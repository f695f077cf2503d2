"""What Datasette shows of the trace: titles, columns in words, facets, and ready questions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import urlencode

from proxy.store.view_comments import ViewComment


@dataclass(frozen=True, slots=True)
class _View:
    """How a view's page begins."""

    facets: Sequence[str] = ()
    newest: str | None = None
    """The column by which the newest comes first."""
    short: Sequence[str] = ()
    """The columns to begin with, where there are many."""


# No facets for views that have many rows for each call: counting them takes too long where there are many calls.
VIEWS = {
    "calls": _View(
        ("operation", "dialect", "model_answered", "label", "stop_reason"),
        "id",
        (
            *("id", "exchange_id", "started_at", "label", "thread_id", "model_answered", "last_input", "answer"),
            "answer_parts",
            *("stop_reason", "reported_input_tokens", "reported_output_tokens", "reported_tokens_per_second"),
            *("measured_tokens_per_second", "reported_ttft_s", "measured_ttft_ms", "error"),
        ),
    ),
    "exchanges": _View(
        ("outcome", "status", "kind"),
        "id",
        (
            *("id", "started_at", "client", "method", "path", "status", "model", "request_bytes", "response_bytes"),
            *("first_byte_ms", "duration_ms", "outcome", "error"),
        ),
    ),
    "speeds": _View(("model", "is_streamed"), "call_id"),
    "readings": _View(("operation", "dialect"), "id"),
    "messages": _View(("role",), "id"),
    "threads": _View(("model",), "id"),
    "tool_calls": _View(("tool",)),
    "problems": _View(("severity", "kind")),
    "gaps": _View((), "id"),
    "sessions": _View(("origin",), "id"),
}


_STYLE = """<style>
dl.column-descriptions { display: grid; grid-template-columns: max-content 1fr; gap: 0.2em 1.5em; max-height: 10em;
    overflow-y: scroll; padding: 0.5em; border: 1px solid #ccc }
dl.column-descriptions :is(dt, dd) { margin: 0; line-height: 1.3 }
.rows-and-columns td { max-width: 40em; overflow-wrap: break-word }
.rows-and-columns td.col-started_at { white-space: nowrap }
.rows-and-columns td:is(.col-last_input, .col-answer, .col-text, .col-detail) { min-width: 16em }
</style>"""
"""Sixty columns in words, one below the other, would hide the rows."""


@dataclass(frozen=True, slots=True)
class Query:
    """A ready question."""

    title: str
    about: str
    sql: str


QUERIES = {
    "last_calls": Query(
        "The last calls",
        "What was asked and answered last, in the columns one wants first.",
        """
SELECT id, exchange_id, started_at, label, coalesce(model_answered, model_asked) AS model,
    substr(last_input, 1, 200) AS last_input, substr(answer, 1, 200) AS answer, stop_reason,
    reported_input_tokens, reported_output_tokens
FROM calls ORDER BY id DESC LIMIT 100""",
    ),
    "conversation": Query(
        "A conversation",
        "All calls of the conversation that a call is part of; without a number, of the last one.",
        """
SELECT id, parent_id, label, started_at, coalesce(model_answered, model_asked) AS model, last_input, answer, stop_reason
FROM calls
WHERE thread_id = (SELECT thread_id FROM calls WHERE id = CASE WHEN :call_id = ''
    THEN (SELECT max(last_call_id) FROM (SELECT last_call_id FROM threads ORDER BY id DESC LIMIT 100))
    ELSE CAST(:call_id AS INTEGER) END)
ORDER BY id""",
    ),
    "input_of_a_call": Query(
        "All that went in and came out",
        "Every message of the call whose id you give, the answer at the end.",
        """
SELECT position, CASE WHEN is_answer THEN 'answer' ELSE 'input' END AS side, role, text, parts, tiktoken_tokens
FROM call_messages WHERE call_id = CAST(:call_id AS INTEGER) ORDER BY position""",
    ),
    "conversations": Query(
        "Conversations",
        "The last ones: how many calls, branches and repeats, and how they begin.",
        """
SELECT id, started_at, model, calls, branches, repeats, last_call_id, beginning
FROM threads ORDER BY id DESC LIMIT 100""",
    ),
    "asked_again": Query(
        "Asked again",
        "The same input a second time, or another turn at the same place: what the answers were.",
        """
SELECT id, thread_id, parent_id, label, coalesce(model_answered, model_asked) AS model, last_input, answer
FROM calls WHERE label IN ('regenerate', 'retry', 'branch') ORDER BY id DESC LIMIT 100""",
    ),
    "speed_by_model": Query(
        "Speed by model",
        "As the server reports it, and as measured here, of the last 10,000 calls.",
        """
SELECT model, operation, count(*) AS calls,
    round(avg(reported_tokens_per_second), 1) AS reported_tokens_per_second,
    round(avg(measured_tokens_per_second), 1) AS measured_tokens_per_second,
    round(avg(reported_ttft_s) * 1000, 1) AS reported_ttft_ms,
    round(avg(measured_ttft_ms), 1) AS measured_ttft_ms
FROM (SELECT * FROM speeds ORDER BY call_id DESC LIMIT 10000)
GROUP BY model, operation ORDER BY calls DESC""",
    ),
    "slowest_first_tokens": Query(
        "Slowest first tokens",
        "Where one waited longest for the first token, of the last 10,000 calls, with what may explain it.",
        """
SELECT call_id, exchange_id, model, measured_ttft_ms, reported_ttft_s, reported_input_tokens,
    reported_prompt_time_s, reported_load_time_s, measured_load_ms
FROM (SELECT * FROM speeds ORDER BY call_id DESC LIMIT 10000)
WHERE measured_ttft_ms IS NOT NULL ORDER BY measured_ttft_ms DESC LIMIT 50""",
    ),
    "reported_and_measured": Query(
        "Reported against measured",
        "Calls of which both are known: how far the server's speed is from what arrived here.",
        """
SELECT call_id, model, reported_output_tokens, reported_tokens_per_second, measured_tokens_per_second,
    round(measured_tokens_per_second / reported_tokens_per_second, 3) AS ratio
FROM (SELECT * FROM speeds ORDER BY call_id DESC LIMIT 10000)
WHERE reported_tokens_per_second > 0 AND measured_tokens_per_second IS NOT NULL ORDER BY call_id DESC LIMIT 200""",
    ),
    "cut_answers": Query(
        "Answers that were cut",
        "The limit of tokens was met, the context was full, or the client left.",
        """
SELECT id, exchange_id, coalesce(model_answered, model_asked) AS model, stop_reason, stop_reason_raw,
    reported_output_tokens, substr(answer, -200) AS end_of_answer
FROM calls WHERE stop_reason IN ('length', 'context_length', 'cancelled') ORDER BY id DESC LIMIT 100""",
    ),
    "settings_in_use": Query(
        "Settings in use",
        "Which values of which parameters the last 1,000 calls had, and where each came from.",
        """
SELECT name, value, origin, count(*) AS calls, sum(coalesce(is_ignored, 0)) AS ignored
FROM call_parameters
WHERE call_id > (SELECT max(id) - 1000 FROM calls) AND origin <> 'unknown'
GROUP BY name, value, origin ORDER BY name, calls DESC""",
    ),
    "tools_called": Query(
        "Tools that models called",
        "The last ones: the arguments, and the result where it was sent back.",
        """
SELECT call_id, exchange_id, tool, arguments, result FROM tool_calls ORDER BY call_id DESC LIMIT 100""",
    ),
    "errors": Query(
        "Errors",
        "What servers said went wrong, the newest first.",
        """
SELECT exchange_id, call_id, kind, code, place, detail FROM problems
WHERE severity = 'error' ORDER BY exchange_id DESC LIMIT 100""",
    ),
    "problems_by_kind": Query(
        "Problems by kind",
        "Errors, and what readers stumbled over; a new version of a server shows itself in fields that nobody reads.",
        """
SELECT severity, kind, count(*) AS problems, sum(count) AS times, max(exchange_id) AS last_exchange_id,
    max(detail) AS for_example
FROM problems GROUP BY severity, kind ORDER BY severity, times DESC""",
    ),
}


def metadata(name: str, comments: Mapping[str, ViewComment], tables: Sequence[str]) -> dict[str, Any]:
    """Datasette's metadata of the database `name`; `tables` are hidden."""
    pages: dict[str, Any] = {table: {"hidden": True} for table in tables}
    for view, comment in comments.items():
        pages[view] = _page(f"/{name}/{view}", VIEWS.get(view, _View()), comment)
    queries = {
        key: {
            "title": query.title,
            "description_html": f"{_STYLE}<p>{escape(query.about)}</p>",
            "sql": query.sql.strip(),
        }
        for key, query in QUERIES.items()
    }
    about = "What proxy-log recorded: exchanges are the bytes, calls what they mean. Times are UTC; nothing is written."
    return {
        "title": "proxy-log",
        "description": about,
        "databases": {name: {"description": about, "tables": pages, "queries": queries}},
    }


def short_queries(name: str) -> dict[str, str]:
    """Addresses of views with many columns, and the query that leaves those one wants first."""
    return {
        f"/{name}/{key}": urlencode([*(("_col", column) for column in view.short), ("_sort_desc", view.newest or "")])
        for key, view in VIEWS.items()
        if view.short
    }


def _page(address: str, view: _View, comment: ViewComment) -> dict[str, Any]:
    page: dict[str, Any] = {"columns": comment.columns, "facets": list(view.facets)}
    about = escape(comment.about)
    if view.short:
        about += f' It begins with some of its columns; <a href="{address}?_sort_desc={view.newest}">show all</a>.'
    page["description_html"] = f"{_STYLE}<p>{about.strip()}</p>"
    if view.newest:
        page["sort_desc"] = view.newest
    return page
