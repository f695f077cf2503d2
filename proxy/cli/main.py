"""The command `proxy-log`: a registry of commands, of which only the one that is asked for is loaded.

A command is one file with one click command and one line in `COMMANDS`. Other packages add theirs by the entry-point
group `proxy_log.commands`.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from proxy import __version__
from proxy.errors import ProxyLogError

PLUGIN_GROUP = "proxy_log.commands"


class Entry(NamedTuple):
    """Where a command is, and what it does in a few words: `--help` lists it without loading it."""

    target: str
    summary: str


COMMANDS = {
    "serve": Entry("proxy.cli.serve:serve", "Forward requests to your models, and record everything."),
    "demo": Entry("proxy.cli.demo:demo", "Try it with a small real model; nothing else is needed."),
    "tail": Entry("proxy.cli.tail:tail", "List the last exchanges; follow them live with -f."),
    "show": Entry("proxy.cli.show:show", "Show one exchange: heads, bodies, chunks, times."),
    "explain": Entry("proxy.cli.explain:explain", "Show what a model really got, and what changed on the way."),
    "calls": Entry("proxy.cli.calls:calls", "List what models were asked and answered, and how fast."),
    "search": Entry("proxy.cli.search:search", "Find words in everything that was asked and answered."),
    "precedence": Entry("proxy.cli.precedence:precedence", "Find out whether a request's settings win, by asking."),
    "explore": Entry("proxy.cli.explore:explore", "Look into the trace in a browser, with Datasette."),
    "verify": Entry("proxy.cli.verify:verify", "Prove that the trace holds every recorded byte."),
    "ingest": Entry("proxy.cli.ingest:ingest", "Take in what a killed proxy left in its journal."),
    "index": Entry("proxy.cli.index:index", "Read what is recorded and not read yet."),
    "reread": Entry("proxy.cli.index:reread", "Make readings again, after an upgrade."),
    "path": Entry("proxy.cli.path:path", "Print where the trace is."),
    "docs": Entry("proxy.cli.docs:docs", "Read the documentation here in the terminal."),
    "completion": Entry("proxy.cli.completion:completion", "Print what makes your shell complete proxy-log."),
}


class Commands(click.Group):
    """The commands of the registry and of plug-ins, each loaded when it is asked for."""

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found = {plugin.name: plugin for plugin in entry_points(group=PLUGIN_GROUP)}
        return {name: plugin for name, plugin in found.items() if name not in COMMANDS}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, built-in commands first, in the order in which one meets them."""
        return [*COMMANDS, *sorted(self._plugins)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None if there is none, or a plug-in is broken (a warning then says so)."""
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name].target.partition(":")
            command: click.Command = getattr(importlib.import_module(module), attribute)
            return command
        plugin = self._plugins.get(cmd_name)
        return _loaded(plugin) if plugin else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands with their summaries, which for built-in ones the registry knows."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._summaries()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """What may be typed here; loads no command, since somebody waits for it after TAB."""
        summaries = {name: entry.summary for name, entry in COMMANDS.items()}
        names = [name for name in self.list_commands(ctx) if name.startswith(incomplete)]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [*(CompletionItem(name, help=summaries.get(name)) for name in names), *options]

    def _summaries(self) -> Iterator[tuple[str, str]]:
        yield from ((name, entry.summary) for name, entry in COMMANDS.items())
        for name, plugin in sorted(self._plugins.items()):
            if command := _loaded(plugin):
                yield name, command.get_short_help_str(80)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; the operator's mistakes become one line on stderr and exit code 1."""
        try:
            return super().invoke(ctx)
        except ProxyLogError as error:
            raise click.ClickException(str(error)) from error


def _loaded(plugin: EntryPoint) -> click.Command | None:
    """A plug-in's command, or None and a warning: whatever is wrong with it must not take the others along."""
    try:
        command = plugin.load()
    except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything when it is imported
        problem = f"{type(error).__name__}: {error}"
    else:
        if isinstance(command, click.Command):
            return command
        problem = f"{plugin.value} is no click command"
    click.echo(f"Warning: the plug-in command {plugin.name!r} is left out: {problem}", err=True)
    return None


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="proxy-log")
def cli() -> None:
    """See what really goes into your local language models, and what comes back.

    proxy-log stands between your programs and LM Studio (or any other server with an HTTP API), forwards everything
    unchanged and records every byte with its time, in a SQLite file that you can query.

    \b
    Start with one of these:
      proxy-log demo        a small real model is fetched and asked
      proxy-log serve       LM Studio is at http://localhost:1234
    Point your programs at http://localhost:8234 instead, and watch:
      proxy-log tail -f
    """  # noqa: D301 - \b is click's mark for lines to leave as they are


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 failed, 2 used wrongly."""
    for stream in (sys.stdout, sys.stderr):
        # A model's text may hold what the terminal's encoding lacks; a question mark is better than a traceback.
        getattr(stream, "reconfigure", lambda errors: None)(errors="replace")
    try:
        cli(prog_name="proxy-log")
    except OSError as error:  # a full disk behind a pipe or a redirection, most of all
        print(f"Error: {error}", file=sys.stderr)
        os._exit(1)  # nothing is left to flush to it
