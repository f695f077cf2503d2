"""How numbers, times and foreign text are written for people, on the terminal and on the pages."""

import re
from datetime import datetime

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, is_one_line: bool = False) -> str:
    """Foreign text without what would steer its reader: control and direction characters become visible marks."""
    if is_one_line:
        text = text.replace("\r\n", "\u23ce").replace("\n", "\u23ce").replace("\t", " ")
    return _CONTROL.sub(_visible, text.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 32 else "\u2421" if code == 127 else "\ufffd"


def size(count: int | None) -> str:
    """Bytes in at most four characters: `412`, `1.2k`, `64M`."""
    if count is None:
        return "-"
    number: float = count
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.1f}{unit}" if unit and number < 9.95 else f"{number:.0f}{unit}"
        number /= 1000
    return f"{number:.1f}T"


def duration(ms: float | None) -> str:
    """A duration in at most five characters up to four days: `0.4ms`, `83ms`, `1.24s`, `2m05s`, `1.5h`."""
    if ms is None:
        return "-"
    if ms < 999.5:
        return f"{ms:.1f}ms" if ms < 9.95 else f"{ms:.0f}ms"
    seconds = ms / 1000
    if seconds < 59.95:
        return f"{seconds:.2f}s" if seconds < 9.995 else f"{seconds:.1f}s"
    if seconds >= 599.5:
        return f"{seconds / 60:.1f}m" if seconds < 3597 else f"{seconds / 3600:.1f}h"
    return f"{round(seconds) // 60}m{round(seconds) % 60:02}s"


def local_time(at: str) -> datetime:
    """A time of the trace (ISO 8601, UTC) as one of this place."""
    return datetime.fromisoformat(at).astimezone()
