"""Templates are strangers' programs: whatever they do ends in a clear error, and the next one renders."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.demo.chat_template import CHATML
from proxy.meaning import Message, Part, PartKind, Tool
from proxy.prompt.sandbox import TemplateFailedError, TemplateSandbox

HELLO = (Message("user", (Part(PartKind.TEXT, "Un éléphant 🐘"),)),)
HOSTILE = {
    "endless loop": (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "template_timed_out",
    ),
    "huge range": ("{{ range(10**9) }}", "template_too_large"),
    "huge text at once": ("{{ 'a' * 10**10 }}", "template_too_large"),
    "huge text by doubling": (
        "{% set n = namespace(a='x') %}{% for i in range(60) %}{% set n.a = n.a + n.a %}{% endfor %}{{ n.a }}",
        "template_too_large",
    ),
    "more than is wanted": ("{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}", "template_too_large"),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "template_unsafe"),
    "globals of a function": ("{{ lipsum.__globals__['os'].system('true') }}", "template_unsafe"),
    "globals of a class": ("{{ cycler.__init__.__globals__.os }}", "template_unsafe"),
    "itself": ("{{ self.__init__.__globals__ }}", "template_unsafe"),
    "changing what it is given": ("{{ messages.append(1) }}", "template_unsafe"),
    "recursion": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "template_refused"),
    "depth": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "template_refused"),
    "other files": ("{% include '/etc/passwd' %}", "template_refused"),
    "no Jinja": ("{% if %}", "template_refused"),
    "a refusal": ("{{ raise_exception('roles must alternate') }}", "template_refused"),
    "its own mistake": ("{{ 1 / 0 }}", "template_refused"),
}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[TemplateSandbox]:
    with TemplateSandbox() as opened:
        yield opened


@pytest.mark.parametrize(("template", "kind"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_ends_in_an_error_and_the_next_one_renders(
    sandbox: TemplateSandbox, template: str, kind: str
) -> None:
    with pytest.raises(TemplateFailedError) as caught:
        sandbox.render(template, HELLO)
    assert caught.value.kind == kind
    assert str(caught.value)
    assert sandbox.render(CHATML, HELLO) == "<|im_start|>user\nUn éléphant 🐘<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("template", ["{{ '{0.__class__}'.format(1) }}", "{{ '' | attr('__class__') }}"])
def test_what_the_sandbox_makes_nothing_of_gives_nothing(sandbox: TemplateSandbox, template: str) -> None:
    assert sandbox.render(template, HELLO) == ""


def test_a_refusal_is_told_in_the_templates_own_words(sandbox: TemplateSandbox) -> None:
    with pytest.raises(TemplateFailedError, match="roles must alternate"):
        sandbox.render("{{ raise_exception('roles must alternate') }}", HELLO)


def test_templates_see_nothing_of_the_environment_and_of_the_users_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong file')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with TemplateSandbox() as sandbox:
        assert sandbox.render("{{ messages[0].content }}", HELLO) == "Un éléphant 🐘"
        assert sandbox._process is not None
        environment = Path(f"/proc/{sandbox._process.pid}/environ")
        if os.access(environment, os.R_OK):
            assert b"sk-secret" not in environment.read_bytes()


def test_half_a_surrogate_pair_and_zeros_come_through_as_text(sandbox: TemplateSandbox) -> None:
    assert sandbox.render("{{ '\\x00' }}{{ messages[0].content }}", [Message("user", (Part(PartKind.TEXT, "\ud800"),))])


def test_a_template_gets_tools_calls_and_results_as_transformers_gives_them(sandbox: TemplateSandbox) -> None:
    call = Part(PartKind.TOOL_CALL, '{"a": 1}', name="add", id="c1")
    result = Part(PartKind.TOOL_RESULT, "3", name="add", id="c1")
    messages = (*HELLO, Message("assistant", (call,)), Message("tool", (result,)))
    template = (
        "{% generation %}{{ messages[1].tool_calls[0].function.arguments.a }}{% endgeneration %}"
        "|{{ messages[2].tool_call_id }}|{{ messages[2].content }}|{{ tools[0].function.parameters.type }}"
        "|{{ bos_token }}|{{ enable_thinking }}|{{ messages | tojson }}"
    )
    tools = (Tool("add", "adds", '{"type": "object"}'),)
    rendered = sandbox.render(template, messages, tools, bos_token="<s>", variables={"enable_thinking": False})
    assert rendered.startswith('1|c1|3|object|<s>|False|[{"role": "user", "content": "Un éléphant 🐘"}, ')
