"""Which requests the proxy refuses or answers by itself: it is no open proxy, and browsers need leave."""

from collections.abc import Callable
from typing import NamedTuple

from proxy.forward.cors import Cors
from proxy.forward.framing import RequestHead


class Refusal(NamedTuple):
    """An error to answer with."""

    status: int
    kind: str
    """The error's `type`."""
    message: str


def local_target(head: RequestHead, is_own_authority: Callable[[bytes], bool]) -> bytes | Refusal:
    """The request's target in origin form, or why it is refused.

    Args:
        head: the request's.
        is_own_authority: whether a `host:port` is that of this proxy, so that `http://host:port/path` means `/path`.
    """
    target = head.target
    shown = target[:100].decode("latin-1")
    if head.method == b"CONNECT":
        return Refusal(405, "invalid_request_error", f"this is no open proxy: CONNECT {shown} is refused")
    if target[:1] == b"/" or target == b"*":
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator:
        return Refusal(400, "invalid_request_error", f"the request target {shown} is not a path")
    authority, slash, path = rest.partition(b"/")
    if scheme.lower() == b"http" and is_own_authority(authority):
        return slash + path if slash else b"/"
    return Refusal(421, "invalid_request_error", f"this is no open proxy: a request for {shown} is refused")


def own_answer(head: RequestHead, cors: Cors, *, is_upgrade: bool) -> bytes | Refusal | None:
    """What the proxy answers by itself: the head's lines for a preflight, a refusal, or None: forward it."""
    if cors.is_preflight(head):
        return cors.preflight_lines(head) or Refusal(
            403, "forbidden_origin", "this origin is not allowed; see the setting cors.allow_origins"
        )
    if is_upgrade and not cors.allows_upgrade(head):
        return Refusal(
            403, "forbidden_origin", "this origin may not open WebSockets; see the setting cors.allow_origins"
        )
    return None
