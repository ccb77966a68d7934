"""Running the models of a comparison on its samples: float, twin, quantized; stock and with our library."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from onnxquant import runtime
from onnxquant.artifact.stored import metadata, records, write_float
from onnxquant.calibration.feeds import Feed
from onnxquant.graph.io import Document
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.traverse import nodes
from onnxquant.numerics.difference import Difference
from onnxquant.validation.reference import Reference
from onnxquant.validation.twin import write_twin

Outputs = list[dict[str, Any]]
# Which run is compared with which; those that were not made are left out.
PAIRS = [
    ("float", "twin"),
    ("twin", "twin, unoptimized"),
    ("twin", "exact"),
    ("float", "deployed"),
    ("twin", "deployed"),
    ("twin", "library exact"),
    ("float", "unoptimized"),
    ("unoptimized", "deployed"),
    ("float", "library"),
    ("deployed", "library"),
]


@dataclass(frozen=True)
class Case:
    """What is compared.

    Attributes:
        prepared: the float model whose weights were encoded; None: not known, the file itself says what it stands for.
        quantized: the file under proof.
        samples: feeds with the original's outputs.
        threads: of every session.
        mapped: leave weights in mapped files, so that products compute in float and nothing is repacked.
    """

    prepared: Document | None
    quantized: Document
    samples: Reference
    threads: int | None
    mapped: bool

    def run(self, model: Path | bytes, *, library: bool = False, **settings_: bool) -> Outputs:
        """Outputs of a model on every sample; keywords go to ``runtime.session_options``."""
        assert self.quantized.path
        settings = runtime.session_options(threads=self.threads, **{"mapped": self.mapped, **settings_})
        session = runtime.open_session(model, settings, library=library, folder=self.quantized.path.parent)
        return [runtime.run(session, feed) for feed in self.samples.feeds]


def compare_outputs(case: Case, folder: Path, progress: Callable[[str], None]) -> dict[str, dict[str, dict[str, Any]]]:
    """Errors per pairing and output; ``folder`` takes temporary files."""
    assert case.quantized.path
    runs: dict[str, Outputs] = {"float": case.samples.outputs}
    ours = has_our_ops(case.quantized)
    if records(case.quantized.proto):
        progress("twin")
        twin = folder / "twin.onnx"
        if case.prepared:
            write_twin(case.prepared, case.quantized, twin)
        else:
            write_float(case.quantized, twin, force=True)
        runs["twin"] = case.run(twin, mapped=True)
        # The same function with its additions in another order: how far apart float32 alone brings this model.
        runs["twin, unoptimized"] = case.run(twin, mapped=True, optimize=False)
        twin.unlink()
        Path(f"{twin}.data").unlink(missing_ok=True)
        if not case.mapped:
            progress("quantized, unoptimized")
            runs["unoptimized"] = case.run(case.quantized.path, optimize=False)
        if not rounds_activations(case.quantized):
            progress("quantized, float compute")
            exact = _exact_copy(case.quantized, folder)
            # Bodies reorder planes when a session is created: copies that a large model must not make.
            if not (case.mapped and ours):
                runs["exact"] = case.run(exact, float_compute=True)
            if ours:
                runs["library exact"] = case.run(exact, float_compute=True, library=True)
    if not case.mapped:
        progress("quantized, as deployed")
        runs["deployed"] = case.run(case.quantized.path)
    if ours:
        progress("quantized, with the library")
        runs["library"] = case.run(case.quantized.path, library=True)
    pairs = PAIRS if "deployed" in runs else [*PAIRS, ("float", "exact")]
    return {f"{a} vs {b}": _plain(differences(runs[a], runs[b])) for a, b in pairs if a in runs and b in runs}


def rounds_activations(document: Document) -> bool:
    """Whether activations are integers whatever is asked of the session: there is no float compute to compare with."""
    static = metadata(document.proto).get("activations", {}).get("kind") == "static"
    return static or any(r.target == "dynamic" for r in records(document.proto))


def has_our_ops(document: Document) -> bool:
    """Whether a model has ops of our domain, which our library serves."""
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


def differences(reference: Sequence[Mapping[str, Any]], got: Sequence[Mapping[str, Any]]) -> dict[str, Difference]:
    """The difference of each output over all samples."""
    out: dict[str, Difference] = {}
    for a, b in zip(reference, got, strict=True):
        for name, value in a.items():
            for x, y in zip(_arrays(value), _arrays(b[name]), strict=False):
                out.setdefault(name, Difference()).add(x, y)
    return out


def _plain(found: Mapping[str, Difference]) -> dict[str, dict[str, Any]]:
    return {name: d.to_dict() for name, d in found.items()}


def _arrays(value: Any) -> list[np.ndarray[Any, Any]]:
    """Arrays in an output; sequences are flattened, maps compared by their values."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        return [np.asarray(list(value.values()))]
    if isinstance(value, list):
        return [a for v in value for a in _arrays(v)]
    return [np.asarray(value)]


def latencies(models: Mapping[str, Path], feed: Feed, threads: int | None) -> dict[str, Any]:
    """Median seconds per call of several models, their runs interleaved.

    A model with ops of ours runs on our library; a name that ends in ``stock`` runs without it.
    """
    sessions: dict[str, runtime.Session] = {
        name: runtime.open_session(path, runtime.session_options(threads=threads), library=not name.endswith("stock"))
        for name, path in models.items()
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
