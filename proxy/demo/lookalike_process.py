"""The lookalike in a process of its own: started by the command line, which needs no web server for that.

llama.cpp's processes are its children. They end with it, whether it is told to end, crashes, or is killed.
"""

import asyncio
import dataclasses
import errno
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from proxy.demo.child import Child, begin
from proxy.demo.engine import EngineError
from proxy.errors import ProxyLogError

if TYPE_CHECKING:
    from proxy.demo.engine import Engine
    from proxy.demo.lookalike import Lookalike
    from proxy.demo.server import LookalikeServer

LMSTUDIO_PORT = 1234
"""Where LM Studio listens."""
_END_S = 3.0
"""How long models may take to be unloaded; what is left then ends with the process."""
_SCRIPTED_TOKEN_S = 0.005
"""The scripted engine's pace when people watch: 200 tokens per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a lookalike is to be."""

    model_file: str | None = None
    """A GGUF file; None: scripted models."""
    model: str | None = None
    """What requests call it; None: the file's name."""
    port: int | None = None
    """0: any; None: LM Studio's own if it is free, otherwise any."""
    switches: dict[str, str] = field(default_factory=dict)
    """See `behaviour.with_switches`."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Default parameters of all models, a layer (see `parameters`)."""
    own_defaults: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of one model each, by its key."""
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Layers that requests can name."""
    tells_log: bool = False
    """Say the lines of the server's log, too."""


@dataclass(frozen=True, slots=True)
class Ready:
    """What it tells once it listens."""

    url: str
    model: str
    """What requests name."""
    engine: str
    context_length: int
    """Tokens for one prompt and its answer, as the model was loaded."""
    models: tuple[str, ...]
    """All that are to be had, the others loaded just in time."""
    endpoints: tuple[tuple[str, str], ...]
    """Family and endpoint: `("OpenAI", "POST /v1/chat/completions")`."""


class LookalikeProcess:
    """The process, seen by who started it; a context manager that ends it."""

    def __init__(self, child: Child, ready: Ready) -> None:
        self._child = child
        self.ready = ready
        self.log = child.log

    @classmethod
    def start(cls, settings: Settings, *, log: Path) -> Self:
        """Start it; returns when it answers, with its model loaded.

        Args:
            settings: what it is to be.
            log: written anew; llama.cpp's own logs lie in the same folder.

        Raises:
            ProxyLogError: the model cannot be loaded, or the port is taken.
        """
        arguments = [json.dumps(dataclasses.asdict(settings)), str(log.parent)]
        child = Child.start("proxy.demo.lookalike_process", arguments, log=log)
        try:
            said = child.next_line()
            if "url" not in said:
                raise ProxyLogError(said.get("error") or f"the lookalike {child.ended()}; its log is {log}")
            served = tuple((family, name) for family, name in said["endpoints"])
            return cls(child, Ready(**{**said, "models": tuple(said["models"]), "endpoints": served}))
        except BaseException:
            child.stop(orderly_s=_END_S + 1)
            raise

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._child.pid

    def log_line(self) -> str | None:
        """The next line of the server's log, as soon as there is one; None at the end. Needs `tells_log`."""
        line: str | None = self._child.next_line().get("log")
        return line

    def ended(self) -> str | None:
        """How the process ended, in words; None while it runs."""
        return self._child.ended()

    def stop(self) -> None:
        """End it and its models; nothing happens if it has ended."""
        self._child.stop(orderly_s=_END_S + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# --- in the process of its own ----------------------------------------------------------------------------------------


async def _serve(settings: Settings, folder: Path, say: Callable[..., None]) -> None:
    from proxy.demo.behaviour import Behaviour, with_switches  # noqa: PLC0415 - the client side needs none of these
    from proxy.demo.lookalike import Lookalike  # noqa: PLC0415
    from proxy.demo.server import LookalikeServer  # noqa: PLC0415
    from proxy.demo.surfaces import endpoints  # noqa: PLC0415

    engine = _engine(settings, folder)
    behaviour = with_switches(Behaviour(), settings.switches)
    if unknown := sorted(set(settings.own_defaults) - {model.key for model in engine.models}):
        keys = ", ".join(model.key for model in engine.models)
        raise ProxyLogError(f"there is no model {unknown[0]!r} to set defaults for; there are: {keys}")
    look = Lookalike(
        engine,
        behaviour,
        model_defaults=settings.defaults,
        own_defaults=settings.own_defaults,
        presets=settings.presets,
    )
    server = LookalikeServer(look)
    try:
        await _listen(server, settings.port)
        instance = await look.catalog.load(engine.models[0].key)
        say(
            url=server.url,
            model=instance.identifier,
            engine=f"{engine.name} {engine.version}",
            context_length=instance.loaded.context_length,
            models=[model.key for model in engine.models],
            endpoints=[(one.family, one.name) for one in endpoints(behaviour)],
        )
        if settings.tells_log:
            await _tell_log(look, say)
        await asyncio.Event().wait()  # until it is cancelled
    finally:
        await server.close()


def _engine(settings: Settings, folder: Path) -> "Engine":
    if settings.model_file is not None:
        from proxy.demo.llama_engine import LlamaEngine  # noqa: PLC0415 - not needed for the scripted one

        return LlamaEngine([Path(settings.model_file)], [settings.model], log_folder=folder)
    from proxy.demo.default_script import default_script  # noqa: PLC0415 - not needed for the real one
    from proxy.demo.script import Call, Script, Text  # noqa: PLC0415
    from proxy.demo.scripted_engine import ScriptedEngine  # noqa: PLC0415
    from proxy.demo.virtual_clock import VirtualClock  # noqa: PLC0415

    engine = ScriptedEngine(time=VirtualClock(real_time=True))
    reasoning = {model.key: model.reasoning for model in engine.models}

    def at_pace(call: Call) -> Script:
        steps = default_script(call, reasoning=reasoning[call.model])
        return [replace(step, delay_s=_SCRIPTED_TOKEN_S) if isinstance(step, Text) else step for step in steps]

    engine.rule = at_pace
    return engine


async def _listen(server: "LookalikeServer", port: int | None) -> None:
    try:
        await server.start(port=LMSTUDIO_PORT if port is None else port)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        if port is not None:
            raise ProxyLogError(
                f"port {port} is taken; --port names another, --port 0 lets the system choose"
            ) from None
        await server.start()


async def _tell_log(look: "Lookalike", say: Callable[..., None]) -> None:
    with look.log.listening() as events:
        while True:
            event = (await events.get())["data"]
            if event["type"] == "server.log":
                await asyncio.to_thread(say, log=event["content"])  # whoever reads may be slow


async def _run(settings: Settings, folder: Path) -> None:
    loop, this = asyncio.get_running_loop(), asyncio.current_task()
    assert this

    def end() -> None:
        loop.call_soon_threadsafe(this.cancel)
        time.sleep(_END_S)
        os._exit(0)  # llama.cpp's processes see the end of their standard input, as this one did

    say = begin(end)
    try:
        await _serve(settings, folder, say)
    except asyncio.CancelledError:
        return
    except (EngineError, ProxyLogError, OSError) as error:
        say(error=str(error))
    except Exception as error:
        say(error=f"the lookalike failed: {type(error).__name__}: {error}")
        raise


def main() -> None:
    """Serve until standard input ends."""
    asyncio.run(_run(Settings(**json.loads(sys.argv[1])), Path(sys.argv[2])))


if __name__ == "__main__":
    main()
