"""Which models there are and which are loaded: just-in-time loading, idle time to live, and a queue for each instance.

Sources: D, ttl-and-auto-evict.md and headless.md (just-in-time loading); R, js#180 (a second instance is `key:2`); T,
up to `parallel` predictions per instance, the rest waits.
"""

import asyncio
import random
import string
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Engine, EngineError, LoadedModel, Model
from proxy.demo.log_bus import LogBus
from proxy.demo.parameters import PARALLEL, Layer

SWEEP_S = 1.0
"""How often idle models are looked for."""
_LETTERS = string.ascii_letters + string.digits


class NotFoundError(Exception):
    """No model or instance of that name; or none is loaded and none may be."""

    def __init__(self, message: str, *, name: str = "", is_nothing_loaded: bool = False) -> None:
        super().__init__(message)
        self.name = name
        self.is_nothing_loaded = is_nothing_loaded


@dataclass(eq=False)
class Instance:
    """A loaded model."""

    identifier: str
    reference: str
    """`instanceReference`: 24 characters, new for each load."""
    model: Model
    loaded: LoadedModel
    parallel: int
    load_config: Layer
    """`llm.load.*` (or `embedding.load.*`) in force."""
    load_time_s: float
    ttl_s: float | None
    """Seconds of idleness after which it is unloaded; None: never."""
    is_jit: bool
    last_used: float
    """Seconds since 1970."""
    idle_since: float
    """By the engine's clock."""
    status: str = "idle"
    """`idle`, `processingPrompt`, `generating` or `computingEmbedding`."""
    is_unloaded: bool = False
    """On somebody's word, or idle for too long; not by a crash."""
    in_line: int = 0
    """Predictions that run or wait."""
    _places: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        """As many places as it was loaded with."""
        self._places = asyncio.Semaphore(self.parallel)

    @contextmanager
    def in_use(self, clock: Callable[[], float]) -> Iterator[asyncio.Semaphore]:
        """Count a prediction; the semaphore is its place."""
        self.in_line += 1
        try:
            yield self._places
        finally:
            self.in_line -= 1
            self.idle_since, self.last_used = clock(), time.time()
            if not self.in_line:
                self.status = "idle"


class Catalog:
    """The models of one engine."""

    def __init__(self, engine: Engine, behaviour: Behaviour, log: LogBus) -> None:
        """Nothing is loaded yet."""
        self._engine = engine
        self._behaviour = behaviour
        self._log = log
        self._lock = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        self.instances: list[Instance] = []

    @property
    def models(self) -> Sequence[Model]:
        """What is downloaded."""
        return self._engine.models

    def model(self, name: str) -> Model | None:
        """The model of that key, variant (`key@quant`) or path."""
        wanted = name.lower()
        for model in self.models:
            if wanted in (model.key.lower(), model.variant.lower(), model.path.lower()):
                return model
        return None

    def instance(self, name: str, domain: str | None = None) -> Instance | None:
        """The loaded one of that identifier, instance reference or model name; `domain` is `llm` or `embedding`."""
        candidates = [one for one in self.instances if domain is None or one.model.domain == domain]
        for one in candidates:
            if name in (one.identifier, one.reference):
                return one
        model = self.model(name)
        return next((one for one in candidates if one.model is model), None) if model else None

    async def get(
        self,
        name: str,
        domain: str = "llm",
        *,
        ttl_s: float | None = None,
        context_length: int | None = None,
        load_config: Layer | None = None,
        is_explicit: bool = False,
        on_load: Callable[[str, float], None] = lambda identifier, progress: None,
        on_evict: Callable[[Instance], None] = lambda instance: None,
    ) -> tuple[Instance, float | None]:
        """The instance that answers a request, loaded just in time if that is allowed, and the seconds its load took.

        Args:
            name: as the request names it; "" takes what is loaded.
            domain: `llm` or `embedding`.
            ttl_s: idle time to live, if this request loads it.
            context_length: tokens, if this request loads it.
            load_config: `llm.load.*` (or `embedding.load.*`), if this request loads it.
            is_explicit: it may be loaded without `jit`, too: an SDK asks for it.
            on_load: gets the identifier and 0..1, if this request loads it.
            on_evict: gets an instance that is unloaded for it, before that.

        Raises:
            NotFoundError: there is no such model, or it may not be loaded.
            EngineError: it could not be loaded.
        """
        if self._behaviour.unknown_model == "loaded" and self.model(name) is None and not self.instance(name, domain):
            name = ""
        if (found := self._loaded(name, domain)) is not None:  # not held up by the load of another
            return found, None
        async with self._lock:
            if (found := self._loaded(name, domain)) is not None:
                return found, None
            model = self.model(name) if name or not self._behaviour.load_without_model else self._first(domain)
            if not (self._behaviour.jit or is_explicit) or model is None:
                raise self._not_found(name)
            if model.domain != domain:
                kind = "an embedding model" if model.type == "embedding" else "not an embedding model"
                raise NotFoundError(f'Model "{name}" is {kind}', name=name)
            if self._behaviour.jit_keeps_last_only:
                for former in [
                    one for one in self.instances if one.is_jit and not one.in_line and one.model.domain == domain
                ]:
                    on_evict(former)
                    await self._unload(former)
            instance = await self._load(
                model,
                model.key,
                context_length=context_length,
                ttl_s=ttl_s if ttl_s is not None else self._behaviour.jit_ttl_s,
                is_jit=True,
                on_load=on_load,
                load_config=load_config,
            )
            return instance, instance.load_time_s

    def _loaded(self, name: str, domain: str) -> Instance | None:
        if name:
            return self.instance(name, domain)
        candidates = self.instances if self._behaviour.load_without_model else []
        return next((one for one in candidates if one.model.domain == domain), None)

    def _first(self, domain: str) -> Model | None:
        return next((one for one in self.models if one.domain == domain), None)

    def _not_found(self, name: str) -> NotFoundError:
        if not self.instances and not self._behaviour.jit:
            return NotFoundError(
                "No models loaded. Please load a model in the developer page or use the `lms load` command.",
                name=name,
                is_nothing_loaded=True,
            )
        # U: the words; that it is refused and not answered by another model: R tracker#1217 for wrong picks.
        return NotFoundError(f'Model "{name}" not found. Please load or download it first.', name=name)

    async def load(
        self,
        name: str,
        *,
        identifier: str | None = None,
        context_length: int | None = None,
        ttl_s: float | None = None,
        load_config: Layer | None = None,
        on_load: Callable[[str, float], None] = lambda identifier, progress: None,
    ) -> Instance:
        """Load a model, another instance if one is loaded already.

        Raises:
            NotFoundError: it is not downloaded.
            EngineError: it could not be loaded.
        """
        async with self._lock:
            model = self.model(name)
            if model is None:
                raise self._not_found(name)
            return await self._load(
                model,
                self._free(identifier or model.key),
                context_length=context_length,
                ttl_s=ttl_s,
                is_jit=False,
                on_load=on_load,
                load_config=load_config,
            )

    def _free(self, identifier: str) -> str:
        taken = {one.identifier for one in self.instances}
        number = 1
        free = identifier
        while free in taken:
            number += 1
            free = f"{identifier}:{number}"
        return free

    async def _load(
        self,
        model: Model,
        identifier: str,
        *,
        context_length: int | None,
        ttl_s: float | None,
        is_jit: bool,
        on_load: Callable[[str, float], None],
        load_config: Layer | None = None,
    ) -> Instance:
        clock = self._engine.clock.now
        wanted = min(context_length or self._behaviour.context_length, model.max_context_length)
        parallel = (load_config or {}).get(PARALLEL) or self._behaviour.parallel
        started = clock()
        on_load(identifier, 0.0)
        self._log.server(f"Loading model {model.key}...", model=identifier)
        try:
            loaded = await self._engine.load(
                model,
                context_length=wanted,
                parallel=parallel,
                on_progress=lambda progress: on_load(identifier, progress),
                config=load_config,
            )
        except EngineError as error:
            error.model = model.key
            self._log.server(f"Failed to load model {model.key}: {error}", "error", model=identifier)
            raise
        instance = Instance(
            identifier,
            "".join(random.choices(_LETTERS, k=24)),
            model,
            loaded,
            parallel,
            {f"{model.domain}.load.contextLength": loaded.context_length, **loaded.load_config},
            clock() - started,
            ttl_s,
            is_jit,
            time.time(),
            clock(),
        )
        self.instances.append(instance)
        self._runtime(instance, "llama_server: model loaded")
        if self._sweeping is None:
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())
        return instance

    def _runtime(self, instance: Instance, message: str) -> None:
        self._log.put(runtime_event(self._engine, instance, message))

    async def unload(self, identifier: str) -> Instance:
        """Unload an instance.

        Raises:
            NotFoundError: none is loaded of that identifier.
        """
        async with self._lock:
            instance = next((one for one in self.instances if one.identifier == identifier), None)
            if instance is None:
                raise NotFoundError(f'Cannot find a loaded model with identifier "{identifier}"', name=identifier)
            await self._unload(instance)
            return instance

    async def _unload(self, instance: Instance) -> None:
        self.instances.remove(instance)
        instance.is_unloaded = True
        await instance.loaded.unload()
        self._log.server(f"Unloaded model {instance.identifier}", model=instance.identifier)

    def drop_dead(self, instance: Instance) -> str | None:
        """Take a crashed instance out; how it ended, None if it lives."""
        ended = instance.loaded.ended()
        if ended is not None:
            with suppress(ValueError):
                self.instances.remove(instance)
        return ended

    async def _sweep(self) -> None:
        """Unload what was idle for too long."""
        while True:
            await asyncio.sleep(SWEEP_S)
            async with self._lock:
                now = self._engine.clock.now()
                for one in list(self.instances):
                    if one.ttl_s is not None and not one.in_line and now - one.idle_since > one.ttl_s:
                        await self._unload(one)

    async def close(self) -> None:
        """Unload everything."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeping
        for instance in list(self.instances):
            await self._unload(instance)


def runtime_event(engine: Engine, instance: Instance, message: str) -> dict[str, Any]:
    """A `runtime.log` event of an instance's engine."""
    return {
        "type": "runtime.log",
        "level": "info",
        "message": message,
        "engineName": engine.name,
        "engineVersion": engine.version,
        "engineType": engine.name.partition("-")[0],
        "modelIdentifier": instance.identifier,
        "instanceReference": instance.reference,
        "pid": instance.loaded.pid,
    }
