"""Prompt templates: Jinja as Hugging Face's `apply_chat_template` speaks it.

Facts
-----
* Templates come with model files and requests: they are strangers' programs. They run in Jinja's immutable sandbox,
  which keeps them from Python's insides but not from running for ever: `proxy.prompt.sandbox` does that.
* transformers renders with trim_blocks and lstrip_blocks, the loop controls extension, `raise_exception`,
  `strftime_now`, a `tojson` that neither escapes HTML nor ASCII, the special tokens as `bos_token`, `eos_token`, and a
  block `generation` that marks answers for training and is nothing else
  (https://huggingface.co/docs/transformers/chat_templating_writing, read 2026-09).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` is its content."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja wants it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """See `Extension`."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


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


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
)
_ENVIRONMENT.filters["tojson"] = _to_json
_ENVIRONMENT.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)


def render_template(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    bos_token: str = "",
    eos_token: str = "",
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The prompt that a template makes of messages, ready for the answer.

    Args:
        template: Jinja.
        messages: in OpenAI's form; arguments of tool calls as objects.
        tools: in OpenAI's form.
        bos_token: the text of the token that a prompt begins with.
        eos_token: the text of the token that a turn ends with.
        variables: what the template is told besides, such as `enable_thinking`.

    Raises:
        jinja2.TemplateError: it is no Jinja, refuses the messages, or reaches for what the sandbox forbids.
        Exception: whatever it stumbles over: a template is a program.
    """
    told = {
        "add_generation_prompt": True,
        **(variables or {}),  # a request's: they may have any name, but never stand for what is known
        "messages": list(messages),
        "tools": list(tools) if tools else None,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    return _ENVIRONMENT.from_string(template).render(told)
