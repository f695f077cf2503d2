"""Plays frames to the readers of the SDK's WebSockets: the client's and the server's, ten microseconds apart."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol

from proxy.exchange import Side
from proxy.meaning import Reading
from proxy.read.reader import End, Reader, RequestHead, ResponseHead, Session
from proxy.read.websocket import TEXT, WebSocketReader

AUTH = {"authVersion": 1, "clientIdentifier": "guest:q0Wl3", "clientPasskey": "k9T1"}
COMPLETED = End("completed", "", 9000)
Frame = tuple[Side, Any]
WORDS = (
    *("type", "rpcCall", "rpcResult", "rpcError", "channelCreate", "channelSend", "channelClose", "channelError"),
    *("endpoint", "callId", "channelId", "parameter", "creationParameter", "message", "result", "error", "warning"),
    *("communicationWarning", "success", "stats", "modelInfo", "predictionConfig", "fields", "key", "value", "checked"),
    *("fragment", "content", "reasoningType", "history", "messages", "role", "layers", "layerName", "config", "title"),
    *("modelSpecifier", "specifier", "query", "instanceReference", "identifier", "info", "log", "data", "timestamp"),
    *("predict", "completeRawText", "loadModel", "getOrLoad", "listLoaded", "embedString", "tokenize", "streamLogs"),
    *("llm.prediction.tools", "llm.prediction.structured", "llm.prediction.input", "llm.prediction.output", "input"),
    *("toolCallGenerationEnd", "toolCallRequest", "toolCallGenerationFailed", "promptProcessingProgress", "details"),
    *("stopReason", "output", "tools", "jsonSchema", "arguments", "name", "id", "text", "applyPromptTemplate", "opts"),
)
"""What nonsense is made of."""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=3)
    | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=5),
    max_leaves=20,
)


def client(**frame: Any) -> Frame:
    """A frame of the client's."""
    return Side.CLIENT, frame


def server(**frame: Any) -> Frame:
    """A frame of the server's."""
    return Side.UPSTREAM, frame


def told(number: int, **message: Any) -> Frame:
    """A message of the server's on a channel."""
    return server(type="channelSend", channelId=number, message=message)


def opened(reader: Reader, path: str) -> Session:
    """A WebSocket on which nothing was said yet."""
    session = reader.open(RequestHead("GET", path, is_websocket=True))
    session.response(ResponseHead(101), 0)
    return session


def say(session: Session, *frames: Frame, start_us: int = 10) -> None:
    """The first at `start_us`."""
    for at, (side, frame) in enumerate(frames):
        data = frame if isinstance(frame, bytes) else json.dumps(frame).encode()
        session.message(side, start_us + at * 10, TEXT, data)


def read(reader: Reader, path: str, *frames: Frame, end: End = COMPLETED) -> list[Reading]:
    """What a socket with these frames means."""
    session = opened(reader, path)
    say(session, *frames)
    return list(session.readings(end))


def read_cut(reader: Reader, path: str, frames: list[Frame], cuts: list[int]) -> list[Reading]:
    """The same, but the server's bytes come after the client's, at one time, and cut at these places."""
    session = opened(reader, path)
    say(session, *(frame for frame in frames if frame[0] is Side.CLIENT), start_us=0)
    protocol = FrameProtocol(client=False, extensions=[])
    wire = b"".join(
        bytes(protocol.send_data(json.dumps(frame), fin=True)) for side, frame in frames if side is Side.UPSTREAM
    )
    socket = WebSocketReader()
    for start, end in pairwise([0, *sorted(cut % len(wire) for cut in cuts), len(wire)]):
        for message in socket.feed(wire[start:end])[0]:
            session.message(Side.UPSTREAM, 1000, message.opcode, message.payload)
    return list(session.readings(COMPLETED))
