"""The third step of finding prompts: which text came from where, what was dropped by whom, how full the window was."""

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import aiohttp

from proxy.meaning import Message, Part, PartKind, PromptSource, SpanKind
from proxy.prompt.alignment import align
from proxy.prompt.fates import Alignment, Fate, MessageFate, Piece
from proxy.prompt.refusals import Refusal, read_refusal
from proxy.prompt.server_tokenizer import NoTokenizerError
from proxy.prompt.token_spans import tokens_of_spans
from proxy.prompt_index.rendering import ASK_AGAIN_S, ASK_WITHIN_US, PromptSettings
from proxy.store.call_inputs import CallInput, CallInputs, InputMessage
from proxy.store.context_lengths import ContextLengths
from proxy.store.courtesy import politely
from proxy.store.message_rows import message_key
from proxy.store.prompts import ALIGN, PromptRow, PromptRows

AT_ONCE = 16
WARN_SHARE = 0.9
"""From this share of the window on, `problems` warns."""
_PATIENCE_S = 10.0
_SNAPSHOT_US = 3_000_000
"""How long after a call's end the model's settings may come."""
_BEFORE = """
SELECT id FROM read_calls WHERE session_id = ? AND id < ? AND operation = 'chat' AND started_at_us > ?
AND coalesce(model_answered, model_asked) IS ? ORDER BY id DESC LIMIT 5"""
_LOG_TOKENS = """
SELECT o.input_tokens FROM read_pairings p JOIN read_calls o ON o.id = p.output_event_id WHERE p.call_id = ?"""
_NOT_THE_SAME = "not what the engine got: it got another number of tokens, so the prompt was cut, or made otherwise"
_HOUR_US = 3_600_000_000
_SYSTEM = ("system", "developer")

Fall = tuple[int | None, int, str, str | None, int | None, str | None]
"""Position, message id, fate, ranges, tokens, dropped by: a row of `read_message_fates`."""


@dataclass(slots=True)
class Aligned:
    """What was found out about a call."""

    call: CallInput
    prompt: PromptRow | None = None
    alignment: Alignment | None = None
    span_tokens: Sequence[int | None] = ()
    prompt_tokens: int | None = None
    tiktoken_tokens: int | None = None
    context: tuple[int, str] | None = None
    refusal: Refusal | None = None
    is_filled: bool = False
    """The window was full in the middle of the answer."""
    log_tokens: int | None = None
    """The prompt's, by the engine's log."""
    left_out: Sequence[tuple[int, Message]] = ()
    """What the client sent the turn before, and did not this time: id, message."""

    @property
    def told_tokens(self) -> int | None:
        """The prompt's, as reported by the answer or the log."""
        return self.call.input_tokens if self.call.input_tokens is not None else self.log_tokens

    @property
    def is_another(self) -> bool:
        """Whether the engine got another prompt than the one that was asked for or computed, by their tokens.

        It was cut then, most likely; one token more or less is the one that begins a prompt.
        """
        is_guess = self.prompt is not None and self.prompt.source is not PromptSource.OBSERVED
        if not is_guess or self.prompt_tokens is None:
            return False
        if self.told_tokens is None:
            return self.refusal is None and self.context is not None and self.prompt_tokens > self.context[0]
        return abs(self.prompt_tokens - self.told_tokens) > 1


class PromptAlignment:
    """The third step, for one trace. Transactions are the caller's."""

    def __init__(
        self, connection: sqlite3.Connection, settings: PromptSettings, count_tokens: Callable[[str], int] | None
    ) -> None:
        """`count_tokens` counts by tiktoken."""
        self._rows = PromptRows(connection)
        self._connection = connection
        self._inputs = CallInputs(connection)
        self._contexts = ContextLengths(connection)
        self._settings = settings
        self._count_tokens = count_tokens
        self._silent_until: dict[str, float] = {}
        self.has_waiting = False
        """Something is to be looked at again soon, though nothing new was stored."""

    def plan(self) -> list[Aligned]:
        """Look at some calls, without writing."""
        calls = [self._inputs.get(call_id) for call_id in self._rows.waiting(ALIGN, AT_ONCE)]
        found = [self._align(call) for call in politely(calls) if call is not None and not self._is_early(call)]
        self.has_waiting = len(found) < len(calls)
        return found

    def _is_early(self, call: CallInput) -> bool:
        """Whether the context length is being asked for just now (see `proxy.snapshots`)."""
        is_new = time.time_ns() // 1000 - call.ended_us < _SNAPSHOT_US
        return self._settings.ask and is_new and call.upstream_url is not None and self._contexts.of(call) is None

    def _align(self, call: CallInput) -> Aligned:
        found = Aligned(call, self._rows.best(call.id))
        told = (read_refusal(error.message, error.kind, error.code) for error in call.errors)
        found.refusal = next((one for one in told if one is not None), None)
        if found.refusal is not None and self._has_answered(call):
            found.refusal, found.is_filled = None, True
        found.context = self._contexts.of(call)
        found.left_out = self._left_out(call)
        (found.log_tokens,) = self._connection.execute(_LOG_TOKENS, (call.id,)).fetchone() or (None,)
        if found.prompt is None:
            return found
        pieces = _pieces(call)
        found.alignment = align(found.prompt.text, pieces)
        if self._count_tokens is not None:
            found.tiktoken_tokens = self._count_tokens(found.prompt.text)
        spans = [(span.start, span.end - span.start) for span in found.alignment.spans]
        counts = self._rows.counted(found.prompt.id, spans) or self._ask_tokens(
            call, found.prompt.text, found.alignment
        )
        if counts is not None:
            found.span_tokens, found.prompt_tokens = counts, sum(counts)
        return found

    def _has_answered(self, call: CallInput) -> bool:
        """Whether the model has said something: then the prompt did fit, and the window was full later."""
        answer = self._inputs.answer(call.id)
        return answer is not None and any(part.text for part in answer[1].parts)

    def _ask_tokens(self, call: CallInput, prompt: str, alignment: Alignment) -> list[int] | None:
        url = call.upstream_url
        is_old = time.time_ns() // 1000 - call.ended_us > ASK_WITHIN_US
        if not self._settings.ask or url is None or is_old or time.monotonic() < self._silent_until.get(url, 0.0):
            return None
        try:
            return asyncio.run(self._asked(url, call, prompt, alignment))
        except (NoTokenizerError, aiohttp.ClientError, OSError):  # a TimeoutError is an OSError
            self._silent_until[url] = time.monotonic() + ASK_AGAIN_S
            return None

    async def _asked(self, url: str, call: CallInput, prompt: str, alignment: Alignment) -> list[int] | None:
        model = call.models[0] if call.models else ""
        borders = [span.start for span in alignment.spans]
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_PATIENCE_S)) as session:
            return await tokens_of_spans(session, url, model, prompt, borders, credentials=self._settings.credentials)

    # --- what the client left out -------------------------------------------------------------------------------------

    def _left_out(self, call: CallInput) -> list[tuple[int, Message]]:
        """Messages of the turn before that are not sent again, where this call goes on from it.

        A client that shortens a chat breaks the thread, so the turn before is also looked for in the session: it is the
        call whose answer is among this call's messages.
        """
        if call.is_chained or call.is_observed or len(call.messages) < 2:
            return []
        sent = {message_key(one.message) for one in call.messages}
        before = self._before(call, sent)
        if before is None:
            return []
        answer = self._inputs.answer(before.id)
        earlier = [(one.id, one.message) for one in before.messages]
        if answer is not None:
            earlier.append(answer)
        return [
            (message_id, message)
            for message_id, message in earlier
            if message.role not in _SYSTEM and message_key(message) not in sent
        ]

    def _before(self, call: CallInput, sent: set[int]) -> CallInput | None:
        if call.parent_id is not None:
            return self._inputs.get(call.parent_id)
        since = call.started_us - _HOUR_US
        model = call.models[0] if call.models else None
        for (before,) in self._connection.execute(_BEFORE, (call.session_id, call.id, since, model)).fetchall():
            answer = self._inputs.answer(before)
            if answer is not None and answer[1].text.strip() and message_key(answer[1]) in sent:
                return self._inputs.get(before)
        return None

    # --- writing ------------------------------------------------------------------------------------------------------

    def write(self, plan: list[Aligned]) -> int:
        """Store what was found out; gives of how many calls."""
        for found in plan:
            self._write(found)
        return len(plan)

    def _write(self, found: Aligned) -> None:
        call = found.call
        by_position = call.messages
        fates: list[Fall] = []
        if found.prompt is not None and found.alignment is not None:
            self._write_spans(found, by_position)
            if found.is_another:
                self._rows.doubt(found.prompt.id, _NOT_THE_SAME)
        if not call.is_observed:
            fates = [*_fates(found, by_position)]
        self._rows.put_fates(call.id, fates)
        refusal = found.refusal
        length, source = found.context or (None, None)
        if length is None and refusal is not None and refusal.context_length is not None:
            length, source = refusal.context_length, "the refusal"
        self._rows.put_window(
            call.id,
            context_length=length,
            context_source=source,
            prompt_tokens=found.prompt_tokens,
            prompt_counter=f"server:{call.models[0] if call.models else ''}" if found.prompt_tokens else None,
            tiktoken_tokens=found.tiktoken_tokens,
            limit_from_error=refusal.context_length if refusal is not None else None,
            tokens_from_error=refusal.prompt_tokens if refusal is not None else None,
        )
        for kind, detail in _problems(found, fates, length):
            self._rows.problem(call.id, kind, detail)
        self._rows.pass_on(call.id, None)

    def _write_spans(self, found: Aligned, by_position: Sequence[InputMessage]) -> None:
        assert found.prompt is not None
        assert found.alignment is not None
        rows = []
        for seq, span in enumerate(found.alignment.spans):
            message = (
                by_position[span.position] if span.kind is SpanKind.MESSAGE and span.position is not None else None
            )
            position = message.position if message is not None else span.position
            tokens = found.span_tokens[seq] if found.span_tokens else None
            rows.append(
                (
                    *(found.prompt.id, seq, span.start, span.end - span.start, span.kind.value, position),
                    *(message.id if message is not None else None, span.part, span.part_start, tokens),
                )
            )
        self._rows.put_spans(found.prompt.id, rows)


def _pieces(call: CallInput) -> list[Piece]:
    """Messages and tools as the alignment wants them."""
    if call.is_observed:
        return []
    pieces = [
        Piece(SpanKind.MESSAGE, number, one.message.role, tuple(_texts(one.message)))
        for number, one in enumerate(call.messages)
    ]
    for number, tool in enumerate(call.tools):
        texts = tuple(filter(None, (tool.name, tool.description, tool.schema)))
        pieces.append(Piece(SpanKind.TOOLS, number, "tool", texts))
    return pieces


def _texts(message: Message) -> list[str]:
    """One text for each part, so that a part's number is its place here."""
    return [_text(part) for part in message.parts]


def _text(part: Part) -> str:
    """What of it may stand in a prompt; of pictures and files nothing does."""
    if part.kind is PartKind.TOOL_CALL:
        return f"{part.name or ''}\n{part.text}"
    return "" if part.kind in (PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE) else part.text


def _fates(found: Aligned, messages: Sequence[InputMessage]) -> list[Fall]:
    rows: list[Fall] = []
    for message_id, _ in found.left_out:
        rows.append((None, message_id, Fate.MISSING.value, None, None, "client"))
    if found.refusal is not None:
        rows += [(one.position, one.id, Fate.MISSING.value, None, None, "refused") for one in messages]
        return rows
    if found.alignment is None or found.prompt is None or found.is_another:
        return rows
    is_observed = found.prompt.source is PromptSource.OBSERVED
    for fate in found.alignment.fates:
        if fate.position >= len(messages):
            continue
        one = messages[fate.position]
        spans = [
            tokens
            for span, tokens in zip(found.alignment.spans, found.span_tokens, strict=False)
            if span.kind is SpanKind.MESSAGE and span.position == fate.position and tokens is not None
        ]
        is_dropped = fate.fate in (Fate.MISSING, Fate.PARTLY) and is_observed and not _is_mere_reasoning(one, fate)
        rows.append(
            (
                *(one.position, one.id, fate.fate.value, json.dumps([list(each) for each in fate.ranges])),
                *(sum(spans) if found.span_tokens else None, "server" if is_dropped else None),
            )
        )
    return rows


def _is_mere_reasoning(one: InputMessage, fate: MessageFate) -> bool:
    """Whether nothing lacks but reasoning: templates leave that of earlier turns out, however much room there is."""
    lacking = []
    for number, part in enumerate(one.message.parts):
        there = sum(end - start for each, start, end in fate.ranges if each == number)
        if there < len(_text(part).strip()):
            lacking.append(part.kind)
    return bool(lacking) and all(kind is PartKind.REASONING for kind in lacking)


def _problems(found: Aligned, fates: Sequence[Fall], length: int | None) -> list[tuple[str, str]]:
    """What is to be known, as kind and detail."""
    problems = []
    tokens = found.told_tokens if found.told_tokens is not None else found.prompt_tokens
    if found.is_another and found.told_tokens is None:
        tokens = None
    if found.refusal is not None:
        told = found.refusal
        detail = (
            f"the prompt ({told.prompt_tokens or '?'} tokens) does not fit into {told.context_length or '?'} tokens"
        )
        problems.append(("context_refused", detail))
    elif found.is_filled:
        problems.append(("context_filled", "the context window was full in the middle of the answer"))
    elif length and tokens is not None and tokens >= WARN_SHARE * length:
        detail = f"{tokens} of {length} tokens, {tokens / length:.0%} of the context window"
        problems.append(("context_nearly_full", detail))
    for who in ("client", "server"):
        dropped = [row for row in fates if row[5] == who]
        if dropped:
            where = _listed([row[0] for row in dropped if row[0] is not None])
            problems.append((f"dropped_by_{who}", f"{len(dropped)} messages{where}; see the view message_fates"))
    is_counted = found.prompt_tokens is not None and found.told_tokens is not None
    if is_counted and found.prompt is not None and found.prompt_tokens != found.told_tokens:
        detail = (
            f"the server reported {found.told_tokens} tokens, the prompt ({found.prompt.source.value}) has"
            f" {found.prompt_tokens}"
        )
        problems.append(("prompt_differs", detail))
    return problems


def _listed(positions: Sequence[int]) -> str:
    """Places of messages, neighbours together: `: 1, 3-7`."""
    ranges: list[list[int]] = []
    for one in sorted(positions):
        if ranges and one == ranges[-1][1] + 1:
            ranges[-1][1] = one
        else:
            ranges.append([one, one])
    told = ", ".join(f"{first}-{last}" if last > first else str(first) for first, last in ranges)
    return f": {told}" if told else ""
