"""The header of a GGUF file: what a model says of itself, its prompt template among it.

Read here and not by the package `gguf`, which needs numpy and loads every list of a file into it, to get at a dozen
values; and llama.cpp must not be loaded to list models.

Facts
-----
* Magic `GGUF`, version 2 or 3, counts of tensors and of key/value pairs, the pairs, the tensors' names and shapes, all
  little-endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read 2026-09). Version 1 had 32-bit counts
  and is not to be found any more.
* `tokenizer.chat_template` is the template, by convention; `tokenizer.chat_template.NAME` are others for special ends.
"""

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from proxy.errors import ProxyLogError

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_PAIRS = 1 << 16
_MOST_TENSORS = 1 << 20
_MOST_DIMENSIONS = 8


class _MalformedError(Exception):
    """The bytes are not what the format says."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What stands before the weights."""

    values: dict[str, Any]
    """By key: numbers, texts, lists."""
    weights: dict[int, int]
    """How many numbers its tensors have, by ggml's format."""
    size_bytes: int
    """Of the whole file."""

    def text(self, key: str) -> str:
        """A text; empty where there is none."""
        found = self.values.get(key)
        return found if isinstance(found, str) else ""

    def number(self, key: str, otherwise: int = 0) -> int:
        """A whole number."""
        found = self.values.get(key)
        return found if isinstance(found, int) else otherwise

    def token(self, which: str) -> str:
        """The text of a special token: `bos`, `eos`; empty where there is none."""
        tokens, at = self.values.get("tokenizer.ggml.tokens"), self.number(f"tokenizer.ggml.{which}_token_id", -1)
        return str(tokens[at]) if isinstance(tokens, list) and 0 <= at < len(tokens) else ""


def read_header(file: Path) -> GgufHeader:
    """The header of a model file.

    Raises:
        ProxyLogError: it cannot be read, or is not a whole GGUF file.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _header(_Reader(data))
    except OSError as error:
        raise ProxyLogError(f"{file}: cannot read the model: {error.strerror}") from None
    except ValueError:  # mmap's word for it
        raise ProxyLogError(f"{file}: not a GGUF file: it is empty") from None
    except _MalformedError as error:
        raise ProxyLogError(f"{file}: not a whole GGUF file: {error}; fetch it again") from None


class _Reader:
    """Reads values one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 0

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _MalformedError(f"it ends inside its header, at byte {len(self._data)}")
        self._at += size
        return self._data[self._at - size : self._at]

    def numbers(self, form: str, count: int) -> tuple[Any, ...]:
        return struct.unpack(f"<{count}{form}", self.take(count * struct.calcsize(f"<{form}")))

    def count(self, what: str, most: int) -> int:
        found: int = self.numbers("Q", 1)[0]
        if found > most:
            raise _MalformedError(f"it claims to have {found} {what}")
        return found

    def text(self) -> str:
        return self.take(self.count("bytes in a text", len(self._data))).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        if form := _SCALARS.get(kind):
            return self.numbers(form, 1)[0]
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth > 3:
            raise _MalformedError(f"it has a value of the unknown type {kind}")
        item: int = self.numbers("I", 1)[0]
        count = self.count("values in a list", len(self._data))
        if form := _SCALARS.get(item):
            return list(self.numbers(form, count))
        return [self.value(item, depth + 1) for _ in range(count)]


def _header(reader: _Reader) -> GgufHeader:
    if reader.take(4) != b"GGUF":
        raise _MalformedError("it does not start with GGUF")
    version = reader.numbers("I", 1)[0]
    if version not in {2, 3}:
        raise _MalformedError(f"its version is {version}, not 2 or 3")
    tensors = reader.count("tensors", _MOST_TENSORS)
    pairs = reader.count("key/value pairs", _MOST_PAIRS)
    told: dict[str, Any] = {}
    for _ in range(pairs):
        key = reader.text()
        told[key] = reader.value(reader.numbers("I", 1)[0])
    weights: Counter[int] = Counter()
    for _ in range(tensors):
        reader.text()
        dimensions = reader.numbers("I", 1)[0]
        if dimensions > _MOST_DIMENSIONS:
            raise _MalformedError(f"it has a tensor of {dimensions} dimensions")
        shape = reader.numbers("Q", dimensions)
        kind, _offset = reader.numbers("I", 1)[0], reader.numbers("Q", 1)
        weights[kind] += prod(shape)
    if not isinstance(told.get("general.architecture"), str):
        raise _MalformedError("it does not say which architecture it has")
    return GgufHeader(told, dict(weights), reader.size_bytes)
