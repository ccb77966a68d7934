"""Comparing a quantized model with its original: structure, weights, outputs, sizes and speed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxquant import runtime
from onnxquant.calibration import feeds as feeds_
from onnxquant.errors import FeedError, ModelError
from onnxquant.graph.io import Document, load, nodes
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import find
from onnxquant.options import Options
from onnxquant.passes.pipeline import prepare
from onnxquant.stored import decode_weight, plane_index, records
from onnxquant.targets.bodies import DOMAIN
from onnxquant.validation.metrics import Difference
from onnxquant.validation.reference import Data, Reference, reference
from onnxquant.validation.twin import write_twin

Progress = Callable[[str], None]
# With float compute the lowered model must give the twin's numbers: what is left is the order of float additions.
EXACT_DB = 100.0
# Sessions repack weights into memory of their own. Above this size the proof leaves them in the mapped file instead:
# then products compute in float, and speed and memory are not measured.
LARGE_BYTES = 1 << 30


@dataclass
class Proof:
    """What a comparison found.

    Attributes:
        structure: differences by kind, with what explains them; ``problems`` are the ones nothing explains.
        weights: per encoded weight, its error.
        outputs: per pairing (``float_vs_twin``, ``twin_vs_exact``, ``float_vs_deployed`` ...) and output, the error.
        feeds: where the samples came from, and how many.
        problems: reasons why the proof failed.
    """

    structure: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, dict[str, Any]] = field(default_factory=dict)
    outputs: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    feeds: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    loading: dict[str, Any] = field(default_factory=dict)
    kernels: dict[str, dict[str, int]] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def deployed(self) -> dict[str, dict[str, Any]]:
        """Errors per output that the user gets: as deployed, or with float compute where the model is too large."""
        return self.outputs.get("float vs deployed") or self.outputs.get("float vs exact", {})


def reference_of(original: Document, data: Data, options: Options) -> Reference:
    """Samples with the original's outputs; of a model without a file through a temporary one."""
    if original.path:
        return reference(original.path, data, options)
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        return reference(_saved(original, Path(folder) / "original.onnx"), data, options)


def compare(
    original: Document,
    quantized: Path,
    samples: Reference | FeedError,
    options: Options,
    progress: Progress = lambda _: None,
) -> Proof:
    """Prove a quantized file against its original.

    Args:
        original: as loaded, not prepared.
        quantized: the file, opened again from disk.
        samples: samples with the original's outputs, or why there are none: that is then a problem of the proof.
        options: samples, seed, threads, dims and bounds.
        progress: told what is being done.

    Raises:
        ModelError: a model does not load or run.
    """
    proof = Proof()
    document = load(quantized, options.external_root)
    progress("structure")
    proof.sizes = {
        "original_bytes": original.size(),
        "quantized_bytes": document.size(),
        "ratio": original.size() / document.size(),
    }
    _structure(proof, original, document)
    progress("weights")
    prepared = load(original.path, options.external_root) if original.path else load(original.proto)
    prepare(prepared)
    _weights(proof, prepared, document)
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        source = original.path or _saved(original, Path(folder) / "original.onnx")
        if isinstance(samples, FeedError):
            proof.problems.append(f"outputs were not compared: {samples}")
        else:
            proof.feeds = samples.about
            _outputs(proof, source, prepared, document, samples, Path(folder), options, progress)
        if original.size() > LARGE_BYTES:
            proof.notes.append(
                f"above {LARGE_BYTES >> 30} GiB: proven with float compute; speed and memory not measured"
            )
            return _judged(proof, options)
        progress("memory and kernels")
        proof.loading = {"original": footprint(source), "quantized": footprint(quantized)}
    proof.kernels["stock"] = runtime.optimized_ops(quantized, library=False, threads=options.threads)
    if _is_ours(document):
        proof.kernels["library"] = runtime.optimized_ops(quantized, threads=options.threads)
    return _judged(proof, options)


def _structure(proof: Proof, original: Document, quantized: Document) -> None:
    def signature(values: Iterable[onnx.ValueInfoProto]) -> dict[str, str]:
        return {v.name: v.type.SerializeToString(deterministic=True).hex() for v in values}

    constants = {t.name for t in original.proto.graph.initializer}
    for kind in ("input", "output"):
        before = signature(v for v in getattr(original.proto.graph, kind) if v.name not in constants)
        after = signature(v for v in getattr(quantized.proto.graph, kind) if v.name not in constants)
        if list(before) != list(after):
            proof.problems.append(f"{kind}s are {list(after)}, expected {list(before)}")
        for name in before.keys() & after.keys():
            if before[name] != after[name]:
                proof.problems.append(f"type or shape of {kind} {name!r} changed")
    found = records(quantized.proto)
    ops_before, ops_after = runtime.histogram(original.proto), runtime.histogram(quantized.proto)
    proof.structure = {
        "inputs": len(original.proto.graph.input) - len(constants & {i.name for i in original.proto.graph.input}),
        "outputs": len(original.proto.graph.output),
        "opset": [original.opset, quantized.opset],
        "nodes": [sum(ops_before.values()), sum(ops_after.values())],
        "weights_encoded": len(found),
        "added_ops": {k: n - ops_before.get(k, 0) for k, n in ops_after.items() if n > ops_before.get(k, 0)},
        "removed_ops": {k: n - ops_after.get(k, 0) for k, n in ops_before.items() if n > ops_after.get(k, 0)},
        "explained_by": f"{len(found)} weights lowered by onnxquant" if found else "not a file of onnxquant",
    }


def _weights(proof: Proof, prepared: Document, quantized: Document) -> None:
    originals = {s.name: s for s in find(prepared)[0]}
    index = plane_index(quantized.proto)
    for record in records(quantized.proto):
        site = originals.get(record.name)
        if site is None or site.shape != record.shape:
            shape = "missing" if site is None else f"of shape {list(site.shape)}"
            proof.problems.append(f"weight {record.name!r} is {shape} in the original, {list(record.shape)} here")
            continue
        decoded = decode_weight(quantized, record, index)
        difference = Difference()
        difference.add(prepared.array(site.tensor), decoded)
        if not np.isfinite(decoded.astype(np.float32, copy=False)).all():
            proof.problems.append(f"weight {record.name!r} decodes to NaN or infinity")
        proof.weights[record.name] = {"format": record.format, "target": record.target, **difference.to_dict()}


def _outputs(
    proof: Proof,
    source: Path,
    prepared: Document,
    quantized: Document,
    samples: Reference,
    folder: Path,
    options: Options,
    progress: Progress,
) -> None:
    assert quantized.path
    feeds, large = samples.feeds, prepared.size() > LARGE_BYTES
    twin = folder / "twin.onnx"
    runs: dict[str, list[dict[str, Any]]] = {}
    if records(quantized.proto):
        progress("twin")
        write_twin(prepared, quantized, twin)
        runs["twin"] = _run(twin, feeds, options, mapped=True)
        twin.unlink()
        Path(f"{twin}.data").unlink(missing_ok=True)
        progress("quantized, float compute")
        exact = _exact_copy(quantized, folder)
        near = quantized.path.parent
        runs["exact"] = _run(exact, feeds, options, float_compute=True, folder=near, mapped=large)
    pairs = [("float", "twin"), ("twin", "exact"), ("float", "exact" if large else "deployed"), ("twin", "deployed")]
    if not large:
        progress("quantized, as deployed")
        runs["deployed"] = _run(quantized.path, feeds, options)
    if _is_ours(quantized):
        progress("quantized, with the library")
        runs["library"] = _run(quantized.path, feeds, options, library=True, mapped=large)
        runs["library exact"] = _run(exact, feeds, options, library=True, folder=near, mapped=large)
        pairs += [("twin", "library exact"), ("float", "library"), ("deployed", "library")]
    runs["float"] = samples.outputs
    for a, b in pairs:
        if a in runs and b in runs:
            proof.outputs[f"{a} vs {b}"] = _differences(runs[a], runs[b])
    if large:
        return
    progress("speed")
    runs.clear()
    proof.latency = latencies({"original": source, "quantized": quantized.path}, feeds[0], options.threads)


def _saved(original: Document, path: Path) -> Path:
    proto = onnx.ModelProto()
    proto.CopyFrom(original.proto)
    with Publisher(path, external=False, force=True) as publisher:
        publisher.keep(proto, original)
        publisher.publish(proto)
    return path


def _run(
    model: Path | bytes,
    feeds: list[feeds_.Feed],
    options: Options,
    *,
    library: bool = False,
    float_compute: bool = False,
    mapped: bool = False,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    settings = runtime.session_options(threads=options.threads, float_compute=float_compute, mapped=mapped)
    session = runtime.open_session(model, settings, library=library, folder=folder)
    return [runtime.run(session, feed) for feed in feeds]


def _is_ours(document: Document) -> bool:
    return any(n.domain == DOMAIN for n in nodes(document.proto))


def _exact_copy(quantized: Document, folder: Path) -> Path | bytes:
    """The model computing in float32: accuracy level 1 for our MatMulNBits, ``compute=float32`` for our ops.

    With external data it is bytes that share the data file; else a file of its own in ``folder``.
    """
    assert quantized.path
    proto = onnx.load(str(quantized.path), load_external_data=False)
    for node in nodes(proto):
        if node.op_type == "MatMulNBits" and (node.metadata_props or _in_body(proto, node)):
            for attribute in node.attribute:
                if attribute.name == "accuracy_level":
                    attribute.i = 1
        if node.domain == DOMAIN and node.op_type.startswith("MatMul"):
            node.attribute.append(onnx.helper.make_attribute("compute", "float32"))
    if quantized.is_external():
        return bytes(proto.SerializeToString())
    path = folder / "exact.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def _in_body(proto: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    return any(node is n for f in proto.functions if f.domain == DOMAIN for n in f.node)


def _differences(reference: list[dict[str, Any]], got: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    out: dict[str, Difference] = {}
    for a, b in zip(reference, got, strict=True):
        for name, value in a.items():
            for x, y in zip(_arrays(value), _arrays(b[name]), strict=False):
                out.setdefault(name, Difference()).add(x, y)
    return {name: d.to_dict() for name, d in out.items()}


def _arrays(value: Any) -> list[np.ndarray[Any, Any]]:
    """Arrays in an output; sequences are flattened, maps compared by their values."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [np.asarray(list(value.values()))]
    if isinstance(value, list):
        return [a for v in value for a in _arrays(v)]
    return [np.asarray(value)]


def latencies(models: Mapping[str, Path], feed: feeds_.Feed, threads: int | None) -> dict[str, Any]:
    """Median seconds per call of several models, their runs interleaved."""
    sessions: dict[str, ort.InferenceSession] = {
        name: runtime.open_session(path, runtime.session_options(threads=threads)) for name, path in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    started = time.perf_counter()
    for session in sessions.values():
        runtime.run(session, feed)
    while min(map(len, times.values())) < 5 or (time.perf_counter() - started < 2 and len(times["original"]) < 200):
        for name, session in sessions.items():
            begin = time.perf_counter()
            runtime.run(session, feed)
            times[name].append(time.perf_counter() - begin)
        if time.perf_counter() - started > 30 and min(map(len, times.values())) >= 3:
            break
    seconds = {name: median(t) for name, t in times.items()}
    first = next(iter(seconds.values()))
    return {
        "seconds": seconds,
        "ratio": {n: first / s for n, s in seconds.items()},
        "runs": len(times[next(iter(times))]),
        "threads": threads,
    }


def footprint(path: Path) -> dict[str, float]:
    """Seconds and bytes of resident memory that loading a model takes on stock onnxruntime, in a process of its own."""
    command = [sys.executable, "-m", "onnxquant.validation.footprint", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ModelError(f"{path}: cannot be loaded in a process of its own: {done.stderr.strip()[-300:]}")
    return {k: float(v) for k, v in json.loads(done.stdout).items()}


def _judged(proof: Proof, options: Options) -> Proof:
    for pair in ("twin vs exact", "twin vs library exact"):
        for name, d in proof.outputs.get(pair, {}).items():
            if _db(d) < EXACT_DB:
                proof.problems.append(f"{pair}: output {name!r} has {_db(d):.1f} dB, expected {EXACT_DB:.0f} or more")
    for name, d in proof.deployed.items():
        if d.get("not_finite") or d.get("shape_mismatch"):
            what = d.get("shape_mismatch") or f"{d['not_finite']} values that are not finite"
            proof.problems.append(f"output {name!r}: {what}")
        if options.min_sqnr is not None and _db(d) < options.min_sqnr:
            proof.problems.append(f"output {name!r} has {_db(d):.2f} dB, the bound is {options.min_sqnr:g}")
        if options.max_mse is not None and d["mse"] > options.max_mse:
            proof.problems.append(f"output {name!r} has MSE {d['mse']:.3g}, the bound is {options.max_mse:g}")
    return proof


def _db(difference: Mapping[str, Any]) -> float:
    value = difference["sqnr_db"]
    return float(value) if not isinstance(value, str) else {"inf": math.inf, "-inf": -math.inf}.get(value, math.nan)
