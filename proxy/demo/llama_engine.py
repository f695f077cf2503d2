"""The real engine: llama.cpp, a process for each model in memory."""

import asyncio
import importlib.metadata
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.demo.engine import Clock, EngineError, Model
from proxy.demo.gguf_facts import GgufFacts, read_gguf
from proxy.demo.llama_model import LlamaModel
from proxy.demo.llama_process import DEFAULT_BATCH, LlamaProcess
from proxy.demo.parameters import (
    EVAL_BATCH,
    EXPERTS,
    FLASH_ATTENTION,
    KV_ON_GPU,
    LOAD_SEED,
    OFFLOAD_RATIO,
    PARALLEL,
)
from proxy.errors import ProxyLogError


class LlamaEngine:
    """Model files in, models out; an `Engine`.

    Every text model can also be loaded for embeddings, as a model of its own: `text-embedding-<key>`.
    """

    def __init__(self, model_files: Sequence[Path], names: Sequence[str | None] = (), *, log_folder: Path) -> None:
        """Read the models' facts; nothing is loaded.

        Args:
            model_files: GGUF files.
            names: the keys they get, in the same order; by default, the file's name in small letters.
            log_folder: gets llama.cpp's log of each instance, `llama-PID-1.log` and so on, by this process's number.

        Raises:
            ProxyLogError: a file cannot be read or is no GGUF file.
        """
        self.name = f"llama.cpp-{sys.platform}-{platform.machine()}-cpu"
        self.version = _version()
        self.drafts = False
        self.clock = Clock(now=time.monotonic, sleep=asyncio.sleep)
        self._facts: dict[Path, GgufFacts] = {file: read_gguf(file) for file in model_files}
        self._log_folder = log_folder
        self._loads = 0
        models: list[Model] = []
        for at, (file, facts) in enumerate(self._facts.items()):
            model = facts.model((names[at] if at < len(names) else None) or file.stem.lower())
            models.append(model)
            if model.type != "embedding":
                models.append(_as_embedding(model))
        self.models: Sequence[Model] = tuple(models)

    async def load(
        self,
        model: Model,
        *,
        context_length: int,
        parallel: int,
        on_progress: Callable[[float], None],
        config: Mapping[str, Any] | None = None,
    ) -> LlamaModel:
        """Load a model; `on_progress` gets 0 and 1, for llama.cpp's server tells nothing in between.

        A load that is cancelled leaves no process behind.

        Raises:
            EngineError: kind `load`.
            MissingExtraError: llama.cpp is not installed.
        """
        if model.file is None or model not in self.models:
            raise EngineError(f"Failed to load the model: {model.key} is not there", kind="load")
        self._loads += 1
        on_progress(0.0)
        start = _Start(
            model,
            log=self._log_folder / f"llama-{os.getpid()}-{self._loads}.log",
            context_length=min(context_length, model.max_context_length or context_length),
            parallel=parallel,
            config=config or {},
        )
        try:
            process = await asyncio.to_thread(start.run)
        except asyncio.CancelledError:
            start.abandon()
            raise
        try:
            in_force = start.in_force(process)
            loaded = await LlamaModel.connect(model, self._facts[model.file], process, load_config=in_force)
        except BaseException:
            process.stop()
            raise
        on_progress(1.0)
        return loaded


class _Start:
    """The start of a process, in a thread: nobody can cancel it, but it ends what nobody wants any more."""

    def __init__(
        self, model: Model, *, log: Path, context_length: int, parallel: int, config: Mapping[str, Any]
    ) -> None:
        self._model = model
        seed = config.get(LOAD_SEED) or {}
        self._settings = {
            "batch": max(1, min(config.get(EVAL_BATCH) or DEFAULT_BATCH, context_length)),
            "flash_attention": config.get(FLASH_ATTENTION, True),
            "seed": seed["value"] if seed.get("checked") else -1,
            "gpu": config.get(OFFLOAD_RATIO) not in ("off", 0),  # a part of the layers is all of them here
            "kv_on_gpu": config.get(KV_ON_GPU, True),
        }
        self._log = log
        self._context_length = context_length
        self._parallel = parallel
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._process: LlamaProcess | None = None

    def run(self) -> LlamaProcess:
        assert self._model.file is not None
        try:
            process = LlamaProcess.start(
                self._model.file,
                model=self._model.key,
                log=self._log,
                context_length=self._context_length,
                parallel=self._parallel,
                is_embedding=self._model.type == "embedding",
                **self._settings,
            )
        except ProxyLogError as error:
            raise EngineError(str(error), kind="load") from error
        with self._lock:
            self._process = process
            if self._is_abandoned:
                process.stop()
        return process

    def in_force(self, process: LlamaProcess) -> dict[str, Any]:
        """What came of the configuration that was asked for. How many experts there are is the file's word."""
        if self._model.type == "embedding":
            return {}
        settings, seed = self._settings, self._settings["seed"]
        found = {EVAL_BATCH: settings["batch"], PARALLEL: self._parallel, FLASH_ATTENTION: settings["flash_attention"]}
        if self._model.experts:
            found[EXPERTS] = self._model.experts
        found[KV_ON_GPU] = settings["kv_on_gpu"] and process.has_gpu
        found[OFFLOAD_RATIO] = "max" if process.has_gpu else "off"
        return found | ({LOAD_SEED: {"checked": True, "value": seed}} if seed >= 0 else {})

    def abandon(self) -> None:
        with self._lock:
            self._is_abandoned = True
            if self._process:
                self._process.stop()


def _as_embedding(model: Model) -> Model:
    """The same file as another model; its path differs, for a path names one model."""
    folder, slash, file = model.path.rpartition("/")
    return replace(
        model,
        key=f"text-embedding-{model.key}",
        path=f"{folder}{slash}text-embedding-{file}",
        type="embedding",
        display_name=f"{model.display_name} Embedding",
        template="",
        trained_for_tool_use=False,
        reasoning=False,
    )


def _version() -> str:
    """Of the package that brings llama.cpp."""
    try:
        return importlib.metadata.version("xllamacpp")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0"  # loading will say that it is missing
