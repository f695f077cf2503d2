"""OpenAI's list of models, as LM Studio, llama.cpp and others give it.

Facts (lmstudio-api.md 2.1; llama.cpp's tools/server/README.md at 00dc805 and its own answers)
----------------------------------------------------------------------------------------------
* LM Studio's rows have `id`, `object`, `owned_by` and nothing else; a further instance of a model is `…:2`. One row
  comes without the list around it.
* An id may hold slashes and `@`, and clients send it unencoded (clients.md 2, llm-lmstudio).
* llama.cpp adds `meta` (context lengths, parameters, bytes; null while it loads), `architecture`, `aliases`, `tags`, in
  router mode `status` and `path`, and beside the list the same models in Ollama's form (`models`).
* `/api/v1/models` is LM Studio's own list, so it is claimed here only if nobody else does (OpenRouter has it there).
"""

from urllib.parse import unquote

from proxy.meaning import Json, Operation
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.reader import Claim, RequestHead

_LIST = "/v1/models"
_ROW = ("object", "owned_by", "created", "permission", "root", "parent", "max_model_len")
_LLAMA_ROW = ("architecture", "aliases", "tags", "path", "in_cache", "source", "need_download", "preset")
_KNOWN = ("object", "models")


class OpenAIModels:
    """`GET …/v1/models`, `GET …/v1/models/{id}`, and llama.cpp's `GET /models`."""

    name = "openai_models"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Whatever the prefix is, if it is not LM Studio's."""
        if head.method != "GET" or not (head.path == "/models" or f"{_LIST}/" in f"{head.path}/"):
            return Claim.NO
        return Claim.MAYBE if f"/api{_LIST}/" in f"{head.path}/" else Claim.YES

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.MODELS

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`: there is no body, a model is asked for by the path."""
        call.model_asked = _asked(head)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        if _asked(head) is None or "data" in body:
            rows = body.objects("data")
            body.known(*_KNOWN)
        else:
            rows = [body]
            call.model_answered = body.text("id")
        names: list[Json] = []
        meta: dict[str, Json] = {}
        states: dict[str, Json] = {}
        for row in rows:
            name = row.text("id")
            names.append(name)
            _note(meta, name, row.raw("meta"))
            status = row.raw("status")
            _note(states, name, status.get("value") if isinstance(status, dict) else status)
            row.known(*_ROW, *_LLAMA_ROW)
        call.details["models"] = [name for name in names if name is not None]
        if meta:
            call.details["meta"] = meta
        if states:
            call.details["status"] = states

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`: a list has no stream."""
        call.problem("unknown_event", name)


def _asked(head: RequestHead) -> str | None:
    name = head.path.partition(f"{_LIST}/")[2]
    return unquote(name) or None


def _note(kept: dict[str, Json], name: str | None, value: Json) -> None:
    if name is not None and value is not None:
        kept[name] = value
