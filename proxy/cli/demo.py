"""`proxy-log demo`: a lookalike of LM Studio with a real model, the proxy in front of it, and a place to go on from."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from proxy.cli.demo_layers import Defaults, read_defaults, read_pairs, read_presets
from proxy.cli.demo_run import Demo, require_free
from proxy.cli.demo_window import StateFile, type_into_window
from proxy.cli.render import DIM, NAME, make_console, put
from proxy.cli.tour import demo_trace
from proxy.config import parse_address
from proxy.demo.behaviour import Behaviour, Overflow, choices, with_switches
from proxy.demo.llama_process import DEFAULT_CONTEXT_LENGTH, require_engine
from proxy.demo.log_files import log_file
from proxy.demo.lookalike_process import LMSTUDIO_PORT, LookalikeProcess, Settings
from proxy.demo.model import SMOLLM2, cache_folder, check_model_file, fetch_model
from proxy.demo.parameters import Layer
from proxy.demo.switches import switches as all_switches
from proxy.errors import ProxyLogError


def _check_listen(context: click.Context, parameter: click.Parameter, listen: str) -> str:
    try:
        parse_address(listen)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return listen


def _read_switches(context: click.Context, parameter: click.Parameter, pairs: Sequence[str]) -> dict[str, str]:
    if "list" in pairs:
        return {"list": ""}
    found = read_pairs(pairs)
    try:
        with_switches(Behaviour(), found)
    except ProxyLogError as error:
        raise click.BadParameter(str(error)) from None
    return found


@click.command()
@click.option(
    "--listen",
    metavar="HOST:PORT",
    default="localhost:8234",
    show_default=True,
    callback=_check_listen,
    help="Where the proxy listens.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Where the lookalike listens, on this machine only; by default 1234, LM Studio's, or any if that one is taken "
    "(0: any).",
)
@click.option("--no-proxy", is_flag=True, help="The lookalike alone: prints what it serves, then its log.")
@click.option(
    "--model",
    "model_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A GGUF file to serve instead of SmolLM2-135M-Instruct.",
)
@click.option("--scripted", is_flag=True, help="Models that only repeat what they are told: no file, no llama.cpp.")
@click.option(
    "--context-length",
    type=click.IntRange(min=256),
    default=DEFAULT_CONTEXT_LENGTH,
    metavar="TOKENS",
    show_default=True,
    help="How much the model can see at once, its answer included; llama.cpp rounds up to 256, 512, 768 and so on.",
)
@click.option(
    "--overflow",
    type=click.Choice(["refuse", *choices(Overflow)]),
    default="refuse",
    show_default=True,
    help="What becomes of an HTTP request that is longer than that; the SDK's calls name their own policy.",
)
@click.option(
    "--parallel",
    type=click.IntRange(min=1, max=64),
    default=Behaviour().parallel,
    metavar="N",
    show_default=True,
    help="Answers made at the same time; others wait.",
)
@click.option("--auth", is_flag=True, help="Ask for an API token; prints the one to use.")
@click.option("--cors", is_flag=True, help="Let web pages in, as LM Studio's setting does.")
@click.option(
    "--default",
    "defaults",
    multiple=True,
    metavar="[MODEL:]NAME=VALUE",
    callback=lambda context, parameter, pairs: read_defaults(pairs),
    help="A default parameter of all models or of one, as set in LM Studio's window: temperature=0, max_tokens=20. "
    "Repeatable.",
)
@click.option(
    "--preset",
    "presets",
    multiple=True,
    metavar="NAME=FILE",
    callback=lambda context, parameter, pairs: read_presets(pairs),
    help="A preset that requests can name: a JSON file of parameters, or a preset file of LM Studio's. Repeatable.",
)
@click.option(
    "--switch",
    "switches",
    multiple=True,
    metavar="NAME=VALUE",
    callback=_read_switches,
    help="Behave otherwise where LM Studio's versions differ or nobody knows. Repeatable; `--switch list` shows all.",
)
@click.option("--chat", metavar="TEXT", help="Type into the window of a demo that is running, print the answer, end.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to record; by default demo.db in your data folder, apart from your own trace.",
)
@click.option(
    "--engine-log",
    is_flag=True,
    help="Let the proxy listen to the lookalike's log: exact prompts and raw outputs, also of what is typed into its "
    "window.",
)
@click.option("--once", is_flag=True, help="End after the first requests instead of staying up.")
def demo(
    *,
    listen: str,
    port: int | None,
    no_proxy: bool,
    model_file: Path | None,
    scripted: bool,
    context_length: int,
    overflow: str,
    parallel: int,
    auth: bool,
    cors: bool,
    defaults: Defaults,
    presets: dict[str, Layer],
    switches: dict[str, str],
    chat: str | None,
    trace: Path | None,
    engine_log: bool,
    once: bool,
) -> None:
    """Try proxy-log with a real model on this machine.

    Starts a lookalike of LM Studio with SmolLM2-135M-Instruct on llama.cpp (98 MB, fetched once), puts the proxy in
    front of it, sends the first requests through, shows what was recorded, and stays up until Ctrl-C.

    \b
    proxy-log demo                          all of it
    proxy-log demo --engine-log             and what its log tells: what the model saw
    proxy-log demo --no-proxy               the lookalike alone, to try your programs on
    proxy-log demo --scripted --no-proxy    the same without a model
    proxy-log demo --chat "hi"              meanwhile, type into its window
    """  # noqa: D301 - \b is click's mark
    console = make_console()
    if "list" in switches:
        _show_switches(console)
        return
    trace = trace.absolute() if trace else demo_trace()
    state = StateFile.beside(trace)
    if chat is not None:
        type_into_window(console, chat, state, port)
        return
    if no_proxy and once:
        raise click.UsageError("--once sends requests through the proxy, --no-proxy starts none")
    if scripted and model_file:
        raise click.UsageError("--scripted serves no file, --model names one")
    options = {"auth": "on" if auth else "off", "cors": "on" if cors else "off", "parallel": str(parallel)}
    options |= {"context_length": str(context_length), "overflow": overflow, "window": "on"}
    # both raise KeyboardInterrupt, even where a shell that runs it in the background has SIGINT ignored
    ends = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    try:
        if not scripted:
            require_engine()
        if not no_proxy:
            require_free(listen)
        folder = Path(os.environ.get("PROXY_LOG_CACHE") or cache_folder()).absolute()
        file = None if scripted else _model_file(model_file, folder, console)
        settings = Settings(
            model_file=str(file) if file else None,
            model=None if model_file or scripted else SMOLLM2.name,
            port=0 if port is None and _wants_lmstudio_port(listen, no_proxy=no_proxy) else port,
            switches=options | switches,
            defaults=defaults.pop("", {}),
            own_defaults=defaults,
            presets=presets,
            tells_log=no_proxy,
        )
        started = time.monotonic()
        with LookalikeProcess.start(settings, log=log_file(folder, "lookalike")) as lookalike:
            start_s = time.monotonic() - started
            behaviour = with_switches(Behaviour(), settings.switches)
            running = Demo(console, lookalike, settings, behaviour, trace=trace, start_s=start_s)
            with state.written(lookalike.ready.url, behaviour.tokens[0]):
                running.alone() if no_proxy else running.behind_proxy(listen, is_once=once, hears_log=engine_log)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _wants_lmstudio_port(listen: str, *, no_proxy: bool) -> bool:
    """Whether the proxy takes the port that would be the lookalike's."""
    return not no_proxy and parse_address(listen)[1] == LMSTUDIO_PORT


def _model_file(own: Path | None, folder: Path, console: Console) -> Path:
    if own is None:
        return fetch_model(folder, console).absolute()
    check_model_file(own)
    return own.absolute()


def _show_switches(console: Console) -> None:
    for switch in all_switches():
        put(console, (f"{switch.name}={switch.default}", NAME), (f"  {switch.values}", DIM))
        put(console, f"    {switch.meaning}")
        put(console, (f"    {switch.source}", DIM))
