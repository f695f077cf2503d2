"""What may differ between two runs of the same thing: ids, moments, durations, speeds. Everything else must not."""

import json
import re
from typing import Any

_MEASURED = (
    "created|created_at|completed_at|started_at|lastUsedTime|tokens_per_second|tokensPerSecond|time_to_first_token"
    "|time_to_first_token_seconds|timeToFirstTokenSec|time_to_first_token_sec|generation_time|totalTimeSec"
    "|total_time_sec|load_time_seconds|model_load_time_seconds|last_used_time"
)
_NUMBER = re.compile(rf'(\\?"(?:{_MEASURED})\\?": ?)-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?')
_REFERENCE = re.compile(r'(\\?"(?:instanceReference|instance_reference)\\?": ?\\?")[A-Za-z0-9]{24}')
_ID = re.compile(r"\b(chatcmpl|cmpl|resp|msg|fc|rs|call|toolu|job|req)[-_][0-9A-Za-z]{6,}\b|(?<=\")\d{9}(?=\\?\")")
_ADDRESS = re.compile(r"127\.0\.0\.1:\d+")


def normal(value: Any) -> str:
    """A result as text in which only what must be the same in every run is left.

    An id becomes the number of its first occurrence, so that whoever names it later must name the same.

    Args:
        value: JSON data, or bytes or text that hold some.
    """
    if isinstance(value, bytes):
        value = value.decode()
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=1)
    text = _ADDRESS.sub("HOST", _REFERENCE.sub(r"\1REFERENCE", _NUMBER.sub(r"\g<1>0", text)))
    ids: dict[str, str] = {}
    return _ID.sub(lambda found: ids.setdefault(found[0], f"{found[1] or 'tool'}-{len(ids)}"), text)
