"""Which header lines are dropped or replaced on the way; every other line passes as it came, in its place.

Facts: RFC 9110, section 7.6.1 (Connection and the fields it names are for one hop), RFC 9112, section 9.
"""

from proxy.forward.framing import Head, RequestHead, ResponseHead

_HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"upgrade", b"http2-settings"))
_NEVER_DROPPED = frozenset((b"host", b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"upgrade"))


def forwarded_request(head: RequestHead, target: bytes, authority: bytes, *, is_upgrade: bool) -> bytes:
    """The request's head as it goes to the upstream: its own target and Host, hop-by-hop fields dropped.

    An upgrade keeps its `Connection` and `Upgrade`. An HTTP/1.0 request without Host gets one.
    """
    start_line = b"%b %b HTTP/%b\r\n" % (head.method, target, head.version)
    edits: list[tuple[int, int, bytes]] = []
    has_host = False
    for name, _, start, end in head.fields:
        if name == b"host":
            has_host = True
            line_name = head.raw[start : start + 4]
            edits.append((start, end, b"%b: %b\r\n" % (line_name, authority)))
        elif name in _HOP_BY_HOP and not (is_upgrade and name in (b"connection", b"upgrade")):
            edits.append((start, end, b""))
    if not is_upgrade:
        edits += _named_by_connection(head)
    first_line_end = head.raw.index(b"\r\n") + 2
    added = b"" if has_host else b"Host: %b\r\n" % authority
    return _edited(head.raw, start_line, first_line_end, edits, added)


def sent_response(head: ResponseHead, *, cors: bytes | None, is_unchunked: bool, is_closing: bool) -> bytes:
    """The response's head as it goes to the client.

    Args:
        head: as the upstream sent it.
        cors: the CORS lines that replace the upstream's own; None leaves those as they are.
        is_unchunked: the client speaks HTTP/1.0: the body goes to it without chunks.
        is_closing: the client's connection is closed after the body.
    """
    edits: list[tuple[int, int, bytes]] = []
    for name, _, start, end in head.fields:
        if (
            name in _HOP_BY_HOP
            or (cors is not None and name.startswith(b"access-control-"))
            or (is_unchunked and name == b"transfer-encoding")
        ):
            edits.append((start, end, b""))
    if head.values(b"transfer-encoding"):
        # With both, Transfer-Encoding counts, and the length would mislead whoever reads on (RFC 9112, section 6.1).
        edits += [(start, end, b"") for name, _, start, end in head.fields if name == b"content-length"]
    edits += _named_by_connection(head)
    first_line_end = head.raw.index(b"\r\n") + 2
    added = (cors or b"") + (b"Connection: close\r\n" if is_closing else b"")
    return _edited(head.raw, head.raw[:first_line_end], first_line_end, edits, added)


def is_websocket_upgrade(head: RequestHead) -> bool:
    """Whether the request asks to become a WebSocket; other upgrades (h2c) are not taken up."""
    return (
        head.version == b"1.1" and b"websocket" in head.tokens(b"upgrade") and b"upgrade" in head.tokens(b"connection")
    )


def wants_close(head: RequestHead) -> bool:
    """Whether the client's connection ends after this request."""
    return head.version == b"1.0" or b"close" in head.tokens(b"connection")


def _named_by_connection(head: Head) -> list[tuple[int, int, bytes]]:
    """Edits that drop the fields which `Connection` names."""
    names = set(head.tokens(b"connection")) - _NEVER_DROPPED
    if not names:
        return []
    edits: list[tuple[int, int, bytes]] = []
    start = head.raw.index(b"\r\n") + 2
    while start < len(head.raw):
        end = head.raw.index(b"\r\n", start) + 2
        if head.raw[start:end].split(b":", 1)[0].lower() in names - _HOP_BY_HOP:
            edits.append((start, end, b""))
        start = end
    return edits


def _edited(raw: bytes, start_line: bytes, start: int, edits: list[tuple[int, int, bytes]], added: bytes) -> bytes:
    """The head with some of its lines replaced, and the empty line after it."""
    parts = [start_line]
    for edit_start, edit_end, line in sorted(edits):
        if edit_start >= start:  # a line may be named twice
            parts += (raw[start:edit_start], line)
            start = edit_end
    parts += (raw[start:], added, b"\r\n")
    return b"".join(parts)
