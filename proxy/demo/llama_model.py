"""A model that llama.cpp has loaded: its HTTP API behind the engine's interface."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NoReturn

import aiohttp

from proxy.demo.chat_template import render
from proxy.demo.engine import EngineError, Message, Model, Sampling, Step
from proxy.demo.gguf_facts import GgufFacts
from proxy.demo.llama_process import LlamaProcess
from proxy.demo.llama_stream import LlamaStream, error_of, events_of

_ENDING_S = 2.0
"""How long after its connection broke a process may still be there although it is ending."""
_SUBSCHEMAS = ("items", "prefixItems", "additionalProperties", "anyOf", "oneOf")
"""Members of a JSON schema that are schemas of whole values; those of `allOf` are parts of one."""
_NEUTRAL: dict[str, Any] = {
    # A model's file may bring sampling settings of its own; nothing is in force that nobody asked for.
    "dynatemp_range": 0.0,
    "top_n_sigma": -1.0,
    "typical_p": 1.0,
    "xtc_probability": 0.0,
    "dry_multiplier": 0.0,
    "mirostat": 0,
}


def sampling_settings(sampling: Sampling) -> dict[str, Any]:
    """What llama.cpp calls it; what is off gets the value that does nothing."""
    settings: dict[str, Any] = {
        **_NEUTRAL,
        "temperature": sampling.temperature,
        "top_k": max(sampling.top_k, 0),
        "top_p": _or(sampling.top_p, 1.0),
        "min_p": _or(sampling.min_p, 0.0),
        "repeat_penalty": _or(sampling.repeat_penalty, 1.0),
        "presence_penalty": _or(sampling.presence_penalty, 0.0),
        "frequency_penalty": _or(sampling.frequency_penalty, 0.0),
        "logit_bias": [[token, bias] for token, bias in sampling.logit_bias],
        "stop": [stop for stop in sampling.stop if stop],  # an empty one stops at once
        "n_predict": _or(sampling.max_tokens, -1),
    }
    if sampling.seed is not None:  # otherwise the one that the model was loaded with, or any
        settings["seed"] = sampling.seed & 0xFFFFFFFF
    if sampling.grammar is not None:
        settings["grammar"] = sampling.grammar  # with a schema beside it, llama.cpp heeds the grammar
    elif sampling.json_schema is not None:
        settings["json_schema"] = closed_schema(sampling.json_schema)
    return settings


def closed_schema(schema: Any) -> Any:
    """The same without members that it does not name, unless it allows them: small models never stop adding some."""
    if isinstance(schema, list):
        return [closed_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: closed_schema(one) if name in _SUBSCHEMAS else one for name, one in schema.items()}
    for name in ("properties", "$defs", "definitions"):
        if isinstance(schema.get(name), dict):
            closed[name] = {key: closed_schema(one) for key, one in schema[name].items()}
    is_open = "properties" not in schema or "patternProperties" in schema or "allOf" in schema
    return closed if is_open else {"additionalProperties": False, **closed}


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


class LlamaModel:
    """A model in a llama.cpp process of its own; a `LoadedModel`. `connect` makes it."""

    def __init__(
        self,
        model: Model,
        facts: GgufFacts,
        process: LlamaProcess,
        session: aiohttp.ClientSession,
        props: dict[str, Any],
        *,
        load_config: dict[str, Any],
    ) -> None:
        self.model = model
        self.pid = process.pid
        self.load_config = load_config
        self.context_length: int = props["default_generation_settings"]["n_ctx"]
        self._facts = facts
        self._process = process
        self._session = session
        self._bos_token = str(props.get("bos_token") or facts.bos_token)
        self._eos_token = str(props.get("eos_token") or facts.eos_token)
        self._unloaded = False

    @classmethod
    async def connect(
        cls, model: Model, facts: GgufFacts, process: LlamaProcess, *, load_config: dict[str, Any]
    ) -> "LlamaModel":
        """Make friends with a process that listens, and was started with this configuration.

        Raises:
            EngineError: it does not answer as it should; the process is left as it is.
        """
        session = aiohttp.ClientSession(
            process.url,
            connector=aiohttp.TCPConnector(limit=0, force_close=True),  # llama.cpp closes them after a stream anyway
            timeout=aiohttp.ClientTimeout(),  # a long prompt may take longer than any limit
        )
        try:
            async with session.get("/props") as response:
                return cls(model, facts, process, session, await response.json(), load_config=load_config)
        except BaseException as error:
            await session.close()
            if isinstance(error, aiohttp.ClientError | ValueError | KeyError):
                raise EngineError(f"llama.cpp does not answer: {error}", kind="load") from error
            raise

    async def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        template: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt; llama.cpp renders the model's own template, another one is rendered here: it takes none."""
        if template is not None:
            tokens = {"bos_token": self._bos_token, "eos_token": self._eos_token}
            return render(template, messages, tools=tools, variables=variables, **tokens)
        request: dict[str, Any] = {"messages": list(messages), "chat_template_kwargs": dict(variables or {})}
        if tools:
            request["tools"] = list(tools)
        try:
            prompt: str = (await self._post("/apply-template", request))["prompt"]
        except EngineError as error:
            if error.kind == "failed":
                raise EngineError(str(error), kind="template") from error
            raise
        return prompt

    async def tokenize(self, text: str) -> list[int]:
        """Tokens of a text."""
        request = {"content": _utf8(text), "add_special": False, "parse_special": True}
        tokens: list[int] = (await self._post("/tokenize", request))["tokens"]
        return tokens

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        text: str = (await self._post("/detokenize", {"tokens": list(tokens)}))["content"]
        return text

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> AsyncGenerator[Step, None]:
        """Generate; llama.cpp stops within a batch or a token when the connection closes."""
        if self.model.type == "embedding":
            raise EngineError(f"{self.model.key} is an embedding model, it generates no text")
        self._require_alive()
        request = {
            **sampling_settings(sampling),
            "prompt": list(prompt),
            "stream": True,
            "return_tokens": True,
            "return_progress": True,
            "timings_per_token": True,
            "cache_prompt": True,
        }
        stream = LlamaStream(
            control_tokens=self._facts.control_tokens, tokenize=self.tokenize, detokenize=self.detokenize
        )
        log_at = self._process.log.stat().st_size
        is_checked = sampling.grammar is None and sampling.json_schema is None
        try:
            async with self._session.post("/completion", data=_json(request), headers=_JSON) as response:
                if response.status != 200:
                    raise error_of(await response.json())
                async with aclosing(events_of(response.content.iter_any())) as events:
                    async for event in events:
                        if not is_checked and "prompt_progress" not in event:
                            self._require_grammar(log_at)
                            is_checked = True
                        for step in await stream.steps(event):
                            yield step
        except (aiohttp.ClientError, ValueError, KeyError, ConnectionError, RuntimeError) as error:
            # RuntimeError: the session was closed, by unload
            await self._explain(error)
        if not stream.is_finished:
            await self._explain(EOFError("its answer ended too early"))

    def _require_grammar(self, log_at: int) -> None:
        """llama.cpp generates freely where it cannot compile a schema, and says so in its log alone."""
        with self._process.log.open("rb") as log:
            log.seek(log_at)
            _, found, problem = log.read().decode(errors="replace").partition("llg error: ")
        if found:
            raise EngineError(f"Invalid grammar or JSON schema: {problem.splitlines()[0]}")

    async def embed(self, text: str) -> tuple[list[float], int]:
        """The mean over the tokens' vectors, of length 1."""
        request = {"input": _utf8(text), "model": self.model.key, "encoding_format": "float"}
        answer = await self._post("/v1/embeddings", request)
        return answer["data"][0]["embedding"], answer["usage"]["prompt_tokens"]

    async def unload(self) -> None:
        """End the process."""
        self._unloaded = True
        await self._session.close()
        await asyncio.to_thread(self._process.stop)

    def ended(self) -> str | None:
        """How the process ended."""
        if self._unloaded:
            return "unloaded"
        how = self._process.ended()
        return how and f"llama.cpp {how}"

    def _require_alive(self) -> None:
        if how := self.ended():
            raise EngineError(f"The model is gone: {how}", kind="crashed")

    async def _post(self, path: str, request: dict[str, Any]) -> Any:
        self._require_alive()
        try:
            async with self._session.post(path, data=_json(request), headers=_JSON) as response:
                answer = await response.json()
                if response.status != 200:
                    raise error_of(answer)
                return answer
        except (aiohttp.ClientError, ValueError, ConnectionError, RuntimeError) as error:
            await self._explain(error)

    async def _explain(self, error: Exception) -> NoReturn:
        """Say whether the process is gone, or why else it did not answer."""
        for _ in range(int(_ENDING_S / 0.02)):
            self._require_alive()
            if not isinstance(error, aiohttp.ClientError | ConnectionError | EOFError):
                break
            await asyncio.sleep(0.02)  # the connection breaks a moment before the process is gone
        raise EngineError(f"llama.cpp did not answer: {error or type(error).__name__}") from error


_JSON = {"Content-Type": "application/json"}


def _json(request: dict[str, Any]) -> bytes:
    return json.dumps(request).encode()


def _utf8(text: str) -> str:
    """The text without halves of surrogate pairs, which llama.cpp's JSON reader refuses."""
    return text.encode("utf-8", "replace").decode()
