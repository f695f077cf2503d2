"""What a client sent otherwise than the turn before, and what the proxy changed of it, in words."""

from collections.abc import Sequence

from proxy.prompt.origins import MessageFate
from proxy.prompt.wording import count, is_or_are, listed, quoted

Fields = Sequence[tuple[str, str]]
"""Names and values of a head, in order."""


def request_differences(
    fates: Sequence[MessageFate], *, parent_id: int | None, is_system_changed: bool, is_chained: bool
) -> list[str]:
    """What the client sent otherwise than the turn before.

    Args:
        fates: those of messages that the client left out among them.
        parent_id: the call that this one goes on from.
        is_system_changed: its system messages are others.
        is_chained: the client names the answer that it goes on from, and the server keeps the chat.
    """
    told = []
    gone = [fate for fate in fates if fate.dropped_by == "client"]
    if gone:
        each = [f"{fate.message.role} {quoted(fate.message.text, 40)}" for fate in gone[:3]]
        more = [f"{len(gone) - 3:,} more"] if len(gone) > 3 else []
        told.append(f"the client left out {count(len(gone), 'message')} of the turn before: {listed(each + more)}")
    if is_system_changed and parent_id is not None:
        told.append(f"the system messages are not those of the turn before (call {parent_id})")
    if is_chained:
        before = f" (call {parent_id})" if parent_id is not None else ""
        told.append(f"the client sent nothing of the chat before: it names the answer{before} that the server keeps")
    return told


def head_differences(before: Fields, after: Fields) -> list[str]:
    """What was done to the fields of a head as it was passed on."""
    lost, added = list(before), []
    for field in after:
        if field in lost:
            lost.remove(field)
        else:
            added.append(field)
    told = []
    for name, value in list(lost):
        other = next((field for field in added if field[0].lower() == name.lower()), None)
        if other is not None:
            added.remove(other)
            lost.remove((name, value))
            told.append(f"the header {name} was changed from {quoted(value, 80)} to {quoted(other[1], 80)}")
    for_pages = [field for field in added if field[0].lower().startswith("access-control-")]
    told += _done(lost, "left out")
    told += _done([field for field in added if field not in for_pages], "added")
    told += [f"{one}, so that web pages may read the answer (CORS)" for one in _done(for_pages, "added")]
    if not told and list(before) != list(after):
        told.append("the lines of the head are in another order")
    return told


def _done(fields: Fields, done: str) -> list[str]:
    """What was done to all of these."""
    if not fields:
        return []
    each = listed([f"{name}: {_short(value)}" for name, value in fields])
    return [f"the header {each} was {done}" if len(fields) == 1 else f"the headers {each} were {done}"]


def _short(value: str) -> str:
    return value if len(value) <= 80 else f"{value[:79]}\u2026"


def forwarded_differences(
    head: Sequence[str],
    *,
    path: tuple[str, str],
    body_bytes: int,
    is_forwarded: bool,
    is_received: bool,
    is_socket: bool,
    masked: int,
    gaps: int,
) -> list[str]:
    """What the proxy changed of a request.

    Args:
        head: what `head_differences` says of it.
        path: as received, as forwarded.
        body_bytes: how long the body was.
        is_forwarded: there is an upstream that it went to.
        is_received: the upstream answered a request that was complete.
        is_socket: it is a WebSocket.
        masked: values that are masked in what is recorded of the body.
        gaps: holes in what is recorded.
    """
    if not is_forwarded:
        return ["nothing was forwarded: the proxy answered by itself"]
    told = list(head)
    if path[0] != path[1]:
        told.append(f"the path {_short(path[0])} became {_short(path[1])}")
    if is_socket:
        told.append("each message of the WebSocket was passed on as it came")
    elif is_received:
        told.append(f"the body was passed on as it came, {count(body_bytes, 'byte')}")
    else:
        told.append(
            f"how much of the body ({count(body_bytes, 'byte')}) reached the server is not known: no answer came"
        )
    if masked:
        told.append(
            f"{count(masked, 'value')} of the body {is_or_are(masked)} masked in the trace, not in what was forwarded"
        )
    if gaps:
        told.append(f"the trace has {count(gaps, 'gap')} here: not all of it is recorded")
    return told
