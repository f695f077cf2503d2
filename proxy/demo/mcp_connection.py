"""A connection to one MCP server, by the official client (the package `mcp`, extra `demo`), imported here alone."""

import asyncio
import importlib
import importlib.util
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from proxy.errors import MissingExtraError

if TYPE_CHECKING:
    import mcp
    import mcp.types

_NO_MCP = (
    "calling MCP servers needs the package mcp, which is not installed; install it with: pip install 'proxy-log[demo]'"
)
_TIMEOUT_S = 60.0
"""Of one request to a server. U."""
_FAREWELL_S = 2.0
_T = TypeVar("_T")


class McpConnectionError(Exception):
    """A server does not answer, or not as an MCP server; or it went away."""


async def require_mcp() -> None:
    """Import the package; it is large, so not in the event loop.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("mcp") is None:
        raise MissingExtraError(_NO_MCP)
    await asyncio.to_thread(importlib.import_module, "mcp")


class McpConnection:
    """One server, in a task of its own: what breaks there does not cancel the one who asks."""

    def __init__(self, entry: dict[str, Any]) -> None:
        """`entry`: as an mcp.json has it: `url` and `headers`, or `command`, `args` and `env`."""
        self._entry = entry
        self._calls: asyncio.Queue[tuple[str, dict[str, Any], asyncio.Future[list[Any]]] | None] = asyncio.Queue()
        self._is_busy = True
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> "list[mcp.types.Tool]":
        """Connect; the server's tools.

        Raises:
            McpConnectionError: it does not answer, or not as an MCP server.
        """
        ready: asyncio.Future[list[mcp.types.Tool]] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(ready))
        return await self._outcome(ready)

    async def call(self, name: str, arguments: dict[str, Any]) -> list[Any]:
        """The content of a tool's result.

        Raises:
            McpConnectionError: the server went away.
        """
        result: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self._calls.put_nowait((name, arguments, result))
        return await self._outcome(result)

    async def _outcome(self, future: "asyncio.Future[_T]") -> _T:
        assert self._task
        waited: set[asyncio.Future[Any]] = {future, self._task}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            return future.result()
        raise McpConnectionError(_cause(None if self._task.cancelled() else self._task.exception()))

    async def _run(self, ready: "asyncio.Future[list[mcp.types.Tool]]") -> None:
        async with _client(self._entry) as client:
            tools = await _listed(client)
            self._is_busy = False
            if not ready.done():  # whoever asked may have gone
                ready.set_result(tools)
            while (call := await self._calls.get()) is not None:
                self._is_busy = True
                name, arguments, result = call
                content = await _called(client, name, arguments)
                self._is_busy = False
                if not result.done():
                    result.set_result(content)

    async def close(self) -> None:
        """Say goodbye, or just go where it is busy."""
        if self._task is None:
            return
        self._calls.put_nowait(None)
        try:
            if not self._is_busy:
                await asyncio.wait({self._task}, timeout=_FAREWELL_S)
        finally:
            self._task.cancel()
        await asyncio.wait({self._task}, timeout=_FAREWELL_S)
        if self._task.done() and not self._task.cancelled():
            self._task.exception()  # looked at: it was told where it mattered


@asynccontextmanager
async def _client(entry: dict[str, Any]) -> "AsyncGenerator[mcp.Client, None]":
    import httpx2  # noqa: PLC0415 - what needs the extra is imported where it is used
    import mcp  # noqa: PLC0415
    from mcp.client.streamable_http import streamable_http_client  # noqa: PLC0415

    if entry.get("url"):
        async with (
            httpx2.AsyncClient(headers=entry.get("headers"), timeout=_TIMEOUT_S) as http,
            mcp.Client(
                streamable_http_client(entry["url"], http_client=http), read_timeout_seconds=_TIMEOUT_S
            ) as client,
        ):
            yield client
        return
    process = mcp.StdioServerParameters(
        command=entry.get("command", ""), args=entry.get("args", []), env=entry.get("env")
    )
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230 - opens at once
        async with mcp.Client(mcp.stdio_client(process, errlog=nowhere), read_timeout_seconds=_TIMEOUT_S) as client:
            yield client


async def _listed(client: "mcp.Client") -> "list[mcp.types.Tool]":
    tools: list[mcp.types.Tool] = []
    cursor = None
    while True:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools


async def _called(client: "mcp.Client", name: str, arguments: dict[str, Any]) -> list[Any]:
    """The content of a result; a server's refusal is one, too: the model is to read it.

    Raises:
        McpConnectionError: the server ended.
    """
    import mcp  # noqa: PLC0415

    try:
        result = await client.call_tool(name, arguments)
    except mcp.MCPError as error:
        if error.code == mcp.types.CONNECTION_CLOSED:
            raise McpConnectionError(error.message) from error
        return [{"type": "text", "text": error.message}]
    return [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in result.content]


def _cause(error: BaseException | None) -> str:
    """What went wrong first, in words."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return "the connection was closed" if error is None else str(error) or type(error).__name__
