"""Weight formats: how a matrix of floats becomes planes, and back, in numpy alone.

Every ``Format`` with a name in a module here, or in a package inside, is registered. Other packages register through the
entry point group ``onnxquant.formats``, whose entries name a class. They may import numerics; native and the
rooms above it may import them.
"""

from __future__ import annotations

from functools import cache

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.facts import Facts
from onnxquant.formats.granularity import PerBlock, PerRow, PerTensor
from onnxquant.formats.named import make_format, registry_of
from onnxquant.formats.parameters import Parameter, parameters_of
from onnxquant.formats.scaled_codes import ScaledCodes

__all__ = [
    "Encoded",
    "Facts",
    "Format",
    "PerBlock",
    "PerRow",
    "PerTensor",
    "ScaledCodes",
    "format_named",
    "format_parameters",
    "formats",
]


def registry() -> dict[str, type[Format]]:
    """Format classes by name, in the order of their bits."""
    return registry_of(Format)


@cache
def format_parameters() -> dict[str, Parameter]:
    """Every parameter of every format by name: keywords of ``quantize``, keys of recipes, options of the command line."""
    by_name: dict[str, Parameter] = {}
    for form in sorted(registry().values(), key=lambda c: -len(c.parameters())):
        for name, parameter in parameters_of(form).items():
            by_name.setdefault(name, parameter)
    return by_name


def formats() -> list[Format]:
    """Every format with its default parameters; each has ``.name`` and ``.bits_per_weight``.

    >>> [f.name for f in formats()][-2:]
    ['int2', 'tq2_0']
    """
    return [c() for c in registry().values()]


def format_named(name: str, **parameters: object) -> Format:
    """A format by name.

    Raises:
        RecipeError: no such format or parameter; the message names the nearest.
    """
    return make_format(Format, name, parameters)  # type: ignore[type-abstract]
