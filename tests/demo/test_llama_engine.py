"""The real engine over a real llama.cpp: texts, tokens, times and ends are its own."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from proxy.demo.engine import Engine, EngineError, Finish, LoadedModel, Message, Piece, Progress, Sampling, Step
from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.llama_model import LlamaModel, closed_schema, sampling_settings
from proxy.demo.llama_process import LlamaProcess
from proxy.demo.llama_stream import LlamaStream, events_of

HI: list[Message] = [{"role": "user", "content": "Say hi"}]
NO_END = ((0, -100.0), (2, -100.0))
"""Keeps SmolLM2 from ending."""
CONTEXT = 512


@pytest.fixture(scope="module")
def engine(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> LlamaEngine:
    return LlamaEngine([smollm2], ["smollm2-135m-instruct"], log_folder=tmp_path_factory.mktemp("llama"))


@asynccontextmanager
async def loading(engine: LlamaEngine, *, embedding: bool = False, parallel: int = 2) -> AsyncIterator[LlamaModel]:
    model = await engine.load(
        engine.models[embedding], context_length=CONTEXT, parallel=parallel, on_progress=lambda _: None
    )
    try:
        yield model
    finally:
        await model.unload()


def with_model(engine: LlamaEngine, run: Callable[[LlamaModel], Awaitable[None]], *, embedding: bool = False) -> None:
    async def main() -> None:
        async with loading(engine, embedding=embedding) as model:
            await run(model)

    asyncio.run(main())


async def steps_of(model: LoadedModel, **sampling: Any) -> list[Step]:
    prompt = await model.tokenize(await model.render(HI))
    return [step async for step in model.generate(prompt, Sampling(**{"temperature": 0, **sampling}))]


def text_of(steps: list[Step]) -> str:
    return "".join(step.text for step in steps if isinstance(step, Piece))


def tokens_of(steps: list[Step]) -> list[int]:
    return [token for step in steps if isinstance(step, Piece) for token in step.tokens]


def finish_of(steps: list[Step]) -> Finish:
    assert isinstance(steps[-1], Finish)
    return steps[-1]


def test_models_are_the_file_and_its_embeddings(engine: LlamaEngine) -> None:
    same: Engine = engine
    assert [(model.key, model.type) for model in same.models] == [
        ("smollm2-135m-instruct", "llm"),
        ("text-embedding-smollm2-135m-instruct", "embedding"),
    ]


def test_answer_ends_with_the_models_own_numbers(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        prompt = await model.tokenize(await model.render(HI))
        steps = await steps_of(model)
        finish = finish_of(steps)
        assert model.context_length == CONTEXT
        assert isinstance(steps[0], Progress)
        assert [step.processed for step in steps if isinstance(step, Progress)] == [0, len(prompt)]
        assert (finish.reason, finish.prompt_tokens, finish.cached_tokens) == ("eos", len(prompt), 0)
        assert finish.predicted_tokens == len(tokens_of(steps)) + 1
        assert await model.detokenize(tokens_of(steps)) == text_of(steps)
        assert finish.prompt_s > 0
        assert finish.predicted_s > 0
        again = finish_of(await steps_of(model))
        assert (again.prompt_tokens, again.cached_tokens) == (len(prompt), len(prompt) - 1)

    with_model(engine, run)


def test_limits_end_it_and_name_the_reason(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        short = await steps_of(model, max_tokens=3)
        assert (finish_of(short).reason, finish_of(short).predicted_tokens, len(tokens_of(short))) == ("length", 3, 3)
        stopped = await steps_of(model, stop=("gla", ""))
        assert text_of(stopped) == "I'm "
        assert (finish_of(stopped).reason, finish_of(stopped).stop_string) == ("stop", "gla")
        prompt = [57] * (CONTEXT - 7)
        full = [step async for step in model.generate(prompt, Sampling(temperature=0, logit_bias=NO_END))]
        assert (finish_of(full).reason, finish_of(full).predicted_tokens) == ("context", 7)
        with pytest.raises(EngineError) as caught:
            await anext(model.generate([57] * CONTEXT, Sampling()))
        assert caught.value.kind == "context"

    with_model(engine, run)


@pytest.mark.parametrize(
    ("most", "reason", "text"),
    [(None, "eos", "I am glad to see"), (4, "length", "I am glad to"), (3, "length", "I am glad")],
)
def test_text_held_back_for_a_stop_string_is_not_lost(
    engine: LlamaEngine, most: int | None, reason: str, text: str
) -> None:
    async def run(model: LlamaModel) -> None:
        grammar = 'root ::= "I am glad to see"'
        steps = await steps_of(model, grammar=grammar, stop=("glad to go", "see you"), max_tokens=most)
        assert (text_of(steps), finish_of(steps).reason) == (text, reason)
        assert finish_of(steps).predicted_tokens == len(tokens_of(steps)) + (reason == "eos")

    with_model(engine, run)


def test_character_of_several_tokens_comes_whole_with_all_its_tokens(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        steps = await steps_of(model, grammar='root ::= "a漢b"')
        assert [(step.text, len(step.tokens)) for step in steps if isinstance(step, Piece)] == [
            ("a", 1),
            ("漢", 3),
            ("b", 1),
        ]
        assert finish_of(steps).predicted_tokens == 6
        for text in ("a🙂é漢b", "  <|im_start|> x\n", ""):
            assert await model.detokenize(await model.tokenize(text)) == text

    with_model(engine, run)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=1),
        Sampling(top_p=None, min_p=None, repeat_penalty=None, top_k=0, max_tokens=1),
        Sampling(
            temperature=1.25,
            top_k=7,
            top_p=0.5,
            min_p=0.25,
            repeat_penalty=1.5,
            presence_penalty=0.5,
            frequency_penalty=-0.25,
            seed=42,
            stop=("x", "y"),
            max_tokens=2,
            logit_bias=((57, -100.0),),
        ),
    ],
)
def test_every_sampling_value_is_in_force(
    engine: LlamaEngine, sampling: Sampling, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As llama.cpp itself echoes what it did."""
    echoed: list[dict[str, Any]] = []
    steps = LlamaStream.steps

    async def spy(self: LlamaStream, event: dict[str, Any]) -> list[Step]:
        echoed.extend([event["generation_settings"]] if event.get("stop") else [])
        return await steps(self, event)

    monkeypatch.setattr(LlamaStream, "steps", spy)

    async def run(model: LlamaModel) -> None:
        async for _ in model.generate([57, 58], sampling):
            continue

    with_model(engine, run)
    wanted = sampling_settings(sampling)
    wanted.setdefault("seed", 2**32 - 1)  # a new one each time
    wanted["logit_bias"] = [{"token": token, "bias": bias} for token, bias in wanted["logit_bias"]]
    found = {name: echoed[0][name] for name in wanted}
    assert {name: value for name, value in found.items() if not isinstance(value, float)} == {
        name: value for name, value in wanted.items() if not isinstance(found[name], float)
    }
    floats = [name for name, value in found.items() if isinstance(value, float)]
    assert [found[name] for name in floats] == pytest.approx([wanted[name] for name in floats])


def test_schema_and_seed_are_heeded_and_an_impossible_schema_is_refused(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        schema = {
            "type": "object",
            "properties": {"a": {"enum": [3]}},
            "required": ["a"],
            "additionalProperties": False,
        }
        assert json.loads(text_of(await steps_of(model, json_schema=schema))) == {"a": 3}
        seeded = [text_of(await steps_of(model, temperature=2, seed=seed, max_tokens=9)) for seed in (1, 1, 2)]
        assert seeded[0] == seeded[1] != seeded[2]
        for bad in ({"json_schema": {"type": "nonsense"}}, {"grammar": 'root ::= "'}):
            with pytest.raises(EngineError, match="grammar") as caught:
                await steps_of(model, **bad)
            assert caught.value.kind == "failed"

    with_model(engine, run)


def test_template_is_the_models_own_or_another(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        own = await model.render(HI)
        assert own.endswith("<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n")
        assert await model.render(HI, template=model.model.template) == own
        assert await model.render(HI, template="{{ bos_token }}{{ messages[0].content }}") == "<|im_start|>Say hi"
        for bad in ("{% if %}", None):
            with pytest.raises(EngineError) as caught:
                await model.render([{"role": "user"}], template=bad)
            assert caught.value.kind == "template"

    with_model(engine, run)


def test_closing_stops_llama_cpp(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        def slots() -> list[dict[str, Any]]:
            with urlopen(f"{model._process.url}/slots") as answer:
                found: list[dict[str, Any]] = json.load(answer)
                return found

        async def is_busy() -> bool:
            return any(slot["is_processing"] for slot in await asyncio.to_thread(slots))

        for prompt in ([57], [57] * 400):  # in the middle of the answer, and of the prompt
            generation = model.generate(prompt, Sampling(logit_bias=NO_END))
            while not isinstance(step := await anext(generation), Piece) and len(prompt) < 400:
                continue
            assert isinstance(step, Progress | Piece)
            assert await is_busy()
            await generation.aclose()
            while await is_busy():  # noqa: ASYNC110 - no event tells what another process does
                await asyncio.sleep(0.01)
            reached = [slot.get("n_prompt_tokens", 0) for slot in slots()]
            assert max(reached) < CONTEXT // 2, "it did not go on to its end"
        assert text_of(await steps_of(model))

    with_model(engine, run)


def test_dead_process_is_a_crash_for_all_calls(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        both = [model.generate([57], Sampling(logit_bias=NO_END)) for _ in range(2)]
        for generation in both:
            while not isinstance(await anext(generation), Piece):
                continue
        os.kill(model.pid, signal.SIGKILL)
        for generation in both:
            with pytest.raises(EngineError, match="SIGKILL") as caught:
                await rest_of(generation)
            assert caught.value.kind == "crashed"
        with pytest.raises(EngineError, match="SIGKILL"):
            await model.tokenize("x")
        assert model.ended() == "llama.cpp died of SIGKILL"

    with_model(engine, run)


async def rest_of(steps: AsyncIterator[Step]) -> list[Step]:
    return [step async for step in steps]


def test_unload_ends_process_and_generation(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        generation = model.generate([57], Sampling(logit_bias=NO_END))
        await anext(generation)
        await model.unload()
        with pytest.raises(EngineError, match="unloaded"):
            await rest_of(generation)
        with pytest.raises(ProcessLookupError):
            os.kill(model.pid, 0)

    with_model(engine, run)


def test_embeddings_are_means_of_length_one(engine: LlamaEngine) -> None:
    async def run(model: LlamaModel) -> None:
        vector, tokens = await model.embed("hello world")
        assert (len(vector), tokens) == (576, 2)
        assert sum(value * value for value in vector) == pytest.approx(1)
        assert (await model.embed("word" + " word" * 400))[1] == 401
        with pytest.raises(EngineError) as caught:
            await model.embed("word" + " word" * 600)
        assert caught.value.kind == "context"
        with pytest.raises(EngineError, match="generates no text"):
            await anext(model.generate([57], Sampling()))
        async with loading(engine) as text_model:
            with pytest.raises(EngineError):
                await text_model.embed("x")

    with_model(engine, run, embedding=True)


def test_cancelled_load_leaves_no_process(
    engine: LlamaEngine, smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []
    stop = LlamaProcess.stop

    def spy(self: LlamaProcess) -> None:
        stop(self)
        stopped.append(self.pid)

    monkeypatch.setattr(LlamaProcess, "stop", spy)

    async def run() -> None:
        load = asyncio.create_task(
            engine.load(engine.models[0], context_length=CONTEXT, parallel=1, on_progress=lambda _: None)
        )
        await asyncio.sleep(0.05)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load

    asyncio.run(run())  # waits for its threads
    assert len(stopped) == 1


def test_load_that_fails_says_why_and_tells_progress(tmp_path: Path, smollm2: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(smollm2.read_bytes()[:3_000_000])

    async def run() -> None:
        engine = LlamaEngine([broken], log_folder=tmp_path)
        told: list[float] = []
        with pytest.raises(EngineError, match="cannot serve this model") as caught:
            await engine.load(engine.models[0], context_length=CONTEXT, parallel=1, on_progress=told.append)
        assert (caught.value.kind, told) == ("load", [0.0])

    asyncio.run(run())


def test_events_are_the_same_however_they_are_cut() -> None:
    body = b'data: {"a": "\xc3\xa9"}\n\nerror: {"message": "m"}\n\n: ping\n\ndata: [DONE]\n\n'

    async def chunks(size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(body), size):
            yield body[at : at + size]

    async def run() -> None:
        for size in (1, 2, 7, len(body)):
            assert [event async for event in events_of(chunks(size))] == [{"a": "é"}, {"error": {"message": "m"}}]

    asyncio.run(run())


def test_schemas_are_closed_where_they_do_not_say_otherwise() -> None:
    part = {"type": "object", "properties": {"a": {"type": "string"}}}
    closed = {"additionalProperties": False, **part}
    assert closed_schema({**part, "additionalProperties": True}) == {**part, "additionalProperties": True}
    assert closed_schema({"type": "array", "items": part}) == {"type": "array", "items": closed}
    assert closed_schema({"anyOf": [part, {"type": "null"}]}) == {"anyOf": [closed, {"type": "null"}]}
    assert closed_schema({"$ref": "#/$defs/x", "$defs": {"x": part}}) == {"$ref": "#/$defs/x", "$defs": {"x": closed}}
    assert closed_schema({"type": "object", "properties": {"b": part}})["properties"]["b"] == closed
    assert closed_schema({"allOf": [part, part]}) == {"allOf": [part, part]}
    assert closed_schema({"const": {"properties": {}}}) == {"const": {"properties": {}}}
    assert closed_schema({"type": "object"}) == {"type": "object"}


def test_open_schema_ends_in_time(engine: LlamaEngine) -> None:
    """The model would add members until its context is full."""
    schema = {"type": "object", "properties": {"name": {"enum": ["Rome", "Bern"]}}, "required": ["name"]}

    async def run(model: LlamaModel) -> None:
        steps = await steps_of(model, json_schema=schema, max_tokens=100)
        assert list(json.loads(text_of(steps))) == ["name"]
        assert finish_of(steps).reason == "eos"

    with_model(engine, run)
