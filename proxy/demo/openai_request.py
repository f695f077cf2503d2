"""What requests to /v1 and /api/v0 say, read and checked.

Fields: D, chat-completions.md, tools.mdx, structured-output.md. Refusals in LM Studio's words: R, tracker#443
(messages), #669 (roles), #670 (tool_choice), #1752 (images); the words of all others are ours: U.
"""

import binascii
import json
import re
from base64 import b64decode
from collections.abc import Sequence
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import Instance
from proxy.demo.engine import Message
from proxy.demo.http import Failure
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import DRAFT_MODEL, STRUCTURED, Layer, effort_layer, layer_of

_ROLES = ("user", "assistant", "system", "tool")
_CHOICES = ("none", "auto", "required")
_DATA_URL = re.compile(r"data:image/([a-z+.-]+);base64,(.*)", re.DOTALL)
_JSON_TYPES = ((bool, "boolean"), (int | float, "number"), (dict | list, "object"))
"""By JavaScript's `typeof`."""


def text_field(body: dict[str, Any], name: str) -> str:
    """A field that is a string; "" where there is none."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise _invalid(name, "must be a string")
    return value or ""


def flag(body: dict[str, Any], name: str) -> bool:
    """A field that is true or false; False where there is none."""
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _invalid(name, "must be a boolean")
    return bool(value)


def object_field(body: dict[str, Any], name: str) -> dict[str, Any]:
    """A field that is an object; {} where there is none."""
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise _invalid(name, "must be an object")
    return value or {}


def ttl_of(body: dict[str, Any]) -> float | None:
    """`ttl`: seconds of idleness, if this request loads the model. D: ttl-and-auto-evict.md."""
    value = body.get("ttl")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 2**53:
        raise _invalid("ttl", "must be a number of seconds")
    return float(value)


def includes_usage(body: dict[str, Any]) -> bool:
    """`stream_options.include_usage`. D: api-changelog.md 0.3.18."""
    return flag(object_field(body, "stream_options"), "include_usage")


def _sampling_layer(body: dict[str, Any], behaviour: Behaviour) -> Layer:
    """The layer that the request's parameters make."""
    fields = dict(body)
    if not behaviour.min_p:
        fields.pop("min_p", None)
    if behaviour.max_completion_tokens and fields.get("max_tokens") is None:
        fields["max_tokens"] = fields.get("max_completion_tokens")
    return layer_of(fields, "openai") | effort_layer(text_field(body, "reasoning_effort") or None)


def request_layer(body: dict[str, Any], look: Lookalike) -> Layer:
    """All parameters of a request of /v1/chat/completions or /v1/completions."""
    return (
        _sampling_layer(body, look.behaviour)
        | _structured_layer(body.get("response_format"))
        | _draft_layer(body, look)
    )


def _draft_layer(body: dict[str, Any], look: Lookalike) -> Layer:
    """The layer that `draft_model` makes. D: api-changelog.md 0.3.10; U: the words.

    Raises:
        Failure: the engine has no speculative decoding, or there is no such model.
    """
    name = text_field(body, "draft_model")
    if not name:
        return {}
    model = look.catalog.model(name)
    if not look.engine.drafts or model is None:
        why = "there is no such model" if look.engine.drafts else "speculative decoding is not supported"
        raise Failure(400, f'Draft model "{name}" cannot be used: {why}', param="draft_model")
    return {DRAFT_MODEL: model.key}


def messages_of(body: dict[str, Any], behaviour: Behaviour) -> list[Message]:
    """The request's messages as templates take them.

    Raises:
        Failure: they are missing or malformed.
    """
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise Failure(400, "'messages' field is required", code="missing_required_parameter", param="messages")
    return [_message(one, behaviour) for one in body["messages"]]


def _message(given: Any, behaviour: Behaviour) -> Message:
    role = given.get("role") if isinstance(given, dict) else None
    if role == "developer" and behaviour.developer_role:
        role = "system"
    if not isinstance(role, str) or role not in _ROLES:
        raise _bad_messages(
            f"'messages' array must only contain objects with a 'role' field that is in [{', '.join(_ROLES)}]. "
            f"Got '{role if isinstance(role, str) else json.dumps(role)}'"
        )
    text, images = content_of(given.get("content"), behaviour)
    message: Message = {"role": role, "content": text}
    if images:
        message["images"] = images
    if given.get("tool_calls") is not None:
        message["tool_calls"] = _tool_calls(given["tool_calls"])
    for name in ("tool_call_id", "name"):
        if given.get(name) is not None:
            message[name] = text_field(given, name)
    return message


def content_of(content: Any, behaviour: Behaviour) -> tuple[str, list[str]]:
    """A message's text and its images, from a string or from parts."""
    if content is None or isinstance(content, str):
        return content or "", []
    if not isinstance(content, list):
        raise _bad_messages("'content' must be a string or an array of content parts")
    texts, images = [], []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            texts.append(text_field(part, "text"))
        elif kind == "image_url":
            images.append(_image(part.get("image_url"), behaviour))
        else:
            raise _bad_messages(f"Invalid content part type: {json.dumps(kind)}")
    return "".join(texts), images


def _image(given: Any, behaviour: Behaviour) -> str:
    """The data URL of an image. R: WebP is refused in the same words as what is no data URL."""
    url = given.get("url") if isinstance(given, dict) else given
    match = _DATA_URL.fullmatch(url) if isinstance(url, str) else None
    if match and (match[1] in ("png", "jpeg", "jpg") or (match[1] == "webp" and behaviour.webp_images)):
        try:
            b64decode(match[2], validate=True)
        except (binascii.Error, ValueError):
            pass  # as below
        else:
            return match[0]
    raise _bad_messages("'url' field must be a base64 encoded image.")


def check_images(messages: Sequence[Message], instance: Instance) -> None:
    """Refuse images for a model that has no eyes. U: the words."""
    if not instance.model.vision and any(message.get("images") for message in messages):
        raise Failure(400, f"Model {instance.identifier} does not support images. Please use a model that does.")


def _tool_calls(given: Any) -> list[dict[str, Any]]:
    """Calls that the assistant made earlier, as templates take them: their arguments are an object, not its text."""
    calls = []
    for one in given if isinstance(given, list) else [None]:
        function = one.get("function") if isinstance(one, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str):
            raise _bad_messages("'tool_calls' must be an array of objects with a 'function' that has a 'name'")
        arguments = function.get("arguments") or "{}"
        try:
            parsed = json.loads(arguments) if isinstance(arguments, str) else arguments
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            raise _bad_messages(f"The 'arguments' of the tool call '{name}' must be a JSON object")
        calls.append({**(one or {}), "function": {**function, "arguments": parsed}})
    return calls


def tools_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The functions that are offered."""
    tools = body.get("tools")
    if tools is None:
        return []
    for one in tools if isinstance(tools, list) else [None]:
        function = one.get("function") if isinstance(one, dict) and one.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _invalid(
                "tools", "must be an array of objects of type 'function' with a 'function' that has a 'name'"
            )
        if not isinstance(function.get("parameters") or {}, dict):
            raise _invalid("tools", f"has a function '{function['name']}' whose 'parameters' are no JSON schema")
    return list(tools)


def tool_choice_of(body: dict[str, Any]) -> str:
    """`tool_choice`; R: the object form is refused."""
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if not isinstance(choice, str) or choice not in _CHOICES:
        kind = next((name for kind, name in _JSON_TYPES if isinstance(choice, kind)), str(choice))
        raise Failure(400, f"Invalid tool_choice type: '{kind}'. Supported string values: {', '.join(_CHOICES)}")
    return choice


def _structured_layer(response_format: Any) -> Layer:
    """`response_format` as a layer; R: the refusal of `json_object`."""
    if response_format is None:
        return {}
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind not in ("json_schema", "text"):
        raise Failure(400, "'response_format.type' must be 'json_schema' or 'text'", param="response_format")
    if kind == "text":
        return {}
    schema = object_field(object_field(response_format, "json_schema"), "schema")
    return {STRUCTURED: {"type": "json", "jsonSchema": schema}}


def _invalid(name: str, words: str) -> Failure:
    return Failure(400, f"'{name}' {words}", code="invalid_type", param=name)


def _bad_messages(words: str) -> Failure:
    return Failure(400, words, param="messages")
