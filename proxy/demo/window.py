"""Chats that somebody types into an imagined window of LM Studio: in its log, but in nobody's HTTP exchange.

T, digest 5.10: the application's own chats appear in the log stream like everybody's. The way in from another process
is the demo's own (`proxy-log demo --chat`): a path that LM Studio cannot have, only with the switch `window`.
"""

from contextlib import aclosing

from aiohttp import web

from proxy.demo.http import Failure, Request, Route, answer
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import OVERFLOW, SYSTEM_PROMPT
from proxy.demo.prediction import Ask, Done


async def type_chat(look: Lookalike, text: str) -> Done:
    """Type a message into a new chat, and let the model answer to its end.

    The loaded model answers; if there is none, the first one is loaded for it.

    Raises:
        NotFoundError: there is no model.
        EngineError: it cannot be loaded, or failed.
    """
    instance, _ = await look.catalog.get("", is_explicit=True)
    defaults = look.defaults_of(instance.model)
    system_prompt = defaults.get(SYSTEM_PROMPT)
    messages = [{"role": "user", "content": text}]
    if system_prompt:
        messages.insert(0, {"role": "system", "content": system_prompt})
    policy = defaults.get(OVERFLOW) or look.behaviour.sdk_overflow
    prediction = look.predict(instance, Ask(messages=messages, overflow=policy, ignores_server_session=True))
    async with aclosing(prediction.events()) as events:
        async for event in events:
            if isinstance(event, Done):
                return event
    raise AssertionError("a prediction ends with Done or raises")


async def _type(look: Lookalike, request: Request) -> web.StreamResponse:
    """`{"text"}`; answers when the model has."""
    text = request.json().get("text")
    if not isinstance(text, str) or not text:
        raise Failure(400, "'text' must be a string that is not empty", param="text")
    done = await type_chat(look, text)
    return answer({"text": done.text, "reasoning": done.reasoning, "stats": done.stats.sdk()})


ROUTES = (Route("POST", "/_demo/window", _type, switch="window"),)
