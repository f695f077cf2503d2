"""End to end: the proxy between real clients and a real model."""

from collections.abc import Iterator

import pytest

from proxy.demo.llama_process import LlamaProcess
from tests.conftest import running
from tests.llama import llama_server, smollm2
from tests.proxy_process import ProxyProcess

__all__ = ["llama_server", "smollm2"]


@pytest.fixture(scope="session")
def llama_proxy(llama_server: LlamaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy before a real llama.cpp."""
    with running(tmp_path_factory.mktemp("llama"), llama_server.url) as proxy:
        yield proxy
