"""A call as it is being read: dialects put in what they find, `reading` gives what is known by now."""

from proxy.meaning import (
    CallError,
    Json,
    Measured,
    Message,
    Operation,
    Origin,
    Parameter,
    Part,
    PartKind,
    Problem,
    Reading,
    Reported,
    StopReason,
    Tool,
)
from proxy.read.growing import Growing
from proxy.read.json_fields import Notes
from proxy.read.reader import End

_MAX_PROBLEMS = 50
MAX_CHOICES = 256
"""How many answers of one call are kept apart."""


class _ToolCall:
    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: str | None = None
        self.name: list[str] = []
        self.arguments: list[str] = []

    def part(self) -> Part:
        return Part(PartKind.TOOL_CALL, "".join(self.arguments), "".join(self.name) or None, self.id)


class Answer:
    """One answer as it grows: runs of text and reasoning, tool calls, in the order in which they began."""

    __slots__ = ("_calls", "_parts", "path", "role")

    def __init__(self) -> None:
        self.role = "assistant"
        self.path: str | None = None
        """Where in the answer's JSON its text stands, if it came whole: see `Message`."""
        self._parts: list[tuple[PartKind, list[str]] | _ToolCall | Part | Growing] = []
        self._calls: dict[int | str, _ToolCall] = {}

    def add(self, kind: PartKind, text: str) -> None:
        """Text, reasoning or a refusal goes on."""
        if not text:
            return
        last = self._parts[-1] if self._parts else None
        if isinstance(last, tuple) and last[0] is kind:
            last[1].append(text)
        else:
            self._parts.append((kind, [text]))

    def put(self, part: Part | Growing) -> None:
        """A part that comes whole, or an item that its dialect lets grow."""
        self._parts.append(part)

    def tool_call(self, key: int | str, *, id: str | None = None, name: str = "", arguments: str = "") -> None:
        """A tool call goes on; `key` tells it from others. Pieces of its name and arguments are put together."""
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _ToolCall()
            self._parts.append(call)
        call.id = call.id or id
        if name:
            call.name.append(name)
        if arguments:
            call.arguments.append(arguments)

    def set_tool_call(self, key: int | str, *, id: str | None, name: str | None, arguments: str | None) -> None:
        """A tool call as a whole, told at its end: it replaces what pieces made of it."""
        self.tool_call(key, id=id)
        call = self._calls[key]
        if name is not None:
            call.name = [name]
        if arguments is not None:
            call.arguments = [arguments]

    def message(self) -> Message | None:
        """As it is by now; None while there is nothing."""
        parts: list[Part] = []
        for part in self._parts:
            if isinstance(part, tuple):
                parts.append(Part(part[0], "".join(part[1])))
            elif isinstance(part, Part):
                parts.append(part)
            elif isinstance(part, _ToolCall):
                parts.append(part.part())
            else:
                parts += part.parts()
        is_plain = len(parts) == 1 and parts[0].kind is PartKind.TEXT
        return Message(self.role, tuple(parts), path=self.path if is_plain else None) if parts else None

    def has(self, kind: PartKind) -> bool:
        """Whether there is any part of that kind."""
        return any(
            any(one.kind is kind for one in part.parts())
            if isinstance(part, Growing)
            else (part[0] if isinstance(part, tuple) else part.kind if isinstance(part, Part) else PartKind.TOOL_CALL)
            is kind
            for part in self._parts
        )


class Call:
    """One call. All times are microseconds since the exchange's first byte."""

    def __init__(self, reader: str, version: int, operation: Operation) -> None:
        """Nothing is known of it yet but whose it is."""
        self.reader = reader
        self.version = version
        self.operation = operation
        self.notes = Notes()
        self.is_streamed = False
        self.is_observed = False
        self.model_asked: str | None = None
        self.model_answered: str | None = None
        self.messages: list[Message] = []
        self.tools: list[Tool] = []
        self.output_schema: str | None = None
        self.stop_reason: StopReason | None = None
        self.stop_reason_raw: str | None = None
        self.stop_string: str | None = None
        self.response_id: str | None = None
        self.previous_response_id: str | None = None
        self.details: dict[str, Json] = {}
        self.is_finished = False
        """The dialect's own end came; whatever happened to the connection afterwards, the call is complete."""
        self.kept: object = None
        """What a dialect keeps for itself between the parts of this call."""
        self._parameters: list[Parameter] = []
        self._reported: dict[str, Json] = {}
        self._answers: dict[int, Answer] = {}
        self._errors: list[CallError] = []
        self._problems: list[Problem] = []
        # What our clock saw:
        self.started_us = 0
        self.request_complete_us: int | None = None
        self.first_byte_us: int | None = None
        self.load_us: int | None = None
        self.prompt_us: int | None = None
        self.done_us: int | None = None
        self._first_token_us: int | None = None
        self._first_content_us: int | None = None
        self._last_token_us: int | None = None
        self._token_events = 0
        self._longest_gap_us: int | None = None

    # --- what was asked -----------------------------------------------------------------------------------------------

    def parameter(
        self,
        name: str,
        value: Json,
        *,
        sent_as: str | None = None,
        origin: Origin = Origin.REQUEST,
        ignored: str | None = None,
        note: str | None = None,
    ) -> None:
        """A setting that is there; `ignored` says why it is known to have no effect. None as `value` is not stored."""
        if value is not None:
            sent_as = sent_as if sent_as != name else None
            self._parameters.append(Parameter(name, value, origin, sent_as, ignored or note, ignored is not None))

    def unset(
        self, name: str, *, sent_as: str | None = None, origin: Origin = Origin.REQUEST, note: str | None = None
    ) -> None:
        """A setting that is explicitly off."""
        self._parameters.append(Parameter(name, None, origin, sent_as, note))

    # --- what was answered --------------------------------------------------------------------------------------------

    def answer(self, index: int = 0) -> Answer:
        """The answer of that number; most calls have one."""
        found = self._answers.get(index)
        if found is None:
            found = Answer()
            if len(self._answers) < MAX_CHOICES:
                self._answers[index] = found
        return found

    def new_answer(self, index: int = 0) -> Answer:
        """An answer that is told whole: it takes the place of what pieces made of it; times stay."""
        self._answers.pop(index, None)
        return self.answer(index)

    def generated(self, at_us: int | None, text: str | None, *, kind: PartKind = PartKind.TEXT, index: int = 0) -> None:
        """A piece of a stream's answer came: `at_us` None where it did not come as a stream."""
        if not text:
            return
        self.answer(index).add(kind, text)
        if at_us is not None:
            self.token(at_us, is_content=kind is not PartKind.REASONING)

    def token(self, at_us: int, *, is_content: bool) -> None:
        """An event with something that the model generated."""
        if self._last_token_us is None:
            self._first_token_us = at_us
        elif (gap := at_us - self._last_token_us) > (self._longest_gap_us or -1):
            self._longest_gap_us = gap
        if is_content and self._first_content_us is None:
            self._first_content_us = at_us
        self._last_token_us = at_us
        self._token_events += 1

    def stop(self, reason: StopReason, raw: str, *, is_finer: bool = False) -> None:
        """Why the generation ended, as first told; a finer word (LM Studio's own beside OpenAI's) wins."""
        if self.stop_reason is None or is_finer:
            self.stop_reason = reason
        if self.stop_reason_raw is None or is_finer:
            self.stop_reason_raw = raw

    def report(self, **values: Json) -> None:
        """What the server said, by the names of `Reported`; None changes nothing, a later value replaces one."""
        for name, value in values.items():
            if value is not None:
                self._reported[name] = value

    def reported(self, name: str) -> Json:
        """What it said before."""
        return self._reported.get(name)

    def error(self, message: str, *, kind: str | None = None, code: str | None = None, where: str = "body") -> None:
        """The server said that something went wrong."""
        error = CallError(message, kind, code, where)
        if error not in self._errors and len(self._errors) < _MAX_PROBLEMS:
            self._errors.append(error)

    def problem(self, kind: str, detail: str = "") -> None:
        """Something to be known; the same is told once."""
        problem = Problem(kind, detail)
        if problem not in self._problems and len(self._problems) < _MAX_PROBLEMS:
            self._problems.append(problem)

    @property
    def has_errors(self) -> bool:
        """Whether the server said that something went wrong."""
        return bool(self._errors)

    # --- the reading --------------------------------------------------------------------------------------------------

    def reading(self, end: End | None) -> Reading:
        """What is known by now; `end` None: it goes on."""
        answers = []
        for index in sorted(self._answers):
            message = self._answers[index].message()
            if message is not None:
                answers.append(message)
        problems = [*self._problems, *(Problem("unexpected", odd) for odd in self.notes.odd)]
        return Reading(
            reader=self.reader,
            version=self.version,
            operation=self.operation,
            is_streamed=self.is_streamed,
            is_running=end is None and not self.is_finished,
            is_observed=self.is_observed,
            model_asked=self.model_asked,
            model_answered=self.model_answered,
            messages=tuple(self.messages),
            tools=tuple(self.tools),
            parameters=tuple(self._parameters),
            output_schema=self.output_schema,
            answers=tuple(answers),
            stop_reason=self.stop_reason,
            stop_reason_raw=self.stop_reason_raw,
            stop_string=self.stop_string,
            reported=Reported(**self._reported),
            measured=Measured(
                started_us=self.started_us,
                request_complete_us=self.request_complete_us,
                first_byte_us=self.first_byte_us,
                first_token_us=self._first_token_us,
                first_content_us=self._first_content_us,
                last_token_us=self._last_token_us,
                token_events=self._token_events,
                longest_gap_us=self._longest_gap_us,
                load_us=self.load_us,
                prompt_us=self.prompt_us,
                done_us=self.done_us if self.done_us is not None else end.done_us if end is not None else None,
            ),
            response_id=self.response_id,
            previous_response_id=self.previous_response_id,
            errors=tuple(self._errors),
            problems=tuple(problems),
            unread=tuple(self.notes.unread.items()),
            details=dict(self.details),
        )
