"""What a model's text means, however it is cut into pieces."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.demo.output_parser import (
    Event,
    OutputParser,
    Text,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallFailed,
    ToolCallName,
    ToolCallStart,
)

CALL = '[TOOL_REQUEST]{"name": "look_up", "arguments": {"word": "}] ü \\"q\\"", "n": 2}}[END_TOOL_REQUEST]'
PIECES = st.lists(
    st.sampled_from(
        [
            CALL,
            '<tool_call>\n{"name":"a","arguments":{}}\n</tool_call>',
            "[TOOL_REQUEST]no json[END_TOOL_REQUEST]",
            "[TOOL_REQUEST]",
            "<think>",
            "</think>",
            "<thi",
            "[TOOL",
            "hello",
            " ",
            "é",
            '{"name": 1}',
        ]
    ),
    max_size=6,
).map("".join)


def read(text: str, cuts: list[int], *, has_tools: bool = True) -> list[Event]:
    parser = OutputParser(reasoning=("<think>", "</think>"), has_tools=has_tools)
    events: list[Event] = []
    borders = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    for start, end in pairwise(borders):
        events += parser.feed(text[start:end], 1)
    return events + parser.end()


def joined(events: list[Event]) -> list[object]:
    """The same whatever the pieces: neighbouring text of one kind together, calls without their random ids."""
    found: list[object] = []
    for event in events:
        match event:
            case Text(content, _, kind) if found and isinstance(found[-1], list) and found[-1][1] == kind:
                found[-1][0] += content
            case Text(content, _, kind):
                found.append([content, kind])
            case ToolCallArguments(content) if found and isinstance(found[-1], dict):
                found[-1]["arguments"] += content
            case ToolCallArguments(content):
                found.append({"arguments": content})
            case ToolCallName(_, name):
                found.append(("name", name))
            case ToolCallEnd():
                found.append((event.name, event.arguments, event.raw))
            case ToolCallFailed():
                found.append(event)
            case ToolCallStart():
                pass
    return found


@given(text=PIECES, cuts=st.lists(st.integers(0, 300)))
def test_any_cutting_gives_the_same_reading(text: str, cuts: list[int]) -> None:
    assert joined(read(text, cuts)) == joined(read(text, []))


@given(text=st.text() | PIECES, cuts=st.lists(st.integers(0, 300)))
def test_no_character_is_lost(text: str, cuts: list[int]) -> None:
    events = read(text, cuts, has_tools=False)
    assert "".join(event.content for event in events if isinstance(event, Text)) == text


@given(text=st.text(alphabet='<>thinkx[TOOL_REQUEST]{}":,', max_size=60), cuts=st.lists(st.integers(0, 60)))
def test_the_reader_never_raises(text: str, cuts: list[int]) -> None:
    assert isinstance(read(text, cuts), list)


def test_a_call_is_told_as_it_comes() -> None:
    events = read(f"Let me see. {CALL} Done.", list(range(0, 200, 3)))
    kinds = [type(event) for event in events if not isinstance(event, Text)]
    assert kinds[:2] == [ToolCallStart, ToolCallName]
    assert kinds[-1] is ToolCallEnd
    assert set(kinds[2:-1]) == {ToolCallArguments}
    arguments = "".join(event.content for event in events if isinstance(event, ToolCallArguments))
    end = next(event for event in events if isinstance(event, ToolCallEnd))
    assert arguments == end.arguments_json
    assert end.arguments == {"word": '}] ü "q"', "n": 2}
    assert joined(events)[0] == ["Let me see. ", "none"]


def test_a_call_that_is_none_is_told_as_failed() -> None:
    events = read("[TOOL_REQUEST]no json[END_TOOL_REQUEST]", [])
    assert isinstance(events[-1], ToolCallFailed)
    assert events[-1].raw == "no json"


def test_reasoning_is_kept_apart_with_its_tags() -> None:
    events = read("<think>Hm.</think>Yes.", [3, 8, 12])
    assert joined(events) == [
        ["<think>", "reasoningStartTag"],
        ["Hm.", "reasoning"],
        ["</think>", "reasoningEndTag"],
        ["Yes.", "none"],
    ]


def test_every_token_is_counted_once() -> None:
    events = read("<think>Hm.</think>Yes.", list(range(22)))
    assert sum(event.tokens for event in events if isinstance(event, Text)) == 22
