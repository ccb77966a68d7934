"""Which site costs what: the error of the outputs when one weight, or one activation, is put back in float.

Left out one at a time, of the file as it is: interactions with the others are in the figure, as they are in the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from onnxquant import runtime
from onnxquant.artifact.stored import Record, decode_weight, plane_index, records, rescaled, restore
from onnxquant.calibration.feeds import Feed
from onnxquant.graph.io import Document
from onnxquant.graph.model_editor import with_weights
from onnxquant.graph.names import ACTIVATION
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find
from onnxquant.graph.traverse import graphs
from onnxquant.numerics.decibels import decibels
from onnxquant.numerics.difference import rescaled_like
from onnxquant.validation.outputs import differences

Outputs = Sequence[Mapping[str, Any]]
Progress = Callable[[float], None]


@dataclass(frozen=True)
class Damage:
    """What one site does to the outputs.

    Attributes:
        name: of the weight or the activation.
        kind: ``weight`` or ``activation``.
        sqnr_db: of the worst output once this site is in float, everything else as in the file.
        gain_db: how much more that is than the file's own.
        share: part of that output's error power that goes with it; negative where errors cancelled.
    """

    name: str
    kind: str
    sqnr_db: float
    gain_db: float
    share: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def damages(
    prepared: Document,
    quantized: Document,
    samples: tuple[Sequence[Feed], Outputs],
    threads: int | None = None,
    progress: Progress = lambda done: None,
) -> list[Damage]:
    """Every encoded weight and rounded activation, the worst first.

    Products compute in float with decoded weights, activations are rounded by QuantizeLinear and DequantizeLinear as in
    the file; nodes that round activations by themselves (DynamicQuantizeMatMul) do not do so here.

    Args:
        prepared: the float model; weights that calibration rescaled are matched up to one factor per row and column.
        quantized: the file of ours.
        samples: feeds, and the float model's outputs on them.
        threads: of sessions.
        progress: told which part is done.
    """
    feeds, expected = samples
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        folder = Path(name)
        base = _decoded(quantized, folder / "base.onnx")

        def noise(proto: onnx.ModelProto) -> dict[str, float]:
            # Optimized, onnxruntime rounds float weights between a DequantizeLinear and a QuantizeLinear by itself.
            settings = runtime.session_options(threads=threads, mapped=True, optimize=False)
            session = runtime.open_session(proto.SerializeToString(), settings, folder=folder)
            return _noise(expected, [runtime.run(session, feed) for feed in feeds])

        of_all = noise(base)
        if not of_all or max(of_all.values()) == 0:
            return []
        worst = max(of_all, key=lambda n: of_all[n])
        changes = list(_changes(prepared, quantized, base))
        found = []
        for i, (kind, site, change) in enumerate(changes):
            left = noise(change())[worst]
            share = (of_all[worst] - left) / of_all[worst]
            gain = decibels(of_all[worst], left)
            found.append(Damage(site, kind, decibels(1.0, left), gain, share))
            progress((i + 1) / len(changes))
    return sorted(found, key=lambda d: -d.share)


def _decoded(quantized: Document, path: Path) -> onnx.ModelProto:
    """The file with standard ops on decoded weights, activations rounded; its tensors lie beside ``path``."""
    index = plane_index(quantized.proto)
    with Publisher(path, external=True, force=True) as publisher:
        proto = onnx.ModelProto()
        proto.CopyFrom(quantized.proto)
        restore(proto, records(proto), publisher, lambda r: decode_weight(quantized, r, index), keep_activations=True)
        publisher.keep(proto, quantized)
        publisher.publish(proto)
    return onnx.load(path, load_external_data=False)


def _changes(
    prepared: Document, quantized: Document, base: onnx.ModelProto
) -> Iterator[tuple[str, str, Callable[[], onnx.ModelProto]]]:
    """Kind and name of each site, and how to make the model in which it is float."""
    originals = {s.name: s for s in find(prepared)[0]}
    others = rescaled(quantized.proto)
    index = plane_index(quantized.proto)

    def in_float(record: Record, site: Site) -> onnx.ModelProto:
        values = prepared.array(site.tensor)
        if record.name in others:
            decoded = site.view.matrix(decode_weight(quantized, record, index))
            values = site.view.restore(rescaled_like(site.view.matrix(values), decoded)).astype(values.dtype)
        return with_weights(base, {record.name: values})

    for record in records(quantized.proto):
        site = originals.get(record.name)
        if site is None or site.shape != record.shape:
            continue

        yield "weight", record.name, partial(in_float, record, site)
    for graph in graphs(base.graph):
        for node in graph.node:
            if node.op_type == "QuantizeLinear" and any(e.key == ACTIVATION for e in node.metadata_props):
                yield "activation", node.input[0], partial(_without_rounding, base, node.output[0])


def _without_rounding(base: onnx.ModelProto, codes: str) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear of one activation become Identity."""
    proto = onnx.ModelProto()
    proto.CopyFrom(base)
    for graph in graphs(proto.graph):
        for node in graph.node:
            if codes in (*node.input[:1], *node.output) and any(e.key == ACTIVATION for e in node.metadata_props):
                node.op_type = "Identity"
                del node.input[1:], node.attribute[:]
    return proto


def _noise(expected: Outputs, got: Outputs) -> dict[str, float]:
    """Error power over signal power of each float output that is not always zero."""
    return {n: d.error / d.reference for n, d in differences(expected, got).items() if d.reference}
