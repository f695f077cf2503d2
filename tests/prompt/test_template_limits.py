"""What clients, killed processes and odd files bring: none of it becomes anything but a clear error."""

import json
import os
from pathlib import Path

import pytest

from proxy.demo.chat_template import CHATML
from proxy.meaning import Message, Part, PartKind
from proxy.prompt import sandbox as limits
from proxy.prompt.model_files import ModelFiles
from proxy.prompt.sandbox import TemplateFailedError, TemplateSandbox
from proxy.prompt.template_messages import sdk_history, template_messages

HELLO = (Message("user", (Part(PartKind.TEXT, "hi"),)),)
DEEP = "[" * 100_000 + "]" * 100_000


def calling(arguments: str) -> Message:
    return Message("assistant", (Part(PartKind.TOOL_CALL, arguments, name="f", id="c1"),))


def test_arguments_that_are_nested_too_deeply_stay_text() -> None:
    message = calling(DEEP)
    assert template_messages([message])[0]["tool_calls"][0]["function"]["arguments"] == DEEP
    assert sdk_history([message])["messages"][0]["content"][0]["toolCallRequest"]["arguments"] == DEEP


@pytest.mark.parametrize("depth", [100, 900, 940, 980, 1000, 100_000])
def test_arguments_of_any_depth_end_in_a_prompt_or_in_a_clear_error(depth: int) -> None:
    with TemplateSandbox() as sandbox:
        try:
            assert sandbox.render("ok", [calling("[" * depth + "]" * depth)]) == "ok"
        except TemplateFailedError as error:
            assert error.kind == "template_too_large"  # noqa: PT017 - either is right
        assert sandbox.render("ok", HELLO) == "ok"


def test_messages_that_are_too_large_are_refused_before_they_are_sent() -> None:
    text = "a" * (limits.MAX_REQUEST_BYTES + 1)
    with TemplateSandbox() as sandbox, pytest.raises(TemplateFailedError) as caught:
        sandbox.render("ok", [Message("user", (Part(PartKind.TEXT, text),))])
    assert caught.value.kind == "template_too_large"


def test_messages_as_large_as_allowed_are_rendered() -> None:
    text = "a" * (limits.MAX_REQUEST_BYTES - 1000)
    with TemplateSandbox(patience_s=60) as sandbox:
        rendered = sandbox.render("{{ messages[0].content | length }}", [Message("user", (Part(PartKind.TEXT, text),))])
    assert rendered == str(len(text))


def test_a_process_that_was_killed_while_idle_costs_no_call_its_prompt() -> None:
    with TemplateSandbox() as sandbox:
        sandbox.render("ok", HELLO)
        assert sandbox._process is not None
        sandbox._process.kill()
        sandbox._process.wait()
        assert sandbox.render("ok", HELLO) == "ok"


@pytest.mark.parametrize("name", ["messages", "tools", "bos_token", "eos_token", "self"])
def test_a_variable_of_a_request_never_stands_for_what_is_known(name: str) -> None:
    with TemplateSandbox() as sandbox:
        template = "{{ messages[0].content }}|{{ tools is none }}|{{ bos_token }}|{{ eos_token }}"
        rendered = sandbox.render(template, HELLO, bos_token="<s>", eos_token="</s>", variables={name: "x"})
    assert rendered == "hi|True|<s>|</s>"


def test_a_request_may_ask_for_no_beginning_of_an_answer() -> None:
    with TemplateSandbox() as sandbox:
        rendered = sandbox.render(CHATML, HELLO, variables={"add_generation_prompt": False})
    assert rendered == "<|im_start|>user\nhi<|im_end|>\n"


def test_filters_that_load_python_modules_work_within_the_limits() -> None:
    with TemplateSandbox() as sandbox:
        assert sandbox.render("{{ '<b>a</b> &amp; b' | striptags }}", HELLO) == "a & b"
        assert sandbox.render("{{ 'a b' | wordwrap(1) }}", HELLO) == "a\nb"
        assert sandbox.render("{{ lipsum(n=1) | length > 0 }}", HELLO) == "True"


@pytest.mark.parametrize("path", ["circle", "\ud800", "a" * 5000, "pipe", "pipe/x"])
def test_what_is_no_model_gives_nothing_and_does_not_wait(tmp_path: Path, path: str) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "circle").symlink_to(models / "circle")
    os.mkfifo(models / "pipe")
    assert ModelFiles(tmp_path).template(path) is None


def test_a_pointer_to_what_can_be_no_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".lmstudio-home-pointer").write_text("a\0b")
    assert ModelFiles.find(user_home=tmp_path).home == tmp_path / ".lmstudio"


def test_an_mlx_folders_own_file_goes_before_its_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "models/mlx"
    folder.mkdir(parents=True)
    named = [{"name": "tool_use", "template": "with tools"}, {"name": "default", "template": "without"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    files = ModelFiles(tmp_path)
    listed = files.template("mlx")
    assert listed is not None
    assert listed.text == "without"
    (folder / "chat_template.jinja").write_text("its own")
    own = files.template("mlx")
    assert own is not None
    assert (own.text, Path(own.detail).name) == ("its own", "chat_template.jinja")
