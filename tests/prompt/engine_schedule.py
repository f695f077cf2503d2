"""A schedule of predictions as an engine would log them, with what is true of each: which events are whose."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from proxy.prompt.matching import CallFacts, InputEvent, OutputEvent

START_US = 1_750_000_000_000_000
CLOCK_MS = 1_234_567
"""LM Studio's clock is so far from ours."""
MODEL = "smollm2"


def chatml(texts: Sequence[str], tools: str = "") -> str:
    """A prompt as SmolLM2's template makes it: roles by turns, ending with the head of the answer."""
    turns = [
        f"<|im_start|>{'user' if at % 2 == 0 else 'assistant'}\n{text.strip()}<|im_end|>\n"
        for at, text in enumerate(texts)
    ]
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n"
    return system + tools + "".join(turns) + "<|im_start|>assistant\n"


@dataclass(slots=True)
class Schedule:
    """Calls and events; events have the id of their call plus 1000 (input) or 2000 (output)."""

    calls: list[CallFacts] = field(default_factory=list)
    inputs: list[InputEvent] = field(default_factory=list)
    outputs: list[OutputEvent] = field(default_factory=list)

    def add(
        self,
        *texts: str,
        answer: str = "",
        output: str | None = None,
        prompt: str | None = None,
        at_ms: int = 0,
        ttft_ms: int = 100,
        generation_ms: int = 400,
        open_ms: int | None = None,
        delay_ms: int = 5,
        tools: str = "",
        offered: tuple[str, ...] = (),
        tool_calls: tuple[tuple[str, str], ...] = (),
        tokens: tuple[int, int] | None = None,
        told: tuple[int, int] | None = None,
        models: tuple[str, ...] = (MODEL, MODEL),
        model: str = MODEL,
        is_raw: bool = False,
        is_cut_short: bool = False,
        is_proxied: bool = True,
        has_input: bool = True,
        has_output: bool = True,
        stop_reason: str = "eosFound",
        response_id: str | None = None,
    ) -> int:
        """One prediction; gives its id. `told`: tokens that the client was told, as `tokens` by default.

        `tools` is what the template makes of the tools `offered`.
        """
        number = len(self.calls) + len(self.inputs) + len(self.outputs) + 1
        started = START_US + at_ms * 1000
        ended_ms = at_ms + ttft_ms + generation_ms
        prompt = chatml(texts, tools) if prompt is None else prompt
        if is_proxied:
            shown = told or tokens
            self.calls.append(
                CallFacts(
                    id=number,
                    models=models,
                    started_us=started,
                    ended_us=started + (ttft_ms + generation_ms if open_ms is None else open_ms) * 1000 + 2000,
                    texts=texts,
                    is_raw=is_raw,
                    answer=answer,
                    tool_calls=tool_calls,
                    tools=offered,
                    input_tokens=shown[0] if shown else None,
                    output_tokens=shown[1] if shown else None,
                    is_cut_short=is_cut_short,
                    response_id=response_id,
                )
            )
        if has_input:
            self.inputs.append(
                InputEvent(
                    id=number + 1000,
                    at_us=started + delay_ms * 1000,
                    timestamp_ms=at_ms + CLOCK_MS,
                    model=model,
                    model_path=None,
                    text=prompt,
                )
            )
        if has_output:
            self.outputs.append(
                OutputEvent(
                    id=number + 2000,
                    at_us=START_US + (ended_ms + delay_ms) * 1000,
                    timestamp_ms=ended_ms + CLOCK_MS,
                    model=model,
                    text=answer if output is None else output,
                    prompt_tokens=tokens[0] if tokens else None,
                    predicted_tokens=tokens[1] if tokens else None,
                    ttft_s=ttft_ms / 1000,
                    total_s=generation_ms / 1000,
                    stop_reason=stop_reason,
                )
            )
        return number
