"""Weights beside integer activations: which sites, and for static ones the search for ranges, tried on whole models."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.activations.balance import STRENGTH
from onnxquant.activations.codes import Codes
from onnxquant.activations.insert import Static
from onnxquant.activations.op_kinds import Kind, kind_of
from onnxquant.activations.search import FOR_ACCURACY, Outcome, Search, Tools, Wish, largest
from onnxquant.artifact import lowering
from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Chosen, Feed, Feeds, held_out
from onnxquant.calibration.gram_matrices import Reader, grams
from onnxquant.calibration.samples import Samples
from onnxquant.calibration.statistics import Statistics
from onnxquant.errors import FeedError, RecipeError
from onnxquant.formats.base import Encoded, Format
from onnxquant.graph.flow import Flow
from onnxquant.graph.identity import digest
from onnxquant.graph.io import Document
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find
from onnxquant.native import dispatch
from onnxquant.numerics.score import Score, closeness
from onnxquant.passes.equivalent.equalize import equalize
from onnxquant.passes.equivalent.rebase import candidates, rebase
from onnxquant.passes.equivalent.smooth import smooth
from onnxquant.plan.decision import EncodeDecision
from onnxquant.plan.planner import NO_INTEGER_SITES, IntegerSites, make_plan, refusal_beside_integers
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import Drop
from onnxquant.solvers import Inputs, solver_named
from onnxquant.targets import Activations
from onnxquant.validation.metric import Metric

Progress = Callable[[str, float], None]
# DequantizeLinear per channel; 16-bit codes.
_OPSET, _WIDE_OPSET = 13, 21
# Ways to quantize are judged by whole models' outputs on so many samples, of those that ranges were not found on: what
# fits its own samples best may cut off what others need.
_SCORED = 16
# Of SmoothQuant. Weights have a scale per channel and lose little, activations one per tensor and gain much: strengths
# above the paper's 0.5 are the good ones (minilm_l6: 14.3 dB at 0.5, 21.9 at 0.7, 22.6 at 0.85, 16.7 without).
STRENGTHS = (0.7, 0.85)
# SmoothQuant is tried where one kernel in so many at least is a matrix product.
_PRODUCTS = 4
# What was done, to which document, and how much channels are to be balanced.
Variant = tuple[str, Document, float]
# What auto_exclude aims at where no bound is given.
ENOUGH_DB = 25.0


@dataclass(frozen=True)
class Integers:
    """What a plan needs to know.

    Attributes:
        document: the float model, its weights as they are to be encoded.
        targets: sites that integer activations decide.
        static: what becomes of activations; None where they are rounded per call.
        solved: weights by site whose codes were chosen already, and not by rounding to nearest.
    """

    document: Document
    targets: IntegerSites = NO_INTEGER_SITES
    static: Static | None = None
    solved: Mapping[str, Encoded] = field(default_factory=dict)


def codes_of(settings: Options) -> Codes:
    """The type of the codes."""
    kind = settings.activation_type
    return Codes(
        int(kind.removeprefix("u").removeprefix("int")), not kind.startswith("u"), settings.symmetric_activations
    )


def least_opset(settings: Options) -> int:
    """What the model must have."""
    if settings.activations != "static":
        return 0
    return _WIDE_OPSET if codes_of(settings).bits == 16 else _OPSET


def dynamic(document: Document, rules: Recipe, settings: Options, samples: Samples | None, progress: Progress) -> Integers:
    """Every product whose weight can be int8 per channel: rounded per call by DynamicQuantizeMatMul.

    With samples, smoothed functions are tried too, and the best is kept.
    """
    best = Integers(document, _dynamic_targets(document, rules))
    if samples is None or not settings.smooth or not best.targets.multiplied:
        return best
    tries = _Tries(document, rules, samples, settings, progress)
    products = [u for s in find(document)[0] if s.name in best.targets.multiplied for u in s.uses]
    wanted = {use.node.input[0]: ["absmean"] for use in products}
    seen = collect(document, tries.feeds, wanted, threads=settings.threads, progress=progress)
    score = tries.trial.score(document, best.targets).judged
    for copy in smoothed(document, largest(seen, "absmean")).values():
        targets = _dynamic_targets(copy, rules)
        if (found := tries.trial.score(copy, targets).judged) > score:
            best, score = Integers(copy, targets), found
    return best


def _dynamic_targets(document: Document, rules: Recipe) -> IntegerSites:
    kind, opset = Activations.DYNAMIC, document.opset
    return IntegerSites(
        kind, frozenset(s.name for s in find(document)[0] if refusal_beside_integers(s, rules, kind, opset) is None)
    )


def static(
    original: Document, document: Document, rules: Recipe, settings: Options, samples: Samples | None, progress: Progress
) -> Integers:
    """Calibrate a prepared, simplified model, try ways to quantize its activations, and keep the best.

    Raises:
        FeedError: there is no data, or it does not fit.
        ModelError: nothing can compute on integers.
        StatisticsError: statistics of another model, or without what the method needs.
    """
    if samples is None:
        raise FeedError(
            "static activations need samples that the model will see: give --data; made-up ones would give ranges that "
            "mean nothing"
        )
    tries = _Tries(document, rules, samples, settings, progress)
    best = tries.run(_statistics(settings, original))
    return Integers(best.document, tries.trial.targets(best.document, best.static), best.static, tries.solved)


class _Tries:
    """The searches for one model: on the model as it is, then on functions equal to it that may be easier to round."""

    def __init__(self, document: Document, rules: Recipe, samples: Samples, settings: Options, progress: Progress) -> None:
        self.document, self.settings, self.progress = document, settings, progress
        self.streams = candidates(Flow(document.proto.graph)) if settings.rebase else []
        given = samples.for_calibration(document)
        self._chooses = bool(self.streams) or _chooses(settings)
        self.feeds, judged = held_out(given, _SCORED) if self._chooses else (given, given)
        self.trial = _Trial(document, rules, judged, settings)
        self.solved: dict[str, Encoded] = {}
        self.wish = Wish(
            codes=codes_of(settings),
            method=settings.calibration_method,
            parameters=_parameters(settings),
            balance=STRENGTH if settings.balance else 0.0,
            correct=settings.bias_correction,
        )

    def _search(self, document: Document, wish: Wish) -> Search:
        return Search(document, wish, self.feeds, self._tools({}), self.trial.excluded)

    def _tools(self, solved: Mapping[str, Encoded]) -> Tools:
        trial = self.trial

        def score(document: Document, made: Static) -> Score:
            return trial.score(document, trial.targets(document, made), made, solved)

        decoded = partial(trial.decoded, solved=solved)
        return Tools(decoded, score, self.settings.threads, self.progress)

    def run(self, statistics: Statistics | None) -> Outcome:
        """The best outcome; kernels are left in float only once that is known."""
        search = self._search(self.document.copy(), self.wish)
        search.calibrate(statistics, smoothing=self.settings.smooth, correlated=self.streams)
        best = search.run()
        tried = {"as it is": round(best.score.judged, 2)}
        base, kept, seen = self.document, "", search
        for variants in (self._rebased, self._variants) if statistics is None else ():
            prefix = kept
            for label, document, balance in variants(base, seen):
                other = self._search(document.copy(), replace(self.wish, method=best.static.method, balance=balance))
                other.calibrate()
                outcome = other.run()
                tried[prefix + label] = round(outcome.score.judged, 2)
                if outcome.score.judged > best.score.judged:
                    search, best, base, kept = other, outcome, document, f"{prefix}{label}, "
        samples = {"calibrated": len(self.feeds), "judged": len(self.trial.feeds), "apart": self._chooses}
        about: dict[str, Any] = {"tried": best.static.about["tried"], "variants": tried, "samples": samples}
        if self.settings.solver != "rtn":
            solved = self._solve(search)
            other = search.with_tools(self._tools(solved))
            outcome = other.once(best.static.method)
            tried[kept + "solved by gptq"] = round(outcome.score.judged, 2)
            if self.settings.solver == "gptq" or outcome.score.judged > best.score.judged:
                search, best, self.solved = other, outcome, solved
                kernels = dict.fromkeys(u.node.input[1] for u in search.placement.kernels)
                about |= {"solver": "gptq", "not_solved": [name for name in kernels if name not in solved]}
        if self.settings.auto_exclude and not (enough := self.trial.enough(self.solved))(best):
            best = search.exclude(best, enough)
        made = replace(best.static, about={**best.static.about, **about}, observed=search.observed())
        return replace(best, static=made)

    def _solve(self, search: Search) -> dict[str, Encoded]:
        """Codes for the weights of kernels that lose least on the samples; what is not in it is rounded to nearest."""
        document, settings = search.document, self.settings
        dims = {t.name: tuple(t.dims) for t in document.proto.graph.initializer}
        # Where a bias takes up the mean error afterwards, only what varies is left for the weight's codes.
        readers = [
            Reader(n, n.input[1], dims[n.input[1]], settings.bias_correction and n.op_type in ("Conv", "Gemm"))
            for n in (u.node for u in search.placement.kernels)
        ]
        weighed = grams(document, readers, self.feeds, threads=settings.threads, progress=self.progress)
        found = {name: self.trial.solve(document, name, gram, count) for name, gram, count in weighed}
        return {name: encoded for name, encoded in found.items() if encoded}

    def _rebased(self, base: Document, seen: Search) -> Iterator[Variant]:
        """The function with its linear streams in another basis: where it is better, others are made from it."""
        document = base.copy()
        if seen.moments and rebase(document, seen.moments):
            yield "rebased", document, self.wish.balance

    def _variants(self, base: Document, seen: Search) -> Iterator[Variant]:
        """Equal functions; where channels are balanced, also the same one with all of them made equally wide."""
        if seen.balanced and self._chooses:
            yield "balanced fully", base, 1.0
        document = base.copy()
        if self.settings.equalize and equalize(document):
            yield "equalized", document, self.wish.balance
        # Where a product ends a convolutional network nothing is won, and what smoothes it for it costs an op.
        if _PRODUCTS * len(seen.magnitudes) >= len(seen.placement.kernels):
            for label, smooth_ in smoothed(base, seen.magnitudes).items():
                yield label, smooth_, self.wish.balance


def _chooses(settings: Options) -> bool:
    """Whether something is chosen by its score."""
    several = settings.calibration_method == "auto" or settings.solver == "auto"
    return several or settings.smooth or settings.equalize or settings.auto_exclude


def smoothed(document: Document, magnitudes: Mapping[str, NDArray[np.float64]]) -> dict[str, Document]:
    """Smoothed copies of a model, by their strength."""
    found: dict[str, Document] = {}
    for strength in STRENGTHS if magnitudes else ():
        copy = document.copy()
        if smooth(copy, magnitudes, strength=strength, insert=True):
            found[f"smoothed by {strength:g}"] = copy
    return found


def changed(before: Document, after: Document) -> list[str]:
    """Weights that are others after calibration: balanced, smoothed; the sites of biases are no sites."""
    old = {s.name: s.tensor for s in find(before)[0]}
    now = find(after)[0]
    return [s.name for s in now if s.name not in old or not _equal(before.array(old[s.name]), after.array(s.tensor))]


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a is b or (a.shape == b.shape and np.array_equal(a.view(np.uint8), b.view(np.uint8)))


def _parameters(settings: Options) -> dict[str, dict[str, Any]]:
    given = {"percentile": {"percentile": settings.percentile}, "mean-std": {"k": settings.sigmas}}
    return {m: {k: v for k, v in p.items() if v is not None} for m, p in given.items()}


def _statistics(settings: Options, original: Document) -> Statistics | None:
    if settings.calibration is None:
        return None
    found = Statistics.load(settings.calibration)
    found.check(digest(original), original.name)
    if found.synthetic:
        raise RecipeError(f"{settings.calibration}: holds statistics of made-up samples; expected real ones")
    return found


class _Trial:
    """Writes candidates to a temporary folder and runs them."""

    def __init__(self, document: Document, rules: Recipe, feeds: Feeds, settings: Options) -> None:
        self._document, self._rules, self._settings = document, rules, settings
        self._sites = {s.name: s for s in find(document)[0]}
        self.feeds = list(Chosen(feeds, range(_SCORED)))
        self._decoded: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
        self._expected = _run(document, self.feeds, settings.threads)
        self.excluded = self._refused(document)

    def _refused(self, document: Document) -> dict[str, str]:
        """Kernels whose weight cannot be int8 per channel under the rules, with the reason."""
        by_node: dict[str, str] = {}
        opset = max(document.opset, _OPSET)
        flow = Flow(document.proto.graph)
        kernels = {n.output[0] for n in flow.nodes if kind_of(n, flow) is Kind.KERNEL}
        for site in self._sites.values():
            readers = [u.node.output[0] for u in site.uses]
            refusal = refusal_beside_integers(site, self._rules, Activations.STATIC, opset)
            reason = str(refusal) if refusal else ""
            if not reason and not set(readers) <= kernels:
                reason = "its weight is shared with an op that computes in float"
            if reason:
                by_node.update((r, reason) for r in readers)
        sited = {u.node.output[0] for s in self._sites.values() for u in s.uses}
        by_node.update((k, "its weight is too small to be worth it") for k in kernels - sited)
        return by_node

    def targets(self, document: Document, made: Static) -> IntegerSites:
        """The sites beside integers."""
        left = made.about["left_in_float"]
        flow = Flow(document.proto.graph)
        multiplied, in_float = set(), set()
        for site in find(document)[0]:
            readers = [u.node for u in site.uses]
            reasons = {left.get(n.output[0], left.get(n.name, "")) for n in readers}
            if reasons == {""} and all(kind_of(n, flow) is Kind.KERNEL for n in readers):
                multiplied.add(site.name)
            elif FOR_ACCURACY in reasons:
                in_float.add(site.name)
        return IntegerSites(Activations.STATIC, frozenset(multiplied), frozenset(in_float))

    def solve(self, document: Document, name: str, gram: NDArray[np.float64], samples: int) -> Encoded | None:
        """A weight whose codes were chosen by the Gram matrices of its inputs; None: its format has no solver."""
        site = _site(document, name)
        form = self._format(site)
        gptq = solver_named("gptq")
        if form.permuted or gptq.refusal(form):
            return None
        weight = site.view.matrix(document.array(site.tensor))
        return gptq.solve(form, weight, Inputs(gram, samples), dispatch.rounded_to_nearest(form, weight))

    def decoded(self, document: Document, name: str, solved: Mapping[str, Encoded]) -> NDArray[Any]:
        """What becomes of a weight."""
        if name in solved:
            site = _site(document, name)
            return site.view.restore(dispatch.decode(solved[name]))
        tensor = next(t for t in document.proto.graph.initializer if t.name == name)
        values = document.array(tensor)
        kept = self._decoded.get(name)
        if kept is None or (kept[0] is not values and not np.array_equal(kept[0], values)):
            site = _site(document, name)
            form = self._format(site)
            encoded = dispatch.rounded_to_nearest(form, site.view.matrix(values))
            kept = (values, site.view.restore(dispatch.decode(encoded)))
            self._decoded[name] = kept
        return kept[1]

    def _format(self, site: Site) -> Format:
        claims = IntegerSites(Activations.STATIC, frozenset([site.name]))
        return make_plan([site], [], self._rules, _OPSET, claims).encoded[0].format

    def score(
        self,
        document: Document,
        targets: IntegerSites,
        made: Static | None = None,
        solved: Mapping[str, Encoded] | None = None,
    ) -> Score:
        """Of the file that would be deployed, on samples held out of calibration."""
        with self._session(document, targets, made, solved or {}) as session:
            return closeness(self._expected, [runtime.run(session, feed) for feed in self.feeds])

    def enough(self, solved: Mapping[str, Encoded]) -> Callable[[Outcome], bool]:
        """Whether no more has to be left in float: by the user's metric, or by the score."""
        settings = self._settings
        if settings.metric is None:
            least = ENOUGH_DB if settings.min_sqnr is None else settings.min_sqnr
            return lambda outcome: outcome.score.total >= least
        metric = Metric(settings.metric)
        with self._session(self._document, NO_INTEGER_SITES, None, {}) as session:
            bound = Drop.parse(settings.max_drop).least(metric(session))

        def keeps(outcome: Outcome) -> bool:
            if settings.min_sqnr is not None and outcome.score.total < settings.min_sqnr:
                return False
            targets = self.targets(outcome.document, outcome.static)
            with self._session(outcome.document, targets, outcome.static, solved) as session:
                return metric(session) >= bound

        return keeps

    @contextmanager
    def _session(
        self, document: Document, targets: IntegerSites, made: Static | None, solved: Mapping[str, Encoded]
    ) -> Iterator[runtime.Session]:
        """A session on the file that would be written."""
        sites, left = find(document)
        plan = make_plan(sites, left, self._rules, document.opset, targets)
        only = tuple(d for d in plan.encoded if d.name in targets.multiplied)
        plan = replace(plan, decisions=only, activations=made)
        with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
            path = Path(folder) / "candidate.onnx"
            with Publisher(path, external=document.is_external(), force=True) as publisher:
                lowering.write(document, plan, publisher, partial(_encoded, document, solved))
            yield runtime.open_session(path, runtime.session_options(threads=self._settings.threads))


def _site(document: Document, name: str) -> Site:
    return next(s for s in find(document)[0] if s.name == name)


def _encoded(document: Document, solved: Mapping[str, Encoded], site: Site, decision: EncodeDecision) -> Encoded | None:
    weight = site.view.matrix(document.array(site.tensor))
    return dispatch.encode(decision.format, weight, solved=solved.get(site.name))[0]


def _run(document: Document, feeds: list[Feed], threads: int | None) -> list[dict[str, Any]]:
    with runtime.session_of(document, threads=threads) as session:
        return [runtime.run(session, feed) for feed in feeds]
