"""Speed and size of readings: `python -m tests.bench.readings [EXCHANGES]` prints each figure beside what it must be.

Exchanges (100,000 unless told otherwise) go through the journal and ingest, as a front would have written them, and are
read by the indexer. For the questions they are multiplied to a million by SQL, each copy with texts of its own.
"""

import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from proxy.indexer import Indexer, IndexSettings
from proxy.store.search import Search
from proxy.store.trace import Trace
from tests.bench.store import WORDS, multiply, take_in, told
from tests.store.journal_builder import Journal

TURNS = 5
"""Of each conversation."""
_AT_ONCE = 5000
QUESTIONS_AT = 1_000_000
"""How many exchanges there are when questions are asked."""


def main(exchanges: int) -> None:
    """All of them."""
    random.seed(2)
    print(f"{'figure':58} {'measured':>12} {'must':>10} {'goal':>10}")
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.db")
        unique, described = _record(trace, exchanges)
        before = _bytes(trace)
        indexer = Indexer(trace, IndexSettings())
        began = time.process_time()
        while indexer.run_once():
            pass
        took = time.process_time() - began
        indexer.close()
        told("index, small exchanges of conversations, one core", f"{exchanges / took:,.0f}/s", "2,000/s")
        size = _bytes(trace) - before
        told("disk of readings and search index, x the texts of calls", f"{size / described:.2f}", "1.5")
        told("  the same, x each text once", f"{size / unique:.2f}")
        times = max(1, QUESTIONS_AT // exchanges)
        _multiply(trace, exchanges, times)
        _ask(trace, exchanges * times)


def _multiply(trace: Path, count: int, times: int) -> None:
    """So many times the same calls, each copy later by an hour and with other words in its texts."""
    multiply(trace, count, times)
    connection = sqlite3.connect(trace)
    (messages,) = connection.execute("SELECT max(id) FROM read_messages").fetchone()
    connection.execute(
        "CREATE TEMP TABLE step AS WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s)"
        f" SELECT n FROM s LIMIT {times - 1}"
    )
    _copy(
        connection,
        "read_messages",
        messages,
        {
            "id": f"id + n * {messages}",
            "digest": "randomblob(16)",
            "first_call_id": f"first_call_id + n * {count}",
            "text": "text || ' copy' || n",
            "blob_id": "NULL",
            "path": "NULL",
        },
        source="messages_whole",
    )
    _copy(
        connection,
        "read_calls",
        count,
        {
            "id": f"id + n * {count}",
            "exchange_id": f"exchange_id + n * {count}",
            "started_at_us": "started_at_us + n * 3600000000",
            "thread_id": f"thread_id + n * {count}",
            "parent_id": f"parent_id + n * {count}",
            "input_key": "input_key + n",
            "output_key": "output_key + n",
            "input": f"json_array(json_array(json_extract(input, '$[0][0]') + n * {messages},"
            f" json_extract(input, '$[#-1][1]') + n * {messages}))",
            "answer_id": f"answer_id + n * {messages}",
            "response_id": "response_id || '-' || n",
        },
    )
    connection.execute(
        "INSERT INTO message_search(rowid, text) SELECT id, lower(text) || '  ' FROM read_messages WHERE id > ?",
        (messages,),
    )
    connection.execute(f"UPDATE call_totals SET calls = calls * {times}")
    connection.commit()
    connection.close()


def _copy(
    connection: sqlite3.Connection, table: str, until: int, changed: dict[str, str], source: str | None = None
) -> None:
    columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
    chosen = ", ".join(changed.get(name, name) for name in columns)
    if source is not None:  # the texts that bodies hold, too
        connection.execute(
            f"CREATE TEMP TABLE {source} AS SELECT r.*, m.text AS whole FROM read_messages r JOIN messages m USING (id)"
        )
        chosen = chosen.replace("text ||", "whole ||")
    connection.execute(
        f"INSERT INTO {table} SELECT {chosen} FROM step, {source or table} WHERE id <= {until} ORDER BY n, id"
    )


def _record(trace: Path, exchanges: int) -> tuple[int, int]:
    """Fill a trace; gives the bytes of all texts, each once, and of all texts of all calls."""
    journal = Journal(trace)
    unique = described = 0
    history: list[dict[str, str]] = []
    for number in range(exchanges):
        if number % TURNS == 0:
            history = []
        question, answer = _words(12), _words(40)
        history.append({"role": "user", "content": question})
        described += sum(len(message["content"]) for message in history) + len(answer)
        unique += len(question) + len(answer)
        asked = {"model": f"model-{number % 7}", "temperature": 0.7, "messages": history}
        message = {"role": "assistant", "content": answer}
        choice = {"index": 0, "logprobs": None, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 30, "completion_tokens": 50, "total_tokens": 80}
        told_back = {"id": f"chatcmpl-{number}", "model": asked["model"], "choices": [choice], "usage": usage}
        journal.exchange_of([msgspec.json.encode(asked)], [msgspec.json.encode(told_back)])
        history.append(message)
        if number % _AT_ONCE == _AT_ONCE - 1:
            journal.write()
            take_in(trace)
            journal.next_segment()
    journal.write()
    take_in(trace)
    return unique, described


def _words(count: int) -> str:
    return " ".join(random.choices(WORDS, k=count)) + f" {random.randrange(10**9)}"


def _bytes(trace: Path) -> int:
    connection = sqlite3.connect(trace)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()
    return trace.stat().st_size


def _ask(trace: Path, exchanges: int) -> None:
    with Trace.open(trace) as opened:
        ask = opened.connection.execute
        (last_us,) = ask("SELECT max(started_at_us) FROM read_calls").fetchone()
        (word,) = ask("SELECT answer FROM calls WHERE id = 500").fetchone()
        rare = (
            f"{word.rpartition(' ')[2]} copy{exchanges // 100_000}" if exchanges > 100_000 else word.rpartition(" ")[2]
        )
        search = Search(opened.connection)
        hour = (
            "SELECT id, label, model_answered, stop_reason, measured_ttft_ms, answer FROM calls WHERE started_at_us > ?"
        )
        thread = "SELECT * FROM calls WHERE thread_id = ? ORDER BY id"
        questions: dict[str, Callable[[], object]] = {
            "calls of the last hour (the newest 1,000)": lambda: ask(
                f"{hour} ORDER BY started_at_us DESC LIMIT 1000", (last_us - 3_600_000_000,)
            ).fetchall(),
            "the last 50 calls": lambda: ask("SELECT * FROM calls ORDER BY id DESC LIMIT 50").fetchall(),
            "a thread": lambda: ask(thread, (exchanges // 2 // TURNS * TURNS + 1,)).fetchall(),
            "the messages of a call": lambda: ask(
                "SELECT * FROM call_messages WHERE call_id = ?", (exchanges // 2,)
            ).fetchall(),
            "a word that one message has": lambda: search.find(rare),
            "a word that most messages have": lambda: search.find("language"),
            "group by model": lambda: ask("SELECT * FROM models").fetchall(),
        }
        for name, question in questions.items():
            told(f"{name}, of {exchanges:,}", f"{_milliseconds(question):.1f} ms", "50 ms", "10 ms")


def _milliseconds(question: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        question()
        times.append(time.perf_counter() - began)
    return sorted(times)[2] * 1000


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
