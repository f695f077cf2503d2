"""`proxy-log search` finds words in what was asked and answered."""

import json
import re

from tests.cli.conftest import Run
from tests.cli.conversations import ask, read, record_conversations, said
from tests.cli.recording import Recording


def test_line_tells_exchange_role_and_place(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    assert run("search", "mice").stdout.splitlines() == [
        "     1 assistant Mice are small.",
        "     1 user      Tell me about mice.",
    ]


def test_message_that_was_sent_again_is_listed_once(recorded: Recording, run: Run) -> None:
    texts = ["Once upon a time"]
    for number in range(5):
        ask(recorded, said(*texts), f"Answer {number}.")
        texts += [f"Answer {number}.", f"Go on, {number}."]
    read(recorded)
    assert run("search", "upon").stdout == "     1 user      Once upon a time\n"


def test_case_accents_and_parts_of_words_make_no_difference(recorded: Recording, run: Run) -> None:
    ask(recorded, said("Un \u00c9l\u00e9phant tr\u00e8s grand"), "\u5927\u8c61\u5f88\u5927")
    read(recorded)
    for words in ("elephant", "\u00e9L\u00e9PHANT", "phant tres", "\u00e9l"):
        assert run("search", words).stdout == "     1 user      Un \u00c9l\u00e9phant tr\u00e8s grand\n"
    assert run("search", "\u5927\u8c61").stdout == "     1 assistant \u5927\u8c61\u5f88\u5927\n"


def test_several_words_stand_side_by_side(recorded: Recording, run: Run) -> None:
    ask(recorded, said("one two three"), "three two one")
    read(recorded)
    assert run("search", "two", "three").stdout == "     1 user      one two three\n"


def test_newest_come_first_and_n_limits(recorded: Recording, run: Run) -> None:
    for number in range(5):
        ask(recorded, said(f"Question {number}"), f"Reply {number}")
    read(recorded)
    found = [line.split()[0] for line in run("search", "-n", "3", "question").stdout.splitlines()]
    assert found == ["5", "4", "3"]


def test_json_gives_one_object_a_line(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    (hit,) = (json.loads(line) for line in run("search", "--json", "verses").stdout.splitlines())
    assert (hit["role"], hit["exchange_id"], hit["found"]) == ("system", 7, "verses")
    assert hit["before"].endswith("You write in ")


def test_tool_calls_are_found(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    assert '"city":"Paris"' in run("search", '"city"').stdout


def test_nothing_found_and_nothing_read_are_told(recorded: Recording, run: Run) -> None:
    ask(recorded, said("Hello."), "Hi.")
    recorded.take_in()
    assert run("search", "Hello").stdout.splitlines() == [
        "No message has 'Hello'.",
        "1 exchange is not read yet; proxy-log index reads it.",
    ]
    read(recorded)
    assert run("search", "  ").stdout == "No message has '  '.\n"
    assert run("search", "--json", "absent").stdout == ""


def test_foreign_text_cannot_steer_the_terminal(recorded: Recording, run: Run) -> None:
    ask(recorded, said("needle \x1b[2J\u202e\nnext"), "Hi.")
    read(recorded)
    printed = run("search", "needle").stdout
    assert not re.search("[\x1b\u202e]", printed)
    assert len(printed.splitlines()) == 1


def test_without_words_it_is_used_wrongly(run: Run) -> None:
    assert run("search").exit_code == 2
