"""Experiments that settle, on a live server, whether a request's value of a setting is in force.

Each experiment sends requests that are equal but for one setting, through the proxy, so that all of it is recorded: the
tag `precedence:NAME` tells which setting, the session which run. What they show is drawn from the recordings by the
view `precedence_findings`; nothing is concluded here.

Facts (lmstudio-api.md 5.6, 7.1, 7.3)
-------------------------------------
* Over HTTP no answer of LM Studio tells the configuration in force. But of equal requests with a seed the answers are
  equal, so a difference is due to the setting. Values are far apart, so that they must show.
* Over the SDK's predict channel `success` tells the configuration in force, all layers merged.
  `ignoreServerSessionConfig` leaves the settings of the server's tab out.
* What can be switched off has the form `{"checked": true, "value": ...}`.
"""

import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp

from proxy.errors import ProxyLogError
from proxy.exchange import SESSION_FIELD, TAG_FIELD
from proxy.meaning import Json
from proxy.prompt.greeting import is_lm_studio
from proxy.prompt.sdk_socket import SdkRefusedError, open_socket, run_channel
from proxy.prompt.server_config import NotToldError, ask_settings
from proxy.read.json_fields import NotJsonError, decode_json
from proxy.read.lmstudio_sdk_config import NAMES

SETTINGS = ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens", "stop", "seed", "system_prompt")
"""What can be tried."""
TAG = "precedence"
"""Of the first request; those of an experiment have `precedence:` and the setting's name."""
REPEATS = 2
"""How often each value is asked for."""
_KEYS = {ours: key for key, ours in NAMES.items() if ours in SETTINGS}
_CHECKBOXES = frozenset(("top_p", "min_p", "repeat_penalty", "max_tokens", "seed"))
_QUESTION = "Tell me a short story about a fox and a crow."
_BASE: Mapping[str, Json] = {"temperature": 0, "seed": 1, "max_tokens": 24}
_SAMPLED: Mapping[str, Json] = {"temperature": 1.5}
_ANSWER_S = 300.0
_NEEDED = ("max_tokens",)
"""What is not left out for a try: an answer might have no end."""
_LEFT_OUT = object()


class ExperimentError(ProxyLogError):
    """It cannot be tried here; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """One setting with two values whose effects differ."""

    name: str
    values: tuple[Json, Json]
    also: Mapping[str, Json] = field(default_factory=dict)
    """Other settings, which both have."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was sent."""

    session: str
    """The session's name in the trace."""
    calls: int
    notes: tuple[str, ...]
    """What was left out, and why."""


def experiments(settings: Iterable[str], answer: str) -> list[Experiment]:
    """The experiments for these settings; `answer` is the model's to the question, from which stop strings are taken.

    `stop` is left out where the answer has too few words.
    """
    tried = {
        "temperature": Experiment("temperature", (0, 1.9)),
        "top_p": Experiment("top_p", (0.01, 1.0), _SAMPLED),
        "top_k": Experiment("top_k", (1, 100), _SAMPLED),
        "min_p": Experiment("min_p", (1.0, 0.0), _SAMPLED),
        "repeat_penalty": Experiment("repeat_penalty", (1.0, 1.9)),
        "max_tokens": Experiment("max_tokens", (4, 9)),
        "seed": Experiment("seed", (1, 2), _SAMPLED),
        "system_prompt": Experiment("system_prompt", ("Be brief.", "Be kind.")),
    }
    words = list(dict.fromkeys(re.findall(r"[A-Za-z]{3,}", answer)))
    places = {word: answer.index(word) for word in words}
    early, late = words[1:2], words[3:4]
    if early and late and places[early[0]] < places[late[0]]:
        tried["stop"] = Experiment("stop", ([early[0]], [late[0]]))
    return [tried[name] for name in settings if name in tried]


async def run_experiments(
    url: str,
    model: str,
    settings: Iterable[str] = SETTINGS,
    *,
    credentials: tuple[str, str] | None = None,
    tell: Callable[[str], object] = lambda _: None,
) -> Run:
    """Send everything through the proxy at `url`; `tell` hears what is going on.

    Raises:
        ExperimentError: nobody is there, or the server refuses the model or a request.
    """
    session_name = f"precedence {secrets.token_hex(4)}"
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S, connect=10.0)
    try:
        async with aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session:
            trial = _Trial(session, url, model, session_name, credentials)
            return await trial.run(list(settings), tell)
    except (aiohttp.ClientError, OSError, ValueError) as error:  # a TimeoutError is an OSError
        what = str(error) or type(error).__name__
        raise ExperimentError(
            f"nothing can be asked through {url}: {what}; is proxy-log serve running there?"
        ) from None


class _Trial:
    """One run."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: str,
        model: str,
        name: str,
        credentials: tuple[str, str] | None,
    ) -> None:
        self._session = session
        self._url = url
        self._model = model
        self._name = name
        self._credentials = credentials
        self._calls = 0
        self._notes: list[str] = []

    async def run(self, settings: list[str], tell: Callable[[str], object]) -> Run:
        answer = await self._ask(TAG, {})
        await self._ask_defaults()
        planned = experiments(settings, answer)
        if "stop" in settings and not any(one.name == "stop" for one in planned):
            self._notes.append("stop is left out: the model's answer has too few words to stop at")
        for one in planned:
            tell(f"{one.name} over HTTP")
            for value in one.values:
                for _ in range(REPEATS):
                    await self._ask(f"{TAG}:{one.name}", {**one.also, one.name: value})
            if one.name not in _NEEDED:
                await self._ask(f"{TAG}:{one.name}", one.also, without=one.name)
        if await is_lm_studio(self._session, self._url, fields=self._fields(TAG)):
            try:
                for one in planned:
                    tell(f"{one.name} over the SDK's WebSocket")
                    await self._predict(one)
            except (SdkRefusedError, TimeoutError) as error:
                self._notes.append(f"the SDK's WebSocket could not be tried: {error or 'no answer'}")
        return Run(self._name, self._calls, tuple(self._notes))

    def _fields(self, tag: str) -> dict[str, str]:
        return {TAG_FIELD: tag, SESSION_FIELD: self._name}

    async def _ask_defaults(self) -> None:
        """Have the server tell its settings through the proxy: what was told before may be of another start of it."""
        try:
            await ask_settings(self._session, self._url, self._model, credentials=self._credentials)
        except (NotToldError, SdkRefusedError, TimeoutError) as error:
            self._notes.append(f"the model's defaults are not told: {error or 'no answer'}")

    async def _ask(self, tag: str, changed: Mapping[str, Json], *, without: str = "") -> str:
        """A chat completion, `without` a setting that it has otherwise; gives its text.

        Raises:
            ExperimentError: it was refused.
        """
        asked = {name: value for name, value in {**_BASE, **changed}.items() if name != without}
        system = asked.pop("system_prompt", None)
        messages = [{"role": "system", "content": system}] if system is not None else []
        messages.append({"role": "user", "content": _QUESTION})
        body = {"model": self._model, "messages": messages, **asked}
        headers = self._fields(tag)
        if self._credentials is not None:
            headers["Authorization"] = f"Bearer {':'.join(self._credentials)}"
        async with self._session.post(f"{self._url}/v1/chat/completions", json=body, headers=headers) as response:
            raw = await response.read()
        try:
            answer = decode_json(raw)
        except NotJsonError:
            answer = None
        text = _text(answer)
        if response.status != 200 or text is None:
            said = answer.get("error") if isinstance(answer, dict) else raw[:200].decode("utf-8", "replace")
            said = said.get("message") if isinstance(said, dict) else said
            where = f"{self._url} does not answer for the model {self._model!r}"
            raise ExperimentError(f"{where} (status {response.status}): {said or 'no text'}")
        self._calls += 1
        return text

    async def _predict(self, one: Experiment) -> None:
        """Both values over the predict channel, once more without the settings of the server's tab, and without it."""
        fields = self._fields(f"{TAG}:{one.name}")
        async with open_socket(self._session, self._url, "llm", self._credentials, fields=fields) as socket:
            tries: list[tuple[Json, bool]] = [(value, False) for value in one.values] + [(one.values[0], True)]
            tries += [(_LEFT_OUT, False)] if one.name not in _NEEDED else []
            for number, (value, ignores) in enumerate(tries):
                changed: dict[str, Json] = {"max_tokens": 1, **one.also}
                changed |= {one.name: value} if value is not _LEFT_OUT else {}
                config = [{"key": _KEYS[name], "value": _form(name, asked)} for name, asked in changed.items()]
                content = [{"type": "text", "text": _QUESTION}]
                parameter = {
                    "modelSpecifier": {"type": "query", "query": {"identifier": self._model}},
                    "history": {"messages": [{"role": "user", "content": content}]},
                    "predictionConfigStack": {"layers": [{"layerName": "apiOverride", "config": {"fields": config}}]},
                    **({"ignoreServerSessionConfig": True} if ignores else {}),
                }
                await run_channel(socket, "predict", parameter, number=number, patience_s=_ANSWER_S)
                self._calls += 1


def _form(name: str, value: Json) -> Json:
    return {"checked": True, "value": value} if name in _CHECKBOXES else value


def _text(answer: Json) -> str | None:
    """The text of a chat completion, which may be empty; None if it is something else."""
    try:
        text = answer["choices"][0]["message"].get("content")
    except (TypeError, KeyError, IndexError, AttributeError):
        return None
    return text if isinstance(text, str) else ""
