"""Asks a server what its template makes of a call's messages, without generating anything.

Facts (lmstudio-api.md 5.8; llama.cpp's server README)
------------------------------------------------------
* LM Studio: `applyPromptTemplate` over the WebSocket /llm, with the history in the SDK's form and the tools in
  `opts`. The model must be loaded. Pictures would have to be uploaded first: they are left out.
* llama.cpp: `POST /apply-template` takes the body of a chat completion, whole, and answers `{"prompt": ...}`.
* Both answer as of now: another model, template or setting may have been in force when the call was made.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from proxy.meaning import Message, Tool
from proxy.prompt.greeting import is_lm_studio
from proxy.prompt.sdk_socket import SdkRefusedError, call, open_socket
from proxy.prompt.template_messages import sdk_history, template_messages, template_tools

APPLY_RPC, APPLY_PATH = "applyPromptTemplate", "/apply-template"


class CannotAskError(Exception):
    """The server applies no template when it is asked, or not to this; the message says what it said."""

    def __init__(self, detail: str, *, is_ever: bool = False) -> None:
        """`is_ever`: the server knows no such request, whatever is asked."""
        super().__init__(detail)
        self.is_ever = is_ever


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, as the server rendered it."""

    text: str
    how: str
    """`applyPromptTemplate` or `/apply-template`."""


async def ask_prompt(
    session: aiohttp.ClientSession,
    url: str,
    *,
    model: str,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    body: bytes | None = None,
    credentials: tuple[str, str] | None = None,
) -> Asked:
    """The prompt that the template of the server at `url` makes of messages.

    Args:
        session: has the limits of time.
        url: the server's, without a path.
        model: what the server knows the model by.
        messages: the call's, in order.
        tools: those that it offered.
        body: of the chat completion, where the call was one: what a template is told besides is in it.
        credentials: the two halves of LM Studio's API token; None: a guest's.

    Raises:
        CannotAskError: the server does not do it, or refuses.
        OSError, TimeoutError, aiohttp.ClientError: it cannot be reached.
    """
    if await is_lm_studio(session, url):
        parameter = {
            "specifier": {"type": "query", "query": {"identifier": model}},
            "history": sdk_history(messages),
            "predictionConfigStack": {"layers": []},
            "opts": {"omitBosToken": False} | ({"toolDefinitions": template_tools(tools)} if tools else {}),
        }
        return await _by_rpc(session, url, parameter, credentials)
    return await _by_http(session, url, body or json.dumps(_openai_body(model, messages, tools)).encode())


async def _by_rpc(
    session: aiohttp.ClientSession, url: str, parameter: dict[str, Any], credentials: tuple[str, str] | None
) -> Asked:
    try:
        async with open_socket(session, url, "llm", credentials) as socket:
            result = await call(socket, APPLY_RPC, parameter)
    except SdkRefusedError as error:
        raise CannotAskError(str(error)) from error
    text = result.get("formatted") if isinstance(result, dict) else None
    if not isinstance(text, str):
        raise CannotAskError(f"{APPLY_RPC}: {json.dumps(result)[:200]}")
    return Asked(text, APPLY_RPC)


async def _by_http(session: aiohttp.ClientSession, url: str, body: bytes) -> Asked:
    async with session.post(f"{url}{APPLY_PATH}", data=body, headers={"Content-Type": "application/json"}) as response:
        raw = await response.read()
        try:
            answer: Any = json.loads(raw)
        except ValueError:
            answer = None
        text = answer.get("prompt") if isinstance(answer, dict) and response.status == 200 else None
        if not isinstance(text, str):
            said = raw[:200].decode(errors="replace")
            is_refused = response.status in (400, 500)  # the template's own word, of this call
            raise CannotAskError(f"{APPLY_PATH}: status {response.status}: {said}", is_ever=not is_refused)
        return Asked(text, APPLY_PATH)


def _openai_body(model: str, messages: Sequence[Message], tools: Sequence[Tool]) -> dict[str, Any]:
    """The call as a chat completion; there, arguments of tool calls are text."""
    sent = template_messages(messages)
    for message in sent:
        for one in message.get("tool_calls", ()):
            arguments = one["function"]["arguments"]
            one["function"]["arguments"] = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"model": model, "messages": sent} | ({"tools": template_tools(tools)} if tools else {})
