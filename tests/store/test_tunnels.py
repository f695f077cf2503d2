"""WebSockets whose messages are compressed: read on after a restart at any moment."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.extensions import PerMessageDeflate

from proxy.exchange import Side
from proxy.store.trace import Trace
from proxy.store.verify import verify
from tests.store.journal_builder import Journal
from tests.store.test_ingest import ingest_in_steps
from tests.store.websocket_frames import frames, messages_of


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=30)
@given(
    data=st.data(),
    read_bytes=st.integers(1, 60),
    batch_bytes=st.integers(32, 400),
    restarts=st.sets(st.integers(0, 40)),
    keeps_context=st.booleans(),
)
def test_compressed_messages_are_stored_as_text(
    data: st.DataObject, read_bytes: int, batch_bytes: int, restarts: set[int], keeps_context: bool
) -> None:
    with TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "t.db")
        number = journal.open(b"/llm", method=b"GET", is_websocket=True)
        agreed = b"permessage-deflate" + (b"" if keeps_context else b"; client_no_context_takeover")
        journal.response(
            number, b"", status=b"101 Switching Protocols", fields=b"\r\nSec-WebSocket-Extensions: " + agreed
        )
        expected = {}
        for side in Side:
            takes_over = keeps_context or side is Side.UPSTREAM
            deflate = PerMessageDeflate(client_no_context_takeover=not takes_over)
            deflate._enabled = True
            sent = data.draw(frames(is_client=side is Side.CLIENT, deflate=deflate))
            wire = b"".join(frame.wire for frame in sent)
            for start in range(0, len(wire), read_bytes):
                journal.data(number, side, wire[start : start + read_bytes])
            expected[side] = [(message.opcode, message.payload) for message in messages_of(sent)]
        journal.close(number)
        journal.write()
        ingest_in_steps(journal.trace, batch_bytes, restarts)
        with Trace.open(journal.trace) as trace:
            for side in Side:
                assert [(chunk.opcode, chunk.data) for chunk in trace.chunks(number, side)] == expected[side]
            assert not trace.gaps()
            assert trace.connection.execute("SELECT count(*) FROM staged_chunks").fetchone() == (0,)
        assert verify(journal.trace).is_ok
