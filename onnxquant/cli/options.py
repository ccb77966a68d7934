"""Click options made from the declarations of options, and those of samples and recipes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from onnxquant.cli.shared import Command
from onnxquant.errors import nearest
from onnxquant.recipe.declaration import Option, options_of
from onnxquant.recipe.files import shipped
from onnxquant.recipe.options import Options

if TYPE_CHECKING:
    _ParamType: TypeAlias = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # it is not generic in older releases of click


def model_options(
    *names: str, without: tuple[str, ...] = (), texts: Mapping[str, str] | None = None
) -> Callable[[Command], Command]:
    """Click options for the fields of ``Options`` and the parameters of formats.

    Args:
        names: names of the options to add; none: all
        without: names of options to leave out
        texts: help of options that mean something else here, by name.
    """
    known = options_of(Options)
    chosen = [known[name] for name in known if name not in without and (not names or name in names)]
    if unknown := {*names, *without} - set(known):
        raise LookupError(f"no options of these names: {', '.join(sorted(unknown))}")

    def decorate(command: Command) -> Command:
        for option in reversed(chosen):
            command = _click_option(option, (texts or {}).get(option.name, option.declared.help))(command)
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that the command line holds, so that a recipe or a file decides the others."""
    source = click.get_current_context().get_parameter_source
    return {k: v for k, v in options.items() if source(k) is not ParameterSource.DEFAULT}


def refuse_flags(names: Collection[str], problem: str) -> None:
    """Refuse options that the command line holds though they do nothing there.

    Args:
        names: names of the options.
        problem: the end of a sentence that begins with the flag.

    Raises:
        UsageError: one of them is there.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        if parameter.name in names and context.get_parameter_source(parameter.name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{parameter.opts[0]} {problem}")


def split_options(options: Mapping[str, Any], names: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of some names, and the others."""
    return (
        {name: value for name, value in options.items() if name in names},
        {name: value for name, value in options.items() if name not in names},
    )


def _click_option(option: Option, text: str) -> Callable[[Command], Command]:
    declared, default = option.declared, option.default
    if option.is_flag:
        return click.option(option.flag, option.name, is_flag=True, default=default, help=text)
    flags = [option.flag, declared.short] if declared.short else [option.flag]
    return click.option(
        *flags, option.name, type=_Value(option), default=default, multiple=option.is_list,
        metavar=declared.metavar or None, help=text, show_default=default not in (None, ()),
    )  # fmt: skip


class _Value(_ParamType):
    """The value of an option: its type, its choices, and what a shell offers for it."""

    def __init__(self, option: Option) -> None:
        self._option = option
        kinds = {"string": click.STRING, "integer": click.INT, "number": click.FLOAT}
        self._type: click.ParamType[Any] = next(kind for name, kind in kinds.items() if name in option.kinds)
        self.name = self._type.name

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """The value in its type.

        Raises:
            BadParameter: it is of another type, or no choice.
        """
        converted = self._type.convert(value, param, ctx)
        choices = self._option.choices()
        if choices and converted not in choices and str(converted).lower() in choices:
            return str(converted).lower()
        if choices and converted not in choices:
            self.fail(f"{converted!r}{nearest(str(converted), list(map(str, choices)))}", param, ctx)
        return converted

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str | None:
        """The choices, as help texts show them."""
        choices = self._option.choices()
        return f"[{'|'.join(map(str, choices))}]" if choices else None

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Words that begin as typed, or files."""
        declared = self._option.declared
        if declared.is_path is not None:
            return [CompletionItem(incomplete, type="file")]
        words = declared.completion() if declared.completion else map(str, self._option.choices())
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _recipes(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    names = [CompletionItem(name) for name in shipped() if name.startswith(incomplete)]
    # The file comes first: bash drops the words that precede it.
    return [CompletionItem(incomplete, type="file"), *names]


def data_option(samples: str) -> Callable[[Command], Command]:
    """The option --data; its help begins with what the samples are for."""
    kinds = ".npz, .npy, .txt, a folder of arrays or images, or module:function (docs/feeds.md)."
    return click.option("--data", type=click.Path(), metavar="FEEDS", help=f"{samples}: {kinds}")


def recipe_option(command: Command) -> Command:
    """The option --recipe."""
    return click.option(
        "--recipe", type=click.Path(), metavar="FILE|NAME", shell_complete=_recipes,
        help="TOML or YAML file of ordered rules and options, or the name of a recipe that `onnxquant list` shows. Options "
        "on the command line win over the file's options, and decide about weights that no rule matches.",
    )(command)  # fmt: skip
