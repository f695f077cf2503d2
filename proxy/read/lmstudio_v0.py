"""LM Studio's older REST, `/api/v0`: OpenAI's answers with statistics, facts about the model and its engine.

Facts (lmstudio-api.md 4.1-4.3, 6.1; clients.md 2)
--------------------------------------------------
* Chat, completions and embeddings are read as OpenAI's. Their answers add `stats`, `model_info` and `runtime`. In a
  stream these ride on the event with the finish reason, or on another one whose `choices` is empty, without `runtime`.
* `stats.stop_reason` is in the SDK's words, finer than the finish reason. `context_length` there is the loaded one.
* A list's rows have `loaded_context_length` only while loaded; `state` is `loaded`, `not-loaded`, perhaps `loading`.
  Vision models are of the type `vlm` here, `llm` in v1. One model comes without the list around it.
* An id may hold slashes, and clients send it unencoded.
"""

from urllib.parse import unquote

from proxy.meaning import Json, Operation
from proxy.read.call import Call
from proxy.read.http_session import Dialect
from proxy.read.json_fields import Fields
from proxy.read.openai_chat import OpenAIChat
from proxy.read.openai_completions import OpenAICompletions
from proxy.read.openai_embeddings import OpenAIEmbeddings
from proxy.read.reader import Claim, RequestHead

_ROOT = "/api/v0/"
_MODELS = f"{_ROOT}models"
_POSTS = {
    f"{_ROOT}chat/completions": Operation.CHAT,
    f"{_ROOT}completions": Operation.COMPLETION,
    f"{_ROOT}embeddings": Operation.EMBEDDING,
}
_KNOWN = ("object", "publisher", "arch", "compatibility_type", "capabilities")


class LMStudioV0:
    """`POST /api/v0/chat/completions`, `…/completions`, `…/embeddings`, `GET /api/v0/models`, `…/models/{id}`."""

    name = "lmstudio_v0"
    version = 1

    def __init__(self) -> None:
        """What it shares with OpenAI's dialects is read by them."""
        self._shared: dict[Operation, Dialect] = {
            Operation.CHAT: OpenAIChat(),
            Operation.COMPLETION: OpenAICompletions(),
            Operation.EMBEDDING: OpenAIEmbeddings(),
        }

    def claims(self, head: RequestHead) -> Claim:
        """See `Dialect`."""
        return Claim.YES if _operation(head) is not None else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return _operation(head) or Operation.OTHER

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        shared = self._shared.get(call.operation)
        if shared is not None:
            shared.read_request(call, body, head)
        else:
            call.model_asked = _asked(head)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        shared = self._shared.get(call.operation)
        if shared is not None:
            shared.read_answer(call, body, head)
        elif _asked(head) is None:
            body.known("object")
            call.details["models"] = [_model(row) for row in body.objects("data")]
        else:
            call.model_answered = body.text("id")
            call.details["models"] = [_model(body)]

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`; a list of models has no stream."""
        shared = self._shared.get(call.operation)
        if shared is not None:
            shared.read_event(call, name, body, at_us)
        else:
            call.problem("unknown_event", name[:200])


def _operation(head: RequestHead) -> Operation | None:
    path = head.path.rstrip("/")
    if head.method == "POST":
        return _POSTS.get(path)
    return Operation.MODELS if head.method == "GET" and f"{path}/".startswith(f"{_MODELS}/") else None


def _asked(head: RequestHead) -> str | None:
    return unquote(head.path.removeprefix(_MODELS).strip("/")) or None


def _model(row: Fields) -> dict[str, Json]:
    """What is worth showing of a model, under the names it is sent with."""
    model: dict[str, Json] = {name: row.text(name) for name in ("id", "type", "state", "quantization")}
    model |= {name: row.integer(name) for name in ("loaded_context_length", "max_context_length")}
    row.known(*_KNOWN)
    return {name: value for name, value in model.items() if value is not None}
