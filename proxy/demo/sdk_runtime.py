"""/runtime of the SDK: the engine.

S, lmstudio-js packages/lms-shared-types/src/RuntimeEngine.ts; that `getEngineSelections` alone is wrapped by superjson:
S, digest 5.3. Engines cannot be chosen, fetched or removed here, nor is the hardware surveyed: those endpoints are
unknown ones.
"""

import platform
import sys

from proxy.demo.sdk_endpoints import Context, Json, Namespace, Rpc

_FORMAT = "GGUF"


async def list_engines(context: Context, _: None) -> list[Json]:
    """The one there is; its name says for which machine it is made, and a `gpu` is missing where it uses none."""
    engine = context.look.engine
    return [
        {
            "name": engine.name,
            "version": engine.version,
            "engine": engine.name.partition("-")[0],
            "platform": sys.platform,
            "cpu": {"architecture": platform.machine()},
            "supportedModelFormatNames": [_FORMAT],
        }
    ]


async def engine_selections(context: Context, _: None) -> Json:
    """Which engine each format has: a JavaScript `Map`, as superjson writes one."""
    engine = context.look.engine
    selected = [[_FORMAT, {"name": engine.name, "version": engine.version}]]
    return {"json": selected, "meta": {"values": ["map"]}}


NAMESPACE = Namespace(
    "runtime", rpcs={"listEngines": Rpc(None, list_engines), "getEngineSelections": Rpc(None, engine_selections)}
)
