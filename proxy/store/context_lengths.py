"""How long the context window of a call was, as far as anybody told before it ended."""

import json
import sqlite3
from collections.abc import Iterator

from proxy.store.call_inputs import CallInput

_NAME = "context_length"
_AFTER_US = 60_000_000
"""A server is asked when a call is read, so what it says stands for the minute before."""
_SNAPSHOT = """
SELECT v.data, s.source FROM model_snapshots s JOIN read_values v ON v.id = s.values_id
WHERE s.upstream_url = ? AND s.model = ? AND s.first_at_us <= ? ORDER BY s.last_at_us DESC"""
_CONFIG = """
SELECT v.data, c.exchange_id FROM model_configs g JOIN read_values v ON v.id = g.parameters_id
JOIN read_calls c ON c.id = g.call_id WHERE g.model = ? AND g.at_us <= ? ORDER BY g.at_us DESC LIMIT 8"""
_LISTS = """
SELECT v.data, c.exchange_id FROM read_calls c JOIN read_values v ON v.id = c.details_id
JOIN recorded_exchanges e ON e.id = c.exchange_id
WHERE c.operation = 'models' AND c.started_at_us <= ? AND e.upstream_url IS ? ORDER BY c.id DESC LIMIT 8"""


class ContextLengths:
    """Looks it up, through one connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` may be read-only."""
        self._connection = connection

    def of(self, call: CallInput) -> tuple[int, str] | None:
        """Tokens, and who told; None: nobody did."""
        return next(self._told(call), None)

    def _told(self, call: CallInput) -> Iterator[tuple[int, str]]:
        """What is nearest to the call first: its own answer, what the server said when asked, what others asked."""
        if (length := _length(call.parameters.get((_NAME, "effective")))) is not None:
            yield length, "the answer"
        execute = self._connection.execute
        for model in call.models:
            for data, source in execute(_SNAPSHOT, (call.upstream_url, model, call.ended_us + _AFTER_US)):
                for length in _in_values(data):
                    yield length, source
        for model in (*call.models, ""):  # a server with one model does not always name it
            for data, exchange_id in execute(_CONFIG, (model, call.ended_us)):
                for length in _in_values(data):
                    yield length, f"exchange {exchange_id}"
        for data, exchange_id in execute(_LISTS, (call.ended_us, call.upstream_url)):
            for length in _in_list(json.loads(data), call.models):
                yield length, f"the model list of exchange {exchange_id}"


def _length(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _in_values(data: str) -> Iterator[int]:
    for name, value, *_ in json.loads(data):
        if name == _NAME and (length := _length(value)) is not None:
            yield length


def _in_list(details: object, models: tuple[str, ...]) -> Iterator[int]:
    """The loaded length of a model in a list, as REST v0 and v1 tell it."""
    rows = details.get("models") if isinstance(details, dict) else None
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        if row.get("id") in models and (length := _length(row.get("loaded_context_length"))) is not None:
            yield length
        instances = row.get("loaded_instances")
        for instance in instances if isinstance(instances, list) else []:
            config = instance.get("config") if isinstance(instance, dict) else None
            is_it = isinstance(instance, dict) and (instance.get("id") in models or row.get("key") in models)
            if is_it and isinstance(config, dict) and (length := _length(config.get(_NAME))) is not None:
                yield length
