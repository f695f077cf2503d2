"""Calls are paired with the events of the engine's log by what they contain, and never wrongly."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.prompt.matching import GeneratedLine, Matching, Pairing, match
from tests.prompt.engine_schedule import START_US, Schedule, chatml


def _match(schedule: Schedule, lines: Sequence[GeneratedLine] = ()) -> tuple[dict[int, Pairing], Matching]:
    found = match(schedule.calls, schedule.inputs, schedule.outputs, lines)
    assert [one.call_id for one in found.pairings] == [call.id for call in schedule.calls]
    return {one.call_id: one for one in found.pairings}, found


def _is_paired(pairing: Pairing, call: int) -> bool:
    return (pairing.input_id, pairing.output_id) == (call + 1000, call + 2000)


def test_swapped_outputs_are_paired_by_what_was_answered() -> None:
    schedule = Schedule()
    calls = [schedule.add(f"Tell me about {each}", answer=f"{each} is fine.") for each in ("Rome", "Oslo", "Bern")]
    schedule.outputs.reverse()
    schedule.inputs.reverse()
    pairings, found = _match(schedule)
    assert all(_is_paired(pairings[call], call) and pairings[call].why is None for call in calls)
    assert all(pairings[call].input_confidence == 1 for call in calls)
    assert not found.unproxied


def test_equal_prompts_get_their_text_with_a_doubt_and_their_own_output() -> None:
    schedule = Schedule()
    calls = [schedule.add("Roll a die", answer=f"It shows {number}.") for number in (1, 2, 3)]
    schedule.outputs.reverse()
    pairings, found = _match(schedule)
    assert [pairings[call].output_id for call in calls] == [call + 2000 for call in calls]
    assert {pairings[call].input_id for call in calls} == {call + 1000 for call in calls}
    for call in calls:
        assert pairings[call].input_confidence < 1
        assert len(pairings[call].input_rivals) == 2
        assert pairings[call].why == (
            "ambiguous: 3 calls sent the same at the same time; the prompt is the same for each"
        )
    assert not found.unproxied


def test_equal_prompts_with_equal_answers_get_no_output() -> None:
    schedule = Schedule()
    calls = [schedule.add("Hi", answer="Hello!") for _ in range(2)]
    pairings, found = _match(schedule)
    for call in calls:
        assert pairings[call].input_id is not None
        assert pairings[call].output_id is None
        assert len(pairings[call].output_rivals) == 2
        assert "several outputs" in str(pairings[call].why)
    assert not found.unproxied


def test_equal_messages_are_told_apart_by_the_tools_offered() -> None:
    schedule = Schedule()
    weather, clock = "Get the weather of a city", "now"
    calls = [
        schedule.add("What is it like now?", answer="Fine."),
        schedule.add("What is it like now?", answer="Fine.", offered=(weather,), tools=f"<tools>{weather}</tools>"),
        schedule.add("What is it like now?", answer="Fine.", offered=(clock,), tools=f'<tools>{{"name": "{clock}"}}'),
    ]
    pairings, _ = _match(schedule)
    assert [pairings[call].input_id for call in calls] == [call + 1000 for call in calls]
    assert not any(pairings[call].input_rivals for call in calls)


def test_where_no_prompt_shows_tools_they_tell_nothing() -> None:
    schedule = Schedule()
    calls = [schedule.add("Hi", answer="Hello 1"), schedule.add("Hi", answer="Hello 2", offered=("Get the weather",))]
    pairings, _ = _match(schedule)
    assert {pairings[call].input_id for call in calls} == {call + 1000 for call in calls}
    assert all("ambiguous" in str(pairings[call].why) for call in calls)


def test_a_prompt_without_tools_is_not_given_to_a_call_with_tools_for_want_of_its_own() -> None:
    schedule = Schedule()
    plain = schedule.add("Hi", answer="Hello!")
    offered = ("Get the weather of a city",)
    tooled = schedule.add("Hi", answer="Hello!", offered=offered, tools=offered[0], has_input=False)
    pairings, _ = _match(schedule)
    assert pairings[tooled].input_id is None
    assert pairings[tooled].why
    assert pairings[plain].input_id in (plain + 1000, None)


def test_answers_that_differ_by_a_blank_get_their_own_outputs() -> None:
    schedule = Schedule()
    calls = [
        schedule.add("Say it", answer=answer, tokens=(9, number)) for number, answer in ((4, "same"), (5, "same "))
    ]
    schedule.outputs.reverse()
    pairings, _ = _match(schedule)
    assert [pairings[call].output_id for call in calls] == [call + 2000 for call in calls]


def test_an_output_that_is_exactly_anothers_is_kept_for_want_of_its_own() -> None:
    schedule = Schedule()
    first = schedule.add("Say it", answer="same", tokens=(9, 4), has_output=False)
    second = schedule.add("Say it", answer="same ", tokens=(9, 5))
    pairings, _ = _match(schedule)
    assert pairings[first].output_id is None
    assert pairings[second].output_id in (second + 2000, None)


def test_equal_answers_are_told_apart_by_the_line_with_the_response_id() -> None:
    schedule = Schedule()
    first = schedule.add("Hi", answer="Hello!", open_ms=2000, response_id="chatcmpl-a")
    second = schedule.add("Hi", answer="Hello!", generation_ms=700, open_ms=2000, response_id="chatcmpl-b")
    other = schedule.add("Bye", answer="Good bye!", open_ms=2000, response_id="chatcmpl-c")
    lines = [
        GeneratedLine(at_us=START_US + 806_000, response_id="chatcmpl-b", text="Hello!"),
        GeneratedLine(at_us=START_US + 507_000, response_id="chatcmpl-c", text="Good bye!"),
        GeneratedLine(at_us=START_US + 506_000, response_id="chatcmpl-a", text="Hello!"),
    ]
    unaided, _ = _match(schedule)
    assert unaided[first].output_id is unaided[second].output_id is None
    pairings, _ = _match(schedule, lines)
    assert [pairings[call].output_id for call in (first, second, other)] == [first + 2000, second + 2000, other + 2000]


def test_equal_calls_one_after_the_other_have_their_events_in_order() -> None:
    schedule = Schedule()
    calls = [
        schedule.add("Hi", answer="Hello!", at_ms=10 * at, ttft_ms=2, generation_ms=3, delay_ms=1) for at in range(10)
    ]
    schedule.outputs.reverse()
    schedule.inputs.reverse()
    pairings, found = _match(schedule)
    assert all(_is_paired(pairings[call], call) and pairings[call].why is None for call in calls)
    assert {pairings[call].input_confidence for call in calls} == {0.9}
    assert not found.unproxied


def test_of_equal_calls_one_after_the_other_an_event_lost_leaves_a_doubt() -> None:
    schedule = Schedule()
    calls = [
        schedule.add(
            "Hi",
            answer="Hello!",
            at_ms=10 * at,
            ttft_ms=2,
            generation_ms=3,
            delay_ms=1,
            has_input=at > 0,
            has_output=at > 0,
        )
        for at in range(4)
    ]
    pairings, _ = _match(schedule)
    assert not any(pairings[call].output_id for call in calls)
    assert all(pairings[call].why for call in calls)


def test_equal_answers_are_told_apart_by_a_prediction_longer_than_a_call() -> None:
    schedule = Schedule()
    short = schedule.add("Hi", answer="Hello!")
    long = schedule.add("Hi", answer="Hello!", generation_ms=1500)
    pairings, _ = _match(schedule)
    assert pairings[short].output_id == short + 2000
    assert pairings[long].output_id == long + 2000


def test_equal_answers_to_other_prompts_are_told_apart_by_the_times_of_their_predictions() -> None:
    schedule = Schedule()
    first = schedule.add("Is it late?", answer="Yes.", generation_ms=400, open_ms=1500)
    second = schedule.add("Is it cold?", answer="Yes.", at_ms=300, generation_ms=800, open_ms=1500)
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[first], first)
    assert _is_paired(pairings[second], second)


def test_a_later_turn_holds_the_earlier_one_and_both_are_found() -> None:
    schedule = Schedule()
    first = schedule.add("Hi there", answer="Hello!")
    second = schedule.add("Hi there", "Hello!", "How are you?", answer="Fine.")
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[first], first)
    assert _is_paired(pairings[second], second)


def test_a_later_turn_is_not_taken_for_the_earlier_one_whose_event_is_lost() -> None:
    schedule = Schedule()
    first = schedule.add("Hi there", answer="Hello!", has_input=False)
    typed = schedule.add("Hi there", "Hello!", "How are you?", answer="Fine.", is_proxied=False)
    pairings, found = _match(schedule)
    assert pairings[first].input_id is None
    assert pairings[first].why == "prompts came in its time, but none of them ends with its last message"
    assert [one.input_id for one in found.unproxied] == [typed + 1000]


def test_a_message_within_a_longer_one_is_not_taken_for_it() -> None:
    for typed in ("Hi there", "Oh, Hi", "Hi!", "Say: Hi :)", "Hide"):
        schedule = Schedule()
        call = schedule.add("Hi", answer="Hello!", has_input=False, has_output=False)
        schedule.add(typed, answer="Well.", is_proxied=False)
        pairings, found = _match(schedule)
        assert pairings[call].input_id is None, typed
        assert len(found.unproxied) == 1


def test_a_prompt_without_its_middle_is_still_its_calls() -> None:
    texts = ("The first question " * 5, "A long answer " * 50, "Another one " * 50, "More " * 90, "And the last one?")
    schedule = Schedule()
    cut = schedule.add(*texts, prompt=chatml([texts[0], texts[3], texts[4]]), answer="Yes, the last.")
    short = schedule.add(texts[-1], answer="What do you mean?")
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[cut], cut)
    assert _is_paired(pairings[short], short)


def test_a_cut_prompt_is_not_taken_by_a_call_that_sent_only_its_end() -> None:
    texts = ("The first question " * 5, "A long answer " * 50, "And the last one?")
    schedule = Schedule()
    cut = schedule.add(*texts, prompt=chatml([texts[1], texts[2]]), answer="Yes, the last.")
    short = schedule.add(texts[-1], answer="What do you mean?", has_input=False)
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[cut], cut)
    assert pairings[short].input_id is None


def test_one_message_cut_in_its_middle_is_found_by_its_end() -> None:
    text = " ".join(f"word{number}" for number in range(400))
    schedule = Schedule()
    call = schedule.add(text, prompt=chatml([text[:200] + text[-900:]]), answer="Many words.")
    rolled = schedule.add("Other " + text[::-1], prompt=chatml([text[::-1][-700:]]), answer="Backwards.")
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[call], call)
    assert _is_paired(pairings[rolled], rolled)


def test_a_raw_prompt_is_the_text_itself() -> None:
    schedule = Schedule()
    raw = schedule.add("Once upon a time", prompt="Once upon a time", answer=" there was", is_raw=True)
    chat = schedule.add("Once upon a time", answer="there were")
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[raw], raw)
    assert _is_paired(pairings[chat], chat)


def test_an_answer_whose_client_left_early_is_the_beginning_of_its_output() -> None:
    schedule = Schedule()
    gone = schedule.add("Count", answer="1, 2, 3, 4, 5", output="1, 2, 3, 4, 5, 6, 7", is_cut_short=True, open_ms=200)
    other = schedule.add("Say the alphabet", answer="a, b, c")
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[gone], gone)
    assert pairings[gone].output_confidence < 1
    assert _is_paired(pairings[other], other)


def test_a_client_gone_before_the_first_word_has_the_output_that_ends_its_prompt() -> None:
    schedule = Schedule()
    gone = schedule.add("Count", answer="", output="1, 2, 3", is_cut_short=True, open_ms=50)
    pairings, found = _match(schedule)
    assert _is_paired(pairings[gone], gone)
    assert pairings[gone].output_confidence < 1
    assert not found.unproxied


def test_a_beginning_of_a_few_letters_tells_nothing_without_the_times() -> None:
    schedule = Schedule()
    gone = schedule.add("Count", answer="1", output="1, 2, 3", is_cut_short=True, open_ms=300)
    schedule.add("Count the days", answer="1, 2, 3, 4, 5, 6, 7", at_ms=200, is_proxied=False)
    assert _is_paired(_match(schedule)[0][gone], gone)
    schedule.outputs.pop(0)
    pairings, found = _match(schedule)
    assert pairings[gone].output_id is None
    assert [one.output_id is None for one in found.unproxied] == [False]


def test_a_prompt_that_led_to_another_answer_is_not_the_calls() -> None:
    schedule = Schedule()
    call = schedule.add("How are you?", answer="Fine, thanks.", has_input=False, at_ms=40)
    typed = schedule.add("How are you?", answer="Do I know you?", at_ms=300, is_proxied=False)
    pairings, found = _match(schedule)
    assert pairings[call].input_id is None
    assert pairings[call].output_id == call + 2000
    assert "led to another answer" in str(pairings[call].why)
    assert [one.input_id for one in found.unproxied] == [typed + 1000]


def test_reasoning_that_was_moved_and_a_cut_stop_string_are_recognised() -> None:
    schedule = Schedule()
    thought = schedule.add("Why?", answer="Hmm, well.Because.", output="<think>\nHmm, well.\n</think>\n\nBecause.")
    stopped = schedule.add("List", answer="one, two", output="one, two\n###", stop_reason="stopStringFound")
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[thought], thought)
    assert _is_paired(pairings[stopped], stopped)


def test_tool_calls_are_recognised_by_name_and_arguments() -> None:
    def ask(city: str, mark: tuple[str, str]) -> int:
        return schedule.add(
            "What is the weather?",
            tool_calls=(("weather", f'{{"city":"{city}","days":2}}'),),
            output=f'{mark[0]}{{"name": "weather", "arguments": {{"days": 2, "city": "{city}"}}}}{mark[1]}',
        )

    schedule = Schedule()
    rome = ask("Rome", ("[TOOL_REQUEST]", "[END_TOOL_REQUEST]"))
    oslo = ask("Oslo", ("<tool_call>\n", "\n</tool_call>"))
    schedule.outputs.reverse()
    pairings, _ = _match(schedule)
    assert pairings[rome].output_id == rome + 2000
    assert pairings[oslo].output_id == oslo + 2000


def test_chats_that_nobody_proxied_are_left_over_with_their_outputs() -> None:
    schedule = Schedule()
    first = schedule.add("What is love?", answer="A feeling.")
    typed = schedule.add("What is hate?", answer="A feeling.", at_ms=100, generation_ms=700, is_proxied=False)
    second = schedule.add("What is fear?", answer="Another.", at_ms=200)
    pairings, found = _match(schedule)
    assert _is_paired(pairings[first], first)
    assert _is_paired(pairings[second], second)
    assert [(one.input_id, one.output_id) for one in found.unproxied] == [(typed + 1000, typed + 2000)]
    assert found.unproxied[0].confidence > 0.5


def test_another_model_is_not_paired_and_another_instance_only_for_want_of_better() -> None:
    schedule = Schedule()
    other = schedule.add("Hi", answer="Hello!", model="gemma")
    instance = schedule.add("Good morning", answer="Morning!", model="smollm2:2")
    pairings, found = _match(schedule)
    assert pairings[other].input_id is None
    assert pairings[other].output_id is None
    assert _is_paired(pairings[instance], instance)
    assert 0.5 < pairings[instance].input_confidence < 1
    assert pairings[instance].why == "the log calls the model smollm2:2"
    assert [one.input_id for one in found.unproxied] == [other + 1000]
    exact = schedule.add("Good morning", answer="Morning!!")
    pairings, _ = _match(schedule)
    assert pairings[exact].input_id == exact + 1000


def test_the_same_texts_with_other_tools_are_told_apart_by_their_outputs_or_not_at_all() -> None:
    schedule = Schedule()
    plain = schedule.add("Go on", answer="I went on.", generation_ms=300)
    tools = schedule.add("Go on", answer="I used a tool.", at_ms=200, tools="<tools>look</tools>\n", generation_ms=900)
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[plain], plain)
    assert _is_paired(pairings[tools], tools)
    schedule.outputs.clear()
    pairings, found = _match(schedule)
    assert pairings[plain].input_id is pairings[tools].input_id is None
    assert set(pairings[plain].input_rivals) == {plain + 1000, tools + 1000}
    assert "nothing tells" in str(pairings[plain].why)
    assert not found.unproxied


def test_of_equal_calls_with_too_few_prompts_none_is_given_one() -> None:
    schedule = Schedule()
    calls = [schedule.add("Hi", answer="Hello!", has_input=number == 0) for number in range(2)]
    pairings, _ = _match(schedule)
    assert [pairings[call].input_id for call in calls] == [None, None]
    assert "fewer prompts" in str(pairings[calls[0]].why)


def test_a_call_that_failed_before_the_engine_says_so() -> None:
    schedule = Schedule()
    call = schedule.add("Hi", has_input=False, has_output=False)
    assert "failed before the engine" in str(_match(schedule)[0][call].why)


def test_a_call_whose_events_are_lost_says_so() -> None:
    schedule = Schedule()
    lost = schedule.add("Hi", answer="Hello!", has_input=False, has_output=False)
    half = schedule.add("Good morning", answer="Morning!", at_ms=60_000, has_output=False)
    pairings, _ = _match(schedule)
    assert pairings[lost].why == "no event of the engine's log came in its time"
    assert pairings[half].input_id == half + 1000
    assert pairings[half].output_id is None


def test_events_that_arrive_late_are_still_paired() -> None:
    schedule = Schedule()
    call = schedule.add("Hi", answer="Hello!", delay_ms=1900)
    late = schedule.add("Hello", answer="Hi!", delay_ms=9000)
    pairings, _ = _match(schedule)
    assert _is_paired(pairings[call], call)
    assert pairings[late].input_id is None


WORDS = ["amber", "brook", "cedar", "delta", "ember", "flint", "grove", "haven", "inlet", "jetty", "knoll", "larch"]


@st.composite
def schedules(draw: st.DrawFn, *, is_unique: bool) -> Schedule:
    """Up to a dozen predictions, some at the same time, some not proxied, some with events lost or late."""
    schedule = Schedule()
    for number in range(draw(st.integers(1, 12))):
        own = f" {number} " if is_unique else " "
        pick = st.sampled_from(WORDS if is_unique else WORDS[:2])
        size = draw(st.integers(1, 4)) * 2 - 1 if is_unique else 1
        texts = [f"{draw(pick)}{own}{draw(pick)}" if is_unique else draw(pick) for _ in range(size)]
        answer = f"{draw(pick)} {number:03} {draw(pick)}" if is_unique else draw(pick)
        left = draw(st.integers(0, len(texts) // 2)) * 2 if is_unique else 0
        is_cut_short = draw(st.booleans())
        ttft, generation = draw(st.sampled_from([50, 100, 700])), draw(st.sampled_from([50, 400, 2000]))
        schedule.add(
            *texts,
            prompt=chatml(texts[left:]),
            answer=answer[: draw(st.integers(10, len(answer)))] if is_cut_short and is_unique else answer,
            output=answer,
            at_ms=draw(st.integers(0, 20)) * 150,
            ttft_ms=ttft,
            generation_ms=generation,
            open_ms=ttft + generation + draw(st.sampled_from([0, 300])),
            delay_ms=draw(st.sampled_from([1, 5, 300, 1900])),
            tokens=(len(texts), len(answer)) if draw(st.booleans()) else None,
            is_cut_short=is_cut_short and is_unique,
            is_proxied=draw(st.integers(0, 4)) > 0 or not is_unique,
            has_input=draw(st.integers(0, 7)) > 0,
            has_output=draw(st.integers(0, 7)) > 0,
        )
    return schedule


@given(schedule=schedules(is_unique=True), seed=st.integers(0, 1000))
@settings(max_examples=100)
def test_unique_texts_are_never_paired_wrongly(schedule: Schedule, seed: int) -> None:
    order = random.Random(seed)
    for events in (schedule.inputs, schedule.outputs):
        order.shuffle(events)
    pairings, found = _match(schedule)
    for call, pairing in pairings.items():
        assert pairing.input_id in (None, call + 1000)
        assert pairing.output_id in (None, call + 2000)
        if any(event.id == call + 1000 for event in schedule.inputs):
            # Where its own output is lost, another one may end at a time that tells against it.
            is_whole = any(event.id == call + 2000 for event in schedule.outputs)
            assert pairing.input_id == call + 1000 or (not is_whole and pairing.input_id is None)
        assert pairing.input_id is not None or pairing.why is not None
    for one in found.unproxied:
        assert one.input_id is None or one.input_id - 1000 not in pairings
        assert one.confidence < 1


@given(schedule=schedules(is_unique=False), seed=st.integers(0, 1000))
@settings(max_examples=100)
def test_of_equal_texts_nothing_is_asserted_that_may_be_wrong(schedule: Schedule, seed: int) -> None:
    order = random.Random(seed)
    for events in (schedule.inputs, schedule.outputs):
        order.shuffle(events)
    texts = {event.id: event.text for event in schedule.inputs}
    pairings, _ = _match(schedule)
    for call in schedule.calls:
        pairing = pairings[call.id]
        assert pairing.input_id is None or texts[pairing.input_id] == chatml(call.texts)
        assert pairing.output_id in (None, call.id + 2000)
        if pairing.input_confidence == 1:
            assert pairing.input_id == call.id + 1000
    for events_used in ([one.input_id for one in pairings.values()], [one.output_id for one in pairings.values()]):
        used = [event for event in events_used if event is not None]
        assert len(used) == len(set(used))


def test_a_thousand_calls_at_the_same_time_are_all_paired() -> None:
    schedule = Schedule()
    calls = [
        schedule.add(f"Question {number} of many", answer=f"Answer {number}.", open_ms=90_000, delay_ms=number % 900)
        for number in range(1000)
    ]
    random.Random(1).shuffle(schedule.inputs)
    random.Random(2).shuffle(schedule.outputs)
    # Ids of the schedule grow by three for each call.
    pairings, found = _match(schedule)
    assert all(_is_paired(pairings[call], call) for call in calls)
    assert not found.unproxied
