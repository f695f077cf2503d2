"""The real model, for tests of what it saw."""

from tests.llama import llama_server, smollm2

__all__ = ["llama_server", "smollm2"]
