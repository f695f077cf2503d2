"""The SDK's channels on which a model generates: `predict`, `completeRawText`, and a plugin's generator.

Facts (lmstudio-api.md 5.6, 10.4; lmstudio-js llmBackendInterface.ts, OngoingPrediction.ts)
-------------------------------------------------------------------------------------------
* Fragments say what they are: `none`, `reasoning`, or a reasoning tag; the SDK leaves tags and structural fragments out
  of the answer. Very old servers sent plain strings.
* A tool call comes in steps, one call after the other; its end tells it whole.
* `success` is the last message: statistics, model, and the configuration in force, all layers merged, the prompt
  template among them. `cancel` brings it, too (`userStopped`).
* Prompt processing tells 0 and 1 always; its details are absent from older servers.
* Older clients complete text by `predict` with one message and a layer `completeModeFormatting`.
"""

from proxy.meaning import Message, Operation, Origin, Part, PartKind
from proxy.read.call import Call
from proxy.read.json_fields import Fields
from proxy.read.lmstudio_sdk_config import read_config, read_stack, read_tool_array
from proxy.read.lmstudio_sdk_conversation import Conversation, Shared
from proxy.read.lmstudio_sdk_fields import read_info, read_specifier, read_stats
from proxy.read.lmstudio_sdk_history import arguments_of, messages_of

_DETAILS = ("processedPromptTokenCount", "unprocessedPromptTokenCount")
_TAGS = ("reasoningStartTag", "reasoningEndTag")


class Predict(Conversation):
    """An answer to a chat."""

    operation = Operation.CHAT

    def __init__(self, call: Call, shared: Shared, endpoint: str = "") -> None:
        """It begins."""
        super().__init__(call, shared, endpoint)
        self._prompt_started_us: int | None = None
        self._prompt_tokens: int | None = None
        self._tool_calls = 0
        self._tool_call_id: str | None = None
        self._is_successful = False

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        call = self.call
        read_specifier(call, parameter, "modelSpecifier", self.shared.identifiers)
        self.read_input(parameter)
        if "completeModeFormatting" in read_stack(call, parameter, "predictionConfigStack"):
            call.operation = Operation.COMPLETION
        call.parameter("preset", parameter.text("fuzzyPresetIdentifier"), sent_as="fuzzyPresetIdentifier")
        ignores = parameter.flag("ignoreServerSessionConfig")
        call.parameter("ignore_server_session_config", ignores, sent_as="ignoreServerSessionConfig")

    def read_input(self, parameter: Fields) -> None:
        """What the model is to go on from."""
        self.call.messages += messages_of(parameter)

    def read_message(self, kind: str, message: Fields, at_us: int) -> bool:
        """See `Conversation`."""
        if kind == "fragment":
            self._read_fragment(message, at_us)
        elif kind == "promptProcessingProgress":
            self._read_progress(message, at_us)
        elif kind.startswith("toolCallGeneration"):
            return self._read_tool_call(kind.removeprefix("toolCallGeneration"), message, at_us)
        elif kind == "success":
            self._read_success(message)
        else:
            return False
        return True

    def read_end(self) -> None:
        """See `Conversation`."""
        call = self.call
        if call.reported("input_tokens") is None:
            call.report(input_tokens=self._prompt_tokens)
        if call.done_us is not None and not self._is_successful and not call.has_errors:
            call.problem("unexpected", "the channel was closed without `success`")

    def _read_fragment(self, message: Fields, at_us: int) -> None:
        call = self.call
        if isinstance(message.data.get("fragment"), str):
            call.generated(at_us, message.text("fragment"))
            return
        fragment = message.object("fragment")
        if fragment is None:
            return
        text = fragment.text("content")
        kind = fragment.text("reasoningType") or "none"
        is_structural = fragment.flag("isStructural")
        fragment.known("tokensCount", "containsDrafted", "tokens")
        if is_structural or kind in _TAGS:
            if text:
                call.token(at_us, is_content=False)
        else:
            call.generated(at_us, text, kind=PartKind.REASONING if kind == "reasoning" else PartKind.TEXT)
            if kind not in ("none", "reasoning"):
                call.problem("unknown_event", f"a fragment of the type {kind[:100]}")

    def _read_progress(self, message: Fields, at_us: int) -> None:
        progress = message.number("progress")
        details = message.object("details")
        if details is not None:
            self.call.report(cached_tokens=details.integer("cachedTokenCount"))
            self._prompt_tokens = details.integer("totalPromptTokenCount")
            details.known(*_DETAILS)
        if progress is None:
            return
        if progress < 1:
            self._prompt_started_us = at_us if self._prompt_started_us is None else self._prompt_started_us
        elif self._prompt_started_us is not None and self.call.prompt_us is None:
            self.call.prompt_us = at_us - self._prompt_started_us

    def _read_tool_call(self, step: str, message: Fields, at_us: int) -> bool:
        call = self.call
        if step == "Start":
            self._tool_call_id = message.text("toolCallId")
        elif step == "NameReceived":
            self._grow_tool_call(name=message.text("name") or "")
        elif step == "ArgumentFragmentGenerated":
            self._grow_tool_call(arguments=message.text("content") or "")
        elif step == "End":
            message.known("rawContent")
            self._end_tool_call(message.object("toolCallRequest"))
        elif step == "Failed":
            self._fail_tool_call(message)
        else:
            return False
        call.token(at_us, is_content=True)
        return True

    def _grow_tool_call(self, *, name: str = "", arguments: str = "") -> None:
        answer = self.call.answer()
        answer.tool_call(self._tool_calls, id=self._tool_call_id, name=name, arguments=arguments)

    def _end_tool_call(self, request: Fields | None) -> None:
        if request is not None:
            request.known("type")
            self.call.answer().set_tool_call(
                self._tool_calls,
                id=self._tool_call_id or request.text("id"),
                name=request.text("name"),
                arguments=arguments_of(request),
            )
            request.known("id")
        self._next_tool_call()

    def _fail_tool_call(self, message: Fields) -> None:
        error = message.raw("error")
        title = error.get("title") if isinstance(error, dict) else error
        self.call.problem("tool_call_failed", title if isinstance(title, str) else "")
        raw = message.text("rawContent")
        if raw:
            self.call.answer().put(Part(PartKind.OTHER, raw))
        self._next_tool_call()

    def _next_tool_call(self) -> None:
        self._tool_calls += 1
        self._tool_call_id = None

    def _read_success(self, message: Fields) -> None:
        call = self.call
        read_stats(call, message.object("stats"))
        read_info(call, message.object("modelInfo"), self.shared.identifiers)
        read_config(call, message.object("loadModelConfig"), Origin.EFFECTIVE)
        read_config(call, message.object("predictionConfig"), Origin.EFFECTIVE)
        call.is_finished = self._is_successful = True


class CompleteRawText(Predict):
    """A text goes on; no template is applied."""

    operation = Operation.COMPLETION

    def read_input(self, parameter: Fields) -> None:
        """See `Predict`."""
        prompt = parameter.text("rawPrompt")
        if prompt is not None:
            self.call.messages.append(Message("prompt", (Part(PartKind.TEXT, prompt),)))


class GenerateWithGenerator(Predict):
    """A plugin answers a chat in a model's place. Its configuration may hold secrets: it is not kept."""

    def read_parameter(self, parameter: Fields) -> None:
        """See `Conversation`."""
        self.call.model_asked = parameter.text("pluginIdentifier")
        read_tool_array(self.call, parameter.raw("tools"))
        parameter.known("pluginConfigSpecifier")
        self.read_input(parameter)
