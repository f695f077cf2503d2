"""The operator's mistakes, as exceptions: each message says what, where and what to do.

Failures of the traffic are not here: they are data (`proxy.exchange.Outcome`).
"""


class ProxyLogError(Exception):
    """Something the operator can mend; the command line shows its message and exits with 1."""


class ConfigError(ProxyLogError):
    """A setting is unknown, malformed or contradicts another."""


class TraceError(ProxyLogError):
    """The trace cannot be opened, read or written as asked."""


class TraceTooNewError(TraceError):
    """The trace was written by a newer proxy-log than this one."""


class InUseError(TraceError):
    """Another proxy-log process holds the trace."""


class MissingExtraError(ProxyLogError):
    """An optional part was asked for and its packages are not installed."""
