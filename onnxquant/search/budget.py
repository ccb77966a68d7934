"""The formats of a model's weights under a bound on its size or its quality.

Each weight's loss in each format is weighed by its inputs (cheap, a Gram matrix), and scaled by what encoding that weight
alone in one format does to the outputs (exact). Noises of single weights nearly add up, so the best choice is a knapsack
problem. Where they do not, that shows when the choice is run: weights are then weighed again in its midst, and chosen anew.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant import lowering, runtime
from onnxquant.calibration.extended import Extended, shape_name, shapes
from onnxquant.calibration.feeds import Chosen, Data, Feeds, held_out
from onnxquant.calibration.grams import grams
from onnxquant.errors import ModelError, RecipeError
from onnxquant.formats.base import Encoded, Format
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Left, Site, find
from onnxquant.integers import encode
from onnxquant.plan import make_plan, matching
from onnxquant.recipe import Recipe, Rule
from onnxquant.search.candidates import DEFAULT, Candidate, candidates, parse, spec_of
from onnxquant.search.knapsack import choose
from onnxquant.search.latency import Timer
from onnxquant.search.sensitivity import Cache, Sensitivity
from onnxquant.solvers import jobs
from onnxquant.solving import RTN, Work, opened, readers_of
from onnxquant.validation.closeness import closeness
from onnxquant.validation.task import Drop, Metric

# Samples that noises are measured on: of models with at most so many weights, and of larger ones.
_JUDGED = ((10_000_000, 8), (100_000_000, 4), (math.inf, 2))
# How many times a choice is weighed in its midst, and of how many weights: those that make the most noise.
_ROUNDS, _HEAVY = 2, 24
# Weights that are measured alone, where there are more; and the noise below which float32 says nothing.
_EXACT, _QUIETEST = 64, 1e-14
# A weight's noise may come out so many times larger or smaller amid the others than alone; more is chance.
_MOST = 8.0
# Steps of the front, and of the search for the smallest model that keeps a bound.
_STEPS = 12
# Where the search for the smallest begins without --min-sqnr, and how near to the bound it must come.
_FIRST_DB, _CLOSE = 25.0, 1.3


@dataclass(frozen=True)
class Choice:
    """One candidate per site, by its name, and what is known of them together.

    Attributes:
        picked: the candidates.
        fixed_bytes: of weights that are not free.
        elements: of all constant weights.
        predicted: sum of the candidates' noises.
        measured: the noise once it was run.
        keeps: whether it keeps the bound on quality; true where there is none.
    """

    picked: dict[str, Candidate]
    fixed_bytes: int
    elements: int
    predicted: float
    measured: float = math.nan
    keeps: bool = True

    @property
    def forms(self) -> dict[str, Format]:
        """Formats of the sites that are encoded."""
        return {n: f for n, c in self.picked.items() if (f := c.decision.format)}

    @property
    def nbytes(self) -> int:
        """Of all constant weights."""
        return self.fixed_bytes + sum(c.decision.nbytes for c in self.picked.values())

    @property
    def bits_per_weight(self) -> float:
        """Of all constant weights."""
        return 8 * self.nbytes / self.elements

    @property
    def seconds(self) -> float:
        """Of the products, where they were timed."""
        return sum(c.seconds for c in self.picked.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        about = {"bits_per_weight": round(self.bits_per_weight, 4), "predicted_sqnr_db": _db(self.predicted)}
        if self.seconds:
            about["products_ms"] = round(1000 * self.seconds, 4)
        return about | ({} if math.isnan(self.measured) else {"measured_sqnr_db": _db(self.measured)})


@dataclass
class Table:
    """Every free site's candidates.

    Attributes:
        options: candidates by site.
        fixed_bytes: of weights that are not free.
        elements: of all constant weights.
    """

    options: dict[str, list[Candidate]]
    fixed_bytes: int
    elements: int
    order: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.order = list(self.options)

    def best(self, nbytes: float) -> Choice | None:
        """The least noise within so many bytes."""
        return self._chosen(choose(self._noises(), self._bytes(), nbytes - self.fixed_bytes))

    def smallest(self, noise: float) -> Choice | None:
        """The fewest bytes, or the least time where products were timed, within so much noise."""
        return self._chosen(choose(self._times() or self._bytes(), self._noises(), noise))

    def lightest(self) -> int:
        """Bytes of the smallest choice there is."""
        return self.fixed_bytes + sum(min(c.decision.nbytes for c in o) for o in self.options.values())

    def heaviest(self) -> int:
        """Bytes with everything in float."""
        return self.fixed_bytes + sum(o[0].decision.nbytes for o in self.options.values())

    def front(self) -> list[Choice]:
        """The best choices of several sizes, smallest first."""
        found = [self.best(size) for size in np.geomspace(self.lightest(), self.heaviest(), _STEPS)]
        by_size = {c.nbytes: c for c in found if c}
        return [by_size[size] for size in sorted(by_size)]

    def rescale(self, factors: Mapping[str, float]) -> Table:
        """The table with the noises of sites multiplied."""
        options = {
            name: [replace(c, noise=c.noise * factors.get(name, 1.0)) for c in o] for name, o in self.options.items()
        }
        return Table(options, self.fixed_bytes, self.elements)

    def _chosen(self, picked: list[int] | None) -> Choice | None:
        if picked is None:
            return None
        chosen = {n: self.options[n][i] for n, i in zip(self.order, picked, strict=True)}
        return Choice(chosen, self.fixed_bytes, self.elements, sum(c.noise for c in chosen.values()))

    def _noises(self) -> list[list[float]]:
        return [[c.noise for c in self.options[n]] for n in self.order]

    def _times(self) -> list[list[float]]:
        """Seconds; of candidates that take as long the smaller one is the better."""
        if not any(c.seconds for o in self.options.values() for c in o):
            return []
        return [[c.seconds + 1e-15 * c.decision.nbytes for c in self.options[n]] for n in self.order]

    def _bytes(self) -> list[list[float]]:
        return [[float(c.decision.nbytes) for c in self.options[n]] for n in self.order]


@dataclass(frozen=True)
class Found:
    """What a search found: rules for the plan, how they came about, and the weights that it solved on the way."""

    rules: Recipe
    about: dict[str, Any]
    solved: jobs.Results


def search(document: Document, rules: Recipe, data: Data | None, work: Work) -> Found:
    """Rules that give each weight the format that suits the bound best.

    Args:
        document: the prepared model.
        rules: those before the last stay as they are; what the last one would decide is chosen.
        data: samples, in part for weighing, in part for judging.
        work: the settings ``budget_bpw``, ``max_size``, ``min_sqnr``, ``formats`` ..., and the folder for solved weights.

    Raises:
        RecipeError: there is no data, or no choice of formats keeps the bound.
        FeedError: the data does not fit.
    """
    if data is None:
        raise RecipeError("a search for formats weighs them on samples that the model will see: give --data")
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        return _Search(document, rules, opened(document, data, work.settings), work, Path(folder)).run()


class _Search:
    def __init__(self, document: Document, rules: Recipe, feeds: Feeds, work: Work, folder: Path) -> None:
        settings = work.settings
        self.document, self.rules, self.work, self.folder = document, rules, work, folder
        self.settings, self.progress = settings, work.progress
        self.grams: dict[str, tuple[Path, int]] = {}
        self.feeds, judged = held_out(feeds, _judged(document))
        self.judged = list(Chosen(judged, range(_judged(document))))
        # Whoever asks for a quality will look at what the proof says: its samples are judged too.
        self.proven = list(Chosen(feeds, range(settings.samples)))
        self.forms = parse(settings.formats or DEFAULT)
        sites, self.left = find(document)
        last = len(rules.rules) - 1
        self.free = {
            s.name: s for s in sites if (found := matching(s, rules)) and found[0] == last and not found[1].keep
        }
        self.fixed = [s for s in sites if s.name not in self.free]
        self._bytes_bound = settings.budget_bpw is not None or settings.max_size is not None
        self._metric = Metric(settings.metric) if settings.metric is not None else None
        self._least = -math.inf
        if not self.free:
            raise ModelError(f"{document.name}: nothing to choose formats for: rules decide every weight")

    @property
    def rule(self) -> Rule:
        """What holds for every free site but its format."""
        return self.rules.rules[-1]

    def run(self) -> Found:
        """Weigh, choose, run, weigh again."""
        sensitivity = Sensitivity(self.document, self.judged, self.folder, self.settings.threads)
        self._expected = sensitivity.outputs({}, self.proven) if self.settings.min_sqnr is not None else []
        if self._metric is not None:
            self._least = Drop.parse(self.settings.max_drop).least(self._metric(sensitivity.session({})))
        cache = Cache.of(self.work.folder, self.document, self.judged)
        table = self._alone(self._timed(self._weighed()), sensitivity, cache)
        tried: list[Choice] = []
        for attempt in range(_ROUNDS + 1):
            before = len(tried)
            choice = self._choose(table, sensitivity, tried)
            known = any(choice.forms == c.forms for c in tried[:before])
            if attempt == _ROUNDS or known or not choice.forms or not math.isfinite(choice.measured):
                break
            table = self._amid(table, choice, sensitivity)
        best = self._best(tried)
        about = {
            "asked": self._asked(),
            "formats": [spec_of(f) for f in self.forms],
            "chosen": best.to_dict(),
            "tried": [c.to_dict() for c in tried],
            "front": [c.to_dict() for c in table.front()],
            "sensitivity": _sensitivity(table, best),
        }
        return Found(self._recipe(best), about, self._solved(best))

    def _weighed(self) -> Table:
        """Candidates with their losses."""
        read = {n: r for n, s in self.free.items() if (r := readers_of(s, self.document.proto.graph))}
        by_tensor = {self.free[n].tensor.name: n for n in read}
        found: dict[str, list[Candidate]] = {}
        readers = [r for several in read.values() for r in several]
        for weight, gram, count in grams(
            self.document, readers, self.feeds, threads=self.settings.threads, progress=self.progress
        ):
            name = by_tensor[weight]
            found[name] = candidates(self.document, self.free[name], self.forms, self.rule, gram)
            if any(c.decision.solver != RTN for c in found[name]):
                self.grams[name] = (self.folder / f"{len(self.grams)}.npy", count)
                np.save(self.grams[name][0], gram)
        for name, site in self.free.items():
            if name not in found:
                found[name] = candidates(self.document, site, self.forms, self.rule, None)
        left: list[Left] = self.left
        elements = sum(s.elements for s in [*self.free.values(), *self.fixed]) + sum(math.prod(c.shape) for c in left)
        fixed = sum(c.nbytes for c in left) + sum(self._fixed_bytes(s) for s in self.fixed)
        return Table({n: found[n] for n in self.free}, fixed, elements)

    def _timed(self, table: Table) -> Table:
        """The table with the seconds of every candidate, where latency is to be saved."""
        if self.settings.cost != "latency":
            return table
        timer, positions = Timer(self.document.opset, self.settings.threads), self._positions()
        options: dict[str, list[Candidate]] = {}
        for i, (name, several) in enumerate(table.options.items()):
            site, rows = self.free[name], positions.get(name, 1)
            options[name] = [replace(c, seconds=timer.seconds(site, c.decision, rows)) for c in several]
            self.progress("timing products", (i + 1) / len(table.options))
        return Table(options, table.fixed_bytes, table.elements)

    def _positions(self) -> dict[str, int]:
        """Rows of what each product multiplies in the first sample."""
        read = {n: r[0].node.input[0] for n, s in self.free.items() if (r := readers_of(s, self.document.proto.graph))}
        names = list(dict.fromkeys(read.values()))
        session = Extended(self.document, self.folder, self.settings.threads).session(shapes(names))
        found = runtime.run(session, self.judged[0], [shape_name(i) for i in range(len(names))])
        rows = {name: int(np.prod(found[shape_name(i)][:-1])) for i, name in enumerate(names)}
        return {site: max(rows[name], 1) for site, name in read.items()}

    def _fixed_bytes(self, site: Site) -> int:
        return make_plan([site], [], self.rules, self.document.opset).decisions[0].nbytes

    def _alone(self, table: Table, sensitivity: Sensitivity, cache: Cache) -> Table:
        """Noises from what weights alone do to the outputs while all others are float.

        Weights of one shape and role are measured along the depth of the model and interpolated between, where they are many.
        """
        probes = {n: p for n, several in table.options.items() if (p := _probe(several))}
        kinds: dict[tuple[object, ...], list[str]] = {}
        for name in probes:
            kinds.setdefault((self.free[name].role, self.free[name].shape), []).append(name)
        gains: dict[str, float] = {}
        chosen = {kind: _spread(len(names), _share(len(names), len(probes))) for kind, names in kinds.items()}
        total, done = sum(map(len, chosen.values())), 0
        for kind, places in chosen.items():
            measured = []
            for place in places:
                name = kinds[kind][place]
                measured.append(math.log(self._measured_alone(name, probes[name], sensitivity, cache)))
                done += 1
                self.progress("measuring sensitivity", done / total)
            between = np.exp(np.interp(range(len(kinds[kind])), places, measured))
            gains.update(zip(kinds[kind], between.tolist(), strict=True))
        options = {
            name: [replace(c, noise=c.loss * gains[name]) for c in several] if name in gains else several[:1]
            for name, several in table.options.items()
        }
        return Table(options, table.fixed_bytes, table.elements)

    def _measured_alone(self, name: str, probe: Candidate, sensitivity: Sensitivity, cache: Cache) -> float:
        """The noise that a unit of a weight's loss makes."""
        form = probe.decision.format
        assert form
        key = f"{name} as {spec_of(form)}"
        noise = cache.get(key)
        if noise is None:
            noise = _noise(sensitivity.score(self._rounded({name: form})).judged)
            cache.put(key, noise)
        return max(noise, _QUIETEST) / probe.loss

    def _amid(self, table: Table, choice: Choice, sensitivity: Sensitivity) -> Table:
        """Noises corrected by what taking each weight back to float gains amid the others."""
        whole, values = choice.measured, self._encoded(choice)
        heavy = sorted(choice.forms, key=lambda n: -choice.picked[n].noise)[:_HEAVY]
        factors: dict[str, float] = {}
        for i, name in enumerate(heavy):
            noise = choice.picked[name].noise
            others = {t: v for t, v in values.items() if t != self.free[name].tensor.name}
            gained = whole - _noise(sensitivity.score(others).judged)
            if noise > 0 and math.isfinite(gained):
                factors[name] = float(np.clip(gained / noise, 1 / _MOST, _MOST))
            self.progress("measuring interactions", (i + 1) / len(heavy))
        return table.rescale(factors)

    def _rounded(self, forms: Mapping[str, Format]) -> dict[str, NDArray[Any]]:
        """Weights by tensor, rounded to nearest in these formats."""
        return {
            self.free[n].tensor.name: self._restored(self.free[n], encode(form, self._matrix(self.free[n]))[0])
            for n, form in forms.items()
        }

    def _encoded(self, choice: Choice) -> dict[str, NDArray[Any]]:
        """Weights by tensor, as they would be written."""
        solved = self._solved(choice)
        found = self._rounded({n: f for n, f in choice.forms.items() if n not in solved})
        for name in solved:
            found[self.free[name].tensor.name] = self._restored(self.free[name], solved[name])
        return found

    def _solved(self, choice: Choice) -> jobs.Results:
        """The weights of a choice that are not rounded to nearest."""
        results, tasks = jobs.Results(self.work.folder), []
        for name, candidate in choice.picked.items():
            form, solver = candidate.decision.format, candidate.decision.solver
            if form is not None and solver != RTN:
                gram, count = self.grams.get(name, (None, None))
                tasks.append(jobs.Task(name, form, solver, self._matrix(self.free[name]), gram, count))
        done = 0

        def told(task: jobs.Task) -> None:
            nonlocal done
            done += 1
            self.progress("solving", done / len(tasks))

        jobs.run(tasks, results, self.settings.jobs, told)
        return results

    def _matrix(self, site: Site) -> NDArray[Any]:
        return site.view.matrix(self.document.array(site.tensor))

    def _restored(self, site: Site, encoded: Encoded) -> NDArray[Any]:
        dtype = self.document.array(site.tensor).dtype
        return site.view.restore(encoded.format.decode(encoded)).astype(dtype)

    def _measured(self, choice: Choice, sensitivity: Sensitivity) -> Choice:
        """The choice with what running it says."""
        session = sensitivity.session(self._encoded(choice))
        score = sensitivity.score_of(session)
        keeps = self.settings.min_sqnr is None or score.total >= self.settings.min_sqnr
        if keeps and self.settings.min_sqnr is not None:
            proven = closeness(self._expected, [runtime.run(session, f) for f in self.proven])
            keeps = proven.total >= self.settings.min_sqnr
        if keeps and self._metric is not None:
            keeps = self._metric(session) >= self._least
        return replace(choice, measured=_noise(score.judged), keeps=keeps)

    def _choose(self, table: Table, sensitivity: Sensitivity, tried: list[Choice]) -> Choice:
        """The best choice by what is known so far; those that were run are added to ``tried``."""
        if not self._bytes_bound:
            return self._smallest(table, sensitivity, tried)
        tried.append(self._measured(self._within(table), sensitivity))
        return tried[-1]

    def _within(self, table: Table) -> Choice:
        """The best choice within the bound on bytes."""
        if self.settings.budget_bpw is not None:
            if found := table.best(self.settings.budget_bpw * table.elements / 8):
                return found
            least = f"{8 * table.lightest() / table.elements:.3f} bits per weight"
        else:
            # Names, nodes and alignment come on top of the weights: how much, the plan says.
            nbytes, least = float(self.settings.max_bytes()), ""
            while found := table.best(nbytes):
                size = self._file_bytes(found)
                if size <= self.settings.max_bytes():
                    return found
                nbytes = found.nbytes - max(size - self.settings.max_bytes(), 1)
                least = f"about {table.lightest() + size - found.nbytes} bytes"
            least = least or f"more than {table.lightest()} bytes"
        raise RecipeError(
            f"no choice of {', '.join(map(spec_of, self.forms))} is as small as asked: the smallest has {least}"
        )

    def _file_bytes(self, choice: Choice) -> int:
        """Of the file that the choice would become."""
        plan = make_plan(*find(self.document), self._recipe(choice), self.document.opset)
        external = self.settings.is_external(already=self.document.is_external(), nbytes=choice.nbytes)
        return lowering.predict(self.document, plan, "model.onnx", external=external)

    def _smallest(self, table: Table, sensitivity: Sensitivity, tried: list[Choice]) -> Choice:
        """The smallest choice that keeps the bound on quality: by bisection of the noise that is allowed."""
        noise = 10 ** (-(self.settings.min_sqnr or _FIRST_DB) / 10)
        kept, broken = 0.0, math.inf
        begin = len(tried)
        for step in range(_STEPS):
            found = table.smallest(noise)
            assert found  # staying in float makes no noise
            tried.append(self._measured(found, sensitivity))
            if tried[-1].keeps:
                kept = noise
            else:
                broken = noise
            self.progress("searching for the smallest", (step + 1) / _STEPS)
            if kept and broken < _CLOSE * kept:
                break
            noise = math.sqrt(kept * broken) if kept and broken < math.inf else 4 * noise if kept else noise / 4
        return self._best(tried[begin:])

    def _best(self, tried: Sequence[Choice]) -> Choice:
        """The least noise; where quality is the bound the smallest that keeps it."""
        if self._bytes_bound:
            return min(tried, key=lambda c: (not c.keeps, c.measured))
        good = [c for c in tried if c.keeps]
        return min(good, key=lambda c: (c.seconds, c.nbytes)) if good else min(tried, key=lambda c: c.measured)

    def _asked(self) -> dict[str, Any]:
        s = self.settings
        given = {"budget_bpw": s.budget_bpw, "max_size": s.max_size, "min_sqnr": s.min_sqnr}
        if self._metric is not None:
            given |= {"metric": self._metric.name, "least": self._least}
        return {k: v for k, v in given.items() if v is not None}

    def _recipe(self, choice: Choice) -> Recipe:
        """The rules before the last, one per format for the weights that get it, and one that keeps the others in float."""
        groups: dict[Format | None, list[str]] = {}
        for name, candidate in choice.picked.items():
            groups.setdefault(candidate.decision.format, []).append(name)
        made = []
        for form, names in groups.items():
            pattern = "|".join(re.escape(n) for n in names)
            about: dict[str, Any] = {"include": (f"^(?:{pattern})$",), "keep": form is None}
            if form is not None:
                given = {p: v for p in form.parameters() if (v := form.settings().get(p)) is not None}
                about |= {
                    "format": form.name,
                    "parameters": given,
                    "target": self.rule.target,
                    "solver": self.rule.solver,
                }
            made.append(Rule(**about))
        return Recipe((*self.rules.rules[:-1], *made, replace(self.rule, keep=True)))


def _share(count: int, of: int) -> int:
    """How many of so many weights of a kind are measured."""
    return count if of <= _EXACT else max(2, round(_EXACT * count / of))


def _spread(count: int, chosen: int) -> list[int]:
    """So many places of a range, its ends among them, denser where a model begins and ends."""
    if chosen >= count:
        return list(range(count))
    wave = (1 - np.cos(np.linspace(0, np.pi, chosen))) / 2
    return sorted({round(place) for place in wave * (count - 1)})


def _judged(document: Document) -> int:
    elements = sum(s.elements for s in find(document)[0])
    return next(count for most, count in _JUDGED if elements <= most)


def _probe(several: Sequence[Candidate]) -> Candidate | None:
    """The candidate whose noise is measured: the middle one, which shows and does not break the model."""
    encoded = sorted((c for c in several if c.decision.format and c.loss > 0), key=lambda c: c.loss)
    return encoded[len(encoded) // 2] if encoded else None


def _noise(sqnr_db: float) -> float:
    """Error power over signal power."""
    return float(10 ** (-sqnr_db / 10)) if math.isfinite(sqnr_db) else (0.0 if sqnr_db > 0 else math.inf)


def _db(noise: float) -> float | None:
    return round(-10 * math.log10(noise), 2) if 0 < noise < math.inf else None


def _sensitivity(table: Table, choice: Choice) -> list[dict[str, Any]]:
    """What each site's candidates cost, the most sensitive site first."""
    rows = []
    for name, several in table.options.items():
        costs = [{"format": c.label, "bytes": c.decision.nbytes, "noise": float(f"{c.noise:.4g}")} for c in several]
        rows.append({"name": name, "chosen": choice.picked[name].label, "candidates": costs})
    return sorted(rows, key=lambda r: -max(c["noise"] for c in r["candidates"]))
