"""What the candidates of each weight cost: by its inputs, by what it does to the outputs alone, and amid the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.budget.candidates import Candidate, candidates, spec_of
from onnxquant.budget.choices import Choice, Table
from onnxquant.budget.latency import Timer
from onnxquant.budget.sensitivity import Cache, Sensitivity
from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import grams
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
from onnxquant.solvers import jobs
from onnxquant.solvers.rtn import Rtn

Weights = Iterator[tuple[str, NDArray[Any]]]
# Of how many weights interactions are measured: those that make the most noise.
_HEAVY = 24
# Weights that are measured alone, where there are more; and the noise below which float32 says nothing.
_EXACT, _QUIETEST = 64, 1e-14
# A weight's noise may come out so many times larger or smaller amid the others than alone; more is chance.
_MOST = 8.0


@dataclass
class Weighing:
    """The weights that formats are chosen for, and what is needed to weigh them.

    Attributes:
        document: the prepared model.
        free: the sites, by name.
        forms: formats to choose among.
        rule: what else holds for them.
        sensitivity: the float model, to run with other weights.
        context: context of the run
        folder: for temporary files.
        grams: files of Gram matrices, and of how many inputs they are.
    """

    document: Document
    free: Mapping[str, Site]
    forms: Sequence[Format]
    rule: Rule
    sensitivity: Sensitivity
    context: Context
    folder: Path
    grams: dict[str, tuple[Path, int]] = field(default_factory=dict)

    def table(self, feeds: Feeds, fixed_bytes: int, elements: int) -> Table:
        """Every candidate with its noise, and its seconds where latency is to be saved.

        Args:
            feeds: samples that losses are weighed on.
            fixed_bytes: of weights that are not free.
            elements: of all constant weights.
        """
        cache = Cache.of(self.context.folder, self.document, self.sensitivity.feeds)
        options = self._weighed(feeds)
        if self.context.options.cost == "latency":
            options = self._timed(options)
        return Table(self._alone(options, cache), fixed_bytes, elements)

    def amid(self, table: Table, choice: Choice) -> Table:
        """Noises corrected by what taking each weight back to float gains amid the others."""
        heavy = sorted(choice.forms, key=lambda n: -choice.picked[n].noise)[:_HEAVY]
        factors: dict[str, float] = {}
        with self.sensitivity.stored(self.encoded(choice)) as base:
            for i, name in enumerate(heavy):
                site, alone = self.free[name], choice.picked[name].noise
                score = self.sensitivity.score({site.tensor.name: self.document.array(site.tensor)}, base)
                gained = choice.measured - noise_share(score.judged)
                if alone > 0 and math.isfinite(gained):
                    factors[name] = float(np.clip(gained / alone, 1 / _MOST, _MOST))
                self.context.progress("measuring interactions", (i + 1) / len(heavy))
        return table.rescale(factors)

    def encoded(self, choice: Choice) -> Weights:
        """The weights of a choice by tensor, as they would be written."""
        solved = self.solved(choice)
        for name, form in choice.forms.items():
            site = self.free[name]
            encoded = solved[name] if name in solved else dispatch.rounded_to_nearest(form, self._matrix(site))
            yield site.tensor.name, self._restored(site, encoded)

    def solved(self, choice: Choice) -> jobs.Results:
        """The weights of a choice that are not rounded to nearest."""
        results, tasks = jobs.Results(self.context.folder), []
        for name, candidate in choice.picked.items():
            decision = candidate.decision
            if isinstance(decision, EncodeDecision) and decision.solver != Rtn.name:
                gram, count = self.grams.get(name, (None, None))
                matrix = self._matrix(self.free[name])
                tasks.append(jobs.Task(name, decision.format, decision.solver, matrix, gram, count))
        jobs.run(tasks, results, self.context.options.jobs, self._counted("solving", len(tasks)))
        return results

    def _weighed(self, feeds: Feeds) -> dict[str, list[Candidate]]:
        """Candidates with their losses."""
        main, settings = self.document.proto.graph, self.context.options
        read = {n: r for n, s in self.free.items() if (r := nodes_showing_the_input(s, main))}
        by_tensor = {self.free[n].tensor.name: n for n in read}
        found: dict[str, list[Candidate]] = {}
        readers = [r for several in read.values() for r in several]
        weighed = grams(self.document, readers, feeds, threads=settings.threads, progress=self.context.progress)
        for weight, gram, count in weighed:
            name = by_tensor[weight]
            found[name] = candidates(self.document, self.free[name], self.forms, self.rule, gram)
            decisions = [c.decision for c in found[name]]
            if any(isinstance(d, EncodeDecision) and d.solver != Rtn.name for d in decisions):
                self.grams[name] = (self.folder / f"{len(self.grams)}.npy", count)
                np.save(self.grams[name][0], gram)
        for name, site in self.free.items():
            if name not in found:
                found[name] = candidates(self.document, site, self.forms, self.rule, None)
        return {n: found[n] for n in self.free}

    def _timed(self, options: Mapping[str, list[Candidate]]) -> dict[str, list[Candidate]]:
        """Candidates with their seconds."""
        timer, positions = Timer(self.document.opset, self.context.options.threads), self._positions()
        told, timed = self._counted("timing products", len(options)), {}
        for name, several in options.items():
            site, rows = self.free[name], positions.get(name, 1)
            if is_decoded_at_load(site, self.rule):  # then no format is faster than another
                timed[name] = several
            else:
                timed[name] = [replace(c, seconds=timer.seconds(site, c.decision, rows)) for c in several]
            told(None)
        return timed

    def _positions(self) -> dict[str, int]:
        """Rows of what each product multiplies in the first sample."""
        read = {
            n: r[0].node.input[0]
            for n, s in self.free.items()
            if (r := nodes_showing_the_input(s, self.document.proto.graph))
        }
        names = list(dict.fromkeys(read.values()))
        outputs = [runtime.shape_output(i) for i in range(len(names))]
        with runtime.extendable(self.document, self.context.options.threads) as source:
            session = source.session(runtime.shape_addition(names))
            found = runtime.run(session, self.sensitivity.feeds[0], outputs)
        rows = {name: int(np.prod(found[output][:-1])) for name, output in zip(names, outputs, strict=True)}
        return {site: max(rows[name], 1) for site, name in read.items()}

    def _alone(self, options: Mapping[str, list[Candidate]], cache: Cache) -> dict[str, list[Candidate]]:
        """Candidates with the noise that they make while all other weights are float.

        Weights of one shape and role are measured along the depth of the model and interpolated between, where they are many.
        """
        probes = {n: p for n, several in options.items() if (p := _probe(several))}
        kinds: dict[tuple[object, ...], list[str]] = {}
        for name in probes:
            kinds.setdefault((self.free[name].role, self.free[name].shape), []).append(name)
        places = {kind: spread(len(names), _share(len(names), len(probes))) for kind, names in kinds.items()}
        told = self._counted("measuring sensitivity", sum(map(len, places.values())))
        gains: dict[str, float] = {}
        for kind, names in kinds.items():
            measured = []
            for place in places[kind]:
                measured.append(math.log(self._measured(names[place], probes[names[place]], cache)))
                told(None)
            between = np.exp(np.interp(range(len(names)), places[kind], measured))
            gains.update(zip(names, between.tolist(), strict=True))
        return {
            name: [replace(c, noise=c.loss * gains[name]) for c in several] if name in gains else several[:1]
            for name, several in options.items()
        }

    def _measured(self, name: str, probe: _Probe, cache: Cache) -> float:
        """The noise that a unit of a weight's loss makes."""
        form, site = probe.form, self.free[name]
        key = f"{name} as {spec_of(form)}"
        found = cache.get(key)
        if found is None:
            values = self._restored(site, dispatch.rounded_to_nearest(form, self._matrix(site)))
            found = noise_share(self.sensitivity.score({site.tensor.name: values}).judged)
            cache.put(key, found)
        return max(found, _QUIETEST) / probe.loss

    def _matrix(self, site: Site) -> NDArray[Any]:
        return site.view.matrix(self.document.array(site.tensor))

    def _restored(self, site: Site, encoded: Encoded) -> NDArray[Any]:
        dtype = self.document.array(site.tensor).dtype
        return site.view.restore(dispatch.decode(encoded)).astype(dtype)

    def _counted(self, stage: str, total: int) -> Callable[[object], None]:
        done = 0

        def told(_: object) -> None:
            nonlocal done
            done += 1
            self.context.progress(stage, done / total)

        return told


def _share(count: int, of: int) -> int:
    """How many of so many weights of a kind are measured."""
    return count if of <= _EXACT else max(2, round(_EXACT * count / of))


def spread(count: int, chosen: int) -> list[int]:
    """So many places of a range, its ends among them, denser where a model begins and ends."""
    if chosen >= count:
        return list(range(count))
    wave = (1 - np.cos(np.linspace(0, np.pi, chosen))) / 2
    return sorted({round(place) for place in wave * (count - 1)})


@dataclass(frozen=True)
class _Probe:
    """A format and the loss of a weight in it: what is run to see how much noise a unit of loss makes."""

    form: Format
    loss: float


def _probe(several: Sequence[Candidate]) -> _Probe | None:
    """The format whose noise is measured: the middle one, which shows and does not break the model."""
    probes = [
        _Probe(c.decision.format, c.loss) for c in several if isinstance(c.decision, EncodeDecision) and c.loss > 0
    ]
    return sorted(probes, key=lambda p: p.loss)[len(probes) // 2] if probes else None
