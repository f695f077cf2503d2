"""What is left of several possibilities when the only ones are taken away. Pure."""

from collections import defaultdict

Edges = dict[int, set[int]]
"""By call id the ids of events which may be its own."""


def forced_pairs(edges: Edges) -> dict[int, int]:
    """Pairs that are the only possibility; `edges` keeps what is left, without empty ones.

    A pair: an event that only one call may have, of a call which has no other event of its own alone.
    """
    callers: Edges = defaultdict(set)
    for call, events in edges.items():
        for event in events:
            callers[event].add(call)
    pairs: dict[int, int] = {}
    waiting = [event for event, some in callers.items() if len(some) == 1]
    while waiting:
        event = waiting.pop()
        if len(callers[event]) != 1:
            continue
        (call,) = callers[event]
        if any(len(callers[other]) == 1 for other in edges[call] if other != event):
            continue
        pairs[call] = event
        for other in edges.pop(call):
            callers[other].discard(call)
            if len(callers[other]) == 1:
                waiting.append(other)
    for call in [call for call, events in edges.items() if not events]:
        del edges[call]
    return pairs


def components(edges: Edges) -> list[list[int]]:
    """Calls that may have the same events, directly or by others."""
    callers: Edges = defaultdict(set)
    for call, events in edges.items():
        for event in events:
            callers[event].add(call)
    found: list[list[int]] = []
    seen: set[int] = set()
    for start in edges:
        if start in seen:
            continue
        seen.add(start)
        component, waiting = [], [start]
        while waiting:
            call = waiting.pop()
            component.append(call)
            fresh = set().union(*(callers.pop(event, set()) for event in edges[call])) - seen
            seen |= fresh
            waiting.extend(fresh)
        found.append(component)
    return found
