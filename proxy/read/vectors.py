"""What embeddings answer, told in three numbers: the vectors themselves stand in the recorded body.

Facts (lmstudio-api.md 2.6; OpenAI's embeddings; llama.cpp's tools/server/README.md at 00dc805, POST /embeddings)
----------------------------------------------------------------------------------------------------------------
* A vector is an array of numbers, or base64 of 32-bit ones (asked for with `encoding_format`, not always given).
* llama.cpp's own endpoint has an array of vectors for each input: one, or without pooling one for each token.
* Sizes are those of the arrays; no number in them is looked at.
"""

from collections.abc import Iterable

from proxy.meaning import Json
from proxy.read.call import Call

_FLOAT_BYTES = 4


def read_vectors(call: Call, values: Iterable[Json]) -> None:
    """`vectors`, `dimensions` (of the first one) and `encoding`, as details of the call."""
    count, dimensions, encoding = 0, None, None
    for value in values:
        if isinstance(value, str):
            count += 1
            if dimensions is None:
                dimensions, encoding = len(value.rstrip("=")) * 3 // 4 // _FLOAT_BYTES, "base64"
        elif isinstance(value, list):
            is_nested = bool(value) and isinstance(value[0], list)
            count += len(value) if is_nested else 1
            if dimensions is None:
                dimensions, encoding = len(value[0] if is_nested else value), "float"
        else:
            call.problem("unexpected", "an embedding is neither an array nor text")
    call.details.update(vectors=count, dimensions=dimensions, encoding=encoding)
