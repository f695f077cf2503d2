"""A body's content coding undone, piece by piece; what is not known or broken is said, never raised.

Facts: RFC 9110 section 8.4. `deflate` means zlib's format, yet some send raw deflate. Codings are listed in the order
in which they were applied. Brotli and zstd are in no library that this project needs otherwise, so they stay.
"""

import zlib
from typing import Protocol

MAX_DECODED_BYTES = 1 << 28
"""More is not read: a few KB can claim to be gigabytes."""
_SLICE_BYTES = 4096
"""So much is inflated at once: zlib copies what stands behind each gzip file's end, and there may be many files."""


class Decoder(Protocol):
    """Undoes a coding."""

    @property
    def problem(self) -> str:
        """In words; "" as long as there is none."""
        ...

    def feed(self, data: bytes) -> bytes:
        """The decoded bytes that these make up."""
        ...


class Identity:
    """No coding."""

    problem = ""

    def feed(self, data: bytes) -> bytes:
        """The same."""
        return data


class Unknown:
    """A coding that cannot be undone here."""

    def __init__(self, coding: str) -> None:
        """`coding` is its name."""
        self.problem = f"the body's content coding {coding!r} is not decoded here"

    def feed(self, data: bytes) -> bytes:
        """Nothing: the bytes mean nothing as they are."""
        return b""


class Inflate:
    """gzip, zlib's format or raw deflate: which of them the first bytes tell."""

    def __init__(self, wbits: int) -> None:
        """`wbits` as zlib takes it."""
        self.problem = ""
        self._inflate = zlib.decompressobj(wbits)
        self._may_be_raw = wbits == zlib.MAX_WBITS
        self._first: list[bytes] = []  # out of which nothing came yet: they may have to be read again as raw deflate
        self._size = 0

    def feed(self, data: bytes) -> bytes:
        """The inflated bytes; none after a problem."""
        return b"".join([self._feed(data[at : at + _SLICE_BYTES]) for at in range(0, len(data), _SLICE_BYTES)])

    def _feed(self, data: bytes) -> bytes:
        if self.problem:
            return b""
        if self._may_be_raw:
            self._first.append(data)
        before = self._inflate.copy()
        try:
            inflated = self._inflated(data)
        except zlib.error as error:
            if not self._may_be_raw:
                self.problem = f"the body cannot be inflated: {error}"
                return _up_to_error(before, data)
            self._may_be_raw = False
            self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            return self.feed(b"".join(self._first))
        self._may_be_raw = self._may_be_raw and not inflated
        self._size += len(inflated)
        if self._size > MAX_DECODED_BYTES:
            self.problem = f"the body has more than {MAX_DECODED_BYTES >> 20} MiB when inflated; the rest is not read"
        return inflated

    def _inflated(self, data: bytes) -> bytes:
        parts = []
        while data:
            parts.append(self._inflate.decompress(data, MAX_DECODED_BYTES + 1 - self._size))
            if not self._inflate.eof:
                break
            data = self._inflate.unused_data  # a gzip file may be several, one after the other
            if data:
                self._inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
        return b"".join(parts)


def _up_to_error(inflate: "zlib._Decompress", data: bytes) -> bytes:
    """What comes out before a damaged place, as if the bytes had come one by one."""
    parts = []
    for at in range(len(data)):
        try:
            parts.append(inflate.decompress(data[at : at + 1]))
        except zlib.error:
            break
    return b"".join(parts)


class _Chain:
    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    @property
    def problem(self) -> str:
        return next((one.problem for one in self._decoders if one.problem), "")

    def feed(self, data: bytes) -> bytes:
        for decoder in self._decoders:
            data = decoder.feed(data)
        return data


def decoder_of(content_encoding: str) -> Decoder:
    """What undoes the codings of a `Content-Encoding` field."""
    decoders: list[Decoder] = []
    for coding in reversed([part.strip().lower() for part in content_encoding.split(",")]):
        if coding in ("gzip", "x-gzip"):
            decoders.append(Inflate(16 + zlib.MAX_WBITS))
        elif coding == "deflate":
            decoders.append(Inflate(zlib.MAX_WBITS))
        elif coding not in ("", "identity"):
            decoders.append(Unknown(coding))
    return Identity() if not decoders else decoders[0] if len(decoders) == 1 else _Chain(decoders)
