"""Writes cases out of a trace: `python -m tests.recordings.capture TRACE FOLDER --origin NOTE [EXCHANGE ...]`.

Secrets were masked before they were stored, and stay so; times are kept. What it writes has to be looked at before it
is kept: that no path of the machine stands in it, and that the reading beside it is right.
"""

import argparse
import contextlib
import re
from collections.abc import Sequence
from pathlib import Path

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import Claim, End, RequestHead, ResponseHead
from proxy.read.registry import Registry
from proxy.store.recordings import Recording, Recordings
from proxy.store.schema import open_for_reading
from tests.recordings.cases import Case, Message, as_stored, reading_file, save

_WORD = re.compile(r"[^a-z0-9]+")


class Tape:
    """A reader that keeps what readers are given, and says nothing of it."""

    name = "tape"
    version = 1

    def __init__(self) -> None:
        self.body = b""
        self.complete_us: int | None = None
        self.response_head: ResponseHead | None = None
        self.first_byte_us: int | None = None
        self.reads: list[tuple[int, bytes]] = []
        self.messages: list[Message] = []

    def claims(self, head: RequestHead) -> Claim:
        """See `Reader`."""
        return Claim.YES

    def open(self, head: RequestHead) -> "Tape":
        """See `Reader`: it is its own session."""
        return self

    def request(self, body: bytes, complete_us: int | None) -> None:
        """See `Session`."""
        self.body, self.complete_us = body, complete_us

    def response(self, head: ResponseHead, at_us: int | None) -> None:
        """See `Session`."""
        self.response_head, self.first_byte_us = head, at_us

    def data(self, at_us: int, data: bytes) -> None:
        """See `Session`."""
        self.reads.append((at_us, data))

    def message(self, side: Side, at_us: int, opcode: int | None, data: bytes) -> None:
        """See `Session`."""
        self.messages.append((side, at_us, opcode, data))

    def readings(self, end: End | None) -> Sequence[Reading]:
        """See `Session`."""
        return ()


def case_of(recordings: Recordings, recording: Recording, origin: str) -> Case:
    """An exchange that has ended, as a case."""
    assert recording.end is not None
    tape = Tape()
    request, response = (recordings.parts(body) for body in (recording.request_body, recording.response_body))
    recordings.read(tape, recording, request, response)
    return Case(
        origin=origin,
        head=recording.head,
        body=tape.body,
        complete_us=tape.complete_us,
        response=tape.response_head,
        first_byte_us=tape.first_byte_us,
        reads=tuple(tape.reads),
        messages=tuple(tape.messages),
        end=recording.end,
    )


def write_case(folder: Path, name: str, case: Case, registry: Registry) -> Path:
    """Write a case and its readings below its dialect's folder; gives the case's file."""
    path = folder / case.reader(registry).name / f"{name}.json"
    save(path, case)
    reading_file(path).write_text(as_stored(case.read(registry)), encoding="utf-8")
    return path


def main() -> None:
    """Write every exchange of a trace that has ended, or those that are named."""
    parser = argparse.ArgumentParser(prog="python -m tests.recordings.capture", description=main.__doc__)
    parser.add_argument("trace", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("exchanges", type=int, nargs="*", metavar="EXCHANGE", help="its id; all without one")
    parser.add_argument("--origin", required=True, help="who spoke with whom, in which versions")
    arguments = parser.parse_args()
    registry = Registry()
    with contextlib.closing(open_for_reading(arguments.trace)) as connection:
        recordings = Recordings(connection)
        ids = arguments.exchanges or [id_ for (id_,) in connection.execute("SELECT id FROM exchanges ORDER BY id")]
        for recording in recordings.get(ids):
            if recording.end is not None:
                name = f"{recording.id}{_WORD.sub('-', recording.head.path.lower()).rstrip('-')}"
                case = case_of(recordings, recording, arguments.origin)
                print(write_case(arguments.folder, name, case, registry))


if __name__ == "__main__":
    main()
