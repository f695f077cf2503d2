"""Keeps dated snapshots of the settings of models in use: what was in force before a request said anything.

It asks servers, so it does so at most once a minute for each model, and only for models with a call in the last minute:
who does not use a model is not disturbed, and no server is kept awake.
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import aiohttp

from proxy.prompt.sdk_socket import SdkRefusedError
from proxy.prompt.server_config import BASE, PROPS, NotToldError, ToldSettings, ask_settings
from proxy.store.courtesy import NOBODY_ELSE
from proxy.store.model_snapshots import ModelSnapshots
from proxy.store.prompts import PromptRows
from proxy.store.schema import open_for_writing

log = logging.getLogger(__name__)

EVERY_US = 60_000_000
"""How often the settings of a model in use are asked for, at most, whatever the server answers."""
USED_WITHIN_US = 60_000_000
"""A model is in use for so long after a call's end."""
_CALL_COMES_S = 2.0
_PATIENCE_S = 10.0
_TEMPLATE_SOURCES = {PROPS: "props", BASE: "model_default"}


def _now_us() -> int:
    return time.time_ns() // 1000


class Snapshots:
    """Asks for one trace's models. Its owner must hold the writer lock."""

    def __init__(
        self,
        trace: Path,
        turn: AbstractContextManager[object] = NOBODY_ELSE,
        *,
        ask: bool = True,
        credentials: tuple[str, str] | None = None,
        now_us: Callable[[], int] = _now_us,
    ) -> None:
        """Nothing is opened yet.

        Args:
            trace: the trace's file.
            turn: is held while the trace is written.
            ask: whether servers are asked at all (`prompt.ask`).
            credentials: the two halves of LM Studio's API token; None: a guest.
            now_us: the time, UTC, in microseconds.
        """
        self._turn = turn
        self._trace = trace
        self._ask = ask
        self._credentials = credentials
        self._now_us = now_us
        self._connection: sqlite3.Connection | None = None
        self._asked_us: dict[tuple[str, str], int] = {}
        self._version = 0
        self._changed_s = float("-inf")
        self._unwritten: list[tuple[str, str, list[ToldSettings], int]] = []

    @property
    def is_watching(self) -> bool:
        """Whether something was stored just now: it may be a call that is about to be read."""
        return time.monotonic() - self._changed_s < _CALL_COMES_S

    def run_once(self) -> int:
        """Ask for the models whose turn it is; gives how many were asked for, 0 if there is none.

        Raises:
            sqlite3.Error, OSError: the trace cannot be written; call again later.
        """
        if not self._ask:
            return 0
        if self._connection is None:
            self._connection = open_for_writing(self._trace)
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version != self._version:
            self._version, self._changed_s = version, time.monotonic()
        now_us = self._now_us()
        self._asked_us = {one: at_us for one, at_us in self._asked_us.items() if now_us - at_us < EVERY_US}
        used = ModelSnapshots(self._connection).models_used_since(now_us - USED_WITHIN_US)
        due = [one for one in used if one not in self._asked_us]
        for url, model in due:
            self._asked_us[url, model] = now_us
            told = self._told(url, model)
            if told:
                self._unwritten.append((url, model, told, self._now_us()))
        while self._unwritten:  # kept until it is written: nobody is asked for the same again
            self._put(self._connection, *self._unwritten[0])
            del self._unwritten[0]
        return len(due)

    def close(self) -> None:
        """Let go of the trace."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _told(self, url: str, model: str) -> list[ToldSettings]:
        """What the server tells; nothing if it does not."""
        try:
            return asyncio.run(self._asked(url, model))
        except (NotToldError, SdkRefusedError, aiohttp.ClientError, OSError, ValueError) as error:
            # a TimeoutError is an OSError; what a server says is not worth more than a line
            log.info("no settings of %s from %s: %s", model, url, error or type(error).__name__)
            return []

    async def _asked(self, url: str, model: str) -> list[ToldSettings]:
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            return await ask_settings(session, url, model, credentials=self._credentials)

    def _put(self, connection: sqlite3.Connection, url: str, model: str, told: list[ToldSettings], at_us: int) -> None:
        snapshots, templates = ModelSnapshots(connection), PromptRows(connection)
        with self._turn:
            connection.execute("BEGIN IMMEDIATE")
            try:
                for one in told:
                    snapshots.put(url, model, one.source, one.parameters, at_us)
                    if one.template is not None:
                        templates.template(
                            one.template,
                            upstream_url=url,
                            model=model,
                            source=_TEMPLATE_SOURCES[one.source],
                            detail=f"asked of {url}",
                            at_us=at_us,
                            bos_token=one.bos_token,
                            eos_token=one.eos_token,
                        )
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise
