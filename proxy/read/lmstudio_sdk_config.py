"""LM Studio's configuration as the SDK sends it, key by key, made parameters.

Facts (lmstudio-api.md 7.1, 7.2; lmstudio-js KVConfig.ts, schema.ts)
--------------------------------------------------------------------
* A stack has layers, a later one wins per key. `apiOverride` is what the caller asked for; the others are named.
* What can be off comes as `{"checked": false, "value": ...}`, with a value that then has no effect.
* `llm.prediction.structured` and `.tools` are objects with a `type`; `none` is off.
* Keys are added with every release: those not known here stay parameters, under their own names.
"""

from collections.abc import Mapping
from types import MappingProxyType

from proxy.meaning import Json, Origin
from proxy.read.call import Call
from proxy.read.json_fields import Fields, encode_json
from proxy.read.openai_fields import tool_of

P, L = "llm.prediction.", "llm.load."
_STRUCTURED, _TOOLS = P + "structured", P + "tools"
_LOAD = {
    "contextLength": "context_length",
    "seed": "load_seed",
    "llama.acceleration.offloadRatio": "gpu_offload",
    "llama.evalBatchSize": "eval_batch_size",
}
NAMES: Mapping[str, str] = MappingProxyType(
    {
        P + "temperature": "temperature",
        P + "topKSampling": "top_k",
        P + "topPSampling": "top_p",
        P + "minPSampling": "min_p",
        P + "repeatPenalty": "repeat_penalty",
        P + "llama.presencePenalty": "presence_penalty",
        P + "llama.frequencyPenalty": "frequency_penalty",
        P + "llama.locallyTypicalSampling": "typical_p",
        P + "llama.xtcProbability": "xtc_probability",
        P + "llama.xtcThreshold": "xtc_threshold",
        P + "llama.logitBias": "logit_bias",
        P + "llama.cpuThreads": "cpu_threads",
        P + "maxPredictedTokens": "max_tokens",
        P + "stopStrings": "stop",
        P + "seed": "seed",
        P + "toolChoice": "tool_choice",
        P + "systemPrompt": "system_prompt",
        P + "promptTemplate": "prompt_template",
        P + "contextOverflowPolicy": "context_overflow_policy",
        P + "reasoning.enableThinking": "enable_thinking",
        P + "reasoning.budgetTokens": "thinking_budget",
        P + "reasoning.parsing": "reasoning_parsing",
        P + "logProbs": "logprobs",
        P + "speculativeDecoding.draftModel": "draft_model",
        L + "promptTemplate": "load_prompt_template",
        L + "llama.flashAttention": "flash_attention",
        L + "offloadKVCacheToGpu": "offload_kv_cache_to_gpu",
        L + "numExperts": "num_experts",
        L + "numParallelSessions": "parallel",
        **{L + key: name for key, name in _LOAD.items()},
        **{f"embedding.load.{key}": name for key, name in _LOAD.items()},
    }
)
"""The project's names, by LM Studio's keys."""


def read_stack(call: Call, parameter: Fields, name: str) -> list[str]:
    """A stack of layers; gives their names."""
    stack = parameter.object(name)
    if stack is None:
        return []
    names = []
    for layer in stack.objects("layers"):
        layer_name = layer.text("layerName") or "unnamed"
        names.append(layer_name)
        origin = Origin.PRESET if layer_name == "preset" else Origin.REQUEST
        note = layer_name if layer_name != "apiOverride" else None
        read_config(call, layer.object("config"), origin, note=note)
    return names


def read_config(call: Call, config: Fields | None, origin: Origin, *, note: str | None = None) -> None:
    """A configuration: keys and values."""
    if config is None:
        return
    for field in config.objects("fields"):
        key, value = field.text("key"), field.raw("value")
        if key is None or value is None:
            continue
        if key == _TOOLS:
            _read_tools(call, value, origin)
        elif key == _STRUCTURED:
            _read_structured(call, value, origin, note)
        else:
            _read_value(call, value, key, origin, note)


def _read_value(call: Call, value: Json, key: str, origin: Origin, note: str | None) -> None:
    name = NAMES.get(key, key)
    is_checked = value.get("checked") if isinstance(value, dict) else None
    if is_checked is False:
        call.unset(name, sent_as=key, origin=origin, note=note)
    else:
        value = value.get("value") if is_checked is True else value
        call.parameter(name, value, sent_as=key, origin=origin, note=note)


def _read_tools(call: Call, setting: Json, origin: Origin) -> None:
    """The tools of the last layer; those in force only where the request named none."""
    if origin in (Origin.REQUEST, Origin.PRESET):
        call.tools.clear()
    elif call.tools:
        return
    tools = setting.get("tools") if isinstance(setting, dict) else None
    read_tool_array(call, tools)


def read_tool_array(call: Call, tools: Json) -> None:
    """Tools, each in OpenAI's nested form."""
    if tools is None:
        return
    if not isinstance(tools, list):
        call.notes.wrong("tools", "an array", tools)
        return
    for tool in tools:
        if isinstance(tool, dict):
            function, kind = tool.get("function"), tool.get("type")
            data = function if isinstance(function, dict) else tool
            call.tools.append(tool_of(data, kind if isinstance(kind, str) else "function"))
        else:
            call.notes.wrong("tools[]", "an object", tool)


def _read_structured(call: Call, setting: Json, origin: Origin, note: str | None) -> None:
    """What the answer has to follow."""
    kind = setting.get("type") if isinstance(setting, dict) else None
    is_asked = origin in (Origin.REQUEST, Origin.PRESET)
    if is_asked:
        call.output_schema = None
    if kind == "none":
        call.unset("response_format", sent_as=_STRUCTURED, origin=origin, note=note)
        return
    call.parameter("response_format", kind or setting, sent_as=_STRUCTURED, origin=origin, note=note)
    if not isinstance(setting, dict):
        return
    call.parameter("grammar", setting.get("gbnfGrammar"), sent_as=_STRUCTURED, origin=origin, note=note)
    schema = setting.get("jsonSchema")
    if schema is not None and call.output_schema is None:
        call.output_schema = encode_json(schema)
