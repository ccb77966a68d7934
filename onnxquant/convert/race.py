"""The race of the ways that can suit a model: files made on the user's samples and this machine, compared by one look."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxquant.calibration.samples import Samples
from onnxquant.convert.bound import bound_in_words, is_near_bound, margin_db, missed_bound, option_that_takes
from onnxquant.convert.candidate import (
    BEST,
    EQUAL,
    SCORES,
    SECOND,
    Candidate,
    first_of,
    is_all_in_float,
    is_on_front,
    line,
    loss,
    objection,
    prospect,
    quality,
)
from onnxquant.convert.forecast import Forecast
from onnxquant.convert.quantize import quantize
from onnxquant.convert.ways import FLOAT16, INT4_SOLVED, INT4_WHOLE_SOLVED, MIXED, STATIC, STATIC_MULS, Family, Way
from onnxquant.errors import FeedError, OnnxQuantError, RecipeError
from onnxquant.numerics.score import GOOD_DB
from onnxquant.plan.activations import StaticRecord
from onnxquant.recipe.declaration import Needs, declared
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, announce
from onnxquant.recipe.values import Effort, Goal
from onnxquant.report.data import Attempt, Choice
from onnxquant.report.verdict import counts_answers
from onnxquant.solvers.rtn import Rtn
from onnxquant.targets import Activations
from onnxquant.validation.latency import ORIGINAL, QUANTIZED, Latency, TimedModel, latencies
from onnxquant.validation.reference import Reference
from onnxquant.validation.trial import look

# Files that may be the fastest are measured again beside each other: so many, in so many seconds.
_FINALISTS, _FINAL_SECONDS = 3, 2.0
# Seconds after which no further way is begun, and the effort of a way's own search.
_SECONDS = {Effort.LOW: 20.0, Effort.MEDIUM: 60.0, Effort.HIGH: math.inf}
_INNER = {Effort.LOW: Effort.LOW, Effort.MEDIUM: Effort.LOW, Effort.HIGH: Effort.MEDIUM}
# Multiple of that time until which a way that rescues others may begin.
_RESCUE = 1.5
# Multiple of that time until which the last way and the proof are to end; the first file is always made.
_END = 3.0
# Time on a busy machine counts only beyond this multiple of the work's own.
_BUSY = 3.0
# Speeds of a file alone and beside others differ by this factor only where something else takes the processor.
_MOVED = 1.5
# A file that misses the bound is worth a word where it is better by this factor.
_CLEARLY = 1.1
# Decibels that a solver may bring at most.
_SOLVED_DB = 5.0
# The part of the time that one way's search may take of what is left, and seconds that it may take at most and at least.
_PART, _LEAST_SECONDS = 0.3, 5.0
_MOST_SECONDS = {Effort.LOW: 8.0, Effort.MEDIUM: 15.0, Effort.HIGH: math.inf}


class _Clock:
    """The time of a race. What other work on a busy machine takes does not count, but for its excess.

    Args:
        counts_all: whether it counts, because the user has named the time.
    """

    def __init__(self, *, counts_all: bool) -> None:
        self._counts_all, self._started, self._worked = counts_all, time.monotonic(), time.process_time()
        self._entered = self._started

    def begin(self) -> None:
        """Begin the time of ways: what came before counts where the user has named the time."""
        if not self._counts_all:
            self._started, self._worked = time.monotonic(), time.process_time()

    def on_the_wall(self) -> float:
        """Seconds since the run was entered, whatever took them."""
        return time.monotonic() - self._entered

    def passed(self) -> float:
        """Seconds since the beginning."""
        passed, worked = time.monotonic() - self._started, time.process_time() - self._worked
        return passed if self._counts_all else max(min(passed, worked), passed / _BUSY)


@dataclass(frozen=True)
class Wish:
    """The arguments of the user that all ways share.

    Attributes:
        source: the model.
        entries: entries of the recipe.
        keywords: options.
        samples: samples, split.
        progress: callback for the stage and the part of it that is done.
        call: seconds of one call of the model.
    """

    source: str | Path | onnx.ModelProto
    entries: Mapping[str, Any] | None
    keywords: Mapping[str, object]
    samples: Samples
    progress: Progress
    call: float = 0.0


class Race:
    """The ways of a model, each tried as a whole file that all samples of one split judge.

    Args:
        wish: arguments of the user.
        settings: options of the run.
        reference: the original.
        folder: folder for the files.
        name: name of the file to make; references to external data hold it.

    Attributes:
        is_interrupted: whether Ctrl-C or a signal has ended it: what follows is to take little time.
    """

    def __init__(self, wish: Wish, settings: Options, reference: Reference, folder: Path, name: str) -> None:
        self._wish, self._settings, self._reference = wish, settings, reference
        self._folder, self._name = folder, name
        self.goal = Goal(settings.goal or Goal.FAST)
        self._effort, self._clock = Effort(settings.effort), _Clock(counts_all=settings.time is not None)
        self._seconds = settings.seconds() or _SECONDS[self._effort]
        self._candidates: list[Candidate] = []
        self._beside: dict[str, Latency] = {}
        self._refused: list[Attempt] = []
        self._skipped: list[str] = []
        self._moved: list[str] = []
        self.is_interrupted = False

    @property
    def seconds(self) -> float:
        """Seconds after which no further way is begun."""
        return self._seconds

    def best(self, plan: Sequence[Way]) -> Candidate:
        """The best file of some ways; its report has the choice.

        Raises:
            OnnxQuantError: no way makes a file; the error of the first.
        """
        failure: OnnxQuantError | None = None
        self._clock.begin()
        tried, certain = 0, sum(not way.objection and not way.rescues for way in plan)
        for place, way in enumerate(plan):
            if way.objection and not way.rescues:
                self._refused.append(Attempt(way.name, way.keywords, 0.0, objection=way.objection))
            if way.objection:
                continue
            if way.rescues and not self._is_needed(way):
                continue
            if self._candidates and (self._clock.passed() > self._limit(way) or self._would_end_late(way)):
                self._skipped.append(way.name)
                continue
            try:
                tried += 1
                certain += way.rescues is not None
                self._try(way, place, f"{tried} of {certain}")
            except KeyboardInterrupt as interrupt:
                if not self._keeping:
                    count = len(self._candidates)
                    none = f"nothing was written: none of the files that were made ({count}) keeps the bound"
                    interrupt.args = (none,) if count else ()  # what it says is of a temporary file
                    raise
                self.is_interrupted = True
                self._skipped += [w.name for w in plan[place:] if not w.rescues]
                break
            except FeedError:
                raise
            except OnnxQuantError as error:
                failure = failure or error
                self._refused.append(Attempt(way.name, way.keywords, 0.0, objection=str(error)))
        if not self._candidates:
            raise failure or RecipeError("goal: no way suits this model")
        return self._chosen()

    def _limit(self, way: Way) -> float:
        """Seconds after which a way is not begun: what rescues others goes on from them, and takes little time."""
        if way.comes_of(FLOAT16):
            return math.inf
        is_rescue = way.rescues is not None and self._settings.time is None
        return self._seconds * (_RESCUE if is_rescue else 1.0)

    def _would_end_late(self, way: Way) -> bool:
        """Whether a way and a proof would end too late, by the time of one call and of earlier ways."""
        if way.comes_of(FLOAT16):  # what is left where nothing keeps the bound
            return False
        samples = self._wish.samples.for_calibration(self._reference.document)
        forecast = Forecast(self._wish.call, len(samples.judging), len(samples.calibrating), self._seconds)
        expected = forecast.expected(way, [(c.way, c.seconds) for c in self._candidates])
        return self._clock.on_the_wall() + expected > _END * self._seconds

    def _is_needed(self, way: Way) -> bool:
        """Whether a way that rescues is to be tried: what it replaces was tried, and is not good enough."""
        keeping = self._keeping
        fastest = max((c.speed for c in keeping), default=0.0)
        if way.rescues is Family.ANY:  # who wants speed does not want a file that is slower than the original
            return not keeping or (self.goal is Goal.FAST and fastest * EQUAL < 1)
        if way.comes_of(STATIC_MULS) and not (self._settings.smooth and self._settings.smoothing_muls):
            return False
        family = [c for c in self._candidates if c.way.family is way.rescues]
        if way.comes_of(MIXED) and family:
            return True  # between 8 and 4 bits there is more to gain than one of them keeps
        if not family or any(c.keeps for c in family):
            return False
        best = max(family, key=quality)
        is_near = quality(best)[1] >= GOOD_DB - _SOLVED_DB or self._settings.metric is not None
        is_no_slower = self.goal is not Goal.FAST or best.speed * EQUAL >= fastest
        is_solved = way.comes_of(INT4_SOLVED) or way.comes_of(INT4_WHOLE_SOLVED)
        return not is_solved or (is_near and is_no_slower)

    def _try(self, way: Way, place: int, turn: str) -> None:
        """Make and measure the file of a way.

        Args:
            way: the way.
            place: its place in the plan.
            turn: the number of ways that were begun, and of those that will be.
        """
        wish = self._wish
        folder = self._folder / str(place)
        folder.mkdir()
        begin, recipe = time.monotonic(), folder / f"recipe{Path(self._settings.save_recipe or 'recipe.toml').suffix}"
        title = f"{way.name} ({turn})"

        def progress(stage: str, done: float) -> None:
            wish.progress(f"{title}: {stage}", done)

        report = quantize(
            wish.source, folder / self._name, recipe=self._entries(way), data=wish.samples.again(), progress=progress,
            reference=self._reference, command=None, **self._options(way, recipe),
        )  # fmt: skip
        report.prove(look(self._reference, folder / self._name, self._settings, progress))
        missed = missed_bound(report, self._settings)
        keeps = not missed and not is_all_in_float(report)
        is_near = keeps and is_near_bound(report, self._settings)
        candidate = Candidate(way, report, recipe, time.monotonic() - begin, keeps and not is_near, is_near, missed)
        self._candidates.append(candidate)
        self._drop_files()
        announce(wish.progress, line(candidate))

    def _options(self, way: Way, recipe: Path) -> dict[str, Any]:
        """Options of a way, which keeps the user's bound where there is one."""
        settings = self._settings
        options = {**way.options, **({"min_sqnr": self._least_db(way)} if "min_sqnr" in way.options else {})}
        if "activations" in options:
            options = {**self._pinned(way), **options, "effort": _INNER[self._effort].value, "time": self._time_of_a_way()}
        return {
            **effective(self._wish.keywords, way), **options, "goal": None, "report": (), "force": True, "proof": False,
            "save_recipe": str(recipe), "samples": settings.samples, "calibration_samples": settings.calibration_samples,
        }  # fmt: skip

    def _least_db(self, way: Way) -> float | None:
        """Decibels that a way's own search is to keep: the bound, and more where others in its place were near it."""
        settings = self._settings
        if settings.metric is not None:
            return settings.min_sqnr
        near = [margin_db(c.report) for c in self._candidates if c.is_near and c.way.family is way.rescues]
        return (GOOD_DB if settings.min_sqnr is None else settings.min_sqnr) + max(near, default=0.0)

    def _pinned(self, way: Way) -> dict[str, Any]:
        """Options that static files have shown to be best: ways with some work in float search no more."""
        whole = [c for c in self._candidates if c.way.comes_of(STATIC) or c.way.comes_of(STATIC_MULS)]
        if not whole or way.rescues is not Family.STATIC or way.comes_of(STATIC_MULS):
            return {}
        record = whole[-1].report.activations  # its search went on from the others'
        if not isinstance(record, StaticRecord):
            return {}
        scores = list(record.variants.values())
        is_as_it_was = bool(scores) and scores[0] >= max(scores)
        changes = dict.fromkeys(("balance", "smooth", "equalize", "rebase"), False) if is_as_it_was else {}
        changes["smoothing_muls"] = whole[-1].way.comes_of(STATIC_MULS)
        return {"calibration_method": record.method, "solver": record.solver or Rtn.name, **changes}

    def _time_of_a_way(self) -> str | None:
        """The time that the next way's own search may take; None: its effort decides."""
        if self._seconds == math.inf:
            return None
        most = math.inf if self._settings.time is not None else _MOST_SECONDS[self._effort]
        left = _PART * (self._seconds - self._clock.passed())
        return f"{max(_LEAST_SECONDS, min(most, left)):.0f}s"

    def _entries(self, way: Way) -> dict[str, Any]:
        """Entries of the recipe of a way: the user's rules first."""
        entries = dict(self._wish.entries or {})
        if "options" in entries:
            entries["options"] = effective(entries["options"], way)
        if way.rules:
            entries["rules"] = [*entries.get("rules", ()), *map(dict, way.rules)]
        return entries

    def _drop_files(self) -> None:
        """Remove files that cannot be chosen any more."""
        losers = [c for c in self._candidates if not c.keeps]
        if self._keeping:
            useless = losers
        else:
            best = max(losers, key=quality)
            useless = [c for c in losers if c is not best]
        for candidate in useless:
            shutil.rmtree(Path(str(candidate.report.output)).parent, ignore_errors=True)

    def _chosen(self) -> Candidate:
        keeping = self._keeping
        try:
            self._measure_again(keeping)
        except KeyboardInterrupt:  # the figures of each alone decide
            self.is_interrupted = True
        return first_of(keeping, self.goal) if keeping else max(self._candidates, key=quality)

    @property
    def _keeping(self) -> list[Candidate]:
        """The candidates that keep the bound."""
        return [candidate for candidate in self._candidates if candidate.keeps]

    def choice(self, winner: Candidate) -> Choice:
        """The choice, for the report; the winner's verdict is that of its look."""
        keeping, rows = self._keeping, []
        has_answers = winner.report.proof is not None and counts_answers(winner.report.proof)
        for candidate in self._candidates:
            why = ""
            if candidate is not winner:
                why = objection(candidate, winner, self.goal) if candidate.keeps else loss(candidate)
            rows.append(candidate.attempt(why, pareto=candidate.keeps and is_on_front(candidate, keeping)))
        bound = bound_in_words(self._settings, has_answers=has_answers)
        return Choice(
            self.goal.value, bound, bool(keeping), winner.way.name, (*rows, *self._refused), tuple(self._skipped),
            self._reason(winner, keeping), self.is_interrupted, self._alternative(winner),
        )  # fmt: skip

    def _alternative(self, winner: Candidate) -> str:
        """The best file that the goal would prefer and the bound forbids, with the option that takes it; empty: none is."""
        score = SCORES[self.goal][0]
        better = [c for c in self._candidates if not c.keeps and score(c) >= _CLEARLY * score(winner)]
        offers = [(c, option_that_takes(c.report, self._settings)) for c in better if not is_all_in_float(c.report)]
        offers = sorted((offer for offer in offers if offer[1]), key=lambda offer: quality(offer[0]), reverse=True)
        return next((f"{prospect(candidate, self.goal)}: {option} takes it" for candidate, option in offers), "")

    def _measure_again(self, keeping: Sequence[Candidate]) -> None:
        """Measure the files that may be the fastest beside each other: what the machine does meets all of them."""
        samples = self._reference.outputs
        if self.goal is Goal.SMALL or isinstance(samples, FeedError) or self.is_interrupted:
            return
        finalists = sorted(keeping, key=lambda c: -c.speed)[:_FINALISTS]
        if len(finalists) < 2:
            return
        self._wish.progress("the fastest beside each other", 0.0)
        models = {str(i): TimedModel(Path(str(c.report.output))) for i, c in enumerate(finalists)}
        models = {ORIGINAL: TimedModel(self._reference.path), **models}
        measured = latencies(models, samples.feeds[0], self._settings.threads, enough=_FINAL_SECONDS)
        for i, candidate in enumerate(finalists):
            if candidate.report.proof is not None:
                alone = candidate.speed
                candidate.report.proof.latency = measured.of({ORIGINAL: ORIGINAL, QUANTIZED: str(i)})
                self._beside[candidate.way.name] = candidate.report.proof.latency
                beside = candidate.speed
                if max(alone, beside) > _MOVED * min(alone, beside):
                    self._moved.append(f"{candidate.way.name} {alone:.2f}x alone and {beside:.2f}x beside the others")

    def latency_of(self, winner: Candidate) -> Latency | None:
        """The latency of the winner as measured beside the others that may be the fastest; None where there were none."""
        return self._beside.get(winner.way.name)

    def _reason(self, winner: Candidate, keeping: Sequence[Candidate]) -> str:
        """Why the winner is the best."""
        count = len(self._candidates)
        if count == 1:
            refused = f"; {len(self._refused)} others were refused" if self._refused else ""
            untried = "; there was no time for others" if self._skipped and not self.is_interrupted else ""
            return f"the only file that was made{'' if keeping else ', which does not keep the bound'}{refused}{untried}"
        if not keeping:
            return f"none of the {count} files keeps the bound; its outputs are the best"
        if len(keeping) == 1:
            return f"the only one of {count} files that keeps the bound"
        first = SCORES[self.goal][0]
        is_first = first(winner) >= max(map(first, keeping))
        equal = f"; what differs by less than {EQUAL - 1:.0%} is equal: {SECOND[self.goal]} wins, then the better outputs"
        others = "" if is_first else equal
        moved = f"; measured on a busy machine: {', '.join(self._moved)}" if self._moved else ""
        return f"{BEST[self.goal]} of the {len(keeping)} files that keep the bound{others}{moved}"


def effective(options: Mapping[str, Any], way: Way) -> dict[str, Any]:
    """Options that have an effect in a way; the goal is what chose the way."""
    activations = Activations(str(way.options.get("activations", Activations.NONE)))
    unmet = {Activations.NONE: (Needs.STATIC, Needs.INTEGERS), Activations.DYNAMIC: (Needs.STATIC,)}
    without = {n for n, spec in declared(Options).items() if spec.declared.needs in unmet.get(activations, ())}
    is_search = "formats" in way.options or "auto_exclude" in way.options
    bounds = ("max_mse",) if is_search else ("min_sqnr", "max_mse", "metric", "max_drop")  # the look at the file has them
    return {n: value for n, value in options.items() if n not in ("goal", "time", "effort", *bounds, *without)}
