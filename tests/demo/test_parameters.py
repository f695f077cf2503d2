"""Parameters: their names, their forms, and which layer wins."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Sampling
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import (
    PARAMETERS,
    SCHEMA_DEFAULTS,
    BadParameterError,
    Layer,
    Parameter,
    fields_of,
    layer_of,
    layer_of_fields,
    merged,
    sampling_of,
)
from proxy.demo.prediction import Ask
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.scripted_models import SCRIPTED_MODELS

TEMPERATURE = "llm.prediction.temperature"


def test_a_request_of_each_surface_becomes_the_same_layer() -> None:
    same = {
        "openai": {"temperature": 0.2, "top_p": 0.5, "max_tokens": 7},
        "responses": {"temperature": 0.2, "top_p": 0.5, "max_output_tokens": 7},
        "v1": {"temperature": 0.2, "top_p": 0.5, "max_output_tokens": 7},
        "anthropic": {"temperature": 0.2, "top_p": 0.5, "max_tokens": 7},
    }
    layers = [layer_of(body, surface) for surface, body in same.items()]
    assert layers[0] == {
        TEMPERATURE: 0.2,
        "llm.prediction.topPSampling": {"checked": True, "value": 0.5},
        "llm.prediction.maxPredictedTokens": {"checked": True, "value": 7},
    }
    assert all(layer == layers[0] for layer in layers)


def test_schema_defaults_are_those_of_the_sdk() -> None:
    assert sampling_of(SCHEMA_DEFAULTS) == Sampling(
        temperature=0.8, top_k=40, top_p=0.95, min_p=0.05, repeat_penalty=1.1, seed=None, max_tokens=None
    )


def test_no_limit_is_minus_one() -> None:
    layer = layer_of({"max_tokens": -1}, "openai")
    assert sampling_of(merged(SCHEMA_DEFAULTS, {"llm.prediction.maxPredictedTokens": 5}, layer)).max_tokens is None


@pytest.mark.parametrize("parameter", [one for one in PARAMETERS if one.openai], ids=lambda one: one.openai)
@given(
    value=st.none()
    | st.booleans()
    | st.text(max_size=3)
    | st.lists(st.integers())
    | st.dictionaries(st.text(), st.text())
)
def test_no_value_breaks_a_later_step(parameter: Parameter, value: object) -> None:
    name = parameter.openai
    layer: Layer = {}
    with suppress(BadParameterError):  # most are refused, some are right
        layer = layer_of({name: value}, "openai")
    sampling_of(merged(SCHEMA_DEFAULTS, layer))


@pytest.mark.parametrize("parameter", [one for one in PARAMETERS if one.openai], ids=lambda one: one.openai)
def test_a_refusal_names_the_field(parameter: Parameter) -> None:
    with pytest.raises(BadParameterError, match=f"'{parameter.openai}' must be") as refused:
        layer_of({parameter.openai: True}, "openai")
    assert refused.value.name == parameter.openai


def test_later_layers_of_a_stack_win() -> None:
    stack = {
        "layers": [
            {"layerName": "a", "config": {"fields": [{"key": TEMPERATURE, "value": 0.1}, {"key": "k", "value": 1}]}},
            {"layerName": "b", "config": {"fields": [{"key": TEMPERATURE, "value": 0.9}]}},
        ]
    }
    assert layer_of_fields(stack) == {TEMPERATURE: 0.9, "k": 1}
    assert layer_of_fields({"layers": [{"config": fields_of({"k": 2})}]}) == {"k": 2}
    assert layer_of_fields(None) == {}


@pytest.mark.parametrize(
    ("behaviour", "is_sdk", "winner"),
    [
        (Behaviour(), False, 0.1),
        (Behaviour(request_overrides_model=False), False, 0.4),
        (Behaviour(request_overrides_model=False), True, 0.1),
    ],
)
def test_who_wins_is_a_switch_over_http_only(behaviour: Behaviour, is_sdk: bool, winner: float) -> None:
    look = Lookalike(
        ScriptedEngine(),
        behaviour,
        model_defaults={TEMPERATURE: 0.4},
        presets={"cold": {TEMPERATURE: 0.3, "llm.prediction.topKSampling": 3}},
    )
    model = SCRIPTED_MODELS[0]
    assert look.config(model, Ask(is_sdk=is_sdk))[TEMPERATURE] == 0.4
    assert look.config(model, Ask(is_sdk=is_sdk, layer={TEMPERATURE: 0.1}))[TEMPERATURE] == winner
    preset = look.config(model, Ask(is_sdk=is_sdk, preset="cold"))
    assert preset["llm.prediction.topKSampling"] == 3
    assert preset[TEMPERATURE] == 0.3  # over the default, whoever wins of request and default


def test_a_preset_over_http_may_count_for_structure_only() -> None:
    look = Lookalike(ScriptedEngine(), Behaviour(preset_scope="structured"), presets={"cold": {TEMPERATURE: 0.3}})
    assert look.config(SCRIPTED_MODELS[0], Ask(preset="cold"))[TEMPERATURE] == 0.8
    assert look.config(SCRIPTED_MODELS[0], Ask(preset="cold", is_sdk=True))[TEMPERATURE] == 0.3
