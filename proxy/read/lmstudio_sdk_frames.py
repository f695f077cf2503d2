"""The frames of the SDK's WebSockets: their types, their fields, and whose call they belong to.

Facts (lmstudio-api.md 5.3; lmstudio-js Transport.ts)
-----------------------------------------------------
* Values that are void are absent. The client never closes a channel.
* No signals are registered in the public interfaces today.
"""

from collections.abc import Mapping

from proxy.exchange import Side

_COMMON = {
    "channelSend": ("channelId", "message", "ackId"),
    "channelAck": ("channelId", "ackId"),
    "communicationWarning": ("warning", "kind"),
    "writableSignalUpdate": ("subscribeId", "patches", "tags"),
}
_OF_CLIENT = _COMMON | {
    "rpcCall": ("endpoint", "callId", "parameter"),
    "channelCreate": ("endpoint", "channelId", "creationParameter"),
    "signalSubscribe": ("endpoint", "subscribeId", "creationParameter"),
    "signalUnsubscribe": ("subscribeId",),
    "writableSignalSubscribe": ("endpoint", "subscribeId", "creationParameter"),
    "writableSignalUnsubscribe": ("subscribeId",),
    "keepAlive": (),
}
_OF_UPSTREAM = _COMMON | {
    "rpcResult": ("callId", "result"),
    "rpcError": ("callId", "error"),
    "channelClose": ("channelId",),
    "channelError": ("channelId", "error"),
    "signalUpdate": ("subscribeId", "patches", "tags"),
    "signalError": ("subscribeId", "error"),
    "writableSignalError": ("subscribeId", "error"),
    "keepAliveAck": (),
}
FRAMES: Mapping[Side, Mapping[str, frozenset[str]]] = {
    side: {kind: frozenset(("type", *fields)) for kind, fields in kinds.items()}
    for side, kinds in ((Side.CLIENT, _OF_CLIENT), (Side.UPSTREAM, _OF_UPSTREAM))
}
BEGIN: Mapping[str, str] = {"rpcCall": "rpc", "channelCreate": "channel"}
ANSWERS: Mapping[Side, Mapping[str, str]] = {
    Side.CLIENT: {},
    Side.UPSTREAM: {
        **dict.fromkeys(("rpcResult", "rpcError"), "rpc"),
        **dict.fromkeys(("channelSend", "channelClose", "channelError"), "channel"),
    },
}
ID: Mapping[str, str] = {"rpc": "callId", "channel": "channelId"}
