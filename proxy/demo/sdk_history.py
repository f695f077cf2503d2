"""The SDK's chat history: messages made of parts, to messages as templates take them, and back.

S, lmstudio-js packages/lms-shared-types/src/ChatHistoryData.ts. Images are uploaded first, the history holds their
identifiers. What LM Studio does with other files here is not known (U): text is put before the message, the rest is
refused.
"""

import base64
import mimetypes
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.demo.catalog import Instance
from proxy.demo.engine import Message
from proxy.demo.sdk_clients import UploadedFile
from proxy.demo.sdk_endpoints import Json, Parameter
from proxy.demo.sdk_errors import SdkError


class TextPart(Parameter):
    """Text."""

    type: Literal["text"]
    text: str


class FilePart(Parameter):
    """A file that was uploaded."""

    type: Literal["file"]
    name: str
    identifier: str
    size_bytes: int
    file_type: Literal["image", "text/plain", "application/pdf", "application/word", "text/other", "unknown"]


class ToolCallRequest(Parameter):
    """A call that the model made."""

    id: str | None = None
    type: Literal["function"]
    name: str
    arguments: Json | None = None


class ToolCallRequestPart(Parameter):
    """A call, as part of a message."""

    type: Literal["toolCallRequest"]
    tool_call_request: ToolCallRequest


class ToolCallResultPart(Parameter):
    """What the tool gave."""

    type: Literal["toolCallResult"]
    content: str
    tool_call_id: str | None = None
    name: str | None = None


_Said = Annotated[TextPart | FilePart, Field(discriminator="type")]


class SaidMessage(Parameter):
    """A user's or the system's."""

    role: Literal["user", "system"]
    content: list[_Said]


class AssistantMessage(Parameter):
    """The model's."""

    role: Literal["assistant"]
    content: list[Annotated[TextPart | FilePart | ToolCallRequestPart, Field(discriminator="type")]]


class ToolMessage(Parameter):
    """Results of tools."""

    role: Literal["tool"]
    content: list[ToolCallResultPart]


class History(Parameter):
    """A chat."""

    messages: list[Annotated[SaidMessage | AssistantMessage | ToolMessage, Field(discriminator="role")]]


def messages_of(history: History, files: Mapping[str, UploadedFile]) -> list[Message]:
    """The messages as templates take them; `files` are the client's.

    Raises:
        SdkError: a file is not there, or nothing can be done with it.
    """
    messages: list[Message] = []
    for one in history.messages:
        if isinstance(one, ToolMessage):
            messages += [_result(part) for part in one.content]
        else:
            messages.append(_message(one, files))
    return messages


def _result(part: ToolCallResultPart) -> Message:
    message: Message = {"role": "tool", "content": part.content}
    if part.tool_call_id is not None:
        message["tool_call_id"] = part.tool_call_id
    if part.name is not None:
        message["name"] = part.name
    return message


def _message(one: SaidMessage | AssistantMessage, files: Mapping[str, UploadedFile]) -> Message:
    texts, images, calls = [], [], []
    for part in one.content:
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, ToolCallRequestPart):
            calls.append(_call(part.tool_call_request))
        else:
            file = _file(part, files)
            if file.type == "image":
                images.append(data_url(file))
            else:
                texts.append(f"{file.name}:\n{text_of(file)}\n\n")
    message: Message = {"role": one.role, "content": "".join(texts)}
    if images:
        message["images"] = images
    if calls:
        message["tool_calls"] = calls
    return message


def _call(request: ToolCallRequest) -> Json:
    function = {"name": request.name, "arguments": request.arguments or {}}
    return {**({"id": request.id} if request.id is not None else {}), "type": "function", "function": function}


def _file(part: FilePart, files: Mapping[str, UploadedFile]) -> UploadedFile:
    if part.identifier not in files:
        raise SdkError(f'Cannot find the file "{part.name}"', cause="This client has not uploaded it, or was away.")
    return files[part.identifier]


def text_of(file: UploadedFile) -> str:
    """A text file's text.

    Raises:
        SdkError: it is none.
    """
    if not file.type.startswith("text/"):
        raise SdkError(f'Cannot read the file "{file.name}"', cause=f"Its type is {file.type}; this reads text only.")
    return file.content.decode("utf-8", "replace")


def data_url(file: UploadedFile) -> str:
    """A file as engines take images."""
    kind = mimetypes.guess_type(file.name)[0] or "image/png"
    return f"data:{kind};base64,{base64.b64encode(file.content).decode()}"


def check_images(messages: Sequence[Message], instance: Instance) -> None:
    """Refuse images for a model that has no eyes.

    Raises:
        SdkError: U: the words.
    """
    if not instance.model.vision and any(message.get("images") for message in messages):
        raise SdkError(
            f"Model {instance.identifier} does not support images", suggestion="Please use a model that does."
        )


def history_of(messages: Sequence[Message]) -> dict[str, Any]:
    """Messages as the SDK writes them, text and tools; results of one turn stand in one message."""
    found: list[Json] = []
    for message in messages:
        if message["role"] != "tool":
            calls = [
                {"type": "toolCallRequest", "toolCallRequest": _request(call)}
                for call in message.get("tool_calls") or ()
            ]
            texts = [{"type": "text", "text": message["content"]}] if message.get("content") or not calls else []
            found.append({"role": message["role"], "content": texts + calls})
            continue
        names = {"toolCallId": message.get("tool_call_id"), "name": message.get("name")}
        part = {"type": "toolCallResult", "content": message["content"]}
        part |= {name: value for name, value in names.items() if value is not None}
        if found and found[-1]["role"] == "tool":
            found[-1]["content"].append(part)
        else:
            found.append({"role": "tool", "content": [part]})
    return {"messages": found}


def _request(call: Json) -> Json:
    function = call["function"]
    request = {"id": call.get("id"), "type": "function", "name": function["name"], "arguments": function["arguments"]}
    return {name: value for name, value in request.items() if value is not None}
