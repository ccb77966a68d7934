"""Candidates of a weight: the formats that it could have, with the bytes and the loss of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from onnxquant.errors import RecipeError
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site
from onnxquant.native import dispatch
from onnxquant.plan.decision import Decision, KeepDecision
from onnxquant.plan.planner import decide
from onnxquant.plan.solver_choice import with_solver
from onnxquant.recipe.rules import Rule

# Formats to choose among where the user names none: one for each number of bits, from kernels that are fast everywhere.
DEFAULT = ("int8", "int6", "int5", "int4", "int3")


@dataclass(frozen=True)
class FormatCandidate:
    """One possible decision about a weight.

    Attributes:
        decision: format and target with their bytes, or to stay in float
        loss: error power of the products over their power, after rounding to nearest
        noise: error power that it adds to the outputs over their power; 0 until it is measured
        seconds: time of its products per sample; 0 where it was not asked for
    """

    decision: Decision
    loss: float
    noise: float = 0.0
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """Its name in tables."""
        form = self.decision.format
        return spec_of(form) if form else self.decision.dtype


def parse(specs: Sequence[str]) -> list[Format]:
    """Formats from ``NAME`` or ``NAME:parameter=value,...``.

    Raises:
        RecipeError: an unknown format or parameter, or a value that does not fit.

    >>> [f.name for f in parse(["q4_0", "int4:block_size=64"])]
    ['q4_0', 'int4']
    """
    formats = []
    for spec in specs:
        name, _, rest = spec.partition(":")
        parameters: dict[str, Any] = {}
        for entry in filter(None, rest.split(",")):
            key, equals, value = entry.partition("=")
            if not equals:
                raise RecipeError(f"format {spec!r}: expected NAME:parameter=value,...")
            parameters[key.strip()] = yaml.safe_load(value)
        formats.append(format_named(name.strip(), **parameters))
    if len(set(formats)) < len(formats):
        raise RecipeError(f"formats {', '.join(specs)}: one is named twice")
    return formats


def spec_of(form: Format) -> str:
    """The text that ``parse`` makes a format of."""
    parameters = ",".join(f"{p}={_text(v)}" for p, v in changed_parameters(form).items())
    return f"{form.name}:{parameters}" if parameters else form.name


def changed_parameters(form: Format) -> dict[str, Any]:
    """The parameters of a format that are set, by name."""
    return {p: v for p in form.parameters() if (v := form.settings().get(p)) is not None}


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def candidates(
    document: Document, site: Site, formats: Sequence[Format], rule: Rule, gram: NDArray[np.float64] | None
) -> list[FormatCandidate]:
    """The candidates of a weight. The first one is to stay in float.

    Args:
        document: the prepared model
        site: the weight
        formats: formats to choose among
        rule: rule that names the target and the solver
        gram: second moments of the weight's inputs, [groups, cols, cols]; None: unknown, all columns count alike
    """
    weight = site.view.matrix(document.array(site.tensor)).astype(np.float32)
    power = _power(weight, gram)
    result = [FormatCandidate(_in_float(decide(site, formats[0], rule, document.opset)), 0.0)]
    for form in formats:
        decision = decide(site, form, rule, document.opset)
        if isinstance(decision, KeepDecision):
            continue
        error = dispatch.decode(dispatch.rounded_to_nearest(decision.format, weight)) - weight
        decision = with_solver(decision, inputs_observable=gram is not None, has_samples=True)
        result.append(FormatCandidate(decision, _power(error, gram) / power if power else 0.0))
    return result


def _in_float(decision: Decision) -> KeepDecision:
    reason = "more bits than it needs would cost more than it is worth"
    return replace(decision, reason=reason) if isinstance(decision, KeepDecision) else decision.kept_in_float(reason)


def _power(matrix: NDArray[np.float32], gram: NDArray[np.float64] | None) -> float:
    """Sum of e H e^T over the rows e."""
    if gram is None:
        return float(np.square(matrix, dtype=np.float64).sum())
    groups = matrix.reshape(len(gram), -1, matrix.shape[1])
    return float(
        sum(
            np.einsum("rk,rk->", g @ h.astype(np.float32), g, dtype=np.float64)
            for g, h in zip(groups, gram, strict=True)
        )
    )
