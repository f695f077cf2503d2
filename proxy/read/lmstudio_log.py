"""LM Studio's own log, as /diagnostics streams it: what went into a model and what came out, of every surface.

Facts (lmstudio-api.md 5.10, 6.1; lmstudio-js DiagnosticsLogEvent.ts)
---------------------------------------------------------------------
* `streamLogs` has no filter: all kinds of events come, as `{"type": "log", "log": {"timestamp": ms, "data": {...}}}`.
* `llm.prediction.input` holds the exact prompt after the template, `llm.prediction.output` the whole text and the full
  statistics. No id joins the two, and outputs of concurrent calls may swap: nothing is paired here.
* `server.log` and `runtime.log` are lines in great number, in words that change with versions: they are counted.
* R: `... Generated prediction: {json}` of `server.log` is the one line with an HTTP answer's id (`chatcmpl-...`). Its
  JSON may span lines; where it is long the middle is cut out (`... <Truncated in logs> ...`).
* The stream ends with `stop`, or (as a rule) with its socket.
"""

import re

from proxy.meaning import Json, Message, Operation, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields, NotJsonError, decode_json
from proxy.read.lmstudio_sdk import namespace_of
from proxy.read.lmstudio_sdk_conversation import Conversation, Shared
from proxy.read.lmstudio_sdk_fields import read_stats
from proxy.read.lmstudio_sdk_session import SdkSession
from proxy.read.reader import Claim, RequestHead

_LINES = {
    "server.log": ("server", frozenset(("type", "content", "level"))),
    "runtime.log": (
        "runtime",
        frozenset(
            (
                *("type", "level", "message", "engineName", "engineVersion", "engineType"),
                *("modelIdentifier", "instanceReference", "pid"),
            )
        ),
    ),
}
_PREDICTION = {"llm.prediction.input": "input", "llm.prediction.output": "output"}
_MAX_SHOWN = 100
_GENERATED = "Generated prediction: "
_STRING = r'"([^"\\]*(?:\\.[^"\\]*)*)'
_ID = re.compile(r'(?s)"id"\s*:\s*' + _STRING + '"')
_TEXT = re.compile(r'(?s)"(?:content|text)"\s*:\s*' + _STRING)
"""The string may have no end: it was cut."""
_CUT = re.compile(r"\.{3} ?<Truncated in logs>")
_LONGEST_ESCAPE = 6


class LMStudioLog:
    """`/diagnostics`."""

    name = "lmstudio_log"
    version = 2
    is_endless = True
    """Its sessions are `EndlessSession`s, for which others need not wait until they end."""

    def claims(self, head: RequestHead) -> Claim:
        """See `Reader`; whatever the prefix is."""
        return Claim.YES if head.is_websocket and namespace_of(head) == "diagnostics" else Claim.NO

    def open(self, head: RequestHead) -> SdkSession:
        """See `Reader`."""
        return SdkSession(self.name, self.version, procedures={}, channels={"streamLogs": StreamLogs})


class StreamLogs(Conversation):
    """One stream. Its own reading counts lines; each prediction's input and output is a reading by itself."""

    operation = Operation.LOG
    is_endless = True

    def __init__(self, call: Call, shared: Shared, endpoint: str = "") -> None:
        """No line came yet."""
        super().__init__(call, shared, endpoint)
        call.details.update(event="lines", server=0, runtime=0)

    def read_message(self, kind: str, message: Fields, at_us: int) -> bool:
        """See `Conversation`."""
        if kind != "log":
            return False
        log = message.object("log")
        data = log.object("data") if log is not None else None
        if log is None or data is None:
            return True
        timestamp_ms = log.integer("timestamp")
        event = data.text("type") or ""
        if event in _LINES:
            name, known = _LINES[event]
            self.call.details[name] += 1
            data.known(*known)
            if event == "server.log":
                self._read_line(data.data.get("content"), timestamp_ms, at_us)
            return True
        data.known_all()  # a prediction counts its fields in its own reading, another event is told by a problem
        if event in _PREDICTION:
            self._read_prediction(_PREDICTION[event], data.data, timestamp_ms, at_us)
        else:
            self.call.problem("unknown_event", event[:_MAX_SHOWN])
        return True

    def _read_line(self, content: Json, timestamp_ms: int | None, at_us: int) -> None:
        """A line of the server: one that tells what was generated is a reading, which has an answer's id."""
        if not isinstance(content, str) or _GENERATED not in content:
            return
        response_id, text = _generated(content.partition(_GENERATED)[2])
        if response_id is None:
            return
        call = self._event("generated", timestamp_ms, at_us)
        call.response_id = response_id
        call.generated(None, text)
        self._show(call)

    def _event(self, event: str, timestamp_ms: int | None, at_us: int) -> Call:
        call = Call(self.call.reader, self.call.version, Operation.LOG)
        call.started_us = call.first_byte_us = call.done_us = at_us
        call.is_finished = True
        call.details["event"] = event
        if timestamp_ms is not None:
            call.details["timestamp_ms"] = timestamp_ms
        return call

    def _show(self, call: Call) -> None:
        self.shared.readings[self.shared.place()] = call.reading(None)

    def _read_prediction(self, event: str, data: dict[str, Json], timestamp_ms: int | None, at_us: int) -> None:
        call = self._event(event, timestamp_ms, at_us)
        fields = Fields(data, call.notes, event)
        fields.known("type")
        call.model_answered = fields.text("modelIdentifier")
        model_path = fields.text("modelPath")
        if model_path is not None:
            call.details["model_path"] = model_path
        text = fields.text(event)
        if event == "output":
            call.generated(None, text)
            read_stats(call, fields.object("stats"))
        elif text is not None:
            call.messages.append(Message("prompt", (Part(PartKind.TEXT, text),)))
        call.notes.add_unread(fields)
        self._show(call)


def _generated(told: str) -> tuple[str | None, str | None]:
    """The id and the text of an answer as a line tells them; each None where it is not there."""
    try:
        value = decode_json(told.strip())
    except NotJsonError:
        return _of_damaged(told) if told.lstrip().startswith("{") else (None, None)
    if not isinstance(value, dict):
        return None, None
    response_id = value.get("id")
    choices = value.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    text: Json = None
    if isinstance(choice, dict):
        message = choice.get("message")
        text = message.get("content") if isinstance(message, dict) else choice.get("text")
    return (
        response_id if isinstance(response_id, str) and response_id else None,
        text if isinstance(text, str) and text else None,
    )


def _of_damaged(told: str) -> tuple[str | None, str | None]:
    """The same of JSON that was cut: an answer's own id stands first in it; of its text, the beginning."""
    response_id = _ID.search(told)
    text = _TEXT.search(told)
    return (
        (_unescaped(response_id[1]) or None) if response_id else None,
        (_unescaped(_CUT.split(text[1])[0]) or None) if text else None,
    )


def _unescaped(string: str) -> str | None:
    """What stands between the quotes of a JSON string; it may have been cut within an escape."""
    for end in range(len(string), max(-1, len(string) - _LONGEST_ESCAPE), -1):
        try:
            value = decode_json(f'"{string[:end]}"')
        except NotJsonError:
            continue
        return value if isinstance(value, str) else None
    return None
