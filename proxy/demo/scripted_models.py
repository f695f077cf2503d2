"""The models that the scripted engine has, and what they are loaded with."""

from collections.abc import Mapping
from typing import Any

from proxy.demo.chat_template import CHATML
from proxy.demo.engine import Model
from proxy.demo.parameters import EVAL_BATCH, EXPERTS, FLASH_ATTENTION, KV_ON_GPU, OFFLOAD_RATIO, PARALLEL


def _model(key: str, kind: str, display_name: str, **facts: Any) -> Model:
    return Model(
        key=key,
        type=kind,
        publisher="scripted",
        display_name=display_name,
        path=f"scripted/{key}-GGUF/{key}-{facts['quantization']}.gguf",
        template="" if kind == "embedding" else CHATML,
        **facts,
    )


SCRIPTED_MODELS = (
    _model(
        "scripted-7b-instruct",
        "llm",
        "Scripted 7B Instruct",
        architecture="scripted",
        quantization="Q4_K_M",
        bits=4,
        size_bytes=4_368_439_584,
        parameters="7B",
        max_context_length=32768,
        trained_for_tool_use=True,
        reasoning=True,
    ),
    _model(
        "scripted-vl-2b",
        "vlm",
        "Scripted VL 2B",
        architecture="scripted_vl",
        quantization="Q8_0",
        bits=8,
        size_bytes=2_347_123_456,
        parameters="2B",
        max_context_length=16384,
    ),
    _model(
        "text-embedding-scripted",
        "embedding",
        "Scripted Embedding",
        architecture="scripted-bert",
        quantization="F16",
        bits=16,
        size_bytes=274_290_560,
        parameters="137M",
        max_context_length=2048,
    ),
)


def load_config(model: Model, parallel: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Where nothing was asked for, as in the documentation's samples. D: list.md, load.md."""
    if model.type == "embedding":
        return {}
    experts = {EXPERTS: model.experts} if model.experts else {}
    usual = {EVAL_BATCH: 512, PARALLEL: parallel, FLASH_ATTENTION: True, **experts, KV_ON_GPU: True}
    granted = {key: value for key, value in asked.items() if key != EXPERTS or model.experts}
    granted.pop("llm.load.contextLength", None)
    return {**usual, OFFLOAD_RATIO: "max", **granted}
