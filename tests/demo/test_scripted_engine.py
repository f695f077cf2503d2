"""The scripted engine: it does what the script says, within the limits of the sampling, in virtual time."""

import asyncio
import json
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo.engine import Engine, EngineError, Finish, LoadedModel, Message, Piece, Progress, Sampling, Step
from proxy.demo.script import Burst, End, Fail, Prefill, Stall
from proxy.demo.scripted_engine import Loading, ScriptedEngine, ScriptedModel
from proxy.demo.virtual_clock import VirtualClock

HI: list[Message] = [{"role": "user", "content": "Say hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def loaded(engine: ScriptedEngine, key: str = "scripted-vl-2b", context_length: int = 4096) -> ScriptedModel:
    model = next(model for model in engine.models if model.key == key)
    return await engine.load(model, context_length=context_length, parallel=2, on_progress=lambda _: None)


async def steps_of(
    model: LoadedModel,
    sampling: Sampling | None = None,
    messages: Sequence[Message] = HI,
    tools: Sequence[dict[str, Any]] | None = None,
) -> list[Step]:
    prompt = await model.tokenize(await model.render(messages, tools=tools))
    return [step async for step in model.generate(prompt, sampling or Sampling())]


def text_of(steps: Sequence[Step]) -> str:
    return "".join(step.text for step in steps if isinstance(step, Piece))


def tokens_of(steps: Sequence[Step]) -> list[int]:
    return [token for step in steps if isinstance(step, Piece) for token in step.tokens]


def finish_of(steps: Sequence[Step]) -> Finish:
    assert isinstance(steps[-1], Finish)
    return steps[-1]


def said(
    *script: Any, sampling: Sampling | None = None, context_length: int = 4096, engine: ScriptedEngine | None = None
) -> list[Step]:
    """The steps of one call with this script."""

    async def run() -> list[Step]:
        scripted = engine or ScriptedEngine()
        if script:
            scripted.say(*script)
        return await steps_of(await loaded(scripted, context_length=context_length), sampling)

    return asyncio.run(run())


def test_both_engines_parts_are_what_the_interface_says() -> None:
    async def run() -> None:
        engine: Engine = ScriptedEngine()
        model: LoadedModel = await engine.load(
            engine.models[0], context_length=10**6, parallel=1, on_progress=lambda _: None
        )
        assert model.context_length == engine.models[0].max_context_length

    asyncio.run(run())


def test_text_comes_token_by_token_in_the_scripts_time() -> None:
    steps = said("Hello big world")
    assert [step.text for step in steps if isinstance(step, Piece)] == ["Hello", " big", " world"]
    finish = finish_of(steps)
    assert (finish.reason, finish.predicted_tokens, finish.stop_string) == ("eos", 4, None)
    assert finish.predicted_s == pytest.approx(0.06)
    assert finish.prompt_s == pytest.approx(finish.prompt_tokens / 1000)


def test_stall_and_prefill_take_their_time_and_burst_takes_none() -> None:
    steps = said(Prefill(3.0, steps=3, cached=4), Burst("a b c d"), Stall(5.0))
    finish = finish_of(steps)
    assert (finish.prompt_s, finish.predicted_s, finish.cached_tokens) == (3.0, 5.0, 4)
    progress = [step for step in steps if isinstance(step, Progress)]
    assert [each.processed for each in progress][::3] == [4, finish.prompt_tokens]
    assert len(progress) == 4


def test_characters_of_several_tokens_are_held_back_until_they_are_whole() -> None:
    steps = said("a🙂b")
    assert [step.text for step in steps if isinstance(step, Piece)] == ["a", "", "", "", "🙂", "b"]
    assert len(tokens_of(steps)) == 6


def test_script_without_text_ends_without_a_piece() -> None:
    steps = said(End())
    assert [type(step) for step in steps] == [Progress, Progress, Finish]
    assert finish_of(steps).predicted_tokens == 1


@pytest.mark.parametrize("reason", ["length", "context"])
def test_script_can_end_for_another_reason(reason: str) -> None:
    finish = finish_of(said("one two", End(reason), "three"))
    assert (finish.reason, finish.predicted_tokens) == (reason, 2)


def test_max_tokens_holds_whatever_the_script_says() -> None:
    steps = said("one two three four", sampling=Sampling(max_tokens=2))
    assert text_of(steps) == "one two"
    assert (finish_of(steps).reason, finish_of(steps).predicted_tokens) == ("length", 2)


def test_context_window_holds_whatever_the_script_says() -> None:
    whole = finish_of(said("a"))
    finish = finish_of(said("word " * 99, context_length=whole.prompt_tokens + 5))
    assert (finish.reason, finish.predicted_tokens) == ("context", 5)


def test_prompt_beyond_the_context_window_is_refused() -> None:
    with pytest.raises(EngineError) as caught:
        said("a", context_length=5)
    assert caught.value.kind == "context"


def test_stop_string_is_cut_and_what_only_looked_like_one_is_not() -> None:
    steps = said("one stone stop here", sampling=Sampling(stop=("stop", "")))
    assert text_of(steps) == "one stone "
    assert (finish_of(steps).reason, finish_of(steps).stop_string) == ("stop", "stop")
    assert text_of(said("the s", sampling=Sampling(stop=("stop",)))) == "the s"


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=3), max_size=2), st.none() | st.integers(0, 20))
def test_pieces_are_the_scripts_text_up_to_the_first_limit(text: str, stop: list[str], most: int | None) -> None:
    steps = said(text, sampling=Sampling(stop=tuple(stop), max_tokens=most))
    finish = finish_of(steps)
    assert len(tokens_of(steps)) == finish.predicted_tokens - (finish.reason == "eos")
    assert text.startswith(text_of(steps).rstrip("\N{REPLACEMENT CHARACTER}")) or "\N{REPLACEMENT CHARACTER}" in text
    assert not any(each in text_of(steps) for each in stop if "\N{REPLACEMENT CHARACTER}" not in each)
    if finish.reason == "eos":
        assert text_of(steps) == text


@pytest.mark.parametrize("before", [(), ("some text",)])
def test_failure_comes_where_the_script_has_it_and_crashed_means_gone(before: tuple[str, ...]) -> None:
    async def run() -> None:
        engine = ScriptedEngine()
        engine.say(*before, Fail("out of memory"))
        model = await loaded(engine)
        with pytest.raises(EngineError, match="out of memory") as caught:
            await steps_of(model)
        assert caught.value.kind == "crashed"
        assert model.ended() == "out of memory"
        assert engine.loaded == []
        assert engine.calls[0].ended == "failed"
        with pytest.raises(EngineError):
            await model.tokenize("x")

    asyncio.run(run())


def test_failed_is_not_gone() -> None:
    async def run() -> None:
        engine = ScriptedEngine()
        engine.say(Fail("odd grammar", "failed"))
        model = await loaded(engine)
        with pytest.raises(EngineError, match="odd grammar"):
            await steps_of(model)
        assert text_of(await steps_of(model))

    asyncio.run(run())


def test_unload_ends_what_is_being_generated() -> None:
    async def run() -> None:
        engine = ScriptedEngine()
        engine.say("one two three")
        model = await loaded(engine)
        generation = model.generate(await model.tokenize("x"), Sampling())
        while not isinstance(await anext(generation), Piece):
            continue
        await model.unload()
        with pytest.raises(EngineError, match="unloaded"):
            await anext(generation)

    asyncio.run(run())


def test_closing_stops_the_generation() -> None:
    async def run() -> None:
        engine = ScriptedEngine()
        engine.say("one two three")
        model = await loaded(engine)
        generation = model.generate(await model.tokenize("x"), Sampling())
        while not isinstance(await anext(generation), Piece):
            continue
        await generation.aclose()
        assert (engine.calls[0].ended, len(engine.calls[0].generated), model.running) == ("closed", 1, 0)

    asyncio.run(run())


def test_calls_tell_prompt_and_sampling() -> None:
    engine = ScriptedEngine()
    said("a", sampling=Sampling(temperature=0.3, seed=7), engine=engine)
    call = engine.calls[0]
    assert call.prompt == "<|im_start|>user\nSay hi<|im_end|>\n<|im_start|>assistant\n"
    assert (call.sampling.temperature, call.sampling.seed, call.ended) == (0.3, 7, "finished")


def test_rule_chooses_where_the_queue_is_empty() -> None:
    engine = ScriptedEngine()
    engine.rule = lambda call: [Burst("ruled")] if "hi" in call.prompt else None
    assert text_of(said("queued", engine=engine)) == "queued"
    assert text_of(said(engine=engine)) == "ruled"


def default_answer(
    messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None = None, key: str = "scripted-vl-2b"
) -> str:
    async def run() -> str:
        return text_of(await steps_of(await loaded(ScriptedEngine(), key), messages=messages, tools=tools))

    return asyncio.run(run())


def test_default_answer_repeats_the_last_message() -> None:
    assert default_answer(HI) == "You said: Say hi"
    assert default_answer(HI, key="scripted-7b-instruct").startswith("<think>")


def test_default_answer_calls_the_tool_that_the_message_names() -> None:
    messages: list[Message] = [{"role": "user", "content": "Use get_weather please"}]
    call = default_answer(messages, [TOOL])
    request = {"name": "get_weather", "arguments": {"city": ""}}
    assert call == f"[TOOL_REQUEST]{json.dumps(request)}[END_TOOL_REQUEST]"
    calls = [{"type": "function", "id": "1", "function": request}]
    messages += [{"role": "assistant", "content": "", "tool_calls": calls}, {"role": "tool", "content": "sunny"}]
    assert default_answer(messages, [TOOL]) == "The tool said: sunny"


def test_schema_is_answered_with_an_instance() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    assert json.loads(text_of(said(sampling=Sampling(json_schema=schema)))) == {"n": 0}


def test_loading_takes_its_time_tells_progress_and_may_fail() -> None:
    async def run() -> None:
        engine = ScriptedEngine()
        engine.loading["scripted-vl-2b"] = Loading(seconds=8.0, steps=2, fail="insufficient system resources")
        told: list[float] = []
        with pytest.raises(EngineError, match="insufficient") as caught:
            await engine.load(engine.models[1], context_length=1, parallel=1, on_progress=told.append)
        assert (caught.value.kind, told, engine.clock.now()) == ("load", [0.0, 0.5], 8.0)
        await engine.load(engine.models[0], context_length=1, parallel=1, on_progress=told.append)
        assert told[2:] == [0.0, 0.25, 0.5, 0.75, 1.0]

    asyncio.run(run())


def test_embeddings_of_like_texts_are_near_each_other() -> None:
    async def run() -> None:
        model = await loaded(ScriptedEngine(), "text-embedding-scripted")
        cat, count = await model.embed("the cat sat on the mat")
        same, _ = await model.embed("the cat lay on the mat")
        other, _ = await model.embed("quarterly revenue grew again")
        assert count == 6
        assert sum(x * x for x in cat) == pytest.approx(1)
        near, far = (sum(x * y for x, y in zip(cat, each, strict=True)) for each in (same, other))
        assert near > far
        with pytest.raises(EngineError, match="generates no text"):
            await anext(model.generate([1], Sampling()))
        with pytest.raises(EngineError, match="no embedding model"):
            await (await loaded(ScriptedEngine())).embed("x")

    asyncio.run(run())


def test_template_of_the_caller_is_used_and_its_mistakes_are_told() -> None:
    async def run() -> None:
        model = await loaded(ScriptedEngine())
        assert await model.render(HI, template="{{ messages[0].content }}!") == "Say hi!"
        for bad in ("{% if %}", "{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages[9].content.x }}"):
            with pytest.raises(EngineError) as caught:
                await model.render(HI, template=bad)
            assert caught.value.kind == "template"

    asyncio.run(run())


def in_virtual_time(*sleeps: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        await asyncio.gather(*sleeps)

    asyncio.run(run())


def test_waits_beside_each_other_take_as_long_as_the_longest() -> None:
    clock = VirtualClock()
    woken: list[tuple[str, float]] = []

    async def wait(name: str, *seconds: float) -> None:
        for each in seconds:
            await clock.sleep(each)
            woken.append((name, clock.now()))

    in_virtual_time(wait("slow", 3.0, 3.0), wait("fast", 2.0, 2.0))
    assert woken == [("fast", 2.0), ("slow", 3.0), ("fast", 4.0), ("slow", 6.0)]


def test_long_wait_moves_no_time_by_itself() -> None:
    clock = VirtualClock()

    async def run() -> None:
        waiting = asyncio.create_task(clock.sleep(3600))
        await clock.sleep(5)
        assert (clock.now(), waiting.done()) == (5, False)
        clock.advance(3595)
        await waiting

    asyncio.run(run())


def test_real_time_can_be_scaled() -> None:
    clock = VirtualClock(real_time=True, scale=0.001)
    in_virtual_time(clock.sleep(10))
    assert 10 <= clock.now() < 1000
    with pytest.raises(ValueError, match="by itself"):
        clock.advance(1)
