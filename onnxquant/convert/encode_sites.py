"""Encoded weights of a plan, one site at a time, with the result of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxquant.artifact.hashes import planes_digest
from onnxquant.errors import RangeError, WeightError
from onnxquant.formats.base import Encoded
from onnxquant.graph.sites import Site
from onnxquant.native import dispatch
from onnxquant.plan.context import Context
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.report.data import SiteResult
from onnxquant.solvers.rtn import Rtn

# A weight of which codes keep no more than this is lost.
_NOTHING_DB = 1.0
# Scales are float16: they lose digits where weights are smaller than this, and become zero.
_SMALL = 2.0**-14


class SiteEncoder:
    """Encodes one site at a time, and records the result of each.

    Args:
        context: context with the float model
        plan: plan of that model
        solved: weights by name whose codes a solver has chosen, from several steps

    Attributes:
        results: result of each site, by name
        digests: digests of the encoded weights by name, where a proof is asked for
    """

    def __init__(self, context: Context, plan: Plan, solved: Sequence[Mapping[str, Encoded]]) -> None:
        self._context, self._solved = context, solved
        self._total, self._encoded = max(sum(d.elements for d in plan.encoded), 1), 0
        self.results: dict[str, SiteResult] = {}
        self.digests: dict[str, str] = {}

    def __call__(self, site: Site, decision: EncodeDecision) -> Encoded | None:
        """The encoded weight of a site; None where it has to stay in float after all.

        Raises:
            WeightError: the weight holds NaN or infinity.
        """
        document = self._context.document
        self._report_progress()
        solved = next((weights[site.name] for weights in self._solved if site.name in weights), None)
        if solved is None and decision.solver != Rtn.name:
            reason = f"{decision.reason}; rounded to nearest: a Gram matrix of {site.cols} columns is too large"
            decision = replace(decision, solver=Rtn.name, reason=reason)
        try:
            weight = site.view.matrix(document.array(site.tensor))
            encoded, difference = dispatch.encode(decision.format, decision.clipped(weight), solved=solved)
            if decision.clip is not None:
                difference = dispatch.measure(encoded, weight)
        except RangeError as error:
            self.results[site.name] = SiteResult(decision.kept_in_float(str(error)))
            return None
        except WeightError as error:
            raise WeightError(
                f"{document.name}: weight {site.name!r} {error}; keep it in float with --exclude to go on"
            ) from None
        if difference.sqnr_db < _NOTHING_DB and (largest := float(np.abs(weight).max())) < _SMALL:
            reason = (
                f"{decision.format.name}: its numbers, at most {largest:.2g}, are too small for the format's scales"
            )
            self.results[site.name] = SiteResult(decision.kept_in_float(reason))
            return None
        if self._context.options.proof:
            self.digests[site.name] = planes_digest(encoded)
        warning = decision.format.warning(difference.sqnr_db)
        self.results[site.name] = SiteResult(decision, difference.figures(), warning=warning)
        self._encoded += decision.elements
        self._report_progress()
        return encoded

    def _report_progress(self) -> None:
        self._context.progress("encode", self._encoded / self._total)
