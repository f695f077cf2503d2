"""Digests: of what is recorded BLAKE3's, of 20 bytes; of what is read from that BLAKE2b's, of 16.

Until version 3 of the trace those of what is recorded were BLAKE2b's too. A digest's length tells which it is.
"""

from collections.abc import Callable
from hashlib import blake2b

from blake3 import blake3

RECORDED_BYTES = 20
READ_BYTES = 16


class Digester:
    """The digest of recorded bytes that come one after the other."""

    __slots__ = ("_digest", "update")

    def __init__(self, like: bytes | None = None) -> None:
        """Of the kind that `like` is."""
        if like is not None and len(like) == READ_BYTES:
            old = blake2b(digest_size=READ_BYTES)
            self.update: Callable[[bytes | memoryview], object] = old.update
            """Take the next."""
            self._digest: Callable[[], bytes] = old.digest
        else:
            new = blake3()
            self.update = new.update
            self._digest = lambda: new.digest(length=RECORDED_BYTES)

    def digest(self) -> bytes:
        """Of what came by now."""
        return self._digest()


def digest_of(data: bytes | memoryview) -> bytes:
    """Of recorded bytes."""
    return blake3(data).digest(length=RECORDED_BYTES)


def is_digest_of(data: bytes | memoryview, digest: bytes) -> bool:
    """Whether `digest`, of either kind, is that of recorded bytes."""
    return (read_digest_of(data) if len(digest) == READ_BYTES else digest_of(data)) == digest


def read_digest_of(data: bytes | memoryview) -> bytes:
    """Of a text or the like that was read from what is recorded."""
    return blake2b(data, digest_size=READ_BYTES).digest()
