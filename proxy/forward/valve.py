"""Reading from a connection, paused as long as there is a reason; several reasons may overlap."""

import asyncio
from collections.abc import Callable

OTHER_SIDE_FULL, CONNECTING, PIPELINE_FULL, PACED = 1, 2, 4, 8
"""Why nothing is read: the other side takes no more; there is no other side yet; enough requests wait; see `pace`."""
_PACE_S = 0.001


class Valve:
    """The reading side of one transport."""

    __slots__ = ("_reasons", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reasons = 0

    def hold(self, reason: int) -> None:
        """Stop reading for this reason."""
        if not self._reasons and not self._transport.is_closing():
            self._transport.pause_reading()
        self._reasons |= reason

    def release(self, reason: int) -> None:
        """The reason is gone: read on, unless there is another."""
        if self._reasons & reason:
            self._reasons &= ~reason
            if not self._reasons and not self._transport.is_closing():
                self._transport.resume_reading()

    def open(self) -> None:
        """Forget all reasons."""
        self.release(self._reasons)

    def pace(self, is_behind: Callable[[], bool]) -> None:
        """Read no more as long as the recorder is behind, so that a flood does not outrun the journal."""
        if not self._reasons & PACED:
            self.hold(PACED)
            asyncio.get_running_loop().call_later(_PACE_S, self._go_on, is_behind)

    def _go_on(self, is_behind: Callable[[], bool]) -> None:
        if self._reasons & PACED and is_behind():
            asyncio.get_running_loop().call_later(_PACE_S, self._go_on, is_behind)
        else:
            self.release(PACED)
