"""`proxy-log serve`: forward and record until stopped."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from proxy import __version__
from proxy.cli.options import read_config, with_trace

if TYPE_CHECKING:
    from proxy.config import Config
    from proxy.service import Ready


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where clients connect; by default localhost:8234.")
@click.option("--upstream", metavar="URL", help="The server behind the proxy; by default http://localhost:1234.")
@click.option("--web", metavar="HOST:PORT|off", help="Where the live page is served; by default off.")
@with_trace
def serve(listen: str | None, upstream: str | None, web: str | None, trace: str | None, config: Path | None) -> None:
    """Forward requests to LM Studio (or another server) and record them, until Ctrl-C.

    \b
    proxy-log serve                                       LM Studio on this machine
    proxy-log serve --upstream http://localhost:11434     Ollama
    proxy-log serve --listen 0.0.0.0:8234                 let other machines in, too

    Clients notice nothing: point them at http://localhost:8234 instead of http://localhost:1234. The first Ctrl-C
    lets running answers finish for a while (drain_s), the second ends at once; what was recorded is stored either way.

    Settings come from config.toml, then PROXY_LOG_LISTEN, PROXY_LOG_UPSTREAM and the like, then these options.
    """  # noqa: D301 - \b is click's mark
    settings = read_config(config, listen=listen, upstream=upstream, web=web, trace=trace)
    from proxy import service  # noqa: PLC0415 - not for --help

    service.serve(settings, on_ready=lambda ready: click.echo(greeting(settings, ready)))


def client_url(config: "Config", ready: "Ready") -> str:
    """What a client on this machine types."""
    first = ready.listen[0]
    is_localhost = config.listen_addresses[0].host in ("0.0.0.0", "::") or config.listen.startswith("localhost:")
    return f"http://localhost:{urlsplit(first).port}" if is_localhost else first


def greeting(config: "Config", ready: "Ready") -> str:
    """What is printed when everything is up."""
    url = client_url(config, ready)
    is_open = config.listen_addresses[0].host in ("0.0.0.0", "::")
    lines = [f"proxy-log {__version__} forwards and records. Ctrl-C ends it.", ""]
    lines += [f"  listening   {each}" for each in ready.listen]
    for name, upstream_url in ready.upstreams.items():
        prefix = config.upstreams[name].prefix
        lines.append(f"  upstream    {name}: {upstream_url}" + (f"   for {url}{prefix}/..." if prefix != "/" else ""))
        if name in ready.unreachable:
            lines.append("              does not answer yet; start it whenever you like, nothing here needs a restart")
        if prefix == "/" and upstream_url.endswith("/v1"):
            lines.append(
                f"              {url}/v1 will be {upstream_url}/v1: better leave /v1 out of the upstream's URL"
            )
    lines += [
        f"  trace       {ready.trace}",
        "",
        "Point your programs here:",
        f"  AnythingLLM   choose LM Studio, base URL {url}/v1",
        f"  OpenAI        export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=lm-studio",
        f"  Anthropic     export ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=lm-studio",
        f"  LM Studio SDK ws://{urlsplit(url).netloc}",
        *([f"  from Docker   http://host.docker.internal:{urlsplit(url).port}/v1"] if is_open else []),
        f"  curl          curl {url}/v1/models",
        "",
        "Watch: proxy-log tail -f",
    ]
    return "\n".join(lines)
