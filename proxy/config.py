"""The settings: one frozen tree, read once by the command line; each part receives its own sub-tree.

`proxy.config_sources` reads them from where they are. Every field's docstring is its meaning for the user: the
reference in the documentation is made from it.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from proxy.secret import SECRET_BODY_FIELDS

APP_NAME = "proxy-log"
DEFAULT_UPSTREAM = "lmstudio"


class Address(NamedTuple):
    """A place to listen at."""

    host: str
    """A name or an IP address, without brackets."""
    port: int
    """0 lets the system choose one."""

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """The host and port of `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        ValueError: it is not of that form.
    """
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+(?:%\w+)?)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
    if not found or int(found[3]) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT; write for example localhost:8234, 0.0.0.0:8234 or [::1]:8234")
    return Address(found[1] or found[2], int(found[3]))


def _check_address(text: str) -> str:
    parse_address(text)
    return text


def _check_web(text: str) -> str:
    return text if text == "off" else _check_address(text)


def _check_url(text: str) -> str:
    example = "write for example http://localhost:1234"
    try:
        url = urlsplit(text)
        is_port_sound = url.port is None or url.port > 0
    except ValueError as error:
        raise ValueError(f"{text!r} is not a URL ({error}); {example}") from None
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} does not begin with http:// or https://; {example}")
    if not url.hostname or not is_port_sound or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r} names no host and port to connect to; {example}")
    if url.username is not None or url.password is not None:
        raise ValueError("a user name or password does not belong into an upstream's URL; clients send their own keys")
    if "?" in text or "#" in text:
        raise ValueError(f"{text!r} has a query or a fragment; an upstream's URL ends with its path")
    return text.rstrip("/")


def _check_url_or_empty(text: str) -> str:
    return _check_url(text) if text else ""


def _check_token(text: str) -> str:
    if text and not re.fullmatch(r"[\x21-\x39\x3b-\x7e]{1,256}:[\x21-\x39\x3b-\x7e]{1,256}", text):
        raise ValueError("this is no API token of LM Studio; one has two halves with a colon between: sk-lm-...:...")
    return text


def _check_prefix(text: str) -> str:
    if not re.fullmatch(r"/[\x21\x22\x24-\x3e\x40-\x7e]*", text):
        raise ValueError(f"{text!r} is not a path; write for example / or /openrouter")
    return text.rstrip("/") or "/"


def _check_origin(text: str) -> str:
    if text in ("*", "null") or re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/?#@]+", text):
        return text
    raise ValueError(f"{text!r} is not an origin; write for example http://localhost:3000 (no slash at the end) or *")


def _check_header_name(text: str) -> str:
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", text):
        raise ValueError(f"{text!r} is not the name of a header field; write for example x-api-key")
    return text.lower()


def _check_body_field(text: str) -> str:
    step = r"(\*|[^\s.\[\]*]+)(\[\])*"
    if not re.fullmatch(rf"{step}(\.{step})*", text) or not re.search(r"[^.\[\]*]", text):
        raise ValueError(
            f"{text!r} is not a path into JSON; write names with dots, [] for every element of an array and * for "
            "every field, for example tools[].headers.*"
        )
    return text


def _split(value: object) -> object:
    """A list given as one text, as the environment has to: JSON, or values with commas between them."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        import json  # noqa: PLC0415 - seldom needed, and nothing else in the front process needs it

        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a list in JSON: {error}") from None
    return [part.strip() for part in value.split(",") if part.strip()]


_Url = Annotated[str, AfterValidator(_check_url)]
_Origin = Annotated[str, AfterValidator(_check_origin)]
_HeaderName = Annotated[str, AfterValidator(_check_header_name)]
_BodyField = Annotated[str, AfterValidator(_check_body_field)]
_Bytes = Annotated[int, Field(gt=0)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Tree(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class UpstreamConfig(_Tree):
    """A server that requests are forwarded to."""

    url: _Url
    """Where it is: `http://` or `https://`, host, port and, if its API does not begin at `/`, a path."""
    prefix: Annotated[str, AfterValidator(_check_prefix)] = "/"
    """Requests whose path begins with it go there, without it and behind the path of `url`; the longest prefix wins."""
    session: str = ""
    """The session that calls by this prefix belong to: give each student or program a prefix of its own."""


class ForwardConfig(_Tree):
    """How requests are carried on."""

    connect_timeout_s: _Seconds = 5.0
    """How long connecting to the upstream may take. There is no other limit: a model may think for minutes."""
    idle_connection_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 4.0
    """How long an unused connection to the upstream is kept; LM Studio closes its side after 5 seconds."""
    max_head_bytes: Annotated[int, Field(ge=8192)] = 262144
    """The largest head (request line and header fields) of a request that is let in, and of a response."""


class CorsConfig(_Tree):
    """What web pages in a browser may do (cross-origin resource sharing)."""

    enabled: bool = True
    """Answer preflights and put the CORS header fields on every response. Off: nothing is touched."""
    allow_origins: Annotated[tuple[_Origin, ...], BeforeValidator(_split)] = ("*",)
    """Origins whose pages may use the API, WebSockets included; `*` is any page in your browser."""
    max_age_s: Annotated[int, Field(ge=0)] = 86400
    """How long a browser may remember the answer to a preflight."""


class RecordConfig(_Tree):
    """How the traffic gets to disk."""

    memory_bytes: _Bytes = 67108864
    """What may wait in memory when the disk is slow; what comes beyond is not recorded, and the gap is."""
    batch_ms: Annotated[float, Field(gt=0, le=1000)] = 8.0
    """How long records wait to be written together; a killed proxy loses at most about that much traffic."""
    segment_bytes: Annotated[int, Field(ge=65536)] = 33554432
    """The size at which the journal goes on in a new file."""


class MaskConfig(_Tree):
    """Which secrets are kept out of the trace. In their place stands a short digest, the same for the same secret."""

    headers: Annotated[tuple[_HeaderName, ...], BeforeValidator(_split)] = (
        "authorization",
        "proxy-authorization",
        "x-api-key",
        "api-key",
        "cookie",
        "set-cookie",
    )
    """Header fields whose values are masked before they are written anywhere; case does not matter."""
    websocket_fields: Annotated[tuple[str, ...], BeforeValidator(_split)] = ("clientPasskey",)
    """Fields masked in the first message of a client's WebSocket, where LM Studio's SDK says who it is."""
    body_fields: Annotated[tuple[_BodyField, ...], BeforeValidator(_split)] = SECRET_BODY_FIELDS
    """Values masked in JSON bodies before they reach the trace: names with dots, `[]` each element, `*` each field.
    Of a URL beside them the password and the query's keys are masked."""


class IndexConfig(_Tree):
    """How recordings become readings: calls, messages, conversations, a full-text index."""

    enabled: bool = True
    """Read exchanges as they end. Off: `proxy-log index` does it when you ask for it."""
    encoding: Literal["cl100k_base", "o200k_base", "off"] = "cl100k_base"
    """tiktoken's encoding that estimates the tokens of each message beside what servers report, or `off`."""
    ask_tokenizer: bool = False
    """Ask the server to count each message by the model's own tokenizer (llama.cpp, LM Studio): requests of our own."""


class EngineLogConfig(_Tree):
    """Listening to LM Studio's own log: the exact prompts and raw outputs, whatever program they are from."""

    enabled: bool = True
    """Listen where the upstream is LM Studio, through the proxy's own port: what comes is recorded as any exchange."""
    token: Annotated[str, Field(repr=False), AfterValidator(_check_token)] = ""
    """LM Studio's API token, if it asks for one; better given by `PROXY_LOG_ENGINE_LOG__TOKEN` than in a file."""
    internal_url: Annotated[str, AfterValidator(_check_url_or_empty)] = ""
    """LM Studio's internal port, where its own port does not serve the log: `http://127.0.0.1:41343`. Empty: as LM
    Studio's own file on this machine says when proxy-log starts."""


class PromptConfig(_Tree):
    """What the models saw: the rendered prompt of each call, where its text came from, how full the window was."""

    enabled: bool = True
    """Find it: in the engine's log, else by asking, else by the model's template."""
    ask: bool = True
    """Ask a call's server for the prompt, its tokens and the model's settings: requests of our own, not recorded."""
    lmstudio_home: str = ""
    """LM Studio's folder on this machine, where models have their templates; empty: where LM Studio puts it."""


class Config(_Tree):
    """Everything that can be set."""

    listen: Annotated[str, AfterValidator(_check_address)] = "localhost:8234"
    """Where clients connect: HOST:PORT. `localhost` is this machine alone (IPv4 and IPv6), `0.0.0.0` every network."""
    web: Annotated[str, AfterValidator(_check_web)] = "off"
    """Where the live page is served: HOST:PORT, or `off`."""
    trace: str = ""
    """The trace's file. Empty: `trace.db` in the user's data folder. A relative path counts from this file's folder."""
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 10.0
    """How long running requests may go on after Ctrl-C; a second Ctrl-C ends them at once."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much proxy-log says about itself on stderr."""
    upstreams: dict[str, UpstreamConfig] = {DEFAULT_UPSTREAM: UpstreamConfig(url="http://localhost:1234")}
    """The servers behind the proxy, each under a name of your choice; exactly one has the prefix `/`."""
    forward: ForwardConfig = ForwardConfig()
    cors: CorsConfig = CorsConfig()
    record: RecordConfig = RecordConfig()
    mask: MaskConfig = MaskConfig()
    index: IndexConfig = IndexConfig()
    engine_log: EngineLogConfig = EngineLogConfig()
    prompt: PromptConfig = PromptConfig()

    @model_validator(mode="after")
    def _check_upstreams(self) -> Self:
        by_prefix: dict[str, str] = {}
        for name, upstream in self.upstreams.items():
            if upstream.prefix in by_prefix:
                raise ValueError(
                    f"upstreams.{name} and upstreams.{by_prefix[upstream.prefix]} have the same prefix "
                    f"{upstream.prefix!r}; give each its own"
                )
            by_prefix[upstream.prefix] = name
        if "/" not in by_prefix:
            raise ValueError('no upstream has the prefix "/"; give it to the one that gets everything else')
        return self

    @property
    def web_address(self) -> Address | None:
        """Where to serve the live page, or None."""
        return None if self.web == "off" else parse_address(self.web)

    @property
    def prefix_sessions(self) -> dict[str, str]:
        """The session of each upstream that names one."""
        return {name: upstream.session for name, upstream in self.upstreams.items() if upstream.session}

    @property
    def trace_path(self) -> Path:
        """The trace's file, absolute."""
        if self.trace:
            return Path(self.trace).expanduser().resolve()
        return (user_data_path(APP_NAME, appauthor=False) / "trace.db").resolve()

    @property
    def default_upstream(self) -> str:
        """The name of the upstream with the prefix `/`."""
        return next(name for name, upstream in self.upstreams.items() if upstream.prefix == "/")


def settings(tree: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings, `upstreams.NAME.url` among them."""
    for name, field in tree.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from settings(field.annotation, f"{prefix}{name}.")
        elif name == "upstreams":
            yield from settings(UpstreamConfig, f"{prefix}{name}.NAME.")
        else:
            yield prefix + name
