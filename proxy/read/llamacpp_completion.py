"""llama.cpp's completions, which go on from a raw prompt or fill in what stands between two texts.

Facts (llama.cpp's tools/server/README.md at 00dc805; answers of xllamacpp's server, 2026)
------------------------------------------------------------------------------------------
* The answer to several prompts is an array; in a stream their pieces are mixed, told apart by `index`, and each has an
  end of its own. Such a stream begins with `data: null`. `n_cmpl` asks for several answers to each prompt.
* There is no `[DONE]`: the event with `stop: true` is the last, and has `stop_type`, `timings`, `generation_settings`.
* `stop_type` is `eos`, `limit` (of tokens or of the context) or `word`; older versions have a flag for each.
* `tokens_evaluated` counts the whole prompt, cached tokens too. `tokens_cached` is, whatever the README says, what the
  slot holds afterwards; what was reused is `cache_n` in `timings`.
* Of several answers each has its own numbers, and none tells their sum: they are kept as details.
"""

from dataclasses import dataclass
from types import MappingProxyType

from proxy.meaning import Json, Message, Origin, Part, PartKind, StopReason
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.llamacpp_settings import read_settings
from proxy.read.openai_completions import OpenAICompletions
from proxy.read.openai_fields import TIMINGS, read_parameters, read_response_format, read_timings
from proxy.read.prompts import read_prompts
from proxy.read.reader import RequestHead

ARRAY = "[]"
"""An answer that is an array is read as an object with this one field."""
_STOP_TYPES = MappingProxyType({"eos": StopReason.STOP, "limit": StopReason.LENGTH, "word": StopReason.STOP_STRING})
_STOP_FLAGS = MappingProxyType({"stopped_eos": "eos", "stopped_word": "word", "stopped_limit": "limit"})
_NUMBERS = ("tokens_evaluated", "tokens_predicted", "timings")
_KNOWN = (
    *("tokens", "id_slot", "slot_id", "has_new_line", "tokens_cached", "completion_probabilities", "prompt"),
    *("stop_type", "stopping_word", "truncated", "generation_settings", "multimodal"),
)
_OPENAI = OpenAICompletions()
_INFILL = ("input_prefix", "input_suffix")


@dataclass(slots=True)
class _Progress:
    """Of a completion: what its events have told so far."""

    awaited: int
    """Answers that were asked for."""
    ended: int = 0
    prompt_started_us: int | None = None


def ask_completion(call: Call, body: Fields) -> None:
    """The request of /completion."""
    prompts = read_prompts(call, body, "prompt")
    each = body.integer("n_cmpl") or body.integer("n") or 1
    call.kept = _Progress(prompts * each)
    read_response_format(call, body)
    read_parameters(call, body)


def ask_infill(call: Call, body: Fields) -> None:
    """The request of /infill: what stands before and after the gap, and other files."""
    for extra in body.objects("input_extra"):
        text = extra.text("text")
        call.messages.append(
            Message("prompt", (Part(PartKind.FILE, text or "", extra.text("filename")),), "input_extra")
        )
    for name in _INFILL:
        text = body.text(name)
        if text:
            call.messages.append(Message("prompt", (Part(PartKind.TEXT, text),), name, name))
    ask_completion(call, body)
    call.kept = _Progress(1)


def read_completion(call: Call, body: Fields) -> None:
    """The whole answer of both."""
    for one in body.objects(ARRAY) if ARRAY in body else [body]:
        read_piece(call, one, None)


def read_piece(call: Call, body: Fields, at_us: int | None) -> None:
    """An answer, or a piece of one that is streamed."""
    if "choices" in body:  # another server's, which has OpenAI's form without a prefix
        if at_us is None:
            _OPENAI.read_answer(call, body, RequestHead("POST", "/completions"))
        else:
            _OPENAI.read_event(call, "", body, at_us)
        return
    progress = call.kept
    if not isinstance(progress, _Progress):
        progress = call.kept = _Progress(1)
    index = body.integer("index") or 0
    call.model_answered = body.text("model") or call.model_answered
    call.generated(at_us, body.text("content"), index=index)
    _read_prompt_progress(call, body, at_us, progress)
    if progress.awaited <= 1 and index == 0:
        call.report(input_tokens=body.integer("tokens_evaluated"), output_tokens=body.integer("tokens_predicted"))
        read_timings(call, body)
    elif (timings := body.object("timings")) is not None:
        timings.known(*TIMINGS)
    if body.flag("stop"):
        progress.ended += 1
        call.is_finished = progress.ended >= progress.awaited
        _read_end(call, body, index)
        if progress.awaited > 1:
            call.details.setdefault("answers", []).append(_numbers(body, index))
    body.known(*_NUMBERS, *_STOP_FLAGS, *_KNOWN)


def _read_end(call: Call, body: Fields, index: int) -> None:
    raw = _stop_type(body)
    if index != 0:
        return
    if raw:
        call.stop(_STOP_TYPES.get(raw, StopReason.OTHER), raw)
    call.stop_string = body.text("stopping_word") or None
    read_settings(call, body.object("generation_settings"), Origin.EFFECTIVE)
    if body.flag("truncated"):
        call.details["truncated"] = True


def _stop_type(body: Fields) -> str | None:
    return body.text("stop_type") or next((word for name, word in _STOP_FLAGS.items() if body.raw(name) is True), None)


def _numbers(body: Fields, index: int) -> dict[str, Json]:
    return {"index": index, "stop_type": _stop_type(body), **{name: body.raw(name) for name in _NUMBERS}}


def _read_prompt_progress(call: Call, body: Fields, at_us: int | None, progress: _Progress) -> None:
    told = body.object("prompt_progress")
    if told is None:
        return
    told.known("total", "cache", "processed", "time_ms")
    if at_us is None:
        return
    if progress.prompt_started_us is None:
        progress.prompt_started_us = at_us
    else:
        call.prompt_us = at_us - progress.prompt_started_us
