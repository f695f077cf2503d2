"""By which ways the back can listen to the engine's log of each upstream: all of them lead through the front.

Facts (lmstudio-api.md 9)
-------------------------
* In LM Studio's home, `.internal/http-server.json` names the internal port (S, lms), which changes with each
  start of LM Studio.
"""

import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from proxy.config import Config, UpstreamConfig, parse_address

SUFFIX = "-log"
"""Of the name of an upstream that is another's internal port."""
_PORT_FILE = ".internal/http-server.json"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def log_upstreams(config: Config) -> dict[str, UpstreamConfig]:
    """Internal ports as further upstreams, under prefixes that nobody can guess.

    One at most: that of the upstream at `/` if it is on this machine or `engine_log.internal_url` is set, else of the
    first one on this machine, whose port LM Studio's own file tells.
    """
    if not config.engine_log.enabled:
        return {}
    names = sorted(_distinct(config), key=lambda name: not is_local(config.upstreams[name].url))
    if config.engine_log.internal_url:
        name, url = config.default_upstream, config.engine_log.internal_url
    else:
        name = config.default_upstream if is_local(config.upstreams[config.default_upstream].url) else names[0]
        port = internal_port(_lmstudio_home(config)) if is_local(config.upstreams[name].url) else None
        url = f"http://127.0.0.1:{port}" if port else ""
    if not url or name + SUFFIX in config.upstreams:
        return {}
    return {name + SUFFIX: UpstreamConfig(url=url, prefix=f"/{secrets.token_hex(16)}")}


def log_sources(
    config: Config, listening: Sequence[str], internal: Mapping[str, UpstreamConfig]
) -> list[dict[str, object]]:
    """What the back is told: of each upstream `name`, `url` and `ways` (see `LogSource`).

    Args:
        config: the settings.
        listening: each `host:port` where the front listens.
        internal: see `log_upstreams`.
    """
    if not config.engine_log.enabled:
        return []
    front = f"ws://{_reachable(listening[0])}"
    return [
        {
            "name": name,
            "url": config.upstreams[name].url,
            "ways": [
                front + each.prefix.rstrip("/")
                for each in (config.upstreams[name], internal.get(name + SUFFIX))
                if each is not None
            ],
        }
        for name in _distinct(config)
    ]


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine, by its name alone."""
    host = urlsplit(url).hostname or ""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def internal_port(lmstudio_home: Path) -> int | None:
    """LM Studio's internal port as its own file says; None where it does not."""
    try:
        told = json.loads((lmstudio_home / _PORT_FILE).read_bytes())
    except (OSError, ValueError):
        return None
    port = told.get("port") if isinstance(told, dict) else None
    return port if isinstance(port, int) and 0 < port < 65536 else None


def _lmstudio_home(config: Config) -> Path:
    from proxy.prompt.model_files import ModelFiles  # noqa: PLC0415 - the front needs it only to start

    return ModelFiles.find(config.prompt.lmstudio_home).home


def _distinct(config: Config) -> Iterable[str]:
    """Names of upstreams, that at `/` first; of several names of one server the first alone: it has one log."""
    found: dict[str, str] = {}
    for name in sorted(config.upstreams, key=lambda name: name != config.default_upstream):
        found.setdefault(_server(config.upstreams[name].url), name)
    return found.values()


def _server(url: str) -> str:
    parts = urlsplit(url)
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port}{parts.path}"


def _reachable(listening: str) -> str:
    """The address as somebody on this machine connects to it."""
    host, port = parse_address(listening)
    host = _EVERYWHERE.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
