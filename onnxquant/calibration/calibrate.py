"""Calibration in one call: it opens samples, chooses tensors, collects statistics, merges them and writes the file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from onnxquant import runtime
from onnxquant.arguments import checked
from onnxquant.calibration import feeds as feeds_
from onnxquant.calibration import samples as samples_
from onnxquant.calibration.collect import CollectSettings, collect
from onnxquant.calibration.inputs import sampled_inputs_of
from onnxquant.calibration.statistics import Statistics
from onnxquant.calibration.tensors import quantizable
from onnxquant.errors import FeedError, StatisticsError, nearest
from onnxquant.graph.identity import digest
from onnxquant.graph.io import Document, load
from onnxquant.observers import ranging
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent
from onnxquant.system.files import refuse_taken

DEFAULT_METHODS = ("minmax", "percentile", "entropy", "mse", "mean-std")
"""They need two statistics: extremes with moments, and a histogram."""


@dataclass(frozen=True, kw_only=True)
class CalibrateOptions:
    """Options of ``calibrate`` that other commands do not have.

    Attributes:
        methods: calibration methods that the statistics must serve.
        tensors: regular expression; only tensors in whose name it is found are observed.
        samples: largest number of samples; None: all of the data, or 8 synthetic ones.
        synthetic: run on synthetic samples.
        resume: go on with an interrupted run of the same call.
        merge: files of statistics to merge with: of the same model, tensors and methods.
        force: replace an existing output.
    """

    methods: tuple[str, ...] = DEFAULT_METHODS
    tensors: str | None = None
    samples: int | None = None
    synthetic: bool = False
    resume: bool = False
    merge: tuple[str | Path, ...] = ()
    force: bool = False

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in ranging():
                raise StatisticsError(f"unknown calibration method {method!r}{nearest(method, ranging())}")
        if self.samples is not None and self.samples < 1:
            raise StatisticsError(f"samples is {self.samples}, expected at least 1")

    @classmethod
    def names(cls) -> set[str]:
        """Names of the options."""
        return set(cls.__dataclass_fields__)

    @classmethod
    def of(cls, entries: dict[str, Any]) -> Self:
        """The options with these values; one method or one file stands for a list of it.

        Raises:
            StatisticsError: an unknown method, or a number of samples that is not positive.
        """
        lists = {k: entries[k] for k in entries.keys() & {"methods", "merge"}}
        tuples = {k: (v,) if isinstance(v, (str, Path)) else tuple(v) for k, v in lists.items()}
        return cls(**{**entries, **tuples})


@checked
def calibrate(
    model: str | Path,
    data: feeds_.Data | None = None,
    output: str | Path | None = None,
    *,
    progress: Progress = silent,
    **options: object,
) -> Statistics:
    """Observe the tensors of a float model that quantizing would quantize.

    Args:
        model: an ONNX file.
        data: samples: a ``.npz``, a folder of arrays or images, a text, an iterable of ``{input name: array}`` ...
        output: file to write; None: only in memory.
        progress: called with a stage's name and the part of it that is done (0 to 1).
        options: fields of ``CalibrateOptions``: ``methods``, ``tensors``, ``samples``, ``synthetic``, ``resume``,
            ``merge``, ``force``; and ``preprocess``, ``seed``, ``threads``, ``dim``, ``external_root``,
            ``custom_op_library``.

    Returns:
        the statistics, which have ranges: ``statistics.range("tensor", "mse", ActivationGrid(bits=8))``.

    Raises:
        ModelError: the model cannot be read or run.
        FeedError: the data does not fit, or there is none and synthetic samples were not asked for.
        StatisticsError: unknown tensors or methods, or files to resume from or merge with that do not fit.
        OutputError: the output exists, or cannot be written.
    """
    own = CalibrateOptions.names()
    settings = Options.make({k: v for k, v in options.items() if k not in own})
    request = CalibrateOptions.of({k: v for k, v in options.items() if k in own})
    path = Path(output) if output is not None else None
    checkpoint = _checkpoint_of(path, request)
    document = load(model, settings.external_root)
    others = [_of_model(Statistics.load(other), document) for other in request.merge]
    source: Path | Document = document if document.follows_links() else Path(model)
    observers = dict.fromkeys(quantizable(document, request.tensors), request.methods)
    with runtime.custom_op_libraries(settings.custom_op_library):
        statistics = collect(
            source,
            _open_feeds(source, data, request, settings),
            observers,
            threads=settings.threads,
            progress=progress,
            settings=CollectSettings(checkpoint=checkpoint),
        )
    for other in others:
        statistics = Statistics.merge(statistics, other)
    if path is not None and checkpoint is not None:
        statistics.save(path)
        checkpoint.unlink(missing_ok=True)
    return statistics


def _checkpoint_of(output: Path | None, request: CalibrateOptions) -> Path | None:
    """The file of the checkpoint. An output that cannot be written is refused before any work."""
    if output is None:
        if request.resume:
            raise StatisticsError("resume: an output is needed, whose checkpoint is beside it")
        return None
    refuse_taken(output, force=request.force)
    checkpoint = output.with_name(output.name + ".partial")
    if not request.resume:
        checkpoint.unlink(missing_ok=True)
    elif not checkpoint.exists():
        raise StatisticsError(f"{checkpoint}: no such file: there is no interrupted run of this output to resume")
    return checkpoint


def _of_model(statistics: Statistics, document: Document) -> Statistics:
    """Statistics that are of this model.

    Raises:
        StatisticsError: they are of another one.
    """
    statistics.check(digest(document), document.name)
    return statistics


def _open_feeds(
    source: Path | Document, data: feeds_.Data | None, request: CalibrateOptions, settings: Options
) -> feeds_.Feeds:
    if data is None and not request.synthetic:
        raise FeedError("calibration needs data that the model will see: give --data, or --synthetic to try things out")
    if data is not None and request.synthetic:
        raise FeedError("both data and synthetic samples were asked for; expected one of them")
    document = load(source) if isinstance(source, Path) else source
    if data is not None:
        inputs, facts = sampled_inputs_of(document), feeds_.facts_of(document)
        return feeds_.open_feeds(data, inputs, limit=request.samples, preprocess=settings.preprocess, facts=facts)
    with runtime.session_of(source, threads=settings.threads) as session:
        count = request.samples or samples_.SYNTHETIC
        return samples_.synthetic_samples(session, document, settings.dims(), count, settings.seed)
