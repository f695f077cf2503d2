"""The tour: a course's first requests, sent through the proxy.

With the standard library's HTTP client, so that the demo shows the wire and no SDK, and needs none.
"""

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

CHAT_PATH = "/v1/chat/completions"
V0_CHAT_PATH = "/api/v0/chat/completions"
"""LM Studio's own: the same, with statistics."""
RHYME = "Continue the rhyme:\n" + "\n".join(
    f"{count} went out to play." for count in ("One elephant", "Two elephants", "Three elephants", "Four elephants")
)
"""A counting rhyme: it has no end, so a longer one finds the end of the context window."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the tour."""

    content: str
    """What the user says."""
    is_streamed: bool = False
    path: str = CHAT_PATH

    def body(self, model: str) -> dict[str, object]:
        """The body to send; the same request gives the same answer, and a short one."""
        # LM Studio counts the tokens of a stream only for those who ask.
        stream = {"stream": True, "stream_options": {"include_usage": True}} if self.is_streamed else {}
        messages = [{"role": "user", "content": self.content}]
        return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 80, **stream}


REQUESTS = (Request("hi"), Request(RHYME), Request(RHYME, is_streamed=True), Request(RHYME, path=V0_CHAT_PATH))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    text: str
    output_tokens: int | None = None
    """As the answer's `usage` says; None where it does not."""
    tokens_per_second: float | None = None
    """As the answer's `stats` say, which only LM Studio's own APIs fill."""
    refusal: str | None = None
    """The status and what the server said; None for an answer."""


def ask(
    url: str,
    body: dict[str, object],
    on_text: Callable[[str], None],
    *,
    path: str = CHAT_PATH,
    token: str | None = None,
) -> Answer:
    """Send one chat request to the server at `url`; `on_text` gets the text as far as it has come.

    Raises:
        OSError, http.client.HTTPException: the connection failed or broke off.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    head = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        connection.request("POST", path, json.dumps(body), head)
        response = connection.getresponse()
        if response.status != 200:
            said = response.read().decode(errors="replace")
            return Answer("", refusal=f"{response.status} {response.reason}: {said}")
        if body.get("stream"):
            return _read_stream(response, on_text)
        answer = json.loads(response.read())
        if "choices" not in answer:  # LM Studio answers with 200 what it does not know
            return Answer("", refusal=f"{response.status} {response.reason}: {json.dumps(answer)}")
        text = answer["choices"][0]["message"].get("content") or ""
        on_text(text)
        return _answer(text, answer)
    finally:
        connection.close()


def _read_stream(response: http.client.HTTPResponse, on_text: Callable[[str], None]) -> Answer:
    text = ""
    numbers: dict[str, Any] = {}
    for line in response:  # every event is one line `data: JSON`, here and at LM Studio
        data = line.partition(b"data:")[2].strip()
        if not data or data == b"[DONE]":
            continue
        event = json.loads(data)
        if "error" in event:
            return Answer(text, refusal=f"an error in the stream: {event['error'].get('message')}")
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
        on_text(text)
        numbers |= {name: event[name] for name in ("usage", "stats") if event.get(name)}
    return _answer(text, numbers)


def _answer(text: str, numbers: dict[str, Any]) -> Answer:
    usage, stats = numbers.get("usage") or {}, numbers.get("stats") or {}
    return Answer(text, usage.get("completion_tokens"), stats.get("tokens_per_second"))
