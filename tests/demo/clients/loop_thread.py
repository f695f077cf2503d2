"""An event loop in a thread of its own: the lookalike runs there while blocking clients talk to it."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Self, TypeVar

T = TypeVar("T")
_LIMIT_S = 60.0


class LoopThread:
    """A context manager; `run` gives a coroutine's result to the thread that asks."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(_LIMIT_S)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it there, wait here."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_LIMIT_S)
