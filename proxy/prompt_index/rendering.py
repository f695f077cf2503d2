"""The second step of finding prompts: what no log told is asked of the server, else computed from the template.

Where the prompt is known and a template of the model, too, it is computed all the same: if both are equal, it was that
template; if not, both are kept, to be compared.

Only calls of the last minute are asked for: later the server may have another model loaded. Servers that do not answer
are left alone for a while. Templates are strangers' programs: they run in a process of their own.
"""

import asyncio
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

import aiohttp

from proxy.exchange import Side
from proxy.meaning import Message, PromptSource
from proxy.prompt.asked import CannotAskError, ask_prompt
from proxy.prompt.model_files import ModelFiles
from proxy.prompt.refusals import read_refusal
from proxy.prompt.sandbox import TemplateFailedError, TemplateSandbox
from proxy.store.call_inputs import CallInput, CallInputs
from proxy.store.courtesy import politely
from proxy.store.prompts import ALIGN, RENDER, PromptRows
from proxy.store.trace import Trace

AT_ONCE = 16
ASK_WITHIN_US = 60_000_000
"""How long after a call's end its server is asked."""
ASK_AGAIN_S = 60.0
"""How long a server that did not answer is left alone."""
FAILED_S = 600.0
"""How long a template that took too long is not tried again."""
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_TEMPLATE_COMES_S = 3.0
_COSTLY = ("template_timed_out", "template_crashed")
_PATIENCE_S = 10.0
_CONFIDENCE = {PromptSource.ASKED: 0.9, PromptSource.COMPUTED: 0.7}
"""Asked: the server's settings may be others by now. Computed: it may use another template, or other variables."""
_TRUST = "'request', 'effective', 'override', 'model_default', 'props', 'gguf', 'tokenizer'"
_TEMPLATE = f"""
SELECT t.id, t.text, s.source, s.detail, s.bos_token, s.eos_token
FROM read_template_sources s JOIN read_templates t ON t.id = s.template_id
WHERE s.upstream_url = :url AND s.model = :model AND s.source NOT IN ('request', 'effective')
ORDER BY instr("{_TRUST}", s.source), max(s.first_at_us - :at_us, :at_us - s.last_at_us, 0), s.last_at_us DESC
LIMIT 1"""
"""The server's own, and of several that which was in force at the call's time, or nearest to it."""
_MODEL_PATH = """
SELECT model_path FROM engine_events WHERE model = ? AND model_path IS NOT NULL ORDER BY id DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class PromptSettings:
    """How prompts are found where no log tells them."""

    ask: bool = True
    """Ask servers: requests of our own."""
    token: str = ""
    """LM Studio's API token: two halves with a colon between them."""
    lmstudio_home: str = ""
    """LM Studio's folder; empty: where it is as a rule."""

    @property
    def credentials(self) -> tuple[str, str] | None:
        """What a WebSocket of LM Studio's SDK says first; None: as a guest."""
        identifier, _, passkey = self.token.partition(":")
        return (identifier, passkey) if passkey else None


@dataclass(frozen=True, slots=True)
class _Template:
    """A template that a call's prompt may be computed with."""

    id: int | None
    text: str
    source: str
    detail: str | None
    bos_token: str
    eos_token: str


@dataclass(frozen=True, slots=True)
class Rendered:
    """What was found for a call."""

    call: CallInput
    source: PromptSource | None = None
    """None: nothing was."""
    text: str = ""
    note: str | None = None
    template: _Template | None = None
    problem: tuple[str, str] | None = None
    """Kind and detail."""
    confidence: float = 0.0
    computed: "Rendered | None" = None
    """The same from the template, to be compared."""


class PromptRendering:
    """The second step, for one trace. Transactions are the caller's."""

    def __init__(self, connection: sqlite3.Connection, settings: PromptSettings, trace: Trace) -> None:
        """`trace` reads bodies, through the same connection."""
        self._connection = connection
        self._rows = PromptRows(connection)
        self._inputs = CallInputs(connection)
        self._settings = settings
        self._trace = trace
        self._sandbox = TemplateSandbox()
        self._files = ModelFiles.find(settings.lmstudio_home)
        self._silent_until: dict[str, float] = {}
        self._template_until: dict[tuple[str, str], float] = {}
        """By server and model: how long its template may be on its way (see `proxy.snapshots`)."""
        self.has_waiting = False
        """Something is to be looked at again soon, though nothing new was stored."""
        self._failed: dict[str, tuple[float, tuple[str, str]]] = {}
        """Templates that took too long: until when they are not tried, and what to say."""

    def close(self) -> None:
        """End the process in which templates run."""
        self._sandbox.close()

    def plan(self) -> list[Rendered]:
        """Find the prompts of some calls, without writing."""
        found = [self._inputs.get(call_id) for call_id in self._rows.waiting(RENDER, AT_ONCE)]
        calls = [call for call in found if call is not None]
        ready = [call for call in calls if not self._is_template_coming(call)]
        self.has_waiting = len(ready) < len(calls)
        return [self._render(call) for call in politely(ready)]

    def _is_template_coming(self, call: CallInput) -> bool:
        """Whether its server is just being asked for the template, by another thread: so for a model's first calls."""
        url = call.upstream_url
        if not self._settings.ask or not url or call.operation != "chat" or self._is_old(call):
            return False
        until = self._template_until.setdefault((url, _model(call)), time.monotonic() + _TEMPLATE_COMES_S)
        return time.monotonic() < until and self._template(call) is None

    def write(self, plan: list[Rendered]) -> int:
        """Store what was found; gives of how many calls."""
        for one in plan:
            for each in filter(None, (one, one.computed)):
                if each.problem is not None:
                    self._rows.problem(each.call.id, *each.problem)
                if each.source is not None:
                    self._put(each, each.source)
            self._rows.pass_on(one.call.id, ALIGN)  # without a prompt there is still the window
        return len(plan)

    def _put(self, one: Rendered, source: PromptSource) -> None:
        template_id = self._template_id(one)
        known = self._rows.best(one.call.id)
        if known is not None and source is PromptSource.COMPUTED is not known.source and known.text == one.text:
            assert template_id is not None
            self._rows.name_template(known.id, template_id)
            self._rows.take_away(one.call.id, PromptSource.COMPUTED)
            return
        self._rows.put_text(
            one.call.id,
            source,
            one.text,
            confidence=one.confidence,
            template_id=template_id,
            note=one.note,
            at_us=time.time_ns() // 1000,
        )

    def _template_id(self, one: Rendered) -> int | None:
        template = one.template
        if template is None or template.id is not None:
            return template.id if template is not None else None
        return self._rows.template(
            template.text,
            upstream_url=one.call.upstream_url or "",
            model=_model(one.call),
            source=template.source,
            detail=template.detail,
            at_us=time.time_ns() // 1000,
            bos_token=template.bos_token,
            eos_token=template.eos_token,
        )

    def _render(self, call: CallInput) -> Rendered:
        if self._is_refused(call):
            return Rendered(call)
        if call.operation == "completion":
            text = "".join(one.message.text for one in call.messages)
            note = "a completion: the prompt is the text that was sent"
            return Rendered(call, PromptSource.COMPUTED, text, note, confidence=1.0)
        messages = [one.message for one in call.messages]
        if not messages:
            return self._unknown(call, "the call has no messages")
        found: Rendered | str = Rendered(call)
        if not self._rows.has(call.id, PromptSource.OBSERVED) and not self._rows.has(call.id, PromptSource.ASKED):
            found = self._ask(call, messages)
        if isinstance(found, str):
            return self._compute(call, messages, found)
        is_comparable = self._template(call) is not None
        return replace(found, computed=self._compute(call, messages, "") if is_comparable else None)

    def _is_refused(self, call: CallInput) -> bool:
        """Whether it never came to a model, for another reason than its length: then there is no prompt.

        One that is too long has a prompt, whose tokens are of interest.
        """
        answer = self._inputs.answer(call.id)
        has_answer = answer is not None and any(part.text for part in answer[1].parts)
        is_too_long = any(read_refusal(error.message, error.kind, error.code) for error in call.errors)
        return bool(call.errors) and not has_answer and not is_too_long

    # --- asked --------------------------------------------------------------------------------------------------------

    def _ask(self, call: CallInput, messages: list[Message]) -> Rendered | str:
        """The prompt, or why it could not be asked for."""
        url = call.upstream_url or ""
        if why := self._why_not_ask(call):
            return why
        try:
            asked = asyncio.run(self._asked(url, call, messages))
        except CannotAskError as error:
            if error.is_ever:
                self._silent_until[url] = time.monotonic() + ASK_AGAIN_S
            return f"its server was asked in vain: {error}"
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
            self._silent_until[url] = time.monotonic() + ASK_AGAIN_S
            return f"its server could not be asked: {error or type(error).__name__}"
        confidence = _CONFIDENCE[PromptSource.ASKED]
        return Rendered(call, PromptSource.ASKED, *asked, confidence=confidence)

    def _why_not_ask(self, call: CallInput) -> str | None:
        if not self._settings.ask:
            return "asking servers is switched off (prompt.ask)"
        if self._is_old(call):
            return "the call is too old to ask its server"
        if time.monotonic() < self._silent_until.get(call.upstream_url or "", 0.0):
            return "its server does not apply templates when it is asked"
        return None if call.upstream_url else "it was not forwarded"

    @staticmethod
    def _is_old(call: CallInput) -> bool:
        return time.time_ns() // 1000 - call.ended_us > ASK_WITHIN_US

    async def _asked(self, url: str, call: CallInput, messages: list[Message]) -> tuple[str, str]:
        body = b"".join(self._trace.body(call.exchange_id, Side.CLIENT)) if call.dialect == "openai_chat" else None
        if body is not None and body.lstrip()[:1] != b"{":
            body = None  # compressed
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            asked = await ask_prompt(
                session,
                url,
                model=_model(call),
                messages=messages,
                tools=call.tools,
                body=body,
                credentials=self._settings.credentials,
            )
        return asked.text, f"asked by {asked.how}"

    # --- computed -----------------------------------------------------------------------------------------------------

    def _compute(self, call: CallInput, messages: list[Message], why_not_asked: str) -> Rendered:
        template = self._template(call)
        if template is None:
            detail = f"the engine's log has no prompt for it; {why_not_asked}; and no template of the model is known"
            return self._unknown(call, detail)
        failed = self._failed.get(template.text)
        if failed is not None and time.monotonic() < failed[0]:
            return Rendered(call, template=template, problem=failed[1])
        try:
            text = self._sandbox.render(
                template.text,
                messages,
                call.tools,
                bos_token=template.bos_token,
                eos_token=template.eos_token,
                variables=_variables(call),
            )
        except TemplateFailedError as error:
            problem = (error.kind, f"the template ({template.source}) could not be rendered: {error}")
            if error.kind in _COSTLY:  # no other call is to wait for it again
                self._failed[template.text] = (time.monotonic() + FAILED_S, problem)
            return Rendered(call, template=template, problem=problem)
        note = "; ".join(filter(None, (f"computed from the template ({template.source})", why_not_asked)))
        confidence = _CONFIDENCE[PromptSource.COMPUTED]
        return Rendered(call, PromptSource.COMPUTED, text, note, template=template, confidence=confidence)

    @staticmethod
    def _unknown(call: CallInput, detail: str) -> Rendered:
        """Nothing was found; of a call that failed that is no news."""
        return Rendered(call, problem=None if call.errors else ("prompt_unknown", detail))

    def _template(self, call: CallInput) -> _Template | None:
        """The template that most likely was in force."""
        for origin in ("effective", "request", "model_default"):
            text = _jinja(call.parameters.get(("prompt_template", origin)))
            if text is not None:
                detail = f"of call {call.id}"
                known = self._known(call)
                tokens = (known.bos_token, known.eos_token) if known is not None else ("", "")
                return _Template(None, text, origin, detail, *tokens)
        return self._known(call) or self._from_file(call)

    def _known(self, call: CallInput) -> _Template | None:
        for model in call.models:
            where = {"url": call.upstream_url or "", "model": model, "at_us": call.ended_us}
            row = self._connection.execute(_TEMPLATE, where).fetchone()
            if row is not None:
                return _Template(row[0], row[1], row[2], row[3], row[4] or "", row[5] or "")
        return None

    def _from_file(self, call: CallInput) -> _Template | None:
        """From the model's own file on this machine."""
        paths = [call.model_path]
        for model in call.models:
            row = self._connection.execute(_MODEL_PATH, (model,)).fetchone()
            paths.append(row[0] if row is not None else None)
        if urlsplit(call.upstream_url or "").hostname in _THIS_MACHINE:  # only then its models are here
            paths += [self._files.path_of(model) for model in call.models]
        for path in filter(None, paths):
            facts = self._files.template(path)
            if facts is not None:
                return _Template(None, facts.text, facts.source, facts.detail, facts.bos_token, facts.eos_token)
        return None


def _model(call: CallInput) -> str:
    return call.models[0] if call.models else ""


def _jinja(value: object) -> str | None:
    """The template's text in a setting `prompt_template`: Jinja as text, or in LM Studio's object."""
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Mapping) and value.get("type") == "jinja":
        inner = value.get("jinjaPromptTemplate")
        text = inner.get("template") if isinstance(inner, Mapping) else None
        return text if isinstance(text, str) else None
    return None


def _variables(call: CallInput) -> dict[str, object]:
    """What a request tells its template besides: `chat_template_kwargs`, and whether it may think."""
    told = call.parameters.get(("chat_template_kwargs", "request"))
    variables = dict(told) if isinstance(told, Mapping) else {}
    thinking = call.parameters.get(("enable_thinking", "request"))
    if isinstance(thinking, bool):
        variables.setdefault("enable_thinking", thinking)
    return variables
