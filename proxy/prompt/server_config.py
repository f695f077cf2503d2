"""Asks a server for the settings that a model has before any request says something, and what it was loaded with.

Facts (lmstudio-api.md 4.1, 4.7, 5.8, 7.3; llama.cpp's tools/server/README.md at 00dc805)
-----------------------------------------------------------------------------------------
* LM Studio, over its WebSocket /llm: `getBasePredictionConfig` is what is in force before a call says anything (with
  the settings of the server's tab, unless they are to be ignored), the prompt template among it; `getLoadConfig` is
  what the model was loaded with. Neither loads a model.
* `GET /api/v1/models` (0.4.0) lists load configurations; GPU offload and seed are not in it. `GET /api/v0/models` tells
  the loaded and the greatest context length.
* llama.cpp: `GET /props` tells what a request changes, the context of one slot, the template, and the model's file.
* LM Studio answers paths that it does not know by 200 and logs an error, so it is asked who it is first.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from proxy.meaning import Json, Operation, Origin, Parameter
from proxy.prompt.greeting import is_lm_studio
from proxy.prompt.sdk_socket import SdkRefusedError, call, open_socket
from proxy.read.call import Call
from proxy.read.json_fields import Fields, NotJsonError, decode_json
from proxy.read.llamacpp_settings import read_props
from proxy.read.lmstudio_sdk_config import read_config

BASE, LOAD = "getBasePredictionConfig", "getLoadConfig"
PROPS, V1_MODELS, V0_MODELS = "/props", "/api/v1/models", "/api/v0/models"
_ANSWER_BYTES = 1 << 24


class NotToldError(Exception):
    """The server tells no settings, or none of this model; the message says what it said."""


@dataclass(frozen=True, slots=True)
class ToldSettings:
    """What one source of a server told of a model."""

    source: str
    """`getBasePredictionConfig`, `getLoadConfig`, `/props`, `/api/v1/models` or `/api/v0/models`."""
    parameters: tuple[Parameter, ...]
    """Names as everywhere. Origin `model_default`: what a request may change; `effective` and `server`: how the model
    is loaded."""
    template: str | None = None
    """The prompt template in force, as Jinja."""
    bos_token: str | None = None
    eos_token: str | None = None
    model_path: str | None = None
    """The model's file, as the server names it."""


async def ask_settings(
    session: aiohttp.ClientSession, url: str, model: str, *, credentials: tuple[str, str] | None = None
) -> list[ToldSettings]:
    """What the server at `url` tells of a loaded model, a source each.

    Args:
        session: has the limits of time.
        url: the server's, without a path.
        model: its identifier, as answers name it.
        credentials: the two halves of LM Studio's API token; None: a guest.

    Raises:
        NotToldError: it tells nothing.
        OSError, aiohttp.ClientError: it cannot be reached. A TimeoutError is an OSError.
    """
    if await is_lm_studio(session, url):
        return await _ask_lmstudio(session, url, model, credentials)
    props = await _get(session, f"{url}{PROPS}", None)
    told = _props(props) if isinstance(props, dict) else None
    if told is None:
        raise NotToldError(f"{url} is neither LM Studio nor llama.cpp")
    return [told]


async def _ask_lmstudio(
    session: aiohttp.ClientSession, url: str, model: str, credentials: tuple[str, str] | None
) -> list[ToldSettings]:
    told: list[ToldSettings] = []
    why = ""
    try:
        told += await _by_websocket(session, url, model, credentials)
    except (SdkRefusedError, TimeoutError) as error:  # it may still tell something over HTTP
        why = str(error) or "no answer"
    if not any(_has_context(one) for one in told):
        told += await _by_http(session, url, model, credentials)
    if not told:
        raise NotToldError(f"{url} tells no settings of {model!r}: {why or 'it is not loaded'}")
    return told


async def _by_websocket(
    session: aiohttp.ClientSession, url: str, model: str, credentials: tuple[str, str] | None
) -> list[ToldSettings]:
    specifier = {"type": "query", "query": {"identifier": model}}
    async with open_socket(session, url, "llm", credentials) as socket:
        base = await call(socket, BASE, {"specifier": specifier})
        load = await call(socket, LOAD, {"specifier": specifier})
        info = await call(socket, "getModelInfo", {"specifier": specifier, "throwIfNotFound": False})
    path = info.get("path") if isinstance(info, dict) else None
    path = path if isinstance(path, str) else None
    return [
        ToldSettings(BASE, _config(base, Origin.MODEL_DEFAULT), jinja_of(_field(base)), model_path=path),
        ToldSettings(LOAD, _config(load, Origin.EFFECTIVE), model_path=path),
    ]


async def _by_http(
    session: aiohttp.ClientSession, url: str, model: str, credentials: tuple[str, str] | None
) -> list[ToldSettings]:
    """The first of the two lists that has the model as loaded."""
    for source, read in ((V1_MODELS, _in_v1), (V0_MODELS, _in_v0)):
        body = await _get(session, f"{url}{source}", credentials)
        parameters = read(body, model) if isinstance(body, dict) else ()
        if parameters:
            return [ToldSettings(source, tuple(parameters))]
    return []


async def _get(session: aiohttp.ClientSession, url: str, credentials: tuple[str, str] | None) -> Json:
    """The JSON there; None where there is none."""
    fields = {"Authorization": f"Bearer {':'.join(credentials)}"} if credentials else {}
    async with session.get(url, headers=fields, allow_redirects=False) as response:
        if response.status != 200:
            return None
        data = bytearray()
        async for piece in response.content.iter_chunked(1 << 16):
            data += piece
            if len(data) > _ANSWER_BYTES:
                return None
    try:
        return decode_json(bytes(data))
    except NotJsonError:
        return None


# --- what was told, as parameters -------------------------------------------------------------------------------------


def _config(result: Json, origin: Origin) -> tuple[Parameter, ...]:
    """A configuration of the SDK: keys and values."""
    made = Call("server_config", 1, Operation.CONFIG)
    if isinstance(result, dict):
        read_config(made, Fields(result, made.notes), origin)
    return made.reading(None).parameters


def _field(result: Json) -> Json:
    """The prompt template's setting in a configuration."""
    fields = result.get("fields") if isinstance(result, dict) else None
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict) and field.get("key") == "llm.prediction.promptTemplate":
            return field.get("value")
    return None


def jinja_of(setting: Json) -> str | None:
    """The text in LM Studio's setting of a prompt template, if it is Jinja."""
    inner = setting.get("jinjaPromptTemplate") if isinstance(setting, Mapping) else None
    text = inner.get("template") if isinstance(inner, Mapping) else None
    return text if isinstance(text, str) and text else None


def _props(body: dict[str, Any]) -> ToldSettings | None:
    """llama.cpp's properties; None if they are something else's."""
    if not isinstance(body.get("default_generation_settings"), dict):
        return None
    made = Call("server_config", 1, Operation.CONFIG)
    read_props(made, Fields(body, made.notes))
    words = {name: made.details.get(name) for name in ("chat_template", "bos_token", "eos_token", "model_path")}
    template, bos, eos, path = (value if isinstance(value, str) else None for value in words.values())
    return ToldSettings(PROPS, made.reading(None).parameters, template or None, bos, eos, path or None)


def _in_v1(body: dict[str, Any], model: str) -> Iterable[Parameter]:
    """The load configuration of the instance of that name, or of the first instance of the model of that key."""
    rows = [row for row in _rows(body, "models") if row.get("type") != "embedding"]
    instances = [(row, one) for row in rows for one in _rows(row, "loaded_instances")]
    ours = [one for _, one in instances if one.get("id") == model] or [
        one for row, one in instances if row.get("key") == model
    ]
    config = ours[0].get("config") if ours else None
    named = config.items() if isinstance(config, dict) else ()
    return [Parameter(name, value, Origin.EFFECTIVE) for name, value in named if value is not None]


def _in_v0(body: dict[str, Any], model: str) -> Iterable[Parameter]:
    row = next((one for one in _rows(body, "data") if one.get("id") == model and one.get("state") == "loaded"), {})
    names = {"loaded_context_length": "context_length", "max_context_length": "max_context_length"}
    return [
        Parameter(ours, row[theirs], Origin.SERVER, theirs if theirs != ours else None)
        for theirs, ours in names.items()
        if isinstance(row.get(theirs), int)
    ]


def _rows(body: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = body.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _has_context(told: ToldSettings) -> bool:
    return any(one.name == "context_length" for one in told.parameters)
