"""Asks a server to count tokens by the model's own tokenizer.

Facts (lmstudio-api.md 5.2, 5.3, 5.8; llama.cpp's server README)
----------------------------------------------------------------
* llama.cpp: `POST /tokenize {"content": text}` gives `{"tokens": [...]}`; no special token is added unless asked for.
* LM Studio answers that path by 200 and `{"error": ...}`. It counts over its WebSocket `/llm`: after the first frame,
  which says who asks, the call `countTokens` with the model's identifier and a text.
* A call to an endpoint that a server does not know is never answered, so there is a time limit.
"""

import asyncio
import json
import uuid
from collections.abc import Sequence
from typing import Any

import aiohttp

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
    identifier, passkey = credentials or (f"guest:proxy-log-{uuid.uuid4()}", str(uuid.uuid4()))
    who = {"authVersion": 1, "clientIdentifier": identifier, "clientPasskey": passkey}
    try:
        async with asyncio.timeout(_PATIENCE_S), session.ws_connect(f"{url}/llm", max_msg_size=0) as socket:
            await socket.send_json(who)
            welcome = await socket.receive_json()
            if not isinstance(welcome, dict) or welcome.get("success") is not True:
                raise NoTokenizerError(f"{url}: {welcome}")
            counts = []
            for call_id, text in enumerate(texts):
                specifier = {"type": "query", "query": {"identifier": model}}
                parameter = {"specifier": specifier, "inputString": text}
                await socket.send_json(
                    {"type": "rpcCall", "endpoint": "countTokens", "callId": call_id, "parameter": parameter}
                )
                counts.append(_count_in(await socket.receive_json(), url))
            return counts
    except (aiohttp.WSServerHandshakeError, TypeError, ValueError) as error:  # no WebSocket, or no JSON in it
        raise NoTokenizerError(f"{url}: {error}") from error


def _count_in(answer: Any, url: str) -> int:
    result = answer.get("result") if isinstance(answer, dict) else None
    count = result.get("tokenCount") if isinstance(result, dict) else None
    if not isinstance(count, int):
        raise NoTokenizerError(f"{url}: {json.dumps(answer)[:200]}")
    return count
