"""Words of bytes: what an exchange is made of, before anybody reads sense into it."""

from enum import IntEnum, StrEnum


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
    CLIENT_GONE = "client_gone"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_GONE = "upstream_gone"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    PROXY_STOPPED = "proxy_stopped"
    INTERRUPTED = "interrupted"
    """The proxy itself died before the end; set when the journal is taken in."""
