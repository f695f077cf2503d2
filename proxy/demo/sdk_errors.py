"""Errors as the SDK's WebSockets tell them.

The form: S, lmstudio-js packages/lms-shared-types/src/Error.ts; `displayData`, by which clients know an error: S,
GenericErrorDisplayData.ts. Titles: the first one D (digest 5.3), the others U.
"""

from collections.abc import Iterable
from typing import Any

from proxy.demo.behaviour import Behaviour
from proxy.demo.catalog import NotFoundError
from proxy.demo.engine import Engine, EngineError
from proxy.demo.http import failure_of
from proxy.demo.lookalike import Lookalike
from proxy.demo.overflow import ContextOverflowError

_SAMPLE = 5
"""At most so many names go into an error. U."""


class SdkError(Exception):
    """A call that is refused or failed."""

    def __init__(
        self, title: str, *, cause: str = "", suggestion: str = "", display_data: dict[str, Any] | None = None
    ) -> None:
        """What the client is told."""
        super().__init__(title)
        self.title = title
        self.cause = cause
        self.suggestion = suggestion
        self.display_data = display_data


KNOWN_ERRORS = (SdkError, NotFoundError, EngineError, ContextOverflowError)
"""What a handler may raise."""


def error_object(error: Exception, behaviour: Behaviour, place: str) -> dict[str, Any]:
    """The error of an `rpcError` or a `channelError`.

    Args:
        error: one of `KNOWN_ERRORS`, or a bug.
        behaviour: chooses words.
        place: namespace and endpoint; stands in the stack, without which the JavaScript client complains.
    """
    if isinstance(error, SdkError):
        told = error
    elif isinstance(error, KNOWN_ERRORS):
        told = SdkError(failure_of(error, behaviour).message)
    else:
        told = SdkError("Internal error", cause=f"{type(error).__name__}: {error}")
    members = {
        "title": told.title,
        "cause": told.cause,
        "suggestion": told.suggestion,
        "displayData": told.display_data,
        "stack": f"Error: {told.title}\n    at {place}",
        "rootTitle": told.title,
    }
    return {name: value for name, value in members.items() if value}


def _sample(names: Iterable[str]) -> list[str]:
    return sorted(set(names))[:_SAMPLE]


def _loaded(look: Lookalike, domain: str) -> list[str]:
    return [one.identifier for one in look.catalog.instances if one.model.domain == domain]


def no_model_matching_query(look: Lookalike, query: dict[str, Any], domain: str) -> SdkError:
    """No loaded model fits."""
    loaded = _loaded(look, domain)
    return SdkError(
        "No model found that fits the query",
        cause="No loaded model satisfies all requirements of the query.",
        suggestion="Load such a model first, or ask for another one.",
        display_data={
            "code": "generic.noModelMatchingQuery",
            "query": query,
            "loadedModelsSample": _sample(loaded),
            "totalLoadedModels": len(loaded),
        },
    )


def specific_model_unloaded() -> SdkError:
    """The load that is meant is over."""
    return SdkError(
        "The model has been unloaded",
        suggestion="Load it again, or use a handle that is not bound to one load.",
        display_data={"code": "generic.specificModelUnloaded"},
    )


def path_not_found(look: Lookalike, path: str, domain: str) -> SdkError:
    """No such model is downloaded."""
    paths = [model.path for model in look.catalog.models if model.domain == domain]
    return SdkError(
        f'Cannot find a model with key "{path}"',
        suggestion="`lms ls` lists the models that are downloaded.",
        display_data={
            "code": "generic.pathNotFound",
            "path": path,
            "availablePathsSample": _sample(paths),
            "totalModels": len(paths),
        },
    )


def identifier_not_found(look: Lookalike, identifier: str, domain: str) -> SdkError:
    """No model is loaded by that identifier."""
    loaded = _loaded(look, domain)
    return SdkError(
        f'Cannot find a loaded model with identifier "{identifier}"',
        display_data={
            "code": "generic.identifierNotFound",
            "identifier": identifier,
            "loadedModelsSample": _sample(loaded),
            "totalLoadedModels": len(loaded),
        },
    )


def domain_mismatch(path: str, actual: str, expected: str) -> SdkError:
    """It is a model of another kind."""
    return SdkError(
        f'Model "{path}" is of the domain "{actual}", not "{expected}"',
        display_data={
            "code": "generic.domainMismatch",
            "path": path,
            "actualDomain": actual,
            "expectedDomain": expected,
        },
    )


def preset_not_found(look: Lookalike, name: str) -> SdkError:
    """There is no such preset."""
    return SdkError(
        f'Cannot find a preset that matches "{name}"',
        display_data={
            "code": "generic.presetNotFound",
            "specifiedFuzzyPresetIdentifier": name,
            "availablePresetsSample": [{"identifier": one, "name": one} for one in _sample(look.presets)],
            "totalAvailablePresets": len(look.presets),
        },
    )


def engine_does_not_support(engine: Engine, feature: str) -> SdkError:
    """The engine cannot do that."""
    return SdkError(
        f"The engine {engine.name} does not support {feature}",
        display_data={
            "code": "generic.engineDoesNotSupportFeature",
            "feature": feature,
            "engineName": engine.name,
            "engineType": engine.name.partition("-")[0],
            "installedVersion": engine.version,
            "supportedVersion": None,
        },
    )
