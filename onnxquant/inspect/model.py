"""A model at the level of weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from onnxquant.artifact import lowering
from onnxquant.errors import RecipeError, nearest
from onnxquant.formats.base import Encoded
from onnxquant.graph.data_files import named_like
from onnxquant.graph.io import load
from onnxquant.graph.publish import Publisher, refuse_overwriting
from onnxquant.graph.sites import Site, find_sites
from onnxquant.passes.pipeline import prepare
from onnxquant.plan.decision import EncodeDecision, KeepDecision, Plan
from onnxquant.plan.planner import decide
from onnxquant.recipe.declaration import options_of
from onnxquant.recipe.rules import Rule, RuleOptions
from onnxquant.recipe.values import Compute
from onnxquant.targets import AUTO


@dataclass(frozen=True)
class _TargetedWeight:
    """An encoded weight, the target that is to hold it, and the arithmetic of its products."""

    encoded: Encoded
    target: str
    compute: str


class Model:
    """A model at the level of weights, for people who bring their own algorithm.

    Args:
        source: path of an ONNX file, or a model; it is never changed.
        external_roots: folders that external data may lie in, beside the model's own.

    Attributes:
        sites: weights that can be encoded.

    >>> model = Model("model.onnx")                                        # doctest: +SKIP
    >>> for site in model.sites:                                           # doctest: +SKIP
    ...     model.set(site.name, encode(model.weight(site.name), "q4_0"))
    >>> model.save("model.q4_0.onnx")                                      # doctest: +SKIP
    """

    def __init__(self, source: str | Path | onnx.ModelProto, *, external_roots: Iterable[str] = ()) -> None:
        self._document = load(source, tuple(external_roots))
        prepare(self._document)
        self.sites: list[Site] = find_sites(self._document)[0]
        self._chosen: dict[str, _TargetedWeight] = {}

    def _site(self, name: str) -> Site:
        for site in self.sites:
            if site.name == name:
                return site
        raise RecipeError(f"no weight {name!r}{nearest(name, [s.name for s in self.sites])}")

    def weight(self, name: str) -> NDArray[Any]:
        """A weight as a matrix [rows, cols]: output channels by contracted channels.

        Raises:
            RecipeError: no such site.
        """
        site = self._site(name)
        return site.view.matrix(self._document.array(site.tensor))

    def set(self, name: str, encoded: Encoded, target: str = AUTO, *, compute: str = Compute.AUTO) -> None:
        """Use an encoded weight for a site.

        Args:
            name: name of the weight.
            encoded: the encoded weight.
            target: name of a target, or ``auto``.
            compute: "auto", or "float": the weight is decoded when the model is loaded.

        Raises:
            RecipeError: no such site, target or arithmetic, or another shape.
        """
        site = self._site(name)
        for option, value in (("target", target), ("compute", compute)):
            options_of(RuleOptions)[option].check(value)
        if (encoded.rows, encoded.cols) != (site.rows, site.cols):
            raise RecipeError(
                f"weight {name!r}: encoded as [{encoded.rows}, {encoded.cols}], expected [{site.rows}, {site.cols}]"
            )
        self._chosen[name] = _TargetedWeight(encoded, target, compute)

    def unset(self, name: str) -> None:
        """Let a weight stay in float, which ``set`` gave codes."""
        self._chosen.pop(name, None)

    def check(self, name: str) -> None:
        """Refuse a weight that its target cannot hold.

        Raises:
            RecipeError: the reason.
        """
        self._decision(name)

    def _decision(self, name: str) -> EncodeDecision:
        choice = self._chosen[name]
        form = choice.encoded.format
        rule = Rule(format=form.name, target=choice.target, compute=choice.compute)
        decision = decide(self._site(name), form, rule, self._document.opset)
        if isinstance(decision, KeepDecision):
            raise RecipeError(f"weight {name!r}: {decision.reason}")
        return replace(decision, format=form)

    def save(self, output: str | Path, *, force: bool = False) -> None:
        """Write the model with the encoded weights set so far.

        Raises:
            RecipeError: a target refuses a weight.
            OutputError: the output cannot be written.
        """
        decisions = [self._decision(name) for name in self._chosen]
        external, data = self._document.is_external(), named_like(self._document, Path(output))
        refuse_overwriting(self._document, Path(output), data)
        with Publisher(Path(output), external=external, force=force, data=data, source=self._document) as publisher:
            lowering.write(self._document, Plan(tuple(decisions)), publisher, lambda s, _: self._chosen[s.name].encoded)
