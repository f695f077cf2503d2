"""LM Studio's own SDK, for Python and JavaScript: WebSockets, one for each namespace, many calls on each.

Facts (lmstudio-api.md 5.1, 5.5)
--------------------------------
* The namespace is the path's last segment. /diagnostics is one of them; its log has a reader of its own.
* The endpoints of every namespace are documented: what is not among them is new, or wrong, and shown.
"""

from collections.abc import Mapping
from types import MappingProxyType

from proxy.read.lmstudio_sdk_conversation import Quiet, QuietChannel
from proxy.read.lmstudio_sdk_predict import CompleteRawText, GenerateWithGenerator, Predict
from proxy.read.lmstudio_sdk_rpc import (
    ApplyPromptTemplate,
    Download,
    EmbedString,
    GetBasePredictionConfig,
    GetLoadConfig,
    GetModelInfo,
    ListModels,
    Load,
    Tokenize,
    Unload,
)
from proxy.read.lmstudio_sdk_session import Endpoints, SdkSession
from proxy.read.reader import Claim, RequestHead

_MODEL_CHANNELS: Endpoints = {"loadModel": Load, "getOrLoad": Load}
_MODEL_PROCEDURES: Endpoints = {
    "unloadModel": Unload,
    "listLoaded": ListModels,
    "getModelInfo": GetModelInfo,
    "getLoadConfig": GetLoadConfig,
    "getBasePredictionConfig": GetBasePredictionConfig,
    "getInstanceProcessingState": Quiet,
    "estimateModelUsage": Quiet,
    "tokenize": Tokenize,
    "countTokens": Tokenize,
}
_QUIET = {
    "system": (
        *("notify", "version", "info", "setExperimentFlag", "getExperimentFlags"),
        *("startHttpServer", "stopHttpServer", "requestShutdown"),
    ),
    "files": ("getLocalFileAbsolutePath", "uploadFileBase64", "getDocumentParsingLibrary"),
    "repository": (
        *("searchModels", "getModelDownloadOptions", "installPluginDependencies", "getLocalArtifactFiles"),
        *("getWritableArtifactOwners", "isAuthenticated", "getAuthenticationStatus", "deauthenticate"),
        *("loginAsComputeDevice", "loginWithPreAuthenticatedKeys", "installLocalPlugin", "getModelCatalog"),
        *("fuzzyFindStaffPicks", "lmLinkStatus", "lmLinkSetDisabled", "lmLinkUpdateDeviceName"),
        "lmLinkSetPreferredDevice",
    ),
    "plugins": (
        *("reindexPlugins", "processingHandleUpdate", "processingHandleRequest", "processingPullHistory"),
        *("processingGetOrLoadTokenSource", "processingHasStatus", "processingNeedsNaming", "processingSuggestName"),
        *("processingSetSenderName", "setConfigSchematics", "setGlobalConfigSchematics", "pluginInitCompleted"),
        "reportError",
    ),
    "runtime": (
        *("listEngines", "getEngineSelections", "selectEngine", "removeEngine", "surveyHardware"),
        "searchRuntimeExtensions",
    ),
}
_QUIET_CHANNELS = {
    "system": ("alive",),
    "files": ("retrieve", "parseDocument"),
    "repository": ("pushArtifact", "ensureAuthenticated", "createDownloadPlan"),
    "plugins": (
        *("startToolUseSession", "registerDevelopmentPlugin", "setPromptPreprocessor", "setPredictionLoopHandler"),
        *("setToolsProvider", "setGenerator"),
    ),
    "runtime": ("downloadRuntimeExtension",),
}
_PROCEDURES: Mapping[str, Endpoints] = {
    "llm": {**_MODEL_PROCEDURES, "applyPromptTemplate": ApplyPromptTemplate, "preloadDraftModel": Quiet},
    "embedding": {**_MODEL_PROCEDURES, "embedString": EmbedString},
    "system": {"listDownloadedModels": ListModels, "listDownloadedModelVariants": ListModels},
}
_CHANNELS: Mapping[str, Endpoints] = {
    "llm": {**_MODEL_CHANNELS, "predict": Predict, "completeRawText": CompleteRawText},
    "embedding": _MODEL_CHANNELS,
    "repository": {"downloadModel": Download, "downloadArtifact": Download},
    "plugins": {"generateWithGenerator": GenerateWithGenerator},
}
NAMESPACES: Mapping[str, tuple[Endpoints, Endpoints]] = MappingProxyType(
    {
        name: (
            {**dict.fromkeys(_QUIET.get(name, ()), Quiet), **_PROCEDURES.get(name, {})},
            {**dict.fromkeys(_QUIET_CHANNELS.get(name, ()), QuietChannel), **_CHANNELS.get(name, {})},
        )
        for name in ("llm", "embedding", "system", "files", "repository", "plugins", "runtime")
    }
)
"""Procedures and channels of each."""


class LMStudioSdk:
    """The SDK's WebSockets, but for /diagnostics."""

    name = "lmstudio_sdk"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """See `Reader`; whatever the prefix is."""
        return Claim.YES if head.is_websocket and namespace_of(head) in NAMESPACES else Claim.NO

    def open(self, head: RequestHead) -> SdkSession:
        """See `Reader`."""
        procedures, channels = NAMESPACES.get(namespace_of(head), ({}, {}))
        return SdkSession(self.name, self.version, procedures=procedures, channels=channels)


def namespace_of(head: RequestHead) -> str:
    """The path's last segment."""
    return head.path.rstrip("/").rpartition("/")[2]
