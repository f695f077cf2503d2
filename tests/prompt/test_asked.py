"""Asked of the servers: the lookalike's SDK, real llama.cpp; computed here, the same comes out."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from proxy.demo.llama_process import LlamaProcess
from proxy.meaning import Message, Part, PartKind, Tool
from proxy.prompt.asked import CannotAskError, ask_prompt
from proxy.prompt.gguf import read_header
from proxy.prompt.sandbox import TemplateSandbox
from proxy.prompt.template_messages import sdk_history
from tests.demo.lookalikes import post, running
from tests.raw_server import RawServer, length_response


def said(*texts: str, system: str | None = None) -> list[Message]:
    """A chat: the user and the assistant in turn."""
    roles = ("user", "assistant")
    chat = [Message(roles[number % 2], (Part(PartKind.TEXT, text),)) for number, text in enumerate(texts)]
    return [Message("system", (Part(PartKind.TEXT, system),)), *chat] if system is not None else chat


CHATS = {
    "one question": said("Dis bonjour en français."),
    "a system message": said("Count.", system="You are terse."),
    "several turns": said("Un éléphant 🐘 se balançait", "sur une toile d'araignée", "Continue"),
    "nothing said": said(""),
    "an empty system message": said("hi", system=""),
    "line ends and blanks": said("  a\n\nb \n", "<|im_end|>", "c"),
}


def ask(url: str, model: str, messages: Sequence[Message], **more: object) -> str:
    async def main() -> str:
        async with aiohttp.ClientSession() as session:
            return (await ask_prompt(session, url, model=model, messages=messages, **more)).text  # type: ignore[arg-type]

    return asyncio.run(main())


@pytest.mark.parametrize("messages", CHATS.values(), ids=CHATS)
def test_what_llama_cpp_renders_is_what_we_compute_from_the_models_own_file(
    llama_server: LlamaProcess, smollm2: Path, messages: list[Message]
) -> None:
    header = read_header(smollm2)
    template = header.text("tokenizer.chat_template")
    with TemplateSandbox() as sandbox:
        computed = sandbox.render(template, messages, bos_token=header.token("bos"), eos_token=header.token("eos"))
    assert ask(llama_server.url, llama_server.model, messages) == computed


def test_the_default_system_message_of_smollm2_is_its_templates_own(llama_server: LlamaProcess) -> None:
    prompt = ask(llama_server.url, llama_server.model, CHATS["one question"])
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


def test_lm_studio_is_asked_over_its_sdk() -> None:
    async def main() -> None:
        async with running() as server, aiohttp.ClientSession() as session:
            tools = (Tool("add", "adds", '{"type": "object"}'),)
            model = server.look.engine.models[0].key
            await post(
                server, "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "load"}]}
            )
            asked = await ask_prompt(session, server.url, model=model, messages=CHATS["several turns"], tools=tools)
            assert asked.how == "applyPromptTemplate"
            assert "<|im_start|>assistant\nsur une toile d'araignée<|im_end|>" in asked.text
            assert '"name": "add"' in asked.text
            with pytest.raises(CannotAskError, match="No model found"):
                await ask_prompt(session, server.url, model="nobody", messages=CHATS["one question"])

    asyncio.run(main())


@pytest.mark.parametrize(("status", "is_ever"), [(b"404 Not Found", True), (b"500 Internal Server Error", False)])
def test_a_server_that_knows_no_templates_is_told_from_a_template_that_refuses(
    upstream: RawServer, status: bytes, is_ever: bool
) -> None:
    upstream.begin(lambda connection, _: connection.send(length_response(b"no", status=status)))
    with pytest.raises(CannotAskError, match=f"status {status[:3].decode()}") as caught:
        ask(upstream.url, "m", CHATS["one question"])
    assert caught.value.is_ever == is_ever


def test_a_history_has_calls_and_results_in_the_sdks_form() -> None:
    call = Part(PartKind.TOOL_CALL, '{"a": 1}', name="add", id="c1")
    result = Part(PartKind.TOOL_RESULT, "3", id="c1")
    history = sdk_history([Message("assistant", (Part(PartKind.TEXT, "so"), call)), Message("user", (result,))])
    request = {"type": "function", "name": "add", "arguments": {"a": 1}, "id": "c1"}
    assert history["messages"] == [
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "so"}, {"type": "toolCallRequest", "toolCallRequest": request}],
        },
        {"role": "tool", "content": [{"type": "toolCallResult", "content": "3", "toolCallId": "c1"}]},
    ]
