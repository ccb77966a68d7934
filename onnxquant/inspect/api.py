"""The rest of the public functions: comparing, measuring, describing and editing models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import onnx

from onnxquant import runtime
from onnxquant.activations.placement import FOR_ACCURACY
from onnxquant.artifact import lowering
from onnxquant.artifact.stored import Record, dequantize, metadata, records, verify
from onnxquant.calibration.calibrate import calibrate
from onnxquant.calibration.samples import Samples
from onnxquant.errors import RecipeError, nearest
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import load as load_document
from onnxquant.graph.io import nbytes
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.publish import Publisher, refuse_overwriting
from onnxquant.graph.sites import FLOATS, Site, find
from onnxquant.graph.traverse import nodes, tensors
from onnxquant.native import library as native
from onnxquant.passes.pipeline import prepare
from onnxquant.plan.decision import EncodeDecision, KeepDecision, Plan
from onnxquant.plan.planner import decide
from onnxquant.recipe.options import Options
from onnxquant.recipe.rules import Rule
from onnxquant.report import write as files
from onnxquant.report.data import Report, files_of, given, hashes
from onnxquant.targets import AUTO
from onnxquant.validation.compare import compare, prepared_like, reference_of
from onnxquant.validation.contributions import damages
from onnxquant.validation.outputs import latencies
from onnxquant.validation.reference import Data, reference

__all__ = ["Model", "benchmark", "calibrate", "dequantize", "info", "library_path", "validate", "verify"]


def library_path() -> Path:
    """The compiled custom-op library, for ``RegisterCustomOpsLibrary`` in any language.

    Raises:
        NativeLibraryError: the package was installed without it.
    """
    return native.library_path()


def validate(
    original: str | Path | onnx.ModelProto,
    quantized: str | Path,
    data: Data = None,
    *,
    detailed: bool = False,
    progress: Callable[[str, float], None] = lambda stage, done: None,
    command: str | None = None,
    **options: Any,
) -> Report:
    """Prove a quantized file against its original: structure, weights, outputs, sizes.

    Args:
        original: the float model.
        quantized: the file to prove; of ours, or anybody's.
        data: samples; None: seeded synthetic ones, with a warning.
        detailed: find out what each weight and each rounded activation costs (``report.proof.damage``).
        progress: told the stage and which part of it is done.
        command: the command line, for the report.
        options: ``samples``, ``seed``, ``threads``, ``dim``, ``min_sqnr``, ``max_mse``, ``metric``, ``max_drop``,
            ``external_root``, ``report``, ``force``.

    Raises:
        ModelError: a model cannot be read or run.
        FeedError: the data does not fit.
    """
    settings = Options.make(options)
    document = load_document(original, settings.external_root)
    report = Report(source=document.name, output=str(quantized), original_bytes=document.size())
    file = load_document(quantized, settings.external_root)
    for path in files.places(settings.report, Path(quantized), force=settings.force):
        refuse_overwriting(document, path)
        refuse_overwriting(file, path)
    progress("samples", 0.0)
    samples = reference_of(document, None if data is None else Samples(data, settings), settings)
    proof = compare(document, Path(quantized), samples, settings, lambda stage: progress(stage, 0.0))
    if detailed and records(file.proto):
        run, told = (samples.feeds, samples.outputs), partial(progress, "damage of each site")
        found = damages(prepared_like(document, file), file, run, settings.threads, told)
        proof.damage = [d.to_dict() for d in found]
    report.prove(proof)
    report.output_bytes = file.size()
    report.asked = {"recipe": [], "options": given(options)}
    report.command = command
    report.sha256 = {"original": hashes(files_of(document)), "output": hashes(files_of(file))}
    files.write(report, files.places(settings.report, Path(quantized), force=True))
    return report


def benchmark(*models: str | Path, data: Data = None, **options: Any) -> list[dict[str, Any]]:
    """Sizes and latencies of models with the same inputs, their runs interleaved; one row each.

    Args:
        models: ONNX files; the first is what the ratios refer to.
        data: samples, of which the first is run; None: synthetic.
        options: ``seed``, ``threads``, ``dim``, ``external_root``.
    """
    if not models:
        raise RecipeError("benchmark takes at least one model")
    settings = Options.make(options)
    paths = [Path(m) for m in models]
    sizes = [load_document(p, settings.external_root).size() for p in paths]
    settings = replace(settings, samples=1)
    feed = reference(paths[0], None if data is None else Samples(data, settings), settings).feeds[0]
    named = {"original" if i == 0 else str(i): p for i, p in enumerate(paths)}
    measured = latencies(named, feed, settings.threads)
    rows = []
    for (key, path), size in zip(named.items(), sizes, strict=True):
        rows.append(
            {
                "model": str(path),
                "bytes": size,
                "size_ratio": sizes[0] / size,
                "seconds": measured["seconds"][key],
                "speed_ratio": measured["ratio"][key],
                "runs": measured["runs"],
                "threads": settings.threads,
                "kernels": runtime.optimized_ops(path, threads=settings.threads),
            }
        )
    return rows


def info(path: str | Path) -> dict[str, Any]:
    """What a model holds: formats, sizes, bits per weight, opset, where it comes from, what it needs, each weight."""
    document = load_document(path)
    proto = document.proto
    data = metadata(proto)
    found = records(proto)
    prepare(document)
    sites, left = find(document)
    float_left = sum(s.elements for s in sites) + sum(prod(c.shape) for c in left)
    float_bytes = sum(s.nbytes for s in sites) + sum(c.nbytes for c in left)
    planes = {n for r in found for names in r.lowered.planes.values() for n in names.values()}
    stored = {t.name: nbytes(t) for t in tensors(proto) if t.name in planes}
    plane_bytes = sum(stored.values())
    encoded = sum(prod(r.shape) for r in found)
    side = sum(prod(t.dims) for t in tensors(proto) if t.name in planes and t.data_type in FLOATS)
    weights = encoded + float_left - side
    float_bytes -= sum(nbytes(t) for t in tensors(proto) if t.name in planes and t.data_type in FLOATS)
    formats: dict[str, int] = {}
    for record in found:
        formats[record.format] = formats.get(record.format, 0) + 1
    size = document.size()
    return {
        "model": str(path),
        "bytes": size,
        "original_bytes": data.get("source_bytes", size),
        "compression_ratio": data.get("source_bytes", size) / size,
        "bits_per_weight": 8 * (plane_bytes + float_bytes) / weights if weights else None,
        "weights": weights,
        "weights_encoded": encoded,
        "formats": formats,
        "targets": sorted({r.target for r in found}),
        "activations": _activations(data.get("activations", {})),
        "opset": {o.domain or "ai.onnx": o.version for o in proto.opset_import},
        "ir_version": proto.ir_version,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "quantized_by": f"onnxquant {data['version']}" if data else None,
        "ops": runtime.histogram(proto),
        "needs_onnxruntime": minimum_onnxruntime(proto),
        "library": "optional: our kernels, faster" if any(f.domain == DOMAIN for f in proto.functions) else "none",
        "tensors": [_tensor(r, stored) for r in found],
    }


def _tensor(record: Record, stored: Mapping[str, int]) -> dict[str, Any]:
    """How one weight is stored: what its planes take, and what it took in float.

    Args:
        record: what the file says of it.
        stored: bytes by plane.
    """
    form = format_named(record.format, **record.parameters)
    planes = {n for names in record.lowered.planes.values() for n in names.values()}
    now, before = sum(stored.get(n, 0) for n in planes), prod(record.shape) * record.dtype.itemsize
    return {
        "name": record.name,
        "shape": list(record.shape),
        "dtype": str(record.dtype),
        "format": record.format,
        "bits": form.bits,
        "block_size": getattr(form, "group", None) or None,
        "target": record.target,
        "bytes": now,
        "float_bytes": before,
        "ratio": before / now if now else None,
    }


def _activations(about: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its activations, in short; empty where they are floats."""
    if not about:
        return {}
    left = about.get("left_in_float", {})
    found = {
        "kind": about.get("kind"),
        "type": f"{about.get('type')}{' symmetric' if about.get('symmetric') else ''}",
        "integer kernels": about.get("integer_kernels"),
        "weights rescaled": len(about.get("rescaled", ())),
    }
    if about.get("kind") != "static":
        return found
    return found | {
        "method": about.get("method"),
        "solver": about.get("solver", "rtn"),
        "tensors": len(about.get("tensors", ())),
        "biases corrected": about.get("biases_corrected", 0),
        "left in float": len(left),
        "excluded for accuracy": sum(reason == FOR_ACCURACY.reason for reason in left.values()),
    }


def minimum_onnxruntime(proto: onnx.ModelProto) -> str:
    """The oldest onnxruntime, from 1.23 on, that loads a model, by its opset and the code widths of its ops.

    Found by loading every format and target on each release (docs/compatibility.md).
    """
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    minor = max(23, {24: 24, 25: 24, 26: 26}.get(opset, 23))
    for node in nodes(proto):
        two_bits = any(a.name == "bits" and a.i == 2 for a in node.attribute)
        if two_bits and node.op_type in ("MatMulNBits", "GatherBlockQuantized"):
            minor = max(minor, 24 if node.op_type == "MatMulNBits" else 27)
    return f"1.{minor}"


class Model:
    """A model at the level of weights, for people who bring their own algorithm.

    >>> model = Model("model.onnx")                                        # doctest: +SKIP
    >>> for site in model.sites:                                           # doctest: +SKIP
    ...     model.set(site.name, encode(model.weight(site.name), "q4_0"))
    >>> model.save("model.q4_0.onnx")                                      # doctest: +SKIP
    """

    def __init__(self, source: str | Path | onnx.ModelProto, *, external_roots: Iterable[str] = ()) -> None:
        self._document = load_document(source, tuple(external_roots))
        prepare(self._document)
        self.sites: list[Site] = find(self._document)[0]
        self._chosen: dict[str, tuple[Encoded, str]] = {}

    def _site(self, name: str) -> Site:
        for site in self.sites:
            if site.name == name:
                return site
        raise RecipeError(f"no weight {name!r}{nearest(name, [s.name for s in self.sites])}")

    def weight(self, name: str) -> Any:
        """A weight as its canonical matrix [rows, cols]: output channels by contracted channels."""
        site = self._site(name)
        return site.view.matrix(self._document.array(site.tensor))

    def set(self, name: str, encoded: Encoded, target: str = AUTO) -> None:
        """Use an encoded weight for a site.

        Raises:
            RecipeError: no such site, another shape, or a target that refuses it.
        """
        site = self._site(name)
        if (encoded.rows, encoded.cols) != (site.rows, site.cols):
            raise RecipeError(
                f"weight {name!r}: encoded as [{encoded.rows}, {encoded.cols}], expected [{site.rows}, {site.cols}]"
            )
        self._chosen[name] = (encoded, target)

    def save(self, output: str | Path, *, force: bool = False) -> None:
        """Write the model with the encoded weights set so far.

        Raises:
            RecipeError: a target refuses a weight.
            OutputError: the output cannot be written.
        """
        decisions: list[EncodeDecision] = []
        for name, (encoded, target) in self._chosen.items():
            rule = Rule(format=encoded.format.name, target=target)
            decision = decide(self._site(name), encoded.format, rule, self._document.opset)
            if isinstance(decision, KeepDecision):
                raise RecipeError(f"weight {name!r}: {decision.reason}")
            decisions.append(replace(decision, format=encoded.format))
        refuse_overwriting(self._document, Path(output))
        external = self._document.is_external()
        with Publisher(Path(output), external=external, force=force) as publisher:
            lowering.write(self._document, Plan(tuple(decisions)), publisher, lambda s, _: self._chosen[s.name][0])
