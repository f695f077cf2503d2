"""Tools of the type `mcp` in requests of POST /v1/responses, and why their servers are refused.

Members: D, responses.md and mcp.mdx; without `server_url`, a server of the mcp.json is meant (R, tracker#1168).
"""

from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.http import Failure
from proxy.demo.mcp_tools import McpRefusedError, McpServer, label_of
from proxy.demo.responses_input import refusal


def server_of(tool: dict[str, Any], at: int) -> McpServer:
    """The MCP server that the request's tool number `at` names.

    Raises:
        Failure: a member is missing or of the wrong type.
    """
    label, url, headers, allowed = (
        tool.get(name) for name in ("server_label", "server_url", "headers", "allowed_tools")
    )
    if not isinstance(label, str):
        raise refusal("Required", "missing_required_parameter", f"tools.{at}.server_label")
    if url is not None and not isinstance(url, str):
        raise refusal("Expected string", "invalid_type", f"tools.{at}.server_url")
    if headers is not None and not (
        isinstance(headers, dict) and all(isinstance(value, str) for value in headers.values())
    ):
        raise refusal("Expected an object of strings", "invalid_type", f"tools.{at}.headers")
    if allowed is not None and not (isinstance(allowed, list) and all(isinstance(name, str) for name in allowed)):
        raise refusal("Expected an array of strings", "invalid_type", f"tools.{at}.allowed_tools")
    return McpServer(label if url else label_of(label), url or "", headers or {}, tuple(allowed) if allowed else None)


def refused(error: McpRefusedError, behaviour: Behaviour) -> Failure:
    """The answer where a server may not be used or is not there.

    R: the words, tracker#1168 (403), #1993 (an address that is not public), #1073 (no address, 0.3.29). U: that the
    others have the status 424.
    """
    server = error.server
    if error.kind == "permission" and (server.url or behaviour.has("0.3.30")):
        which, what = ("remote", "remote MCP servers") if server.url else ("local", "local integrations")
        words = (
            f"Permission denied to use {which} MCP server '{server.label}'. Ensure that the server configuration "
            f"allows {what} and that your API token has the necessary permissions."
        )
        return Failure(403, words, type_="invalid_request_error", param="tools")
    words = str(error)
    if error.kind == "address":
        words = (
            f"Unable to connect to remote MCP server '{server.label}' at url '{server.url}'. URL resolves to a "
            "non-public address. We only allow public addresses for dynamic remote MCP connections."
        )
    elif not server.url:
        words = (
            f"Tool for MCP server '{server.label}' requires a non-empty 'server_url' for a remote MCP server "
            "connection to be attempted. To use this MCP server via a locally running LM Studio plugin, add this MCP "
            'server to your mcp.json configuration with a "url" field and set the LM Studio server\'s MCP mode to '
            '"all".'
        )
    return Failure(424, words, type_="external_connector_error", code="http_error", param="tools")
