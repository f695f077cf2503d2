"""The scripted engine's tokenizer: reversible, the same in every run."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo import word_tokens
from proxy.demo.engine import EngineError
from proxy.demo.server import LookalikeServer
from tests.demo.lookalikes import get, logged, post, run, until

texts = st.text() | st.text(" aZzé🙂<|im_end>", max_size=30)


@given(texts, st.booleans())
def test_text_comes_back_from_its_tokens(text: str, special: bool) -> None:
    assert word_tokens.detokenize(word_tokens.tokenize(text, special=special)) == text


@given(texts)
def test_tokens_fit_31_bits(text: str) -> None:
    assert all(0 <= token < 2**31 for token in word_tokens.tokenize(text))


@given(st.integers())
def test_number_is_a_token_or_refused(token: int) -> None:
    try:
        text = word_tokens.token_bytes(token)
    except EngineError:
        return
    assert len(text) == 1 or word_tokens.tokenize(text.decode()) == [token]


def test_special_tokens_are_single_ones_unless_they_are_text() -> None:
    assert word_tokens.tokenize("<|im_start|>") == [word_tokens.START]
    assert len(word_tokens.tokenize("<|im_start|>", special=False)) > 1


def test_words_go_with_the_space_before_them() -> None:
    tokens = word_tokens.tokenize("Hello big world")
    assert [word_tokens.token_bytes(token) for token in tokens] == [b"Hello", b" big", b" world"]


def test_half_a_surrogate_pair_becomes_a_question_mark() -> None:
    assert word_tokens.detokenize(word_tokens.tokenize("a\ud800b")) == "a?b"


def test_unknown_token_is_refused() -> None:
    with pytest.raises(EngineError, match="no token 299"):
        word_tokens.detokenize([299])


def test_long_text_lets_others_be_answered_meanwhile() -> None:
    async def test(server: LookalikeServer) -> None:
        body = {"model": "scripted-7b-instruct", "prompt": "antidisestablishmentarianism " * 150_000}
        long = asyncio.create_task(post(server, "/v1/completions", body))
        await until(lambda: any("Received request: POST" in line for line in logged(server)))
        longest_s = 0.0
        while not long.done():
            began = time.monotonic()
            assert (await get(server, "/lmstudio-greeting")).status == 200
            longest_s = max(longest_s, time.monotonic() - began)
        assert (await long).status == 400
        assert longest_s < 0.6  # 4.4 MB took 1.8 s in one go

    run(test)
