"""Which requests the proxy refuses or answers by itself: it is no open proxy, and browsers need leave."""

import re
from collections.abc import Callable
from typing import NamedTuple

from proxy.forward.cors import Cors
from proxy.forward.framing import RequestHead

_USER = re.compile(rb"(://)[^/@]*@")
"""A name and a password, which are not to be repeated."""


class Refusal(NamedTuple):
    """An error to answer with."""

    status: int
    kind: str
    """The error's `type`."""
    message: str


def own_answer(
    head: RequestHead, cors: Cors, is_own_authority: Callable[[bytes], bool], *, is_upgrade: bool
) -> bytes | Refusal | None:
    """What the proxy answers by itself: the lines that answer a preflight, a refusal, or None: forward it.

    Args:
        head: the request's.
        cors: what browsers may do.
        is_own_authority: whether a `host:port` is that of this proxy, so that `http://host:port/path` means `/path`.
        is_upgrade: the request asks to become a WebSocket.
    """
    if head.target[:1] != b"/" or head.method == b"CONNECT":
        refusal = _refused_target(head, is_own_authority)
        if refusal is not None:
            return refusal
    if cors.is_preflight(head):
        return cors.preflight_lines(head) or Refusal(
            403, "forbidden_origin", "this origin is not allowed; see the setting cors.allow_origins"
        )
    if is_upgrade and not cors.allows_upgrade(head):
        return Refusal(
            403, "forbidden_origin", "this origin may not open WebSockets; see the setting cors.allow_origins"
        )
    return None


def origin_form(target: bytes) -> bytes:
    """The path and query of a request target that is not refused."""
    if target[:1] == b"/" or target == b"*":
        return target
    _, slash, path = target.partition(b"://")[2].partition(b"/")
    return slash + path if slash else b"/"


def _refused_target(head: RequestHead, is_own_authority: Callable[[bytes], bool]) -> Refusal | None:
    shown = _USER.sub(rb"\1", head.target)[:100].decode("latin-1")
    if head.method == b"CONNECT":
        return Refusal(405, "invalid_request_error", f"this is no open proxy: CONNECT {shown} is refused")
    if head.target == b"*":
        return None
    scheme, separator, rest = head.target.partition(b"://")
    if not separator:
        return Refusal(400, "invalid_request_error", f"the request target {shown} is not a path")
    if scheme.lower() != b"http" or not is_own_authority(rest.partition(b"/")[0]):
        return Refusal(421, "invalid_request_error", f"this is no open proxy: a request for {shown} is refused")
    return None
