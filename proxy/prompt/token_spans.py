"""Asks a server how many tokens each stretch of a prompt has, by the model's own tokenizer.

Facts (llama.cpp's server README; lmstudio-api.md 5.8; checked against llama.cpp with SmolLM2)
---------------------------------------------------------------------------------------------
* llama.cpp: `POST /tokenize` with `with_pieces` gives each token's text, as a string or, where it is no whole UTF-8, as
  a list of bytes. With `add_special` and `parse_special` it makes the tokens that a chat completion makes of the same
  prompt: a begin token is added if the model wants one, and the template's own is not written twice.
* Some tokenizers put a blank before the first word; a begin token that was added stands nowhere in the prompt.
* LM Studio only counts. So a prompt's beginnings are counted, one for each border; a token that crosses a border then
  belongs to the stretch before it or behind it, as the counts have it.
"""

import json
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from typing import Any

import aiohttp

from proxy.prompt.server_tokenizer import count_by_http, count_by_websocket

MAX_ASKED = 64
"""So many beginnings of a prompt are counted."""


async def tokens_of_spans(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    prompt: str,
    borders: Sequence[int],
    *,
    credentials: tuple[str, str] | None = None,
) -> list[int] | None:
    """How many tokens of a prompt begin in each span; they sum to the tokens of the whole prompt, exactly.

    Args:
        session: has the limits of time.
        url: the server's, without a path.
        model: what the server knows the model by.
        prompt: the whole prompt, special tokens by their names.
        borders: characters at which spans begin, in order, the first at 0; each reaches to the next.
        credentials: what LM Studio's WebSocket is told first; None: a guest.

    Returns:
        One count for each border. None if there are no borders. Where there are more than `MAX_ASKED` and the server
        only counts, shorter spans share the tokens of their neighbourhood by their length.

    Raises:
        NoTokenizerError: the server does not count.
        OSError, TimeoutError, aiohttp.ClientError: it cannot be reached.
    """
    if not borders:
        return None
    pieces = await _pieces(session, url, prompt)
    if pieces is not None:
        counts = _by_pieces(prompt, borders, pieces)
        if counts is not None:
            return counts

    async def count(texts: Sequence[str]) -> list[int]:
        if pieces is not None:
            counts = await count_by_http(session, url, texts, add_special=True)
            if counts is not None:
                return counts
        return await count_by_websocket(session, url, model, texts, credentials=credentials)

    return await _by_beginnings(count, prompt, borders)


async def _pieces(session: aiohttp.ClientSession, url: str, prompt: str) -> list[bytes] | None:
    """The texts of the prompt's tokens; None where the server does not know that path."""
    asked = {"content": _utf8(prompt).decode(), "add_special": True, "parse_special": True, "with_pieces": True}
    async with session.post(f"{url}/tokenize", json=asked) as response:
        try:
            answer: Any = json.loads(await response.read())
        except ValueError:
            return None
    tokens = answer.get("tokens") if isinstance(answer, dict) and response.status == 200 else None
    return [_piece(token) for token in tokens] if isinstance(tokens, list) else None


def _piece(token: Any) -> bytes:
    """A token's text; empty if it is told in no known form."""
    piece = token.get("piece") if isinstance(token, dict) else None
    if isinstance(piece, str):
        return _utf8(piece)
    if isinstance(piece, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in piece):
        return bytes(piece)
    return b""


def _by_pieces(prompt: str, borders: Sequence[int], pieces: Sequence[bytes]) -> list[int] | None:
    """A token belongs to the span in which its first byte stands; None if the pieces do not make up the prompt."""
    text = _utf8(prompt)
    starts = _byte_offsets(prompt, borders)
    counts = [0] * len(borders)
    at = 0
    for piece in pieces:
        counts[max(0, bisect_right(starts, min(at, max(0, len(text) - 1))) - 1)] += 1
        if text.startswith(piece, at):
            at += len(piece)
        elif piece.startswith(b" ") and text.startswith(piece[1:], at):
            at += len(piece) - 1
        elif at:  # at the start it is a token that was added
            return None
    return counts if at == len(text) else None


def _byte_offsets(prompt: str, borders: Sequence[int]) -> list[int]:
    offsets = []
    before = offset = 0
    for border in borders:
        offset += len(_utf8(prompt[before:border]))
        before = border
        offsets.append(offset)
    return offsets


async def _by_beginnings(
    count: Callable[[Sequence[str]], Awaitable[list[int]]], prompt: str, borders: Sequence[int]
) -> list[int]:
    """Differences between the counts of longer and longer beginnings of the prompt."""
    asked = _asked_borders(len(prompt), borders)
    counted = await count([*(_utf8(prompt[: borders[index]]).decode() for index in asked), _utf8(prompt).decode()])
    whole = counted.pop()
    ups = [0]
    for number in counted:  # a longer beginning may have fewer tokens
        ups.append(min(max(ups[-1], number), whole))
    ups.append(whole)
    ends = [*borders[1:], len(prompt)]
    counts: list[int] = []
    for (first, behind), (low, high) in zip(pairwise([0, *asked, len(borders)]), pairwise(ups), strict=True):
        lengths = [max(0, ends[index] - borders[index]) for index in range(first, behind)]
        counts += _shared(high - low, lengths)
    return counts


def _asked_borders(length: int, borders: Sequence[int]) -> list[int]:
    """Indexes of the borders to be asked for, without the first: those around the longest spans if they are many."""
    if len(borders) <= MAX_ASKED:
        return [*range(1, len(borders))]
    ends = [*borders[1:], length]
    chosen: set[int] = set()
    for index in sorted(range(len(borders)), key=lambda index: borders[index] - ends[index]):
        around = {each for each in (index, index + 1) if 0 < each < len(borders)}
        if len(chosen | around) >= MAX_ASKED:
            break
        chosen |= around
    return sorted(chosen)


def _shared(tokens: int, lengths: Sequence[int]) -> list[int]:
    """Tokens by lengths, as whole numbers that sum to them."""
    total = sum(lengths)
    if not total:
        return [tokens, *[0] * (len(lengths) - 1)]
    shares = []
    reached = given = 0
    for length in lengths:
        reached += length
        shares.append(tokens * reached // total - given)
        given += shares[-1]
    return shares


def _utf8(text: str) -> bytes:
    """Half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace")
