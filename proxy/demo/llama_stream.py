"""llama.cpp's answer to `/completion`, event by event, as the engine's steps.

Facts (measured with xllamacpp 2026.10)
-----
* `predicted_n` counts the end token, which comes as an event of its own, with the text held back for a stop string if
  there is any.
* An event names the last token only: those before it that hold the first bytes of its last character are counted in
  `predicted_n` and named nowhere. The tokenizer says which they usually are.
* Text held back for a stop string that then does not come is sent at the end token, but lost at a limit.
* `stop_type` is `limit` both for `n_predict` and for a full context; `truncated` is true for the latter.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from proxy.demo.engine import EngineError, Finish, Piece, Progress, Step


class LlamaStream:
    """Turns the events of one answer into steps."""

    def __init__(
        self,
        *,
        control_tokens: frozenset[int],
        tokenize: Callable[[str], Awaitable[list[int]]],
        detokenize: Callable[[Sequence[int]], Awaitable[str]],
    ) -> None:
        self._control_tokens = control_tokens
        self._tokenize = tokenize
        self._detokenize = detokenize
        self._predicted = 0
        self._text = ""
        self._tokens: list[int] = []
        self._held: tuple[int, ...] = ()
        """A control token that may be the end token."""
        self.is_finished = False
        """It is whole: `Finish` has come."""

    async def steps(self, event: dict[str, Any]) -> list[Step]:
        """The steps of one event.

        Raises:
            EngineError: it tells of an error.
        """
        if "error" in event:
            raise error_of(event)
        if progress := event.get("prompt_progress"):
            return [Progress(progress["processed"], progress["total"], progress["cache"])]
        tokens = await self._tokens_of(event)
        if event["stop"]:
            return await self._last(event)
        known, self._held = self._held, ()
        if tokens and tokens[-1] in self._control_tokens:
            tokens, self._held = tokens[:-1], tokens[-1:]
        return [self._piece(event["content"], known + tokens)] if known or tokens or event["content"] else []

    async def _tokens_of(self, event: dict[str, Any]) -> tuple[int, ...]:
        told = tuple(event["tokens"])
        new = event["timings"]["predicted_n"] - self._predicted
        self._predicted += new
        if told and new > len(told) and event["content"]:
            whole = tuple(await self._tokenize(event["content"]))
            return whole if whole[-1:] == told[-1:] or len(whole) == new else told
        return told

    def _piece(self, text: str, tokens: tuple[int, ...]) -> Piece:
        self._text += text
        self._tokens += tokens
        return Piece(text, tokens)

    async def _last(self, event: dict[str, Any]) -> list[Step]:
        stop, timings = event["stop_type"], event["timings"]
        tokens = () if stop == "eos" else self._held
        text = event["content"]
        if stop == "limit" and event["generation_settings"]["stop"]:
            text += await self._lost_text(tokens)
        pieces = [self._piece(text, tokens)] if text or tokens else []
        finish = Finish(
            reason=self._reason(event),
            stop_string=event["stopping_word"] if stop == "word" else None,
            prompt_tokens=timings["prompt_n"] + timings["cache_n"],
            cached_tokens=timings["cache_n"],
            predicted_tokens=timings["predicted_n"],
            prompt_s=timings["prompt_ms"] / 1000,
            predicted_s=timings["predicted_ms"] / 1000,
        )
        self.is_finished = True
        return [*pieces, finish]

    async def _lost_text(self, more: tuple[int, ...]) -> str:
        """What was held back when the limit came: the text of all tokens, without what was sent."""
        whole = (await self._detokenize([*self._tokens, *more])).rstrip("\N{REPLACEMENT CHARACTER}")
        return whole[len(self._text) :] if whole.startswith(self._text) else ""

    @staticmethod
    def _reason(event: dict[str, Any]) -> str:
        match event["stop_type"]:
            case "eos":
                return "eos"
            case "word":
                return "stop"
            case "limit":
                is_full = event["truncated"] and event["tokens_predicted"] != event["generation_settings"]["n_predict"]
                return "context" if is_full else "length"
            case other:
                raise EngineError(f"llama.cpp ended its answer for an unknown reason: {other}")


async def events_of(chunks: AsyncIterator[bytes]) -> AsyncGenerator[dict[str, Any], None]:
    """The JSON of server-sent events; `error:` lines as well, which is how some versions tell errors."""
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            if field in {b"data", b"error"} and value.strip().startswith(b"{"):
                parsed = json.loads(value)
                yield {"error": parsed} if field == b"error" and "error" not in parsed else parsed


def error_of(answer: Any) -> EngineError:
    """llama.cpp's error, as ours."""
    told = answer.get("error") if isinstance(answer, dict) else None
    error = told if isinstance(told, dict) else {"message": str(told or answer)}
    message = str(error.get("message"))
    # the latter is what it says of a text to embed
    is_too_long = error.get("type") == "exceed_context_size_error" or "too large to process" in message
    return EngineError(message, kind="context" if is_too_long else "failed")
