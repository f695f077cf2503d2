"""Samples with something else in one place: what a reader must survive, and a random body seldom reaches."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Path = tuple[str | int, ...]


def mutated(sample: list[Any], others: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The sample with up to three of its values, wherever they stand in it, replaced by others."""
    places = [path for path in _places(sample, ()) if path]
    changes = st.lists(st.tuples(st.sampled_from(places), others), min_size=1, max_size=3)
    return changes.map(lambda made: _changed(sample, made))


def data_of(event: bytes) -> Any:
    """The JSON of a server-sent event."""
    return json.loads(event.partition(b"data: ")[2])


def _places(value: Any, path: Path) -> Iterator[Path]:
    yield path
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in below:
        yield from _places(one, (*path, name))


def _changed(sample: Any, changes: list[tuple[Path, Any]]) -> Any:
    changed = json.loads(json.dumps(sample))
    for path, other in changes:
        inside: Any = changed
        for name in path[:-1]:
            try:
                inside = inside[name]
            except (KeyError, IndexError, TypeError):  # an earlier change took it away
                break
        else:
            last: Any = path[-1]
            if isinstance(inside, dict) or (isinstance(inside, list) and last in range(len(inside))):
                inside[last] = other
    return changed
