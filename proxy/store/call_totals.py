"""Sums of calls by model and operation, kept as calls come and go, so that grouping needs no scan."""

import sqlite3

TotalsRow = tuple[str, str, int, int, int, int, int, float, int, int, int, float]
"""model, operation, then the columns of `call_totals`."""

_TOTALS = """
SELECT coalesce(model_answered, model_asked, ''), operation, 1,
    EXISTS (SELECT 1 FROM read_problems p WHERE p.call_id = c.id AND p.place IS NOT NULL),
    coalesce(input_tokens, 0), coalesce(output_tokens, 0),
    tokens_per_second IS NOT NULL, coalesce(tokens_per_second, 0),
    ttft_us IS NOT NULL, coalesce(ttft_us, 0), speed IS NOT NULL, coalesce(speed, 0)
FROM (
    SELECT *, first_token_us - request_complete_us AS ttft_us,
        CASE WHEN output_tokens > 1 AND last_token_us > first_token_us
            THEN (output_tokens - 1) * 1000000.0 / (last_token_us - first_token_us) END AS speed
    FROM read_calls WHERE {} = ? AND is_call AND NOT is_running
) c"""
TOTALS_OF = _TOTALS.format("exchange_id")
"""Of an exchange's calls."""
TOTALS_OF_CALL = _TOTALS.format("id")
_ADD_TOTAL = """
INSERT INTO call_totals VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(model, operation) DO UPDATE SET
calls = calls + excluded.calls, failed = failed + excluded.failed,
input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
reported_speeds = reported_speeds + excluded.reported_speeds,
tokens_per_second = tokens_per_second + excluded.tokens_per_second,
measured_ttfts = measured_ttfts + excluded.measured_ttfts, ttft_us = ttft_us + excluded.ttft_us,
measured_speeds = measured_speeds + excluded.measured_speeds,
measured_tokens_per_second = measured_tokens_per_second + excluded.measured_tokens_per_second"""


class CallTotals:
    """What is to be added in the open transaction."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._sums: dict[tuple[str, str], list[float]] = {}

    def add(self, row: TotalsRow, sign: int) -> None:
        """Count a call (1), or no more (-1)."""
        model, operation, *numbers = row
        sums = self._sums.setdefault((model, operation), [0] * len(numbers))
        for index, number in enumerate(numbers):
            sums[index] += sign * number

    def write(self, connection: sqlite3.Connection) -> None:
        """Add it."""
        if self._sums:
            connection.executemany(_ADD_TOTAL, [(*key, *sums) for key, sums in self._sums.items()])
            if any(sums[0] < 0 for sums in self._sums.values()):  # another model is said to have answered
                connection.execute("DELETE FROM call_totals WHERE calls = 0")
            self._sums.clear()
