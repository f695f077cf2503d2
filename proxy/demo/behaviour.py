"""How the lookalike behaves where LM Studio has a setting, differs between versions, or is not known for sure.

Every field is a switch with LM Studio's most likely behaviour as its default. The comment names the source in LM
Studio's documentation, SDKs or issue tracker, and how sure it is: D official documentation, S source of an official
SDK, R a real capture in an issue, T measured by third parties, U unconfirmed.
"""

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from proxy.errors import ProxyLogError

Overflow = Literal["stopAtLimit", "truncateMiddle", "rollingWindow"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """Settings of the server, then its uncertain sides."""

    auth: bool = False
    """Ask for an API token. D: authentication.mdx, since 0.4.0, off by default."""
    tokens: tuple[str, ...] = ("sk-lm-demo0001:abcdefghij0123456789",)
    """Tokens that are let in with `auth`. S: the syntax, lmstudio-python json_api.py."""
    cors: bool = False
    """Add `Access-Control-Allow-Origin` and `-Headers`. D: settings.md, off by default; R: which ones."""
    jit: bool = True
    """A request that names an unloaded model loads it. D: settings.md."""
    jit_ttl_s: float = 3600.0
    """Idle time after which a model loaded that way is unloaded. D: ttl-and-auto-evict.md, 60 minutes."""
    jit_keeps_last_only: bool = True
    """Such a load evicts the former one. D: settings.md."""
    parallel: int = 4
    """Predictions of one instance at the same time; others wait. S: llm.load.numParallelSessions."""
    context_length: int = 2048
    """Of a load that does not name one. S: schema default of llm.load.contextLength."""
    mcp_per_request: bool = False
    """Allow MCP servers named in a request. D: settings.md."""
    mcp_local_addresses: bool = False
    """Allow them at private or local addresses. R: tracker#2161: they are refused."""
    mcp_file: str = ""
    """An mcp.json (Cursor's notation) whose servers may be called; needs `auth`. D: mcp.mdx; empty: not allowed."""
    version: str = "0.4.21"
    """Of the application. R: issues; surfaces that came later than it answer as unknown routes. D: api-changelog.md."""
    build: int = 2

    overflow: Overflow | Literal["refuse"] = "refuse"
    """A prompt longer than the context, over HTTP. R: refused in most versions; some cut silently (a policy)."""
    overflow_message: Literal["input", "request", "keep", "n_keep", "prompt"] = "input"
    """Which words. R: `input` 0.4.21 (tracker#2322), the others 0.3.x; T: `request`, an engine of 2026."""
    overflow_in_stream: Literal["event", "status", "silent"] = "event"
    """In a stream: an error event after the head (R: goose#11318), a 400, or an empty stream (R: tracker#2339)."""
    sdk_overflow: Overflow = "truncateMiddle"
    """The SDK's policy where a call names none. S: schema default."""
    done_after_error: bool = False
    """`[DONE]` follows an error event of /v1/chat/completions. U."""
    done_after_responses: bool = False
    """`[DONE]` ends a stream of /v1/responses. U."""
    v0_stats: Literal["finish", "extra"] = "finish"
    """v0 streams: statistics on the chunk with the finish_reason, or on one more without choices. T: both were seen."""
    total_time: Literal["generation", "whole"] = "generation"
    """`totalTimeSec` without or with the time to first token. T: four captures without, one of Sep 2026 with."""
    length_counts_one_less: bool = False
    """A length stop reports one token less than were generated. R: docs sample 10 -> 9, tracker#2335 on 0.4.22."""
    reasoning_field: Literal["reasoning_content", "reasoning", "content"] = "reasoning_content"
    """Where /v1 puts reasoning; `content`: left between its tags. D: api-changelog.md 0.3.9 and 0.3.23."""
    developer_role: bool = False
    """The role `developer` is taken as `system`. R: tracker#669: refused in 0.3.x; U since."""
    v1_models_by_id: bool = True
    """`GET /v1/models/{id}` works. T: one report; undocumented."""
    unknown_v1_is_404: bool = False
    """Unknown paths below /api/v1 give 404 instead of 200. T: one build of Aug 2026."""
    request_overrides_model: bool = True
    """A request's parameters win over the model's defaults. Implied by layer names in the SDK; not stated for HTTP."""
    preset_scope: Literal["all", "structured"] = "all"
    """What of a preset named over HTTP has an effect. R: tracker#1389: the structured output only, in 0.3.39."""
    load_without_model: bool = True
    """A request without `model` is answered by the loaded one; otherwise refused. U."""
    anthropic_input_tokens: Literal["start", "delta"] = "start"
    """Where a stream of /v1/messages tells them. U."""
    prediction_log: bool = True
    """`llm.prediction.*` events are sent. T: silent on one machine, default elsewhere."""
    swap_outputs: bool = False
    """Output events of concurrent predictions come in swapped order. T: seen in one of two runs."""
    diagnostics: bool = True
    """/diagnostics is served on this port. T: by one third-party client; another did not find it."""
    head_at_first_token: bool = False
    """A stream's head waits for the first token. U."""
    usage_details: bool = False
    """`usage.completion_tokens_details.reasoning_tokens` on /v1/chat/completions. T: newer versions."""
    closes_after_chat_end: bool = True
    """A v1 stream's body ends at once after `chat.end`. T: some servers keep it open."""

    def has(self, version: str) -> bool:
        """Whether the imitated application is at least of that version."""
        return _numbers(self.version) >= _numbers(version)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def with_switches(behaviour: Behaviour, switches: dict[str, str]) -> Behaviour:
    """A copy with fields set from text, as the command line gives them.

    Raises:
        ProxyLogError: there is no such switch, or it does not take that value.
    """
    hints = get_type_hints(Behaviour)
    values: dict[str, Any] = {}
    for name, text in switches.items():
        if name not in hints:
            names = ", ".join(field.name for field in fields(Behaviour))
            raise ProxyLogError(f"there is no switch {name!r}; there are: {names}")
        values[name] = _parse(name, hints[name], text)
    return replace(behaviour, **values)


def _parse(name: str, hint: Any, text: str) -> Any:
    if hint is bool:
        if text.lower() not in ("on", "off", "true", "false"):
            raise ProxyLogError(f"{name} is on or off, not {text!r}")
        return text.lower() in ("on", "true")
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            raise ProxyLogError(f"{name} is a number, not {text!r}") from None
    allowed = _choices(hint)
    if allowed and text not in allowed:
        raise ProxyLogError(f"{name} is one of {', '.join(allowed)}, not {text!r}")
    return tuple(text.split(",")) if get_origin(hint) is tuple else text


def _choices(hint: Any) -> list[str]:
    """The strings that a Literal, or a union of them, allows."""
    found: list[str] = []
    for argument in get_args(hint):
        found += [argument] if isinstance(argument, str) else _choices(argument)
    return found
