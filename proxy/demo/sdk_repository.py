"""/repository of the SDK: the models that are downloaded are all there is.

S, lmstudio-js packages/lms-external-backend-interfaces/src/repositoryBackendInterface.ts and ModelSearch.ts. Nobody is
logged in and nothing is fetched from anywhere; endpoints that would need an account or a network are refused.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, RootModel

from proxy.demo.engine import Model
from proxy.demo.sdk_endpoints import Channel, ChannelEndpoint, Context, Json, Namespace, Parameter, Rpc
from proxy.demo.sdk_errors import SdkError

_MOST_RESULTS = 25


class SearchOptions(Parameter):
    """What to look for."""

    search_term: str = ""
    limit: Annotated[int, Field(ge=1, le=_MOST_RESULTS)] = _MOST_RESULTS
    compatibility_types: list[str] | None = None


class SearchParameter(Parameter):
    """A search."""

    opts: SearchOptions


class ResultIdentifier(Parameter):
    """A result of a search."""

    type: Literal["catalog", "hf"]
    identifier: str


class OptionsParameter(Parameter):
    """A result whose files are asked for."""

    model_search_result_identifier: ResultIdentifier


class DownloadParameter(Parameter):
    """A file to download."""

    download_identifier: str


class PicksParameter(SearchOptions):
    """A search among staff picks."""


class _Anything(RootModel[Any]):
    """Whatever an endpoint takes that is refused."""


def _name(model: Model) -> str:
    return f"{model.publisher}/{model.key}"


async def search_models(context: Context, parameter: SearchParameter) -> Json:
    """Downloaded models whose name has the term in it."""
    options = parameter.opts
    term = options.search_term.casefold()
    types = options.compatibility_types
    found = [
        {
            "name": model.display_name,
            "identifier": {"type": "catalog", "identifier": _name(model)},
            "exact": term in (model.key.casefold(), _name(model).casefold()),
        }
        for model in context.look.catalog.models
        if (types is None or "gguf" in types)
        and any(term in text.casefold() for text in (_name(model), model.display_name, model.path))
    ]
    return {"results": found[: options.limit]}


async def download_options(context: Context, parameter: OptionsParameter) -> Json:
    """The one file that such a model has."""
    wanted = parameter.model_search_result_identifier.identifier
    models = [model for model in context.look.catalog.models if wanted in (_name(model), model.key)]
    if not models:
        raise SdkError(f'Cannot find the model "{wanted}"', cause="Only models that are downloaded are listed here.")
    return {"results": [_option(model) for model in models]}


def _option(model: Model) -> Json:
    return {
        "quantization": model.quantization,
        "name": model.display_name,
        "sizeBytes": model.size_bytes,
        "fitEstimation": "fitWithoutGPU",
        "recommended": True,
        "downloadIdentifier": model.path,
        "indexedModelIdentifier": model.path,
        "compatibilityType": "gguf",
    }


async def download_model(context: Context, parameter: DownloadParameter, channel: Channel) -> None:
    """Succeed at once, for it is there; nothing else can be had."""
    model = context.look.catalog.model(parameter.download_identifier)
    if model is None:
        raise SdkError(
            f'Cannot download "{parameter.download_identifier}"',
            cause="This is proxy-log's imitation of LM Studio: it has the models it was started with.",
        )
    await channel.send({"type": "startFinalizing"})
    await channel.send({"type": "success", "defaultIdentifier": model.key})


async def is_authenticated(context: Context, _: None) -> Json:
    """Nobody is logged in."""
    return {"authenticated": False}


async def authentication_status(context: Context, _: None) -> Json:
    """Nobody is logged in."""
    return {"authenticationStatus": {"type": "none"}}


async def deauthenticate(context: Context, _: None) -> None:
    """Nobody was logged in."""


async def staff_picks(context: Context, parameter: PicksParameter) -> Json:
    """Nobody picked any."""
    return {"results": []}


async def link_status(context: Context, _: None) -> Json:
    """There is no other machine."""
    return {"status": "offline", "issues": ["notLoggedIn"], "peers": [], "deviceIdentifier": None, "deviceName": ""}


_ACCOUNT = "It needs an account of LM Studio's hub, which proxy-log's imitation has none of."
_NETWORK = "It needs LM Studio's hub; proxy-log's imitation fetches nothing from anywhere."
_PLUGINS = "proxy-log's imitation of LM Studio has no plugins."


def _refusal(endpoint: str, why: str) -> SdkError:
    return SdkError(f"{endpoint} is not available here", cause=why)


def _refused_rpc(endpoint: str, why: str) -> Rpc[Any]:
    async def refuse(context: Context, parameter: Any) -> None:
        raise _refusal(endpoint, why)

    return Rpc(_Anything, refuse)


def _refused_channel(endpoint: str, why: str) -> ChannelEndpoint[Any]:
    async def refuse(context: Context, parameter: Any, channel: Channel) -> None:
        raise _refusal(endpoint, why)

    return ChannelEndpoint(_Anything, refuse)


_REFUSED_RPCS = {
    "getModelCatalog": _NETWORK,
    "getWritableArtifactOwners": _ACCOUNT,
    "loginAsComputeDevice": _ACCOUNT,
    "loginWithPreAuthenticatedKeys": _ACCOUNT,
    "lmLinkSetDisabled": _ACCOUNT,
    "lmLinkUpdateDeviceName": _ACCOUNT,
    "lmLinkSetPreferredDevice": _ACCOUNT,
    "installPluginDependencies": _PLUGINS,
    "installLocalPlugin": _PLUGINS,
    "getLocalArtifactFiles": _ACCOUNT,
}
_REFUSED_CHANNELS = {
    "downloadArtifact": _NETWORK,
    "createDownloadPlan": _NETWORK,
    "pushArtifact": _ACCOUNT,
    "ensureAuthenticated": _ACCOUNT,
}
NAMESPACE = Namespace(
    "repository",
    rpcs={
        "searchModels": Rpc(SearchParameter, search_models),
        "getModelDownloadOptions": Rpc(OptionsParameter, download_options),
        "isAuthenticated": Rpc(None, is_authenticated),
        "getAuthenticationStatus": Rpc(None, authentication_status),
        "deauthenticate": Rpc(None, deauthenticate),
        "fuzzyFindStaffPicks": Rpc(PicksParameter, staff_picks),
        "lmLinkStatus": Rpc(None, link_status),
        **{name: _refused_rpc(name, why) for name, why in _REFUSED_RPCS.items()},
    },
    channels={
        "downloadModel": ChannelEndpoint(DownloadParameter, download_model),
        **{name: _refused_channel(name, why) for name, why in _REFUSED_CHANNELS.items()},
    },
)
