"""CORS: leave for browsers, given by the proxy, as LM Studio gives none unless told.

Facts: the Fetch standard, section 3.2. `*` in Allow-Headers does not cover Authorization, so what was asked for is
echoed. Two Allow-Origin values are a refusal, so the upstream's own are dropped. WebSockets know no CORS: an upgrade
carries its Origin and is checked by `allows_upgrade`.
"""

from proxy.forward.framing import RequestHead


class Cors:
    """What browsers on other origins may do."""

    def __init__(self, *, is_enabled: bool, allow_origins: tuple[str, ...], max_age_s: int) -> None:
        self.is_enabled = is_enabled
        self._allows_all = "*" in allow_origins
        self._origins = frozenset(origin.encode() for origin in allow_origins)
        self._max_age_s = max_age_s

    def response_lines(self, head: RequestHead | None) -> bytes | None:
        """The header lines for a response to this request; None where responses are left alone."""
        if not self.is_enabled:
            return None
        allowed = self._allowed_origin(head)
        if allowed is None:
            return b"Vary: Origin\r\n"
        vary = b"" if allowed == b"*" else b"Vary: Origin\r\n"
        return b"Access-Control-Allow-Origin: %b\r\nAccess-Control-Expose-Headers: *\r\n%b" % (allowed, vary)

    def is_preflight(self, head: RequestHead) -> bool:
        """Whether a browser asks for leave, which the proxy gives or refuses by itself."""
        return (
            self.is_enabled
            and head.method == b"OPTIONS"
            and bool(head.values.get(b"origin", []))
            and bool(head.values.get(b"access-control-request-method", []))
        )

    def preflight_lines(self, head: RequestHead) -> bytes | None:
        """The header lines that answer a preflight; None if its origin is not allowed."""
        lines = self.response_lines(head)
        if lines is None or self._allowed_origin(head) is None:
            return None
        lines += b"Access-Control-Allow-Methods: %b\r\n" % head.values.get(b"access-control-request-method", [])[0]
        asked = b", ".join(head.values.get(b"access-control-request-headers", []))
        if asked:
            lines += b"Access-Control-Allow-Headers: %b\r\n" % asked
        if b"true" in head.values.get(b"access-control-request-private-network", []):
            lines += b"Access-Control-Allow-Private-Network: true\r\n"
        return lines + b"Access-Control-Max-Age: %d\r\n" % self._max_age_s

    def allows_upgrade(self, head: RequestHead) -> bool:
        """Whether a WebSocket may be opened from the request's origin; programs send none and may."""
        origins = head.values.get(b"origin", [])
        return not self.is_enabled or self._allows_all or not origins or origins[0] in self._origins

    def _allowed_origin(self, head: RequestHead | None) -> bytes | None:
        if self._allows_all:
            return b"*"
        origins = head.values.get(b"origin", []) if head else []
        return origins[0] if origins and origins[0] in self._origins else None
