"""Asks a server to count tokens by the model's own tokenizer.

Facts (lmstudio-api.md 5.2, 5.3, 5.8; llama.cpp's server README)
----------------------------------------------------------------
* llama.cpp: `POST /tokenize {"content": text}` gives `{"tokens": [...]}`; no special token is added unless asked for.
* LM Studio answers that path by 200 and `{"error": ...}`. It counts over its WebSocket `/llm`: after the first frame,
  which says who asks, the call `countTokens` with the model's identifier and a text.
* A call to an endpoint that a server does not know is never answered, so there is a time limit.
"""

import json
from collections.abc import Sequence
from typing import Any

import aiohttp

from proxy.prompt.sdk_socket import SdkRefusedError, call, open_socket

_PATIENCE_S = 10.0


class NoTokenizerError(Exception):
    """The server offers no tokenizer, or none for this model; the message says what it said."""


async def count_tokens(url: str, model: str, texts: Sequence[str]) -> list[int]:
    """How many tokens each text has, by the tokenizer of `model` on the server at `url`.

    Raises:
        NoTokenizerError: the server does not count.
        OSError, TimeoutError, aiohttp.ClientError: it cannot be reached.
    """
    timeout = aiohttp.ClientTimeout(total=None, connect=_PATIENCE_S, sock_read=_PATIENCE_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        counts = await count_by_http(session, url, texts)
        return counts if counts is not None else await count_by_websocket(session, url, model, texts)


async def count_by_http(
    session: aiohttp.ClientSession, url: str, texts: Sequence[str], *, add_special: bool = False
) -> list[int] | None:
    """As llama.cpp counts; None where the path is not known.

    Args:
        session: has the limits of time.
        url: the server's, without a path.
        texts: what to count.
        add_special: with the special tokens that the model wants around a prompt.
    """
    counts = []
    for text in texts:
        asked = {"content": text, "add_special": add_special}
        async with session.post(f"{url}/tokenize", json=asked) as response:
            try:
                answer: Any = json.loads(await response.read())
            except ValueError:
                return None
            tokens = answer.get("tokens") if isinstance(answer, dict) and response.status == 200 else None
            if not isinstance(tokens, list):
                return None
            counts.append(len(tokens))
    return counts


async def count_by_websocket(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    texts: Sequence[str],
    *,
    credentials: tuple[str, str] | None = None,
) -> list[int]:
    """As LM Studio counts; `credentials` are what it is told first, None: a guest's.

    Raises:
        NoTokenizerError: it does not count.
        OSError, TimeoutError, aiohttp.ClientError: it cannot be reached.
    """
    specifier = {"type": "query", "query": {"identifier": model}}
    try:
        async with open_socket(session, url, "llm", credentials) as socket:
            return [
                _count_in(await call(socket, "countTokens", {"specifier": specifier, "inputString": text}), url)
                for text in texts
            ]
    except SdkRefusedError as error:
        raise NoTokenizerError(str(error)) from None


def _count_in(result: Any, url: str) -> int:
    count = result.get("tokenCount") if isinstance(result, dict) else None
    if not isinstance(count, int):
        raise NoTokenizerError(f"{url}: {json.dumps(result)[:200]}")
    return count
