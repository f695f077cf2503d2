"""The demo's tests talk to a real model."""

from tests.llama import llama_server, smollm2

__all__ = ["llama_server", "smollm2"]
