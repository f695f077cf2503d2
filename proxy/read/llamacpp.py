"""llama.cpp's own endpoints: completions that go on from a raw prompt, embeddings, tokens, templates, its state.

Facts (llama.cpp's tools/server/README.md at 00dc805; answers of xllamacpp's server, 2026)
------------------------------------------------------------------------------------------
* A bare /completions is /completion, a bare /embeddings is /embedding; OpenAI's forms have /v1 before them.
* /embedding and /slots answer with an array, /completion too where several prompts were sent, /metrics with lines of
  Prometheus's form, everything else with an object.
* /tokenize tells numbers, or with `with_pieces` objects; /apply-template takes what chat completions take.
* In router mode a GET names the model in its query, a POST in its body.
"""

from collections.abc import Callable
from urllib.parse import parse_qs

from proxy.meaning import Json, Operation
from proxy.read.call import Call
from proxy.read.json_fields import Fields, NotJsonError, decode_json
from proxy.read.llamacpp_completion import ARRAY, ask_completion, ask_infill, read_completion, read_piece
from proxy.read.llamacpp_settings import read_props, read_slots
from proxy.read.openai_embeddings import OpenAIEmbeddings
from proxy.read.openai_fields import read_parameters, read_response_format, read_tools
from proxy.read.openai_messages import read_messages
from proxy.read.prompts import read_prompts
from proxy.read.reader import Claim, RequestHead
from proxy.read.vectors import read_vectors

_MAX_METRICS = 200
_TOKENIZE = ("add_special", "parse_special", "with_pieces")


class LlamaCpp:
    """`POST /completion`, `/infill`, `/embedding`, `/tokenize`, `/detokenize`, `/apply-template`; `GET /props` etc."""

    name = "llamacpp"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """By the whole path: llama.cpp has no prefix of its own."""
        return Claim.YES if (head.method, head.path) in _ENDPOINTS else Claim.NO

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return _ENDPOINTS[head.method, head.path][0] if (head.method, head.path) in _ENDPOINTS else Operation.OTHER

    def as_object(self, body: bytes, head: RequestHead) -> dict[str, Json] | None:
        """See `OtherAnswers`: arrays, and the lines of /metrics."""
        if body.lstrip()[:1] == b"[":
            try:
                return {ARRAY: decode_json(body)}
            except NotJsonError:
                return None
        is_text = head.path == "/metrics" and body.lstrip()[:1] != b"{"
        return {"metrics": body.decode("utf-8", "replace")} if is_text else None

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_asked = body.text("model") or next(iter(parse_qs(head.query).get("model", ())), None)
        read = _ENDPOINTS.get((head.method, head.path), _NOTHING)[1]
        read(call, body)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        read = _ENDPOINTS.get((head.method, head.path), _NOTHING)[2]
        read(call, body)

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        if name not in ("", "error"):
            call.problem("unknown_event", name)
        read_piece(call, body, at_us)


def _nothing(call: Call, body: Fields) -> None:
    """Neither asked nor told anything."""


def _ask_embedding(call: Call, body: Fields) -> None:
    for name in ("content", "input"):
        read_prompts(call, body, name, role="input")
    for name in ("embd_normalize", "encoding_format", "dimensions"):
        call.parameter(name, body.raw(name))
    read_parameters(call, body)


def _read_embedding(call: Call, body: Fields) -> None:
    if ARRAY not in body and "embedding" not in body:  # OpenAI's form without a prefix
        OpenAIEmbeddings().read_answer(call, body, RequestHead("POST", "/embeddings"))
        return
    rows = body.objects(ARRAY) if ARRAY in body else [body]
    read_vectors(call, [row.raw("embedding") for row in rows])
    for row in rows:
        row.known("index")


def _ask_tokenize(call: Call, body: Fields) -> None:
    read_prompts(call, body, "content", role="input")
    for name in _TOKENIZE:
        call.parameter(name, body.raw(name))


def _read_tokenize(call: Call, body: Fields) -> None:
    call.details["tokens"] = len(body.array("tokens"))


def _ask_detokenize(call: Call, body: Fields) -> None:
    call.details["tokens"] = len(body.array("tokens"))


def _read_detokenize(call: Call, body: Fields) -> None:
    call.details["text"] = body.text("content")


def _ask_template(call: Call, body: Fields) -> None:
    read_messages(call, body)
    read_tools(call, body)
    read_response_format(call, body)
    read_parameters(call, body)
    call.parameter("add_generation_prompt", body.raw("add_generation_prompt"))


def _read_template(call: Call, body: Fields) -> None:
    call.details["prompt"] = body.text("prompt")


def _read_health(call: Call, body: Fields) -> None:
    call.details["status"] = body.text("status")
    body.known("slots_idle", "slots_processing")


def _read_slots(call: Call, body: Fields) -> None:
    read_slots(call, body, ARRAY)


def _read_metrics(call: Call, body: Fields) -> None:
    metrics: dict[str, Json] = {}
    for line in (body.text("metrics") or "").split("\n"):
        name, _, value = line.strip().rpartition(" ")
        if name and not line.startswith("#") and len(metrics) < _MAX_METRICS:
            metrics[name] = value
    call.details["metrics"] = metrics


_Read = Callable[[Call, Fields], None]
_NOTHING: tuple[Operation, _Read, _Read] = (Operation.OTHER, _nothing, _nothing)
_COMPLETION: tuple[Operation, _Read, _Read] = (Operation.COMPLETION, ask_completion, read_completion)
_EMBEDDING: tuple[Operation, _Read, _Read] = (Operation.EMBEDDING, _ask_embedding, _read_embedding)
_HEALTH: tuple[Operation, _Read, _Read] = (Operation.OTHER, _nothing, _read_health)
_ENDPOINTS: dict[tuple[str, str], tuple[Operation, _Read, _Read]] = {
    ("POST", "/completion"): _COMPLETION,
    ("POST", "/completions"): _COMPLETION,
    ("POST", "/infill"): (Operation.COMPLETION, ask_infill, read_completion),
    ("POST", "/embedding"): _EMBEDDING,
    ("POST", "/embeddings"): _EMBEDDING,
    ("POST", "/tokenize"): (Operation.TOKENIZE, _ask_tokenize, _read_tokenize),
    ("POST", "/detokenize"): (Operation.TOKENIZE, _ask_detokenize, _read_detokenize),
    ("POST", "/apply-template"): (Operation.TEMPLATE, _ask_template, _read_template),
    ("GET", "/props"): (Operation.CONFIG, _nothing, read_props),
    ("GET", "/slots"): (Operation.OTHER, _nothing, _read_slots),
    ("GET", "/metrics"): (Operation.OTHER, _nothing, _read_metrics),
    ("GET", "/health"): _HEALTH,
    ("GET", "/v1/health"): _HEALTH,
}
"""What is asked by each, how its request is read, and how its answer."""
