"""What a GGUF file says of itself: the header, read here, because llama.cpp must not be loaded to list models.

Facts
-----
* Magic `GGUF`, version 2 or 3, counts of tensors and of key/value pairs, the pairs, the tensors' names and shapes, all
  little-endian (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, read 2026-09). Version 1 had 32-bit counts
  and is not to be found any more.
* `general.file_type` numbers llama.cpp's mixtures (`Q4_K_M`), a tensor's type ggml's formats (`Q4_K`).
"""

import mmap
import re
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from proxy.demo.engine import Model
from proxy.errors import ProxyLogError

_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_PAIRS = 1 << 16
_MOST_TENSORS = 1 << 20
_MOST_DIMENSIONS = 8
_CONTROL = 3
"""`tokenizer.ggml.token_type` of tokens that are never text."""
_FILE_TYPES: Final = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"), 16)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 25)),
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4"},
}
_TENSOR_TYPES: Final = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 6)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), 16)),
    **{29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}


class _MalformedError(Exception):
    """The bytes are not what the format says."""


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """A model file's own words."""

    file: Path
    architecture: str
    publisher: str
    max_context_length: int
    quantization: str
    experts: int
    """How many take part in each token; 0: it is not made of experts."""
    size_bytes: int
    parameters: int
    """How many numbers its tensors have."""
    size_label: str
    """`135M`, as the file says or counted."""
    template: str
    bos_token: str
    eos_token: str
    control_tokens: frozenset[int]
    """Those that are no text: the end token is one of them."""
    is_embedding: bool

    @property
    def bits(self) -> float:
        """Bits of a weight, by the name of the quantisation."""
        digits = re.search(r"\d+", self.quantization)
        return float(digits[0]) if digits else 0.0

    def model(self, key: str) -> Model:
        """It as a model that requests call `key`."""
        repository = re.sub(r"[.-]" + re.escape(self.quantization) + "$", "", self.file.stem, flags=re.IGNORECASE)
        return Model(
            key=key,
            type="embedding" if self.is_embedding else "llm",
            publisher=self.publisher,
            display_name=repository.replace("-", " "),
            path=f"{self.publisher}/{repository}-GGUF/{self.file.name}",
            architecture=self.architecture,
            quantization=self.quantization,
            bits=self.bits,
            size_bytes=self.size_bytes,
            parameters=self.size_label,
            max_context_length=self.max_context_length,
            experts=self.experts,
            template="" if self.is_embedding else self.template,
            file=self.file,
            trained_for_tool_use="tools" in self.template,
            reasoning="<think>" in self.template,
        )


def read_gguf(file: Path) -> GgufFacts:
    """The facts of a model file; only its header is read.

    Raises:
        ProxyLogError: it cannot be read, or is not a whole GGUF file.
    """
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _facts(file, _Reader(data))
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


def _facts(file: Path, reader: _Reader) -> GgufFacts:
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
    architecture = _text(told, "general.architecture")
    if not architecture:
        raise _MalformedError("it does not say which architecture it has")
    parameters = sum(weights.values())
    template = _text(told, "tokenizer.chat_template")
    commonest = weights.most_common(1)[0][0] if weights else 0
    types = told.get("tokenizer.ggml.token_type")
    return GgufFacts(
        file=file,
        architecture=architecture,
        publisher=re.sub(r"[^\w.-]+", "-", _text(told, "general.organization").lower()) or "local",
        max_context_length=_number(told, f"{architecture}.context_length"),
        experts=_number(told, f"{architecture}.expert_used_count"),
        quantization=_FILE_TYPES.get(
            _number(told, "general.file_type", -1), _TENSOR_TYPES.get(commonest, f"type{commonest}")
        ),
        size_bytes=reader.size_bytes,
        parameters=parameters,
        size_label=_text(told, "general.size_label") or _size_label(parameters),
        template=template,
        bos_token=_token(told, "bos"),
        eos_token=_token(told, "eos"),
        control_tokens=frozenset(at for at, kind in enumerate(types) if kind == _CONTROL)
        if isinstance(types, list)
        else frozenset({_number(told, "tokenizer.ggml.eos_token_id", -1)}),
        is_embedding=not template and ("bert" in architecture or f"{architecture}.pooling_type" in told),
    )


def _text(told: dict[str, Any], key: str) -> str:
    found = told.get(key)
    return found if isinstance(found, str) else ""


def _number(told: dict[str, Any], key: str, otherwise: int = 0) -> int:
    found = told.get(key)
    return found if isinstance(found, int) else otherwise


def _token(told: dict[str, Any], which: str) -> str:
    """The text of a special token."""
    tokens, at = told.get("tokenizer.ggml.tokens"), _number(told, f"tokenizer.ggml.{which}_token_id", -1)
    return str(tokens[at]) if isinstance(tokens, list) and 0 <= at < len(tokens) else ""


def _size_label(parameters: int) -> str:
    if parameters < 999_500_000:
        return f"{parameters / 1e6:.0f}M"
    return f"{parameters / 1e9:.1f}".removesuffix(".0") + "B" if parameters < 9.95e9 else f"{parameters / 1e9:.0f}B"
