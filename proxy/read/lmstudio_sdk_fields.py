"""What calls of LM Studio's SDK have in common: the model that is meant, the one that answers, statistics.

Facts (lmstudio-api.md 5.6, 5.7, 6.1-6.3; lmstudio-js ModelSpecifier.ts, ModelInfoBase.ts, LLMPredictionStats.ts)
-----------------------------------------------------------------------------------------------------------------
* A model is meant by a query (identifier, path, ...; an empty one takes any) or by the reference of one load, which
  `getOrLoad` and others told before, as a rule on the same socket.
* `totalTimeSec` is what it is called, and in most versions not the total: kept as reported.
* `numGpuLayers` is marked as not correct, and -1 in every capture.
"""

from proxy.meaning import Json, StopReason
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.openai_fields import SDK_STOP_REASONS

_QUERY = ("domain", "deviceIdentifier", "identifier", "path", "vision")
_INFO = (
    *("type", "modelKey", "format", "displayName", "publisher", "path", "sizeBytes", "indexedModelIdentifier"),
    *("deviceIdentifier", "paramsString", "architecture", "quantization", "variants", "selectedVariant"),
    *("identifier", "instanceReference", "ttlMs", "lastUsedTime"),
    *("vision", "trainedForToolUse", "maxContextLength", "contextLength"),
)
_ROW = (
    *("identifier", "modelKey", "type", "format", "path", "paramsString", "architecture", "quantization"),
    *("sizeBytes", "maxContextLength", "contextLength", "vision", "trainedForToolUse"),
)


def read_specifier(call: Call, parameter: Fields, name: str, identifiers: dict[str, str]) -> None:
    """Which model is meant; `identifiers` by the references that are known."""
    specifier = parameter.object(name)
    if specifier is None:
        return
    kind = specifier.text("type")
    reference = specifier.text("instanceReference")
    query = specifier.object("query")
    if reference is not None:
        call.details["instance_reference"] = reference
        call.model_asked = identifiers.get(reference, reference)
    elif query is not None:
        call.model_asked = query.text("identifier") or query.text("path")
        query.known(*_QUERY)
        if query.data.keys() - {"identifier"}:
            call.details["query"] = query.data
    elif kind is not None:
        call.problem("unexpected", f"{name}: the type {kind[:100]}")


def read_info(call: Call, info: Fields | None, identifiers: dict[str, str]) -> None:
    """The model that answers, all that is told of it."""
    if info is None:
        return
    name = learn_identifier(info.data, identifiers)
    if name is not None:
        call.model_answered = name
    call.report(model_info=info.data)
    info.known(*_INFO)


def row_of(info: Fields) -> dict[str, Json]:
    """What is worth showing of a model in a list, under the names it is sent with."""
    info.known(*_INFO)
    return {name: info.data[name] for name in _ROW if info.data.get(name) is not None}


def learn_identifier(info: Json, identifiers: dict[str, str]) -> str | None:
    """What a model is called, and which load of it that is."""
    if not isinstance(info, dict):
        return None
    name = info.get("identifier") or info.get("modelKey")
    if not isinstance(name, str):
        return None
    reference = info.get("instanceReference")
    if isinstance(reference, str):
        identifiers[reference] = name
    return name


def read_stats(call: Call, stats: Fields | None) -> None:
    """The block of statistics, whole and as columns, and why the generation ended."""
    if stats is None:
        return
    raw = stats.word("stopReason")
    if raw is not None:
        call.stop(SDK_STOP_REASONS.get(raw, StopReason.OTHER), raw)
    call.stop_string = stats.text("stopString")
    call.report(
        stats=stats.data,
        input_tokens=stats.integer("promptTokensCount"),
        output_tokens=stats.integer("predictedTokensCount"),
        total_tokens=stats.integer("totalTokensCount"),
        tokens_per_second=stats.number("tokensPerSecond"),
        ttft_s=stats.number("timeToFirstTokenSec"),
        total_time_s=stats.number("totalTimeSec"),
        gpu_layers=stats.integer("numGpuLayers"),
        draft_model=stats.text("usedDraftModelKey"),
        draft_tokens=stats.integer("totalDraftTokensCount"),
        accepted_draft_tokens=stats.integer("acceptedDraftTokensCount"),
    )
    stats.known("rejectedDraftTokensCount", "ignoredDraftTokensCount")
