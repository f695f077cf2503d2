"""What refusals say of a prompt that does not fit into the context window.

Facts (lmstudio-api.md 2.4, 3; llama.cpp's server)
--------------------------------------------------
* The words change with the version. Most give the prompt's tokens, the context length, or both; some neither.
* How many tokens are "to be kept" is not always the whole prompt: it is not taken for that.
* llama.cpp's error has the fields `n_prompt_tokens` and `n_ctx`; what passes them on may keep the words alone.
"""

import re
from dataclasses import dataclass

_FORMS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"has (?P<prompt>\d+) tokens, but the context length only supports (?P<limit>\d+)",
        r"request \((?P<prompt>\d+) tokens\) exceeds the available context size \((?P<limit>\d+) tokens\)",
        r"keep the first \d+ tokens when context the overflows.* context length of only (?P<limit>\d+)",
        r"truncate prompt with n_keep \(\d+\) >= n_ctx \((?P<limit>\d+)\)",
        r"(?P<prompt>\d+) tokens.* context (?:length|size|window) (?:of |is )?(?P<limit>\d+)",
        r"number of tokens to keep from the initial prompt is greater than the context length",
        r"prompt is too long|too large to process",
        r"context size has been exceeded|exceed(?:s|ed)? the (?:available |maximum )?context (?:length|size|window)",
        r"exceed_context_size_error|context_length_exceeded",
        r"maximum context length is (?P<limit>\d+)",
    )
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """A prompt was refused because it is too long."""

    prompt_tokens: int | None
    context_length: int | None


def read_refusal(message: str, kind: str | None = None, code: str | None = None) -> Refusal | None:
    """What an error says of the context window; None: it is about something else.

    Args:
        message: its words.
        kind: its type, where it has one.
        code: its code, where it has one.
    """
    told = " ".join(filter(None, (message, kind, code)))
    found = [match for form in _FORMS if (match := form.search(told))]
    if not found:
        return None
    return Refusal(_number(found, "prompt"), _number(found, "limit"))


def _number(found: list[re.Match[str]], name: str) -> int | None:
    return next((int(match[name]) for match in found if match.groupdict().get(name)), None)
