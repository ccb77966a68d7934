"""``onnxquant completion``."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from onnxquant.cli.shared import errors_become_exit_codes
from onnxquant.system.environment import COMPLETION

_SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@click.command(short_help="Print a completion script for a shell.")
@click.argument("shell", type=click.Choice(list(_SHELLS)))
@click.pass_context
@errors_become_exit_codes
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, files and names of formats, recipes and solvers in SHELL.

    \b
    Examples:
      onnxquant completion bash > ~/.local/share/bash-completion/completions/onnxquant
      eval "$(onnxquant completion bash)"        for this shell; or in ~/.bashrc
      eval "$(onnxquant completion zsh)"         in ~/.zshrc, after compinit
      onnxquant completion fish > ~/.config/fish/completions/onnxquant.fish
    """
    script = _SHELLS[shell](context.find_root().command, {}, "onnxquant", COMPLETION)
    # Not source(), which runs the shell to look at its version.
    click.echo(script.source_template % script.source_vars())
