"""The SDK's other calls that are read: models loaded and listed, embeddings, templates, tokens, configurations.

Facts (lmstudio-api.md 5.8, 5.9; lmstudio-js baseModelBackendInterface.ts, embeddingBackendInterface.ts)
--------------------------------------------------------------------------------------------------------
* `loadModel` tells resolved, progress, success; `getOrLoad` either alreadyLoaded, or (after unloadingOtherJITModel, if
  another had to go) startLoading, loadProgress, loadSuccess. Idle times are in milliseconds; `ttl` is in seconds.
* A result that is void is absent: `getModelInfo` that finds nothing, `unloadModel`.
* `getBasePredictionConfig` is what is in force before a call says anything.
"""

from typing import ClassVar

from proxy.meaning import Json, Message, Operation, Origin, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.lmstudio_sdk_config import read_config, read_stack, read_tool_array
from proxy.read.lmstudio_sdk_conversation import Conversation, Shared
from proxy.read.lmstudio_sdk_fields import learn_identifier, read_info, read_specifier, row_of
from proxy.read.lmstudio_sdk_history import messages_of
from proxy.read.vectors import read_vectors

_LOAD_FIRST = ("resolved", "startLoading", "progress", "loadProgress")
_LOAD_LAST = ("success", "loadSuccess")


class Load(Conversation):
    """`loadModel` and `getOrLoad`."""

    operation = Operation.LOAD

    def __init__(self, call: Call, shared: Shared, endpoint: str = "") -> None:
        """It begins."""
        super().__init__(call, shared, endpoint)
        self._started_us: int | None = None

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        call = self.call
        key, identifier = parameter.text("modelKey"), parameter.text("identifier")
        call.model_asked = key or identifier
        if key is not None:
            call.parameter("identifier", identifier)
        call.parameter("device_identifier", parameter.text("deviceIdentifier"), sent_as="deviceIdentifier")
        for name in ("ttlMs", "loadTtlMs"):
            ttl_ms = parameter.number(name)
            if ttl_ms is not None:
                call.parameter("ttl", ttl_ms / 1000, sent_as=name, note="sent in milliseconds")
        read_stack(call, parameter, "loadConfigStack")

    def read_message(self, kind: str, message: Fields, at_us: int) -> bool:
        """See `Conversation`."""
        call = self.call
        if kind in _LOAD_FIRST:
            if self._started_us is None:
                self._started_us = at_us
            message.known("progress", "identifier")
            read_info(call, message.object("info"), self.shared.identifiers)
            ambiguous = message.array("ambiguous")
            if ambiguous:
                call.details["ambiguous"] = ambiguous
        elif kind in _LOAD_LAST or kind == "alreadyLoaded":
            if kind in _LOAD_LAST and self._started_us is not None:
                call.load_us = at_us - self._started_us
            read_info(call, message.object("info"), self.shared.identifiers)
            call.details["status"] = "already_loaded" if kind == "alreadyLoaded" else "loaded"
            call.is_finished = True
        elif kind == "unloadingOtherJITModel":
            name = learn_identifier(message.raw("info"), self.shared.identifiers)
            if name is not None:
                call.details.setdefault("unloaded", []).append(name)
        else:
            return False
        return True

    def read_end(self) -> None:
        """See `Conversation`."""
        call = self.call
        is_told = "status" in call.details or "cancelled" in call.details or call.has_errors
        if call.done_us is not None and not is_told:
            call.problem("unexpected", "the channel was closed before the model was loaded")


class Unload(Conversation):
    """`unloadModel`."""

    operation = Operation.UNLOAD

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        self.call.model_asked = parameter.text("identifier")
        device = parameter.text("deviceIdentifier")
        self.call.parameter("device_identifier", device, sent_as="deviceIdentifier")


class Download(Conversation):
    """`downloadModel`, `downloadArtifact`."""

    operation = Operation.DOWNLOAD

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        identifier, owner, name = (parameter.text(one) for one in ("downloadIdentifier", "owner", "name"))
        self.call.model_asked = identifier or "/".join(one for one in (owner, name) if one) or None
        parameter.known("revisionNumber", "path")

    def read_message(self, kind: str, message: Fields, at_us: int) -> bool:
        """See `Conversation`."""
        message.known("update")
        if kind == "success":
            self.call.model_answered = message.text("defaultIdentifier")
            self.call.is_finished = True
        return kind in ("downloadProgress", "startFinalizing", "success")


class ListModels(Conversation):
    """`listLoaded`, `listDownloadedModels`, `listDownloadedModelVariants`."""

    operation = Operation.MODELS

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        self.call.model_asked = parameter.text("modelKey")

    def read_result(self, result: Json) -> None:
        """See `Conversation`."""
        if not isinstance(result, list):
            self.call.notes.wrong("result", "an array", result)
            return
        models = []
        for value in result:
            info = self.object(value, "result[]")
            learn_identifier(info.data, self.shared.identifiers)
            models.append(row_of(info))
            self.call.notes.add_unread(info)
        self.call.details["models"] = models


class OfModel(Conversation):
    """Something is asked of one model."""

    specifier: ClassVar[str] = "specifier"

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        read_specifier(self.call, parameter, self.specifier, self.shared.identifiers)
        self.read_question(parameter)

    def read_question(self, parameter: Fields) -> None:
        """What is asked."""

    def read_result(self, result: Json) -> None:
        """See `Conversation`."""
        fields = self.object(result, "result")
        self.read_answer(fields)
        self.call.notes.add_unread(fields)

    def read_answer(self, answer: Fields) -> None:
        """What was told; an empty object where the result is void."""


class GetModelInfo(OfModel):
    """`getModelInfo`."""

    operation = Operation.MODELS

    def read_question(self, parameter: Fields) -> None:
        """See `OfModel`."""
        parameter.known("throwIfNotFound")

    def read_answer(self, answer: Fields) -> None:
        """See `OfModel`."""
        if answer:
            read_info(self.call, answer, self.shared.identifiers)
        self.call.details["models"] = [row_of(answer)] if answer else []


class GetLoadConfig(OfModel):
    """`getLoadConfig`."""

    operation = Operation.CONFIG
    origin: ClassVar[Origin] = Origin.EFFECTIVE

    def read_question(self, parameter: Fields) -> None:
        """See `OfModel`."""
        ignores = parameter.flag("ignoreServerSessionConfig")
        self.call.parameter("ignore_server_session_config", ignores, sent_as="ignoreServerSessionConfig")

    def read_answer(self, answer: Fields) -> None:
        """See `OfModel`."""
        read_config(self.call, answer, self.origin)


class GetBasePredictionConfig(GetLoadConfig):
    """`getBasePredictionConfig`."""

    origin = Origin.MODEL_DEFAULT


class EmbedString(OfModel):
    """`embedString`: one text a call."""

    operation = Operation.EMBEDDING
    specifier = "modelSpecifier"

    def read_question(self, parameter: Fields) -> None:
        """See `OfModel`."""
        text = parameter.text("inputString")
        if text is not None:
            self.call.messages.append(Message("input", (Part(PartKind.TEXT, text),)))

    def read_answer(self, answer: Fields) -> None:
        """See `OfModel`."""
        if "embedding" in answer:
            read_vectors(self.call, [answer.raw("embedding")])


class ApplyPromptTemplate(OfModel):
    """`applyPromptTemplate`: what a model would see of a chat."""

    operation = Operation.TEMPLATE

    def read_question(self, parameter: Fields) -> None:
        """See `OfModel`."""
        call = self.call
        call.messages += messages_of(parameter)
        read_stack(call, parameter, "predictionConfigStack")
        options = parameter.object("opts")
        if options is not None:
            call.parameter("omit_bos_token", options.flag("omitBosToken"), sent_as="omitBosToken")
            call.parameter("omit_eos_token", options.flag("omitEosToken"), sent_as="omitEosToken")
            read_tool_array(call, options.raw("toolDefinitions"))

    def read_answer(self, answer: Fields) -> None:
        """See `OfModel`."""
        prompt = answer.text("formatted")
        if prompt is not None:
            self.call.details["prompt"] = prompt


class Tokenize(OfModel):
    """`tokenize` and `countTokens`."""

    operation = Operation.TOKENIZE

    def read_question(self, parameter: Fields) -> None:
        """See `OfModel`."""
        text = parameter.text("inputString")
        if text is not None:
            self.call.details["text_chars"] = len(text)

    def read_answer(self, answer: Fields) -> None:
        """See `OfModel`."""
        tokens = len(answer.array("tokens")) if "tokens" in answer else answer.integer("tokenCount")
        if tokens is not None:
            self.call.details["tokens"] = tokens
