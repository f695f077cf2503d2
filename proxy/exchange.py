"""Words of bytes: what an exchange is made of, before anybody reads sense into it."""

from enum import IntEnum, StrEnum

SESSION_FIELD, TAG_FIELD = "x-proxy-log-session", "x-proxy-log-tag"
"""Header fields by which a client says what its requests belong to; they are for the proxy and are not forwarded."""


class Side(IntEnum):
    """Which of the two sent it. The numbers are the trace's format."""

    CLIENT = 0
    UPSTREAM = 1

    @property
    def label(self) -> str:
        """The word that views, the command line and JSON show."""
        return self.name.lower()


class Outcome(StrEnum):
    """How an exchange ended; every exchange ends exactly once. The HTTP status is another matter."""

    COMPLETED = "completed"
    """The client got the whole response, or the WebSocket ended with a close frame."""
    CLIENT_GONE = "client_gone"
    """The client left before the end; the upstream was told at once. Many do that on purpose."""
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    """No connection to the upstream could be made; the client got a 502."""
    UPSTREAM_GONE = "upstream_gone"
    """The upstream broke off: before its answer (the client got a 502) or within it (the client's broke off too)."""
    UPSTREAM_TIMEOUT = "upstream_timeout"
    """The upstream did not accept the connection within `forward.connect_timeout_s`; the client got a 504."""
    PROXY_STOPPED = "proxy_stopped"
    """proxy-log was stopped, and the exchange ran on for longer than `drain_s`."""
    INTERRUPTED = "interrupted"
    """The proxy itself died before the end, or the end could not be recorded; set when the journal is taken in."""
