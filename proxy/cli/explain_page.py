"""A call on a page, layer by layer, with what changed between the layers in words."""

import json
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from proxy.cli.call_line import stop_style
from proxy.cli.explain_prompt import Origins, legend_lines, margin, prompt_lines, text_lines
from proxy.cli.line import outcome_style
from proxy.cli.render import BAD, BOLD, DIM, NAME, WARN, local_time, printable
from proxy.meaning import Message, Part, PartKind, PromptSource
from proxy.prompt.wording import count
from proxy.store.call_layers import CallLayers, Row

MAX_MESSAGES = 12
MAX_PROBLEMS = 10
_MESSAGE_ROWS = 4
_LABEL_CELLS = 12
_CHANGED = "> "
_PLAIN = Style()
_NEARLY_FULL = 0.9
_SOURCES = {
    PromptSource.OBSERVED: "observed in the engine's log",
    PromptSource.ASKED: "asked of the server",
    PromptSource.COMPUTED: "computed from the template",
}
_STATS = (
    *(("stopReason", "stopped:"), ("promptTokensCount", "tokens in"), ("predictedTokensCount", "tokens out")),
    *(("timeToFirstTokenSec", "s to the first token"), ("tokensPerSecond", "tok/s")),
)


def page_lines(layers: CallLayers, calls: Sequence[int], width: int, *, is_full: bool) -> Iterator[Text]:
    """All layers; `calls` are those of the exchange, `is_full` cuts nothing."""
    page = _Page(layers, width, is_full=is_full)
    yield from page.head(calls)
    yield from page.request()
    yield from page.forwarded()
    yield from page.prompt()
    yield from page.output()
    yield from page.answer()


class _Page:
    def __init__(self, layers: CallLayers, width: int, *, is_full: bool) -> None:
        self._layers = layers
        self._width = width
        self._is_full = is_full
        self._origins = Origins([one.role for one in layers.messages], [one.name for one in layers.tools])

    # --- what concerns all layers -------------------------------------------------------------------------------------

    def head(self, calls: Sequence[int]) -> Iterator[Text]:
        """Which call it is, its window, its problems."""
        call, exchange = self._layers.call, self._layers.exchange
        streamed = ", streamed" if call["is_streamed"] else ""
        yield Text.assemble(
            (f"Call {call['id']}  ", BOLD),
            f"{call['operation']} by {call['dialect']}{streamed}  ",
            (f"exchange {exchange.id}  ", DIM),
            ("seen in the engine's log alone", DIM)
            if self._layers.is_observed  # the exchange is the log's, which goes on
            else (exchange.outcome or "running", outcome_style(exchange)),
        )
        if len(calls) > 1:
            others = ", ".join(str(one) for one in calls[-8:] if one != call["id"])
            yield from self._wrapped(
                Text(f"one of {len(calls)} calls in the exchange; --call N: {others}", style=DIM), 0
            )
        model = printable(call["model_answered"] or call["model_asked"] or "no model named", is_one_line=True)
        yield Text(f"{local_time(call['started_at']):%Y-%m-%d %H:%M:%S}  {model}", style=DIM)
        yield from self._window(self._layers.window)
        yield from self._problems()

    def _window(self, row: Row | None) -> Iterator[Text]:
        if row is None:
            return
        tokens, length = row["prompt_tokens"], row["context_length"]
        if tokens is not None and length is not None:
            share, room = tokens / length, length - tokens
            left = f"{room:,} left for the answer" if room >= 0 else f"{-room:,} too many"
            text = f"the prompt takes {tokens:,} of {count(length, 'token')} ({share:.0%}); {left}"
            style = BAD if room < 0 else WARN if share >= _NEARLY_FULL else _PLAIN
        elif tokens is not None:
            text, style = f"the prompt takes {count(tokens, 'token')}; nobody told the context length", _PLAIN
        elif length is not None:
            text, style = f"the context length is {length:,}; nobody counted the prompt's tokens", _PLAIN
        else:
            text, style = "nobody told the context length or the prompt's tokens", DIM
        yield from self._labelled("window", text, style)
        reported = row["reported_tokens"]
        counted = [
            *([f"{reported:,} reported by the server"] if reported is not None else []),
            *([f"{row['log_tokens']:,} by the engine's log"] if row["log_tokens"] not in (None, reported) else []),
            *([f"{row['server_tokens']:,} by the model's tokenizer"] if row["server_tokens"] is not None else []),
            *([f"{row['tiktoken_tokens']:,} by tiktoken (an estimate)"] if row["tiktoken_tokens"] is not None else []),
        ]
        if counted:
            yield from self._labelled("tokens", ", ".join(counted), _PLAIN)
        if length is not None and row["context_source"]:
            yield from self._labelled("", f"context length told by {row['context_source']}", DIM)

    def _problems(self) -> Iterator[Text]:
        problems = self._layers.problems
        shown = problems if self._is_full else problems[:MAX_PROBLEMS]
        for one in shown:
            is_error = one["severity"] == "error"
            text = f"{one['kind']}{': ' if one['detail'] else ''}{one['detail']}"
            yield from self._labelled("error" if is_error else "note", text, BAD if is_error else WARN)
        if len(problems) > len(shown):
            yield from self._labelled("", f"{len(problems) - len(shown)} more; --full shows them", DIM)

    # --- 1 and 2: request, forwarded ----------------------------------------------------------------------------------

    def request(self) -> Iterator[Text]:
        """Layer 1."""
        layers = self._layers
        if layers.is_observed:
            yield from self._title("1  What the client sent", "not known")
            yield from self._said("nobody proxied this call: only the engine's log tells of it")
            return
        about = [count(len(layers.messages), "message"), *([count(len(layers.tools), "tool")] if layers.tools else [])]
        yield from self._title("1  What the client sent", ", ".join(about))
        yield from self._changes(layers.differences.request)
        if layers.parameters:
            told = ", ".join(f"{one['name']}={_short(one['value'])}" for one in layers.parameters)
            yield from self._labelled("parameters", told, _PLAIN)
        if layers.tools:
            yield from self._labelled("tools", ", ".join(one.name for one in layers.tools), _PLAIN)
        left_out = 0 if self._is_full else max(len(layers.messages) - MAX_MESSAGES, 0)
        for position, message in enumerate(layers.messages):
            if 2 <= position < 2 + left_out:
                if position == 2:
                    yield margin("", None, _PLAIN).append(f"({left_out:,} messages more; --full shows them)", DIM)
                continue
            name, style = self._origins.message(position), self._origins.message_style(position)
            yield from self._message(message, name, style)

    def _message(self, message: Message, name: str, style: Style) -> Iterator[Text]:
        for number, part in enumerate(message.parts):
            text, shown = _part_words(part)
            yield from text_lines(
                text,
                self._width,
                is_full=self._is_full,
                name=name if number == 0 else "",
                style=style + shown,
                max_rows=_MESSAGE_ROWS,
            )
        if not any(part.text or part.kind is not PartKind.TEXT for part in message.parts):
            yield margin(name, None, style).append("(no text)", DIM)

    def forwarded(self) -> Iterator[Text]:
        """Layer 2."""
        if self._layers.is_observed:
            return
        exchange = self._layers.exchange
        to = f"to {exchange.upstream} ({exchange.upstream_url})" if exchange.upstream else "to nobody"
        yield from self._title("2  What was forwarded", to)
        yield from self._changes(self._layers.differences.forwarded)

    # --- 3: the prompt ------------------------------------------------------------------------------------------------

    def prompt(self) -> Iterator[Text]:
        """Layer 3."""
        layers, prompt = self._layers, self._layers.prompt
        if prompt is None:
            yield from self._title("3  The prompt the engine saw", "not known")
            yield from self._said(layers.why_no_prompt or "")
            yield from self._changes(layers.differences.prompt)
            return
        sure = f"{_SOURCES[prompt.source]}, confidence {prompt.confidence:.2f}"
        yield from self._title("3  The prompt the engine saw", sure)
        yield from self._changes(layers.differences.prompt)
        if prompt.note:
            yield from self._labelled("note", prompt.note, DIM)
        if layers.template is not None:
            detail = f" ({layers.template['detail']})" if layers.template["detail"] else ""
            yield from self._labelled("template", f"{layers.template['source']}{detail}", DIM)
        if layers.spans:
            yield Text("")
            yield from legend_lines(layers.spans, self._origins, is_full=self._is_full)
            yield Text("")
        yield from prompt_lines(prompt.text, layers.spans, self._origins, self._width, is_full=self._is_full)

    # --- 4 and 5: output, answer --------------------------------------------------------------------------------------

    def output(self) -> Iterator[Text]:
        """Layer 4."""
        output, pairing = self._layers.output, self._layers.pairing
        if output is None:
            yield from self._title("4  What the engine made of it", "not known")
            yield from self._said(self._layers.why_no_output or "")
            return
        confidence = pairing["output_confidence"] if pairing is not None else None
        sure = f", confidence {confidence:.2f}" if confidence is not None else ""
        yield from self._title("4  What the engine made of it", f"observed in the engine's log{sure}")
        yield from text_lines(output["text"] or "", self._width, is_full=self._is_full, name="output")
        stats = json.loads(output["stats"]) if output["stats"] else {}
        told = [_stat(name, words, stats[name]) for name, words in _STATS if stats.get(name) is not None]
        if told:
            yield from self._labelled("told", ", ".join(told), DIM)

    def answer(self) -> Iterator[Text]:
        """Layer 5."""
        layers, call = self._layers, self._layers.call
        if layers.is_observed:
            yield from self._title("5  What the client got", "not known")
            return
        status = f"{layers.exchange.status}" if layers.exchange.status else "no response"
        yield from self._title("5  What the client got", status if layers.answers else f"{status}, no answer")
        yield from self._changes(layers.differences.answer)
        for answer in layers.answers:
            for part in answer.parts:
                text, shown = _part_words(part, with_kind=False)
                name = "answer" if part.kind is PartKind.TEXT else part.kind.value.replace("_", " ")
                yield from text_lines(text, self._width, is_full=self._is_full, name=name, style=shown)
        if call["stop_reason"]:
            is_other = call["stop_reason_raw"] not in (None, call["stop_reason"])
            raw = f" (sent as {call['stop_reason_raw']!r})" if is_other else ""
            at = f" at {call['stop_string']!r}" if call["stop_string"] else ""
            yield from self._labelled("stopped", f"{call['stop_reason']}{raw}{at}", stop_style(call["stop_reason"]))
        if call["error"]:
            yield from self._labelled("error", call["error"], BAD)

    # --- lines --------------------------------------------------------------------------------------------------------

    def _title(self, title: str, about: str) -> Iterator[Text]:
        yield Text("")
        line = Text.assemble((title, BOLD), (f"   {printable(about, is_one_line=True)}", DIM))
        if line.cell_len < self._width:
            yield line
        else:
            yield Text(title, style=BOLD)
            yield from self._said(about)

    def _labelled(self, label: str, text: str, style: Style) -> Iterator[Text]:
        line = Text.assemble((f"  {label:{_LABEL_CELLS}}", DIM), (printable(text, is_one_line=True), style))
        yield from self._wrapped(line, _LABEL_CELLS + 2)

    def _said(self, text: str) -> Iterator[Text]:
        yield from self._wrapped(Text(f"  {printable(text, is_one_line=True)}", style=DIM), 2)

    def _changes(self, sentences: Sequence[str]) -> Iterator[Text]:
        for sentence in sentences:
            words = printable(sentence, is_one_line=True)
            yield from self._wrapped(Text.assemble("  ", (_CHANGED, WARN), words), 4)

    def _wrapped(self, line: Text, indent: int) -> Iterator[Text]:
        """A line in as many as it takes, the others indented."""
        head, rest = line[:indent], line[indent:]
        width = max(self._width - 1 - indent, 20)
        for number, each in enumerate(rest.wrap(Console(width=width), width)):
            each.rstrip()
            yield Text.assemble(head if number == 0 else " " * indent, each)


def _part_words(part: Part, *, with_kind: bool = True) -> tuple[str, Style]:
    """A part's text as it is shown, and how it looks."""
    if part.kind is PartKind.TOOL_CALL:
        return f"{part.name or '?'}({part.text})", NAME if not with_kind else _PLAIN
    if part.kind in (PartKind.IMAGE, PartKind.AUDIO, PartKind.FILE):
        about = " ".join(filter(None, (part.kind.value, part.name, part.media_type, part.text)))
        return f"[{about}{f', {part.bytes:,} bytes' if part.bytes else ''}]", DIM
    if with_kind and part.kind is not PartKind.TEXT:
        return f"[{part.kind.value.replace('_', ' ')}] {part.text}", _PLAIN
    return part.text, DIM if part.kind is PartKind.REASONING else _PLAIN


def _short(value: object) -> str:
    text = "off" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}\u2026"


def _stat(name: str, words: str, value: object) -> str:
    if name == "stopReason":
        return f"{words} {value}"
    return f"{value:.3g} {words}" if isinstance(value, float) else f"{value} {words}"
