"""``onnxquant completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from onnxquant.cli.options import errors_become_exit_codes

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
@errors_become_exit_codes
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands, options, files and names of formats, recipes and solvers in SHELL.

    \b
    Examples:
      onnxquant completion bash > ~/.local/share/bash-completion/completions/onnxquant
      eval "$(onnxquant completion bash)"                       for this shell; or put it into ~/.bashrc
      eval "$(onnxquant completion zsh)"                        in ~/.zshrc, after compinit
      onnxquant completion fish > ~/.config/fish/completions/onnxquant.fish
    """
    found = get_completion_class(shell)
    assert found
    root = context.find_root()
    # Not source(), which runs the shell to look at its version.
    made = found(root.command, {}, "onnxquant", "_ONNXQUANT_COMPLETE")
    click.echo(made.source_template % made.source_vars())
