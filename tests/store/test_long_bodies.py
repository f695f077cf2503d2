"""Bodies of any length, both ways, in little memory."""

import os
import tracemalloc
from hashlib import blake2b
from pathlib import Path

import pytest

from proxy.exchange import Side
from proxy.store.body_side import LONG_BODY_BYTES
from proxy.store.ingest import Ingest
from proxy.store.trace import Trace
from proxy.store.verify import verify
from tests.store.journal_builder import KEY, Journal
from tests.store.test_ingest import FIELDS
from tests.store.test_masked import mask

READ = 1 << 18


def feed(journal: Journal, ingest: Ingest, number: int, side: Side, body: bytes) -> None:
    """Write a body read by read, with the back close behind."""
    for at in range(0, len(body), READ):
        journal.data(number, side, body[at : at + READ])
        if len(journal.packed) == 16:
            journal.write()
            while ingest.run_once():
                pass
    journal.write()


def restarted(ingest: Ingest, trace: Path) -> Ingest:
    """Another back."""
    ingest.close()
    return Ingest(trace, key=KEY, body_fields=FIELDS)


@pytest.mark.parametrize("with_restarts", [False, True])
def test_a_long_json_body_is_masked_as_it_comes(tmp_path: Path, with_restarts: bool) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    image = os.urandom(1000).hex() * (LONG_BODY_BYTES // 2000 // 2)
    pieces = [
        f'{{"model":"m","input":"{image}","tools":[{{"headers":{{"a":"first secret"}}}}],'.encode(),
        f'"more":"{image}ü","tools":[{{"authorization":"second secret"}}],"last":"{image}"}}'.encode(),
    ]
    ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
    number = journal.open()
    for piece in pieces:
        feed(journal, ingest, number, Side.CLIENT, piece)
        if with_restarts:
            ingest = restarted(ingest, trace)
    journal.response(number)
    journal.close(number)
    journal.write()
    while ingest.run_once():
        pass
    ingest.close()
    expected = (
        b"".join(pieces)
        .replace(b"first secret", mask(b"first secret"))
        .replace(b"second secret", mask(b"second secret"))
    )
    with Trace.open(trace) as opened:
        row = opened.exchange(number)
        assert row is not None
        assert row.masked == 2
        assert row.request_bytes == len(b"".join(pieces))
        assert b"".join(opened.body(number, Side.CLIENT)) == expected
        assert opened.connection.execute(
            "SELECT is_text, text = ? FROM request_bodies", (expected.decode(),)
        ).fetchone() == (1, 1)
        assert opened.connection.execute("SELECT count(*) FROM staged_chunks").fetchone() == (0,)
    assert verify(trace).is_ok
    assert verify(trace).masked == 1


def test_a_long_body_read_back_while_it_runs_is_what_came(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    ingest = Ingest(trace, key=KEY)
    body = os.urandom(LONG_BODY_BYTES + 3_000_000)
    number = journal.open()
    feed(journal, ingest, number, Side.CLIENT, body)
    while ingest.run_once():
        pass
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.CLIENT)) == body
    ingest.finish()
    ingest.close()
    with Trace.open(trace) as opened:
        assert b"".join(opened.body(number, Side.CLIENT)) == body
    assert verify(trace).is_ok


def test_the_same_long_file_is_stored_once(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    ingest = Ingest(trace, key=KEY)
    body = os.urandom(LONG_BODY_BYTES + 3_000_000)
    for _ in range(2):
        number = journal.open()
        feed(journal, ingest, number, Side.CLIENT, body)
        journal.close(number)
    journal.write()
    while ingest.run_once():
        pass
    ingest.close()
    with Trace.open(trace) as opened:
        (stored,) = opened.connection.execute("SELECT sum(length(data)) FROM blobs").fetchone()
    assert stored == len(body)


def test_memory_is_flat_however_long_a_body_is(tmp_path: Path) -> None:
    trace = tmp_path / "t.db"
    journal = Journal(trace)
    ingest = Ingest(trace, key=KEY, body_fields=FIELDS)
    number = journal.open()
    journal.response(number, b"application/octet-stream")
    digest = blake2b()
    tracemalloc.start()
    try:
        for _ in range(12):
            block = os.urandom(1 << 24)
            digest.update(block)
            feed(journal, ingest, number, Side.UPSTREAM, block)
            del block
        journal.close(number)
        journal.write()
        while ingest.run_once():
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    ingest.close()
    assert peak < 100 << 20
    again = blake2b()
    with Trace.open(trace) as opened:
        for part in opened.body(number, Side.UPSTREAM):
            assert len(part) <= 1 << 20
            again.update(part)
    assert again.digest() == digest.digest()
