"""Snapshots of the settings of models in use: when they are asked for, and what is kept."""

import asyncio
import contextlib
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_process import LlamaProcess
from proxy.demo.server import LookalikeServer
from proxy.snapshots import EVERY_US, Snapshots
from tests.demo.lookalikes import post, running
from tests.llama import llama_server, smollm2
from tests.store.traffic import Traffic, chat_answer, traffic, turns

__all__ = ["llama_server", "smollm2"]

MODEL, TEMPERATURE = "scripted-7b-instruct", "llm.prediction.temperature"
SECOND_US = 1_000_000


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Traffic]:
    with traffic(tmp_path / "t.db") as opened:
        yield opened


class Clock:
    """The time, moved by hand."""

    def __init__(self) -> None:
        self.us = time.time_ns() // 1000

    def __call__(self) -> int:
        return self.us


def use(made: Traffic, url: str, model: str = MODEL, **more: float) -> None:
    """A recorded call of that model to the server at that address, just now."""
    answer = {**chat_answer("yes"), "model": model}
    made.exchange("/v1/chat/completions", _body(model, more), _json(answer))
    made.read()
    made.change(f"UPDATE recorded_exchanges SET upstream_url = '{url}'")


def _body(model: str, more: dict[str, float]) -> bytes:
    return _json({"model": model, "messages": turns("hi"), **more})


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def snapshots(made: Traffic) -> list[tuple[str, int, int]]:
    """(source, first, last) in order."""
    rows = made.rows("SELECT source, first_at_us, last_at_us FROM model_snapshots ORDER BY source, first_at_us")
    return [(row[0], row[1], row[2]) for row in rows]


@contextlib.contextmanager
def lookalike(*, is_loaded: bool = True, **options: Any) -> Iterator[LookalikeServer]:
    """A lookalike in a thread of its own, its model loaded: who asks it blocks."""
    ready: queue.Queue[LookalikeServer] = queue.Queue()
    loop, ended = asyncio.new_event_loop(), asyncio.Event()

    async def main() -> None:
        async with running(**options) as server:
            if is_loaded:
                await post(server, "/v1/chat/completions", {"model": MODEL, "messages": turns("hi")})
            ready.put(server)
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    try:
        yield ready.get(timeout=30)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()


def test_a_model_in_use_is_asked_for_once_a_minute_and_an_unchanged_answer_is_one_row(made: Traffic) -> None:
    with lookalike() as server:
        clock = Clock()
        work = Snapshots(made.trace, now_us=clock)
        assert work.run_once() == 0  # nothing was called yet
        use(made, server.url)
        assert work.run_once() == 1
        first = snapshots(made)
        sources = [source for source, *_ in first]
        assert "getBasePredictionConfig" in sources
        assert "getLoadConfig" in sources
        began_us = clock.us
        clock.us += EVERY_US - SECOND_US
        use(made, server.url)
        assert work.run_once() == 0  # less than a minute ago
        clock.us += 2 * SECOND_US
        made.change(f"UPDATE read_calls SET started_at_us = {clock.us - SECOND_US}")
        assert work.run_once() == 1
        assert snapshots(made) == [(source, began_us, clock.us) for source in sources]
        server.look.model_defaults[TEMPERATURE] = 0.1
        clock.us += EVERY_US
        made.change(f"UPDATE read_calls SET started_at_us = {clock.us - SECOND_US}")
        assert work.run_once() == 1
        assert [source for source, *_ in snapshots(made)].count("getBasePredictionConfig") == 2
        clock.us += 2 * EVERY_US
        assert work.run_once() == 0  # nobody uses it any more
        work.close()


def test_values_and_template_are_those_of_the_server(made: Traffic) -> None:
    with lookalike(model_defaults={TEMPERATURE: 0.2}, context_length=1234) as server:
        use(made, server.url, temperature=0.7)
        work = Snapshots(made.trace)
        assert work.run_once() == 1
        (row,) = made.rows("SELECT base_value, request_value, won, how FROM call_settings WHERE name = 'temperature'")
        assert tuple(row)[:3] == (0.2, 0.7, "unknown")
        assert "proxy-log precedence" in row[3]
        (row,) = made.rows("SELECT base_value, value, won FROM call_settings WHERE name = 'context_length'")
        assert tuple(row) == (1234, 1234, "server")
        (template,) = made.rows("SELECT model, source, text FROM prompt_templates")
        assert tuple(template) == (MODEL, "model_default", server.look.catalog.instances[0].model.template)
        work.close()


def test_llama_cpp_is_asked_too(made: Traffic, llama_server: LlamaProcess) -> None:
    use(made, llama_server.url, llama_server.model, temperature=0.5)
    work = Snapshots(made.trace)
    assert work.run_once() == 1
    (row,) = made.rows("SELECT won, value, how FROM call_settings WHERE name = 'temperature'")
    assert tuple(row)[:2] == ("request", 0.5)
    assert row[2].startswith("llama.cpp documents")
    (row,) = made.rows("SELECT won, value = base_value FROM call_settings WHERE name = 'top_k'")
    assert tuple(row) == ("model default", 1)
    assert made.values("SELECT source FROM prompt_templates") == ["props"]
    assert made.values("SELECT bos_token FROM prompt_templates") == ["<|im_start|>"]
    work.close()


def test_nothing_is_asked_where_that_is_switched_off(made: Traffic) -> None:
    with lookalike() as server:
        use(made, server.url)
        work = Snapshots(made.trace, ask=False)
        assert work.run_once() == 0
        assert snapshots(made) == []
        work.close()


def test_a_server_that_is_gone_or_tells_nothing_is_left_alone_for_a_minute(made: Traffic) -> None:
    with lookalike(is_loaded=False) as server:
        use(made, server.url)
        clock = Clock()
        work = Snapshots(made.trace, now_us=clock)
        assert [work.run_once(), work.run_once()] == [1, 0]
        use(made, "http://127.0.0.1:9")
        assert [work.run_once(), work.run_once()] == [1, 0]
        assert snapshots(made) == []
        work.close()


def test_a_trace_that_cannot_be_written_is_told_and_tried_again(made: Traffic) -> None:
    with lookalike() as server:
        use(made, server.url)
        work = Snapshots(made.trace)
        blocker = sqlite3.connect(made.trace, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError):
            work.run_once()
        blocker.execute("ROLLBACK")
        blocker.close()
        assert snapshots(made) == []
        assert work.run_once() == 0  # nobody is asked again, and what was told is kept
        assert snapshots(made) != []
        work.close()
