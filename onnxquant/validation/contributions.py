"""Contributions of single sites to the error of the outputs: the error with one weight, or one activation, in float.

Sites are put back in float one at a time, in the file as it is: a figure includes how the site acts together with the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import onnx

from onnxquant import runtime
from onnxquant.artifact.read import decode_weight, plane_index
from onnxquant.artifact.records import Record, records, rescaled_weights
from onnxquant.artifact.restore import restore
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import with_weights
from onnxquant.graph.names import ACTIVATION
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find_sites
from onnxquant.graph.traverse import graphs
from onnxquant.numerics.decibels import decibels
from onnxquant.numerics.difference import rescaled_like
from onnxquant.recipe.progress import Progress, silent
from onnxquant.validation.outputs import differences
from onnxquant.validation.reference import Outputs, SampledOutputs

SiteKind = Literal["weight", "activation"]


@dataclass(frozen=True)
class SiteContribution:
    """Contribution of one site to the error of the outputs.

    Attributes:
        name: name of the weight or the activation.
        kind: which of the two it is.
        sqnr_db: SQNR of the worst output with this site in float and everything else as in the file.
        gain_db: difference between that and the SQNR of the file.
        share: part of that output's error power that goes away; negative where errors cancelled.
    """

    name: str
    kind: SiteKind
    sqnr_db: float
    gain_db: float
    share: float


@dataclass(frozen=True)
class _Change:
    """One site, and the function that makes the model in which it is float."""

    name: str
    kind: SiteKind
    make: Callable[[], onnx.ModelProto]


def site_contributions(
    prepared: Document,
    quantized: Document,
    samples: SampledOutputs,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[SiteContribution]:
    """Contributions of every encoded weight and rounded activation, the largest first.

    Products compute in float with decoded weights. Activations are rounded by QuantizeLinear and DequantizeLinear as in
    the file; ops that round activations themselves (DynamicQuantizeMatMul) do not do so here.

    Args:
        prepared: the float model; weights that calibration rescaled are matched up to one factor per row and column.
        quantized: the file of ours.
        samples: samples with the float model's outputs.
        threads: number of threads of a session; None: onnxruntime's choice.
        progress: callback for the stage and the part of it that is done.
    """
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        folder = Path(name)
        base = _decoded(quantized, folder / "base.onnx")

        def noise(proto: onnx.ModelProto) -> dict[str, float]:
            # Optimized, onnxruntime rounds float weights between a DequantizeLinear and a QuantizeLinear by itself.
            settings = runtime.session_options(threads=threads, mapped=True, optimize=False)
            session = runtime.open_session(proto.SerializeToString(), settings, folder=folder)
            return _noise(samples.outputs, [runtime.run(session, feed) for feed in samples.feeds])

        of_all = noise(base)
        if not of_all or max(of_all.values()) == 0:
            return []
        worst = max(of_all, key=lambda n: of_all[n])
        changes = list(_changes(prepared, quantized, base))
        contributions = []
        for i, change in enumerate(changes):
            contributions.append(_contribution(change, of_all[worst], noise(change.make())[worst]))
            progress("contribution of each site", (i + 1) / len(changes))
    return sorted(contributions, key=lambda c: -c.share)


def _contribution(change: _Change, before: float, after: float) -> SiteContribution:
    """The contribution of a site, from the noise of the worst output before and after the site is put back in float."""
    return SiteContribution(
        name=change.name,
        kind=change.kind,
        sqnr_db=decibels(1.0, after),
        gain_db=decibels(before, after),
        share=(before - after) / before,
    )


def _decoded(quantized: Document, path: Path) -> onnx.ModelProto:
    """The file with standard ops on decoded weights, activations rounded; its tensors lie beside ``path``."""
    index = plane_index(quantized.proto)
    with Publisher(path, external=True, force=True) as publisher:
        proto = onnx.ModelProto()
        proto.CopyFrom(quantized.proto)
        restore(proto, publisher, lambda r: decode_weight(quantized, r, index), keep_activations=True)
        publisher.keep(proto, quantized)
        publisher.publish(proto)
    return onnx.load(path, load_external_data=False)


def _changes(prepared: Document, quantized: Document, base: onnx.ModelProto) -> Iterator[_Change]:
    """One change per encoded weight and rounded activation: the model with that one in float."""
    originals = {s.name: s for s in find_sites(prepared)[0]}
    others = rescaled_weights(quantized.proto)
    index = plane_index(quantized.proto)

    def in_float(record: Record, site: Site) -> onnx.ModelProto:
        values = prepared.array(site.tensor)
        if record.name in others:
            decoded = site.view.matrix(decode_weight(quantized, record, index))
            values = site.view.restore(rescaled_like(site.view.matrix(values), decoded)).astype(values.dtype)
        return with_weights(base, {record.name: values})

    for record in records(quantized.proto):
        site = originals.get(record.name)
        if site is not None and site.shape == record.shape:
            yield _Change(record.name, "weight", partial(in_float, record, site))
    for graph in graphs(base.graph):
        for node in graph.node:
            if node.op_type == "QuantizeLinear" and any(e.key == ACTIVATION for e in node.metadata_props):
                yield _Change(node.input[0], "activation", partial(_without_rounding, base, node.output[0]))


def _without_rounding(base: onnx.ModelProto, codes: str) -> onnx.ModelProto:
    """The model in which QuantizeLinear and DequantizeLinear of one activation are Identity."""
    proto = onnx.ModelProto()
    proto.CopyFrom(base)
    for graph in graphs(proto.graph):
        for node in graph.node:
            if codes in (*node.input[:1], *node.output) and any(e.key == ACTIVATION for e in node.metadata_props):
                node.op_type = "Identity"
                del node.input[1:], node.attribute[:]
    return proto


def _noise(expected: Sequence[Outputs], outputs: Sequence[Outputs]) -> dict[str, float]:
    """Error power over signal power of each float output that is not always zero."""
    return {n: d.error / d.reference for n, d in differences(expected, outputs).items() if d.reference}
