"""POST /v1/completions: text goes on as it is, without a template; /api/v0 adds to it.

Request and answer: D, completions.mdx and endpoints.mdx. Stream: the same object with pieces of text, U.
"""

from typing import Any

from aiohttp import web

from proxy.demo import output_parser as out
from proxy.demo.http import Failure, Request, Route
from proxy.demo.lookalike import Lookalike
from proxy.demo.openai_answer import Additions, Talk, V1Additions, finish_reason
from proxy.demo.openai_request import (
    flag,
    includes_usage,
    request_layer,
    text_field,
    ttl_of,
)
from proxy.demo.parameters import REASONING_PARSING
from proxy.demo.prediction import Ask, Done, Event


async def complete(look: Lookalike, request: Request, additions: Additions | None = None) -> web.StreamResponse:
    """Answer a completion request; `additions` are another surface's."""
    body = request.json()
    prompt = _prompt(body)
    ask = Ask(
        prompt=prompt,
        layer=request_layer(body, look)
        | {REASONING_PARSING: {"enabled": False}},  # raw text: tags in it are text like any other
        preset=text_field(body, "preset"),
        overflow=look.behaviour.overflow,
        is_streamed=flag(body, "stream"),
    )
    usage = includes_usage(body)
    instance, _ = await look.catalog.get(text_field(body, "model"), ttl_s=ttl_of(body))
    return await _Completion(look, instance, additions or V1Additions()).answer(request, ask, includes_usage=usage)


def _prompt(body: dict[str, Any]) -> str:
    """The text. U: the words; that one text in an array is taken, several are not."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if prompt is None:
        raise Failure(400, "'prompt' field is required", code="missing_required_parameter", param="prompt")
    if not isinstance(prompt, str):
        raise Failure(400, "'prompt' field must be a string", code="invalid_type", param="prompt")
    return prompt


class _Completion(Talk):
    id_prefix = "cmpl"
    object = chunk_object = "text_completion"

    def choice(self, done: Done, written: str) -> dict[str, Any]:
        return _choice(written, finish_reason(done))

    def news(self, event: Event) -> dict[str, Any] | None:
        return _choice(event.content, None) if isinstance(event, out.Text) and event.content else None

    def last(self, finish: str) -> dict[str, Any]:
        return _choice("", finish)


def _choice(text: str, finish: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}


FAMILY = "OpenAI"
ROUTES = (Route("POST", "/v1/completions", complete),)
