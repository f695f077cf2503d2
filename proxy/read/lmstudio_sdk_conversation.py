"""One call of a remote procedure, or one channel, within a WebSocket of LM Studio's SDK.

Facts (lmstudio-api.md 5.3; lmstudio-js Transport.ts, Error.ts)
---------------------------------------------------------------
* A channel's messages are objects with a `type`. The client says `cancel` or `stop`; it never closes by itself.
* An error has `title`, and perhaps `cause`, `suggestion`, `errorData`, `displayData` (with a `code`), `stack`,
  `rootTitle`. Python's client also knows a message of the type `error` on a channel.
"""

from typing import ClassVar

from proxy.meaning import Json, Operation, Reading
from proxy.read.call import Call
from proxy.read.json_fields import Fields, Notes

_MAX_SHOWN = 200
_ERROR = ("suggestion", "errorData", "stack", "rootTitle")


class Shared:
    """What the conversations of one socket know together."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.identifiers: dict[str, str] = {}
        """Of a loaded model, by its instance reference, as earlier answers told."""
        self.readings: dict[int, Reading] = {}
        """By their number, in which they began; an unfinished one only when it is asked for. What was taken is gone."""
        self.count = 0
        """How many have begun."""

    def place(self) -> int:
        """The number of one more."""
        self.count += 1
        return self.count - 1


class Conversation:
    """From its first frame to its last; the class of its endpoint says what is in between."""

    operation: ClassVar[Operation] = Operation.OTHER
    is_quiet: ClassVar[bool] = False
    """It gives no reading unless it fails."""
    is_endless: ClassVar[bool] = False
    """The end of the socket is its natural end."""

    def __init__(self, call: Call, shared: Shared, endpoint: str = "") -> None:
        """It begins."""
        self.call = call
        self.shared = shared
        self.endpoint = endpoint
        self.index: int | None = None
        """Where its reading stands among the socket's."""
        self.is_changed = True
        """Something came since its reading was last made."""
        call.operation = self.operation

    # --- what endpoints say -------------------------------------------------------------------------------------------

    def read_parameter(self, parameter: Fields) -> None:
        """What it was begun with; an empty object where that is void."""

    def read_message(self, kind: str, message: Fields, at_us: int) -> bool:
        """A message that the server sent on a channel; False if its type is not known."""
        return False

    def read_result(self, result: Json) -> None:
        """What a procedure gave; None if that is void."""

    def read_end(self) -> None:
        """A last look: nothing more will come."""

    # --- frames -------------------------------------------------------------------------------------------------------

    def begin(self, parameter: Json) -> None:
        """The first frame: what it carries."""
        fields = self.object(parameter, "parameter")
        self.read_parameter(fields)
        self.call.notes.add_unread(fields)

    def said(self, message: Json) -> None:
        """The client sent a message on the channel."""
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "cancel":
            self.call.details["cancelled"] = True
        elif kind != "stop":
            self.call.problem("unknown_event", f"{str(kind)[:_MAX_SHOWN]} (of the client)")

    def told(self, message: Json, at_us: int) -> None:
        """The server sent a message on the channel."""
        fields = self.object(message, "message")
        kind = fields.text("type") or ""
        if kind == "error":
            read_error(self.call, fields.raw("error"))
        elif not self.read_message(kind, fields, at_us):
            self.call.problem("unknown_event", kind[:_MAX_SHOWN])
            fields.known_all()  # the problem tells it
        self.call.notes.add_unread(fields)

    # --- for endpoints ------------------------------------------------------------------------------------------------

    def object(self, value: Json, path: str) -> Fields:
        """An object's fields; an empty one's, with a note, where it is something else."""
        if isinstance(value, dict):
            return Fields(value, self.call.notes, path)
        if value is not None:
            self.call.notes.wrong(path, "an object", value)
        return Fields({}, self.call.notes, path)


class Quiet(Conversation):
    """An endpoint that is known and says nothing about models: nothing is kept of it but its failure.

    Credentials go this way, too (`loginWithPreAuthenticatedKeys`).
    """

    is_quiet = True

    def __init__(self, call: Call, shared: Shared, endpoint: str = "") -> None:
        """Its name tells it from others, if it is shown at all."""
        super().__init__(call, shared, endpoint)
        call.details["endpoint"] = endpoint

    def begin(self, parameter: Json) -> None:
        """See `Conversation`."""

    def said(self, message: Json) -> None:
        """See `Conversation`."""

    def told(self, message: Json, at_us: int) -> None:
        """See `Conversation`."""
        if isinstance(message, dict) and message.get("type") == "error":
            read_error(self.call, message.get("error"))


class QuietChannel(Quiet):
    """The same; most of these last as long as their socket."""

    is_endless = True


class Unknown(Quiet):
    """An endpoint that is not documented. What it carries may be secret, so that only its name is kept."""

    is_quiet = False
    is_endless = True

    def begin(self, parameter: Json) -> None:
        """See `Conversation`."""
        self.call.problem("unknown_endpoint", self.endpoint)


def read_error(call: Call, error: Json) -> None:
    """An error in the SDK's form."""
    if not isinstance(error, dict):
        call.error(error if isinstance(error, str) and error else "an error without a message", where="channel")
        return
    fields = Fields(error, call.notes, "error")
    texts = (fields.word("title"), fields.word("cause"))
    display = fields.raw("displayData")
    code = display.get("code") if isinstance(display, dict) else None
    fields.known(*_ERROR)
    message = "\n".join(text for text in texts if text)
    call.error(message or "an error without a message", code=code if isinstance(code, str) else None, where="channel")
    call.notes.add_unread(fields)


def count_unknown(notes: Notes, value: dict[str, Json], known: frozenset[str], path: str) -> None:
    """Count fields that are not documented; for what comes so often that `Fields` would be dear."""
    if not value.keys() <= known:
        fields = Fields(value, notes, path)
        fields.known(*known)
        notes.add_unread(fields)
