"""Listens to LM Studio's log through the proxy's own port, so that what it says is recorded like any other exchange.

Facts (lmstudio-api.md 5.1-5.3, 5.10, 9)
----------------------------------------
* `GET /lmstudio-greeting` gives `{"lmstudio":true}`, without a token; other servers answer something else.
* `ws://HOST:PORT/diagnostics`: the first frame says who comes (a guest, or the two halves of an API token), the answer
  is `{"success": true}` or `{"success": false, "error"}`. The channel `streamLogs` has no creation parameter.
* A path that a server does not know may be left without any answer. T: some builds serve /diagnostics on LM Studio's
  internal port only. An event is as large as its prompt.

The frames are read and thrown away: the front, through which they come, has recorded them.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Any

import aiohttp

from proxy.exchange import SESSION_FIELD, TAG_FIELD
from proxy.prompt.greeting import is_lm_studio
from proxy.prompt.sdk_socket import SdkRefusedError, open_socket, title_of

TAG = "engine-log"
SESSION = "engine log"
ASK_AGAIN_S = 30.0
"""How often a server that is not LM Studio is asked whether it is; one that does not answer, at least as often."""
BACK_OFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)
"""How long to wait before the next try, the first time, the second..."""
LASTED_S = 10.0
"""A connection that was listened to for so long is replaced at once."""
_ANSWER_S = 10.0
_END_BYTES = 4096
_FIELDS = {TAG_FIELD: TAG, SESSION_FIELD: SESSION}


class LogState(StrEnum):
    """How it stands with one upstream's log."""

    ASKING = "asking"
    """It is not known yet what the upstream is."""
    UNREACHABLE = "unreachable"
    """Nobody answers there."""
    NOT_LMSTUDIO = "not_lmstudio"
    """It is another server, which has no such log."""
    LISTENING = "listening"
    REFUSED = "refused"
    """It is LM Studio, and does not let us listen."""
    LOST = "lost"
    """The connection ended; it is tried again."""


@dataclass(frozen=True, slots=True)
class LogSource:
    """An upstream whose log is wanted."""

    name: str
    """As configured."""
    url: str
    """Where it is: asked directly whether it is LM Studio."""
    ways: tuple[str, ...]
    """URLs of its WebSockets through the proxy, without the namespace; tried in this order."""


OnState = Callable[[LogSource, LogState, str], None]
"""Told, in the loop, whenever the state of a source changes: the source, its state, a detail in words or ""."""


class LogStream:
    """The subscription to one upstream's log."""

    def __init__(
        self,
        source: LogSource,
        token: str,
        on_state: OnState,
        *,
        ask_again_s: float = ASK_AGAIN_S,
        back_off_s: tuple[float, ...] = BACK_OFF_S,
        answer_s: float = _ANSWER_S,
    ) -> None:
        """Nothing is asked yet. `token` is LM Studio's API token, or "" for a guest; the rest are times in seconds."""
        self._source = source
        self._token = token
        identifier, _, passkey = token.partition(":")
        self._credentials = (identifier, passkey) if token else None
        self._on_state = on_state
        self._ask_again_s = ask_again_s
        self._back_off_s = back_off_s
        self._answer_s = answer_s
        self._told: tuple[LogState, str] | None = None

    async def run(self) -> None:
        """Listen, until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._answer_s)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            self._tell(LogState.ASKING)
            failures = 0
            while True:
                pause_s = self._back_off_s[min(failures, len(self._back_off_s) - 1)]
                state = await self._greet(session)
                if state is LogState.NOT_LMSTUDIO:
                    failures = 0
                    pause_s = self._ask_again_s
                elif state is LogState.UNREACHABLE:  # it may just be starting
                    failures += 1
                    pause_s = min(pause_s, self._ask_again_s)
                elif await self._listen(session) >= LASTED_S:
                    failures = 0
                    continue
                else:
                    failures += 1
                await asyncio.sleep(pause_s)

    async def _greet(self, session: aiohttp.ClientSession) -> LogState | None:
        """Ask whether it is LM Studio; None if it is, else what is told instead."""
        state = await self._greeted(session)
        if state is not None:
            self._tell(state)
        return state

    async def _greeted(self, session: aiohttp.ClientSession) -> LogState | None:
        try:
            async with asyncio.timeout(self._answer_s):
                is_it = await is_lm_studio(session, self._source.url, fields={"Connection": "close"})
        except (aiohttp.ClientConnectionError, OSError):  # a TimeoutError is an OSError
            return LogState.UNREACHABLE
        except (aiohttp.ClientError, ValueError):
            return LogState.NOT_LMSTUDIO
        return None if is_it else LogState.NOT_LMSTUDIO

    async def _listen(self, session: aiohttp.ClientSession) -> float:
        """Listen by the first way that leads to the log; gives for how many seconds that went."""
        refusals = []
        for way in self._source.ways:
            began = 0.0
            try:
                async with open_socket(
                    session, way, "diagnostics", self._credentials, fields=_FIELDS, patience_s=self._answer_s
                ) as socket:
                    await socket.send_str('{"type":"channelCreate","endpoint":"streamLogs","channelId":0}')
                    began = monotonic()
                    self._tell(LogState.LISTENING)
                    await _hear_out(socket)
            except SdkRefusedError as error:
                refusals.append(str(error))
            except TimeoutError:
                refusals.append(f"{way}/diagnostics: no answer within {self._answer_s:g} s")
            except (aiohttp.ClientError, OSError) as error:
                refusals.append(str(error) or type(error).__name__)
            if began:
                self._tell(LogState.LOST, refusals[-1] if refusals else "")
                return monotonic() - began
        self._tell(LogState.REFUSED, "; ".join(dict.fromkeys(refusals)))
        return 0.0

    def _tell(self, state: LogState, detail: str = "") -> None:
        for secret in (self._token, self._token.partition(":")[2]):
            detail = detail.replace(secret, "[token]") if secret else detail
        if self._told != (state, detail):
            self._told = state, detail
            self._on_state(self._source, state, detail)


async def _hear_out(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Read frames to the end of the channel or the connection."""
    async for message in socket:
        data = message.data
        if message.type is not aiohttp.WSMsgType.TEXT:
            continue
        # Frames are large and many; only the few short ones can be the channel's end.
        if len(data) < _END_BYTES and '"channelError"' in data and _read_object(data).get("type") == "channelError":
            error = _read_object(data).get("error")
            raise SdkRefusedError(title_of(error))
        if len(data) < _END_BYTES and '"channelClose"' in data and _read_object(data).get("type") == "channelClose":
            return


def _read_object(data: bytes | str) -> dict[str, Any]:
    """The JSON object; an empty one where it is something else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
