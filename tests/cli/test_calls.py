"""`proxy-log calls` lists what models were asked and answered, and shows a conversation as a tree."""

import io
import json
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from proxy.cli.call_line import CallLayout, speed
from proxy.cli.call_rows import CallRow, latest_calls, part_text
from proxy.cli.call_tree import tree_lines
from proxy.store.trace import Trace
from tests.cli.conftest import Run
from tests.cli.conversations import ask, read, record_conversations, said, stream
from tests.cli.recording import Recording


def _calls(recorded: Recording) -> list[CallRow]:
    with Trace.open(recorded.trace) as trace:
        return latest_calls(trace.connection, 1000)


def test_line_tells_everything(recorded: Recording, run: Run) -> None:
    ask(recorded, said("Tell me about mice."), "Mice are small.")
    stream(recorded, said("Write about the sea."), ["The", " sea", " is", " deep"])
    read(recorded)
    asked, streamed = run("calls").stdout.splitlines()
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf" +1 +1 {when} new +smollm2-135m-instruct +31 +12 125ms +61\.2 +- +-  stop +> Tell me about mice\."
        r"  < Mice are small\.",
        asked,
    )
    assert re.fullmatch(
        rf" +2 +2 {when} new +qwen3-4b-q4_k_m +20 +4 +- +- +2[01]ms +50\.0  length +> Write about the sea\."
        r"  < The sea is deep",
        streamed,
    )


def test_newest_stand_at_the_end_and_n_limits(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    assert [int(line.split()[0]) for line in run("calls").stdout.splitlines()] == list(range(1, 9))
    assert [int(line.split()[0]) for line in run("calls", "-n", "2").stdout.splitlines()] == [7, 8]


def test_labels_tool_calls_and_errors_are_told(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    lines = run("calls").stdout.splitlines()
    labels = [line.split()[4] for line in lines]
    assert labels == [*("new", "continue", "branch", "regenerate", "new", "tool_round", "new", "new")]
    assert lines[4].endswith('  < weather({"city":"Paris"})')
    assert "> [tool result] 18 degrees, rain  <" in lines[5]
    assert lines[7].endswith("  ! no model is loaded")
    assert " error " in lines[7]


def test_json_gives_all_columns_of_the_view(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    found = [json.loads(line) for line in run("calls", "--json").stdout.splitlines()]
    assert [call["id"] for call in found] == list(range(1, 9))
    assert found[0]["stats"]["tokens_per_second"] == 61.25
    assert found[4]["answer_parts"][0]["name"] == "weather"
    assert (found[6]["reported_tokens_per_second"], found[6]["measured_tokens_per_second"]) == (None, 50.0)


def test_thread_is_a_tree(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    whole = run("calls", "--thread", "3").stdout
    lines = [re.sub(r"  .*", "", line) for line in whole.splitlines() if "exchange" in line]
    assert lines == [
        "1 new, exchange 1",
        "\u251c\u2500 2 continue, exchange 2",
        "\u251c\u2500 3 branch, exchange 3",
        "\u2514\u2500 4 regenerate, exchange 4",
    ]
    assert "\n\u2502  > Tell me about mice.\n\u2502  < Mice are small.\n" in whole
    assert "\n      > And dogs?\n      < Dogs bark.\n" in whole
    assert whole == run("calls", "--thread", "1").stdout, "any call names its conversation"


def test_long_conversation_without_branches_is_not_set_in(recorded: Recording) -> None:
    texts = ["Hello."]
    for number in range(30):
        ask(recorded, said(*texts), f"Answer {number}.")
        texts += [f"Answer {number}.", f"Question {number}?"]
    read(recorded)
    lines = [line.plain for line in tree_lines(_calls(recorded), 80)]
    assert [line.split()[0] for line in lines if "exchange" in line] == [str(number) for number in range(1, 31)]
    assert all(not line.startswith(" ") for line in lines[:-2])


def test_thread_of_json_is_that_conversation(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    found = [json.loads(line) for line in run("calls", "--thread", "6", "--json").stdout.splitlines()]
    assert [(call["id"], call["parent_id"]) for call in found] == [(5, None), (6, 5)]


@pytest.mark.parametrize("call", ["7", str(10**30)])
def test_thread_that_is_not_there_is_an_error(recorded: Recording, run: Run, call: str) -> None:
    read(recorded)
    result = run("calls", "--thread", call)
    assert result.exit_code == 1
    assert result.stderr == f"Error: no conversation has a call {call}; proxy-log calls lists the calls there are\n"


def test_empty_and_unread_traces_say_so(recorded: Recording, run: Run) -> None:
    read(recorded)
    assert run("calls").stdout == "There is no call yet.\n"
    ask(recorded, said("Hello."), "Hi.")
    recorded.take_in()
    assert run("calls").stdout.endswith("\n1 exchange is not read yet; proxy-log index reads it.\n")
    assert run("calls", "--json").stdout == ""


def test_foreign_text_cannot_steer_the_terminal(recorded: Recording, run: Run) -> None:
    evil = "\x1b[2J\x9b\u202e"
    ask(recorded, said(f"{evil} a\nb"), f"c {evil}", model=f"m{evil}")
    read(recorded)
    for arguments in ((), ("--thread", "1")):
        printed = run("calls", *arguments).stdout
        assert not re.search("[\x1b\x9b\u202e]", printed)
        assert "a\u23ceb" in printed


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_lines_fit_the_terminal(recorded: Recording, width: int) -> None:
    record_conversations(recorded)
    ask(recorded, said("\u732b" * 300), "\u72d7" * 300, model="a-model-with-a-name-that-goes-on-and-on" * 3)
    read(recorded)
    rows = _calls(recorded)
    layout = CallLayout.fitting(width, rows)
    lines = [*layout.head(), *(line for row in rows for line in layout.lines(row)), *tree_lines(rows, width)]
    assert width < 80 or max(cell_len(line.plain) for line in lines) < width


def test_columns_stand_below_their_names(recorded: Recording) -> None:
    record_conversations(recorded)
    read(recorded)
    rows = _calls(recorded)
    layout = CallLayout.fitting(80, rows)
    above, names = (line.plain for line in layout.head())
    line = next(layout.lines(rows[6])).plain
    for name, value in (("in", "20"), ("out", "4"), ("tok/s", "-")):
        assert line[: names.index(name) + len(name)].endswith(value)
    assert line[: names.rindex("tok/s") + 5].endswith(" 50.0")
    assert above.index("reported") < names.index("tok/s") < above.index("measured") < names.rindex("tok/s")


def test_colours_are_for_terminals_only(recorded: Recording, run: Run) -> None:
    ask(recorded, said("Hello."), "Hi.")
    read(recorded)
    assert "\x1b" not in run("calls").stdout
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system="standard")
    (row,) = _calls(recorded)
    for line in CallLayout.fitting(80, [row]).lines(row):
        console.print(line)
    assert isinstance(console.file, io.StringIO)
    assert "\x1b[" in console.file.getvalue()


@pytest.mark.parametrize(("value", "shown"), [(None, "-"), (7.25, "7.2"), (99.97, "100"), (1234.5, "1.2k")])
def test_speed_takes_five_characters_at_most(value: float | None, shown: str) -> None:
    assert speed(value) == shown


def test_parts_are_told_in_words() -> None:
    assert part_text({"kind": "image", "media_type": "image/png", "bytes": 1234}) == "[image image/png 1,234 bytes]"
    assert part_text({"kind": "tool_result", "text": "18"}) == "[tool result] 18"
    assert part_text({"kind": "reasoning"}) == "[reasoning] "
    assert part_text({"kind": "other"}) == "[other]"
