"""Bodies that no client sends: a property of every endpoint is that none of them breaks it."""

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.demo.lookalikes import Answer, post, running

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
"""Any JSON value, and the numbers that JSON does not have."""


def survives(path: str, bodies: st.SearchStrategy[Any], check: Callable[[Any, Answer], None]) -> None:
    """Post bodies to one lookalike; `check` gets every answer, none of which may be a server's error."""

    @settings(max_examples=150, suppress_health_check=list(HealthCheck))
    @given(bodies | JSON)
    def answers(body: Any) -> None:
        got = runner.run(post(server, path, body))
        assert got.status < 500, (body, got)
        check(body, got)

    with asyncio.Runner() as runner:
        context = running()
        server = runner.run(context.__aenter__())
        try:
            answers()
        finally:
            runner.run(context.__aexit__(None, None, None))
