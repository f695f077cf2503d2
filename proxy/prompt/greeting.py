"""Tells LM Studio from other servers: it answers `GET /lmstudio-greeting` with `{"lmstudio": true}`."""

import json
from typing import Any

import aiohttp

PATH = "/lmstudio-greeting"


async def is_lm_studio(session: aiohttp.ClientSession, url: str) -> bool:
    """Whether the server at `url` says that it is LM Studio.

    Raises:
        OSError, TimeoutError, aiohttp.ClientError: it cannot be reached.
    """
    async with session.get(f"{url}{PATH}", allow_redirects=False) as response:
        if response.status != 200:
            return False
        try:
            said: Any = json.loads(await response.read())
        except ValueError:
            return False
        return isinstance(said, dict) and said.get("lmstudio") is True
