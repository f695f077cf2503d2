"""What happens to a prompt that is longer than the context window.

Policies: D, lmstudio-js documentation of `contextOverflowPolicy`: `stopAtLimit` stops, `truncateMiddle` keeps the
system prompt and the first user message and cuts what follows, `rollingWindow` keeps the newest. How much is cut is
not documented (U): here whole messages, as few as possible, and tokens only where one message alone is too long.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from proxy.demo.engine import Message

_ROOM_TOKENS = 64
"""So much is left for the answer, where that is possible."""

Render = Callable[[Sequence[Message]], Awaitable[tuple[str, list[int]]]]


class ContextOverflowError(Exception):
    """The prompt does not fit, and may not be cut."""

    def __init__(self, prompt_tokens: int, context_length: int) -> None:
        super().__init__(f"{prompt_tokens} tokens do not fit into a context of {context_length}")
        self.prompt_tokens = prompt_tokens
        self.context_length = context_length


@dataclass(frozen=True, slots=True)
class Fitted:
    """A prompt that fits."""

    prompt: str
    tokens: list[int]
    kept: int
    """Tokens at the start that stay when the context is full later on."""
    is_cut: bool = False
    """Tokens were cut out: `prompt` is the text before that."""


async def fit(render: Render, messages: Sequence[Message], policy: str, context_length: int) -> Fitted:
    """The prompt of these messages, or of as many of them as fit.

    Raises:
        ContextOverflowError: the policy is `refuse` or `stopAtLimit`, and it does not fit.
    """
    prompt, tokens = await render(messages)
    keep = 0
    if policy == "truncateMiddle":
        keep = _head_messages(messages)
    limit = context_length - 1
    if len(tokens) > limit:
        if policy in ("refuse", "stopAtLimit"):
            raise ContextOverflowError(len(tokens), context_length)
        limit = context_length - min(_ROOM_TOKENS, context_length // 4)
        left = list(messages)
        while len(tokens) > limit and len(left) - keep > 1:
            del left[keep]
            prompt, tokens = await render(left)
        if len(tokens) > limit:
            tokens = shifted(tokens, len(tokens) // 4 if keep else 0, limit)
            return Fitted(prompt, tokens, len(tokens) // 4 if keep else 0, is_cut=True)
    return Fitted(prompt, tokens, min(len(tokens) // 4, context_length // 4) if keep else 0)


def _head_messages(messages: Sequence[Message]) -> int:
    """How many messages at the start are kept: the system's, and the first user's unless it is the last one."""
    count = 0
    while count < len(messages) and messages[count]["role"] == "system":
        count += 1
    return count + 1 if count < len(messages) - 1 else count


def shifted(tokens: Sequence[int], keep: int, limit: int | None = None) -> list[int]:
    """The tokens without a stretch behind the first `keep`: half of the rest, or what is above `limit`."""
    drop = (len(tokens) - keep) // 2 if limit is None else max(0, len(tokens) - limit)
    keep = min(keep, len(tokens) - drop)
    return [*tokens[:keep], *tokens[keep + drop :]]
