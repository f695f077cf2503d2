"""Which header lines are dropped or replaced on the way; every other line passes as it came, in its place.

Facts: RFC 9110, section 7.6.1 (Connection and the fields it names are for one hop), RFC 9112, sections 6.1 and 9.
"""

from functools import lru_cache

from proxy.exchange import SESSION_FIELD, TAG_FIELD
from proxy.forward.framing import Head, RequestHead, ResponseHead

_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"))
_FOR_THE_PROXY = frozenset((SESSION_FIELD.encode(), TAG_FIELD.encode()))
_OF_AN_UPGRADE = frozenset((b"connection", b"upgrade"))
_NOT_FORWARDED = _HOP_BY_HOP | _FOR_THE_PROXY
_NO_FIELD_NAMES = frozenset((b"close", b"keep-alive", b"upgrade", b"host", b"content-length", b"transfer-encoding"))
"""What `Connection` may name without any field being dropped for it."""


@lru_cache(maxsize=256)  # heads are remembered, see `framing.read_request_head`
def forwarded_request(head: RequestHead, target: bytes, authority: bytes, *, is_upgrade: bool) -> bytes:
    """The request's head as it goes to the upstream: its own target and Host.

    Fields for this hop and those for the proxy are dropped; an upgrade keeps its `Connection` and `Upgrade`. An
    HTTP/1.0 request without Host gets one.
    """
    before = head.parts[0]
    if target is not head.target:
        before = before.replace(head.target, target, 1)
    lines = [before]
    parts = head.parts
    for index in range(1, len(parts), 4):
        name = parts[index].lower()
        if name == b"host":
            lines += (b"\r\n", parts[index], b": ", authority)
        elif name not in _NOT_FORWARDED or (is_upgrade and name in _OF_AN_UPGRADE):
            lines += (b"\r\n", parts[index], parts[index + 1], parts[index + 2])
        lines.append(parts[index + 3])
    if b"host" not in head.values:
        lines.append(b"Host: %b\r\n" % authority)
    lines.append(b"\r\n")
    forwarded = b"".join(lines)
    return forwarded if is_upgrade else _without_named(head, forwarded)


@lru_cache(maxsize=256)
def sent_response(head: ResponseHead, *, cors: bytes | None, is_unchunked: bool, is_closing: bool) -> bytes:
    """The response's head as it goes to the client.

    Args:
        head: as the upstream sent it.
        cors: the CORS lines that replace the upstream's own; None leaves those as they are.
        is_unchunked: the client speaks HTTP/1.0: the body goes to it without chunks.
        is_closing: the client's connection is closed after the body.
    """
    parts = head.parts
    # With both, Transfer-Encoding counts, and the length would mislead whoever reads on.
    is_length_dropped = b"transfer-encoding" in head.values
    lines = [parts[0]]
    for index in range(1, len(parts), 4):
        name = parts[index].lower()
        if not (
            name in _HOP_BY_HOP
            or (cors is not None and name.startswith(b"access-control-"))
            or (is_unchunked and name == b"transfer-encoding")
            or (is_length_dropped and name == b"content-length")
        ):
            lines += (b"\r\n", parts[index], parts[index + 1], parts[index + 2])
        lines.append(parts[index + 3])
    if cors:
        lines.append(cors)
    lines.append(b"Connection: close\r\n\r\n" if is_closing else b"\r\n")
    return _without_named(head, b"".join(lines))


def is_websocket_upgrade(head: RequestHead) -> bool:
    """Whether the request asks to become a WebSocket; other upgrades (h2c) are not taken up."""
    return (
        b"upgrade" in head.values
        and head.version == b"1.1"
        and b"websocket" in head.tokens(b"upgrade")
        and b"upgrade" in head.connection
    )


def wants_close(head: RequestHead) -> bool:
    """Whether the client's connection ends after this request."""
    return head.version == b"1.0" or b"close" in head.connection


def _without_named(head: Head, edited: bytes) -> bytes:
    """The edited head without the fields that `Connection` names."""
    names = [name for name in head.connection if name not in _NO_FIELD_NAMES]
    if not names:
        return edited
    start_line, *lines = edited.split(b"\r\n")
    return b"\r\n".join([start_line, *(line for line in lines if line.partition(b":")[0].lower() not in names)])
