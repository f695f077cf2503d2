"""Datasette on the trace (the package `datasette`, extra `datasette`), imported here alone.

Facts (datasette 0.65)
----------------------
* It writes to a database only when a plug-in asks for it, by a connection of its own; here there is none.
* It has no check of the Host field: a page elsewhere, whose name its owner lets point to 127.0.0.1, could read all.
* Reads run in a few threads, each with a connection of its own.
"""

import contextlib
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from datasette.app import Datasette  # type: ignore[import-untyped, unused-ignore]
from datasette.database import Database  # type: ignore[import-untyped, unused-ignore]

from proxy.cli.explore_pages import metadata, short_queries
from proxy.errors import TraceError
from proxy.store.schema import open_for_reading
from proxy.store.view_comments import ViewComment

NAME = "trace"
"""The database's name in addresses, whatever its file is called."""
SETTINGS = {
    "default_page_size": 50,
    "sql_time_limit_ms": 5_000,
    "facet_time_limit_ms": 3_000,
    "suggest_facets": False,  # it would count every column of every view
    "default_cache_ttl": 0,  # the trace grows
    "truncate_cells_html": 160,
    "allow_download": False,
}
_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[Any]]
_Send = Callable[[Any], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class _ReadOnly(Database):  # type: ignore[misc, unused-ignore] # it has no types
    """The trace; nobody gets a connection that writes."""

    def __init__(self, site: Datasette, file: Path) -> None:
        super().__init__(site, path=str(file), is_mutable=True)
        self._trace = file

    def connect(self, write: bool = False) -> sqlite3.Connection:
        if write:
            raise TraceError("the trace is not written here")
        return open_for_reading(self._trace)

    async def table_names(self) -> list[str]:
        """All but the full-text index, whose rows cannot be listed."""
        return [name for name in await super().table_names() if not name.startswith("message_")]


def make_app(file: Path, comments: Mapping[str, ViewComment], tables: Sequence[str]) -> _App:
    """The site as an ASGI application.

    Args:
        file: the trace.
        comments: what its views mean.
        tables: its base tables, which are not listed.
    """
    site = Datasette([], metadata=metadata(NAME, comments, tables), settings=SETTINGS)
    for name in [name for name in site.databases if not name.startswith("_internal")]:
        site.remove_database(name)  # the empty one that it makes where no file is given
    site.add_database(_ReadOnly(site, file), name=NAME)
    return _guarded(site.app())


def serve_site(
    file: Path, comments: Mapping[str, ViewComment], tables: Sequence[str], listening: socket.socket
) -> None:
    """Serve it until Ctrl-C."""
    settings = uvicorn.Config(make_app(file, comments, tables), log_level="warning", access_log=False)
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(settings).run(sockets=[listening])


def _guarded(app: _App) -> _App:
    """The application, for requests that name this machine; a view with many columns begins with some of them."""
    short = short_queries(NAME)

    async def guarded(scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        name, _, port = dict(scope["headers"]).get(b"host", b"").rpartition(b":")
        if (name or port) not in (b"127.0.0.1", b"localhost"):
            await _answer(send, 403, b"This is only for http://127.0.0.1 and http://localhost.\n")
        elif scope["path"] in short and not scope["query_string"]:
            await _answer(send, 302, b"", f"{scope['path']}?{short[scope['path']]}")
        else:
            await app(scope, receive, send)

    return guarded


async def _answer(send: _Send, status: int, body: bytes, location: str = "") -> None:
    head = [(b"content-type", b"text/plain"), *([(b"location", location.encode())] if location else [])]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
