"""Parameters: their names on each surface, their keys in LM Studio's configuration, and which layer wins.

A layer is a plain dict from key to value, in the form the SDK uses (`{"checked": true, "value": 0.9}` for what can be
off). Keys, forms and schema defaults: S, lmstudio-js packages/lms-kv-config/src/schema.ts; names on the HTTP
surfaces: D, the documentation of each endpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.demo.engine import Sampling

Layer = dict[str, Any]
"""Key to value: `{"llm.prediction.temperature": 0.2}`."""

P = "llm.prediction."
EVAL_BATCH, FLASH_ATTENTION = "llm.load.llama.evalBatchSize", "llm.load.llama.flashAttention"
EXPERTS, KV_ON_GPU = "llm.load.numExperts", "llm.load.offloadKVCacheToGpu"
PARALLEL, LOAD_SEED = "llm.load.numParallelSessions", "llm.load.seed"
OFFLOAD_RATIO = "llm.load.llama.acceleration.offloadRatio"
DRAFT_MODEL = P + "speculativeDecoding.draftModel"
_LARGEST = 2**53
"""JavaScript's largest safe integer is one less."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter, as every surface calls it ("" where it is not offered)."""

    key: str
    is_checkbox: bool
    default: Any
    """Of the schema; None: there is none."""
    openai: str = ""
    responses: str = ""
    v1: str = ""
    anthropic: str = ""


PARAMETERS = (
    Parameter(P + "temperature", False, 0.8, "temperature", "temperature", "temperature", "temperature"),
    Parameter(P + "topKSampling", False, 40, "top_k", "", "top_k", "top_k"),
    Parameter(P + "topPSampling", True, 0.95, "top_p", "top_p", "top_p", "top_p"),
    Parameter(P + "minPSampling", True, 0.05, "min_p", "", "min_p"),
    Parameter(P + "repeatPenalty", True, 1.1, "repeat_penalty", "", "repeat_penalty"),
    Parameter(P + "llama.presencePenalty", True, None, "presence_penalty"),
    Parameter(P + "llama.frequencyPenalty", True, None, "frequency_penalty"),
    Parameter(
        P + "maxPredictedTokens", True, None, "max_tokens", "max_output_tokens", "max_output_tokens", "max_tokens"
    ),
    Parameter(P + "stopStrings", False, [], "stop", "", "", "stop_sequences"),
    Parameter(P + "seed", True, None, "seed"),
    Parameter(P + "llama.logitBias", False, [], "logit_bias"),
)
BY_KEY = {parameter.key: parameter for parameter in PARAMETERS}
MAX_TOKENS, SEED = P + "maxPredictedTokens", P + "seed"
STRUCTURED, OVERFLOW = P + "structured", P + "contextOverflowPolicy"
TEMPLATE, TOOLS = P + "promptTemplate", P + "tools"
REASONING_PARSING, SYSTEM_PROMPT = P + "reasoning.parsing", P + "systemPrompt"
ENABLE_THINKING, REASONING_BUDGET = P + "reasoning.enableThinking", P + "reasoning.budgetTokens"
REASONING_EFFORT = P + "reasoning.effort"
"""The HTTP surfaces' `low`, `medium`, `high`. The key is ours: the SDK's schema has none (U)."""

SCHEMA_DEFAULTS: Layer = {
    parameter.key: {
        "checked": parameter.default is not None,
        "value": parameter.default if parameter.default is not None else off,
    }
    if parameter.is_checkbox
    else parameter.default
    for parameter, off in ((p, {MAX_TOKENS: 1000, SEED: -1}.get(p.key, 0)) for p in PARAMETERS)
} | {
    STRUCTURED: {"type": "none"},
    OVERFLOW: "truncateMiddle",
    TOOLS: {"type": "none"},
    SYSTEM_PROMPT: "",
    DRAFT_MODEL: "",
    ENABLE_THINKING: True,
    REASONING_BUDGET: {"checked": False, "value": 1024},
    REASONING_PARSING: {"enabled": True, "startString": "<think>", "endString": "</think>"},
}
"""The last resort of the layers."""


class BadParameterError(ValueError):
    """A request's parameter has a value that nothing can be done with."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


def layer_of(body: Mapping[str, Any], surface: str) -> Layer:
    """The layer that a request's own fields make.

    Args:
        body: the request.
        surface: `openai`, `responses`, `v1` or `anthropic`.

    Raises:
        BadParameterError: a field is of the wrong type.
    """
    layer: Layer = {}
    for parameter in PARAMETERS:
        name: str = getattr(parameter, surface)
        if not name or body.get(name) is None:
            continue
        layer[parameter.key] = _form(parameter, name, body[name])
    return layer


def effort_layer(effort: str | None) -> Layer:
    """The layer that a level of reasoning makes: `none` and `off` forbid it, others allow it. U: what levels do."""
    if effort is None:
        return {}
    if effort in ("none", "off"):
        return {ENABLE_THINKING: False}
    return {ENABLE_THINKING: True} | ({REASONING_EFFORT: effort} if effort != "on" else {})


def template_variables(config: Layer) -> dict[str, Any]:
    """What chat templates are told of reasoning. U: the names are those that models' own templates look for."""
    variables: dict[str, Any] = {"enable_thinking": bool(config.get(ENABLE_THINKING, True))}
    if REASONING_EFFORT in config:
        variables["reasoning_effort"] = config[REASONING_EFFORT]
    return variables


def _form(parameter: Parameter, name: str, value: Any) -> Any:
    if parameter.key == P + "stopStrings":
        strings = [value] if isinstance(value, str) else value
        if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
            raise BadParameterError(name, f"'{name}' must be a string or an array of strings")
        return strings
    if parameter.key == P + "llama.logitBias":
        if not isinstance(value, dict):
            raise BadParameterError(name, f"'{name}' must be an object of token ids and numbers")
        if not all(token.isdecimal() and len(token) < 20 and _is_number(bias) for token, bias in value.items()):
            raise BadParameterError(name, f"'{name}' must be an object of token ids and numbers")
        return [[int(token), float(bias)] for token, bias in value.items()]
    if not _is_number(value):
        raise BadParameterError(name, f"'{name}' must be a number")
    if parameter.key == MAX_TOKENS and value < 0:
        return {"checked": False, "value": 1000}  # -1 is no limit, throughout the documentation's examples
    return {"checked": True, "value": value} if parameter.is_checkbox else value


def _is_number(value: Any) -> bool:
    """A number that a model can be told: finite, and of a size that fits everywhere."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST


def layer_of_fields(stack: Mapping[str, Any] | None) -> Layer:
    """The layer that an SDK's stack of layers makes: `{"layers": [{"layerName", "config": {"fields": [...]}}]}`.

    A later layer wins, per key. S: collapseKVStack.
    """
    layer: Layer = {}
    for one in (stack or {}).get("layers", ()):
        for field in one.get("config", {}).get("fields", ()):
            layer[field["key"]] = field.get("value")
    return layer


def fields_of(layer: Layer) -> dict[str, Any]:
    """A layer as the SDK takes it: `{"fields": [{"key", "value"}]}`."""
    return {"fields": [{"key": key, "value": value} for key, value in layer.items()]}


def merged(*layers: Layer) -> Layer:
    """All layers as one; a later one wins, per key."""
    found: Layer = {}
    for layer in layers:
        found |= layer
    return found


def sampling_of(config: Layer) -> Sampling:
    """What the engine is told. Keys that are missing are at the engine's own defaults."""

    def number(key: str) -> Any:
        value = config.get(P + key)
        if isinstance(value, dict):
            return value.get("value") if value.get("checked") else None
        return value

    structured = config.get(STRUCTURED) or {}
    schema = structured.get("jsonSchema", {}) if structured.get("type") == "json" else None
    seed = number("seed")
    return Sampling(
        temperature=float(number("temperature") if number("temperature") is not None else 0.8),
        top_k=int(number("topKSampling") if number("topKSampling") is not None else 40),
        top_p=number("topPSampling"),
        min_p=number("minPSampling"),
        repeat_penalty=number("repeatPenalty"),
        presence_penalty=number("llama.presencePenalty"),
        frequency_penalty=number("llama.frequencyPenalty"),
        seed=int(seed) if seed is not None and seed >= 0 else None,
        logit_bias=tuple((int(token), float(bias)) for token, bias in config.get(P + "llama.logitBias") or ()),
        stop=(*(config.get(P + "stopStrings") or ()), *((config.get(TEMPLATE) or {}).get("stopStrings") or ())),
        max_tokens=int(number("maxPredictedTokens")) if number("maxPredictedTokens") is not None else None,
        json_schema=schema,
        draft_model=config.get(DRAFT_MODEL) or "",
        reasoning_budget=number("reasoning.budgetTokens"),
        grammar=structured.get("gbnfGrammar") if structured.get("type") == "gbnf" else None,
    )
