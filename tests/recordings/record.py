"""Records the cases anew: real clients, a real `proxy-log serve`, behind it the lookalike or llama.cpp's own server.

`python -m tests.recordings.record FOLDER [--node CLIENTS] [SCENE ...]`; `CLIENTS` is a folder in which the packages of
`tests/demo/clients/node/package.json` are installed. Cases that are there are written anew.
"""

import argparse
import contextlib
import dataclasses
import json
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anthropic
import lmstudio
import openai
from rich.console import Console

from proxy.demo.behaviour import Behaviour
from proxy.demo.engine import Engine
from proxy.demo.llama_engine import LlamaEngine
from proxy.demo.llama_process import LlamaProcess
from proxy.demo.lookalike import Lookalike
from proxy.demo.model import SMOLLM2, cache_folder, fetch_model
from proxy.demo.scripted_engine import ScriptedEngine
from proxy.demo.scripted_models import SCRIPTED_MODELS
from proxy.demo.server import LookalikeServer
from proxy.read.registry import Registry
from proxy.store.recordings import Recordings
from proxy.store.schema import open_for_reading
from tests.conftest import running
from tests.demo.clients.loop_thread import LoopThread
from tests.proxy_process import ProxyProcess, wait_until
from tests.recordings.capture import case_of, write_case

NODE_SCRIPTS = Path(__file__).parent.parent / "demo" / "clients" / "node"
_SLOW_S = 30.0
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PARAMETERS: Any = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: Any = {"name": "get_weather", "description": "The weather at a place", "parameters": PARAMETERS}
YES: Any = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """What a client talks to."""

    url: str
    llm: str
    embedder: str
    limit: int
    """Tokens of an answer: few of a real model, enough of a scripted one for its thought and its answer."""
    node: Path | None

    @property
    def openai(self) -> openai.OpenAI:
        """OpenAI's client."""
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="lm-studio", max_retries=0)

    @property
    def anthropic(self) -> anthropic.Anthropic:
        """Anthropic's client."""
        return anthropic.Anthropic(base_url=self.url, auth_token="lm-studio", max_retries=0)

    @property
    def lmstudio(self) -> lmstudio.Client:
        """LM Studio's client."""
        return lmstudio.Client(self.url.removeprefix("http://"))

    def curl(self, path: str, body: Any = None, *options: str) -> str:
        """What curl prints."""
        data = ["-H", "Content-Type: application/json", "-d", json.dumps(body)] if body is not None else []
        command = ["curl", "--silent", "--no-buffer", *data, *options, self.url + path]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=_SLOW_S).stdout

    def run_node(self, script: Path) -> None:
        """Run a script for Node among the clients."""
        assert self.node is not None
        for path in (*NODE_SCRIPTS.glob("*.mjs"), script):
            shutil.copy(path, self.node)
        settings = json.dumps({"llm": self.llm, "embedder": self.embedder, "cancels": False})
        subprocess.run(["node", script.name, self.url, settings], cwd=self.node, check=True, timeout=120)


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """What one client does, and which of its exchanges are kept."""

    stage: str
    client: str
    play: Callable[[Place], object]
    keep: Mapping[str, tuple[str, ...]]
    """Path to the names of cases, in order; "" leaves one out."""

    @property
    def name(self) -> str:
        """Of the function that plays it."""
        return self.play.__name__


SCENES: list[Scene] = []
ORIGINS = {
    "scripted": "before the lookalike with its scripted engine",
    "locked": "before the lookalike with its scripted engine, which asks for a token",
    "llama": f"before the lookalike with llama.cpp and {SMOLLM2.name}",
    "llamacpp": f"before llama.cpp's own server with {SMOLLM2.name}",
}


def scene(
    stages: str, client: str, **keep: tuple[str, tuple[str, ...]]
) -> Callable[[Callable[[Place], object]], Callable[[Place], object]]:
    """Declare a scene on each stage; `keep` gives (path, names) by any word."""

    def declare(play: Callable[[Place], object]) -> Callable[[Place], object]:
        SCENES.extend(Scene(stage, client, play, dict(keep.values())) for stage in stages.split())
        return play

    return declare


def _said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


# --- openai -----------------------------------------------------------------------------------------------------------

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"


@scene("scripted llama llamacpp", "openai", chat=(CHAT, ("plain", "streamed", "streamed-usage")))
def openai_chat(at: Place) -> None:
    """Plain and streamed, with and without usage."""
    asked: Any = {"model": at.llm, "messages": _said("Say hello."), "temperature": 0, "max_tokens": at.limit}
    with at.openai as sdk:
        sdk.chat.completions.create(**asked)
        list(sdk.chat.completions.create(**asked, stream=True))
        list(sdk.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))


@scene("scripted", "openai", chat=(CHAT, ("tools", "tools-result", "tools-streamed")))
def openai_tools(at: Place) -> None:
    """A tool is called, its result told; the call again as a stream."""
    tools: Any = [{"type": "function", "function": FUNCTION}]
    asked = _said("Please get_weather for me.")
    with at.openai as sdk:
        first = sdk.chat.completions.create(model=at.llm, messages=asked, tools=tools)
        message = first.choices[0].message
        assert message.tool_calls
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "It rains."}
        history: Any = [*asked, message.model_dump(exclude_none=True), result]
        sdk.chat.completions.create(model=at.llm, messages=history, tools=tools)
        list(sdk.chat.completions.create(model=at.llm, messages=asked, tools=tools, stream=True))


@scene("llama llamacpp", "openai", chat=(CHAT, ("schema",)))
def openai_schema(at: Place) -> None:
    """An answer that follows a schema."""
    schema: Any = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": YES}}
    with at.openai as sdk:
        sdk.chat.completions.create(
            model=at.llm, messages=_said("Is water wet?"), response_format=schema, temperature=0, max_tokens=32
        )


@scene("scripted", "openai", chat=(CHAT, ("image", "refused-format", "unknown-model")))
def openai_image_and_refusals(at: Place) -> None:
    """A picture in a message, and two requests that are refused."""
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    asked: Any = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    with at.openai as sdk:
        sdk.chat.completions.create(model="scripted-vl-2b", messages=asked)
        with contextlib.suppress(openai.APIStatusError):
            sdk.chat.completions.create(model=at.llm, messages=_said("hi"), response_format={"type": "json_object"})
        with contextlib.suppress(openai.APIStatusError):
            sdk.chat.completions.create(model="no-such-model", messages=_said("hi"))


@scene("llama llamacpp", "openai", text=("/v1/completions", ("plain", "streamed")))
def openai_completions(at: Place) -> None:
    """A text goes on."""
    asked: Any = {"model": at.llm, "prompt": "One, two, three,", "temperature": 0, "max_tokens": 6}
    with at.openai as sdk:
        sdk.completions.create(**asked)
        list(sdk.completions.create(**asked, stream=True))


@scene("scripted", "openai", of=("/v1/embeddings", ("two",)))
def openai_embeddings(at: Place) -> None:
    """Two texts."""
    with at.openai as sdk:
        sdk.embeddings.create(model=at.embedder, input=["first", "second"])


@scene("scripted llama", "openai", of=(RESPONSES, ("plain", "stateful-streamed")))
def openai_responses(at: Place) -> None:
    """The server keeps the chat."""
    asked: Any = {"model": at.llm, "temperature": 0, "max_output_tokens": at.limit}
    with at.openai as sdk:
        first = sdk.responses.create(input="Say hello.", instructions="Be brief.", **asked)
        list(sdk.responses.create(input="And again.", previous_response_id=first.id, stream=True, **asked))


@scene("scripted", "openai", of=(RESPONSES, ("tools", "tools-result-streamed")))
def openai_responses_tools(at: Place) -> None:
    """A tool is called; its result is told to the kept chat."""
    tools: Any = [{"type": "function", **FUNCTION}]
    with at.openai as sdk:
        first = sdk.responses.create(model=at.llm, input="Please get_weather for me.", tools=tools)
        (call,) = [item for item in first.output if item.type == "function_call"]
        result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "It rains."}]
        asked: Any = {"model": at.llm, "previous_response_id": first.id, "tools": tools}
        list(sdk.responses.create(input=result, stream=True, **asked))


@scene("scripted llamacpp", "openai", of=("/v1/models", ("models",)))
def openai_models(at: Place) -> None:
    """The list of models."""
    with at.openai as sdk:
        sdk.models.list()


# --- anthropic --------------------------------------------------------------------------------------------------------


@scene("scripted llama", "anthropic", of=(MESSAGES, ("plain", "streamed")))
def anthropic_messages(at: Place) -> None:
    """Plain and streamed."""
    asked: Any = {"model": at.llm, "max_tokens": at.limit, "messages": _said("Say hello.")}
    asked["extra_body"] = {"temperature": 0}
    with at.anthropic as sdk:
        sdk.messages.create(system="Answer briefly.", **asked)
        with sdk.messages.stream(**asked) as stream:
            list(stream)


@scene("scripted", "anthropic", of=(MESSAGES, ("tools-streamed", "tools-result")))
def anthropic_tools(at: Place) -> None:
    """A tool is called, its result told."""
    tools: Any = [{"name": "get_weather", "description": "The weather at a place", "input_schema": PARAMETERS}]
    asked = _said("Please get_weather for me.")
    with at.anthropic as sdk:
        with sdk.messages.stream(model=at.llm, max_tokens=256, messages=asked, tools=tools) as stream:
            first = stream.get_final_message()
        (call,) = [block for block in first.content if block.type == "tool_use"]
        history: Any = [
            *asked,
            {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "It rains."}]},
        ]
        sdk.messages.create(model=at.llm, max_tokens=256, messages=history, tools=tools)


# --- LM Studio's SDKs -------------------------------------------------------------------------------------------------


@scene("scripted llama", "lmstudio-py", llm=("/llm", ("respond",)))
def lmstudio_respond(at: Place) -> None:
    """Whole and as a stream."""
    config: Any = {"temperature": 0.0, "maxTokens": at.limit}
    with at.lmstudio as sdk:
        chat = lmstudio.Chat("Answer briefly.")
        chat.add_user_message("Say hello.")
        model = sdk.llm.model(at.llm)
        model.respond(chat, config=config)
        list(model.respond_stream("Say hello.", config=config))


@scene("scripted", "lmstudio-py", llm=("/llm", ("act",)), greeting=("/lmstudio-greeting", ("greeting",)))
def lmstudio_act(at: Place) -> None:
    """Two predictions, with the tool run in the client between them."""

    def get_weather(city: str) -> str:
        """Tell the weather at a place."""
        return f"It rains in {city}."

    with at.lmstudio as sdk:
        sdk.llm.model(at.llm).act("Please get_weather for me.", [get_weather])


@scene("llama", "lmstudio-py", llm=("/llm", ("complete-tokenize-load",)), embedding=("/embedding", ("embed",)))
def lmstudio_rest(at: Place) -> None:
    """A load, a text that goes on, a schema, tokens and the template; embeddings on a socket of their own."""
    with at.lmstudio as sdk:
        model = sdk.llm.load_new_instance(at.llm, "mine", config={"contextLength": 512})
        model.complete("One, two, three,", config={"temperature": 0.0, "maxTokens": 6})
        model.respond("Is water wet?", response_format=YES, config={"temperature": 0.0, "maxTokens": 24})
        model.tokenize("Chaos is a ladder.")
        model.count_tokens("Chaos is a ladder.")
        model.apply_prompt_template(lmstudio.Chat.from_history("User message 1"))
        model.get_load_config()
        sdk.llm.list_loaded()
        model.unload()
        sdk.embedding.model(at.embedder).embed("first")


@scene("scripted", "lmstudio-py", llm=("/llm", ("unknown-model",)), system=("/system", ("system",)))
def lmstudio_unknown(at: Place) -> None:
    """A model that is not there, and the list of those that are."""
    with at.lmstudio as sdk:
        sdk.list_downloaded_models()
        with contextlib.suppress(lmstudio.LMStudioServerError):
            sdk.llm.model("no-such-model")


@scene("scripted llama", "lmstudio-js", llm=("/llm", ("all",)))
def lmstudio_js(at: Place) -> None:
    """All that the script for tests does."""
    at.run_node(NODE_SCRIPTS / "lmstudio_sdk.mjs")


@scene("scripted llama", "lmstudio-js", log=("/diagnostics", ("log",)))
def lmstudio_js_log(at: Place) -> None:
    """LM Studio's log, while another socket asks."""
    at.run_node(Path(__file__).parent / "log.mjs")


@scene("scripted", "anythingllm", chat=(CHAT, ("", "leaves", "", "agent-leaves")), v0=("/api/v0/models", ("models",)))
def anythingllm(at: Place) -> None:
    """It leaves at the finish reason."""
    at.run_node(NODE_SCRIPTS / "anythingllm.mjs")


# --- curl -------------------------------------------------------------------------------------------------------------


@scene("scripted llama", "curl", chat=("/api/v0/chat/completions", ("plain", "streamed")))
def curl_v0_chat(at: Place) -> None:
    """LM Studio's REST, as it was."""
    asked = {"model": at.llm, "messages": _said("Say hello."), "temperature": 0, "max_tokens": at.limit}
    at.curl("/api/v0/chat/completions", asked)
    at.curl("/api/v0/chat/completions", {**asked, "stream": True})


@scene(
    "scripted",
    "curl",
    models=("/api/v0/models", ("models",)),
    text=("/api/v0/completions", ("completion",)),
    embedding=("/api/v0/embeddings", ("embedding",)),
)
def curl_v0_rest(at: Place) -> None:
    """The rest of it."""
    at.curl("/api/v0/completions", {"model": at.llm, "prompt": "One, two,", "temperature": 0, "max_tokens": 4})
    at.curl("/api/v0/embeddings", {"model": at.embedder, "input": "first"})
    at.curl("/api/v0/models")


@scene("scripted llama", "curl", chat=("/api/v1/chat", ("streamed-load", "stateful")))
def curl_v1_chat(at: Place) -> None:
    """LM Studio's REST, as it is: the first chat loads the model, the second goes on from it."""
    at.curl("/api/v1/models/unload", {"instance_id": at.llm})
    asked = {"model": at.llm, "input": "Say hello.", "temperature": 0, "max_output_tokens": at.limit}
    events = at.curl("/api/v1/chat", {**asked, "system_prompt": "Be brief.", "stream": True})
    response_id = json.loads(events.rpartition("data: ")[2])["result"]["response_id"]
    at.curl("/api/v1/chat", {**asked, "input": "And again.", "previous_response_id": response_id})


@scene(
    "scripted",
    "curl",
    chat=("/api/v1/chat", ("refused",)),
    models=("/api/v1/models", ("models",)),
    unload=("/api/v1/models/unload", ("unload", "unload-refused")),
    load=("/api/v1/models/load", ("load",)),
    download=("/api/v1/models/download", ("download",)),
)
def curl_v1_rest(at: Place) -> None:
    """The rest of it; nothing is downloaded, the lookalike only says so."""
    at.curl("/api/v1/chat", {"input": "No model is named.", "nonsense": 1})
    at.curl("/api/v1/models")
    at.curl("/api/v1/models/unload", {"instance_id": at.llm})
    at.curl("/api/v1/models/unload", {"instance_id": at.llm})
    at.curl("/api/v1/models/load", {"model": at.llm, "context_length": 256, "echo_load_config": True})
    at.curl("/api/v1/models/download", {"model": "ibm/granite-4-micro"})


@scene(
    "scripted",
    "curl",
    chat=(CHAT, ("overflow-streamed",)),
    unknown=("/chat/completions", ("unknown-path",)),
    favicon=("/favicon.ico", ("favicon",)),
    nonsense=("/api/v1/chat", ("nonsense",)),
)
def curl_odd(at: Place) -> None:
    """What goes wrong: too long a prompt within a stream, a wrong path, a body that is no JSON."""
    at.curl("/api/v1/models/unload", {"instance_id": at.llm})
    at.curl("/api/v1/models/load", {"model": at.llm, "context_length": 256})
    at.curl(CHAT, {"model": at.llm, "messages": _said("word " * 300), "stream": True})
    at.curl("/chat/completions", {"model": at.llm, "messages": _said("hi")})
    at.curl("/favicon.ico")
    at.curl("/api/v1/chat", None, "-d", "{not json", "-H", "Content-Type: application/json")
    at.curl("/api/v1/models/unload", {"instance_id": at.llm})


@scene("locked", "curl", chat=(CHAT, ("401",)), v1=("/api/v1/chat", ("401",)))
def curl_locked(at: Place) -> None:
    """Without a token."""
    at.curl(CHAT, {"model": at.llm, "messages": _said("hi")})
    at.curl("/api/v1/chat", {"model": at.llm, "input": "hi"})


@scene("locked", "lmstudio-py", llm=("/llm", ("refused",)))
def lmstudio_locked(at: Place) -> None:
    """Without a token."""
    # This version of the SDK expects another form of error, and fails at that.
    with contextlib.suppress(lmstudio.LMStudioError, ValueError), at.lmstudio as sdk:
        sdk.llm.list_loaded()


# --- llama.cpp --------------------------------------------------------------------------------------------------------


@scene(
    "llamacpp",
    "curl",
    text=("/completion", ("plain", "streamed", "overflow")),
    props=("/props", ("props",)),
    tokens=("/tokenize", ("tokenize",)),
    template=("/apply-template", ("apply-template",)),
    health=("/health", ("health",)),
    unknown=("/no-such-path", ("unknown-path",)),
)
def curl_llamacpp(at: Place) -> None:
    """llama.cpp's own endpoints."""
    asked = {"prompt": "One, two, three,", "n_predict": 6, "temperature": 0}
    at.curl("/completion", asked)
    at.curl("/completion", {**asked, "stream": True})
    at.curl("/completion", {**asked, "prompt": "word " * 1200})
    at.curl("/props")
    at.curl("/tokenize", {"content": "Chaos is a ladder.", "with_pieces": True})
    at.curl("/apply-template", {"messages": _said("Say hello.")})
    at.curl("/health")
    at.curl("/no-such-path")


# --- stages -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _before_lookalike(engine: Engine, folder: Path, behaviour: Behaviour) -> Iterator[ProxyProcess]:
    with LoopThread() as thread:
        server = LookalikeServer(Lookalike(engine, behaviour, model_defaults={"llm.prediction.temperature": 0}))
        thread.run(server.start())
        try:
            with running(folder, server.url) as proxy:
                yield proxy
        finally:
            thread.run(server.close())


@contextlib.contextmanager
def _open(stage: str, folder: Path) -> Iterator[tuple[ProxyProcess, str, str]]:
    """The proxy, a model, and one for embeddings. The current folder is `folder`: no other path is known to them."""
    llm, _, embedder = SCRIPTED_MODELS
    if stage in ("scripted", "locked"):
        behaviour = Behaviour(auth=stage == "locked")
        with _before_lookalike(ScriptedEngine(SCRIPTED_MODELS), folder, behaviour) as proxy:
            yield proxy, llm.key, embedder.key
        return
    file = fetch_model(cache_folder(), Console(quiet=True)).resolve()
    (folder / "models").mkdir(parents=True)
    model = Path("models") / file.name
    (folder / model).symlink_to(file)
    with contextlib.chdir(folder):
        if stage == "llama":
            engine = LlamaEngine([model], [SMOLLM2.name], log_folder=folder)
            with _before_lookalike(engine, folder, Behaviour()) as proxy:
                yield proxy, SMOLLM2.name, f"text-embedding-{SMOLLM2.name}"
        else:
            llama = LlamaProcess.start(model, model=SMOLLM2.name, log=folder / "engine.log", context_length=1024)
            with llama, running(folder, llama.url) as proxy:
                yield proxy, SMOLLM2.name, SMOLLM2.name


def _has_trace(proxy: ProxyProcess) -> bool:
    with contextlib.suppress(sqlite3.OperationalError):  # while it is being made, it cannot be read
        return bool(proxy.query("SELECT count(*) FROM exchanges"))
    return False


def _client_version(client: str) -> str:
    if client in ("openai", "anthropic"):
        return f"{client} {version(client)} for Python"
    if client == "lmstudio-py":
        return f"lmstudio {version('lmstudio')} for Python"
    packages = json.loads((NODE_SCRIPTS / "package.json").read_text())["dependencies"]
    if client == "lmstudio-js":
        return f"@lmstudio/sdk {packages['@lmstudio/sdk']} for JavaScript"
    if client == "anythingllm":
        return f"openai {packages['openai-4'].rpartition('@')[2]} for JavaScript as AnythingLLM uses it"
    line = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    return " ".join(line.split()[:2])


def _record(scene: Scene, proxy: ProxyProcess, place: Place, folder: Path) -> None:
    rows = proxy.query("SELECT max(id) FROM exchanges")
    before = rows[0][0] or 0 if rows else 0
    scene.play(place)
    sql = "SELECT id, forwarded_path, outcome FROM exchanges WHERE id > ? ORDER BY id"

    def has_ended() -> bool:
        rows = proxy.query(sql, before)
        paths = [row["forwarded_path"] for row in rows]
        is_all = all(paths.count(path) >= len(names) for path, names in scene.keep.items())
        return is_all and all(row["outcome"] for row in rows)

    wait_until(has_ended, "the exchanges have ended", _SLOW_S)
    names = {path: list(cases) for path, cases in scene.keep.items()}
    origin = f"{_client_version(scene.client)}, {ORIGINS[scene.stage]}"
    registry = Registry()
    with contextlib.closing(open_for_reading(proxy.trace)) as connection:
        recordings = Recordings(connection)
        for recording in recordings.get([row["id"] for row in proxy.query(sql, before)]):
            waiting = names.get(recording.head.path)
            name = waiting.pop(0) if waiting else ""
            if name:
                case = case_of(recordings, recording, origin)
                print(write_case(folder, f"{scene.stage}-{scene.client}-{name}", case, registry))
    assert not any(names.values()), f"{scene.name}: {names} did not come"


def main() -> None:
    """Play the scenes and write their cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.recordings.record", description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("scenes", nargs="*", metavar="SCENE", help=", ".join(dict.fromkeys(s.name for s in SCENES)))
    parser.add_argument(
        "--node", type=Path, help="where the clients for Node are installed; without, they are left out"
    )
    arguments = parser.parse_intermixed_args()
    for stage in ORIGINS:
        chosen = [
            one
            for one in SCENES
            if one.stage == stage
            and one.name in (arguments.scenes or (one.name,))
            and (arguments.node or one.client not in ("lmstudio-js", "anythingllm"))
        ]
        if chosen:
            with tempfile.TemporaryDirectory() as folder, _open(stage, Path(folder)) as (proxy, llm, embedder):
                wait_until(lambda proxy=proxy: _has_trace(proxy), "the trace is made")  # type: ignore[misc]
                place = Place(
                    proxy.url,
                    llm,
                    embedder,
                    40 if stage == "scripted" else 8,
                    arguments.node and arguments.node.resolve(),
                )
                for one in chosen:
                    _record(one, proxy, place, arguments.folder.resolve())


if __name__ == "__main__":
    main()
