"""What a model of the real engine was loaded with is what it runs with, and every surface tells the same of it."""

import asyncio
from pathlib import Path
from typing import Any

from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.model import SMOLLM2
from tests.demo.lookalikes import get, post, running
from tests.demo.sdk_client import ask, connected, fields_of, layers, query, stack, texts

KEY = SMOLLM2.name
HAS_GPU = False
"""The tests' llama.cpp is built for the CPU."""


def test_settings_reach_the_engine_and_only_those_in_force_are_told(smollm2: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with running(LlamaEngine([smollm2], [KEY], log_folder=tmp_path)) as server:
            asked = {
                "eval_batch_size": 128,
                "flash_attention": False,
                "offload_kv_cache_to_gpu": True,
                "num_experts": 4,
            }
            body = {"model": KEY, "context_length": 512, "echo_load_config": True, **asked}
            echoed = (await post(server, "/api/v1/models/load", body)).json["load_config"]
            assert echoed == {
                "context_length": 512,
                "eval_batch_size": 128,
                "flash_attention": False,
                "offload_kv_cache_to_gpu": HAS_GPU,
            }
            row = (await get(server, "/api/v1/models")).json["models"][0]
            assert row["loaded_instances"][0]["config"] == echoed | {"parallel": 4}
            async with connected(server, "llm") as socket:
                told = fields_of(await socket.result("getLoadConfig", {"specifier": query(KEY)}))
                assert told == {
                    "llm.load.contextLength": 512,
                    "llm.load.llama.evalBatchSize": 128,
                    "llm.load.numParallelSessions": 4,
                    "llm.load.llama.flashAttention": False,
                    "llm.load.offloadKVCacheToGpu": HAS_GPU,
                    "llm.load.llama.acceleration.offloadRatio": "off",
                }
                config = stack(maxPredictedTokens={"checked": True, "value": 2})
                got = await socket.channel("predict", ask(("user", "elephant " * 250), model=KEY, config=config))
                assert fields_of(got.messages[-1]["loadModelConfig"]) == told
                parts = [one["details"]["processedPromptTokenCount"] for one in got.of("promptProcessingProgress")]
                assert parts[:3] == [0, 128, 256]

    asyncio.run(main())


def test_seed_of_the_load_counts_where_a_request_has_none(smollm2: Path, tmp_path: Path) -> None:
    async def text(socket: Any, **config: Any) -> str:
        config = {"temperature": 1.5, "maxPredictedTokens": {"checked": True, "value": 12}, **config}
        return texts(
            (await socket.channel("predict", ask(("user", "Invent"), model=KEY, config=stack(**config)))).messages
        )

    async def main() -> None:
        async with (
            running(LlamaEngine([smollm2], [KEY], log_folder=tmp_path)) as server,
            connected(server, "llm") as socket,
        ):
            seed = {"checked": True, "value": 42}
            config = layers(("apiOverride", {"llm.load.seed": seed, "llm.load.numParallelSessions": 1}))
            await socket.channel("loadModel", {"modelKey": KEY, "loadConfigStack": config})
            told = fields_of(await socket.result("getLoadConfig", {"specifier": query(KEY)}))
            assert told["llm.load.seed"] == seed
            first, again = await text(socket), await text(socket)
            assert first == again
            assert first == await text(socket, seed=seed)
            assert first != await text(socket, seed={"checked": True, "value": 43})

    asyncio.run(main())
