"""Bytes of a running exchange that may hold secrets wait sealed in the trace; at its end they are masked.

Sealed is: mixed with a key stream of SHAKE-128 over the trace's key and the row's place. The key lies beside the trace
and not in it, so the trace's files never hold such a secret as it is. Sealing again unseals. What surely holds none
waits as TEXT, which is never sealed: to seal a body and to unseal it costs ten times as much as to store it.
"""

import sqlite3
from functools import partial
from hashlib import shake_128


def teach(connection: sqlite3.Connection, key: bytes | None) -> None:
    """Give a connection the SQL function `sealed(data, exchange_id, side, seq, at_us)`.

    Of TEXT it gives the bytes; of what is sealed it gives NULL without a key.
    """
    connection.create_function("sealed", 5, partial(_sealed, key), deterministic=True)


def _sealed(key: bytes | None, data: bytes | str | None, *place: int) -> bytes | None:
    if isinstance(data, str):
        return data.encode()
    if key is None or data is None:
        return None
    size = len(data)
    stream = shake_128(key + repr((size, place)).encode()).digest(size)
    return (int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")).to_bytes(size, "little")
