"""How the lookalike behaves where LM Studio has a setting, differs between versions, or is not known for sure.

Every field is a switch with LM Studio's most likely behaviour as its default. The comment names the source in LM
Studio's documentation, SDKs or issue tracker, and how sure it is: D official documentation, S source of an official
SDK, R a real capture in an issue, T measured by third parties, U unconfirmed.
"""

import re
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
    options: Literal["unknown", "post", "empty"] = "unknown"
    """OPTIONS: answered as any unknown method, as a POST without a body, or by an empty 204. R: Subtitle-Translator#2,
    tracker#443; U: the last, and all of them with `cors`."""
    preflight_needs_token: bool = False
    """With `auth` and `cors`, OPTIONS needs a token as everything does. U: browsers send none with it."""
    catch_all_pretty: bool = False
    """The body for unknown routes is indented as others are. R: tracker#618: compact, by its length; T: indented."""
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
    """Of that version. R: issues."""

    overflow: Overflow | Literal["refuse"] = "refuse"
    """A prompt longer than the context, over HTTP. R: refused in most versions; some cut silently (a policy)."""
    overflow_message: Literal["input", "request", "keep", "n_keep", "prompt", "engine"] = "input"
    """Which words. R: `input` 0.4.21 (tracker#2322), the others 0.3.x; T: `request`, an engine of 2026, and `engine`,
    the same with its whole error object passed through."""
    context_full_status: Literal["400", "500"] = "400"
    """Of a prediction that runs out of context (`Context size has been exceeded`). R: both were seen."""
    load_failure_status: Literal["400", "404"] = "400"
    """Of a request whose model cannot be loaded. R: tracker#1202, the words inside; U: the status."""
    crash_status: Literal["400", "500"] = "400"
    """Of a request whose model crashes or is unloaded. R: tracker#1620; both were seen."""
    nothing_loaded: Literal["text", "object"] = "text"
    """The form of `No models loaded` where errors are plain text otherwise. R: lms#107, the words; U: the form."""
    overflow_in_stream: Literal["event", "status", "silent"] = "event"
    """In a stream: an error event after the head, a 400, or an empty stream. R: goose#11318; the last, tracker#2339."""
    sdk_overflow: Overflow = "truncateMiddle"
    """The SDK's policy where a call names none. S: schema default."""
    done_after_error: bool = False
    """`[DONE]` follows an error event of /v1/chat/completions. U."""
    crash_in_stream: Literal["end", "event", "cut"] = "end"
    """The model crashes behind the head of a stream of /v1: it just ends, an error event comes, or the connection is
    closed without the last chunk. R: tracker#1620: the first; U: the others."""
    template_error: Literal["engine", "render"] = "engine"
    """A template that fails: 500 in the engine protocol's words, or those of 0.3.x, in a stream as an error event. R:
    tracker#2218; the second, tracker#842 and zed#45379."""
    done_after_responses: bool = False
    """`[DONE]` ends a stream of /v1/responses. U."""
    responses_reasoning: Literal["deltas", "done"] = "deltas"
    """Streams of /v1/responses tell reasoning as it grows, or only by its `done` event. U; T: the latter, pi#4191."""
    responses_failure: Literal["failed", "error"] = "failed"
    """They end with `response.failed` or an `error` event where something fails. U."""
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
    min_p: bool = True
    """/v1 takes `min_p`. U: tracker#694 points to the documented list, which lacks it."""
    max_completion_tokens: bool = True
    """/v1 takes `max_completion_tokens` for `max_tokens`. U."""
    webp_images: bool = False
    """WebP is taken as an image. R: tracker#1027, #1752: refused."""
    embeddings_base64: bool = False
    """`encoding_format: base64` has an effect. U: AnythingLLM asks for it and reads numbers, clients take both."""
    embedding_usage: bool = False
    """Embeddings tell how many tokens the texts had. R: tracker#1546: zeros, as in the documentation's sample (D)."""
    lms_status: bool = True
    """`GET /lms-status` is answered on this port. S: on the SDK's own ports; U: on this one."""
    v1_models_by_id: bool = True
    """`GET /v1/models/{id}` works. T: one report; undocumented."""
    unknown_v1_is_404: bool = False
    """Unknown paths below /api/v1 give 404 instead of 200. T: one build of Aug 2026."""
    request_overrides_model: bool = True
    """A request's parameters win over the model's defaults. U: layer names in the SDK imply it; not stated for HTTP."""
    preset_scope: Literal["all", "structured"] = "all"
    """What of a preset named over HTTP has an effect. R: tracker#1389: the structured output only, in 0.3.39."""
    unknown_preset: Literal["ignored", "refused"] = "ignored"
    """A preset named over HTTP that is not there. U; S: over the SDK it is refused."""
    load_without_model: bool = True
    """A request without `model` is answered by the loaded one; otherwise refused. U."""
    unknown_model: Literal["refuse", "loaded"] = "refuse"
    """A model that is not there is refused, or the loaded one answers. U; R: tracker#1217: the latter was seen."""
    anthropic_input_tokens: Literal["start", "delta"] = "start"
    """Where a stream of /v1/messages tells them. U."""
    anthropic_ping: bool = False
    """Streams of /v1/messages have `ping` events. U: Anthropic's do; no documentation of LM Studio names them."""
    anthropic_thinking: Literal["always", "asked"] = "always"
    """Its answers have the model's reasoning whether or not the request has `thinking`. U."""
    anthropic_system_role: bool = False
    """`system` is a role inside `messages`. R: tracker#2204: refused by llmster; the desktop takes it since 0.4.15."""
    prediction_log: bool = True
    """`llm.prediction.*` events are sent. T: silent on one machine, default elsewhere."""
    swap_outputs: bool = False
    """Output events of concurrent predictions come in swapped order. T: seen in one of two runs."""
    sdk_auth_s: float = 10.0
    """A WebSocket's first frame must come within that time. S: AuthenticatedWsServer.ts."""
    sdk_compression: bool = False
    """WebSockets are compressed if the client offers it. S: WsServer.ts leaves ws's default, which never does."""
    sdk_late_frames: Literal["ignored", "warned"] = "ignored"
    """What a message to a finished channel brings. S: ServerPort.ts of Aug 2026 warns; older servers: U."""
    sdk_unloaded: Literal["success", "error"] = "success"
    """A model that is unloaded in the middle: `success` with `modelUnloaded`, or an error. S: both exist; which: U."""
    window: bool = False
    """POST /_demo/window types into an imagined window. Not LM Studio's: the demo's own, for its command line."""
    diagnostics: bool = True
    """/diagnostics is served on this port. T: by one third-party client; another did not find it."""
    head_at_first_token: bool = False
    """A stream's head waits for the first token. U."""
    usage_details: bool = False
    """`usage.completion_tokens_details.reasoning_tokens` on /v1/chat/completions. T: newer versions."""
    system_prompt_fails_with_previous: bool = False
    """/api/v1/chat gives 500 where both are in a request. R: tracker#2219."""
    context_length_reloads: bool = False
    """/api/v1/chat with another `context_length` than that of the loaded model loads it anew. U: or it is ignored."""
    download_bytes_per_second: float = 50e6
    """Of downloads, which are only imitated. U."""
    download_ends: Literal["completed", "failed", "paused"] = "completed"
    """How; the last two half-way. D: download-status.md, that there are these."""
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
    changed = replace(behaviour, **values)
    _check(changed)
    return changed


def _check(behaviour: Behaviour) -> None:
    if not re.fullmatch(r"\d+(\.\d+)*", behaviour.version):
        raise ProxyLogError(f"version is like 0.4.21, not {behaviour.version!r}")
    for name in ("parallel", "context_length", "jit_ttl_s", "sdk_auth_s", "download_bytes_per_second"):
        if not getattr(behaviour, name) > 0:
            raise ProxyLogError(f"{name} is more than 0, not {getattr(behaviour, name)}")


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
    allowed = choices(hint)
    if allowed and text not in allowed:
        raise ProxyLogError(f"{name} is one of {', '.join(allowed)}, not {text!r}")
    return tuple(text.split(",")) if get_origin(hint) is tuple else text


def choices(hint: Any) -> list[str]:
    """The strings that a Literal, or a union of them, allows."""
    found: list[str] = []
    for argument in get_args(hint):
        found += [argument] if isinstance(argument, str) else choices(argument)
    return found
