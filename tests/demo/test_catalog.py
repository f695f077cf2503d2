"""Models and instances: loading just in time and by hand, idle time to live, and who is evicted."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from proxy.demo import catalog as catalog_module
from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import Catalog, NotFoundError
from proxy.demo.engine import EngineError
from proxy.demo.lookalike import Lookalike
from proxy.demo.scripted_engine import Loading, ScriptedEngine

LLM, VLM, EMBEDDING = "scripted-7b-instruct", "scripted-vl-2b", "text-embedding-scripted"


def run(test: Callable[[Catalog, ScriptedEngine], Awaitable[None]], **behaviour: Any) -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        look = Lookalike(engine, Behaviour(**behaviour))
        try:
            await test(look.catalog, engine)
        finally:
            await look.close()
        assert not engine.loaded

    asyncio.run(main())


def loaded(catalog: Catalog) -> list[str]:
    return [one.identifier for one in catalog.instances]


def test_a_request_loads_its_model_once() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        engine.loading[LLM] = Loading(seconds=8.0, steps=2)
        progress: list[float] = []
        first, load_s = await catalog.get(LLM, on_load=lambda _, at: progress.append(at))
        assert load_s == pytest.approx(8.0)
        assert (progress[0], progress[-1]) == (0.0, 1.0)
        assert await catalog.get(LLM) == (first, None)
        assert await catalog.get(first.model.variant) == (first, None)
        assert await catalog.get(first.reference) == (first, None)

    run(test)


def test_requests_at_once_load_it_once() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        found = await asyncio.gather(*(catalog.get(LLM) for _ in range(5)))
        assert len({instance for instance, _ in found}) == 1
        assert len(engine.loaded) == 1

    run(test)


def test_a_loaded_model_answers_while_another_is_loaded() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        await catalog.get(LLM)
        engine.loading[VLM] = Loading(seconds=1000.0, steps=1)
        began = engine.clock.now()
        slow = asyncio.create_task(catalog.load(VLM))
        await asyncio.sleep(0)
        await catalog.get(LLM)
        assert engine.clock.now() - began < 1000.0
        await slow

    run(test)


@pytest.mark.parametrize(("keeps", "left"), [(True, [VLM]), (False, [LLM, VLM])])
def test_the_next_load_evicts_the_former_where_that_is_set(keeps: bool, left: list[str]) -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        await catalog.get(LLM)
        await catalog.get(VLM)
        assert loaded(catalog) == left

    # An LLM and a VLM are of one kind here: both generate.
    run(test, jit_keeps_last_only=keeps)


def test_what_was_loaded_by_hand_stays() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        await catalog.load(LLM)
        await catalog.get(VLM)
        assert loaded(catalog) == [LLM, VLM]

    run(test)


def test_a_second_instance_has_a_number() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        await catalog.load(LLM)
        await catalog.load(LLM)
        await catalog.load(LLM, identifier="mine", context_length=300)
        assert loaded(catalog) == [LLM, f"{LLM}:2", "mine"]
        assert catalog.instances[2].loaded.context_length == 300
        await catalog.unload(f"{LLM}:2")
        assert loaded(catalog) == [LLM, "mine"]
        with pytest.raises(NotFoundError, match="identifier"):
            await catalog.unload(f"{LLM}:2")

    run(test)


def test_an_idle_model_is_unloaded_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        await catalog.get(LLM, ttl_s=100.0)
        await catalog.load(VLM)
        engine.time.advance(99.0)
        await asyncio.sleep(0.05)
        assert loaded(catalog) == [LLM, VLM]
        engine.time.advance(2.0)
        async with asyncio.timeout(5):
            while len(catalog.instances) > 1:  # noqa: ASYNC110 - nothing tells when it is done
                await asyncio.sleep(0.01)
        assert loaded(catalog) == [VLM]  # loaded by hand: no time to live

    monkeypatch.setattr(catalog_module, "SWEEP_S", 0.01)
    run(test)


def test_without_just_in_time_loading_the_loaded_must_do() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        with pytest.raises(NotFoundError, match="No models loaded"):
            await catalog.get(LLM)
        await catalog.load(VLM)
        with pytest.raises(NotFoundError, match=LLM):
            await catalog.get(LLM)
        assert (await catalog.get(VLM))[0].identifier == VLM

    run(test, jit=False)


def test_unknown_and_wrong_kinds_are_refused() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        with pytest.raises(NotFoundError, match="nope"):
            await catalog.get("nope")
        with pytest.raises(NotFoundError, match="embedding"):
            await catalog.get(EMBEDDING)
        with pytest.raises(NotFoundError, match="not an embedding"):
            await catalog.get(LLM, "embedding")
        instance, _ = await catalog.get(EMBEDDING, "embedding")
        assert "embedding.load.contextLength" in instance.load_config

    run(test)


def test_a_request_without_a_model_takes_what_is_there() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        await catalog.load(VLM)
        assert (await catalog.get(""))[0].identifier == VLM

    run(test)


def test_a_load_that_fails_leaves_nothing() -> None:
    async def test(catalog: Catalog, engine: ScriptedEngine) -> None:
        engine.loading[LLM] = Loading(seconds=1.0, fail="insufficient system resources")
        with pytest.raises(EngineError, match="insufficient"):
            await catalog.get(LLM)
        assert not catalog.instances
        del engine.loading[LLM]
        await catalog.get(LLM)
        assert loaded(catalog) == [LLM]

    run(test)
