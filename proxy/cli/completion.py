"""`proxy-log completion`: what makes a shell complete it."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands and options after TAB.

    \b
    bash   echo 'eval "$(proxy-log completion bash)"' >> ~/.bashrc
    zsh    echo 'eval "$(proxy-log completion zsh)"' >> ~/.zshrc
    fish   proxy-log completion fish > ~/.config/fish/completions/proxy-log.fish
    """  # noqa: D301 - \b is click's mark
    found = get_completion_class(shell)
    assert found, "the choices are those that click has"
    click.echo(found(ctx.find_root().command, {}, "proxy-log", "_PROXY_LOG_COMPLETE").source())
