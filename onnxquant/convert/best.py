"""Quantization of one model, in the way that the options say, or in the best of the ways that can suit it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxquant.calibration.feeds import Data, facts_of
from onnxquant.calibration.samples import Samples
from onnxquant.convert.quantize import output_path
from onnxquant.convert.quantize import quantize as quantize_one_way
from onnxquant.convert.ways import FLOAT16, INT4, STATIC, STATIC_SPARING, Way, ways
from onnxquant.errors import OnnxQuantError, RecipeError
from onnxquant.graph.io import load
from onnxquant.graph.publish import Publisher
from onnxquant.numerics.score import GOOD_DB
from onnxquant.recipe.declaration import Needs, declared
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.values import Effort, Goal
from onnxquant.report.data import Attempt, Choice, Request, Verdict
from onnxquant.report.provenance import Provenance, plain_options
from onnxquant.report.report import Report
from onnxquant.report.state import State
from onnxquant.system.files import atomically
from onnxquant.targets import Activations
from onnxquant.validation.compare import add_accuracy

# The part of the answers that stays the same, where an output has answers.
_SAME_ANSWERS = 0.99
# Files are equal in what a goal asks for if they differ by less.
_EQUAL = 1.03
# Samples that judge, at least, where there are as many.
_JUDGED = 16
# Seconds after which no further way is begun.
_SECONDS = {Effort.LOW: 60.0, Effort.MEDIUM: 300.0, Effort.HIGH: float("inf")}


def quantize(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: Data | None = None,
    progress: Progress = silent,
    command: str | None = None,
    **options: object,
) -> Report:
    """Quantize a model, write it, and prove what that cost: in the best way that samples show, or the one that options name.

    Args:
        source: path of an ONNX file, a ModelProto or an onnx_graphsurgeon Graph; it is never changed.
        output: file to write; None: ``<name>.<format>.onnx`` beside the source, or ``<name>.<goal>.onnx``.
        recipe: a TOML or YAML file, or a mapping, of ordered rules and perhaps ``options``.
        data: samples: a ``.npz``, a folder of arrays or images, a text, an iterable of ``{input name: array}`` ...
            (docs/feeds.md). Where no option names the way, they choose it, by ``goal``. None: int8 weights, and seeded
            synthetic samples for the proof.
        progress: callback for the name of a stage and the part of it that is done (0 to 1).
        command: the command line, for the report.
        options: fields of ``Options`` by name: ``goal``, ``format``, ``bits``, ``activations``, ``block_size``, ``target``,
            ``include``, ``exclude``, ``dry_run``, ``force`` ...

    Returns:
        the report; ``passed`` says whether the proof and the asked bounds hold.

    Raises:
        ModelError: the source cannot be read, or nothing in it can be quantized.
        RecipeError: an unknown option, format, parameter or recipe key.
        WeightError: a weight holds NaN or infinity.
        OutputError: the output exists, is the source, or cannot be written.
    """
    entries = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    settings, rules = Options.of_recipe(entries, options, has_samples=data is not None)
    if settings.goal is None:
        return quantize_one_way(
            source, output, recipe=entries, data=data, progress=progress, command=command, **options
        )
    if data is None:
        raise RecipeError("goal: the best file is chosen by what samples show: give them with --data (data=...)")
    original = load(source, settings.external_root)
    goal = Goal(settings.goal)
    place = output_path(original, output, partial(settings.output_name, rules))
    request = Request(rules.to_list(), plain_options(options))
    provenance = Provenance(settings, original, place, request, command)
    provenance.check()
    judged = replace(settings, samples=max(settings.samples, _JUDGED))
    samples = Samples(data, judged, facts_of(original))
    samples.for_calibration(original)
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        wish = _Wish(source, entries, options, samples, progress)
        best = _Race(wish, judged, Path(name), place.name).best(ways(original, goal))
        _publish(best.report, place, force=settings.force)
        if best.report.proof is not None and original.path is not None:
            add_accuracy(best.report.proof, original.path, place, samples, settings)
        if settings.save_recipe is not None:
            with atomically(Path(settings.save_recipe)) as stream:
                stream.write(best.recipe.read_bytes())
    return provenance.finish(best.report)


@dataclass
class _Candidate:
    """A file that was made in one of the ways.

    Attributes:
        way: the way.
        report: the report on the file.
        recipe: the recipe that makes it again.
        seconds: time that it took.
        keeps: whether it keeps the bound on quality.
    """

    way: Way
    report: Report
    recipe: Path
    seconds: float
    keeps: bool

    @property
    def verdict(self) -> Verdict:
        return self.report.verdict

    @property
    def nbytes(self) -> int:
        return self.report.final_bytes or 0

    def attempt(self, objection: str) -> Attempt:
        """The row of the table of attempts."""
        return Attempt(self.way.name, self.way.options, self.seconds, self.nbytes, self.verdict, objection)


@dataclass(frozen=True)
class _Wish:
    """The arguments of the user that all ways share.

    Attributes:
        source: the model.
        entries: entries of the recipe.
        keywords: options.
        samples: samples, split.
        progress: callback for the stage and the part of it that is done.
    """

    source: str | Path | onnx.ModelProto
    entries: Mapping[str, Any] | None
    keywords: Mapping[str, object]
    samples: Samples
    progress: Progress


class _Race:
    """The ways of a model, each tried as a whole file that all samples of one split judge.

    Args:
        wish: arguments of the user.
        settings: options of the run.
        folder: folder for the files.
        name: name of the file to make; references to external data hold it.
    """

    def __init__(self, wish: _Wish, settings: Options, folder: Path, name: str) -> None:
        self._wish, self._settings, self._folder, self._name = wish, settings, folder, name
        self._goal = Goal(settings.goal or Goal.FAST)
        self._candidates: list[_Candidate] = []
        self._refused: list[Attempt] = []
        self._skipped: list[str] = []

    def best(self, plan: Sequence[Way]) -> _Candidate:
        """The best file of some ways; its report has the choice.

        Raises:
            OnnxQuantError: no way makes a file; the error of the first.
        """
        begin, failure = time.monotonic(), None
        for place, way in enumerate(plan):
            if way.rescues and not self._is_needed(way):
                continue
            if self._candidates and time.monotonic() - begin > _SECONDS[Effort(self._settings.effort)]:
                self._skipped.append(way.name)
                continue
            try:
                self._try(way, place, len(plan))
            except KeyboardInterrupt:
                if not any(c.keeps for c in self._candidates):
                    raise
                self._skipped += [w.name for w in plan[place:] if not w.rescues]
                break
            except OnnxQuantError as error:
                failure = failure or error
                self._refused.append(Attempt(way.name, way.options, 0.0, objection=str(error)))
        if not self._candidates:
            raise failure or RecipeError("goal: no way suits this model")
        return self._chosen()

    def _is_needed(self, way: Way) -> bool:
        """Whether a way that rescues is to be tried: what it replaces was tried and loses too much."""
        if way is FLOAT16:
            return not any(c.keeps for c in self._candidates)
        replaced = STATIC if way is STATIC_SPARING else INT4
        return any(c.way is replaced and not c.keeps for c in self._candidates)

    def _try(self, way: Way, place: int, count: int) -> None:
        wish = self._wish
        folder = self._folder / str(place)
        folder.mkdir()
        begin, recipe = time.monotonic(), folder / f"recipe{Path(self._settings.save_recipe or '.toml').suffix}"
        options: dict[str, Any] = {
            **_effective(wish.keywords, way), **self._options(way), "goal": None, "report": (), "force": True,
            "save_recipe": str(recipe), "samples": self._settings.samples,
        }  # fmt: skip
        entries = dict(wish.entries or {})
        if "options" in entries:
            entries["options"] = _effective(entries["options"], way)
        title = f"{way.name} ({place + 1} of {count})"
        report = quantize_one_way(
            wish.source, folder / self._name, recipe=entries, data=wish.samples.again(),
            progress=lambda stage, done: wish.progress(f"{title}: {stage}", done), **options,
        )  # fmt: skip
        is_float = report.activations is not None and report.activations.integer_kernels == 0
        keeps = _keeps(report, self._settings) and not is_float
        self._candidates.append(_Candidate(way, report, recipe, time.monotonic() - begin, keeps))

    def _options(self, way: Way) -> dict[str, Any]:
        """Options of a way, which keeps the user's bound where there is one."""
        settings = self._settings
        own = {"min_sqnr": settings.min_sqnr} if settings.min_sqnr is not None or settings.metric is not None else {}
        return {**way.options, **(own if "min_sqnr" in way.options else {})}

    def _chosen(self) -> _Candidate:
        keeping = [c for c in self._candidates if c.keeps]
        winner = self._first(keeping) if keeping else max(self._candidates, key=_quality)
        rows = []
        for candidate in self._candidates:
            objection = ""
            if candidate is not winner:
                objection = "loses too much" if not candidate.keeps else self._objection(candidate, winner)
            rows.append(candidate.attempt(objection))
        winner.report.choice = Choice(
            self._goal.value, _bound(self._settings), bool(keeping), winner.way.name, (*rows, *self._refused),
            tuple(self._skipped),
        )  # fmt: skip
        return winner

    def _first(self, candidates: list[_Candidate]) -> _Candidate:
        """The best candidate for the goal; among equals the best by the other measure, then the one tried first."""
        for score in _SCORES[self._goal]:
            best = max(map(score, candidates))
            candidates = [c for c in candidates if score(c) * _EQUAL >= best]
        return candidates[0]

    def _objection(self, candidate: _Candidate, winner: _Candidate) -> str:
        """The reason why a candidate that keeps the bound is not the best."""
        score, second = _SCORES[self._goal]
        if score(candidate) * _EQUAL < score(winner):
            return _WORSE[self._goal][0]
        return _WORSE[self._goal][1] if second(candidate) * _EQUAL < second(winner) else "equal"


def _effective(options: Mapping[str, Any], way: Way) -> dict[str, Any]:
    """Options that have an effect in a way; the goal is what chose the way."""
    activations = Activations(str(way.options.get("activations", Activations.NONE)))
    unmet = {Activations.NONE: (Needs.STATIC, Needs.INTEGERS), Activations.DYNAMIC: (Needs.STATIC,)}
    without = {n for n, spec in declared(Options).items() if spec.declared.needs in unmet.get(activations, ())}
    return {name: value for name, value in options.items() if name != "goal" and name not in without}


def _speed(candidate: _Candidate) -> float:
    return candidate.verdict.faster or 1.0


def _smallness(candidate: _Candidate) -> float:
    return 1.0 / max(candidate.nbytes, 1)


def _balance(candidate: _Candidate) -> float:
    return _speed(candidate) * _smallness(candidate)


_SCORES: dict[Goal, tuple[Callable[[_Candidate], float], Callable[[_Candidate], float]]] = {
    Goal.FAST: (_speed, _smallness),
    Goal.SMALL: (_smallness, _speed),
    Goal.BALANCED: (_balance, _speed),
}


# What is worse about a candidate that loses by the first measure of a goal, and by the second.
_WORSE = {
    Goal.FAST: ("slower", "larger"),
    Goal.SMALL: ("larger", "slower"),
    Goal.BALANCED: ("larger for its speed", "slower"),
}


def _quality(candidate: _Candidate) -> tuple[bool, float]:
    ratio = candidate.verdict.worst_sqnr_db
    return candidate.verdict.state is not State.FAILED, -1e9 if ratio is None else ratio


def _keeps(report: Report, settings: Options) -> bool:
    """Whether a file keeps the user's bounds, or else the usual one."""
    verdict = report.verdict
    if verdict.state.is_failure:
        return False
    if settings.metric is not None or settings.min_sqnr is not None or settings.max_mse is not None:
        return True  # the proof has found nothing
    good = verdict.worst_sqnr_db is None or verdict.worst_sqnr_db >= GOOD_DB
    same = not verdict.answers or verdict.same is None or verdict.same >= _SAME_ANSWERS * verdict.answers
    return good and same


def _bound(settings: Options) -> str:
    """The bound in words."""
    parts = []
    if settings.min_sqnr is not None:
        parts.append(f"every output keeps {settings.min_sqnr:g} dB")
    if settings.max_mse is not None:
        parts.append(f"no mean squared error above {settings.max_mse:g}")
    if settings.metric is not None:
        parts.append(f"the metric falls by at most {settings.max_drop}")
    return " and ".join(parts) or f"the worst output keeps {GOOD_DB:g} dB, and 99 % of the answers stay the same"


def _publish(report: Report, place: Path, *, force: bool) -> None:
    """Put the file of a report in its place."""
    with Publisher(place, external=report.external_data, force=force) as publisher:
        publisher.publish_copy(Path(str(report.output)))
    report.output = str(place)
