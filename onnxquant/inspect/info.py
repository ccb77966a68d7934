"""The contents of a model: formats, sizes, operators, and each encoded weight."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

from onnxquant import runtime
from onnxquant.arguments import checked
from onnxquant.artifact.loading import loading_notes
from onnxquant.artifact.records import Metadata, Record
from onnxquant.calibration.feeds import Preparation, SampleOrigin
from onnxquant.calibration.feeds.prepared import preparation
from onnxquant.clients import check, clients
from onnxquant.formats import registry
from onnxquant.formats.granularity import PerBlock
from onnxquant.graph.io import Document, load, nbytes
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.sites import FLOATS, find_sites, overridable_weights
from onnxquant.graph.traverse import nodes, tensors
from onnxquant.inspect.compatibility import ClientInfo, releases_that_run, where_it_runs
from onnxquant.inspect.foreign import ForeignWeight, foreign_weights
from onnxquant.json_data import EMPTY, OPTIONAL, JsonKey
from onnxquant.passes.pipeline import prepare
from onnxquant.plan.activations import ActivationRecord, StaticRecord

# Ops that round values between ops.
_ROUNDING = ("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")


@dataclass(frozen=True)
class WeightInfo:
    """One encoded weight.

    Attributes:
        name: its name.
        shape, dtype: its shape and type in float.
        format: its format.
        bits: bits of a code; None of a format that is not installed here.
        block_size: number of weights that share a scale; None where no block has one.
        target: the target that holds it; in files by other tools the op that reads it.
        bytes: bytes of its planes.
        float_bytes: bytes that it took in float.
        ratio: bytes in float over bytes of the planes.
    """

    name: str
    shape: list[int]
    dtype: str
    format: str
    bits: int | None
    block_size: int | None
    target: str
    bytes: int
    float_bytes: int
    ratio: float | None


@dataclass(frozen=True)
class ActivationInfo:
    """Integer activations of a model.

    Attributes:
        kind: ``static`` or ``dynamic``.
        code_type: element type of the codes, and whether they are symmetric.
        integer_kernels: number of ops that compute on integers.
        rescaled: number of weights that calibration changed.
        method: calibration method that chose the ranges.
        solver: solver of the weights' codes.
        tensors: number of activations that have codes.
        biases_corrected: number of biases that were corrected.
        left_in_float: number of ops that stay in float.
        excluded: number of these that stay in float for accuracy.
    """

    kind: str
    code_type: str = field(metadata=JsonKey("type").metadata)
    integer_kernels: int = field(metadata=JsonKey("integer kernels").metadata)
    rescaled: int = field(metadata=JsonKey("weights rescaled").metadata)
    method: str | None = field(default=None, metadata=OPTIONAL)
    solver: str | None = field(default=None, metadata=OPTIONAL)
    tensors: int | None = field(default=None, metadata=OPTIONAL)
    biases_corrected: int | None = field(default=None, metadata=JsonKey("biases corrected", optional=True).metadata)
    left_in_float: int | None = field(default=None, metadata=JsonKey("left in float", optional=True).metadata)
    excluded: int | None = field(default=None, metadata=JsonKey("excluded for accuracy", optional=True).metadata)


@dataclass(frozen=True)
class ModelInfo:
    """The contents of a model.

    Attributes:
        model: path of the model.
        bytes, original_bytes: its size and the original's, data files included; of files by other tools that of the original
            follows from the shapes of the weights.
        compression_ratio: the original's size over its own.
        bits_per_weight: bits over all constant weights; None where there are none.
        weights, weights_encoded: number of constant weights, and of those that are encoded.
        formats: number of weights by format.
        targets: targets that hold weights.
        activations: integer activations; None where activations are floats.
        opset: version by domain.
        ir_version: version of the file format.
        producer: program that made the model.
        quantized_by: version of onnxquant that made it; None where it is not ours.
        ops: number of nodes by op.
        needs_onnxruntime: the oldest onnxruntime that loads it; None: none does.
        library: use of our library.
        clients: whether each client runs it.
        tensors: each encoded weight.
        samples: preparation of the samples that it was made with; None where it does not say.
        notes: remarks on what it is, and on what stands in the way of quantizing it; None where there are none.
    """

    model: str
    bytes: int
    original_bytes: int
    compression_ratio: float
    bits_per_weight: float | None
    weights: int
    weights_encoded: int
    formats: dict[str, int]
    targets: list[str]
    activations: ActivationInfo | None = field(metadata=EMPTY)
    opset: dict[str, int]
    ir_version: int
    producer: str
    quantized_by: str | None
    ops: dict[str, int]
    needs_onnxruntime: str | None
    library: str
    clients: list[ClientInfo]
    tensors: list[WeightInfo]
    samples: str | None = field(default=None, metadata=OPTIONAL)
    notes: list[str] | None = field(default=None, metadata=OPTIONAL)


@dataclass(frozen=True)
class _WeightTotals:
    """Sums over all constant weights.

    Attributes:
        count: number of weights.
        encoded: number of encoded weights.
        nbytes: bytes that all weights take.
        planes: bytes by plane.
    """

    count: int
    encoded: int
    nbytes: int
    planes: dict[str, int]


@checked
def info(path: str | Path) -> ModelInfo:
    """The contents of a model.

    Raises:
        ModelError: it cannot be read.
    """
    document = load(path)
    proto = document.proto
    metadata, answers = Metadata.read(proto), check(proto, clients().values())
    encoded = metadata.records if metadata else ()
    samples = Preparation.read(proto)
    prepare(document)
    foreign = [] if encoded else foreign_weights(proto)
    stored: list[Record | ForeignWeight] = [*encoded, *foreign]
    planes = {name for weight in stored for name in weight.plane_names}
    weights = _weights(document, planes, sum(weight.elements for weight in stored))
    size = document.size()
    original = metadata.source_bytes if metadata else size + sum(w.float_bytes - w.bytes for w in foreign)
    has_ops = any(f.domain == DOMAIN for f in proto.functions)
    return ModelInfo(
        model=str(path),
        bytes=size,
        original_bytes=original,
        compression_ratio=original / size,
        bits_per_weight=8 * weights.nbytes / weights.count if weights.count else None,
        weights=weights.count,
        weights_encoded=weights.encoded,
        formats=dict(Counter(weight.format for weight in stored)),
        targets=sorted({*(record.target for record in encoded), *(weight.op for weight in foreign)}),
        activations=_activations(metadata.activations if metadata else None),
        opset={o.domain or "ai.onnx": o.version for o in proto.opset_import},
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        quantized_by=f"onnxquant {metadata.version}" if metadata else None,
        ops=runtime.histogram(proto),
        needs_onnxruntime=releases_that_run(answers).loads,
        library="optional: our kernels, faster" if has_ops else "none",
        clients=where_it_runs(answers),
        tensors=[*(_weight(record, weights.planes) for record in encoded), *map(_foreign, foreign)],
        samples=_samples(samples) if samples else None,
        notes=_notes(document, encoded, foreign) or None,
    )


def _samples(prepared: Preparation) -> str:
    """Preparation of the samples that a file was made with, and the range of each input."""
    steps = prepared.preprocess or {}
    origin = SampleOrigin(kind=prepared.kind, preprocess=steps, tokenizer=str(steps.get("tokenizer") or "") or None)
    ranges = [f"{name} from {low:.3g} to {high:.3g}" for name, (low, high) in prepared.ranges.items()]
    return "; ".join([preparation(origin) or prepared.kind or "arrays", *ranges])


def _notes(document: Document, encoded: Sequence[Record], foreign: Sequence[ForeignWeight]) -> list[str]:
    """Remarks on what a file is, and on what stands in the way of quantizing it."""
    notes = [overridable_weights(find_sites(document)[1])]
    ops = Counter(node.op_type for node in nodes(document.proto))
    rounding = [f"{ops[op]} {op}" for op in _ROUNDING if ops[op]]
    if foreign:
        values = f"; {', '.join(rounding)} round values between ops" if rounding else ""
        notes.append(f"quantized by another tool{values}; sizes of the original follow from the shapes of the weights")
    installed = registry()
    if missing := sorted({record.format for record in encoded} - set(installed)):
        notes.append(f"no package that is installed here has the format {', '.join(missing)}")
    notes += loading_notes(document.proto, encoded)
    return [note for note in notes if note]


def _foreign(weight: ForeignWeight) -> WeightInfo:
    """One encoded weight of a file by another tool."""
    return WeightInfo(
        name=weight.name, shape=weight.shape, dtype=weight.dtype, format=weight.format, bits=weight.bits,
        block_size=weight.block_size, target=weight.op, bytes=weight.bytes, float_bytes=weight.float_bytes,
        ratio=weight.float_bytes / weight.bytes if weight.bytes else None,
    )  # fmt: skip


def _weights(document: Document, planes: Set[str], count: int) -> _WeightTotals:
    """Sums over the weights of a prepared document.

    Args:
        document: the document.
        planes: tensors of encoded weights.
        count: number of encoded weights.
    """
    stored = [t for t in tensors(document.proto) if t.name in planes]
    # Float planes, such as scales, are found as constants too.
    side = [t for t in stored if t.data_type in FLOATS]
    sizes = {t.name: nbytes(t) for t in stored}
    sites, others = find_sites(document)
    in_float = sum(s.elements for s in sites) + sum(prod(c.shape) for c in others) - sum(prod(t.dims) for t in side)
    float_bytes = sum(s.nbytes for s in sites) + sum(c.nbytes for c in others) - sum(map(nbytes, side))
    return _WeightTotals(count + in_float, count, sum(sizes.values()) + float_bytes, sizes)


def _weight(record: Record, planes: Mapping[str, int]) -> WeightInfo:
    """One encoded weight.

    Args:
        record: the file's record of it.
        planes: bytes by plane.
    """
    form = record.stored_format if record.format in registry() else None
    block = form.granularity.size if form and isinstance(form.granularity, PerBlock) else None
    now, before = sum(planes.get(n, 0) for n in record.plane_names), record.elements * record.dtype.itemsize
    return WeightInfo(
        name=record.name,
        shape=list(record.shape),
        dtype=str(record.dtype),
        format=record.format,
        bits=form.bits if form else None,
        block_size=block,
        target=record.target,
        bytes=now,
        float_bytes=before,
        ratio=before / now if now else None,
    )


def _activations(record: ActivationRecord | None) -> ActivationInfo | None:
    """Integer activations in short."""
    if record is None:
        return None
    code_type = f"{record.code_type}{' symmetric' if record.symmetric else ''}"
    base = ActivationInfo(record.kind, code_type, record.integer_kernels, len(record.rescaled))
    if not isinstance(record, StaticRecord):
        return base
    return replace(
        base,
        method=record.method,
        solver=record.solver or "rtn",
        tensors=len(record.tensors),
        biases_corrected=record.biases_corrected,
        left_in_float=len(record.left_in_float),
        excluded=len(record.excluded or ()),
    )
