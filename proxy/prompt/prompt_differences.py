"""What became of a request's messages in the prompt that the engine got, and how two prompts differ, in words."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby

from proxy.meaning import PartKind, PromptSource, SpanKind
from proxy.prompt.origins import SYSTEM_ROLES, MessageFate, PromptSpan, part_text
from proxy.prompt.turns import Turn, read_turns
from proxy.prompt.wording import count, is_or_are, listed, numbers, quoted

_MEDIA = (PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE)
_THOUGHTS = ("<think>", "<thinking>", "[THINK]", "<seed:think>")
_THOUGHT_ENDS = ("</think>", "</thinking>", "[/THINK]", "</seed:think>")
_WORD = 20
"""Characters: longer ones are shown in part."""
_HOW = {
    PromptSource.OBSERVED: "observed",
    PromptSource.ASKED: "asked for",
    PromptSource.COMPUTED: "computed",
}


def prompt_differences(
    prompt: str | None,
    spans: Sequence[PromptSpan],
    fates: Sequence[MessageFate],
    *,
    tools: int = 0,
    is_raw: bool = False,
    has_system: bool = False,
    doubt: str | None = None,
) -> list[str]:
    """What the template, and whoever cut the chat, made of the messages.

    Args:
        prompt: None: not known.
        spans: where each piece of it came from; empty: not found out.
        fates: of all messages.
        tools: how many definitions were sent.
        is_raw: a completion: its text is the prompt.
        doubt: why the prompt is not the one that the engine got, as far as known.
        has_system: a system message was sent, with this call or (where the server keeps the chat) before.
    """
    sent = [fate for fate in fates if fate.dropped_by != "client"]
    refused = [fate for fate in sent if fate.dropped_by == "refused"]
    if refused:
        return ["the server refused the call as too long: no message of it reached the model"]
    if prompt is None:
        return []
    if doubt is not None:
        return [f"this is {doubt}; which messages it got is not known"]
    if not spans:
        return ["which text of the prompt came from where is not found out"]
    told: list[str] = []
    turns = read_turns(prompt, ((span.start, span.end) for span in spans if span.kind is not SpanKind.TEMPLATE))
    told += _system_turn(prompt, spans, turns, sent, has_system=has_system, has_tools=bool(tools))
    told += _tools(spans, turns, tools)
    told += _wrong_turns(spans, turns, sent)
    told += _kept_by_server(sent)
    told += _missing(sent)
    for fate in sent:
        told += _fate(fate)
        told += _written_anew(prompt, spans, fate)
    told += _order(spans)
    told += _ending(prompt, spans)
    if not told and is_raw and prompt == "".join(fate.message.text for fate in sent):
        return ["nothing changed: the prompt is the text that the client sent"]
    kept = [fate for fate in sent if fate.fate == "kept"]
    if kept and len(kept) == len(sent):
        whole = "the only message is" if len(kept) == 1 else f"all {len(kept):,} messages are"
        told.append(f"{whole} in the prompt, whole")
    told += _template(spans)
    return told


def _system_turn(
    prompt: str,
    spans: Sequence[PromptSpan],
    turns: Sequence[Turn],
    fates: Sequence[MessageFate],
    *,
    has_system: bool,
    has_tools: bool,
) -> Iterator[str]:
    """What the template added to the system turn; or a whole one that is its own."""
    system = next((turn for turn in turns if turn.role == "system"), None)
    if system is None:
        if not turns:
            yield from _beginning(prompt, spans)
        return
    inside = [
        (span, prompt[max(span.start, system.text_start) : min(span.end, system.text_end)])
        for span in spans
        if span.start < system.text_end and span.end > system.text_start
    ]
    own = "".join(text for span, text in inside if span.kind is SpanKind.TEMPLATE).strip()
    if not own:
        return
    kinds = {span.kind for span, _ in inside}
    doubts = []
    if any(fate.message.role in SYSTEM_ROLES and fate.fate not in ("kept", "not_text") for fate in fates) or (
        has_system and SpanKind.MESSAGE not in kinds and not _is_anywhere(spans, fates)
    ):
        doubts.append("the client's system message")
    if has_tools and not any(span.kind is SpanKind.TOOLS for span in spans):
        doubts.append("the tool definitions")
    if doubts:
        yield (
            f"the system turn has {count(len(own), 'character')} that are not as the client sent them: {quoted(own)}:"
            f" whether they come from {listed(doubts)} cannot be told"
        )
    elif kinds == {SpanKind.TEMPLATE}:
        yield f"the template added a default system prompt that the client never sent: {quoted(own)}"
    else:
        beside = "the client's text" if SpanKind.MESSAGE in kinds else "the tool definitions"
        yield f"the template added {count(len(own), 'character')} to {beside} in the system turn: {quoted(own)}"


def _is_anywhere(spans: Sequence[PromptSpan], fates: Sequence[MessageFate]) -> bool:
    """Whether the client's system message stands in the prompt, in whatever turn."""
    places = {one.position for one in fates if one.message.role in SYSTEM_ROLES and one.position is not None}
    return any(span.kind is SpanKind.MESSAGE and span.position in places for span in spans)


def _beginning(prompt: str, spans: Sequence[PromptSpan]) -> Iterator[str]:
    """Where the marks of the turns are not known: the template's text before all others."""
    first = min((span.start for span in spans if span.kind is not SpanKind.TEMPLATE), default=0)
    text = prompt[:first].strip()
    if len(text.split()) > 3:
        yield f"the prompt begins with text of the template's own: {quoted(text)}"


def _turn_at(turns: Sequence[Turn], place: int) -> Turn | None:
    number = bisect_right(turns, place, key=lambda turn: turn.text_start) - 1
    return turns[number] if number >= 0 and place < turns[number].text_end else None


def _where(turn: Turn, turns: Sequence[Turn]) -> str:
    """`the system turn`, `the first user turn`, `an assistant turn`."""
    if turn.role == "system":
        return "the system turn"
    if turn.role == "user" and not any(one.role == "user" and one.start < turn.start for one in turns):
        return "the first user turn"
    return f"{'an' if turn.role[:1] in 'aeio' else 'a'} {turn.role} turn"


def _tools(spans: Sequence[PromptSpan], turns: Sequence[Turn], offered: int) -> Iterator[str]:
    if not offered:
        return
    found = [span for span in spans if span.kind is SpanKind.TOOLS]
    places = {span.position for span in found if span.position is not None}
    if not places:
        if offered == 1:
            yield "the tool definition is not in the prompt as sent: whether it is in another form cannot be told"
        else:
            yield (
                f"the {offered:,} tool definitions are not in the prompt as sent: whether they are in another form"
                " cannot be told"
            )
        return
    turn = _turn_at(turns, found[0].start)
    where = f"into {_where(turn, turns)}" if turn is not None else f"at character {found[0].start + 1:,} of the prompt"
    if offered == 1:
        yield f"the tool definition was put {where}"
    elif len(places) < offered:
        yield f"{len(places):,} of the {offered:,} tool definitions were put {where}; the others are not there as sent"
    else:
        yield f"the {offered:,} tool definitions were put {where}"


def _wrong_turns(spans: Sequence[PromptSpan], turns: Sequence[Turn], fates: Sequence[MessageFate]) -> Iterator[str]:
    """Messages that stand in a turn of another role."""
    roles = {fate.position: fate.message.role for fate in fates if fate.position is not None}
    is_only_system = sum(role in SYSTEM_ROLES for role in roles.values()) == 1
    done = set()
    for span in spans:
        if span.kind is not SpanKind.MESSAGE or span.position not in roles or span.position in done:
            continue
        done.add(span.position)
        role = roles[span.position]
        own = "system" if role in SYSTEM_ROLES else "tool" if role == "function" else role
        turn = _turn_at(turns, span.start)
        if turn is None or turn.role == own or turn.role not in ("system", "user", "assistant"):
            continue
        what = "the system message" if own == "system" and is_only_system else f"message {span.position} ({role})"
        yield f"the template put {what} into {_where(turn, turns)}"


def _kept_by_server(fates: Sequence[MessageFate]) -> Iterator[str]:
    earlier = [fate for fate in fates if fate.position is None]
    here = [fate for fate in earlier if fate.fate in ("kept", "partly")]
    if here:
        yield f"the prompt has {count(len(here), 'message')} of earlier calls, which the server keeps"
    gone = [fate for fate in earlier if fate.fate == "missing"]
    if gone:
        yield f"{count(len(gone), 'message')} of earlier calls {is_or_are(len(gone))} not in the prompt{_dropped(gone)}"


def _dropped(fates: Sequence[MessageFate]) -> str:
    if all(fate.dropped_by == "server" for fate in fates):
        return ": dropped by the server"
    them = "it" if len(fates) == 1 else "them"
    return f"; the prompt was not observed: whether the server dropped {them} cannot be told"


def _missing(fates: Sequence[MessageFate]) -> Iterator[str]:
    gone = [fate for fate in fates if fate.fate == "missing" and fate.position is not None]
    for _, group in groupby(gone, key=lambda fate: fate.dropped_by):
        these = list(group)
        if len(these) == 1:
            yield f"{these[0].name} is not in the prompt{_dropped(these)}"
        else:
            places = numbers([fate.position for fate in these if fate.position is not None])
            yield f"messages {places} are not in the prompt{_dropped(these)}"


def _fate(fate: MessageFate) -> Iterator[str]:
    """What is to be said of a message that is there in part, or otherwise."""
    media = [part for part in fate.message.parts if part.kind in _MEDIA]
    if media:
        kinds = listed(sorted({part.kind.value for part in media}))
        yield f"{fate.name} has {kinds} data, which is no text: how the model got it cannot be told from the prompt"
    if fate.fate not in ("kept", "partly") or fate.ranges is None:
        if fate.fate == "partly":
            yield f"{fate.name} is only partly in the prompt; which part of it cannot be told"
        return
    lost, blank = [], 0
    for number, part in enumerate(fate.message.parts):
        text = part_text(part)
        gaps = [gap for gap in _gaps(len(text), [one[1:] for one in fate.ranges if one[0] == number])]
        real = [gap for gap in gaps if text[gap[0] : gap[1]].strip()]
        blank += sum(end - start for start, end in gaps if (start, end) not in real)
        if part.kind is PartKind.REASONING and real == [(0, len(text))]:
            yield f"the reasoning of {fate.name}, {count(len(text), 'character')}, is not in the prompt"
            continue
        thought = next((gap for gap in real if _is_thought(text[gap[0] : gap[1]])), None)
        if thought is not None:
            real.remove(thought)
            yield f"the reasoning of {fate.name}, {_characters([thought])} of {len(text):,}, is not in the prompt"
        if not real or part.kind in _MEDIA:
            continue
        of = f" of its part {number}" if len(fate.message.parts) > 1 else ""
        lost.append(f"{_characters(real)}{of} of {len(text):,}")
    if lost:
        are = "is" if len(lost) == 1 and lost[0].startswith("character ") else "are"
        yield f"{fate.name} is only partly in the prompt: {listed(lost)} {are} missing"
    if blank:
        yield f"{count(blank, 'blank character')} of {fate.name} {is_or_are(blank)} not in the prompt"


def _is_thought(text: str) -> bool:
    """Whether it is reasoning between its tags."""
    bare = text.strip()
    return any(
        bare.startswith(opened) and bare.endswith(closed)
        for opened, closed in zip(_THOUGHTS, _THOUGHT_ENDS, strict=True)
    )


def _written_anew(prompt: str, spans: Sequence[PromptSpan], fate: MessageFate) -> Iterator[str]:
    """What the template made of tool calls and other texts that it wrote in a form of its own."""
    anew = [
        span
        for span in spans
        if span.kind is SpanKind.MESSAGE
        and span.position == fate.position
        and fate.position is not None
        and span.part_start is None
        and span.part is not None
    ]
    for number, these in groupby(anew, key=lambda span: span.part):
        group = list(these)
        if number is None or number >= len(fate.message.parts):
            continue
        part = fate.message.parts[number]
        what = f"the tool call {part.name}({part.text})" if part.kind is PartKind.TOOL_CALL else part.kind.value
        written = prompt[group[0].start : group[-1].end]
        yield f"{fate.name}: the template wrote {_shortened(what)} anew, as {quoted(written, 120)}"
    if fate.fate == "changed" and not anew:
        yield f"{fate.name} was written anew by the template: all it says is there, in another form"


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}\u2026"


def _gaps(length: int, ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What the ranges leave out."""
    at = 0
    for start, end in sorted(ranges):
        if start > at:
            yield at, start
        at = max(at, end)
    if at < length:
        yield at, length


def _characters(gaps: Sequence[tuple[int, int]]) -> str:
    words = [f"{start + 1:,}" if end == start + 1 else f"{start + 1:,} to {end:,}" for start, end in gaps]
    return f"character{'' if len(words) == 1 and ' ' not in words[0] else 's'} {listed(words)}"


def _order(spans: Sequence[PromptSpan]) -> Iterator[str]:
    firsts = list(
        dict.fromkeys(one.position for one in spans if one.kind is SpanKind.MESSAGE and one.position is not None)
    )
    if firsts != sorted(firsts):
        yield f"the messages stand in another order than they were sent in: {', '.join(map(str, firsts))}"


def _ending(prompt: str, spans: Sequence[PromptSpan]) -> Iterator[str]:
    """Whether the template begins the answer's reasoning, or forbids it."""
    last = max((span.end for span in spans if span.kind is not SpanKind.TEMPLATE), default=0)
    end = prompt[last:].rstrip()
    for opened, closed in zip(_THOUGHTS, _THOUGHT_ENDS, strict=True):
        if end.endswith(opened):
            yield f"the prompt ends with the template's {opened}: the answer begins within the reasoning"
        elif end.endswith(closed) and not end.rpartition(opened)[2].removesuffix(closed).strip() and opened in end:
            yield f"the template ended the prompt with an empty {opened}: the model is to answer without reasoning"


def _template(spans: Sequence[PromptSpan]) -> Iterator[str]:
    own = [span for span in spans if span.kind is SpanKind.TEMPLATE]
    if not own:
        return
    characters = sum(span.end - span.start for span in own)
    tokens = [span.tokens for span in own]
    counted = f" ({count(sum(filter(None, tokens)), 'token')})" if None not in tokens else ""
    total = max(span.end for span in spans)
    yield f"{characters:,} of the prompt's {count(total, 'character')} are the template's own{counted}"


def source_differences(best: tuple[PromptSource, str], other: tuple[PromptSource, str]) -> str:
    """How two prompts of one call differ that come from two sources."""
    (one, a), (two, b) = best, other
    if a == b:
        return f"the prompt {_HOW[two]} is the same as the one {_HOW[one]}, all {count(len(a), 'character')}"
    start = _common(a, b)
    end = _common(a[start:][::-1], b[start:][::-1])
    first, last = start, end
    while start and first - start < _WORD and not a[start - 1].isspace():  # whole words are easier to read
        start -= 1
    while end and last - end < _WORD and not a[-end].isspace():
        end -= 1
    mine, theirs = a[start : len(a) - end], b[start : len(b) - end]
    return (
        f"the prompt {_HOW[two]} differs from the one {_HOW[one]}, from character {first + 1:,} on: it has"
        f" {quoted(theirs, 120)} where that has {quoted(mine, 120)}"
    )


def _common(a: str, b: str) -> int:
    """How many characters they begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
