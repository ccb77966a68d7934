"""The spine: load, prepare, plan, encode, lower, save, prove."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxquant.activations.dynamic import dynamic
from onnxquant.activations.plan import ActivationPlan
from onnxquant.activations.search import static
from onnxquant.activations.settings import required_opset
from onnxquant.artifact import lowering
from onnxquant.artifact.stored import digest, metadata
from onnxquant.budget import search as budget
from onnxquant.calibration.samples import Samples
from onnxquant.convert import equivalent as rescaling
from onnxquant.convert import recipe_of_plan as plan_recipe
from onnxquant.convert import solve_weights as solving
from onnxquant.convert import whole_graph as whole
from onnxquant.convert.opset import raise_opset
from onnxquant.errors import FeedError, ModelError, OutputError, RangeError, RecipeError, WeightError
from onnxquant.formats.base import Encoded
from onnxquant.graph import identity
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import MAX_INLINE, Publisher, refuse_overwriting
from onnxquant.graph.sites import Site, find
from onnxquant.native import dispatch
from onnxquant.passes.pipeline import prepare, simplify
from onnxquant.passes.simplify.sums import keep_sums
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.plan.planner import make_plan
from onnxquant.plan.solver_choice import assign_solvers
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Recipe
from onnxquant.report.data import Report, SiteResult
from onnxquant.report.provenance import Evidence
from onnxquant.solvers.rtn import Rtn
from onnxquant.validation.compare import Made, compare, reference_of
from onnxquant.validation.reference import Data, Reference

Progress = Callable[[str, float], None]


def _silent(stage: str, done: float) -> None:
    """No progress display."""


def quantize(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: Data = None,
    progress: Progress = _silent,
    command: str | None = None,
    **options: Any,
) -> Report:
    """Quantize a model's weights, write it, and prove what that cost.

    Args:
        source: path of an ONNX file, a ModelProto or an onnx_graphsurgeon Graph; it is never changed.
        output: file to write; None: ``<name>.<format>.onnx`` beside the source.
        recipe: a TOML or YAML file, or a mapping, of ordered rules and perhaps ``options``.
        data: samples for the proof: a ``.npz``, a folder of arrays or images, a text, an iterable of ``{input name:
            array}`` ... (docs/feeds.md); None: seeded synthetic ones.
        progress: called with a stage's name and how much of it is done (0 to 1).
        command: the command line, for the report.
        options: fields of ``Options`` by name: ``format``, ``bits``, ``block_size``, ``per_channel``, ``symmetric``,
            ``target``, ``include``, ``exclude``, ``dry_run``, ``force`` ...

    Returns:
        the report; ``passed`` says whether the proof and the asked bounds hold.

    Raises:
        ModelError: the source cannot be read, or nothing in it can be quantized.
        RecipeError: an unknown option, format, parameter or recipe key.
        WeightError: a weight holds NaN or infinity.
        OutputError: the output exists, is the source, or cannot be written.
    """
    entries = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    settings, rules = Options.of_recipe(entries, options)
    whole.check(settings, entries)
    samples = None if data is None else Samples(data, settings)
    original = load(source, settings.external_root)
    _refuse_quantized(original)
    document = original.copy()
    notes = prepare(document)
    origin = json.dumps(origin_of(original, settings, rules), separators=(",", ":"))
    # A search may name the output after the formats that it finds.
    named = output is not None or not settings.searches
    place = _output_path(original, output, rules) if named else None
    evidence = Evidence(settings, original, place, rules, options, command)
    evidence.check()
    if settings.whole_graph:
        report = Report.of_plan(original, evidence.place, Plan(()), notes)
        return evidence.finish(_whole_graph(original, document, report, origin, (samples, settings, progress)))
    notes += _made_ready(document, rules, settings)
    with solving.workspace(settings) as folder:
        work = solving.Work(folder, settings, progress)
        chosen = budget.search(document, rules, samples, work) if settings.searches else None
        rules = chosen.rules if chosen else rules
        ready = rescaling.rescaled(document, rules, samples, work)
        beside, plan = _plan(original, ready, rules, samples, work)
        plan = replace(plan, rescaled=ready.weights, origin=origin)
        if chosen:
            beside = replace(beside, solved=chosen.solved.without(ready.weights))
        evidence = replace(evidence, output=_output_path(original, output, rules), rules=rules)
        evidence.check()
        if settings.save_recipe is not None:
            plan_recipe.save(plan, find(beside.document)[0], rules, settings)
        made = (beside, plan, [*notes, *ready.notes])
        report = _carry_out(original, evidence.place, made, samples, replace(work, orders=ready.orders))
        report.search = chosen.about if chosen else {}
        return evidence.finish(report)


def _made_ready(document: Document, rules: Recipe, settings: Options) -> list[str]:
    """Passes that depend on what is asked for; what they changed."""
    notes = simplify(document) if settings.activations == "static" else []
    notes += raise_opset(document, rules, required_opset(settings))
    if settings.activations != "none" and (note := keep_sums(document)):
        notes.append(note)
    return notes


def _carry_out(
    original: Document,
    path: Path,
    made: tuple[ActivationPlan, Plan, list[str]],
    samples: Samples | None,
    work: solving.Work,
) -> Report:
    """Encode, lower, save and prove a plan."""
    beside, plan, notes = made
    settings, document = work.settings, beside.document
    if not plan.encoded:
        raise ModelError(_nothing(document, plan))
    if not path.name:
        raise OutputError(f"{path}: is a folder; expected a file name")
    external = settings.is_external(already=original.is_external(), nbytes=plan.nbytes)
    _refuse_too_large(path, plan, external=external)
    plan = replace(plan, predicted_bytes=lowering.predict(document, plan, path.name, external=external))
    report = Report.of_plan(original, path, plan, notes)
    if settings.dry_run:
        return report
    refuse_overwriting(original, path)
    with Publisher(path, external=external, force=settings.force) as publisher:
        # Samples come first: data that does not fit is refused before any work.
        unsolved = solving.decisions_to_solve(plan, work.orders, beside.solved)
        feeds = samples.for_calibration(document) if samples and unsolved else None
        outputs = _samples(original, samples, settings, work.progress) if settings.proof else None
        solved = solving.solve(document, unsolved, feeds, work)
        encoder = _Encoder(beside, solved, work.progress, sum(d.elements for d in plan.encoded), proven=settings.proof)
        lowering.write(document, plan, publisher, encoder)
    report.finish(path, encoder.results, external=external)
    if outputs is not None:
        told = partial(_tell, work.progress)
        report.prove(compare(original, path, outputs, settings, told, Made(document, encoder.digests)))
    return report


def _whole_graph(
    original: Document, document: Document, report: Report, origin: str, run: tuple[Samples | None, Options, Progress]
) -> Report:
    """The way of ``quantize`` for a whole graph in float16."""
    samples, settings, progress = run
    path = Path(str(report.output))
    if settings.dry_run:
        whole.plan(document, report, settings)
        return report
    refuse_overwriting(original, path)
    outputs = _samples(original, samples, settings, progress) if settings.proof else None
    external = settings.is_external(already=original.is_external(), nbytes=0)
    whole.write(document, report, settings, origin, external=external)
    if outputs is not None:
        report.prove(compare(original, path, outputs, settings, partial(_tell, progress)))
    return report


def _tell(progress: Progress, stage: str) -> None:
    progress(f"proof: {stage}", 0.0)


def _samples(
    original: Document, samples: Samples | None, settings: Options, progress: Progress
) -> Reference | FeedError:
    progress("proof: original", 0.0)
    try:
        return reference_of(original, samples, settings)
    except FeedError as error:
        if samples is not None:
            raise
        return error


class _Encoder:
    """Encodes one site at a time and keeps what became of each."""

    def __init__(
        self,
        made: ActivationPlan,
        solved: Mapping[str, Encoded],
        progress: Progress,
        elements: int,
        *,
        proven: bool,
    ) -> None:
        self.document, self.solved = made.document, (made.solved, solved)
        self.proven = proven
        self.progress = progress
        self.elements = elements
        self.done = 0
        self.results: dict[str, SiteResult] = {}
        self.digests: dict[str, str] = {}

    def __call__(self, site: Site, decision: EncodeDecision) -> Encoded | None:
        form = decision.format
        self.progress("encode", self.done / max(self.elements, 1))
        weight = site.view.matrix(self.document.array(site.tensor))
        solved = next((some[site.name] for some in self.solved if site.name in some), None)
        if solved is None and decision.solver != Rtn.name:
            why = f"{decision.reason}; rounded to nearest: a Gram matrix of {site.cols} columns is too large"
            decision = replace(decision, solver=Rtn.name, reason=why)
        try:
            encoded, difference = dispatch.encode(form, weight, solved=solved)
        except RangeError as error:
            self.results[site.name] = SiteResult(decision.kept_in_float(str(error)))
            return None
        except WeightError as error:
            raise WeightError(
                f"{self.document.name}: weight {site.name!r} {error}; keep it in float with --exclude to go on"
            ) from None
        if self.proven:
            self.digests[site.name] = digest(encoded)
        warning = form.warning(difference.sqnr_db)
        self.results[site.name] = SiteResult(decision, difference.to_dict(), warning)
        self.done += decision.elements
        self.progress("encode", self.done / max(self.elements, 1))
        return encoded


def _plan(
    original: Document, ready: rescaling.Rescaled, rules: Recipe, samples: Samples | None, work: solving.Work
) -> tuple[ActivationPlan, Plan]:
    """The plan, and the float model that it is of: static activations change weights before they are encoded."""
    settings, progress, document = work.settings, work.progress, ready.document
    made = ActivationPlan(document)
    before = document.copy() if settings.activations != "none" else document
    if settings.activations == "dynamic":
        made = dynamic(document, rules, settings, samples, progress)
    elif settings.activations == "static":
        made = static(original, document, rules, settings, samples, progress)
    activations = made.activations
    if activations:
        # Whoever compares the file with its original must know which weights are not the original's.
        names = rescaling.rescaled_weight_names(before, made.document)
        activations = replace(activations, rescaled=tuple(names))
    sites, left = find(made.document)
    plan = make_plan(sites, left, rules, made.document.opset, made.sites, ready.orders)
    plan = replace(plan, activations=activations)
    return made, assign_solvers(plan, made.document, has_samples=samples is not None)


def origin_of(original: Document, settings: Options, rules: Recipe) -> dict[str, Any]:
    """What decides the bytes of an output, but for samples: the original's digest, options and rules."""
    return {
        "sha256": identity.digest(original),
        "options": settings.options_that_shape_the_file(),
        "rules": [rule.to_dict() for rule in rules.rules],
    }


def _nothing(document: Document, plan: Plan) -> str:
    reasons = [f"{d.name}: {d.reason}" for d in plan.decisions if d.elements > 1][:5]
    found = "; ".join(reasons) if reasons else "it has no constant float weights"
    return f"{document.name}: nothing to quantize: {found}"


def _refuse_quantized(document: Document) -> None:
    data = metadata(document.proto)
    if data:
        formats = sorted({str(s.get("format")) for s in data["sites"]})
        raise ModelError(
            f"{document.name}: is already quantized by onnxquant ({', '.join(formats)}); quantize the original, or make "
            f"a float model of this one with `onnxquant dequantize`"
        )


def _output_path(original: Document, output: str | Path | None, rules: Recipe) -> Path:
    if output is not None:
        return Path(output)
    if original.path is None:
        raise RecipeError("output is missing: a model given as an object has no name to derive one from")
    return original.path.with_name(rules.output_name(original.path))


def _refuse_too_large(path: Path, plan: Plan, *, external: bool) -> None:
    size = plan.nbytes
    if not external and size > MAX_INLINE:
        raise OutputError(
            f"{path}: {size} bytes of weights do not fit one protobuf file (2 GiB); use --external-data auto or always"
        )
