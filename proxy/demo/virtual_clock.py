"""Time that a script spends: no test waits for it, and statistics are the same in every run.

Waits end in the order of their moments, so that generations beside each other take as long as they would on a real
clock, not the sum of it.
"""

import asyncio
import heapq
import itertools
import time

from proxy.demo.engine import Clock


class VirtualClock:
    """A clock that waiting moves on; with `real_time`, one that really waits."""

    def __init__(self, *, real_time: bool = False, scale: float = 1.0, drives_up_to_s: float = 60.0) -> None:
        """Start at 0.

        Args:
            real_time: waits take time.
            scale: how much of it: 0.1 lets 10 s pass in one. The clock shows the 10.
            drives_up_to_s: `sleep` for longer than this moves no time, it waits for others to do so or for `advance`:
                otherwise an hour's time-to-live would be over before the first request.
        """
        self._real_time = real_time
        self._scale = scale
        self._drives_up_to_s = drives_up_to_s
        self._start = time.monotonic()
        self._now = 0.0
        self._order = itertools.count()
        self._driving: list[tuple[float, int]] = []
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []

    @property
    def clock(self) -> Clock:
        """This one, as the engine's interface has it."""
        return Clock(now=self.now, sleep=self.sleep)

    def now(self) -> float:
        """Seconds since the start."""
        return (time.monotonic() - self._start) / self._scale if self._real_time else self._now

    async def sleep(self, seconds: float) -> None:
        """Wait; a long wait does not move virtual time by itself."""
        if self._real_time or seconds <= self._drives_up_to_s:
            await self.spend(seconds)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (self._now + seconds, next(self._order), future))
        await future

    async def spend(self, seconds: float) -> None:
        """Wait, and move virtual time however long it is."""
        if self._real_time:
            await asyncio.sleep(seconds * self._scale)
            return
        mine = (self._now + seconds, next(self._order))
        heapq.heappush(self._driving, mine)
        try:
            while True:
                await asyncio.sleep(0)
                if self._driving[0] == mine:
                    break
            self._move(mine[0])
        finally:
            self._driving.remove(mine)
            heapq.heapify(self._driving)

    def advance(self, seconds: float) -> None:
        """Let time pass at once: every wait that is over then ends.

        Raises:
            ValueError: the clock is a real one, nobody can move it.
        """
        if self._real_time:
            raise ValueError("real time passes by itself")
        self._move(self._now + seconds)

    def _move(self, to: float) -> None:
        self._now = max(self._now, to)
        while self._waiting and self._waiting[0][0] <= self._now:
            future = heapq.heappop(self._waiting)[2]
            if not future.done():  # cancelled meanwhile
                future.set_result(None)
