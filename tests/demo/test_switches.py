"""Every switch says what it does and how that is known, and takes what its table says."""

import importlib.util
import re

import pytest

from proxy.demo.behaviour import Behaviour, with_switches
from proxy.demo.server import SURFACES
from proxy.demo.surfaces import endpoints
from proxy.demo.switches import MARKS, Switch, switches
from proxy.errors import ProxyLogError

OWN = {"window"}
"""Not LM Studio's."""


@pytest.mark.parametrize("switch", switches(), ids=lambda switch: switch.name)
def test_switch_names_its_meaning_and_its_source(switch: Switch) -> None:
    assert switch.meaning.endswith((".", "…")), switch
    if switch.name not in OWN:
        assert re.match(f"[{''.join(MARKS)}][:.,;]", switch.source), f"{switch.name}: no mark in its docstring"


@pytest.mark.parametrize("switch", switches(), ids=lambda switch: switch.name)
def test_switch_takes_its_default_and_its_values(switch: Switch) -> None:
    assert with_switches(Behaviour(), {switch.name: switch.default}) == Behaviour()
    if switch.values.startswith("a ") or switch.values.startswith("text"):
        return
    for value in switch.values.split(", "):
        got = getattr(with_switches(Behaviour(), {switch.name: value}), switch.name)
        assert got == {"on": True, "off": False}.get(value, value)
    with pytest.raises(ProxyLogError, match=switch.name):
        with_switches(Behaviour(), {switch.name: "no such value"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("parallel", "0"), ("context_length", "-1"), ("jit_ttl_s", "nan"), ("version", "new"), ("parallel", "1.5")],
)
def test_value_that_makes_no_sense_is_refused(name: str, value: str) -> None:
    with pytest.raises(ProxyLogError, match=name):
        with_switches(Behaviour(), {name: value})


def test_endpoints_are_those_of_the_version() -> None:
    new = endpoints(Behaviour())
    assert list(dict.fromkeys(one.family for one in new)) == [
        "OpenAI",
        "Anthropic",
        "REST v0",
        "REST v1",
        "discovery",
        "SDK",
    ]
    assert {("OpenAI", "GET /v1/models/{id}"), ("SDK", "WebSocket /llm")} <= {(one.family, one.name) for one in new}
    assert not any("_demo" in one.name for one in new)
    old = endpoints(Behaviour(version="0.3.5", diagnostics=False))
    assert {one.family for one in old} == {"OpenAI", "discovery", "SDK"}
    assert len(old) < len(new)


@pytest.mark.parametrize("module", sorted({one.module for one in endpoints(Behaviour())}))
def test_modules_that_are_named_are_there(module: str) -> None:
    assert importlib.util.find_spec(f"proxy.demo.{module}")


def test_surface_brings_its_family_along() -> None:
    """A new one touches its own file and the list of surfaces, nothing else."""
    for module in SURFACES:
        paths = {route.path for route in module.ROUTES}
        told = {one.name.partition(" ")[2] for one in endpoints(Behaviour(window=True)) if one.family != "SDK"}
        is_demos = module.__name__.rpartition(".")[2] in ("sdk_socket", "window")
        assert bool(getattr(module, "FAMILY", "")) != is_demos
        assert all((path.replace("(.+)", "{id}").replace("([^/]+)", "{id}") in told) != is_demos for path in paths)
