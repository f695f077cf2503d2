"""Who speaks on the SDK's WebSockets: the first frame, first come first served, and what belongs to a client.

Facts
-----
* S, lmstudio-js packages/lms-communication/src/authentication.ts: the first frame is `{"authVersion": 1,
  "clientIdentifier", "clientPasskey"}`, both at most 256 characters.
* S, packages/lms-communication-server/src/fcfsAuthenticator.ts: the first connection of an identifier sets its passkey;
  the client is forgotten with its last connection.
* S, lmstudio-python json_api.py: a token's two halves are identifier and passkey.
* S, FilesNamespace.ts: a file that was uploaded is deleted when its client disconnects.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from proxy.demo.behaviour import Behaviour
from proxy.demo.http import token_refusal
from proxy.demo.log_bus import LogBus

_Short = Annotated[str, Field(max_length=256)]


class AuthPacket(BaseModel):
    """The first frame of a connection."""

    model_config = ConfigDict(alias_generator=to_camel, strict=True, frozen=True)

    auth_version: Literal[1]
    client_identifier: _Short
    client_passkey: _Short


class RefusedClientError(Exception):
    """Somebody who is not let in; the message is what they are told."""


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file that a client has sent; it stays in memory."""

    identifier: str
    name: str
    type: str
    """`image`, `text/plain`, `application/pdf`, `application/word`, `text/other` or `unknown`."""
    content: bytes


@dataclass(eq=False, slots=True)
class Client:
    """Somebody's connections, which share an identifier."""

    identifier: str
    passkey: str
    connections: int = 0
    files: dict[str, UploadedFile] = field(default_factory=dict)
    """By identifier."""


def read_auth_packet(data: Any) -> AuthPacket | None:
    """The first frame; None if it is something else."""
    try:
        return AuthPacket.model_validate(data)
    except ValidationError:
        return None


class Clients:
    """Everybody who is connected."""

    def __init__(self, behaviour: Behaviour, log: LogBus) -> None:
        """Nobody is."""
        self._behaviour = behaviour
        self._log = log
        self._clients: dict[str, Client] = {}

    def enter(self, packet: AuthPacket) -> Client:
        """The client of a new connection.

        Raises:
            RefusedClientError: the identifier is somebody else's, or a token is asked for and this is none.
        """
        identifier, passkey = packet.client_identifier, packet.client_passkey
        if self._behaviour.auth:
            token = "" if identifier.startswith("guest:") else f"{identifier}:{passkey}"
            if refusal := token_refusal(self._behaviour, token):
                raise RefusedClientError(refusal)
        client = self._clients.get(identifier)
        if client is None:
            client = self._clients[identifier] = Client(identifier, passkey)
            self._log.server(f"[Client={identifier}] Client created.", "debug")
        if client.passkey != passkey:
            raise RefusedClientError(
                f'Failed to validate client: Invalid client passkey for client "{client.identifier}"'
            )
        client.connections += 1
        return client

    def leave(self, client: Client) -> None:
        """A connection is over."""
        client.connections -= 1
        if not client.connections:
            del self._clients[client.identifier]
            self._log.server(f"[Client={client.identifier}] Client disconnected.", "debug")
