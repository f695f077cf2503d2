"""One prediction: its events, its numbers, its place in the queue, and how it is cut, stopped and told in the log."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import EngineError, Message, Progress
from proxy.demo.lookalike import Lookalike
from proxy.demo.output_parser import Text, ToolCallEnd
from proxy.demo.overflow import ContextOverflowError
from proxy.demo.prediction import Ask, Done, Event, Started
from proxy.demo.script import Burst, End, Fail, Prefill, Stall
from proxy.demo.script import Text as Says
from proxy.demo.scripted_engine import ScriptedEngine

LLM = "scripted-7b-instruct"
HI: list[Message] = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def run(test: Callable[[Lookalike, ScriptedEngine], Awaitable[None]], **behaviour: Any) -> None:
    async def main() -> None:
        engine = ScriptedEngine()
        look = Lookalike(engine, Behaviour(**behaviour))
        try:
            await test(look, engine)
        finally:
            await look.close()

    asyncio.run(main())


async def events_of(look: Lookalike, **ask: Any) -> list[Event]:
    instance, _ = await look.catalog.get(LLM)
    async with aclosing(look.predict(instance, Ask(**{"messages": HI, **ask})).events()) as events:
        return [event async for event in events]


async def done_of(look: Lookalike, **ask: Any) -> Done:
    last = (await events_of(look, **ask))[-1]
    assert isinstance(last, Done)
    return last


def log_of(look: Lookalike, kind: str) -> list[dict[str, Any]]:
    return [event["data"] for event in look.log.latest if event["data"]["type"] == kind]


def test_events_come_in_order_and_numbers_are_the_engines() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Prefill(2.0, steps=4, cached=3), Says("one two three", delay_s=0.5))
        events = await events_of(look)
        assert isinstance(events[0], Started)
        assert events[0].prompt == engine.calls[0].prompt
        progress = [event for event in events if isinstance(event, Progress)]
        assert [progress[0].processed, progress[-1].processed] == [3, events[0].prompt_tokens]
        done = events[-1]
        assert isinstance(done, Done)
        assert done.text == "one two three"
        stats = done.stats
        tokens = len(engine.calls[0].generated)
        assert stats.stop_reason == "eosFound"
        assert stats.predicted_tokens == tokens + 1  # the end token counts
        assert stats.prompt_tokens == len(engine.calls[0].tokens)
        assert stats.cached_tokens == 3
        assert stats.time_to_first_token_s == pytest.approx(2.5)
        assert stats.tokens_per_second == pytest.approx(stats.predicted_tokens / stats.total_s)
        assert stats.total_s == pytest.approx(stats.generation_s)

    run(test)


def test_total_time_may_include_the_first_token() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Prefill(2.0), Says("one two", delay_s=0.5))
        stats = (await done_of(look)).stats
        assert stats.time_to_first_token_s is not None
        assert stats.total_s == pytest.approx(stats.generation_s + stats.time_to_first_token_s)

    run(test, total_time="whole")


@pytest.mark.parametrize(
    ("script", "layer", "reason", "stop_string"),
    [
        ([Says("a b c d e f")], {"llm.prediction.maxPredictedTokens": 3}, "maxPredictedTokensReached", None),
        ([Says("a STOP b")], {"llm.prediction.stopStrings": ["STOP"]}, "stopStringFound", "STOP"),
        ([Says("a"), End("context")], {}, "contextLengthReached", None),
    ],
)
def test_why_it_stopped(script: list[Any], layer: dict[str, Any], reason: str, stop_string: str | None) -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(*script)
        stats = (await done_of(look, layer=layer, overflow="stopAtLimit")).stats
        assert (stats.stop_reason, stats.stop_string) == (reason, stop_string)

    run(test)


def test_a_length_stop_may_count_one_less() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Says("a b c d e f"))
        stats = (await done_of(look, layer={"llm.prediction.maxPredictedTokens": 3})).stats
        assert stats.predicted_tokens == 2

    run(test, length_counts_one_less=True)


def test_the_log_tells_the_prompt_and_the_whole_text() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say("<think>Hm.</think>Yes.")
        done = await done_of(look)
        (given,), (told,) = log_of(look, "llm.prediction.input"), log_of(look, "llm.prediction.output")
        assert given["input"] == engine.calls[0].prompt
        assert told["output"] == "<think>Hm.</think>Yes."
        assert told["stats"] == done.stats.sdk()
        assert (done.reasoning, done.text) == ("Hm.", "Yes.")
        assert any("eval time" in event["message"] for event in log_of(look, "runtime.log"))

    run(test)


def test_the_log_may_be_silent() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        await done_of(look)
        assert not log_of(look, "llm.prediction.input")
        assert not log_of(look, "llm.prediction.output")

    run(test, prediction_log=False)


@pytest.mark.parametrize("swaps", [False, True])
def test_outputs_of_two_at_once_may_come_in_swapped_order(swaps: bool) -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.rule = lambda call: [Says("slow", delay_s=5.0)] if "slow" in call.prompt else [Burst("fast")]
        await look.catalog.get(LLM)
        ask = [[{"role": "user", "content": word}] for word in ("slow", "fast")]
        await asyncio.gather(*(done_of(look, messages=messages) for messages in ask))
        outputs = [event["output"] for event in log_of(look, "llm.prediction.output")]
        assert outputs == (["slow", "fast"] if swaps else ["fast", "slow"])

    run(test, swap_outputs=swaps)


def test_more_than_the_places_wait() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        instance, _ = await look.catalog.get(LLM)
        lines: list[int] = []
        engine.rule = lambda call: [Says("a b c d", delay_s=1.0)]

        async def watched() -> None:
            lines.append(instance.in_line)
            await done_of(look)

        began = engine.clock.now()
        await asyncio.gather(*(watched() for _ in range(4)))
        took = engine.clock.now() - began
        assert max(call.ended == "finished" for call in engine.calls)
        assert took == pytest.approx(2 * (await one_takes(look, engine)), rel=0.01)  # two places for four
        assert (instance.in_line, instance.status) == (0, "idle")

    run(test, parallel=2)


async def one_takes(look: Lookalike, engine: ScriptedEngine) -> float:
    began = engine.clock.now()
    await done_of(look)
    return engine.clock.now() - began


def test_leaving_stops_the_model_and_is_told() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Says("a b c d e f g h"))
        instance, _ = await look.catalog.get(LLM)
        async with aclosing(look.predict(instance, Ask(messages=HI)).events()) as events:
            async for event in events:
                if isinstance(event, Text):
                    break
        assert engine.calls[0].ended == "closed"
        assert instance.in_line == 0
        (told,) = log_of(look, "llm.prediction.output")
        assert told["stats"]["stopReason"] == "userStopped"
        assert told["stats"]["predictedTokensCount"] == len(engine.calls[0].generated)
        assert any("Client disconnected" in event["content"] for event in log_of(look, "server.log"))

    run(test)


def test_an_end_in_order_is_not_told_as_leaving() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        instance, _ = await look.catalog.get(LLM)
        async with aclosing(look.predict(instance, Ask(messages=HI)).events()) as events:
            async for event in events:
                if isinstance(event, Done):
                    break
        assert not any("Client disconnected" in event["content"] for event in log_of(look, "server.log"))

    run(test)


def test_a_crash_takes_the_model_out() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Says("a b"), Fail())
        with pytest.raises(EngineError, match="crashed"):
            await done_of(look)
        assert not look.catalog.instances
        assert (await done_of(look)).text  # the next request loads it again

    run(test)


def conversation(turns: int) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "first question"}]
    for turn in range(turns):
        messages.append({"role": "assistant", "content": f"answer {turn} " + "word " * 10})
        messages.append({"role": "user", "content": f"question {turn} " + "word " * 10})
    return messages


@pytest.mark.parametrize("policy", ["refuse", "stopAtLimit"])
def test_a_prompt_that_does_not_fit_is_refused(policy: str) -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        with pytest.raises(ContextOverflowError) as refused:
            await done_of(look, messages=conversation(40), overflow=policy)
        assert refused.value.context_length == 256
        assert refused.value.prompt_tokens > 256
        assert not engine.calls

    run(test, context_length=256)


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [
        ("truncateMiddle", ["be brief", "first question", "question 39"], ["question 1 "]),
        ("rollingWindow", ["question 39"], ["first question", "question 1 "]),
    ],
)
def test_a_prompt_that_does_not_fit_is_cut(policy: str, kept: list[str], dropped: list[str]) -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        done = await done_of(look, messages=conversation(40), overflow=policy)
        prompt = engine.calls[0].prompt
        assert all(text in prompt for text in kept)
        assert not any(text in prompt for text in dropped)
        assert done.stats.prompt_tokens == len(engine.calls[0].tokens) < 256
        assert log_of(look, "llm.prediction.input")[0]["input"] == prompt

    run(test, context_length=256)


@pytest.mark.parametrize("policy", ["truncateMiddle", "rollingWindow"])
def test_one_message_that_is_too_long_is_cut_by_tokens(policy: str) -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        await done_of(look, messages=[{"role": "user", "content": "word " * 1000}], overflow=policy)
        assert len(engine.calls[0].tokens) < 256
        assert log_of(look, "llm.prediction.input")[0]["input"] == engine.calls[0].prompt

    run(test, context_length=256)


@pytest.mark.parametrize("policy", ["truncateMiddle", "rollingWindow"])
def test_an_answer_goes_on_where_the_context_is_full(policy: str) -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say("la " * 400)
        engine.say("end")
        done = await done_of(look, overflow=policy)
        assert len(engine.calls) == 2
        assert done.text.startswith("la la")
        assert done.text.endswith("end")
        assert done.stats.stop_reason == "eosFound"
        assert done.stats.predicted_tokens == sum(len(call.generated) for call in engine.calls) + 1
        assert done.stats.prompt_tokens == len(engine.calls[0].tokens)

    run(test, context_length=256)


def test_a_tool_call_can_be_forced() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        events = await events_of(look, tools=[TOOL], tool_choice="required")
        assert engine.calls[0].sampling.json_schema is not None
        (call,) = [event for event in events if isinstance(event, ToolCallEnd)]
        assert call.name == "look_up"
        done = events[-1]
        assert isinstance(done, Done)
        assert done.stats.stop_reason == "toolCalls"
        assert done.text == ""

    run(test)


def test_a_stall_before_the_first_token_counts_into_its_time() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Stall(30.0), Burst("now"))
        first = (await done_of(look)).stats.time_to_first_token_s
        assert first is not None
        assert first >= 30.0

    run(test)


def test_numbers_of_a_prediction_that_is_stopped_after_the_context_was_shifted() -> None:
    """What came before the shift, by the engine's word, and the round in progress."""

    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say(Prefill(1.0), Says("word " * 100, delay_s=0.5))
        engine.say(Prefill(2.0), Says("more " * 100, delay_s=0.5))
        instance, _ = await look.catalog.get(LLM, context_length=64)
        ask = Ask(messages=HI, overflow="rollingWindow")
        prediction = look.predict(instance, ask)
        async with aclosing(prediction.events()) as events:
            async for event in events:
                if isinstance(event, Text) and "more" in event.content and len(engine.calls[1].generated) >= 6:
                    break
        stats = prediction.cancelled().stats
        first, second = (len(call.generated) for call in engine.calls)
        assert second >= 6
        assert stats.predicted_tokens == first + second
        assert stats.total_s == pytest.approx(first * 0.5 + (second - 1) * 0.5)

    run(test)


def test_output_that_waits_for_another_is_told_although_that_one_crashes() -> None:
    async def test(look: Lookalike, engine: ScriptedEngine) -> None:
        engine.say("fine")
        engine.say(Stall(5.0), Fail())
        done, failed = await asyncio.gather(done_of(look), done_of(look), return_exceptions=True)
        assert isinstance(done, Done)
        assert isinstance(failed, EngineError)
        assert [event["output"] for event in log_of(look, "llm.prediction.output")] == ["fine"]

    run(test, swap_outputs=True)
