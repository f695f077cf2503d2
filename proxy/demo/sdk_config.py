"""Configuration as the SDK sends it: a stack of layers, whose values are checked before an engine sees them.

S, lmstudio-js packages/lms-shared-types/src/KVConfig.ts (the stack) and packages/lms-kv-config/src/schema.ts (keys,
forms, limits). The protocol itself takes any value; what LM Studio says to a wrong one is not known (U).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from proxy.demo.behaviour import Overflow
from proxy.demo.engine import Model
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import (
    DRAFT_MODEL,
    ENABLE_THINKING,
    EVAL_BATCH,
    EXPERTS,
    FLASH_ATTENTION,
    KV_ON_GPU,
    LOAD_SEED,
    MAX_TOKENS,
    OFFLOAD_RATIO,
    OVERFLOW,
    PARALLEL,
    PARAMETERS,
    REASONING_BUDGET,
    REASONING_PARSING,
    SEED,
    STRUCTURED,
    SYSTEM_PROMPT,
    TEMPLATE,
    TOOLS,
    Layer,
    P,
    layer_of_fields,
    merged,
)
from proxy.demo.sdk_endpoints import Json, Parameter
from proxy.demo.sdk_errors import SdkError, preset_not_found

TOOL_CHOICE = P + "toolChoice"
LayerName = Literal[
    "currentlyEditing",
    "currentlyLoaded",
    "apiOverride",
    "conversationSpecific",
    "conversationGlobal",
    "preset",
    "serverSession",
    "httpServerRequestOverride",
    "completeModeFormatting",
    "instance",
    "userModelDefault",
    "virtualModel",
    "modelDefault",
    "hardware",
]


class ConfigField(Parameter):
    """One setting."""

    key: str
    value: Any = None


class Config(Parameter):
    """Settings."""

    fields_: Annotated[list[ConfigField], Field(alias="fields")]


class ConfigLayer(Parameter):
    """Settings from one source."""

    layer_name: LayerName
    config: Config


class ConfigStack(Parameter):
    """Layers; a later one wins."""

    layers: list[ConfigLayer]

    def layer(self) -> Layer:
        """All layers as one, its values checked.

        Raises:
            SdkError: a value is of the wrong form.
        """
        layer = layer_of_fields(self.model_dump(by_alias=True))
        found = {key: value for key, value in layer.items() if value is not None}
        for key, value in found.items():
            _check(key, value)
        return found


class FunctionTool(Parameter):
    """What a tool is called and takes. S: LLMToolUseSetting.ts."""

    name: str
    description: str = ""
    parameters: Json | None = None


class Tool(Parameter):
    """A tool."""

    type: Literal["function"]
    function: FunctionTool


class _Tools(Parameter):
    type: Literal["none", "toolArray"]
    tools: Annotated[tuple[Tool, ...], Field(strict=False)] = ()


class _ToolChoice(Parameter):
    type: Literal["generic"]
    mode: Literal["none", "auto", "required"]


class _Structured(Parameter):
    type: Literal["none", "json", "gbnf"]
    json_schema: Json | None = None
    gbnf_grammar: str | None = None


class _Reasoning(Parameter):
    enabled: bool
    start_string: Annotated[str, Field(min_length=1)]
    end_string: Annotated[str, Field(min_length=1)]


class _Jinja(Parameter):
    template: str


class _Template(Parameter):
    type: Literal["manual", "jinja"]
    manual_prompt_template: dict[str, str] | None = None
    jinja_prompt_template: _Jinja | None = None
    stop_strings: Annotated[tuple[str, ...], Field(strict=False)] = ()


_Number = Annotated[float, Field(allow_inf_nan=False)]
_Context = Annotated[int, Field(ge=1)]
_NUMBERS: dict[str, Any] = {
    MAX_TOKENS: Annotated[int, Field(ge=1)],
    SEED: Annotated[int, Field(ge=-1, lt=1 << 63)],
    P + "topKSampling": Annotated[int, Field(ge=-1, le=1 << 30)],
}


class _Checkbox(Parameter):
    checked: bool
    value: Any = None


def _adapter(form: Any) -> TypeAdapter[Any]:
    """Models are strict by themselves; everything else is told to be."""
    is_model = isinstance(form, type) and issubclass(form, Parameter)
    return TypeAdapter(form, config=None if is_model else ConfigDict(strict=True))


_FORMS = {
    key: _adapter(form)
    for key, form in {
        **{one.key: _NUMBERS.get(one.key, _Number) for one in PARAMETERS},
        P + "stopStrings": list[str],
        P + "llama.logitBias": list[Annotated[list[_Number], Field(min_length=2, max_length=2)]],
        STRUCTURED: _Structured,
        OVERFLOW: Overflow,
        TOOLS: _Tools,
        TOOL_CHOICE: _ToolChoice,
        TEMPLATE: _Template,
        REASONING_PARSING: _Reasoning,
        ENABLE_THINKING: bool,
        REASONING_BUDGET: Annotated[int, Field(ge=0)],
        SYSTEM_PROMPT: str,
        DRAFT_MODEL: str,
        "llm.load.contextLength": _Context,
        "embedding.load.contextLength": _Context,
        EVAL_BATCH: Annotated[int, Field(ge=1, le=1 << 30)],
        FLASH_ATTENTION: bool,
        KV_ON_GPU: bool,
        EXPERTS: Annotated[int, Field(ge=0)],
        LOAD_SEED: Annotated[int, Field(ge=-1, lt=1 << 63)],
        OFFLOAD_RATIO: Literal["max", "off"] | Annotated[float, Field(ge=0, le=1)],
        PARALLEL: Annotated[int, Field(ge=1, le=1023)],
    }.items()
}
_CHECKBOXES = {one.key for one in PARAMETERS if one.is_checkbox} | {REASONING_BUDGET, LOAD_SEED}


def _check(key: str, value: Any) -> None:
    try:
        if key in _CHECKBOXES:
            checkbox = _Checkbox.model_validate(value)
            if not checkbox.checked:
                return
            value = checkbox.value
        if key in _FORMS:
            _FORMS[key].validate_python(value)
    except ValidationError as error:
        raise SdkError(f'Invalid value for the config field "{key}"', cause=first_error(error)) from None


def first_error(error: ValidationError) -> str:
    """What is wrong, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]


def request_layer(look: Lookalike, model: Model, stack: ConfigStack, preset: str | None) -> Layer:
    """The parameters of one call, the SDK's own default for a context that overflows among them.

    Raises:
        SdkError: a value is of the wrong form.
    """
    layer = stack.layer()
    below = merged(look.defaults_of(model), look.server_session, look.presets.get(preset or "", {}))
    return layer if OVERFLOW in below else {OVERFLOW: look.behaviour.sdk_overflow} | layer


def find_preset(look: Lookalike, name: str | None) -> str | None:
    """The preset that is meant; S: "supports limited fuzzy matching", here: case, and parts of its name.

    Raises:
        SdkError: there is none.
    """
    if name is None:
        return None
    wanted = name.casefold()
    names = sorted(look.presets)
    matches = [one for one in names if one == name] or [one for one in names if one.casefold() == wanted]
    matches = matches or [one for one in names if wanted and wanted in one.casefold()]
    if not matches:
        raise preset_not_found(look, name)
    return matches[0]


def tools_of(config: Mapping[str, Any]) -> list[Json]:
    """The tools in force, as templates take them."""
    setting = config.get(TOOLS) or {}
    return list(setting.get("tools") or ()) if setting.get("type") == "toolArray" else []
