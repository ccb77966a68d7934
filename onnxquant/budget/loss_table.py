"""Costs of every candidate: losses by a weight's inputs, the noise at the outputs alone and among the others, and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.budget.candidates import FormatCandidate, candidates, spec_of
from onnxquant.budget.choices import CandidateTable, FormatChoice
from onnxquant.budget.latency import ProductTimer
from onnxquant.budget.sensitivity import FigureCache, FloatModel
from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import GramFile, grams
from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.formats.base import Encoded, Format
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site
from onnxquant.native import dispatch
from onnxquant.numerics.decibels import noise_share
from onnxquant.plan.context import Context
from onnxquant.plan.decision import EncodeDecision
from onnxquant.plan.planner import is_decoded_at_load
from onnxquant.recipe.rules import Rule
from onnxquant.recipe.values import SearchCost
from onnxquant.solvers import jobs
from onnxquant.solvers.rtn import Rtn

Weights = Iterator[tuple[str, NDArray[Any]]]
# Interactions are measured of this many weights: those that make the most noise.
_HEAVY = 24
# Above this many weights, only some are measured alone; and float32 shows no noise below this.
_EXACT, _QUIETEST = 64, 1e-14
# The noise of a weight among the others may be this many times larger or smaller than alone; more is chance.
_MOST = 8.0


@dataclass(frozen=True)
class _Probe:
    """A format and the loss of a weight in it, to measure how much noise a unit of loss makes."""

    form: Format
    loss: float


@dataclass
class CandidateMeter:
    """Measures the candidates of the weights that formats are chosen for.

    Attributes:
        context: context with the prepared model
        free: the sites, by name
        formats: formats to choose among
        rule: rule that holds for them but for its format
        model: the float model, to run with other weights
        folder: folder for temporary files
        grams: files of Gram matrices, by site
    """

    context: Context
    free: Mapping[str, Site]
    formats: Sequence[Format]
    rule: Rule
    model: FloatModel
    folder: Path
    grams: dict[str, GramFile] = field(default_factory=dict)

    @property
    def document(self) -> Document:
        """The prepared model."""
        return self.context.document

    def table(self, feeds: Feeds, fixed_bytes: int, elements: int) -> CandidateTable:
        """Every candidate with its noise, and with its seconds where latency is to be saved.

        Args:
            feeds: samples that losses are measured on
            fixed_bytes: bytes of the weights that no format is chosen for
            elements: number of all constant weights
        """
        cache = FigureCache.of(self.context.folder, self.document, self.model.feeds)
        options = self._with_losses(feeds)
        if self.context.options.cost == SearchCost.LATENCY:
            options = self._with_seconds(options)
        return CandidateTable(self._with_noises(options, cache), fixed_bytes, elements)

    def remeasure_around(self, table: CandidateTable, choice: FormatChoice) -> CandidateTable:
        """The table with noises corrected by the gain of taking each weight back to float among the others."""
        heavy = sorted(choice.formats, key=lambda n: -choice.picked[n].noise)[:_HEAVY]
        factors: dict[str, float] = {}
        with self.model.with_weights(self.decoded_weights(choice)) as base:
            for i, name in enumerate(heavy):
                site, predicted = self.free[name], choice.picked[name].noise
                score = self.model.score({site.tensor.name: self.document.array(site.tensor)}, base)
                gain = choice.measured - noise_share(score.criterion)
                if predicted > 0 and math.isfinite(gain):
                    factors[name] = float(np.clip(gain / predicted, 1 / _MOST, _MOST))
                self.context.progress("measuring interactions", (i + 1) / len(heavy))
        return table.rescale(factors)

    def decoded_weights(self, choice: FormatChoice) -> Weights:
        """Names of tensors, with the values that they have after encoding."""
        solved = self.solved(choice)
        for name, form in choice.formats.items():
            site = self.free[name]
            encoded = solved[name] if name in solved else dispatch.rounded_to_nearest(form, self._matrix(site))
            yield site.tensor.name, self._restored(site, encoded)

    def solved(self, choice: FormatChoice) -> jobs.Results:
        """The weights of a choice that are not rounded to nearest, solved."""
        results, tasks = jobs.Results(self.context.folder), []
        for name, candidate in choice.picked.items():
            decision = candidate.decision
            if isinstance(decision, EncodeDecision) and decision.solver != Rtn.name:
                matrix, gram = self._matrix(self.free[name]), self.grams.get(name)
                task = jobs.Task(name, decision.format, decision.solver, matrix)
                tasks.append(replace(task, gram=gram.path, count=gram.count) if gram else task)
        jobs.run(tasks, results, self.context.options.jobs, self._counter("solving", len(tasks)))
        return results

    def _with_losses(self, feeds: Feeds) -> dict[str, list[FormatCandidate]]:
        """Candidates with their losses."""
        document, threads = self.document, self.context.options.threads
        readers = {n: r for n, s in self.free.items() if (r := nodes_showing_the_input(s, document.proto.graph))}
        names = {self.free[n].tensor.name: n for n in readers}
        nodes = [r for of_weight in readers.values() for r in of_weight]
        options: dict[str, list[FormatCandidate]] = {}
        for weight, gram, count in grams(document, nodes, feeds, threads=threads, progress=self.context.progress):
            name = names[weight]
            options[name] = candidates(document, self.free[name], self.formats, self.rule, gram)
            decisions = [c.decision for c in options[name]]
            if any(isinstance(d, EncodeDecision) and d.solver != Rtn.name for d in decisions):
                self.grams[name] = GramFile.save(self.folder / f"{len(self.grams)}.npy", gram, count)
        for name, site in self.free.items():
            if name not in options:
                options[name] = candidates(document, site, self.formats, self.rule, None)
        return {name: options[name] for name in self.free}

    def _with_seconds(self, options: Mapping[str, list[FormatCandidate]]) -> dict[str, list[FormatCandidate]]:
        """Candidates with the time of their products."""
        timer, positions = ProductTimer(self.document.opset, self.context.options.threads), self._positions()
        count, timed = self._counter("timing products", len(options)), {}
        for name, formats in options.items():
            site, rows = self.free[name], positions.get(name, 1)
            if is_decoded_at_load(site, self.rule):  # then no format is faster than another
                timed[name] = formats
            else:
                timed[name] = [replace(c, seconds=timer.seconds(site, c.decision, rows)) for c in formats]
            count(None)
        return timed

    def _positions(self) -> dict[str, int]:
        """Number of rows that each weight is multiplied with in the first sample."""
        main = self.document.proto.graph
        inputs = {n: r[0].node.input[0] for n, s in self.free.items() if (r := nodes_showing_the_input(s, main))}
        names = list(dict.fromkeys(inputs.values()))
        outputs = [runtime.shape_output(i) for i in range(len(names))]
        with runtime.extendable(self.document, self.context.options.threads) as source:
            session = source.session(runtime.shape_addition(names))
            shapes = runtime.run(session, self.model.feeds[0], outputs)
        rows = {name: int(np.prod(shapes[output][:-1])) for name, output in zip(names, outputs, strict=True)}
        return {site: max(rows[name], 1) for site, name in inputs.items()}

    def _with_noises(
        self, options: Mapping[str, list[FormatCandidate]], cache: FigureCache
    ) -> dict[str, list[FormatCandidate]]:
        """Candidates with the noise that they make while all other weights are float.

        Where there are many weights, those of one shape and role are measured at some places along the depth of the model,
        and interpolated between.
        """
        probes = {n: p for n, formats in options.items() if (p := _probe(formats))}
        kinds: dict[tuple[object, ...], list[str]] = {}
        for name in probes:
            kinds.setdefault((self.free[name].role, self.free[name].shape), []).append(name)
        places = {kind: probe_places(len(names), _share(len(names), len(probes))) for kind, names in kinds.items()}
        count = self._counter("measuring sensitivity", sum(map(len, places.values())))
        gains: dict[str, float] = {}
        for kind, names in kinds.items():
            measured = []
            for place in places[kind]:
                measured.append(math.log(self._gain(names[place], probes[names[place]], cache)))
                count(None)
            between = np.exp(np.interp(range(len(names)), places[kind], measured))
            gains.update(zip(names, between.tolist(), strict=True))
        return {
            name: [replace(c, noise=c.loss * gains[name]) for c in formats] if name in gains else formats[:1]
            for name, formats in options.items()
        }

    def _gain(self, name: str, probe: _Probe, cache: FigureCache) -> float:
        """The noise that a unit of a weight's loss makes."""
        site, key = self.free[name], f"{name} as {spec_of(probe.form)}"
        noise = cache.get(key)
        if noise is None:
            values = self._restored(site, dispatch.rounded_to_nearest(probe.form, self._matrix(site)))
            noise = noise_share(self.model.score({site.tensor.name: values}).criterion)
            cache.put(key, noise)
        return max(noise, _QUIETEST) / probe.loss

    def _matrix(self, site: Site) -> NDArray[Any]:
        return site.view.matrix(self.document.array(site.tensor))

    def _restored(self, site: Site, encoded: Encoded) -> NDArray[Any]:
        dtype = self.document.array(site.tensor).dtype
        return site.view.restore(dispatch.decode(encoded)).astype(dtype)

    def _counter(self, stage: str, total: int) -> Callable[[object], None]:
        """A callback that counts its calls and tells the progress."""
        calls = 0

        def count(_: object) -> None:
            nonlocal calls
            calls += 1
            self.context.progress(stage, calls / total)

        return count


def _share(count: int, total: int) -> int:
    """The number of weights of a kind that are measured, among ``total`` weights of all kinds."""
    return count if total <= _EXACT else max(2, round(_EXACT * count / total))


def probe_places(count: int, chosen: int) -> list[int]:
    """``chosen`` indices out of ``count``, both ends included, denser near the ends."""
    if chosen >= count:
        return list(range(count))
    wave = (1 - np.cos(np.linspace(0, np.pi, chosen))) / 2
    return sorted({round(place) for place in wave * (count - 1)})


def _probe(formats: Sequence[FormatCandidate]) -> _Probe | None:
    """The candidate with the middle loss: its noise shows, and it does not break the model."""
    probes = [
        _Probe(c.decision.format, c.loss) for c in formats if isinstance(c.decision, EncodeDecision) and c.loss > 0
    ]
    return sorted(probes, key=lambda p: p.loss)[len(probes) // 2] if probes else None
