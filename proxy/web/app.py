"""The live page's server: what it answers, what protects it, and the thread it runs in.

Traffic is foreign: whoever can make a model answer can write on these pages. So everything is escaped, no script but
our own may run, and pages of other origins can neither read (no CORS, checked Host) nor embed these.
"""

import asyncio
import contextlib
import logging
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from proxy.config import Address, parse_address
from proxy.errors import TraceError
from proxy.exchange import Outcome, Side
from proxy.readable import duration, local_time, printable, size
from proxy.store.engine_log import engine_log_statuses
from proxy.store.trace import Trace
from proxy.web import pages

_log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
RETRY_S = 5.0
_STOP_S = 5.0
_WRITE_S = 60.0
"""How long a download may stand still: while it is open SQLite cannot shorten its write-ahead log."""
_PIECE_BYTES = 1 << 16
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",  # bodies do not belong in a browser's cache
}
_SIDES = {"request": Side.CLIENT, "response": Side.UPSTREAM}


class Site:
    """The pages of one trace, as an aiohttp application."""

    def __init__(self, trace: Path, address: Address, docs: Path = DOCS) -> None:
        """`address` is where it will be served: on loopback only requests that name this machine are answered."""
        self._file = trace
        self._trace: Trace | None = None
        """For the list; `data_version` counts for one connection."""
        self._docs = docs
        names = {"localhost", "127.0.0.1", "[::1]", str(address).rpartition(":")[0].lower()}
        self._names = names if _is_loopback(address.host) else None
        self._mark = ""
        self._templates = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            finalize=_shown,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(size=size, duration=duration, local=local_time)
        self.app = web.Application(middlewares=[self._guard])
        self.app.on_response_prepare.append(_add_headers)
        self.app.on_cleanup.append(self._close)
        exchange = "/exchanges/{number:[0-9]{1,18}}"
        self.app.add_routes(
            [
                web.get("/", self._list),
                web.get("/rows", self._rows),
                web.get(exchange, self._exchange),
                web.get(exchange + "/{side:request|response}", self._download),
                web.get("/docs", self._documents),
                web.get("/docs/{name:.+}", self._document),
                web.get("/health", self._health),
                web.static("/static", FOLDER / "static"),
            ]
        )

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if not self._is_for_us(request):
                raise web.HTTPForbidden(reason="This page is only served under the names of its own machine")
            return await handler(request)
        except web.HTTPException as error:
            error.text = self._render("message.html", title=error.reason, status=error.status)
            error.content_type = "text/html"
            raise
        except (TraceError, sqlite3.Error) as error:
            await self._close(self.app)  # what is there later may be another trace
            if request.writer.output_size:
                raise
            response = self._page("message.html", status=503, title=str(error))
            response.set_status(503)
            return response

    def _is_for_us(self, request: web.Request) -> bool:
        """Whether Host names this machine; a name of somebody's that leads here (DNS rebinding) does not."""
        if self._names is None:
            return True
        port = request.get_extra_info("sockname", ("", 0))[1]
        host = request.headers.get("Host", "").lower()
        return any(host == f"{name}:{port}" or (host == name and port == 80) for name in self._names)

    def _render(self, template: str, **values: object) -> str:
        return self._templates.get_template(template).render(**values)

    def _page(self, template: str, **values: object) -> web.Response:
        return web.Response(text=self._render(template, **values), content_type="text/html")

    async def _close(self, app: web.Application) -> None:
        if self._trace is not None:
            self._trace.close()
        self._trace = None

    def _opened(self) -> Trace:
        if self._trace is None:
            self._trace = Trace.open(self._file)
            self._mark = secrets.token_hex(4)
        return self._trace

    def _version(self) -> str:
        """An entity tag that changes whenever the trace does."""
        number = self._opened().data_version()
        return f'"{self._mark}-{number}"'

    def _listing(self, request: web.Request) -> dict[str, object]:
        wanted = pages.Wanted.read(request.query)
        version = self._version()  # first: what comes meanwhile is asked for again
        rows, older = pages.newest(self._opened(), wanted)
        return {"wanted": wanted, "version": version, "rows": rows, "older": older}

    async def _list(self, request: web.Request) -> web.Response:
        trace = self._opened()
        more = {
            "file": self._file,
            "models": pages.models(trace),
            "gap": pages.last_gap(trace),
            "logs": engine_log_statuses(trace.connection),
        }
        return self._page("list.html", outcomes=[pages.RUNNING, *Outcome], **more, **self._listing(request))

    async def _rows(self, request: web.Request) -> web.Response:
        version = self._version()
        if request.headers.get("If-None-Match") == version:
            return web.Response(status=304, headers={"ETag": version})
        response = self._page("rows.html", **self._listing(request))
        response.headers["ETag"] = version
        return response

    async def _exchange(self, request: web.Request) -> web.Response:
        with Trace.open(self._file) as trace:
            row = trace.exchange(int(request.match_info["number"]))
            if row is None:
                raise web.HTTPNotFound(reason=f"There is no exchange {request.match_info['number']}")
            messages = list(pages.messages(trace, row))
            chunks = pages.timeline(trace, row.id)
            gaps = trace.gaps(row.id)
            near = [number for number in (row.id - 1, row.id + 1) if trace.exchange(number)]
        return self._page("exchange.html", row=row, messages=messages, chunks=chunks, gaps=gaps, near=near)

    async def _download(self, request: web.Request) -> web.StreamResponse:
        number, side = int(request.match_info["number"]), request.match_info["side"]
        # A connection of its own: while a body is read it sees the trace as it was.
        with Trace.open(self._file) as trace:
            if trace.exchange(number) is None:
                raise web.HTTPNotFound(reason=f"There is no exchange {number}")
            response = web.StreamResponse()
            response.content_type = "application/octet-stream"
            response.headers["Content-Disposition"] = f'attachment; filename="exchange-{number}-{side}.bin"'
            await response.prepare(request)
            transport = request.transport
            try:
                for piece in _joined(trace.body(number, _SIDES[side])) if request.method == "GET" else ():
                    async with asyncio.timeout(_WRITE_S):
                        await response.write(piece)
            except (TimeoutError, asyncio.CancelledError):
                if transport is not None:
                    transport.abort()  # what nobody reads would be kept
                raise
            return response

    def _known_documents(self) -> dict[str, Path]:
        files = sorted(self._docs.rglob("*.md"), key=lambda file: (len(file.parts), file))
        return {file.relative_to(self._docs).with_suffix("").as_posix(): file for file in files}

    async def _documents(self, request: web.Request) -> web.Response:
        return self._page("docs.html", title="Documentation", names=list(self._known_documents()), text="")

    async def _document(self, request: web.Request) -> web.Response:
        name = request.match_info["name"].removesuffix(".md")  # so that the documents' links to each other work
        file = self._known_documents().get(name)
        if file is None:
            raise web.HTTPNotFound(reason="There is no such document")
        markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
        text = markdown.render(file.read_text(encoding="utf-8"))
        return self._page("docs.html", title=name, names=[], text=text)

    async def _health(self, request: web.Request) -> web.Response:
        return web.json_response({"trace": str(self._file), "exchanges": pages.count(self._opened())})


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)
    response.headers.pop("Server", None)


def _shown(value: object) -> object:
    """Whatever stands on a page: foreign text without what steers its reader or is no Unicode."""
    return printable(value) if type(value) is str else value


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in larger pieces: a stream may have thousands of chunks."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= _PIECE_BYTES:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class PageServer:
    """Serves an application in a thread of its own, from `start` to `stop`; a taken port is tried again."""

    def __init__(self, app: web.Application, address: Address) -> None:
        self._app = app
        self._address = address
        self._stopping = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)
        self.is_listening = threading.Event()
        self.port = 0
        """Where it listens, once it does."""

    def start(self) -> None:
        """Begin; does not wait for anything."""
        self._thread.start()

    def stop(self) -> None:
        """End, open downloads too."""
        with contextlib.suppress(RuntimeError):  # it broke down before, and the loop is closed
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        runner = web.AppRunner(self._app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await runner.setup()
        try:
            is_told = False
            while not self._stopping.is_set():
                try:
                    await self._listen(runner)
                except OSError as error:
                    if not is_told:
                        reason = error.strerror or error
                        _log.warning("no live page at %s: %s; recording goes on", self._address, reason)
                        is_told = True
                else:
                    _log.info("live page at http://%s", self._address._replace(port=self.port))
                    self.is_listening.set()
                    await self._stopping.wait()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), RETRY_S)
        finally:
            await runner.cleanup()

    async def _listen(self, runner: web.AppRunner) -> None:
        host, port = self._address
        for place in ("127.0.0.1", "::1") if host == "localhost" else (host,):
            site = web.TCPSite(runner, place, port)
            try:
                await site.start()
            except OSError:
                await site.stop()
                if place == "::1" and host == "localhost":  # not there on every machine
                    continue
                raise
            self.port = port = runner.addresses[0][1]


@contextlib.contextmanager
def serving(trace: Path, address: str) -> Iterator[None]:
    """Serve the pages of a trace at HOST:PORT meanwhile. Whatever goes wrong there is only told in the log."""
    place = parse_address(address)
    server = PageServer(Site(trace, place).app, place)
    server.start()
    try:
        yield
    finally:
        server.stop()
