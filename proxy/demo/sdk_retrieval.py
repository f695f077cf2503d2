"""The `retrieve` channel of /files: text cut into chunks, each embedded by a real model, the nearest given back.

Messages and configuration: S, lmstudio-js filesBackendInterface.ts, schema.ts (`retrieval.*`, limit 5, chunks of 512
with an overlap of 100). How `recursive-v1` cuts is not known (U): here at the last line end or space that fits.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from proxy.demo.catalog import Instance
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import layer_of_fields
from proxy.demo.sdk_clients import UploadedFile
from proxy.demo.sdk_config import Config, first_error
from proxy.demo.sdk_endpoints import BySpecification, Channel, Json, ModelQuery, Parameter
from proxy.demo.sdk_errors import SdkError
from proxy.demo.sdk_history import text_of
from proxy.demo.sdk_models import find_instance


class RetrieveParameter(Parameter):
    """A question, and where to look."""

    query: str
    file_identifiers: list[str]
    config: Config


@dataclass(frozen=True, slots=True)
class Chunk:
    """A passage of a file."""

    content: str
    source: int
    """Of the file, in the call's list."""
    first_line: int
    last_line: int


class ChunkingMethod(Parameter):
    """How a text is cut, in characters. S: RetrievalChunkingMethod.ts."""

    type: Literal["recursive-v1"] = "recursive-v1"
    chunk_size: Annotated[int, Field(ge=1)] = 512
    chunk_overlap: Annotated[int, Field(ge=0)] = 100


class Settings(BaseModel):
    """How to search."""

    model_config = ConfigDict(strict=True, frozen=True)

    method: Annotated[ChunkingMethod, Field(alias="retrieval.chunkingMethod")] = ChunkingMethod()
    limit: Annotated[int, Field(alias="retrieval.limit", ge=1)] = 5
    embedding_model: Annotated[str, Field(alias="retrieval.embeddingModel")] = ""
    """Its identifier; "": any."""


def settings_of(config: Config) -> Settings:
    """The settings of a call.

    Raises:
        SdkError: one is of the wrong form.
    """
    layer = layer_of_fields({"layers": [{"config": config.model_dump(by_alias=True)}]})
    try:
        settings = Settings.model_validate({key: value for key, value in layer.items() if value is not None})
    except ValidationError as error:
        raise SdkError("Invalid retrieval settings", cause=first_error(error)) from None
    if settings.method.chunk_overlap >= settings.method.chunk_size:
        raise SdkError("Invalid retrieval settings", cause="chunkOverlap must be less than chunkSize")
    return settings


def chunks_of(text: str, source: int, method: ChunkingMethod) -> list[Chunk]:
    """The passages of a text; one begins a little before the end of the one before."""
    found: list[Chunk] = []
    start = 0
    while start < len(text):
        end = min(len(text), start + method.chunk_size)
        if end < len(text):  # not in the middle of a line or a word, if that leaves enough
            least = start + max(method.chunk_overlap + 1, method.chunk_size // 2)
            cut = max(text.rfind("\n", least, end), text.rfind(" ", least, end))
            end = cut + 1 if cut >= 0 else end
        content = text[start:end]
        if content.strip():
            first = text.count("\n", 0, start) + 1
            found.append(Chunk(content, source, first, first + content.rstrip("\n").count("\n")))
        if end == len(text):
            break
        start = end - method.chunk_overlap
    return found


async def retrieve(
    look: Lookalike, parameter: RetrieveParameter, files: Sequence[UploadedFile], channel: Channel
) -> None:
    """Send every message of the channel.

    Raises:
        SdkError: a file is no text, a setting is wrong, no such embedding model is loaded.
        EngineError: a passage cannot be embedded.
    """
    settings = settings_of(parameter.config)
    query = ModelQuery(identifier=settings.embedding_model or None)
    instance = find_instance(look, BySpecification(type="query", query=query), "embedding")
    await channel.send({"type": "onFileProcessList", "indices": list(range(len(files)))})
    scored: list[tuple[list[float], Chunk]] = []
    for index, file in enumerate(files):
        await channel.send({"type": "onFileProcessingStart", "index": index})
        scored += await _Files(look, instance, settings, channel).read(file, index)
        await channel.send({"type": "onFileProcessingEnd", "index": index})
    await channel.send({"type": "onSearchingStart"})
    wanted = await _embed(look, instance, parameter.query)
    entries = sorted(
        (_entry(chunk, _cosine(wanted, vector)) for vector, chunk in scored), key=lambda one: -one["score"]
    )
    await channel.send({"type": "onSearchingEnd"})
    await channel.send({"type": "result", "result": {"entries": entries[: settings.limit]}})


@dataclass(frozen=True, slots=True)
class _Files:
    look: Lookalike
    instance: Instance
    settings: Settings
    channel: Channel

    async def read(self, file: UploadedFile, index: int) -> list[tuple[list[float], Chunk]]:
        """The file's passages and their embeddings."""

        async def step(kind: str, name: str, **more: float) -> None:
            await self.channel.send({"type": f"onFileProcessingStep{kind}", "index": index, "step": name, **more})

        await step("Start", "loading")
        text = text_of(file)
        await step("End", "loading")
        await step("Start", "chunking")
        chunks = chunks_of(text, index, self.settings.method)
        await step("End", "chunking")
        await step("Start", "embedding")
        found = []
        for number, chunk in enumerate(chunks, 1):
            found.append((await _embed(self.look, self.instance, chunk.content), chunk))
            await step("Progress", "embedding", progress=number / len(chunks))
        await step("End", "embedding")
        return found


async def _embed(look: Lookalike, instance: Instance, text: str) -> list[float]:
    with instance.in_use(look.engine.clock.now) as place:
        async with place:
            instance.status = "computingEmbedding"
            return (await instance.loaded.embed(text))[0]


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0


def _entry(chunk: Chunk, score: float) -> Json:
    lines = [chunk.first_line, chunk.last_line]
    return {"content": chunk.content, "score": score, "sourceIndex": chunk.source, "lineNumber": lines}
