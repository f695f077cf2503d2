"""Which reader reads an exchange: those that other packages bring come first, then the built-in ones in their order."""

import logging
from collections.abc import Iterable

from proxy.plugins import load_entry_points
from proxy.read.anthropic_messages import AnthropicMessages
from proxy.read.discovery import Discovery
from proxy.read.http_session import HttpReader
from proxy.read.llamacpp import LlamaCpp
from proxy.read.lmstudio_log import LMStudioLog
from proxy.read.lmstudio_sdk import LMStudioSdk
from proxy.read.lmstudio_v0 import LMStudioV0
from proxy.read.lmstudio_v1_chat import LMStudioV1Chat
from proxy.read.lmstudio_v1_models import LMStudioV1Models
from proxy.read.ollama import Ollama
from proxy.read.openai_chat import OpenAIChat
from proxy.read.openai_completions import OpenAICompletions
from proxy.read.openai_embeddings import OpenAIEmbeddings
from proxy.read.openai_models import OpenAIModels
from proxy.read.openai_responses import OpenAIResponses
from proxy.read.reader import Claim, Reader, RequestHead
from proxy.read.unknown import Unknown

log = logging.getLogger(__name__)

ENTRY_POINTS = "proxy_log.readers"
BUILT_IN: tuple[Reader, ...] = (
    LMStudioLog(),
    LMStudioSdk(),
    HttpReader(LMStudioV0()),
    HttpReader(LMStudioV1Chat()),
    HttpReader(LMStudioV1Models()),
    HttpReader(OpenAIChat()),
    HttpReader(OpenAIResponses()),
    HttpReader(AnthropicMessages()),
    HttpReader(OpenAICompletions()),
    HttpReader(OpenAIEmbeddings()),
    HttpReader(OpenAIModels()),
    HttpReader(Discovery()),
    HttpReader(LlamaCpp()),
    HttpReader(Ollama()),
    Unknown(),
)
"""The first that says yes reads it; if none does, the first that says maybe; `unknown`, the last, always does."""


class Registry:
    """All readers."""

    def __init__(self, readers: Iterable[Reader] | None = None) -> None:
        """The built-in ones and the plug-ins', unless others are named."""
        self.readers = tuple(readers) if readers is not None else (*load_entry_points(ENTRY_POINTS), *BUILT_IN)

    def choose(self, head: RequestHead) -> Reader | None:
        """The reader of an exchange."""
        maybe = None
        for reader in self.readers:
            try:
                claim = reader.claims(head)
            except Exception:  # a plug-in's bug must not keep others from reading
                log.exception("the reader %s cannot say whether %s %s is its own", reader.name, head.method, head.path)
                continue
            if claim is Claim.YES:
                return reader
            if claim is Claim.MAYBE and maybe is None:
                maybe = reader
        return maybe

    @property
    def versions(self) -> dict[str, int]:
        """Name to version."""
        return {reader.name: reader.version for reader in self.readers}
