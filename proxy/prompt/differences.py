"""What changed from layer to layer of a call, in words: request, forwarded, prompt, the engine's output, answer.

Each function compares two layers and gives sentences, each of which is true of what is given: what cannot be told is
said to be so, and where nothing changed that is said. Positions of messages count from 0, as in the request's JSON;
characters of a text count from 1.
"""

from proxy.prompt.answer_differences import answer_differences
from proxy.prompt.origins import MessageFate, PromptSpan
from proxy.prompt.prompt_differences import prompt_differences, source_differences
from proxy.prompt.request_differences import forwarded_differences, head_differences, request_differences

__all__ = [
    "MessageFate",
    "PromptSpan",
    "answer_differences",
    "forwarded_differences",
    "head_differences",
    "prompt_differences",
    "request_differences",
    "source_differences",
]
