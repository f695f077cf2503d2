"""OpenAI's embeddings, as LM Studio, llama.cpp and others speak them.

Facts (lmstudio-api.md 2.6, 4.3; clients.md 1.2, 2)
---------------------------------------------------
* `input` is a text or an array of texts; OpenAI and llama.cpp also take token numbers, llama.cpp parts of content.
* OpenAI's clients ask for base64 and take arrays of numbers too; what came is what is told, not what was asked.
* llama.cpp repeats `encoding_format` in each row of base64.
* LM Studio answers with the variant's name (`…@q4_k_m`), and in some versions with zeros as `usage`: kept as reported.
* A bare `/embeddings` is llama.cpp's and `/api/embeddings` Ollama's, so they are claimed here only if nobody else does.
"""

from proxy.meaning import Operation
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.openai_fields import read_parameters, read_stats, read_usage
from proxy.read.prompts import read_prompts
from proxy.read.reader import Claim, RequestHead
from proxy.read.vectors import read_vectors

_PARAMETERS = ("encoding_format", "dimensions")
_KNOWN = ("object", "created", "id", "system_fingerprint")


class OpenAIEmbeddings:
    """`POST …/embeddings`."""

    name = "openai_embeddings"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Whatever the prefix is, if it is nobody's own."""
        if head.method != "POST" or not head.path.endswith("/embeddings"):
            return Claim.NO
        return Claim.MAYBE if head.path in ("/embeddings", "/api/embeddings") else Claim.YES

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.EMBEDDING

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_asked = body.text("model")
        read_prompts(call, body, "input", role="input")
        for name in _PARAMETERS:
            call.parameter(name, body.raw(name))
        read_parameters(call, body)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        call.model_answered = body.text("model")
        rows = body.objects("data")
        read_vectors(call, [row.raw("embedding") for row in rows])
        for row in rows:
            row.known("object", "index", "encoding_format")
        read_usage(call, body.object("usage"))
        read_stats(call, body)
        body.known(*_KNOWN)

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`: embeddings have no stream."""
        call.problem("unknown_event", name)
