"""What a GGUF file says of itself, by its header: llama.cpp must not be loaded to list models.

Facts
-----
* `general.file_type` numbers llama.cpp's mixtures (`Q4_K_M`), a tensor's type ggml's formats (`Q4_K`).
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.demo.engine import Model
from proxy.prompt.gguf import read_header

_CONTROL = 3
"""`tokenizer.ggml.token_type` of tokens that are never text."""
_FILE_TYPES: Final = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q8_0", "Q5_0", "Q5_1", "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M"), 7)),
    **dict(enumerate(("Q5_K_S", "Q5_K_M", "Q6_K", "IQ2_XXS", "IQ2_XS", "Q2_K_S", "IQ3_XS", "IQ3_XXS", "IQ1_S"), 16)),
    **dict(enumerate(("IQ4_NL", "IQ3_S", "IQ3_M", "IQ2_S", "IQ2_M", "IQ4_XS", "IQ1_M", "BF16"), 25)),
    **{36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4"},
}
_TENSOR_TYPES: Final = {
    **dict(enumerate(("F32", "F16", "Q4_0", "Q4_1"))),
    **dict(enumerate(("Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_K"), 6)),
    **dict(enumerate(("IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS"), 16)),
    **{29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """A model file's own words."""

    file: Path
    architecture: str
    publisher: str
    max_context_length: int
    quantization: str
    experts: int
    """How many take part in each token; 0: it is not made of experts."""
    size_bytes: int
    parameters: int
    """How many numbers its tensors have."""
    size_label: str
    """`135M`, as the file says or counted."""
    template: str
    bos_token: str
    eos_token: str
    control_tokens: frozenset[int]
    """Those that are no text: the end token is one of them."""
    is_embedding: bool

    @property
    def bits(self) -> float:
        """Bits of a weight, by the name of the quantisation."""
        digits = re.search(r"\d+", self.quantization)
        return float(digits[0]) if digits else 0.0

    def model(self, key: str) -> Model:
        """It as a model that requests call `key`."""
        repository = re.sub(r"[.-]" + re.escape(self.quantization) + "$", "", self.file.stem, flags=re.IGNORECASE)
        return Model(
            key=key,
            type="embedding" if self.is_embedding else "llm",
            publisher=self.publisher,
            display_name=repository.replace("-", " "),
            path=f"{self.publisher}/{repository}-GGUF/{self.file.name}",
            architecture=self.architecture,
            quantization=self.quantization,
            bits=self.bits,
            size_bytes=self.size_bytes,
            parameters=self.size_label,
            max_context_length=self.max_context_length,
            experts=self.experts,
            template="" if self.is_embedding else self.template,
            file=self.file,
            trained_for_tool_use="tools" in self.template,
            reasoning="<think>" in self.template,
        )


def read_gguf(file: Path) -> GgufFacts:
    """The facts of a model file; only its header is read.

    Raises:
        ProxyLogError: it cannot be read, or is not a whole GGUF file.
    """
    header = read_header(file)
    architecture = header.text("general.architecture")
    template = header.text("tokenizer.chat_template")
    parameters = sum(header.weights.values())
    commonest = max(header.weights, key=header.weights.__getitem__, default=0)
    types = header.values.get("tokenizer.ggml.token_type")
    return GgufFacts(
        file=file,
        architecture=architecture,
        publisher=re.sub(r"[^\w.-]+", "-", header.text("general.organization").lower()) or "local",
        max_context_length=header.number(f"{architecture}.context_length"),
        experts=header.number(f"{architecture}.expert_used_count"),
        quantization=_FILE_TYPES.get(
            header.number("general.file_type", -1), _TENSOR_TYPES.get(commonest, f"type{commonest}")
        ),
        size_bytes=header.size_bytes,
        parameters=parameters,
        size_label=header.text("general.size_label") or _size_label(parameters),
        template=template,
        bos_token=header.token("bos"),
        eos_token=header.token("eos"),
        control_tokens=frozenset(at for at, kind in enumerate(types) if kind == _CONTROL)
        if isinstance(types, list)
        else frozenset({header.number("tokenizer.ggml.eos_token_id", -1)}),
        is_embedding=not template and ("bert" in architecture or f"{architecture}.pooling_type" in header.values),
    )


def _size_label(parameters: int) -> str:
    if parameters < 999_500_000:
        return f"{parameters / 1e6:.0f}M"
    return f"{parameters / 1e9:.1f}".removesuffix(".0") + "B" if parameters < 9.95e9 else f"{parameters / 1e9:.0f}B"
