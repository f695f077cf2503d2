"""A real MCP server for tests, as a program: `mcp_server.py` speaks over its standard streams, `... http` over HTTP.

The latter says its URL when it listens, and ends with its standard input.
"""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = Path(__file__)


@contextmanager
def mcp_server() -> Iterator[str]:
    """One over HTTP: its URL. It may be ended early by the tool `die`."""
    process = subprocess.Popen([sys.executable, PROGRAM, "http"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout
        yield process.stdout.readline().decode().strip()
    finally:
        process.communicate()


def main() -> None:
    """Serve."""
    import uvicorn  # noqa: PLC0415 - only this program needs them, not the tests that import `mcp_server`
    from mcp.server.mcpserver import Context, MCPServer  # noqa: PLC0415

    server = MCPServer("arithmetic", log_level="CRITICAL")

    @server.tool()
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return f"{a} + {b} = {a + b}"

    @server.tool()
    def header(name: str, context: Context) -> str:  # type: ignore[type-arg, unused-ignore]
        """A field of the request's head."""
        return str((context.headers or {}).get(name))

    @server.tool()
    def refuse() -> str:
        """Fail."""
        raise ValueError("never")

    @server.tool()
    def die() -> str:
        """End the server in the middle of the call."""
        os._exit(0)

    if sys.argv[1:] != ["http"]:
        server.run()
        return
    listening = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp\n")
    sys.stdout.flush()
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_config=None)).run(sockets=[listening])


if __name__ == "__main__":
    main()
