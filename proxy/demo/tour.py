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

    def body(self, model: str) -> dict[str, object]:
        """The body to send; the same request gives the same answer, and a short one."""
        stream = {"stream": True} if self.is_streamed else {}
        messages = [{"role": "user", "content": self.content}]
        return {"model": model, "messages": messages, "temperature": 0, "max_tokens": 80, **stream}


REQUESTS = (Request("hi"), Request(RHYME), Request(RHYME, is_streamed=True))


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    text: str
    output_tokens: int | None
    """As llama.cpp counts them; None where it does not say."""
    tokens_per_second: float | None
    """As llama.cpp reports it: decoding alone."""
    refusal: str | None = None
    """The status and what the server said; None for an answer."""


def ask(url: str, body: dict[str, object], on_text: Callable[[str], None]) -> Answer:
    """Send one chat request to the server at `url`; `on_text` gets the text as far as it has come.

    Raises:
        OSError, http.client.HTTPException: the connection failed or broke off.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    try:
        connection.request("POST", CHAT_PATH, json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            said = response.read().decode(errors="replace")
            return Answer("", None, None, f"{response.status} {response.reason}: {said}")
        if not body.get("stream"):
            answer = json.loads(response.read())
            text = answer["choices"][0]["message"].get("content") or ""
            on_text(text)
            return _answer(text, answer)
        text = ""
        last: dict[str, Any] = {}
        for line in response:  # llama.cpp writes an event as one line `data: JSON`
            data = line.partition(b"data:")[2].strip()
            if data and data != b"[DONE]":
                last = json.loads(data)
                for choice in last.get("choices", ()):
                    text += choice["delta"].get("content") or ""
                on_text(text)
        return _answer(text, last)
    finally:
        connection.close()


def _answer(text: str, last: dict[str, Any]) -> Answer:
    timings = last.get("timings", {})
    return Answer(text, timings.get("predicted_n"), timings.get("predicted_per_second"))
