"""`proxy-log serve`: forward and record until stopped."""

import logging
import shlex
from pathlib import Path

import click

from proxy import __version__, service
from proxy.cli.options import read_config, with_trace
from proxy.config import Config


@click.command()
@click.option("--listen", metavar="HOST:PORT", help="Where clients connect; by default localhost:8234.")
@click.option("--upstream", metavar="URL", help="The server behind the proxy; by default http://localhost:1234.")
@click.option("--web", metavar="HOST:PORT|off", help="Where the live page is served; by default off.")
@with_trace
def serve(*, listen: str | None, upstream: str | None, web: str | None, trace: str | None, config: Path | None) -> None:
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
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    service.serve(settings, on_ready=lambda ready: click.echo(greeting(settings, ready)))


def client_url(listen: str, listening: str) -> str:
    """What a client on this machine types.

    Args:
        listen: HOST:PORT of the settings.
        listening: the first place that is listened at, with the port that the system may have chosen.
    """
    port = listening.rpartition(":")[2]
    host = listen.rpartition(":")[0]
    return f"http://{'localhost' if host in _EVERYWHERE else host}:{port}"


def greeting(config: Config, ready: service.Ready) -> str:
    """What is printed when everything is up."""
    url = client_url(config.listen, ready.listen[0])
    lines = [f"proxy-log {__version__} forwards and records; Ctrl-C ends it.", ""]
    lines += [f"  listening at   http://{each}" for each in ready.listen]
    for name, upstream_url in ready.upstreams.items():
        prefix = config.upstreams[name].prefix
        lines.append(f"  upstream       {name}, {upstream_url}" + (f" for {url}{prefix}/..." if prefix != "/" else ""))
        if name in ready.unreachable:
            lines.append("                 does not answer yet; start it whenever you like, proxy-log tries each time")
        if prefix == "/" and upstream_url.endswith("/v1"):
            lines.append(f"                 {url}/v1 will ask {upstream_url}/v1: better leave /v1 out of the upstream")
    if config.web_address and config.web_address.port:  # the back tells in the log which port the system chose
        lines.append(f"  live page      {client_url(config.web, config.web)}")
    lines += [f"  trace          {ready.trace}", "", "Point your programs here:"]
    lines += [
        f"  AnythingLLM    provider LM Studio, base URL {url}/v1",
        f"  OpenAI         export OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY=lm-studio",
        f"  Anthropic      export ANTHROPIC_BASE_URL={url} ANTHROPIC_AUTH_TOKEN=lm-studio",
        f"  LM Studio SDK  {url.replace('http', 'ws', 1)}",
        f"  curl           curl {url}/v1/models",
    ]
    if config.listen.rpartition(":")[0] in _EVERYWHERE:
        lines.append(f"  from Docker    {url.replace('localhost', 'host.docker.internal')}/v1")
    trace = f" --trace {shlex.quote(str(ready.trace))}" if config.trace else ""
    return "\n".join([*lines, "", f"Watch with: proxy-log tail -f{trace}"])


_EVERYWHERE = ("0.0.0.0", "[::]")
