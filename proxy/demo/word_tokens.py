"""The scripted engine's tokenizer: word pieces, bytes for the rest, four special tokens. It needs no vocabulary file.

An id *is* its text: 0-255 are bytes, then come the special tokens, then pieces of 1-6 ASCII letters, of which the first
may be a capital and may have a space before it, written as a number to the base 27. All fit 31 bits. So ids are the
same in every run, and any text comes back from its tokens.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from proxy.demo.engine import EngineError

START, END, IMAGE, BEGIN = 256, 257, 258, 259
SPECIAL = {"<|im_start|>": START, "<|im_end|>": END, "<|image|>": IMAGE, "<|begin|>": BEGIN}
_TEXT_OF = {token: text for text, token in SPECIAL.items()}
_FIRST_PIECE = 300
_LETTERS = 6
_PIECES: int = 27**_LETTERS
_TEXT = r"(?P<piece> ?[A-Za-z][a-z]{0,5})|(?P<other>.)"
_TEXT_TOKEN = re.compile(_TEXT, re.DOTALL)
_TOKEN = re.compile(f"(?P<special>{'|'.join(map(re.escape, SPECIAL))})|{_TEXT}", re.DOTALL)


def tokenize(text: str, *, special: bool = True) -> list[int]:
    """Tokens of a text.

    Args:
        text: any; what UTF-8 cannot carry (half a surrogate pair) becomes a question mark.
        special: the names of special tokens become those tokens; otherwise they are text like any other.
    """
    pattern = _TOKEN if special else _TEXT_TOKEN
    tokens: list[int] = []
    for match in pattern.finditer(text):
        word = match[0]
        if match.lastgroup == "piece":
            tokens.append(_number(word))
        elif match.lastgroup == "special":
            tokens.append(SPECIAL[word])
        else:
            tokens += word.encode("utf-8", "replace")
    return tokens


@lru_cache(1 << 14)
def _number(piece: str) -> int:
    word = piece.lstrip(" ")
    number = 0
    for letter in word.lower():
        number = number * 27 + ord(letter) - 96
    return _FIRST_PIECE + number + _PIECES * (word[0].isupper() + 2 * (word != piece))


@lru_cache(1 << 14)
def token_bytes(token: int) -> bytes:
    """The bytes that a token stands for.

    Raises:
        EngineError: there is no such token.
    """
    if 0 <= token < 256:
        return bytes([token])
    if token in _TEXT_OF:
        return _TEXT_OF[token].encode()
    flags, number = divmod(token - _FIRST_PIECE, _PIECES)
    letters = ""
    while token >= _FIRST_PIECE and number:
        number, letter = divmod(number, 27)
        letters = chr(96 + letter) + letters
    if not letters or "`" in letters or flags > 3:  # "`" stands before "a": a gap inside the number
        raise EngineError(f"there is no token {token}")
    return (" " * (flags >> 1) + (letters.capitalize() if flags & 1 else letters)).encode()


def detokenize(tokens: Sequence[int]) -> str:
    """The text of tokens; where they cut a character, a replacement character stands.

    Raises:
        EngineError: there is no such token.
    """
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")
