"""What each weight could become: formats to choose among, with the bytes and the loss of each."""

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
class Candidate:
    """One thing that a weight could become.

    Attributes:
        decision: the format and target, with its bytes; without a format: it stays in float.
        loss: error power of its products over their power, by rounding to nearest.
        noise: what it adds to the outputs, error power over signal power; known once that was measured.
        seconds: that its products take per sample; 0 where that was not asked for.
    """

    decision: Decision
    loss: float
    noise: float = 0.0
    seconds: float = 0.0

    @property
    def label(self) -> str:
        """As tables name it."""
        form = self.decision.format
        return spec_of(form) if form else self.decision.dtype


def parse(specs: Sequence[str]) -> list[Format]:
    """Formats from ``NAME`` or ``NAME:parameter=value,...``.

    Raises:
        RecipeError: an unknown format or parameter, or a value that does not fit.

    >>> [f.name for f in parse(["q4_0", "int4:block_size=64"])]
    ['q4_0', 'int4']
    """
    found = []
    for spec in specs:
        name, _, rest = spec.partition(":")
        given: dict[str, Any] = {}
        for entry in filter(None, rest.split(",")):
            key, equals, value = entry.partition("=")
            if not equals:
                raise RecipeError(f"format {spec!r}: expected NAME:parameter=value,...")
            given[key.strip()] = yaml.safe_load(value)
        found.append(format_named(name.strip(), **given))
    if len(set(found)) < len(found):
        raise RecipeError(f"formats {', '.join(specs)}: one is named twice")
    return found


def spec_of(form: Format) -> str:
    """What ``parse`` makes a format of."""
    given = ",".join(f"{p}={_text(v)}" for p in form.parameters() if (v := form.settings().get(p)) is not None)
    return f"{form.name}:{given}" if given else form.name


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def candidates(
    document: Document, site: Site, forms: Sequence[Format], rule: Rule, gram: NDArray[np.float64] | None
) -> list[Candidate]:
    """Those that the site can become, staying in float first.

    Args:
        document: the prepared model.
        site: the weight.
        forms: formats to choose among.
        rule: what else holds for it: target, solver.
        gram: second moments of what it is multiplied with, [groups, cols, cols]; None: unknown, all columns count alike.
    """
    weight = site.view.matrix(document.array(site.tensor)).astype(np.float32)
    power = _power(weight, gram)
    first = decide(site, forms[0], rule, document.opset)
    in_float = "more bits than it needs would cost more than it is worth"
    kept = replace(first, reason=in_float) if isinstance(first, KeepDecision) else first.kept_in_float(in_float)
    found = [Candidate(kept, 0.0)]
    for form in forms:
        decision = decide(site, form, rule, document.opset)
        if isinstance(decision, KeepDecision):
            continue
        error = dispatch.decode(dispatch.rounded_to_nearest(decision.format, weight)) - weight
        decision = with_solver(decision, inputs_observable=gram is not None, has_samples=True)
        found.append(Candidate(decision, _power(error, gram) / power if power else 0.0))
    return found


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
