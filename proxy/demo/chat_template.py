"""Chat templates: Jinja as Hugging Face's `apply_chat_template` speaks it, for both engines.

Facts
-----
* Templates come with model files and requests: they are strangers' programs. They run in Jinja's immutable sandbox.
* transformers renders with trim_blocks and lstrip_blocks, the loop controls extension, `raise_exception`,
  `strftime_now`, a `tojson` that neither escapes HTML nor ASCII, and the special tokens as `bos_token`, `eos_token`
  (https://huggingface.co/docs/transformers/chat_templating_writing, read 2026-09).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy.demo.engine import EngineError, Message

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


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


_ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
_ENVIRONMENT.filters["tojson"] = _to_json
_ENVIRONMENT.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)


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
        return _ENVIRONMENT.from_string(template).render(
            **(variables or {}),
            messages=list(messages),
            tools=list(tools) if tools else None,
            add_generation_prompt=True,
            bos_token=bos_token,
            eos_token=eos_token,
        )
    except jinja2.TemplateError as error:
        raise EngineError(f"Error rendering prompt with jinja template: {error}", kind="template") from error
    except Exception as error:  # a template is a program: whatever it raises is its own mistake
        raise EngineError(
            f"Error rendering prompt with jinja template: {type(error).__name__}: {error}", kind="template"
        ) from error
