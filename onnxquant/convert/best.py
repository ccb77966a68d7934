"""Quantization of one model, in the way that the options say, or in the best of the ways that can suit it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxquant import runtime
from onnxquant.arguments import checked
from onnxquant.calibration.feeds import Data, facts_of
from onnxquant.calibration.samples import Samples
from onnxquant.convert.candidate import Candidate
from onnxquant.convert.forecast import Forecast
from onnxquant.convert.prospect import prospect
from onnxquant.convert.quantize import output_path, removing_new_files
from onnxquant.convert.quantize import quantize as quantize_one_way
from onnxquant.convert.race import Race, Wish, effective
from onnxquant.convert.ways import ways
from onnxquant.convert.work import PreparedModel, Work, work_of
from onnxquant.errors import FeedError, ModelError, RecipeError
from onnxquant.graph.analysis.quantized import rounds_activations
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import Publisher, refuse_overwriting
from onnxquant.plan.context import Shared
from onnxquant.recipe.declaration import Scope, declared
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.naming import names_the_way
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, announce, silent
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import Effort
from onnxquant.report.data import Request
from onnxquant.report.provenance import Provenance, plain_options
from onnxquant.report.report import Report
from onnxquant.system.files import atomically, refuse_taken
from onnxquant.validation.compare import LARGE_BYTES, add_accuracy, compare
from onnxquant.validation.proof import Proof
from onnxquant.validation.reference import Reference
from onnxquant.validation.trial import prove_rest_quickly

# Samples that judge, at least, where there are as many.
_JUDGED = 16
# Seconds that one pass of the float model over the samples for calibration may take, and the fewest samples of it.
_PASS_SECONDS, _FEWEST_SAMPLES = 6.0, 16
# Calls that tell how long one takes, and seconds after which no further one does.
_CALLS, _LONG_CALL = 8, 1.0


@checked
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
        KeyboardInterrupt: Ctrl-C, or SIGTERM in a command, before a file was chosen; it says whether anything was written.
    """
    entries = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    settings, rules = Options.of_recipe(entries, options, has_samples=data is not None)
    keywords: dict[str, Any] = dict(options)
    with _saying_that_nothing_is_written(), runtime.custom_op_libraries(settings.custom_op_library):
        if settings.goal is None:
            report = quantize_one_way(
                source, output, recipe=entries, data=data, progress=progress, command=command, **keywords
            )
            if data is None and not names_the_way(entries, keywords):
                report.prospect = prospect(report)
            return report
        if data is None:
            raise RecipeError("goal: the best file is chosen by what samples show: give them with --data (data=...)")
        original = load(source, settings.external_root)
        if rounds_activations(original.proto) and PreparedModel.of(original).integers:
            keywords["goal"] = None  # its codes stay as they are: there is nothing to choose
            return quantize_one_way(
                source, output, recipe=entries, data=data, progress=progress, command=command, **keywords
            )
        place = output_path(original, output, partial(settings.output_name, rules))
        request = Request(rules.to_list(), plain_options(options))
        provenance = Provenance(settings, original, place, request, command)
        provenance.check()
        if not settings.dry_run:  # what cannot be written is refused before the search
            refuse_taken(place, force=settings.force)
            refuse_overwriting(original, place)
        settings = replace(settings, samples=max(settings.samples, _JUDGED))
        samples = Samples(data, settings, facts_of(original), are_compared_on=True)
        samples.for_calibration(original)
        progress("one call of the model", 0.0)
        call = _seconds_of_a_call(settings, original, samples)
        wish = Wish(source, entries, keywords, samples, progress, call)
        return _chosen(wish, _bounded(settings, samples, call), rules, provenance)


@contextmanager
def _saying_that_nothing_is_written() -> Iterator[None]:
    """Say so upon Ctrl-C, unless what ran has said that something is."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.args = interrupt.args or ("nothing was written",)
        raise


def _chosen(wish: Wish, settings: Options, rules: Recipe, provenance: Provenance) -> Report:
    """The report on the best file for the goal, in its place and proven.

    Args:
        wish: arguments of the user.
        settings: options of the run.
        rules: rules of the user.
        provenance: origin of the report, with the original and the place of the file.
    """
    samples, original, place = wish.samples, provenance.original, provenance.place
    with (
        tempfile.TemporaryDirectory(prefix="onnxquant-") as name,
        Reference(original, samples.again(), settings, Shared()) as reference,
    ):
        model = PreparedModel.of(original)
        model.refuse_integers()
        race = Race(wish, settings, reference, Path(name), place.name)
        split = samples.for_calibration(original)
        forecast = Forecast(wish.call, len(split.judging), len(split.calibrating), race.seconds)
        announce(wish.progress, forecast.first_line())
        wish.progress("proof: original", 0.0)
        plan = ways(model, _work(model, reference, settings), race.goal, rules.clients)
        announce(wish.progress, forecast.left_out(plan))
        best = race.best(plan)
        with removing_new_files(provenance):
            if settings.save_recipe is not None and not race.is_interrupted:
                report = _made_by_recipe(wish, settings, reference, best, place)
            else:
                wish.progress("proof", 0.0)
                report = best.report
                _publish(report, provenance)
                proof = None if race.is_interrupted else _whole_proof(wish, settings, reference, place)
                if proof is None:
                    _end_soon(report, best, settings, reference)
                else:
                    beside = race.latency_of(best)
                    if beside and proof.latency:
                        proof.latency = proof.latency.with_figures(beside)  # comparable with those of the others
                    report.prove(proof)
    report.choice = race.choice(best)
    report.choice = report.choice.proven(report.verdict)  # which asks the choice for its goal
    return provenance.finish(report)


def _made_by_recipe(wish: Wish, settings: Options, reference: Reference, best: Candidate, place: Path) -> Report:
    """The report on the best file, made once more by its recipe: whoever quantizes by that gets the same bytes.

    Args:
        wish: arguments of the user.
        settings: options of the run.
        reference: the original.
        best: the best file.
        place: the output.
    """
    known = declared(Options)
    own = {n: value for n, value in effective(wish.keywords, best.way).items() if known[n].declared.scope is Scope.RUN}
    bounds = {name: getattr(settings, name) for name in ("min_sqnr", "max_mse", "metric")}
    options: dict[str, Any] = {**own, **bounds, "max_drop": settings.max_drop if settings.metric is not None else None}
    options |= {"samples": settings.samples, "save_recipe": None, "report": (), "goal": None}
    reference.shared = None  # as for whoever has the recipe alone
    report = quantize_one_way(
        wish.source, place, recipe=best.recipe, data=wish.samples.again(), progress=wish.progress, reference=reference,
        **options,
    )  # fmt: skip
    if report.proof is not None:
        add_accuracy(report.proof, reference, place, wish.samples, settings)
    _save_recipe(best, settings)
    return report


def _whole_proof(wish: Wish, settings: Options, reference: Reference, place: Path) -> Proof | None:
    """The proof of the file in its place; None where the user does not wait for its end."""
    try:
        proof = compare(reference, place, settings, wish.progress)
        add_accuracy(proof, reference, place, wish.samples, settings)
    except KeyboardInterrupt:
        return None
    return proof


def _end_soon(report: Report, best: Candidate, settings: Options, reference: Reference) -> None:
    """Finish a file in its place where the user has ended the search or the proof, by what takes seconds.

    Args:
        report: the report on the file.
        best: the file that it was.
        settings: options of the run.
        reference: the original.
    """
    _save_recipe(best, settings)
    if report.proof is not None:
        prove_rest_quickly(report.proof, reference, Path(str(report.output)), settings)
        report.prove(report.proof)


def _save_recipe(best: Candidate, settings: Options) -> None:
    """Write the recipe of the best file, where the user wants it."""
    if settings.save_recipe is not None:
        with atomically(Path(settings.save_recipe)) as stream:
            stream.write(best.recipe.read_bytes())


def _seconds_of_a_call(settings: Options, original: Document, samples: Samples) -> float:
    """Seconds of one call of the model, the shortest of some: other work on the machine makes any of them longer."""
    feed, seconds = next(iter(samples.for_calibration(original).judging)), list[float]()
    with runtime.session_of(original, threads=settings.threads) as session:
        while len(seconds) < _CALLS and sum(seconds) <= _LONG_CALL:
            begin = time.perf_counter()
            runtime.run(session, feed)
            seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _bounded(settings: Options, samples: Samples, call: float) -> Options:
    """Options with as many samples for calibration as a slow model has time for.

    Args:
        settings: options of the run.
        samples: samples, split.
        call: seconds of one call.
    """
    most = max(_FEWEST_SAMPLES, int(_PASS_SECONDS / max(call, 1e-6)))
    if settings.effort == Effort.HIGH or most >= settings.calibration_samples:
        return settings
    samples.limit_calibration(most)
    return replace(settings, calibration_samples=most)


def _work(model: PreparedModel, reference: Reference, settings: Options) -> Work:
    """The work of a model, measured on the first sample."""
    samples = reference.outputs
    if isinstance(samples, FeedError) or reference.document.size() > LARGE_BYTES:
        return work_of(model)
    try:
        return work_of(model, runtime.profile(reference.path, samples.feeds[0], settings.threads))
    except ModelError:
        return work_of(model)


def _publish(report: Report, provenance: Provenance) -> None:
    """Put the file of a report in its place."""
    settings, original, place = provenance.settings, provenance.original, provenance.place
    data = settings.data_names(original, place)
    with Publisher(place, external=report.external_data, force=settings.force, data=data, source=original) as publisher:
        publisher.publish_copy(Path(str(report.output)))
    report.notes += publisher.notes
    report.output = str(place)
