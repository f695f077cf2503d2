"""The settings that servers tell: of the lookalike over WebSocket and HTTP, of real llama.cpp, of others."""

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from proxy.demo.llama_process import LlamaProcess
from proxy.demo.server import LookalikeServer
from proxy.meaning import Json, Origin
from proxy.prompt.sdk_socket import SdkRefusedError, call, open_socket, run_channel
from proxy.prompt.server_config import NotToldError, ToldSettings, ask_settings
from tests.demo.lookalikes import post, running

MODEL = "scripted-7b-instruct"
TEMPERATURE, SEED = "llm.prediction.temperature", "llm.prediction.seed"
TOKEN = ("sk-lm-demo0001", "abcdefghij0123456789")


async def load(server: LookalikeServer, **headers: str) -> None:
    """Have the model loaded, as a request does."""
    got = await post(
        server,
        "/v1/chat/completions",
        {"model": MODEL, "messages": [{"role": "user", "content": "x"}]},
        headers=headers,
    )
    assert got.status == 200


async def asked(url: str, model: str = MODEL, credentials: tuple[str, str] | None = None) -> dict[str, ToldSettings]:
    """What the server tells, by source."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        return {one.source: one for one in await ask_settings(session, url, model, credentials=credentials)}


def values(told: ToldSettings, origin: Origin) -> dict[str, Json]:
    """By name, of one origin."""
    return {one.name: one.value for one in told.parameters if one.origin is origin}


def test_lm_studio_tells_base_and_load_configuration_under_the_projects_names() -> None:
    defaults = {TEMPERATURE: 0.3, SEED: {"checked": False, "value": -1}}

    async def main() -> None:
        async with running(model_defaults=defaults, context_length=777) as server:
            await load(server)
            told = await asked(server.url)
            model = server.look.catalog.instances[0].model
            base = values(told["getBasePredictionConfig"], Origin.MODEL_DEFAULT)
            assert (base["temperature"], base["top_p"], base["seed"]) == (0.3, 0.95, None)
            assert told["getBasePredictionConfig"].template == model.template
            assert told["getBasePredictionConfig"].model_path == model.path
            load_values = {**values(told["getLoadConfig"], Origin.EFFECTIVE)}
            for one in told.values():
                load_values |= values(one, Origin.EFFECTIVE)
            assert load_values["context_length"] == 777

    asyncio.run(main())


def test_where_the_websocket_is_not_served_the_lists_tell_the_load_configuration() -> None:
    """A server of which only the greeting and one list are there, with the documentation's sample."""

    async def main() -> None:
        lists: dict[str, Any] = {
            "/api/v1/models": {
                "models": [
                    {
                        "type": "llm",
                        "key": "google/gemma",
                        "loaded_instances": [
                            {"id": "google/gemma:2", "config": {"context_length": 8192}},
                            {"id": "mine", "config": {"context_length": 4096, "parallel": 4, "flash_attention": True}},
                        ],
                    }
                ]
            },
            "/api/v0/models": {
                "data": [
                    {"id": "old", "state": "loaded", "loaded_context_length": 512, "max_context_length": 1024},
                    {"id": "far", "state": "not-loaded", "max_context_length": 2048},
                ]
            },
            "/lmstudio-greeting": {"lmstudio": True},
        }

        async def answer(request: web.Request) -> web.Response:
            return web.json_response(lists.get(request.path, {"error": "Unexpected endpoint"}))

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            by_id = (await asked(url, "mine"))["/api/v1/models"]
            by_key = (await asked(url, "google/gemma"))["/api/v1/models"]
            old = (await asked(url, "old"))["/api/v0/models"]
            expected = {"context_length": 4096, "parallel": 4, "flash_attention": True}
            assert values(by_id, Origin.EFFECTIVE) == expected
            assert values(by_key, Origin.EFFECTIVE) == {"context_length": 8192}
            assert values(old, Origin.SERVER) == {"context_length": 512, "max_context_length": 1024}
            for nobody in ("far", "nobody"):
                with pytest.raises(NotToldError, match=f"no settings of '{nobody}'"):
                    await asked(url, nobody)
        finally:
            await runner.cleanup()

    asyncio.run(main())


def test_a_token_opens_what_a_guest_may_not_ask() -> None:
    async def main() -> None:
        async with running(auth=True) as server:
            await load(server, Authorization=f"Bearer {':'.join(TOKEN)}")
            assert "getBasePredictionConfig" in await asked(server.url, credentials=TOKEN)
            with pytest.raises(NotToldError):
                await asked(server.url)

    asyncio.run(main())


def test_a_model_that_is_not_loaded_is_not_loaded_by_asking() -> None:
    async def main() -> None:
        async with running() as server:
            with pytest.raises(NotToldError, match="no settings of"):
                await asked(server.url)
            assert not server.look.catalog.instances

    asyncio.run(main())


def test_llama_cpp_tells_its_defaults_its_template_and_its_file(llama_server: LlamaProcess) -> None:
    told = asyncio.run(asked(llama_server.url, llama_server.model))
    (props,) = told.values()
    base, server = values(props, Origin.MODEL_DEFAULT), values(props, Origin.SERVER)
    assert props.source == "/props"
    assert {"temperature", "top_k", "top_p", "min_p", "seed"} <= base.keys()
    assert server["context_length"] > 0
    assert "<|im_start|>" in (props.template or "")
    assert props.eos_token == "<|im_end|>"
    assert (props.model_path or "").endswith(".gguf")


def test_another_server_and_one_that_is_not_there_are_told_apart() -> None:
    async def main() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        with pytest.raises(NotToldError, match="neither"):
            await asked(url)
        await runner.cleanup()
        with pytest.raises(aiohttp.ClientConnectorError):
            await asked(url)

    asyncio.run(main())


def test_a_socket_tells_errors_in_the_servers_words_and_goes_on() -> None:
    async def main() -> None:
        async with running() as server, aiohttp.ClientSession() as session:
            await load(server)
            specifier = {"type": "query", "query": {"identifier": "nobody"}}
            async with open_socket(session, server.url, "llm") as socket:
                with pytest.raises(SdkRefusedError, match="No model found"):
                    await call(socket, "getLoadConfig", {"specifier": specifier})
                with pytest.raises(SdkRefusedError, match="predict"):
                    await run_channel(socket, "predict", {"modelSpecifier": specifier}, number=7)
                loaded = await call(socket, "listLoaded")
                assert [one["identifier"] for one in loaded] == [MODEL]
            with pytest.raises(SdkRefusedError, match="instead of a WebSocket"):
                async with open_socket(session, server.url, "v1/models"):
                    pass

    asyncio.run(main())
