"""What is given to a model as it stands: raw prompts to go on from, texts to embed or to cut into tokens.

Facts (OpenAI's completions and embeddings; llama.cpp's tools/server/README.md at 00dc805, POST /completion)
------------------------------------------------------------------------------------------------------------
* One text; one array of token numbers, in which llama.cpp also takes texts; or an array of such prompts, each with an
  answer of its own.
* llama.cpp takes objects too: `prompt_string` with `multimodal_data` (base64), and to embed a `content` of parts.
"""

from proxy.meaning import Json, Message, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields, encode_json
from proxy.read.openai_messages import data_part, parts_of


def read_prompts(call: Call, body: Fields, name: str, *, role: str = "prompt") -> int:
    """The prompts in a field of the request become messages; how many there are."""
    value = body.raw(name)
    if value is None:
        return 0
    if not isinstance(value, list) or any(isinstance(one, int | float) for one in value):
        call.messages.append(_message(value, name, role))
        return 1
    call.messages += [_message(one, f"{name}[{index}]", role) for index, one in enumerate(value)]
    return len(value)


def _message(value: Json, path: str, role: str) -> Message:
    parts = tuple(_parts(value))
    return Message(role, parts, path=path if isinstance(value, str) and parts else None)


def _parts(value: Json) -> list[Part]:
    if isinstance(value, str):
        return parts_of(value)
    if isinstance(value, dict):
        text, data = value.get("prompt_string"), value.get("multimodal_data")
        if isinstance(text, str):
            media = data if isinstance(data, list) else []
            return parts_of(text) + [data_part(PartKind.FILE, one, None) for one in media if isinstance(one, str)]
        if "content" in value:
            return parts_of(value["content"])
    return [Part(PartKind.OTHER, encode_json(value))]
