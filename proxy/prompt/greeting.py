"""Tells LM Studio from other servers: it answers `GET /lmstudio-greeting` with `{"lmstudio": true}`."""

from collections.abc import Mapping
from types import MappingProxyType

import aiohttp

from proxy.read.json_fields import NotJsonError, decode_json

PATH = "/lmstudio-greeting"
_MOST_BYTES = 4096
_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


async def is_lm_studio(session: aiohttp.ClientSession, url: str, *, fields: Mapping[str, str] = _NO_FIELDS) -> bool:
    """Whether the server at `url` says that it is LM Studio; `fields` are sent in the request's head.

    Raises:
        OSError, TimeoutError, aiohttp.ClientError: it cannot be reached.
    """
    async with session.get(f"{url}{PATH}", headers=dict(fields), allow_redirects=False) as response:
        if response.status != 200:
            return False
        said = await response.content.read(_MOST_BYTES)
    try:
        greeting = decode_json(said)
    except NotJsonError:
        return False
    return isinstance(greeting, dict) and greeting.get("lmstudio") is True
