"""Speed and size of the store: `python -m tests.bench.store` prints each figure beside what it must be."""

import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from proxy.exchange import Side
from proxy.store.ingest import Ingest
from proxy.store.trace import Trace
from tests.store.journal_builder import Journal

KEY = b"k" * 32
FIELDS = ("integrations[].headers.*", "tools[].headers.*", "tools[].authorization")
TEXT = """
the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which you
were her all she there would their we him been has when who will more no if out so said what up its about proxy records
every byte that goes into a language model and what comes back token after token in time
"""
WORDS = TEXT.split()


def main() -> None:
    """All of them."""
    random.seed(2)
    print(f"{'figure':58} {'measured':>12} {'must':>10} {'goal':>10}")
    for benchmark in (small_exchanges, streamed_chunks, flood, chat, lists):
        with tempfile.TemporaryDirectory() as folder:
            benchmark(Path(folder))


def told(figure: str, measured: str, must: str = "", goal: str = "") -> None:
    """A line of the table."""
    print(f"{figure:58} {measured:>12} {must:>10} {goal:>10}", flush=True)


def take_in(trace: Path) -> float:
    """Take everything in; gives CPU seconds."""
    ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
    began = time.process_time()
    while ingest.run_once():
        pass
    took = time.process_time() - began
    ingest.finish()
    ingest.close()
    return took


def table_bytes(trace: Path, *tables: str) -> int:
    """Bytes of these tables' pages, with their indexes."""
    connection = sqlite3.connect(trace)
    try:
        marks = ", ".join("?" * len(tables))
        (size,) = connection.execute(
            f"SELECT sum(s.pgsize) FROM dbstat s JOIN sqlite_schema m ON m.name = s.name WHERE m.tbl_name IN ({marks})",
            tables,
        ).fetchone()
        return int(size or 0)
    finally:
        connection.close()


def text(characters: int) -> str:
    """Words, about so long."""
    found = ""
    while len(found) < characters:
        found += random.choice(WORDS) + " "
    return found[:-1]


def event(number: int, content: str, created: int = 0) -> bytes:
    """A chunk as LM Studio streams it."""
    return (
        f'data: {{"id":"chatcmpl-{number:08d}","object":"chat.completion.chunk","created":{1753000000 + created},'
        '"model":"smollm2-135m-instruct","system_fingerprint":"smollm2-135m-instruct","choices":[{"index":0,"delta":'
        f'{{"content":{json.dumps(content)}}},"logprobs":null,"finish_reason":null}}]}}\n\n'
    ).encode()


def small_exchanges(folder: Path) -> None:
    """Ten header fields, one read each way; all bodies the same, then all different."""
    count = 20_000
    for kind in ("the same bodies", "all bodies different"):
        journal = Journal(folder / f"{kind}.db")
        for number in range(count):
            mark = number if "different" in kind else 0
            journal.exchange_of(
                [b'{"model":"m","messages":[{"role":"user","content":"hi %d"}]}' % mark],
                [b'{"id":"chatcmpl-%d","choices":[{"message":{"role":"assistant","content":"Hello"}}]}' % mark],
            )
        journal.write()
        took = take_in(journal.trace)
        told(f"ingest, small exchanges, {kind}", f"{count / took:,.0f}/s", "5,000/s", "15,000/s")
        told("  CPU of one", f"{took / count * 1e6:.1f} us", "45 us", "30 us")
        told("  disk of one", f"{journal.trace.stat().st_size / count:.0f} B")


def streamed_chunks(folder: Path) -> None:
    """One stream after the other, and 64 at once, taken in every 100 ms or so."""
    for name, streams, chunks, seconds in (
        ("one stream", 1, 10_000, False),
        ("64 streams at once", 64, 300, False),
        ("64 streams, their time stamp changes each second", 64, 300, True),
    ):
        journal = Journal(folder / f"{name}.db")
        numbers = [journal.open() for _ in range(streams)]
        for number in numbers:
            journal.data(number, Side.CLIENT, b'{"model":"smollm2-135m-instruct","stream":true,"messages":[]}')
            journal.response(number, b"text/event-stream")
        ingest = Ingest(journal.trace, key=KEY, body_fields=FIELDS)
        took = 0.0
        size = 0
        for step in range(chunks):
            for number in numbers:
                data = event(number, " " + random.choice(WORDS), step // 33 if seconds else 0)
                size += len(data)
                journal.data(number, Side.UPSTREAM, data, 30_000 // streams)
            if step % 3 == 2:
                journal.write()
                began = time.process_time()
                while ingest.run_once():
                    pass
                took += time.process_time() - began
        for number in numbers:
            journal.close(number)
        journal.write()
        while ingest.run_once():
            pass
        ingest.finish()
        ingest.close()
        stored = table_bytes(journal.trace, "recorded_chunks", "chunk_frames")
        count = streams * chunks
        told(f"disk of a streamed chunk of {size // count} B, {name}", f"{stored / count:.1f} B", "40 B", "20 B")
        told("  CPU of one", f"{took / count * 1e6:.1f} us")


def flood(folder: Path) -> None:
    """64 streams whose reads are as long as a socket's buffer."""
    journal = Journal(folder / "flood.db")
    numbers = [journal.open() for _ in range(64)]
    size = 0
    for number in numbers:
        journal.response(number, b"text/event-stream")
    for step in range(16):
        for number in numbers:
            data = b"".join(event(number, " token", step * 1000 + index) for index in range(700))
            size += len(data)
            journal.data(number, Side.UPSTREAM, data)
        journal.write()
    for number in numbers:
        journal.close(number)
    journal.write()
    told(f"ingest of a flood, {size >> 20} MiB in long reads", f"{size / take_in(journal.trace) / 1e6:.0f} MB/s")


def chat(folder: Path) -> None:
    """100 turns, the history sent again each turn, answers streamed word by word."""
    journal = Journal(folder / "chat.db")
    messages: list[dict[str, str]] = [{"role": "system", "content": text(400)}]
    sent = 0
    for turn in range(100):
        messages.append({"role": "user", "content": text(250)})
        body = json.dumps({"model": "smollm2-135m-instruct", "messages": messages, "stream": True}).encode()
        sent += len(body)
        answer = text(1000)
        journal.exchange_of([body], [event(turn, " " + word) for word in answer.split()], b"text/event-stream")
        messages.append({"role": "assistant", "content": answer})
    journal.write()
    take_in(journal.trace)
    own = sum(len(message["content"]) for message in messages)
    requests = table_bytes(journal.trace, "blobs", "bodies")
    told(f"100-turn chat, {sent / 1e6:.2f} MB of requests, x its own text", f"{requests / own:.2f}", "2.5", "1.5")
    everything = journal.trace.stat().st_size
    told("  the whole file, with every chunk of the answers and its time", f"{everything / own:.2f}")


def lists(folder: Path) -> None:
    """At 1,000,000 exchanges."""
    journal = Journal(folder / "lists.db")
    count = 5_000
    for number in range(count):
        body = b'{"model":"model-%d","messages":[{"role":"user","content":"hi"}]}' % (number % 7)
        journal.exchange_of([body], [b'{"choices":[]}'])
    journal.write()
    take_in(journal.trace)
    multiply(journal.trace, count, 1_000_000 // count)
    with Trace.open(journal.trace) as trace:
        sql = trace.connection.execute
        (started_at_us,) = sql("SELECT started_at_us FROM exchanges WHERE id = 999000").fetchone()
        for figure, ask in (
            ("list of the last 50", lambda: trace.latest(50)),
            ("exchanges by model", lambda: sql("SELECT * FROM models").fetchall()),
            (
                "last 50 of one model",
                lambda: sql("SELECT * FROM exchanges WHERE model = 'model-3' ORDER BY id DESC LIMIT 50").fetchall(),
            ),
            (
                "50 from a moment on",
                lambda: sql(
                    "SELECT * FROM exchanges WHERE started_at_us >= ? ORDER BY started_at_us LIMIT 50", (started_at_us,)
                ).fetchall(),
            ),
            ("one exchange", lambda: trace.exchange(777_777)),
            ("the unfinished", trace.unfinished),
            ("a body by the view", lambda: sql("SELECT text FROM request_bodies WHERE exchange_id = 5000").fetchall()),
            ("chunks by the view", lambda: sql("SELECT * FROM chunks WHERE exchange_id = 5000").fetchall()),
        ):
            told(f"at 1,000,000 exchanges: {figure}", f"{milliseconds(ask):.2f} ms", "50 ms", "10 ms")


def multiply(trace: Path, count: int, times: int) -> None:
    """So many times the same exchanges, each later by an hour."""
    connection = sqlite3.connect(trace)
    columns = [row[1] for row in connection.execute("PRAGMA table_info(recorded_exchanges)")]
    chosen = ", ".join(
        {"id": f"id + n * {count}", "started_at_us": "started_at_us + n * 3600000000"}.get(name, name)
        for name in columns
    )
    connection.execute(
        f"WITH RECURSIVE step(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM step WHERE n < {times - 1})"
        f" INSERT INTO recorded_exchanges SELECT {chosen} FROM step, recorded_exchanges WHERE id <= {count}"
        " ORDER BY n, id"
    )
    connection.commit()
    connection.close()


def milliseconds(ask: Callable[[], object]) -> float:
    """The slowest of five."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return max(took) * 1000


if __name__ == "__main__":
    main()
