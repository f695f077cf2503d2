"""One WebSocket of LM Studio's SDK, taken apart: who calls what, and whose answer a frame is.

Facts (lmstudio-api.md 5.1-5.4; lmstudio-js Transport.ts, ServerPort.ts)
------------------------------------------------------------------------
* Frames are JSON objects with a `type`, but for the first of each side: the client says who it is (a secret: nothing of
  it is kept), the server `{"success": true}` or `{"success": false, "error": ...}`.
* Ids are the client's; calls and channels may count apart, and ids may come again. The key is (kind, id).
* A channel ends with one `channelClose` or `channelError`, a call with one `rpcResult` or `rpcError`. Late frames for
  what has ended are legal. Unknown endpoints and bad parameters bring a `communicationWarning` and no answer, ever; it
  may quote the parameter, which may be secret.
"""

import re
from collections.abc import Mapping, Sequence
from operator import itemgetter

from proxy.exchange import Side
from proxy.meaning import Json, Operation, Reading
from proxy.read.call import Call
from proxy.read.http_session import read_error as read_http_error
from proxy.read.json_fields import Fields, NotJsonError, decode_json
from proxy.read.lmstudio_sdk_conversation import Conversation, Shared, Unknown, count_unknown, read_error
from proxy.read.lmstudio_sdk_frames import ANSWERS, BEGIN, FRAMES, ID
from proxy.read.reader import End, ResponseHead
from proxy.read.websocket import BINARY, TEXT

Endpoints = Mapping[str, type[Conversation]]
_Key = tuple[str, int]
_MAX_REFUSAL_BYTES = 1 << 16
_MAX_SHOWN = 200
_QUOTED = re.compile(r"(?s),\s*(?:creationParameter|parameter|message|data)\s*=.*")


class SdkSession:
    """The reading of one WebSocket, which is any number of calls."""

    def __init__(self, reader: str, version: int, *, procedures: Endpoints, channels: Endpoints) -> None:
        """`reader` and `version` are put on the readings; endpoints by their names."""
        self._reader = reader
        self._version = version
        self._endpoints = {"rpc": procedures, "channel": channels}
        self._shared = Shared()
        self._open: dict[_Key, Conversation] = {}
        self._ended: set[_Key] = set()
        self._own: Conversation | None = None
        self._status: int | None = None
        self._refusal = bytearray()

    def request(self, body: bytes, complete_us: int | None) -> None:
        """See `Session`: a WebSocket has none."""

    def response(self, head: ResponseHead, at_us: int | None) -> None:
        """See `Session`."""
        self._status = head.status

    def data(self, at_us: int, data: bytes) -> None:
        """See `Session`: the body of a refusal."""
        if len(self._refusal) < _MAX_REFUSAL_BYTES:
            self._refusal += data

    def message(self, side: Side, at_us: int, opcode: int | None, data: bytes) -> None:
        """See `Session`."""
        if opcode not in (TEXT, BINARY):
            if opcode is None:
                self._note(at_us).problem("truncated", f"bytes of the {side.label} that are no whole message")
            return
        try:
            frame = decode_json(data)
        except NotJsonError as error:
            self._note(at_us).problem("not_json", f"a frame of the {side.label}: {error}")
            return
        kind = frame.get("type") if isinstance(frame, dict) else None
        if not isinstance(kind, str):
            self._handshake(side, frame, at_us)
        elif kind in FRAMES[side]:
            self._frame(side, kind, frame, FRAMES[side][kind], at_us)
        else:
            self._note(at_us).problem("unknown_event", f"a frame of the {side.label}: {kind[:_MAX_SHOWN]}")

    def readings(self, end: End | None) -> Sequence[Reading]:
        """See `Session`. Finished ones are made once; of the others, those to which something came."""
        self._bring_up_to_date(end)
        return [self._shared.readings[number] for number in sorted(self._shared.readings)]

    def take(self, end: End | None) -> Sequence[tuple[int, Reading]]:
        """See `EndlessSession`."""
        self._bring_up_to_date(end)
        taken = sorted(self._shared.readings.items(), key=itemgetter(0))
        self._shared.readings.clear()
        return taken

    def _bring_up_to_date(self, end: End | None) -> None:
        if end is not None:
            self._finish(end)
        for conversation in self._open.values():
            self._update(conversation, end)
        if self._own is not None:
            self._update(self._own, end)

    # --- frames -------------------------------------------------------------------------------------------------------

    def _handshake(self, side: Side, frame: Json, at_us: int) -> None:
        if isinstance(frame, dict) and side is Side.CLIENT and "authVersion" in frame:
            return
        if isinstance(frame, dict) and side is Side.UPSTREAM and isinstance(frame.get("success"), bool):
            if not frame["success"]:
                error = frame.get("error")
                message = error if isinstance(error, str) else "refused"
                self._note(at_us).error(message, kind="authentication", where="channel")
            return
        self._note(at_us).problem("unexpected", f"a frame of the {side.label} without a type")

    def _frame(self, side: Side, kind: str, frame: dict[str, Json], known: frozenset[str], at_us: int) -> None:
        conversation = None
        if kind in BEGIN:
            conversation = self._begin(BEGIN[kind], frame, at_us)
        elif kind in ANSWERS[side]:
            self._answered(ANSWERS[side][kind], kind, frame, at_us)
        elif kind == "channelSend":
            _, conversation = self._find("channel", frame, at_us)
            if conversation is not None:
                conversation.said(frame.get("message"))
                conversation.is_changed = True
        elif kind == "communicationWarning":
            self._warning(side, frame, at_us)
        elif kind in ("signalSubscribe", "writableSignalSubscribe"):
            self._note(at_us).problem("unknown_endpoint", f"{kind} {str(frame.get('endpoint'))[:_MAX_SHOWN]}")
        elif kind in ("signalError", "writableSignalError"):
            read_error(self._note(at_us), frame.get("error"))
        if not frame.keys() <= known and kind not in ANSWERS[side]:
            call = conversation.call if conversation is not None else self._note(at_us)
            count_unknown(call.notes, frame, known, "frame")

    def _begin(self, kind: str, frame: dict[str, Json], at_us: int) -> Conversation | None:
        key = self._key(kind, frame, at_us)
        if key is None:
            return None
        former = self._open.get(key)
        if former is not None:
            former.call.problem("truncated", "its id was used again before its end")
            self._end(key, former, at_us)
        name = frame.get("endpoint")
        name = name[:_MAX_SHOWN] if isinstance(name, str) else ""
        call = Call(self._reader, self._version, Operation.OTHER)
        call.started_us = call.request_complete_us = at_us
        call.is_streamed = kind == "channel"
        conversation = self._endpoints[kind].get(name, Unknown)(call, self._shared, name)
        self._open[key] = conversation
        if not conversation.is_quiet:
            self._show(conversation)
        conversation.begin(frame.get("parameter" if kind == "rpc" else "creationParameter"))
        return conversation

    def _answered(self, kind: str, of: str, frame: dict[str, Json], at_us: int) -> None:
        key, conversation = self._find(kind, frame, at_us)
        if key is None or conversation is None:
            return
        call = conversation.call
        if call.first_byte_us is None:
            call.first_byte_us = at_us
        conversation.is_changed = True
        count_unknown(call.notes, frame, FRAMES[Side.UPSTREAM][of], "frame")
        if of == "channelSend":
            conversation.told(frame.get("message"), at_us)
            return
        if of == "rpcResult":
            conversation.read_result(frame.get("result"))
        elif of != "channelClose":
            read_error(call, frame.get("error"))
        self._end(key, conversation, at_us)

    def _find(self, kind: str, frame: dict[str, Json], at_us: int) -> tuple[_Key | None, Conversation | None]:
        """Whose frame it is; nobody's if it comes late, or without a beginning."""
        key = self._key(kind, frame, at_us)
        if key is None:
            return None, None
        conversation = self._open.get(key)
        if conversation is None and key not in self._ended:
            self._note(at_us).problem("unexpected", f"{frame['type']} of a {kind} that never began: {key[1]}")
        return key, conversation

    def _key(self, kind: str, frame: dict[str, Json], at_us: int) -> _Key | None:
        number = frame.get(ID[kind])
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, int) and not isinstance(number, bool):
            return kind, number
        self._note(at_us).problem("unexpected", f"{frame['type']} without a whole number as its {ID[kind]}")
        return None

    def _warning(self, side: Side, frame: dict[str, Json], at_us: int) -> None:
        warning, kind = frame.get("warning"), frame.get("kind")
        text = _QUOTED.sub("", warning)[:_MAX_SHOWN] if isinstance(warning, str) else ""
        about = f" ({kind[:_MAX_SHOWN]})" if isinstance(kind, str) else ""
        self._note(at_us).problem("communication_warning", f"of the {side.label}{about}: {text}")

    # --- readings -----------------------------------------------------------------------------------------------------

    def _note(self, at_us: int) -> Call:
        """What is to be said of the socket itself, which has a reading of its own if there is anything."""
        if self._own is None:
            call = Call(self._reader, self._version, Operation.OTHER)
            call.started_us = at_us
            self._own = Conversation(call, self._shared)
            self._show(self._own)
        self._own.is_changed = True
        return self._own.call

    def _show(self, conversation: Conversation) -> None:
        """Give it a place among the readings; what only its failure makes worth telling comes where it failed."""
        conversation.index = self._shared.place()

    def _end(self, key: _Key, conversation: Conversation, at_us: int) -> None:
        conversation.call.is_finished = conversation.is_changed = True
        conversation.call.done_us = at_us
        conversation.read_end()
        if conversation.index is None and conversation.call.has_errors:
            self._show(conversation)
        self._update(conversation, None)
        del self._open[key]
        self._ended.add(key)

    def _update(self, conversation: Conversation, end: End | None) -> None:
        if conversation.index is not None and (conversation.is_changed or end is not None):
            self._shared.readings[conversation.index] = conversation.call.reading(end)
            conversation.is_changed = False

    def _finish(self, end: End) -> None:
        """The socket has ended."""
        is_broken = end.outcome not in ("completed", "client_gone")
        why = end.error or f"the exchange ended as {end.outcome}"
        for conversation in self._open.values():
            call = conversation.call
            if not call.is_finished:
                if is_broken:
                    call.error(end.error or end.outcome, kind=end.outcome, where="outcome")
                if is_broken or not conversation.is_endless:
                    call.problem("truncated", why)
                    if conversation.index is None:
                        self._show(conversation)
            conversation.read_end()
        if self._status not in (None, 101):
            self._read_refusal(end.done_us or 0)
        elif is_broken and not self._shared.count:
            self._note(0).error(end.error or end.outcome, kind=end.outcome, where="outcome")

    def _read_refusal(self, at_us: int) -> None:
        call = self._note(at_us)
        call.started_us = 0
        try:
            value = decode_json(bytes(self._refusal))
        except NotJsonError:
            value = None
        if isinstance(value, dict):
            fields = Fields(value, call.notes, "response")
            read_http_error(call, fields, where="body")
            call.notes.add_unread(fields)
        else:
            call.error(f"status {self._status} instead of an upgrade", code=str(self._status))
