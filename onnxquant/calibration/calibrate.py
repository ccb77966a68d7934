"""Calibration as one call: samples, tensors, the run, merging, the file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.calibration import samples as samples_
from onnxquant.calibration.collect import collect
from onnxquant.calibration.statistics import Statistics
from onnxquant.calibration.tensors import quantizable
from onnxquant.errors import FeedError, OutputError, StatisticsError, nearest
from onnxquant.graph.identity import digest
from onnxquant.graph.io import Document, load
from onnxquant.observers import ranging
from onnxquant.recipe.options import Options

Data = feeds_.Data | None
DEFAULT_METHODS = ("minmax", "percentile", "entropy", "mse", "mean-std")
"""They read two statistics: extremes with moments, and a histogram."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What to observe, and what becomes of it.

    Attributes:
        methods: calibration methods that the statistics shall serve.
        tensors: observe only tensors in whose name this regular expression is found.
        samples: at most so many; None: all of the data, or 8 synthetic ones.
        synthetic: make samples up; never done without being asked for.
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


def calibrate(
    model: str | Path,
    data: Data = None,
    output: str | Path | None = None,
    *,
    progress: Callable[[str, float], None] = lambda stage, done: None,
    **options: Any,
) -> Statistics:
    """Observe the tensors of a float model that quantizing would quantize.

    Args:
        model: an ONNX file.
        data: samples: a ``.npz``, a folder of arrays or images, a text, an iterable of ``{input name: array}`` ...
        output: file to write; None: only in memory.
        progress: called with a stage's name and how much of it is done (0 to 1).
        options: fields of ``Calibration``: ``methods``, ``tensors``, ``samples``, ``synthetic``, ``resume``, ``merge``,
            ``force``; and ``preprocess``, ``seed``, ``threads``, ``dim``, ``external_root``.

    Returns:
        the statistics, which give ranges: ``statistics.range("tensor", "mse", ActivationGrid(bits=8))``.

    Raises:
        ModelError: the model cannot be read or run.
        FeedError: the data does not fit, or there is none and synthetic samples were not asked for.
        StatisticsError: unknown tensors or methods, or files to resume from or merge with that do not fit.
        OutputError: the output exists, or cannot be written.
    """
    own: dict[str, Any] = {k: v for k, v in options.items() if k in Calibration.__dataclass_fields__}
    settings = Options.make({k: v for k, v in options.items() if k not in own})
    for several in own.keys() & {"methods", "merge"}:
        own[several] = (own[several],) if isinstance(own[several], (str, Path)) else tuple(own[several])
    wish = Calibration(**own)
    path = Path(output) if output is not None else None
    checkpoint = _prepared(path, wish)
    document = load(model, settings.external_root)
    others = [_checked(Statistics.load(other), document) for other in wish.merge]
    source: Path | Document = document if settings.external_root and document.is_external() else Path(model)
    wanted = dict.fromkeys(quantizable(document, wish.tensors), wish.methods)
    feeds = _feeds(source, data, wish, settings)
    statistics = collect(source, feeds, wanted, threads=settings.threads, progress=progress, checkpoint=checkpoint)
    for other in others:
        statistics = Statistics.merge(statistics, other)
    if path is not None and checkpoint is not None:
        statistics.save(path)
        checkpoint.unlink(missing_ok=True)
    return statistics


def _prepared(path: Path | None, wish: Calibration) -> Path | None:
    """Where the checkpoint is; the output is refused before any work."""
    if path is None:
        if wish.resume:
            raise StatisticsError("resume: an output is needed, whose checkpoint is beside it")
        return None
    if not path.name or path.is_dir():
        raise OutputError(f"{path}: is a folder; expected a file name")
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist")
    if path.exists() and not wish.force:
        raise OutputError(f"{path}: exists already; pass --force (force=True) to replace it")
    checkpoint = path.with_name(path.name + ".partial")
    if not wish.resume:
        checkpoint.unlink(missing_ok=True)
    elif not checkpoint.exists():
        raise StatisticsError(f"{checkpoint}: no such file: there is no interrupted run of this output to resume")
    return checkpoint


def _checked(statistics: Statistics, document: Document) -> Statistics:
    statistics.check(digest(document), document.name)
    return statistics


def _feeds(source: Path | Document, data: Data, wish: Calibration, settings: Options) -> feeds_.Feeds:
    if data is None and not wish.synthetic:
        raise FeedError("calibration needs data that the model will see; made-up samples only with --synthetic")
    if data is not None and wish.synthetic:
        raise FeedError("both data and synthetic samples were asked for; expected one of them")
    with runtime.extendable(source, settings.threads) as model:
        session = model.session(runtime.output_addition(()))
        if data is not None:
            inputs = samples_.inputs_of(session)
            return feeds_.open_feeds(data, inputs, limit=wish.samples, preprocess=settings.preprocess)
        count = wish.samples or samples_.SYNTHETIC
        return samples_.synthetic_samples(session, model.document, settings.dims(), count, settings.seed)
