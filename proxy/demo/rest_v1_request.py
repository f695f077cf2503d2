"""The request of POST /api/v1/chat.

D, chat.md. Text items are of type `text`, not `message`, and nothing but text and images is taken: R, docs#253, which
shows the refusal's code, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.demo import rest_v1_fields as fields
from proxy.demo.engine import Message, Model
from proxy.demo.http import Failure
from proxy.demo.lookalike import Lookalike
from proxy.demo.mcp_tools import McpServer
from proxy.demo.parameters import Layer, effort_layer, layer_of

REASONING = ("off", "low", "medium", "high", "on")
REASONING_OPTIONS = ("off", "on")
"""What a model that reasons lets requests choose. D: list.md, of one such model; others have levels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """A request, checked."""

    model: str
    text: str
    images: tuple[str, ...]
    """Data URLs."""
    system_prompt: str | None
    servers: tuple[McpServer, ...]
    is_streamed: bool
    layer: Layer
    """Its parameters."""
    reasoning: str | None
    context_length: int | None
    store: bool
    previous_response_id: str | None

    def messages(self, look: Lookalike) -> list[Message]:
        """The chat with this request's message; a new system prompt replaces the former one (U).

        Raises:
            Failure: there is no such chat.
        """
        messages: list[Message] = []
        if self.previous_response_id is not None:
            messages += self._previous(look, self.previous_response_id)
        if self.system_prompt is not None:
            if messages and messages[0]["role"] == "system":
                del messages[0]
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        message: Message = {"role": "user", "content": self.text}
        if self.images:
            message["images"] = list(self.images)
        return [*messages, message]

    def _previous(self, look: Lookalike, response_id: str) -> list[Message]:
        if response_id not in look.chats:
            # The code: R for /v1/responses, tracker#1188; U here.
            words = f"Previous response with id '{response_id}' not found."
            raise Failure(404, words, code="previous_response_not_found", param="previous_response_id")
        if self.system_prompt is not None and look.behaviour.system_prompt_fails_with_previous:
            raise Failure(500, "Internal server error", type_="internal_error")
        return look.chats[response_id]

    def check(self, model: Model) -> None:
        """Refuse what the model cannot do. D: reasoning; U: the words.

        Raises:
            Failure: it has no eyes, or does not reason like that.
        """
        if self.images and not model.vision:
            raise Failure(400, f"Model {model.key} does not support image input", param="input")
        if self.reasoning is not None and (not model.reasoning or self.reasoning not in REASONING_OPTIONS):
            words = f"Model {model.key} does not support the reasoning setting '{self.reasoning}'"
            if model.reasoning:
                words += f". Supported settings: {', '.join(REASONING_OPTIONS)}"
            raise Failure(400, words, param="reasoning")


def read_chat(body: Mapping[str, Any]) -> ChatRequest:
    """A request's body.

    Raises:
        Failure: something is missing, or is not what it should be.
    """
    fields.required(body, "model")
    text, images = _input(fields.required(body, "input"))
    for name in ("temperature", "top_p", "min_p"):
        fields.number(body, name, 0, 1)
    fields.integer(body, "top_k", 0)
    fields.number(body, "repeat_penalty", 0)
    fields.integer(body, "max_output_tokens", 1)
    store = fields.boolean(body, "store")
    reasoning = fields.choice(body, "reasoning", REASONING)
    return ChatRequest(
        model=fields.string(body, "model") or "",
        text=text,
        images=images,
        system_prompt=fields.string(body, "system_prompt"),
        servers=_servers(body.get("integrations")),
        is_streamed=bool(fields.boolean(body, "stream")),
        layer=layer_of(body, "v1") | effort_layer(reasoning),
        reasoning=reasoning,
        context_length=fields.integer(body, "context_length", 1),
        store=store is None or store,
        previous_response_id=fields.string(body, "previous_response_id"),
    )


def _input(value: Any) -> tuple[str, tuple[str, ...]]:
    """Text and images; texts beside each other are one message (U)."""
    if isinstance(value, str):
        return value, ()
    texts: list[str] = []
    images: list[str] = []
    for one in value if isinstance(value, list) and value else (None,):
        item: dict[str, Any] = one if isinstance(one, dict) else {}
        kind = item.get("type")
        content = item.get({"text": "content", "image": "data_url"}.get(str(kind), ""))
        if not isinstance(content, str) or (kind == "image" and not content.startswith("data:image/")):
            raise Failure(
                400,
                "Invalid input: expected a string, or an array of items "
                '{"type": "text", "content": "..."} and {"type": "image", "data_url": "data:image/...;base64,..."}',
                code="invalid_union",
                param="input",
            )
        (texts if kind == "text" else images).append(content)
    return "".join(texts), tuple(images)


def _servers(integrations: Any) -> tuple[McpServer, ...]:
    """The MCP servers of a request. D: chat.md."""
    if integrations is None:
        return ()
    if not isinstance(integrations, list):
        raise Failure(400, '"integrations" must be an array', code="invalid_type", param="integrations")
    return tuple(_server(one) for one in integrations)


def _server(one: Any) -> McpServer:
    if isinstance(one, str):
        one = {"type": "plugin", "id": one}
    if isinstance(one, dict) and _fits(one):
        allowed = one.get("allowed_tools")
        tools = None if allowed is None else tuple(allowed)
        if one["type"] == "plugin":
            return McpServer(one["id"].removeprefix("mcp/"), allowed_tools=tools)
        return McpServer(one["server_label"], one["server_url"], one.get("headers") or {}, tools)
    raise Failure(
        400,
        "Invalid integration: expected a plugin id, or an object of type 'plugin' with 'id', or of type "
        "'ephemeral_mcp' with 'server_label' and 'server_url'",
        code="invalid_union",
        param="integrations",
    )


def _fits(one: Mapping[str, Any]) -> bool:
    """Whether an integration has the form of its type."""
    needed = {"plugin": ("id",), "ephemeral_mcp": ("server_label", "server_url")}.get(str(one.get("type")))
    headers, allowed = one.get("headers"), one.get("allowed_tools")
    return (
        needed is not None
        and all(isinstance(one.get(name), str) and one[name] for name in needed)
        and (headers is None or (isinstance(headers, dict) and all(isinstance(each, str) for each in headers.values())))
        and (allowed is None or (isinstance(allowed, list) and all(isinstance(each, str) for each in allowed)))
    )
