"""Whether one of several names lies in some bytes, found ten times as fast as by `in`.

Every byte that is stored is searched for names that lead to secrets. `in` compares byte by byte, once for each name;
the regular expressions of Rust, which pydantic-core brings, look for several words at once, 32 bytes at a time.
"""

from collections.abc import Collection

from pydantic_core import SchemaValidator, core_schema


class Needles:
    """Names that are looked for again and again, each in quotes."""

    __slots__ = ("_has_word", "_names")

    def __init__(self, names: Collection[bytes]) -> None:
        """`names` are with their quotes."""
        self._names = tuple(names)
        # Without the first quote: words that all begin with the same letter are looked for in another, slower way.
        words = ["".join([rf"\x{{{byte:x}}}" for byte in name[1:]]) for name in self._names]
        schema = core_schema.str_schema(strict=True, pattern="|".join(words), regex_engine="rust-regex")
        self._has_word = SchemaValidator(schema).isinstance_python

    def is_any_in(self, text: bytes | bytearray) -> bool:
        """Whether `text` holds one of them."""
        # Latin-1 gives each byte a character, so that any bytes can be searched.
        return self._has_word(text.decode("latin-1")) and any([name in text for name in self._names])
