"""OpenAI's older completions, as LM Studio, llama.cpp and others speak them: text goes on, no template is applied.

Facts (lmstudio-api.md 2.5, 4.3; llama.cpp's own answers, read from xllamacpp's server)
---------------------------------------------------------------------------------------
* `choices[].text` is the answer, or in a stream its next piece; a stream ends with `[DONE]`. Usage comes as in chat
  completions: in an event of its own with empty `choices`, or with the finish reason.
* Several prompts in one request have one choice each (or `n` each), told apart by `index`; the first one's may be
  missing. llama.cpp's `usage` and `timings` are then the first one's alone.
* A bare `/completions` is llama.cpp's native endpoint, so it is claimed here only if nobody else does.
"""

from proxy.meaning import Operation
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.openai_chat import read_stop
from proxy.read.openai_fields import read_parameters, read_response_format, read_stats, read_timings, read_usage
from proxy.read.prompts import read_prompts
from proxy.read.reader import Claim, RequestHead

_KNOWN = ("object", "created", "system_fingerprint", "service_tier", "provider", "__verbose")


class OpenAICompletions:
    """`POST …/completions`, but not `…/chat/completions`."""

    name = "openai_completions"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Whatever the prefix is, if there is one."""
        if head.method != "POST" or not head.path.endswith("/completions") or head.path.endswith("/chat/completions"):
            return Claim.NO
        return Claim.MAYBE if head.path == "/completions" else Claim.YES

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.COMPLETION

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_asked = body.text("model")
        read_prompts(call, body, "prompt")
        read_response_format(call, body)
        read_parameters(call, body)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        self._read(call, body, None)

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        if name not in ("", "error"):
            call.problem("unknown_event", name)
        self._read(call, body, at_us)

    def _read(self, call: Call, body: Fields, at_us: int | None) -> None:
        call.model_answered = body.text("model") or call.model_answered
        call.response_id = body.text("id") or call.response_id
        for choice in body.objects("choices"):
            index = choice.integer("index") or 0
            call.generated(at_us, choice.text("text"), index=index)
            read_stop(call, choice, index)
            choice.known("logprobs")
        read_usage(call, body.object("usage"))
        read_stats(call, body)
        read_timings(call, body)
        body.known(*_KNOWN)
