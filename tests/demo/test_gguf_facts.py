"""The facts of a GGUF file, from files made here byte by byte and from a real one."""

import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.demo.gguf_facts import GgufFacts, read_gguf
from proxy.errors import ProxyLogError


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def pair(key: str, value: str | int | list[str] | list[int]) -> bytes:
    match value:
        case str():
            return text(key) + struct.pack("<I", 8) + text(value)
        case int():
            return text(key) + struct.pack("<II", 4, value)
        case [str(), *_]:
            items = b"".join(text(str(each)) for each in value)
            return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + items
        case _:
            items = b"".join(struct.pack("<i", int(each)) for each in value)
            return text(key) + struct.pack("<IIQ", 9, 5, len(value)) + items


def gguf(*pairs: bytes, shapes: tuple[tuple[int, ...], ...] = (), version: int = 3) -> bytes:
    tensors = b"".join(
        text(f"t{at}") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 12, 0) for at, shape in enumerate(shapes)
    )
    return b"GGUF" + struct.pack("<IQQ", version, len(shapes), len(pairs)) + b"".join(pairs) + tensors


WHOLE = gguf(
    pair("general.architecture", "qwen2"),
    pair("general.file_type", 15),
    pair("qwen2.context_length", 32768),
    pair("tokenizer.chat_template", "{% if tools %}<think>{% endif %}"),
    pair("tokenizer.ggml.tokens", ["<s>", "</s>", "a"]),
    pair("tokenizer.ggml.token_type", [3, 3, 1]),
    pair("tokenizer.ggml.bos_token_id", 0),
    pair("tokenizer.ggml.eos_token_id", 1),
    shapes=((1000, 1000), (1500, 1_000_000)),
)


def read(data: bytes, name: str = "Some-Model-Q4_K_M.gguf") -> GgufFacts:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_bytes(data)
        return read_gguf(Path(folder) / name)


def test_facts_of_a_made_file_are_what_was_put_into_it() -> None:
    facts = read(WHOLE)
    assert (facts.bos_token, facts.eos_token, facts.control_tokens) == ("<s>", "</s>", frozenset({0, 1}))
    assert facts.parameters == 1_501_000_000
    model = facts.model("some-model")
    assert (model.type, model.architecture, model.quantization, model.bits) == ("llm", "qwen2", "Q4_K_M", 4)
    assert (model.parameters, model.max_context_length, model.size_bytes) == ("1.5B", 32768, len(WHOLE))
    assert (model.display_name, model.path) == ("Some Model", "local/Some-Model-GGUF/Some-Model-Q4_K_M.gguf")
    assert model.trained_for_tool_use
    assert model.reasoning


def test_facts_of_the_demos_model(smollm2: Path) -> None:
    facts = read_gguf(smollm2)
    model = facts.model("smollm2-135m-instruct")
    assert (model.architecture, model.quantization, model.bits, model.parameters) == ("llama", "Q4_1", 4, "135M")
    assert (model.max_context_length, model.display_name) == (8192, "SmolLM2 135M Instruct")
    assert (facts.bos_token, facts.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert not model.trained_for_tool_use


def test_quantisation_is_that_of_most_weights_where_the_file_does_not_say() -> None:
    assert read(gguf(pair("general.architecture", "llama"), shapes=((10, 10),))).quantization == "Q4_K"


def test_model_with_a_pooling_type_makes_embeddings() -> None:
    facts = read(gguf(pair("general.architecture", "nomic-bert"), pair("nomic-bert.pooling_type", 1)))
    assert facts.model("m").type == "embedding"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "empty"),
        (b"GGML" + bytes(50), "start with GGUF"),
        (gguf(version=1), "version is 1"),
        (gguf(pair("general.name", "x")), "architecture"),
        (WHOLE[:200], "ends inside its header, at byte 200"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "key/value pairs"),
        (gguf(pair("general.architecture", "a"), shapes=((1,) * 9,)), "9 dimensions"),
        (gguf(text("k") + struct.pack("<I", 77)), "unknown type 77"),
    ],
)
def test_malformed_file_is_refused_in_words(data: bytes, problem: str) -> None:
    with pytest.raises(ProxyLogError, match=problem):
        read(data)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProxyLogError, match="cannot read the model"):
        read_gguf(tmp_path / "none.gguf")


@settings(max_examples=150)
@given(st.data())
def test_changed_bytes_are_read_or_refused_never_tripped_over(data: st.DataObject) -> None:
    changed = bytearray(WHOLE[: data.draw(st.integers(0, len(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 6)) if changed else 0):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with suppress(ProxyLogError):
        read(bytes(changed)).model("m")
