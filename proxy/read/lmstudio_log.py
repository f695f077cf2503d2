"""LM Studio's own log, as /diagnostics streams it: what went into a model and what came out, of every surface.

Facts (lmstudio-api.md 5.10, 6.1; lmstudio-js DiagnosticsLogEvent.ts)
---------------------------------------------------------------------
* `streamLogs` has no filter: all kinds of events come, as `{"type": "log", "log": {"timestamp": ms, "data": {...}}}`.
* `llm.prediction.input` holds the exact prompt after the template, `llm.prediction.output` the whole text and the full
  statistics. No id joins the two, and outputs of concurrent calls may swap: nothing is paired here.
* `server.log` and `runtime.log` are lines in great number, in words that change with versions: they are counted.
* The stream ends with `stop`, or (as a rule) with its socket.
"""

from proxy.meaning import Json, Message, Operation, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields
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


class LMStudioLog:
    """`/diagnostics`."""

    name = "lmstudio_log"
    version = 1

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
            return True
        data.known_all()  # a prediction counts its fields in its own reading, another event is told by a problem
        if event in _PREDICTION:
            self._read_prediction(_PREDICTION[event], data.data, timestamp_ms, at_us)
        else:
            self.call.problem("unknown_event", event[:_MAX_SHOWN])
        return True

    def _read_prediction(self, event: str, data: dict[str, Json], timestamp_ms: int | None, at_us: int) -> None:
        call = Call(self.call.reader, self.call.version, Operation.LOG)
        call.started_us = call.first_byte_us = call.done_us = at_us
        call.is_finished = True
        fields = Fields(data, call.notes, event)
        fields.known("type")
        call.model_answered = fields.text("modelIdentifier")
        told = {"event": event, "timestamp_ms": timestamp_ms, "model_path": fields.text("modelPath")}
        call.details.update((name, value) for name, value in told.items() if value is not None)
        text = fields.text(event)
        if event == "output":
            call.generated(None, text)
            read_stats(call, fields.object("stats"))
        elif text is not None:
            call.messages.append(Message("prompt", (Part(PartKind.TEXT, text),)))
        call.notes.add_unread(fields)
        self.shared.readings.append(call.reading(None))
