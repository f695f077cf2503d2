"""Which message each stretch of a prompt came from: by real templates, by hand-made ones, after every kind of cut."""

import asyncio
import json
import random
import urllib.request
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo import word_tokens
from proxy.demo.chat_template import CHATML, render
from proxy.demo.llama_process import LlamaProcess
from proxy.demo.overflow import fit
from proxy.meaning import SpanKind
from proxy.prompt.alignment import Alignment, Fate, Piece, align

Chat = list[dict[str, Any]]
LONG = "A lighthouse stands on the cliff, and number {} of its lamps is lit at dusk."


def pieces_of(messages: Sequence[dict[str, Any]]) -> list[Piece]:
    return [Piece(SpanKind.MESSAGE, position, one["role"], (one["content"],)) for position, one in enumerate(messages)]


def said(*texts: str, system: str | None = None) -> Chat:
    """Turns of user and assistant."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system is not None else []) + turns


def fates_of(found: Alignment) -> list[str]:
    return [one.fate.value for one in found.fates]


def assert_lawful(prompt: str, pieces: Sequence[Piece], found: Alignment) -> None:
    """Spans cover the prompt; each that has a place in a text equals it; ranges are what the spans say."""
    ends = [0, *(span.end for span in found.spans)]
    assert [span.start for span in found.spans] == ends[:-1]
    assert ends[-1] == len(prompt)
    assert all(span.start < span.end for span in found.spans)
    texts = {(one.kind, one.position): one.texts for one in pieces}
    ranges = set()
    for span in found.spans:
        if span.part_start is None or span.position is None or span.part is None:
            continue
        end = span.part_start + span.end - span.start
        text = texts[span.kind, span.position][span.part]
        assert text[span.part_start : end] == prompt[span.start : span.end]
        if span.kind is SpanKind.MESSAGE:
            ranges.add((span.position, span.part, span.part_start, end))
    assert ranges == {(one.position, *each) for one in found.fates for each in one.ranges}
    assert [one.position for one in found.fates] == [one.position for one in pieces if one.kind is SpanKind.MESSAGE]


def aligned(prompt: str, pieces: Sequence[Piece]) -> Alignment:
    found = align(prompt, pieces)
    assert_lawful(prompt, pieces, found)
    return found


def text_of(prompt: str, found: Alignment, position: int, kind: SpanKind = SpanKind.MESSAGE) -> list[str]:
    return [prompt[one.start : one.end] for one in found.spans if (one.kind, one.position) == (kind, position)]


# --- laws -------------------------------------------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text("ab \n", min_size=1, max_size=12),
    st.sampled_from(
        ["yes", "ok", "ok\nok", "user", "assistant", "yes, ok", "Say yes or ok.", " no ", "é\n", "<think>"]
    ),
    st.text(min_size=1, max_size=40),
).filter(lambda text: bool(text.strip()))


@settings(max_examples=100)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.booleans())
def test_all_of_a_whole_chat_is_kept(texts: list[str], has_system: bool) -> None:
    messages = said(*texts[1:], system=texts[0]) if has_system else said(*texts)
    prompt = render(CHATML, messages)
    found = aligned(prompt, pieces_of(messages))
    assert set(fates_of(found)) == {"kept"}


@settings(max_examples=100)
@given(st.lists(st.one_of(TEXTS, st.integers(0, 99).map(LONG.format)), min_size=1, max_size=12, unique=True), st.data())
def test_a_long_unique_message_that_was_dropped_is_never_kept(texts: list[str], data: st.DataObject) -> None:
    messages = said(*texts)
    kept = data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts)))
    prompt = render(CHATML, [one for one, is_kept in zip(messages, kept, strict=True) if is_kept])
    found = aligned(prompt, pieces_of(messages))
    for text, is_kept, fate in zip(texts, kept, found.fates, strict=True):
        if text.startswith("A lighthouse"):
            assert fate.fate is (Fate.KEPT if is_kept else Fate.MISSING)


@settings(max_examples=100)
@given(
    st.text('ab{}":,[]<>\n é\ud83d', max_size=80),
    st.lists(st.lists(st.text('ab{}":,\n \ud83d', max_size=20), max_size=3), max_size=5),
    st.lists(st.lists(st.text('ab{}":, ', max_size=20), max_size=3), max_size=3),
)
def test_any_strings_are_aligned(prompt: str, messages: list[list[str]], tools: list[list[str]]) -> None:
    pieces = [Piece(SpanKind.MESSAGE, n, "user", tuple(texts)) for n, texts in enumerate(messages)]
    pieces += [Piece(SpanKind.TOOLS, n, "tool", tuple(texts)) for n, texts in enumerate(tools)]
    aligned(prompt, pieces)


@settings(max_examples=100)
@given(st.text("abc \n", min_size=80, max_size=200), st.integers(0, 1000), st.integers(20, 60))
def test_what_is_left_of_a_cut_text_is_found_at_both_ends(noise: str, at: int, cut: int) -> None:
    text = f"Once upon a time there was a fox. {noise} And so the fox went home at last."
    head = 10 + at % (len(text) - cut - 20)
    prompt = render(
        CHATML, said("First of all, who are you?", "I am a model.", text[:head] + text[head + cut :], "Bye.")
    )
    found = aligned(prompt, pieces_of(said("First of all, who are you?", "I am a model.", text, "Bye.")))
    assert found.fates[2].fate is Fate.PARTLY
    left = sum(end - start for _, start, end in found.fates[2].ranges)
    assert left == len(text) - cut


# --- short texts ------------------------------------------------------------------------------------------------------


def test_a_short_text_is_not_found_in_the_words_of_others() -> None:
    messages = said(
        "ok", "Then we begin: is all ok with you?", "It is ok\nwith me, so go on please.", "Very well, then."
    )
    found = aligned(render(CHATML, messages[1:]), pieces_of(messages))
    assert fates_of(found) == ["missing", "kept", "kept", "kept"]


def test_a_role_is_no_message() -> None:
    messages = said("user", "assistant", "What is your name, by the way?", "I have none, I am afraid.")
    found = aligned(render(CHATML, messages[2:]), pieces_of(messages))
    assert fates_of(found) == ["missing", "missing", "kept", "kept"]
    assert fates_of(aligned(render(CHATML, messages), pieces_of(messages))) == ["kept"] * 4


def test_of_equal_messages_the_newest_are_kept() -> None:
    messages = said("yes", "Really? Are you sure of it?", "yes", "Then I believe it as well.", "yes")
    found = aligned(render(CHATML, messages[2:]), pieces_of(messages))
    assert fates_of(found) == ["missing", "missing", "kept", "kept", "kept"]


def test_a_quoted_message_is_not_taken_for_itself() -> None:
    quote = "The meeting is on Monday at nine."
    messages = said(quote, "I see.", f"I said: {quote} Did you hear?", "Yes, I did hear it.")
    assert fates_of(aligned(render(CHATML, messages), pieces_of(messages))) == ["kept"] * 4
    found = aligned(render(CHATML, messages[2:]), pieces_of(messages))
    assert fates_of(found) == ["missing", "missing", "kept", "kept"]


def test_a_mark_without_special_tokens_is_learnt_from_long_messages() -> None:
    messages = said(LONG.format(1), LONG.format(2), "hi", "ho", LONG.format(3))
    names = {"user": "USER: ", "assistant": " ASSISTANT: "}
    prompt = "".join(names[one["role"]] + one["content"] for one in messages).replace("dusk.USER", "dusk. USER")
    prompt = prompt.replace("hoUSER", "ho USER") + " ASSISTANT:"
    found = aligned(prompt, pieces_of(messages))
    assert fates_of(found) == ["kept"] * 5
    assert text_of(prompt, found, 2) == ["hi"]


# --- templates --------------------------------------------------------------------------------------------------------


def test_gemma_puts_the_system_into_the_first_turn() -> None:
    messages = said(" Hi!\n", "Hello.", "ok", system="Be brief.\n")
    prompt = (
        "<bos><start_of_turn>user\nBe brief.\n\nHi!<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n"
        "<start_of_turn>user\nok<end_of_turn>\n<start_of_turn>model\n"
    )
    found = aligned(prompt, pieces_of(messages))
    assert fates_of(found) == ["kept"] * 4
    assert [text_of(prompt, found, n) for n in range(4)] == [["Be brief.\n"], ["Hi!"], ["Hello."], ["ok"]]


def test_mistral_and_llama_3_keep_all() -> None:
    messages = said("Hi!", "Hello.", "ok", system="Be brief.")
    mistral = "<s>[INST] Be brief.\n\nHi! [/INST] Hello.</s>[INST] ok [/INST]"
    llama = "<|begin_of_text|>" + "".join(
        f"<|start_header_id|>{one['role']}<|end_header_id|>\n\n{one['content']}<|eot_id|>" for one in messages
    )
    for prompt in (mistral, llama):
        assert fates_of(aligned(prompt, pieces_of(messages))) == ["kept"] * 4


def test_a_thought_that_a_template_leaves_out_is_told_as_partly_kept() -> None:
    answer = "<think>\nThe user greets me.\n</think>\n\nHello!"
    messages = said("Hi there, friend.", answer, "How are you?")
    sent = [messages[0], {"role": "assistant", "content": "Hello!"}, messages[2]]
    found = aligned(render(CHATML, sent), pieces_of(messages))
    assert fates_of(found) == ["kept", "partly", "kept"]
    assert found.fates[1].ranges == ((0, answer.index("Hello!"), len(answer)),)


def test_a_tool_call_written_anew_is_changed_and_one_as_sent_is_kept() -> None:
    arguments = '{"city":"Orléans","days":2}'
    for written, fate in (('{"days": 2, "city": "Orl\\u00e9ans"}', Fate.CHANGED), (arguments, Fate.KEPT)):
        pieces = [
            Piece(SpanKind.MESSAGE, 0, "user", ("How warm is it?",)),
            Piece(SpanKind.MESSAGE, 1, "assistant", (f"get_weather\n{arguments}",)),
            Piece(SpanKind.MESSAGE, 2, "tool", ('Il fait "chaud" à Orléans.',)),
        ]
        prompt = (
            "<|im_start|>user\nHow warm is it?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
            f'{{"name": "get_weather", "arguments": {written}}}\n</tool_call><|im_end|>\n'
            '<|im_start|>tool\n{"content": "Il fait \\"chaud\\" \\u00e0 Orl\\u00e9ans."}<|im_end|>\n'
        )
        found = aligned(prompt, pieces)
        assert [one.fate for one in found.fates] == [Fate.KEPT, fate, Fate.CHANGED]


def test_tools_are_found_within_the_system_turn() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "description": "Où ?"}}}
    tools = [
        {"type": "function", "function": {"name": name, "description": f"Tells {name}.", "parameters": schema}}
        for name in ("weather", "time")
    ]
    messages = said("How warm is it?", system="Be brief.")
    prompt = render(CHATML, messages, tools=tools)
    pieces = pieces_of(messages) + [
        Piece(SpanKind.TOOLS, n, "tool", (name, f"Tells {name}.", json.dumps(schema)))
        for n, name in enumerate(("weather", "time"))
    ]
    found = aligned(prompt, pieces)
    assert fates_of(found) == ["kept", "kept"]
    assert [json.loads(text_of(prompt, found, n, SpanKind.TOOLS)[0]) for n in range(2)] == tools


def test_parts_of_a_message_that_stand_side_by_side_are_kept() -> None:
    pieces = [
        Piece(SpanKind.MESSAGE, 0, "user", ("", "What is on this picture of the sea?", "ok")),
        Piece(SpanKind.MESSAGE, 1, "user", ("",)),
    ]
    found = aligned("<|im_start|>user\n<|image|>What is on this picture of the sea?ok<|im_end|>\n", pieces)
    assert [one.fate for one in found.fates] == [Fate.KEPT, Fate.NOT_TEXT]


def test_a_default_system_prompt_is_the_templates_own() -> None:
    messages = said("Hello, who are you?", system="You are a helpful assistant.")
    prompt = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n" + render(
        CHATML, messages[1:]
    )
    assert fates_of(aligned(prompt, pieces_of(messages))) == ["missing", "kept"]


def test_real_llama_cpp_adds_its_system_prompt_and_keeps_all(llama_server: LlamaProcess) -> None:
    messages = said("Écris un poème sur l'éléphant 🐘.", " ok\n", "Encore !", "ok", "yes")
    body = json.dumps({"messages": messages}).encode()
    request = urllib.request.Request(f"{llama_server.url}/apply-template", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        prompt = json.load(answer)["prompt"]
    found = aligned(prompt, pieces_of(messages))
    assert fates_of(found) == ["kept"] * 5
    assert found.spans[0].kind is SpanKind.TEMPLATE
    assert "You are a helpful AI assistant named SmolLM" in prompt[: found.spans[0].end]


# --- overflow ---------------------------------------------------------------------------------------------------------


async def _rendered(messages: Sequence[Any]) -> tuple[str, list[int]]:
    prompt = render(CHATML, messages)
    return prompt, word_tokens.tokenize(prompt)


@pytest.mark.parametrize("policy", ["rollingWindow", "truncateMiddle"])
def test_messages_that_a_policy_drops_are_missing(policy: str) -> None:
    chat = said(*(text for n in range(8) for text in (LONG.format(n), "ok")), "And now?", system="You keep the light.")
    fitted = asyncio.run(fit(_rendered, chat, policy, 256))
    is_there = [("And now?" if one["content"] == "ok" else one["content"]) in fitted.prompt for one in chat]
    found = aligned(fitted.prompt, pieces_of(chat))
    expected = ["kept" if kept else "missing" for kept in is_there]
    told = fates_of(found)
    long = [n for n, one in enumerate(chat) if one["content"] != "ok"]
    assert [told[n] for n in long] == [expected[n] for n in long]
    assert "missing" in told
    assert told.count("kept") == fitted.prompt.count("<|im_start|>") - 1


def test_a_single_message_that_is_cut_has_a_head_and_a_tail() -> None:
    story = " ".join(LONG.format(n) for n in range(60))
    chat = said(story, system="You keep the light.")
    fitted = asyncio.run(fit(_rendered, chat, "truncateMiddle", 256))
    assert fitted.is_cut
    prompt = word_tokens.detokenize(fitted.tokens)
    found = aligned(prompt, pieces_of(chat))
    assert fates_of(found) == ["kept", "partly"]
    assert "".join(story[start:end] for _, start, end in found.fates[1].ranges) in prompt
    rolled = word_tokens.detokenize(asyncio.run(fit(_rendered, chat, "rollingWindow", 256)).tokens)
    last = aligned(rolled, pieces_of(chat))
    assert fates_of(last) == ["missing", "partly"]
    assert last.fates[1].ranges[-1][2] == len(story)


def test_a_long_chat_costs_few_searches() -> None:
    """500 messages and 200,000 characters; a quadratic search would run into the suite's limit of time."""
    draw = random.Random(7)
    words = ["light", "sea", "lamp", "cliff", "dusk", "ok", "yes", "boat", "gull", "wind"]
    texts = [" ".join(draw.choices(words, k=draw.choice((1, 1, 160)))) for _ in range(500)]
    messages = said(*texts)
    prompt = render(CHATML, messages)
    assert set(fates_of(aligned(prompt, pieces_of(messages)))) == {"kept"}
    found = aligned(render(CHATML, messages[250:]), pieces_of(messages))
    long = [n for n, text in enumerate(texts) if len(text) > 99]
    assert all((found.fates[n].fate is Fate.KEPT) is (n >= 250) for n in long)
    assert all(one.end == two.start for one, two in pairwise(found.spans))
