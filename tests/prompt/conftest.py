"""A real model for these tests."""

from tests.llama import llama_server, smollm2

__all__ = ["llama_server", "smollm2"]
