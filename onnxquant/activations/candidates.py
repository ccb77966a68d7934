"""Candidates of a search: files as they would be deployed, written to a temporary folder and scored on samples."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.activations.fused import units_in_float
from onnxquant.activations.placement import Unit
from onnxquant.activations.plan import ActivationPlan
from onnxquant.activations.weights import nearest, site_of
from onnxquant.artifact import lowering
from onnxquant.artifact.records import records
from onnxquant.calibration.feeds import JUDGED, Feed, Feeds, spread
from onnxquant.calibration.folds import FoldedSamples
from onnxquant.errors import ModelError, RangeError
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find_sites
from onnxquant.native import dispatch
from onnxquant.numerics.score import Judge, Score, UnseenOutputs
from onnxquant.plan.decision import EncodeDecision
from onnxquant.plan.planner import make_plan
from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.rules import Recipe
from onnxquant.targets import Activations, target_named
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, Interval, TimedModel, latencies
from onnxquant.validation.saturation import SATURATED_DB, LargestPairs, emulate, largest_pairs

# Other samples may lose more to saturation than these do, by this much.
MARGIN_DB = 5.0
# Samples on which losses to saturation are emulated: so many positions of so many tell as much as those of more.
_EMULATED = 8

SessionOpener = Callable[[ActivationPlan], AbstractContextManager[runtime.Session]]


@dataclass(frozen=True)
class _DecodedWeight:
    """A weight after encoding.

    Attributes:
        values: the weight before.
        decoded: the values that its codes stand for.
    """

    values: NDArray[Any]
    decoded: NDArray[Any]


class CandidateRunner:
    """Writes candidates of one model to a temporary folder and runs them.

    Args:
        document: the float model, prepared and simplified.
        rules: the rules of the recipe.
        samples: samples to score candidates on.
        threads: number of threads of a session; None: ONNX Runtime's choice.
        exact: whether products are exact on every CPU; else as this CPU computes them.
        judge: outputs, or parts of them, that matter; empty: all.
    """

    def __init__(
        self,
        document: Document,
        rules: Recipe,
        samples: FoldedSamples,
        threads: int | None,
        *,
        exact: bool = True,
        judge: Sequence[str] = (),
    ) -> None:
        self.document, self._exact, self._rules, self._threads = document, exact, rules, threads
        self.samples, self.sources, self._folds = list(samples.feeds), samples.sources, samples
        self._decoded: dict[str, _DecodedWeight] = {}
        self.seconds = math.inf
        with runtime.session_of(document, threads=threads) as session:
            self._judge = Judge([self._timed_run(session, sample) for sample in self.samples], judge)

    def _timed_run(self, session: runtime.Session, sample: Feed) -> Mapping[str, Any]:
        """Outputs of the float model; ``seconds`` is the least time that one call has taken."""
        start = time.perf_counter()
        outputs = runtime.run(session, sample)
        self.seconds = min(self.seconds, time.perf_counter() - start)
        return outputs

    def score(self, plan: ActivationPlan, progress: Progress = silent) -> Score:
        """The score of the file that a plan would become."""
        outputs = []
        with self.session(plan) as session:
            for i, sample in enumerate(self.samples):
                progress("comparing outputs", i / len(self.samples))
                outputs.append(runtime.run(session, sample))
        return self._judge.score(outputs)

    def score_folds(self, plans: Iterable[ActivationPlan], progress: Progress = silent) -> Score:
        """The score of what the samples of each fold get.

        Args:
            plans: plan of each fold, which the other folds make.
            progress: display of the part that is done.
        """
        return self._judge.score(self._outputs_of_folds(plans, self.session, progress))

    def unseen(self, plans: Iterable[ActivationPlan]) -> UnseenOutputs:
        """The quality of what the samples of each fold get, as this CPU computes it.

        Args:
            plans: plan of each fold, which the other folds make.
        """
        outputs = self._outputs_of_folds(plans, self._deployed)
        return self._judge.unseen(outputs, self.sources)

    def gain(self, plan: ActivationPlan, base: ActivationPlan, fold: int) -> float:
        """Decibels that a plan gains over another one on a fold; 0 where none of its samples judge.

        Args:
            plan: the plan.
            base: the other one.
            fold: the fold.
        """
        places = self._folds.places(fold)
        if not places:
            return 0.0
        judge, scores = self._judge.of_samples(places), []
        for either in (plan, base):
            with self.session(either) as session:
                scores.append(judge.score([runtime.run(session, self.samples[place]) for place in places]).typical)
        return scores[0] - scores[1] if scores[0] != scores[1] else 0.0

    def _outputs_of_folds(
        self, plans: Iterable[ActivationPlan], opened: SessionOpener, progress: Progress = silent
    ) -> list[Mapping[str, Any]]:
        """Outputs of all samples, those of each fold by a plan of its own."""
        outputs: list[Mapping[str, Any]] = [{} for _ in self.samples]
        for fold, plan in enumerate(plans):
            progress("comparing outputs", fold / self._folds.count)
            places = self._folds.places(fold)
            if places:
                with opened(plan) as session:
                    for place in places:
                        outputs[place] = runtime.run(session, self.samples[place])
        return outputs

    def decoded(self, document: Document, solved: Mapping[str, Encoded], name: str) -> NDArray[Any]:
        """The values that a weight has after encoding.

        Args:
            document: the float model.
            solved: weights by name whose codes a solver has chosen.
            name: name of the weight's tensor.
        """
        if name in solved:
            return site_of(document, name).view.restore(dispatch.decode(solved[name]))
        tensor = next(t for t in document.proto.graph.initializer if t.name == name)
        values = document.array(tensor)
        cached = self._decoded.get(name)
        if cached is None or (cached.values is not values and not np.array_equal(cached.values, values)):
            site = site_of(document, name)
            encoded = nearest(document, site, self._rules)
            cached = _DecodedWeight(values, site.view.restore(dispatch.decode(encoded)))
            self._decoded[name] = cached
        return cached.decoded

    def units_in_float(self, candidate: ActivationPlan, units: Sequence[Unit]) -> list[Unit]:
        """The units that ONNX Runtime would leave in float in the file that a plan would become."""
        with self._file(candidate) as path:
            optimized = runtime.optimized_graph(path, threads=self._threads)
            return units_in_float(units, records(load(path).proto), optimized)

    def saturating(self, candidate: ActivationPlan, more: Feeds) -> dict[str, LargestPairs]:
        """Weights of kernels that lose much on CPUs without VNNI, in the file that a plan would become.

        Those of all integer kernels where the file is for a client that saturates.

        Args:
            candidate: the plan.
            more: samples beside those that judge: the largest sums are rare.

        Returns:
            by the name of the weight, the largest sums of two products.
        """
        feeds = [*self.samples, *spread(more, JUDGED)]
        with self._file(candidate) as path:
            document = load(path)
            losses = emulate(document, feeds[:: max(1, len(feeds) // _EMULATED)], self._threads)
            is_exact = any(client.saturates for client in self._rules.clients)
            names = {n for n, loss in losses.items() if is_exact or loss.sqnr_db < SATURATED_DB + MARGIN_DB}
            if not names:
                return {}
            largest = largest_pairs(document, feeds, self._threads, names)
            if is_exact:  # no sum may be cut off there, whatever the activations are
                largest = {n: replace(pairs, observed=pairs.possible) for n, pairs in largest.items()}
            weights = {plane: record.name for record in records(document.proto) for plane in record.plane_names}
            return {weights[plane]: sums for plane, sums in largest.items() if plane in weights}

    def speedup(
        self, candidate: ActivationPlan, base: ActivationPlan | None = None, *, integer_operators: bool = False
    ) -> Interval:
        """The speed of the file that a plan would become.

        Args:
            candidate: the plan.
            base: the plan whose speed is 1; None: that of the float model.
            integer_operators: whether operators of ours stand between integers.
        """
        written = partial(self._file, integer_operators=integer_operators)
        with written(candidate) as path, written(base or ActivationPlan(self.document)) as before:
            models = {ORIGINAL: TimedModel(before), QUANTIZED: TimedModel(path)}
            return latencies(models, self.samples[0], self._threads).certain(QUANTIZED)

    @contextmanager
    def session(self, candidate: ActivationPlan) -> Iterator[runtime.Session]:
        """A session on the file that a plan would become."""
        with self._file(candidate) as path:
            yield self._open(path)

    @contextmanager
    def _deployed(self, candidate: ActivationPlan) -> Iterator[runtime.Session]:
        """A session as users open it, on the file that a plan would become with all of its weights encoded."""
        with self._file(candidate, whole=True) as path:
            yield runtime.open_session(path, runtime.session_options(threads=self._threads))

    def _open(self, path: Path) -> runtime.Session:
        """A session without saturation, where that is asked for: it fails where integer kernels share a weight."""
        if self._exact:
            with suppress(ModelError):
                return runtime.open_session(path, runtime.session_options(threads=self._threads, exact_products=True))
        return runtime.open_session(path, runtime.session_options(threads=self._threads))

    @contextmanager
    def _file(
        self, candidate: ActivationPlan, *, whole: bool = False, integer_operators: bool = False
    ) -> Iterator[Path]:
        """The file that a plan would become; weights without integer activations stay in float, if not whole."""
        document = candidate.document
        sites, skipped = find_sites(document)
        plan = make_plan(sites, skipped, self._rules, document.opset, candidate.sites)
        decisions = tuple(d for d in plan.encoded if whole or target_named(d.target).activations is not Activations.NONE)
        activations = candidate.activations
        plan = replace(plan, decisions=decisions, activations=activations, integer_operators=integer_operators)
        with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
            path = Path(folder) / "candidate.onnx"
            with Publisher(path, external=document.is_external(), force=True) as publisher:
                lowering.write(document, plan, publisher, partial(self._encoded, candidate))
            yield path

    def _encoded(self, candidate: ActivationPlan, site: Site, decision: EncodeDecision) -> Encoded | None:
        """The encoded weight; None where no scale can express it: it stays in float."""
        document = candidate.document
        try:
            if target_named(decision.target).activations is Activations.NONE:
                return dispatch.rounded_to_nearest(decision.format, site.view.matrix(document.array(site.tensor)))
            return candidate.solved.get(site.name) or nearest(document, site, self._rules)
        except RangeError:
            return None
