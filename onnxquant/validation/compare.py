"""Comparing a quantized model with its original: structure, weights, outputs, sizes and speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.artifact.stored import (
    check_hashes,
    decode_weight,
    digest,
    metadata,
    plane_index,
    read_encoded,
    records,
)
from onnxquant.artifact.stored import rescaled as rescaled_weights
from onnxquant.calibration.samples import Samples
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document, load
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import find
from onnxquant.graph.traverse import graphs
from onnxquant.numerics.difference import Difference, rescaled_like
from onnxquant.passes.pipeline import prepare, simplify
from onnxquant.recipe.options import Options
from onnxquant.recipe.values import Drop
from onnxquant.validation import checks
from onnxquant.validation.distribution import distribution
from onnxquant.validation.kernels import kernels_of
from onnxquant.validation.leftover_conversions import conversions
from onnxquant.validation.metric import Metric
from onnxquant.validation.outputs import Case, compare_outputs, has_our_ops, latencies, rounds_activations
from onnxquant.validation.reference import Reference, reference
from onnxquant.validation.saturation import emulate

Progress = Callable[[str], None]
# With float compute the lowered model must give the twin's numbers: what is left is the order of float additions.
EXACT_DB = 100.0
# Weights and outputs of these types are rounded themselves, to 11 and 8 bits.
EXACT_DB_OF = {"float16": 55.0, "bfloat16": 35.0}
# Sessions repack weights into memory of their own. Above this size the proof leaves them in the mapped file instead:
# then products compute in float, and speed and memory are not measured.
LARGE_BYTES = 1 << 30
# Saturation is emulated on so many samples at most.
SATURATION_SAMPLES = 4
# A file may lose so much without graph optimizations before that is told.
UNOPTIMIZED_DB = 6.0


@dataclass
class Proof:
    """What a comparison found.

    Attributes:
        structure: differences by kind, with what explains them; ``problems`` are the ones nothing explains.
        weights: per encoded weight, its error, its quick checks (``checks``), and the kernel that onnxruntime picked.
        distributions: per encoded weight, histograms of its values and the usage of its codes.
        outputs: per pairing (``float_vs_twin``, ``twin_vs_exact``, ``float_vs_deployed`` ...) and output, the error.
        feeds: where the samples came from, and how many.
        activations: of files that round them: ``made`` as the file says, ``conversions`` that onnxruntime runs, and
            ``saturation`` on x86 CPUs without VNNI.
        metric: the user's own: its name, ``original``, ``quantized`` and the ``least`` that is allowed.
        damage: what each site costs, the worst first, where that was asked for.
        problems: reasons why the proof failed.
    """

    structure: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    distributions: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    feeds: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    activations: dict[str, Any] = field(default_factory=dict)
    metric: dict[str, Any] = field(default_factory=dict)
    damage: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def deployed(self) -> dict[str, dict[str, Any]]:
        """Errors per output that the user gets: as deployed, or with float compute where the model is too large."""
        pairs = ("float vs deployed", "float vs exact", "float vs library")
        return next((self.outputs[pair] for pair in pairs if pair in self.outputs), {})


@dataclass(frozen=True)
class Made:
    """What the writer of a file knows of it.

    Attributes:
        document: the float model whose weights were encoded.
        digests: of the encoded weights; the file must give them back.
    """

    document: Document
    digests: Mapping[str, str]


def reference_of(original: Document, given: Samples | None, options: Options) -> Reference:
    """Samples with the original's outputs."""
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        return reference(_runnable(original, Path(folder), options), given, options)


def compare(
    original: Document,
    quantized: Path,
    samples: Reference | FeedError,
    options: Options,
    progress: Progress = lambda _: None,
    made: Made | None = None,
) -> Proof:
    """Prove a quantized file against its original.

    Args:
        original: as loaded, not prepared.
        quantized: the file, opened again from disk.
        samples: samples with the original's outputs, or why there are none: that is then a problem of the proof.
        options: samples, seed, threads, dims and bounds.
        progress: told what is being done.
        made: what the writer knows, right after writing.

    Raises:
        ModelError: a model does not load or run.
    """
    proof, large = Proof(), original.size() > LARGE_BYTES
    document = load(quantized, options.external_root)
    progress("structure")
    proof.sizes = {
        "original_bytes": original.size(),
        "quantized_bytes": document.size(),
        "ratio": original.size() / document.size(),
    }
    _look_over(proof, original, document)
    if rounds_activations(document):
        proof.activations["made"] = metadata(document.proto).get("activations", {})
    progress("weights")
    prepared = made.document if made else prepared_like(original, document)
    _weights(proof, prepared, document, made.digests if made else {})
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        source = _runnable(original, Path(folder), options)
        if isinstance(samples, FeedError):
            proof.problems.append(f"outputs were not compared: {samples}")
        else:
            proof.feeds = samples.about
            # Calibration changes weights and biases: without the writer's model, the file's own weights make the twin.
            alike = "activations" not in metadata(document.proto) and not rescaled_weights(document.proto)
            known = prepared if made or alike else None
            case = Case(known, document, samples, options.threads, mapped=large)
            proof.outputs = compare_outputs(case, Path(folder), progress)
            _note_unoptimized(proof)
        if options.metric is not None:
            progress("metric")
            proof.metric = _metric(source, quantized, options)
        if large:
            proof.notes.append(
                f"above {LARGE_BYTES >> 30} GiB: proven with float compute; speed and memory not measured"
            )
            return _judged(proof, options)
        if not isinstance(samples, FeedError):
            if rounds_activations(document):
                losses = emulate(document, samples.feeds[:SATURATION_SAMPLES], options.threads, progress)
                proof.activations["saturation"] = losses
            progress("speed")
            models = {"original": source, "quantized": quantized}
            if has_our_ops(document):
                models["quantized, stock"] = quantized
            proof.latency = latencies(models, samples.feeds[0], options.threads)
        progress("memory and kernels")
        proof.loading = {"original": footprint(source), "quantized": footprint(quantized)}
    _kernels(proof, prepared, document, quantized, options.threads)
    return _judged(proof, options)


def _look_over(proof: Proof, original: Document, document: Document) -> None:
    """What is to be seen before any weight is decoded."""
    if damaged := [name for name, good in check_hashes(document).items() if not good]:
        proof.problems.append(f"{len(damaged)} tensors are not as they were written, {damaged[0]!r} first")
    if records(original.proto) and not records(document.proto):
        proof.problems.append("the first model is quantized by onnxquant and the second is not: are they swapped?")
    _structure(proof, original, document)


def _kernels(proof: Proof, prepared: Document, document: Document, path: Path, threads: int | None) -> None:
    """What onnxruntime runs, as its optimized graphs say."""
    optimized = runtime.optimized_graph(path, library=False, threads=threads)
    proof.kernels["stock"] = runtime.histogram(optimized)
    if rounds_activations(document):
        proof.activations["conversions"] = conversions(optimized)
    if has_our_ops(document):
        optimized = runtime.optimized_graph(path, threads=threads)
        proof.kernels["library"] = runtime.histogram(optimized)
    for name, kernel in kernels_of(records(document.proto), find(prepared)[0], optimized).items():
        proof.weights.get(name, {})["kernel"] = kernel


def _metric(original: Path, quantized: Path, options: Options) -> dict[str, Any]:
    """The user's metric of both models, with sessions as users open them."""
    assert options.metric
    metric, settings = Metric(options.metric), runtime.session_options
    before, after = (metric(runtime.open_session(p, settings(threads=options.threads))) for p in (original, quantized))
    least = Drop.parse(options.max_drop).least(before)
    return {"name": metric.name, "original": before, "quantized": after, "least": least}


def _note_unoptimized(proof: Proof) -> None:
    """Say where the file is another function without graph optimizations.

    onnxruntime's MatMulNBits gives zeros then: its scales come from a Cast, which nobody folds.
    """
    for name, plain in proof.outputs.get("float vs unoptimized", {}).items():
        deployed = proof.outputs.get("float vs deployed", {}).get(name)
        if deployed and _db(plain) < _db(deployed) - UNOPTIMIZED_DB:
            proof.notes.append(
                f"output {name!r} keeps {_db(plain):.1f} dB in sessions with ORT_DISABLE_ALL, {_db(deployed):.1f} dB in "
                f"others: leave graph optimizations on"
            )


def prepared_like(original: Document, quantized: Document) -> Document:
    """The float model whose weights were encoded, but for what calibration changed in them."""
    prepared = original.copy()
    prepare(prepared)
    if metadata(quantized.proto).get("activations", {}).get("kind") == "static":
        simplify(prepared)
    return prepared


def _structure(proof: Proof, original: Document, quantized: Document) -> None:
    def signature(values: Iterable[onnx.ValueInfoProto]) -> dict[str, str]:
        return {v.name: v.type.SerializeToString(deterministic=True).hex() for v in values}

    constants = {t.name for t in original.proto.graph.initializer}
    for kind in ("input", "output"):
        before = signature(v for v in getattr(original.proto.graph, kind) if v.name not in constants)
        after = signature(v for v in getattr(quantized.proto.graph, kind) if v.name not in constants)
        after_in_float = signature(_in_float(v) for v in getattr(quantized.proto.graph, kind))
        if list(before) != list(after):
            proof.problems.append(f"{kind}s are {list(after)}, expected {list(before)}")
        for name in before.keys() & after.keys():
            if before[name] != after[name] and before[name] == after_in_float[name]:
                proof.notes.append(f"{kind} {name!r} is float16 now")
            elif before[name] != after[name]:
                proof.problems.append(f"type or shape of {kind} {name!r} changed")
    found = records(quantized.proto)
    ops_before, ops_after = runtime.histogram(original.proto), runtime.histogram(quantized.proto)
    proof.structure = {
        "inputs": len(original.proto.graph.input) - len(constants & {i.name for i in original.proto.graph.input}),
        "outputs": len(original.proto.graph.output),
        "opset": [original.opset, quantized.opset],
        "nodes": [sum(ops_before.values()), sum(ops_after.values())],
        "stored_tensors": [_stored_tensors(original), _stored_tensors(quantized)],
        "weights_encoded": len(found),
        "added_ops": {k: n - ops_before.get(k, 0) for k, n in ops_after.items() if n > ops_before.get(k, 0)},
        "removed_ops": {k: n - ops_after.get(k, 0) for k, n in ops_before.items() if n > ops_after.get(k, 0)},
        "explained_by": f"{len(found)} weights lowered by onnxquant" if found else "not a file of onnxquant",
    }


def _in_float(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """An input or output as it would be in float32."""
    out = onnx.ValueInfoProto()
    out.CopyFrom(value)
    if out.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        out.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return out


def _stored_tensors(document: Document) -> int:
    return sum(len(g.initializer) for g in graphs(document.proto.graph))


def _weights(proof: Proof, prepared: Document, quantized: Document, written: Mapping[str, str]) -> None:
    originals = {s.name: s for s in find(prepared)[0]}
    index = plane_index(quantized.proto)
    rescaled = set() if written else rescaled_weights(quantized.proto)
    if rescaled:
        proof.notes.append(
            f"{len(rescaled)} of the weights: rescaled by calibration before they were encoded, compared with the original's "
            f"up to one factor per row and column"
        )
    for record in records(quantized.proto):
        site = originals.get(record.name)
        if site is None and record.name in rescaled:
            continue
        if site is None or site.shape != record.shape:
            shape = "missing" if site is None else f"of shape {list(site.shape)}"
            proof.problems.append(f"weight {record.name!r} is {shape} in the original, {list(record.shape)} here")
            continue
        encoded = read_encoded(quantized, record, index)
        if record.name in written and digest(encoded) != written[record.name]:
            proof.problems.append(f"weight {record.name!r}: the planes in the file are not the ones it was encoded to")
        decoded = decode_weight(quantized, record, index, encoded)
        before = prepared.array(site.tensor)
        if record.name in rescaled:
            matrix = rescaled_like(site.view.matrix(before), site.view.matrix(decoded))
            before = site.view.restore(matrix)
        difference = Difference()
        difference.add(before, decoded)
        if not np.isfinite(decoded.astype(np.float32, copy=False)).all():
            proof.problems.append(f"weight {record.name!r} decodes to NaN or infinity")
        about = {"format": record.format, "target": record.target, "dtype": str(record.dtype)}
        checked = checks.check(site.view.matrix(before), site.view.matrix(decoded))
        if complaint := checks.complaint(checked):
            proof.problems.append(f"weight {record.name!r}: {complaint}")
        proof.weights[record.name] = {**about, **difference.to_dict(), **checked}
        proof.distributions[record.name] = distribution(before, decoded, encoded)


def _runnable(original: Document, folder: Path, options: Options) -> Path:
    """A file that onnxruntime opens: a copy of a model without one, or whose data it may have to follow links to."""
    if original.path and not (options.external_root and original.is_external()):
        return original.path
    path, proto = folder / "original.onnx", onnx.ModelProto()
    proto.CopyFrom(original.proto)
    with Publisher(path, external=original.is_external(), force=True) as publisher:
        publisher.keep(proto, original)
        publisher.publish(proto)
    return path


def footprint(path: Path) -> dict[str, float]:
    """Seconds and bytes of resident memory that loading a model takes on stock onnxruntime, in a process of its own."""
    # -P: a module in the current folder, which may be anybody's download, must not be imported. The package is found
    # where this process found it.
    code = "import sys; sys.path.insert(0, sys.argv[1]); from onnxquant.validation import footprint as f; f.main(sys.argv[2])"
    command = [sys.executable, "-P", "-c", code, str(Path(__file__).parents[2]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelError(f"{path}: cannot be loaded in a process of its own: {done.stderr.strip()[-300:]}")
    return {k: float(v) for k, v in json.loads(done.stdout).items()}


def _judged(proof: Proof, options: Options) -> Proof:
    for pair in ("twin vs exact", "twin vs library exact"):
        for name, d in proof.outputs.get(pair, {}).items():
            bound = _exact_bound(proof, name)
            if _db(d) < bound:
                proof.problems.append(f"{pair}: output {name!r} has {_db(d):.1f} dB, expected {bound:.0f} or more")
    if proof.metric and proof.metric["quantized"] < proof.metric["least"]:
        m = proof.metric
        proof.problems.append(
            f"metric {m['name']} is {m['quantized']:.6g}, the original's {m['original']:.6g}, the bound is {m['least']:.6g}"
        )
    for name, d in proof.deployed.items():
        if d.get("not_finite") or d.get("shape_mismatch"):
            what = d.get("shape_mismatch") or f"{d['not_finite']} values that are not finite"
            proof.problems.append(f"output {name!r}: {what}")
        if options.min_sqnr is not None and _db(d) < options.min_sqnr:
            proof.problems.append(f"output {name!r} has {_db(d):.2f} dB, the bound is {options.min_sqnr:g}")
        if options.max_mse is not None and d["mse"] > options.max_mse:
            proof.problems.append(f"output {name!r} has MSE {d['mse']:.3g}, the bound is {options.max_mse:g}")
    return proof


def _exact_bound(proof: Proof, output: str) -> float:
    """100 dB; less where 16-bit types, or float32 with its additions in another order, cannot keep that."""
    noise = proof.outputs.get("twin vs twin, unoptimized", {}).get(output)
    bound = min((EXACT_DB_OF.get(str(w["dtype"]), EXACT_DB) for w in proof.weights.values()), default=EXACT_DB)
    return min(bound, _db(noise) - 6) if noise else bound


def _db(difference: Mapping[str, Any]) -> float:
    value = difference["sqnr_db"]
    return float(value) if not isinstance(value, str) else {"inf": math.inf, "-inf": -math.inf}.get(value, math.nan)
