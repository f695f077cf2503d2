"""Tools of MCP servers, for the surfaces that run tools themselves: /api/v1/chat and /v1/responses.

A real client (the package `mcp`, extra `demo`): servers named in a request by their URL, and servers of an mcp.json.
Settings and refusals: D, mcp.mdx and settings.md; R, tracker#1168 (403), #2161 (private addresses). The surfaces
have their own words and forms for a refusal, so it is told here as an `McpRefusedError` of a kind.
"""

import asyncio
import ipaddress
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from proxy.demo.behaviour import Behaviour
from proxy.demo.lookalike import Lookalike
from proxy.errors import MissingExtraError

_NO_MCP = "calling MCP servers needs the package mcp, which is not installed; install it with: pip install 'proxy-log[demo]'"
_TIMEOUT_S = 60.0
"""Of one request to a server. U."""

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

    Enter it in the task that uses it. Without servers it does nothing and needs no package.
    """

    def __init__(self, look: Lookalike, servers: Sequence[McpServer]) -> None:
        """Nothing is connected yet."""
        self._look = look
        self._servers = servers
        self._stack = AsyncExitStack()
        self._clients: dict[McpServer | int, Any] = {}
        self.tools: dict[str, McpTool] = {}
        """By name; a name that two servers have is the first one's. U."""

    async def __aenter__(self) -> Self:
        """Connect, and ask for the tools.

        Raises:
            McpRefusedError: a server may not be used, or does not answer.
            MissingExtraError: the package is not installed.
        """
        for server in self._servers:
            check_permission(self._look.behaviour, server)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.aclose()

    def tools_of(self, server: McpServer) -> list[McpTool]:
        """The tools that a server offers to this request."""
        return [tool for tool in self.tools.values() if tool.server is server]

    def openai_tools(self) -> list[dict[str, Any]]:
        """All tools in the form that `Ask.tools` has."""
        return [
            {
                "type": "function",
                "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
            }
            for tool in self.tools.values()
        ]

    def check(self, name: str, arguments: dict[str, Any]) -> McpTool:
        """The tool of a call.

        Raises:
            BadToolCallError: there is none of that name, or the arguments do not fit its schema.
        """
        raise NotImplementedError

    async def call(self, name: str, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Call a tool: its content array as JSON, and the `provider_info` of its server.

        Raises:
            BadToolCallError: as `check`.
            McpRefusedError: kind `connection`: the server went away.
        """
        raise NotImplementedError


def check_permission(behaviour: Behaviour, server: McpServer) -> None:
    """Refuse what the settings forbid."""
