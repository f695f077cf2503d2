"""Tools of MCP servers, for the surfaces that run tools themselves: /api/v1/chat and /v1/responses.

A real client (the package `mcp`, extra `demo`): servers named in a request by their URL, and servers of an mcp.json.
Settings and refusals: D, mcp.mdx and settings.md; R, tracker#1168 (403), #2161 (private addresses). The surfaces
have their own words and forms for a refusal, so it is told here as an `McpRefusedError` of a kind.
"""

import asyncio
import ipaddress
import json
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from proxy.demo.behaviour import Behaviour
from proxy.demo.lookalike import Lookalike
from proxy.demo.mcp_connection import McpConnection, McpConnectionError, require_mcp

RefusalKind = Literal["permission", "unknown", "address", "connection"]


@dataclass(frozen=True, slots=True)
class McpServer:
    """A server that a request names."""

    label: str
    """`huggingface`; of an mcp.json, its name there in lower-case kebab form."""
    url: str = ""
    """Of a server that is only for this request; "": it is one of the mcp.json."""
    headers: Mapping[str, str] = field(default_factory=dict)
    allowed_tools: tuple[str, ...] | None = None
    """None: all."""

    @property
    def provider_info(self) -> dict[str, Any]:
        """As /api/v1/chat tells it. D."""
        if self.url:
            return {"type": "ephemeral_mcp", "server_label": self.label}
        return {"type": "plugin", "plugin_id": f"mcp/{self.label}"}


class McpRefusedError(Exception):
    """A server may not be used, or cannot be reached."""

    def __init__(self, kind: RefusalKind, server: McpServer, message: str) -> None:
        """Kinds: `permission` (a setting forbids it), `unknown` (not in the mcp.json), `address`, `connection`."""
        super().__init__(message)
        self.kind = kind
        self.server = server


class BadToolCallError(Exception):
    """The model called a tool that is not there, or with arguments that do not fit; no server was asked."""

    def __init__(self, kind: Literal["invalid_name", "invalid_arguments"], reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool of a server."""

    server: McpServer
    name: str
    description: str
    input_schema: dict[str, Any]


class McpSession:
    """Connections to some servers for the time of one request; a context manager.

    Without servers it does nothing and needs no package.
    """

    def __init__(self, look: Lookalike, servers: Sequence[McpServer]) -> None:
        """Nothing is connected yet."""
        self._look = look
        self._servers = servers
        self._connections: list[McpConnection] = []
        self._tools: dict[str, tuple[McpTool, McpConnection]] = {}

    async def __aenter__(self) -> Self:
        """Connect, and ask for the tools.

        Raises:
            McpRefusedError: a server may not be used, or does not answer.
            MissingExtraError: the package is not installed.
        """
        for server in self._servers:
            await _check(self._look.behaviour, server)
        if self._servers:
            await require_mcp()
        try:
            for server in self._servers:
                await self._connect(server)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _connect(self, server: McpServer) -> None:
        entry = _entry(server, self._look.behaviour.mcp_file)
        connection = McpConnection(entry)
        self._connections.append(connection)
        try:
            found = await connection.start()
        except McpConnectionError as error:
            raise _lost(server, error) from error
        for one in found:
            tool = McpTool(server, one.name, one.description or "", one.input_schema)
            if server.allowed_tools is None or tool.name in server.allowed_tools:
                self._tools.setdefault(tool.name, (tool, connection))  # of two with one name, the first counts. U
        self._look.log.server(f"Connected to MCP server {server.label}")

    async def __aexit__(self, *_: object) -> None:
        for connection in reversed(self._connections):
            await connection.close()

    @property
    def tools(self) -> dict[str, McpTool]:
        """By name."""
        return {name: tool for name, (tool, _) in self._tools.items()}

    def tools_of(self, server: McpServer) -> list[McpTool]:
        """The tools that a server offers to this request."""
        return [tool for tool, _ in self._tools.values() if tool.server is server]

    def openai_tools(self) -> list[dict[str, Any]]:
        """All tools in the form that `Ask.tools` has."""
        return [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool, _ in self._tools.values()
        ]

    def check(self, name: str, arguments: dict[str, Any]) -> McpTool:
        """The tool of a call.

        Raises:
            BadToolCallError: there is none of that name, or the arguments do not fit its schema.
        """
        if name not in self._tools:
            raise BadToolCallError("invalid_name", f"Cannot find tool with name {name}.")
        tool = self._tools[name][0]
        if (problem := _misfit(tool.input_schema, arguments)) is not None:
            raise BadToolCallError("invalid_arguments", f"Invalid arguments for tool {name}: {problem}")  # U: the words
        return tool

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Call a tool: its content array as JSON, and the `provider_info` of its server.

        A tool that fails says so in its content, as the model would read it (U: whether LM Studio tells it apart).

        Raises:
            BadToolCallError: as `check`.
            McpRefusedError: kind `connection`: the server went away, or does not answer.
        """
        tool = self.check(name, arguments)
        try:
            content = await self._tools[name][1].call(name, arguments)
        except McpConnectionError as error:
            raise _lost(tool.server, error) from error
        return json.dumps(content, separators=(",", ":"), ensure_ascii=False), tool.server.provider_info


def _lost(server: McpServer, error: Exception) -> McpRefusedError:
    return McpRefusedError(
        "connection", server, f"Error connecting to MCP server {server.label}: {error}"
    )  # U: the words


def _misfit(schema: dict[str, Any], arguments: dict[str, Any]) -> str | None:
    """Why arguments do not fit a schema; a schema that is none of JSON Schema's fits everything."""
    import jsonschema  # type: ignore[import-untyped, unused-ignore]  # noqa: PLC0415 - as above

    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    with suppress(jsonschema.SchemaError):
        validator.check_schema(schema)
        error = jsonschema.exceptions.best_match(validator(schema).iter_errors(arguments))
        return None if error is None else str(error.message)
    return None


async def _check(behaviour: Behaviour, server: McpServer) -> None:
    """Refuse what the settings forbid. D: settings.md; an mcp.json's servers need authentication, too."""
    is_allowed = behaviour.mcp_per_request if server.url else bool(behaviour.mcp_file) and behaviour.auth
    if not is_allowed:
        raise McpRefusedError("permission", server, "the server's settings forbid it")
    if server.url and not behaviour.mcp_local_addresses and await _is_local(server):
        # R: tracker#2161, that they are refused; U: the words.
        words = f"MCP server URL {server.url} resolves to a private or local address, which is not allowed."
        raise McpRefusedError("address", server, words)


async def _is_local(server: McpServer) -> bool:
    """Whether a URL leads to this machine or its own network.

    Raises:
        McpRefusedError: there is no such host.
    """
    try:
        parts = urlsplit(server.url)
        found = await asyncio.get_running_loop().getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: a port or a host name that is none
        raise _lost(server, error) from None
    return not all(ipaddress.ip_address(address[4][0]).is_global for address in found)


def _entry(server: McpServer, file: str) -> dict[str, Any]:
    """How to reach a server, as an mcp.json says it.

    Raises:
        McpRefusedError: it is not in the file, or the file cannot be read.
    """
    if server.url:
        return {"url": server.url, "headers": dict(server.headers)}
    try:
        servers = json.loads(Path(file).read_text(encoding="utf-8"))["mcpServers"]
        entries = {label_of(name): entry for name, entry in servers.items()}
        entry = entries[server.label]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        words = f"Cannot find plugin 'mcp/{server.label}' in {Path(file).name}"  # U: the words
        raise McpRefusedError("unknown", server, words) from error
    if not isinstance(entry, dict):
        raise McpRefusedError("unknown", server, f"The entry of '{server.label}' in {Path(file).name} is no object")
    return entry


def label_of(name: str) -> str:
    """A server's name in an mcp.json as plugin ids have it: lower-case kebab. D: mcp.mdx."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
