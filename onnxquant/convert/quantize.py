"""Quantization of one model: load, prepare, plan, calibrate, solve, encode, lower, write, prove."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxquant.artifact import lowering
from onnxquant.artifact.records import Metadata, Origin, entry_text
from onnxquant.budget.search import search_formats
from onnxquant.calibration.feeds import Data, facts_of
from onnxquant.calibration.samples import Samples
from onnxquant.calibration.shapes import shapes_of
from onnxquant.clients import Shapes
from onnxquant.convert import recipe_of_plan, whole_graph
from onnxquant.convert.encode_sites import SiteEncoder
from onnxquant.convert.fit_clients import in_float_for_clients, refuse_original, refuse_unfit
from onnxquant.convert.plan_model import PlannedModel, plan_model
from onnxquant.convert.prepare_model import fit_operators, prepare_model
from onnxquant.convert.prove import check_samples, open_samples, prove
from onnxquant.convert.prune import add_pruning, check_pruning, prune, refuse_formats_without_zero
from onnxquant.convert.size import refuse_larger
from onnxquant.convert.solve_weights import decisions_to_solve, solve_weights
from onnxquant.convert.tune import TunedModel, check_tunable, check_tuning, tune
from onnxquant.errors import ModelError, OnnxQuantError, OutputError, OutputExistsError, RecipeError
from onnxquant.graph import identity
from onnxquant.graph.analysis.quantized import ALREADY_QUANTIZED, integer_weights
from onnxquant.graph.io import Document, load
from onnxquant.graph.names import CLASSICAL
from onnxquant.graph.publish import MAX_INLINE, Publisher, refuse_overwriting
from onnxquant.graph.sites import find_sites
from onnxquant.graph.traverse import nodes
from onnxquant.plan.activations import SampleUse
from onnxquant.plan.context import Context, Shared, workspace
from onnxquant.plan.decision import Decision, EncodeDecision, Plan
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options, options_to_report
from onnxquant.recipe.progress import Progress, announce, silent
from onnxquant.recipe.rules import Recipe
from onnxquant.report.data import Request, SiteResult
from onnxquant.report.provenance import Provenance, plain_options
from onnxquant.report.report import Report
from onnxquant.system.files import refuse_folder
from onnxquant.validation.reference import Reference
from onnxquant.validation.request import check_request
from onnxquant.validation.weights import EncodedWeights


def quantize(
    source: str | Path | onnx.ModelProto,
    output: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    data: Data | Samples | None = None,
    progress: Progress = silent,
    command: str | None = None,
    reference: Reference | None = None,
    **options: object,
) -> Report:
    """Quantize a model in the one way that the options say; see ``convert.best.quantize``.

    Args:
        source: model, as there.
        output: file to write, as there.
        recipe: rules and options, as there.
        data: samples.
        progress: callback, as there.
        command: command line, as there.
        reference: the original, of which several files are made; None: this is the only one.
        options: options by name, as there.
    """
    entries = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    settings, rules = Options.of_recipe(entries, options)
    check_tuning(settings)
    whole_graph.check(settings, entries)
    check_pruning(settings, rules)
    original = opened(source, settings, rules) if reference is None else checked(reference.document, settings, rules)
    # A search may name the output after the formats that it chooses.
    is_named = output is not None or not settings.searches
    place = output_path(original, output, partial(settings.output_name, rules)) if is_named else None
    provenance = Provenance(settings, original, place, Request(rules.to_list(), plain_options(options)), command)
    provenance.check()
    with workspace(settings) as folder, ExitStack() as stack:
        samples = samples_of(data, settings, original)
        reference = reference or stack.enter_context(Reference(original, samples, settings))
        # A recipe may say how samples are prepared that a run has none of.
        check_request(settings, reference, () if data is not None else options_to_report(options))
        context = context_of(original, settings, rules, samples, folder, progress, reference.shared)
        return _convert(context, provenance, reference)


def opened(source: str | Path | onnx.ModelProto, options: Options, rules: Recipe) -> Document:
    """A model to quantize.

    Raises:
        ModelError: it is damaged, is quantized already, or does not run on a client that the file is for.
    """
    return checked(load(source, options.external_root), options, rules)


def checked(original: Document, options: Options, rules: Recipe) -> Document:
    """A model that is loaded already, as ``opened`` gives it."""
    original.least_elements = rules.least_elements
    _refuse_quantized(original, options)
    refuse_original(original, rules.clients)
    return original


def context_of(
    original: Document,
    options: Options,
    rules: Recipe,
    samples: Samples | None,
    folder: Path,
    progress: Progress,
    shared: Shared | None = None,
) -> Context:
    """The context in which the steps of a run begin."""
    return Context(
        original=original,
        document=original.copy(),
        options=options,
        rules=rules,
        samples=samples,
        folder=folder,
        progress=progress,
        origin=entry_text(origin_of(original, options, rules)),
        shared=shared,
    )


def samples_of(data: Data | Samples | None, options: Options, original: Document) -> Samples | None:
    """The user's samples for a model."""
    return data if data is None or isinstance(data, Samples) else Samples(data, options, facts_of(original))


def _convert(context: Context, provenance: Provenance, reference: Reference) -> Report:
    """Prepare, plan, encode, write and prove the model of a run; write its reports beside it."""
    options = context.options
    notes = context.original.link_notes() + prepare_model(context)
    if options.dry_run and context.samples is not None:
        check_samples(context)
    context = prune(context)
    if whole_graph.is_alone(options, context.rules) and context.pruned is None:
        with removing_new_files(provenance):
            return provenance.finish(whole_graph.convert(context, reference, provenance.place, notes))
    notes += fit_operators(context)
    check_tunable(context)
    search = search_formats(context) if options.searches else None
    if search:
        context = context.with_rules(search.rules)
        provenance = provenance.with_result(
            output_path(context.original, provenance.output, search.rules.output_name), search.rules
        )
        provenance.check()
    model = plan_model(context, search)
    with removing_new_files(provenance):
        if options.save_recipe is not None:
            preparation = context.samples.preparation(context.original) if context.samples else None
            recipe_of_plan.save(model.plan, find_sites(model.document)[0], context.rules, options, preparation)
        report = encode_and_write(model, reference, provenance.place, notes)
        report.search = search.result if search else None
        return provenance.finish(report)


@contextmanager
def removing_new_files(provenance: Provenance) -> Iterator[None]:
    """Remove the files that a run has written where an error ends it; what replaced a file with --force stays.

    Ctrl-C removes nothing: ``KeyboardInterrupt`` says what was written.
    """
    before = {path: _stamp(path) for files in provenance.files() for path in files}
    new = [path for files in provenance.files() if not any(map(_is_there, files)) for path in files]
    try:
        yield
    except KeyboardInterrupt as interrupt:
        written = [path for path, stamp in before.items() if _stamp(path) != stamp]
        if written:
            is_model = provenance.output in written
            what = "is whole, but not proven" if is_model else "was written, the model was not"
            interrupt.args = (f"{provenance.output if is_model else written[0]} {what}",)
        raise
    except OutputExistsError:  # the files are those of another run
        raise
    except (OnnxQuantError, OSError, MemoryError):
        chunks = provenance.data_written() if provenance.output in new else []
        for path in (*chunks, *new):
            if _is_there(path) and path.is_file():
                path.unlink(missing_ok=True)
        raise


def _stamp(path: Path) -> tuple[int, int] | None:
    """The number of a file and the time of its last change; None where there is none."""
    if not _is_there(path):
        return None
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns


def _is_there(path: Path) -> bool:
    """Whether there is anything in a place; no where its name is impossible."""
    return os.path.lexists(path)


def origin_of(original: Document, options: Options, rules: Recipe) -> Origin:
    """The digest of a model, the options and the rules: all that decides the bytes of an output, but for samples."""
    shaping = options.options_that_shape_the_file()
    return Origin(identity.digest(original), shaping, tuple(rule.to_dict() for rule in rules.rules))


def encode_and_write(model: PlannedModel, reference: Reference, path: Path, notes: list[str]) -> Report:
    """Encode, lower, write and prove a planned model."""
    context, plan, options = model.context, model.plan, model.context.options
    integers = integer_weights(model.document.proto)
    is_packed = integers != integer_weights(context.original.proto)
    refuse_formats_without_zero(plan)
    has_work = bool(plan.encoded) or is_packed or context.pruned is not None
    if not has_work and not plan.integer_operators:
        raise ModelError("; ".join((_nothing_to_encode(model), *notes)))
    if integers and not is_packed:
        note = f"parts of the model are quantized already ({integers}); they stay as they are"
        announce(context.progress, note)
        notes = [*notes, note]
    data = options.data_files(context.original, path, nbytes=plan.nbytes)
    _refuse_unwritable(path, plan, external=data is not None)
    # Samples are opened first: data that does not fit is refused before any work.
    unsolved = decisions_to_solve(plan, model.orders, model.solved)
    split = context.samples.for_calibration(model.document) if context.samples and (unsolved or options.tunes) else None
    tuned: TunedModel | None = None
    if options.tunes and split is not None:
        solved = solve_weights(context, unsolved, model.orders, split.calibrating)
        tuned = tune(model, solved, split)
        model, unsolved = tuned.model, []
        context, plan = model.context, model.plan
    preparation = context.samples.preparation(context.original).text() if context.samples else ""
    plan = replace(plan, samples=_sample_use(context), preparation=preparation)
    slow = refuse_unfit(model.document, plan, context.rules.clients, _shapes(model))
    for sentence in slow:
        announce(context.progress, f"warning: {sentence}")
    in_float = in_float_for_clients(plan)
    for sentence in in_float:
        announce(context.progress, sentence)
    size = lowering.predict(model.document, plan, data)
    if not has_work and not size.has_operators:
        raise ModelError("; ".join((_nothing_to_encode(model), *notes)))
    for sentence in size.loading:
        announce(context.progress, sentence)
    notes = [*notes, *slow, *in_float, *size.loading]
    # Zeros alone make a file smaller when it is compressed; operators of ours alone make it faster.
    if context.pruned is None and has_work:
        refuse_larger(context.original, size, has_integers=plan.activations is not None or size.has_operators)
    plan = replace(plan, predicted_bytes=size.nbytes)
    report = Report.of_plan(context.original, path, plan, [*notes, *model.notes])
    report.pruning = context.pruned.record if context.pruned else None
    if size.float16:
        whole_graph.add_float16(report, size.float16)
    if options.dry_run:
        return report
    refuse_overwriting(context.original, path, data)
    with Publisher(
        path, external=data is not None, force=options.force, data=data, source=context.original
    ) as publisher:
        if options.proof:
            open_samples(context, reference)
        solved = solve_weights(context, unsolved, model.orders, split.calibrating if split else None)
        encoder = SiteEncoder(context, plan, [model.on_grids, model.solved, solved])
        lowered = lowering.lower(model.document, plan, publisher, encoder)
        if plan.encoded:
            _refuse_unencoded(context.original, encoder.results.values())
        publisher.keep(lowered.proto, model.document)
        publisher.publish(lowered.proto)
    report.tuning = tuned.record if tuned else None
    report.notes += publisher.notes
    report.finish(path, encoder.results)
    add_pruning(context, report, path)
    report.kept_codes = integers or None if not has_work else None
    if options.proof:
        report.prove(prove(context, reference, path, EncodedWeights(model.document, encoder.digests, model.unseen)))
    return report


def _shapes(model: PlannedModel) -> Shapes:
    """Shapes of the tensors that integer kernels read, as far as they are known; none where nothing depends on them."""
    context = model.context
    if model.plan.activations is None or not context.rules.clients:
        return {}
    split = context.samples.opened_split if context.samples else None
    feed = next(iter(split.judging)) if split else None
    return shapes_of(model.document, context.options.dims(), feed, context.options.threads)


def _sample_use(context: Context) -> SampleUse | None:
    """The use of the samples that anything was made from."""
    split = context.samples.opened_split if context.samples else None
    return SampleUse(len(split.calibrating), len(split.judging), split.apart) if split else None


def _nothing_to_encode(model: PlannedModel) -> str:
    """The message for a model of which no weight is encoded."""
    if integers := integer_weights(model.document.proto):
        return f"{model.document.name}: {ALREADY_QUANTIZED.format(integers)}"
    return _nothing_because(model.document, model.plan.decisions)


def _nothing_because(document: Document, decisions: Iterable[Decision]) -> str:
    """The message for a model whose weights all stay in float, with the first reasons."""
    reasons = [f"{d.name}: {d.reason}" for d in decisions if d.elements > 1][:5]
    return f"{document.name}: nothing to quantize: {'; '.join(reasons) or _without_weights(document)}"


def _without_weights(document: Document) -> str:
    """The reason why a model has no weights; those of classical models are attributes, which no format holds."""
    classical = sorted({node.op_type for node in nodes(document.proto) if node.domain == CLASSICAL})
    held = f": the numbers of {', '.join(classical)} ({CLASSICAL}) are attributes, which stay" if classical else ""
    return f"it has no constant float weights{held}"


def _refuse_unencoded(original: Document, results: Iterable[SiteResult]) -> None:
    """Refuse an output of which every weight was to be encoded, and holds numbers that its format does not."""
    decisions = [result.decision for result in results]
    if not any(isinstance(decision, EncodeDecision) for decision in decisions):
        raise ModelError(_nothing_because(original, decisions))


def _refuse_quantized(document: Document, options: Options) -> None:
    metadata = Metadata.read(document.proto)
    # A decoder of floats has metadata, and nothing that is quantized.
    if metadata and (metadata.records or integer_weights(document.proto)):
        formats = sorted({record.format for record in metadata.records})
        both = f" with --format {formats[0]} --float16" if options.in_float16 and len(formats) == 1 else ""
        raise ModelError(
            f"{document.name}: is already quantized by onnxquant ({', '.join(formats)}); quantize the original{both}, or "
            f"make a float model of this one with `onnxquant dequantize`"
        )


def output_path(original: Document, output: str | Path | None, name: Callable[[Path], str]) -> Path:
    """The file to write: the user's, or one beside the original.

    Args:
        original: the model.
        output: the user's file; None: there is none.
        name: name of the file, by the path of the original.

    Raises:
        RecipeError: neither has a name.
    """
    if output is not None:
        return Path(output)
    if original.path is None:
        raise RecipeError("output is missing: a model given as an object has no name to derive one from")
    return original.path.with_name(name(original.path))


def _refuse_unwritable(path: Path, plan: Plan, *, external: bool) -> None:
    refuse_folder(path)
    if not external and plan.nbytes > MAX_INLINE:
        raise OutputError(
            f"{path}: {plan.nbytes} bytes of weights do not fit one protobuf file (2 GiB); use --external-data auto or always"
        )
