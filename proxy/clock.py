"""Time, from one place: wall time says when, monotonic time says how long."""

import time
from dataclasses import dataclass

monotonic_ns = time.monotonic_ns


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The two clocks read together, so that monotonic times of a run can be placed in wall time."""

    wall_ns: int
    """Nanoseconds since 1970-01-01 UTC."""
    monotonic_ns: int
    """Nanoseconds on the monotonic clock; its zero means nothing."""

    @classmethod
    def now(cls) -> "ClockReading":
        """Both clocks, read one after the other (well under a microsecond apart)."""
        return cls(time.time_ns(), time.monotonic_ns())

    def wall_us_at(self, at_monotonic_ns: int) -> int:
        """Microseconds since 1970 UTC of a moment on the monotonic clock."""
        return (self.wall_ns + at_monotonic_ns - self.monotonic_ns) // 1000
