"""Bytes of a running exchange wait sealed in the trace: they may hold secrets, which are masked at its end.

Sealed is: mixed with a key stream of SHAKE-128 over the trace's key and the row's place. The key lies beside the trace
and not in it, so the trace's files never hold such a secret as it is. Sealing again unseals.
"""

import sqlite3
from functools import partial
from hashlib import shake_128


def teach(connection: sqlite3.Connection, key: bytes | None) -> None:
    """Give a connection the SQL function `sealed(data, exchange_id, side, seq, at_us)`; without a key it gives NULL."""
    connection.create_function("sealed", 5, partial(_sealed, key), deterministic=True)


def _sealed(key: bytes | None, data: bytes | None, *place: int) -> bytes | None:
    if key is None or data is None:
        return None
    size = len(data)
    stream = shake_128(key + repr((size, place)).encode()).digest(size)
    return (int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")).to_bytes(size, "little")
