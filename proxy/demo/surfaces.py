"""What the lookalike answers, as a table: families of endpoints, each with the module that answers."""

import re
from dataclasses import dataclass, fields

from proxy.demo.behaviour import Behaviour
from proxy.demo.http import Route
from proxy.demo.sdk_socket import NAMESPACES
from proxy.demo.server import SURFACES

_ALWAYS = {field.name: field.default for field in fields(Route)}["since"]
_ORDER = ("OpenAI", "Anthropic", "REST v0", "REST v1", "discovery", "SDK")
"""Others come behind."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of them."""

    family: str
    name: str
    """`POST /v1/chat/completions`, `WebSocket /llm`."""
    since: str
    """The application's version that it came with; "" if it was always there."""
    module: str
    """Where it is, and where its sources are named."""


def endpoints(behaviour: Behaviour) -> tuple[Endpoint, ...]:
    """All that an application with this behaviour has."""
    found = []
    for module in SURFACES:
        family = getattr(module, "FAMILY", "")  # without one: the demo's own paths, and the SDK's, which are told below
        for route in module.ROUTES if family else ():
            path = re.sub(r"\([^)]*\)", "{id}", route.path).replace("\\", "")
            is_there = behaviour.has(route.since) and (not route.switch or getattr(behaviour, route.switch))
            if is_there:
                found.append(
                    Endpoint(family, f"{route.method} {path}", _told(route.since), _last_word(module.__name__))
                )
    for name in NAMESPACES:
        if name != "diagnostics" or behaviour.diagnostics:
            found.append(Endpoint("SDK", f"WebSocket /{name}", "", f"sdk_{name}"))
    return tuple(sorted(found, key=lambda one: _ORDER.index(one.family) if one.family in _ORDER else len(_ORDER)))


def _told(since: str) -> str:
    return "" if since == _ALWAYS else since


def _last_word(dotted: str) -> str:
    return dotted.rpartition(".")[2]
