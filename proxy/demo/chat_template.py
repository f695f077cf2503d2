"""Prompt templates for both engines: a template for models that are made up, and rendering in the engine's words."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from proxy.demo.engine import EngineError, Message
from proxy.prompt.template import render_template

CHATML = """\
{%- macro calls(message) -%}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function or call %}
        {{- '[TOOL_REQUEST]' + {'name': function.name, 'arguments': function.arguments} | tojson }}
        {{- '[END_TOOL_REQUEST]' }}
    {%- endfor %}
{%- endmacro -%}
{%- set has_system = messages and messages[0].role in ('system', 'developer') -%}
{%- if has_system or tools or reasoning_effort %}
    {{- '<|im_start|>system\\n' }}
    {{- 'Reasoning: ' + reasoning_effort + '\\n' if reasoning_effort else '' }}
    {%- if has_system %}
        {{- messages[0].content }}
    {%- endif %}
    {%- if tools %}
        {{- '\\n\\n' if has_system else '' }}
        {{- 'You can call these tools:\\n<tools>\\n' }}
        {%- for tool in tools %}
            {{- tool | tojson + '\\n' }}
        {%- endfor %}
        {{- '</tools>\\nA call looks like this: ' }}
        {{- '[TOOL_REQUEST]{"name": "...", "arguments": {...}}[END_TOOL_REQUEST]' }}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in (messages[1:] if has_system else messages) %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- for image in message.images or [] %}
        {{- '<|image|>' }}
    {%- endfor %}
    {{- message.content or '' }}
    {{- calls(message) }}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and not enable_thinking %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
"""A template with tools, images and reasoning, for models that are made up. A level of reasoning stands in the system
message, as gpt-oss has it; where it is forbidden, the answer begins with an empty thought, as Qwen3 has it."""


def render(
    template: str,
    messages: Sequence[Message],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    bos_token: str = "",
    eos_token: str = "",
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The prompt that a template makes of messages, ready for the answer; `variables` are told to it besides.

    Raises:
        EngineError: kind `template`: it is no Jinja, refuses the messages, or trips over them.
    """
    try:
        return render_template(
            template, messages, tools=tools, bos_token=bos_token, eos_token=eos_token, variables=variables
        )
    except jinja2.TemplateError as error:
        raise EngineError(f"Error rendering prompt with jinja template: {error}", kind="template") from error
    except Exception as error:  # a template is a program: whatever it raises is its own mistake
        raise EngineError(
            f"Error rendering prompt with jinja template: {type(error).__name__}: {error}", kind="template"
        ) from error
