"""/llm of the SDK: predictions, raw completions, prompt templates, tokens.

S, lmstudio-js packages/lms-external-backend-interfaces/src/llmBackendInterface.ts; the order of messages: digest 5.6.
Python and older versions of the JavaScript SDK complete raw text over `predict`, with a template that only joins
messages (S, lmstudio-python _kv_config.py).
"""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from proxy.demo import output_parser as out
from proxy.demo.catalog import Instance
from proxy.demo.engine import EngineError, Message, Progress
from proxy.demo.lookalike import Lookalike
from proxy.demo.parameters import DRAFT_MODEL, SYSTEM_PROMPT, TEMPLATE, Layer, fields_of, template_variables
from proxy.demo.prediction import Ask, Done, Prediction
from proxy.demo.sdk_config import TOOL_CHOICE, ConfigStack, Tool, find_preset, request_layer, tools_of
from proxy.demo.sdk_endpoints import Channel, ChannelEndpoint, Context, Json, Namespace, Parameter, Rpc, Specifier
from proxy.demo.sdk_errors import engine_does_not_support
from proxy.demo.sdk_history import History, check_images, messages_of
from proxy.demo.sdk_models import ModelEndpoints, find_instance, find_models, instance_info
from proxy.demo.templates import as_jinja, with_tool_prompt


class PredictParameter(Parameter):
    """Answer a chat."""

    model_specifier: Specifier
    history: History
    prediction_config_stack: ConfigStack
    fuzzy_preset_identifier: str | None = None
    ignore_server_session_config: bool = False


class CompleteParameter(Parameter):
    """Go on with a text."""

    model_specifier: Specifier
    raw_prompt: str
    prediction_config_stack: ConfigStack
    fuzzy_preset_identifier: str | None = None
    ignore_server_session_config: bool = False


class TemplateOptions(Parameter):
    """S: LLMApplyPromptTemplateOpts.ts."""

    omit_bos_token: bool = False
    omit_eos_token: bool = False
    tool_definitions: Annotated[tuple[Tool, ...], Field(strict=False)] = ()


class ApplyTemplateParameter(Parameter):
    """Render a prompt."""

    specifier: Specifier
    history: History
    prediction_config_stack: ConfigStack
    opts: TemplateOptions


class TextParameter(Parameter):
    """A text, for a model's tokenizer."""

    specifier: Specifier
    input_string: str


class DraftParameter(Parameter):
    """A draft model to be loaded ahead."""

    specifier: Specifier
    draft_model_key: str


async def predict(context: Context, parameter: PredictParameter, channel: Channel) -> None:
    """Answer a chat."""
    look = context.look
    instance = find_instance(look, parameter.model_specifier, "llm")
    ask = _ask(look, instance, parameter)
    config = look.config(instance.model, ask)
    is_completion = any(one.layer_name == "completeModeFormatting" for one in parameter.prediction_config_stack.layers)
    messages = messages_of(parameter.history, context.client.files)
    check_images(messages, instance)
    ask = replace(
        ask,
        messages=messages if is_completion else with_system_prompt(messages, config),
        tools=tools_of(config),
        tool_choice=(config.get(TOOL_CHOICE) or {}).get("mode", "auto"),
    )
    await _run(look, instance, ask, channel)


async def complete_raw_text(context: Context, parameter: CompleteParameter, channel: Channel) -> None:
    """Go on with a text; no template is applied."""
    look = context.look
    instance = find_instance(look, parameter.model_specifier, "llm")
    await _run(look, instance, replace(_ask(look, instance, parameter), prompt=parameter.raw_prompt), channel)


def _ask(look: Lookalike, instance: Instance, parameter: PredictParameter | CompleteParameter) -> Ask:
    preset = find_preset(look, parameter.fuzzy_preset_identifier)
    return Ask(
        layer=request_layer(look, instance.model, parameter.prediction_config_stack, preset),
        preset=preset,
        is_sdk=True,
        ignores_server_session=parameter.ignore_server_session_config,
    )


def with_system_prompt(messages: list[Message], config: Layer) -> list[Message]:
    """The messages under the configuration's system prompt, where they have none of their own. U."""
    prompt = config.get(SYSTEM_PROMPT)
    if not prompt or any(message["role"] == "system" for message in messages):
        return messages
    return [{"role": "system", "content": prompt}, *messages]


async def _run(look: Lookalike, instance: Instance, ask: Ask, channel: Channel) -> None:
    prediction = look.predict(instance, ask)
    if draft_model := prediction.config.get(DRAFT_MODEL):
        _check_draft(look, draft_model)
    try:
        done = await channel.until_stopped(_forward(prediction, channel))
    except EngineError:
        if not instance.is_unloaded or look.behaviour.sdk_unloaded == "error":
            raise
        done = prediction.cancelled("modelUnloaded")
    done = done or prediction.cancelled()
    await channel.send(
        {
            "type": "success",
            "stats": done.stats.sdk(),
            "modelInfo": instance_info(instance),
            "loadModelConfig": fields_of(instance.load_config),
            "predictionConfig": fields_of(done.config),
        }
    )


async def _forward(prediction: Prediction, channel: Channel) -> Done:
    """Send everything but the end."""
    told = -1.0
    async with aclosing(prediction.events()) as events:
        async for event in events:
            if isinstance(event, Done):
                return event
            if isinstance(event, Progress):
                message = _progress(event)
                if message["progress"] > told:
                    told = message["progress"]
                    await channel.send(message)
            elif message := _message(event):
                await channel.send(message)
    raise AssertionError("a prediction ends with Done or raises")


def _progress(step: Progress) -> Json:
    """S, PromptProcessingDetails.ts: cached, processed and unprocessed make the total. U: what `progress` is of."""
    fresh, processed = step.total - step.cached, step.processed - step.cached
    return {
        "type": "promptProcessingProgress",
        "progress": processed / fresh if fresh else 1,
        "details": {
            "cachedTokenCount": step.cached,
            "totalPromptTokenCount": step.total,
            "processedPromptTokenCount": processed,
            "unprocessedPromptTokenCount": fresh - processed,
        },
    }


def _message(event: Any) -> Json:
    """The message of an event; {} where it has none."""
    match event:
        case out.Text():
            message = _fragment(event) if event.content else {}
        case out.ToolCallStart(id_):
            message = {"type": "toolCallGenerationStart", "toolCallId": id_}
        case out.ToolCallName(_, name):
            message = {"type": "toolCallGenerationNameReceived", "name": name}
        case out.ToolCallArguments(content):
            message = {"type": "toolCallGenerationArgumentFragmentGenerated", "content": content}
        case out.ToolCallEnd(id_, name, arguments, _, raw):
            request = {"id": id_, "type": "function", "name": name, "arguments": arguments}
            message = {"type": "toolCallGenerationEnd", "toolCallRequest": request, "rawContent": raw}
        case out.ToolCallFailed(error, raw):
            message = {"type": "toolCallGenerationFailed", "error": {"title": error}, "rawContent": raw}
        case _:
            message = {}
    return message


def _fragment(event: out.Text) -> Json:
    fragment = {
        "content": event.content,
        "tokensCount": event.tokens,
        "containsDrafted": event.is_drafted,
        "reasoningType": event.reasoning,
        "isStructural": False,
    }
    return {"type": "fragment", "fragment": fragment}


async def apply_prompt_template(context: Context, parameter: ApplyTemplateParameter) -> Json:
    """The prompt that a prediction of the same would have."""
    look, options = context.look, parameter.opts
    instance = find_instance(look, parameter.specifier, "llm")
    layer = request_layer(look, instance.model, parameter.prediction_config_stack, None)
    config = look.config(instance.model, Ask(layer=layer, is_sdk=True))
    messages: Sequence[Message] = with_system_prompt(messages_of(parameter.history, context.client.files), config)
    tools = [tool.model_dump(exclude_unset=True) for tool in options.tool_definitions] or tools_of(config)
    if tools and not instance.model.trained_for_tool_use:
        messages, tools = with_tool_prompt(messages, tools), []
    template = as_jinja(config.get(TEMPLATE), instance.model.template)
    omitted = [name for name, is_ in (("bos", options.omit_bos_token), ("eos", options.omit_eos_token)) if is_]
    if omitted:  # the template itself writes these tokens, if anybody does
        unset = "".join(f"{{%- set {name}_token = '' -%}}" for name in omitted)
        template = unset + (template or instance.model.template)
    variables = template_variables(config)
    rendered = await instance.loaded.render(messages, tools=tools or None, template=template, variables=variables)
    return {"formatted": rendered}


async def preload_draft_model(context: Context, parameter: DraftParameter) -> None:
    """Nothing is loaded: an engine that speculates is a scripted one. Another refuses, once both models are known."""
    look = context.look
    find_instance(look, parameter.specifier, "llm")
    _check_draft(look, parameter.draft_model_key)


def _check_draft(look: Lookalike, key: str) -> None:
    find_models(look, key, "llm")
    if not look.engine.drafts:
        raise engine_does_not_support(look.engine, "speculative decoding")


def token_rpcs(domain: str) -> dict[str, Rpc[Any]]:
    """`tokenize` and `countTokens`, which /embedding has, too."""

    async def tokens_of(context: Context, parameter: TextParameter) -> list[int]:
        return await find_instance(context.look, parameter.specifier, domain).loaded.tokenize(parameter.input_string)

    async def tokenize(context: Context, parameter: TextParameter) -> Json:
        return {"tokens": await tokens_of(context, parameter)}

    async def count_tokens(context: Context, parameter: TextParameter) -> Json:
        return {"tokenCount": len(await tokens_of(context, parameter))}

    return {"tokenize": Rpc(TextParameter, tokenize), "countTokens": Rpc(TextParameter, count_tokens)}


_MODELS = ModelEndpoints("llm")
NAMESPACE = Namespace(
    "llm",
    rpcs={
        **_MODELS.rpcs(),
        **token_rpcs("llm"),
        "applyPromptTemplate": Rpc(ApplyTemplateParameter, apply_prompt_template),
        "preloadDraftModel": Rpc(DraftParameter, preload_draft_model),
    },
    channels={
        **_MODELS.channels(),
        "predict": ChannelEndpoint(PredictParameter, predict),
        "completeRawText": ChannelEndpoint(CompleteParameter, complete_raw_text),
    },
)
