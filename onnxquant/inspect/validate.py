"""The proof of a finished file against its original."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from onnxquant import runtime
from onnxquant.arguments import checked
from onnxquant.artifact.records import Metadata, records
from onnxquant.calibration.feeds import JUDGED, Data, facts_of
from onnxquant.calibration.samples import Samples
from onnxquant.errors import FeedError
from onnxquant.graph.io import Document, load
from onnxquant.recipe.options import Options, options_to_report
from onnxquant.recipe.progress import Progress, silent
from onnxquant.report.data import Request
from onnxquant.report.provenance import Provenance, plain_options
from onnxquant.report.report import Report
from onnxquant.validation.compare import compare, prepared_like
from onnxquant.validation.contributions import site_contributions
from onnxquant.validation.reference import Reference
from onnxquant.validation.request import check_request
from onnxquant.validation.structure import refuse_unrelated


@checked
def validate(
    original: str | Path | onnx.ModelProto,
    quantized: str | Path,
    data: Data | None = None,
    *,
    detailed: bool = False,
    progress: Progress = silent,
    command: str | None = None,
    **options: object,
) -> Report:
    """Prove a quantized file against its original: structure, weights, outputs, sizes.

    Args:
        original: the float model.
        quantized: the file to prove, of ours or of anybody's.
        data: samples; None: seeded synthetic ones, with a warning.
        detailed: measure what each weight and each rounded activation contributes to the error
            (``report.proof.contributions``).
        progress: called with the name of the stage and the part of it that is done.
        command: the command line, for the report.
        options: ``samples``, ``seed``, ``threads``, ``dim``, ``min_sqnr``, ``max_mse``, ``metric``, ``max_drop``, ``judge``,
            ``external_root``, ``custom_op_library``, ``report``, ``force``.

    Raises:
        ModelError: a model cannot be read or run.
        FeedError: the data does not fit.
    """
    settings = Options.make(options)
    is_counted = options.get("samples") is not None
    if data is not None and not is_counted:
        settings = replace(settings, samples=max(settings.samples, JUDGED))
    document = load(original, settings.external_root)
    path = Path(quantized)
    file = load(path, settings.external_root)
    samples = None if data is None else Samples(
        data, settings, facts_of(document, file), are_compared_on=not is_counted
    )
    with runtime.custom_op_libraries(settings.custom_op_library):
        with Reference(document, samples, settings) as reference:
            check_request(settings, reference, () if data is not None else options_to_report(options))
            refuse_unrelated(document, file)
            report = Report(source=document.name, output=str(quantized), original_bytes=document.size())
            provenance = Provenance(settings, document, path, Request([], plain_options(options)), command)
            provenance.check(file)
            progress("samples", 0.0)
            if samples is not None:
                _hold_out(samples, document, file, is_counted=is_counted)
            if isinstance(reference.outputs, FeedError):
                raise reference.outputs
            proof = compare(reference, path, settings, progress)
            if detailed and records(file.proto):
                prepared = prepared_like(document, file)
                proof.contributions = site_contributions(prepared, file, reference.outputs, settings.threads, progress)
        report.prove(proof)
        report.output_bytes = file.size()
        return provenance.finish(report, file)


def _hold_out(samples: Samples, original: Document, file: Document, *, is_counted: bool) -> None:
    """Let the proof run on what calibration held out, where the samples are divided as the file says of its own.

    Args:
        samples: samples of the user.
        original: the original.
        file: the file.
        is_counted: whether the user says how many the proof runs on: a file that was made from none is proven on the first.
    """
    metadata = Metadata.read(file.proto)
    use = metadata.sample_use if metadata else None
    if use is None and not is_counted:
        samples.prove_as_a_search(original, is_made_from_none=metadata is not None)
    elif use and samples.is_split_into(original, use.calibrated, use.judged, use.folds or 0) and not use.apart:
        samples.shared()
