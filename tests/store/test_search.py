"""Search finds what was said, in any language, however few its characters are."""

from collections.abc import Iterator
from itertools import count

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from proxy.store.search import Search, folded
from tests.store.traffic import Traffic, traffic, turns

numbers = count()


def find(made: Traffic, words: str, limit: int = 20) -> list[str]:
    """The texts of the messages that are found."""
    hits = Search(made.connection).find(words, limit)
    return [made.values("SELECT text FROM messages WHERE id = ?", hit.message_id)[0] for hit in hits]


def say(made: Traffic, *texts: str) -> None:
    for text in texts:
        made.chat(turns(text), {"role": "assistant", "content": None})
    made.read()


FRENCH = ["L'été à l'étang.", "L'ÉTÉ À L'ÉTANG.", "L'e\u0301te\u0301 a\u0300 l'e\u0301tang."]
CHINESE = "白日依山尽\uff0c黄河入海流"
OTHERS = ["eine Straße", "la ﬁn", "Ελλάδα και Σίσυφος", "Привет!", "안녕하세요", "🦊 👩\u200d💻 ok", "नमस्ते दुनिया"]
CODE = "a['b'] = \"quoted\" # x -> y (*p)++ %d_%s NOT x OR AND \na\nb \\n {} `;'; -- * "


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    """A trace with texts of many kinds, for tests that only search."""
    with traffic(tmp_path_factory.mktemp("library") / "t.db") as opened:
        say(opened, *FRENCH, "L'hiver au lac.", CHINESE, "欲穷千里目", *OTHERS, CODE, "The end")
        yield opened


# --- languages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["été", "ete", "ÉTÉ", "Ete", "e\u0301te\u0301", "L'été à l'étang", "l'ete a l'etang"])
def test_french_is_found_without_regard_to_accents_and_case(library: Traffic, words: str) -> None:
    assert find(library, words) == FRENCH[::-1]


@pytest.mark.parametrize("words", ["河", "黄河", "入海流", "黄河入海流", "流"])
def test_chinese_is_found_from_one_character_on(library: Traffic, words: str) -> None:
    assert find(library, words) == [CHINESE]


@pytest.mark.parametrize(
    ("words", "where"),
    [
        *(("Straße", 0), ("STRASSE", 0), ("ﬁn", 1), ("fin", 1), ("ΣΊΣΥΦΟΣ", 2), ("σίσυφος", 2), ("ελ", 2)),
        *(("привет", 3), ("ПРИВЕТ", 3), ("안녕", 4), ("👩\u200d💻", 5), ("🦊", 5), ("नमस्ते", 6)),
    ],
)
def test_other_languages_and_emoji_are_found(library: Traffic, words: str, where: int) -> None:
    assert find(library, words) == [OTHERS[where]]


@pytest.mark.parametrize(
    "words", ["a['b']", '"quoted"', "x -> y", "(*p)++", "%d_%s", "NOT x OR", "--", "a\nb", "\\n", "{}", "`", "';", "* "]
)
def test_code_is_found_as_it_is_written(library: Traffic, words: str) -> None:
    assert find(library, words) == [CODE]


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["d", "nd", "end", "the end", "T", "Th", "The"])
def test_words_at_the_very_beginning_and_end_are_found(library: Traffic, words: str) -> None:
    assert find(library, words)[0] == "The end"


@pytest.mark.parametrize("text", ["x", "xy", "你"])
def test_a_text_of_one_or_two_characters_is_found(made: Traffic, text: str) -> None:
    say(made, text, "abc")
    assert find(made, text) == [text]


def test_what_only_tools_and_reasoning_say_is_found(made: Traffic) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": '{"city":"Zürich"}'}}
    answer = {
        "role": "assistant",
        "content": "Wait.",
        "reasoning_content": "The user means Helvetia",
        "tool_calls": [call],
    }
    result = {"role": "tool", "tool_call_id": "c", "content": "rain at dusk"}
    made.chat(turns("u1"), answer)
    made.chat([*turns("u1", answer), result], "Umbrella")
    made.read()
    search = Search(made.connection)
    roles = {words: [hit.role for hit in search.find(words)] for words in ("zurich", "look_up", "helvetia", "dusk")}
    assert roles == {"zurich": ["assistant"], "look_up": ["assistant"], "helvetia": ["assistant"], "dusk": ["tool"]}


def test_a_hit_tells_where_it_is(made: Traffic) -> None:
    text = "x" * 100 + " L'ÉTÉ " + "y" * 100
    exchange = made.chat(turns(text))
    made.read()
    (hit,) = Search(made.connection).find("l'ete")
    assert (hit.before, hit.found, hit.after) == ("x" * 59 + " ", "L'ÉTÉ", " " + "y" * 59)
    assert (hit.role, hit.exchange_id) == ("user", exchange)
    assert hit.call_id == made.call(exchange)["id"]


@pytest.mark.parametrize("text", ["ﬁ word e\u0301", "e\u0301 word ﬁ", "Straße: e\u0301 word", "word"])
def test_a_hit_is_told_as_it_is_written_whatever_folding_does_to_lengths(made: Traffic, text: str) -> None:
    say(made, text)
    (hit,) = Search(made.connection).find("WORD")
    assert (hit.before + hit.found + hit.after, hit.found) == (text, "word")


def test_a_hit_far_down_in_a_long_text_is_told_as_it_is_written(made: Traffic) -> None:
    say(made, "ﬁ" * 3000 + "e\u0301" * 3000 + "word")
    (hit,) = Search(made.connection).find("WORD")
    assert (hit.before, hit.found, hit.after) == ("e\u0301" * 30, "word", "")


# --- order ------------------------------------------------------------------------------------------------------------


def test_the_newest_come_first_and_the_limit_holds(made: Traffic) -> None:
    say(made, *(f"needle {number}" for number in range(30)))
    assert find(made, "needle", 3) == ["needle 29", "needle 28", "needle 27"]
    assert find(made, "needle", 100) == [f"needle {number}" for number in reversed(range(30))]
    assert len(find(made, "needle")) == 20
    assert find(made, "needle", 0) == []


def test_one_can_go_on_where_a_search_ended(made: Traffic) -> None:
    say(made, *(f"needle {number}" for number in range(5)))
    search = Search(made.connection)
    first = search.find("needle", 3)
    rest = search.find("needle", 3, before_id=first[-1].message_id)
    assert [hit.message_id for hit in first + rest] == sorted((hit.message_id for hit in first + rest), reverse=True)
    assert len(first + rest) == 5


def test_a_message_that_was_sent_again_is_found_once(made: Traffic) -> None:
    for _ in range(3):
        made.chat(turns("the needle"))
    made.read()
    assert find(made, "needle") == ["the needle"]


def test_words_that_have_all_trigrams_and_are_not_there_are_not_found(made: Traffic) -> None:
    say(made, "abc bcd", "abcd")
    assert find(made, "abcd") == ["abcd"]


def test_two_characters_that_go_on_in_very_many_ways_are_found(made: Traffic) -> None:
    """One character begins more trigrams than one query can name; the one that is asked for may be among the last."""
    say(made, "".join(f"的{chr(0x4E00 + number)}" for number in range(2000)), "是的\U00020000")
    assert find(made, "的")[0] == "是的\U00020000"
    assert find(made, "的\U00020000") == ["是的\U00020000"]
    assert find(made, "\U00020000") == ["是的\U00020000"]


@pytest.mark.parametrize(
    "words", ["", " ", "\u0301", "\0", "\ud7ff", "\U0010ffff", "\U0010ffff\U0010ffff", "\ud800", "\ud800abc"]
)
def test_words_that_nothing_can_have_are_no_error(library: Traffic, words: str) -> None:
    assert find(library, words) == []


def test_another_trace_may_be_empty(made: Traffic) -> None:
    made.read()
    assert find(made, "a") == find(made, "abc") == []


# --- any text ---------------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
ODD = st.text(
    st.sampled_from(
        "aA éÉßﬁﬀİKåΣςǅ™한각가ᄒ你好🦊Ꭰꭰ\u0131\u017f\u03c3\u0301\u0345\u200d\u0951\u093c\0\n\"'%*()-\ud7ff\U0010ffff"
    ),
    min_size=1,
)


@settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=TEXT | ODD, data=st.data())
@example(text="\0a\0", data=None)
def test_any_part_of_any_text_is_found(shared: Traffic, text: str, data: st.DataObject | None) -> None:
    assume("".join(map(folded, text)) == folded(text))  # Unicode changes the order of some marks: no part has it then
    shared.chat(turns(text), {"role": "assistant", "content": None}, f"X-Proxy-Log-Session: {next(numbers)}")
    shared.read()
    (message_id,) = shared.values("SELECT id FROM messages WHERE text = ?", text)
    start = data.draw(st.integers(0, len(text) - 1)) if data is not None else 0
    end = data.draw(st.integers(start + 1, len(text))) if data is not None else len(text)
    words = text[start:end]
    assume(folded(words).replace("\0", " ").strip())
    hits = {hit.message_id: hit for hit in Search(shared.connection).find(words, 1 << 20)}
    assert message_id in hits
    hit = hits[message_id]
    assert hit.before + hit.found + hit.after in text
    assert folded(words) in folded(hit.found)
