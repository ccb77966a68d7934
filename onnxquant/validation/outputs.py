"""Runs of the models of a comparison on its samples: float, twin and quantized, stock and with our library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.artifact.records import activation_record, computes_in_float16, records
from onnxquant.artifact.restore import write_float
from onnxquant.calibration.feeds import Feed
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.node import attribute
from onnxquant.graph.traverse import nodes
from onnxquant.numerics.align import align, arrays_of
from onnxquant.numerics.difference import Difference, ErrorFigures
from onnxquant.numerics.score import Judge, PartQuality
from onnxquant.plan.activations import StaticRecord
from onnxquant.recipe.progress import Progress
from onnxquant.targets import Activations, targets
from onnxquant.targets.kinds import EXPERTS_ON_CODES
from onnxquant.validation.examples import Example, examples
from onnxquant.validation.reference import Outputs, SampledOutputs
from onnxquant.validation.twin import write_twin

OutputErrors = dict[str, ErrorFigures]
"""Errors by output."""


class Run(StrEnum):
    """Runs of a comparison; the values are their names in reports."""

    FLOAT = "float"
    """The original."""

    TWIN = "twin"
    """The dense twin: the original with decoded weights."""

    TWIN_UNOPTIMIZED = "twin, unoptimized"
    """The twin without graph optimizations: its additions come in another order."""

    TWIN_NUDGED = "twin, nudged"
    """The twin on samples that differ in the last bits: differences of near numbers show there. Made where it decides."""

    EXACT = "exact"
    """The file, with products in float32."""

    LIBRARY_EXACT = "library exact"
    """The file on our library, with products in float32."""

    DEPLOYED = "deployed"
    """The file on stock onnxruntime, as users run it."""

    LIBRARY = "library"
    """The file on our library, as users run it."""

    UNOPTIMIZED = "unoptimized"
    """The file without graph optimizations."""


# With float compute the lowered model must give the twin's numbers: what is left is the order of float additions.
EXACT_DB = 100.0
# The unit in the last place of float32 numbers near 1.
_ULP = 2.0**-23
# That of float16 numbers.
_HALF_ULP = 2.0**-10
# Runs that users get: as deployed, or with float compute where the model is too large.
DEPLOYED = (Run.DEPLOYED, Run.EXACT, Run.LIBRARY)
# Pairs of runs that are compared, where both were made.
_PAIRS = [
    (Run.FLOAT, Run.TWIN),
    (Run.TWIN, Run.TWIN_UNOPTIMIZED),
    (Run.TWIN, Run.TWIN_NUDGED),
    (Run.TWIN, Run.EXACT),
    (Run.FLOAT, Run.DEPLOYED),
    (Run.TWIN, Run.DEPLOYED),
    (Run.TWIN, Run.LIBRARY_EXACT),
    (Run.FLOAT, Run.UNOPTIMIZED),
    (Run.UNOPTIMIZED, Run.DEPLOYED),
    (Run.FLOAT, Run.LIBRARY),
    (Run.DEPLOYED, Run.LIBRARY),
]


def pair_name(reference: Run, other: Run) -> str:
    """Name of a pair of runs in reports.

    >>> pair_name(Run.FLOAT, Run.TWIN)
    'float vs twin'
    """
    return f"{reference} vs {other}"


@dataclass(frozen=True)
class ComparedModels:
    """Models of a comparison, and its samples.

    Attributes:
        prepared: the float model whose weights were encoded; None: not known, the file's own weights make the twin.
        quantized: the file under proof.
        samples: samples with the original's outputs.
        threads: number of threads of every session; None: onnxruntime's choice.
        mapped: leave weights in mapped files, so that products compute in float and nothing is repacked.
        judge: outputs, or parts of them, that matter; empty: all.
    """

    prepared: Document | None
    quantized: Document
    samples: SampledOutputs
    threads: int | None
    mapped: bool
    judge: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """Path of the quantized file.

        Raises:
            ModelError: it is no file.
        """
        if self.quantized.path is None:
            raise ModelError(f"{self.quantized.name}: is no file; expected the file under proof")
        return self.quantized.path

    def run(
        self,
        model: Path | bytes,
        *,
        library: bool = False,
        float_compute: bool = False,
        optimize: bool = True,
        mapped: bool | None = None,
        nudged: bool = False,
    ) -> list[dict[str, Any]]:
        """Outputs of a model on every sample.

        Args:
            model: a file, or a serialized model whose data lies beside the quantized file.
            library: whether our library serves our ops.
            float_compute: whether fused products compute in float32.
            optimize: whether onnxruntime may rewrite the graph.
            mapped: whether weights stay in the mapped file; None: as in the whole comparison.
            nudged: whether floats of the samples are changed in their last bits.
        """
        settings = runtime.session_options(
            threads=self.threads,
            float_compute=float_compute,
            mapped=self.mapped if mapped is None else mapped,
            optimize=optimize,
        )
        session = runtime.open_session(model, settings, library=library, folder=self.path.parent)
        step = _HALF_ULP if computes_in_float16(self.quantized.proto) else _ULP
        feeds = (_nudged(feed, step) for feed in self.samples.feeds) if nudged else self.samples.feeds
        return [runtime.run(session, feed) for feed in feeds]


@dataclass(frozen=True)
class ComparedOutputs:
    """Comparison of the outputs of all runs.

    Attributes:
        errors: errors by pair of runs and output.
        quality: quality of the outputs that users get, the worst part first.
        examples: samples that show what was lost.
    """

    errors: dict[str, OutputErrors]
    quality: list[PartQuality]
    examples: list[Example]


def compare_outputs(models: ComparedModels, folder: Path, progress: Progress) -> ComparedOutputs:
    """Errors by pair of runs and output, and the quality of the outputs that users get.

    Args:
        models: models and samples.
        folder: a folder for temporary files.
        progress: callback for the stage and the part of it that is done.
    """
    runs = _runs(models, folder, progress)
    pairs = _PAIRS if Run.DEPLOYED in runs else [*_PAIRS, (Run.FLOAT, Run.EXACT)]
    errors = {
        pair_name(a, b): {name: d.figures() for name, d in differences(runs[a], runs[b]).items()}
        for a, b in pairs
        if a in runs and b in runs
    }
    deployed = next(run for run in DEPLOYED if run in runs)
    judge, outputs = Judge(runs[Run.FLOAT], models.judge, models.samples.heads), runs[deployed]
    return ComparedOutputs(errors, judge.quality(outputs), examples(judge.samples(outputs), models.samples, outputs))


def _runs(models: ComparedModels, folder: Path, progress: Progress) -> dict[Run, list[dict[str, Any]]]:
    """Outputs of the samples by run: the float model, the dense twin, and the file in each way that it is compared."""
    runs: dict[Run, list[dict[str, Any]]] = {Run.FLOAT: models.samples.outputs}
    path, ours, mapped = models.path, has_our_ops(models.quantized), models.mapped
    if records(models.quantized.proto):
        progress("twin", 0.0)
        twin = folder / "twin.onnx"
        if models.prepared:
            write_twin(models.prepared, models.quantized, twin)
        else:
            write_float(models.quantized, twin, force=True)
        runs[Run.TWIN] = models.run(twin, mapped=True)
        # The same function with its additions in another order: how far apart float32 alone brings this model.
        runs[Run.TWIN_UNOPTIMIZED] = models.run(twin, mapped=True, optimize=False)
        if not mapped:
            progress("quantized, unoptimized", 0.0)
            runs[Run.UNOPTIMIZED] = models.run(path, optimize=False)
        if not (rounds_activations(models.quantized) or _rounds_in_experts(models.quantized)):
            progress("quantized, float compute", 0.0)
            exact = _exact_copy(models, folder)
            # Bodies reorder planes when a session is created: copies that a large model must not make.
            if not (mapped and ours):
                runs[Run.EXACT] = models.run(exact, float_compute=True)
            if ours:
                runs[Run.LIBRARY_EXACT] = models.run(exact, float_compute=True, library=True)
            if any(_differs(runs[Run.TWIN], runs[run]) for run in (Run.EXACT, Run.LIBRARY_EXACT) if run in runs):
                runs[Run.TWIN_NUDGED] = models.run(twin, mapped=True, nudged=True)
        twin.unlink()
        Path(f"{twin}.data").unlink(missing_ok=True)
    if not mapped:
        progress("quantized, as deployed", 0.0)
        runs[Run.DEPLOYED] = models.run(path)
    if ours:
        progress("quantized, with the library", 0.0)
        runs[Run.LIBRARY] = models.run(path, library=True)
    return runs


def _differs(reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> bool:
    """Whether outputs differ by more than float32 additions in another order make of most models."""
    return any(d.figures().sqnr_db < EXACT_DB for d in differences(reference, outputs).values())


def _nudged(feed: Feed, step: float) -> Feed:
    """A sample whose floats are changed by a part of their size, up or down."""
    random = np.random.default_rng(0)
    return {
        name: (array * (1 + random.choice((-step, step), array.shape))).astype(array.dtype)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" else array
        for name, array in feed.items()
    }  # fmt: skip


def rounds_activations(document: Document) -> bool:
    """Whether activations are integers whatever is asked of the session: there is no float compute to compare with."""
    static = isinstance(activation_record(document.proto), StaticRecord)
    dynamic = {target.name for target in targets() if target.activations is Activations.DYNAMIC}
    return static or any(record.target in dynamic for record in records(document.proto))


def _rounds_in_experts(document: Document) -> bool:
    """Whether a layer of experts has 8-bit codes, for which onnxruntime has no kernel on floats."""
    layers = (node for node in nodes(document.proto) if node.op_type == EXPERTS_ON_CODES)
    return any(attribute(node, "expert_weight_bits", 4) == 8 for node in layers)


def has_our_ops(document: Document) -> bool:
    """Whether a model has ops of our domain, which our library serves."""
    return any(n.domain == DOMAIN for n in nodes(document.proto))


def _exact_copy(models: ComparedModels, folder: Path) -> Path | bytes:
    """The model computing in float32: accuracy level 1 for MatMulNBits, ``compute=float32`` for our ops.

    Those of the original, too: the twin, whose weights are not packed, computes them in float.

    With external data it is bytes that share the data file; else a file of its own in ``folder``.
    """
    proto = onnx.load(str(models.path), load_external_data=False)
    for node in nodes(proto):
        if node.op_type == "MatMulNBits":
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        if node.domain == DOMAIN and node.op_type.startswith("MatMul"):
            node.attribute.append(onnx.helper.make_attribute("compute", "float32"))
    if models.quantized.is_external():
        return bytes(proto.SerializeToString())
    path = folder / "exact.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def differences(reference: Sequence[Outputs], outputs: Sequence[Outputs]) -> dict[str, Difference]:
    """The difference of each output over all samples."""
    out: dict[str, Difference] = {}
    for a, b in zip(reference, outputs, strict=True):
        aligned = align(arrays_of(a), arrays_of(b))
        for name, shapes in aligned.incomparable.items():
            out.setdefault(name, Difference()).shape_mismatch = shapes
        for name, values in aligned.expected.items():
            difference = out.setdefault(name, Difference())
            difference.add(values, aligned.outputs[name])
            difference.comparison = aligned.remark(name) or difference.comparison
    return out
