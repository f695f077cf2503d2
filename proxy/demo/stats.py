"""What is told about a prediction: statistics, why it ended, and the engine's own timing lines."""

from dataclasses import dataclass
from typing import Any

from proxy.demo.engine import Drafted, Finish

STOP_REASONS = {
    "eos": "eosFound",
    "stop": "stopStringFound",
    "length": "maxPredictedTokensReached",
    "context": "contextLengthReached",
}
"""The engine's words to the SDK's. S: LLMPredictionStats.ts."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Of one prediction, as the SDK tells them (S: LLMPredictionStats.ts); times in seconds."""

    stop_reason: str
    stop_string: str | None
    prompt_tokens: int
    predicted_tokens: int
    """The end token counts. S: the SDK's tests."""
    reasoning_tokens: int
    cached_tokens: int
    time_to_first_token_s: float | None
    """From the moment the prediction had its place; None where nothing was generated."""
    generation_s: float
    """By the engine's clock."""
    total_s: float
    """What `totalTimeSec` says: see the switch `total_time`."""
    drafted: Drafted | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Predicted tokens per second of `total_s`. T: section 6.2 of the digest."""
        return self.predicted_tokens / self.total_s if self.total_s > 0 else None

    def sdk(self) -> dict[str, Any]:
        """The camelCase block of the SDK and of the log; what is not known is left out."""
        block = {
            "stopReason": self.stop_reason,
            "tokensPerSecond": self.tokens_per_second,
            "numGpuLayers": -1,
            "timeToFirstTokenSec": self.time_to_first_token_s,
            "totalTimeSec": self.total_s,
            "promptTokensCount": self.prompt_tokens,
            "predictedTokensCount": self.predicted_tokens,
            "totalTokensCount": self.prompt_tokens + self.predicted_tokens,
            "stopString": self.stop_string,
            **self._sdk_draft(),
        }
        return {name: value for name, value in block.items() if value is not None}

    def _sdk_draft(self) -> dict[str, Any]:
        drafted = self.drafted
        if drafted is None:
            return {}
        return {
            "usedDraftModelKey": drafted.model,
            "totalDraftTokensCount": drafted.total,
            "acceptedDraftTokensCount": drafted.accepted,
            "rejectedDraftTokensCount": drafted.rejected,
            "ignoredDraftTokensCount": drafted.ignored,
        }

    def http_draft(self) -> dict[str, Any]:
        """The counters as /v1 and /api/v0 call them; {} without a draft model. D: api-changelog.md 0.3.10."""
        drafted = self.drafted
        if drafted is None:
            return {}
        return {
            "draft_model": drafted.model,
            "total_draft_tokens_count": drafted.total,
            "accepted_draft_tokens_count": drafted.accepted,
            "rejected_draft_tokens_count": drafted.rejected,
            "ignored_draft_tokens_count": drafted.ignored,
        }


def timing_lines(finish: Finish) -> str:
    """The engine's own lines, in one message. T: `runtime.log` of the llama.cpp server."""
    fresh = finish.prompt_tokens - finish.cached_tokens
    whole_s = finish.prompt_s + finish.predicted_s
    return "\n".join(
        (
            _timing("prompt eval", finish.prompt_s, fresh),
            _timing("eval", finish.predicted_s, finish.predicted_tokens),
            f"total time = {whole_s * 1000:.2f} ms / {fresh + finish.predicted_tokens} tokens",
        )
    )


def _timing(what: str, seconds: float, tokens: int) -> str:
    each = seconds * 1000 / tokens if tokens else 0.0
    speed = tokens / seconds if seconds else 0.0
    return (
        f"{what} time = {seconds * 1000:.2f} ms / {tokens} tokens "
        f"({each:.2f} ms per token, {speed:.2f} tokens per second)"
    )
