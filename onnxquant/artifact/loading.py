"""The weights of a file that are decoded whenever a session is created without our library, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxquant.artifact.records import Record
from onnxquant.formats import Format, registry
from onnxquant.formats.bitsandbytes.nf4_fp4 import NestedTable
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.traverse import nodes

# Processor time to decode one weight by the body of one of our operators (x86 with AVX2), and the fewest that are told of.
_SECONDS_PER_WEIGHT, _MANY_WEIGHTS = 25e-9, 2_000_000


def loading_notes(proto: onnx.ModelProto, records: Iterable[Record]) -> list[str]:
    """A sentence on the weights that bodies of our operators look up by their codes when a session is created.

    Args:
        proto: a quantized model
        records: its encoded weights

    Returns:
        the sentence with what avoids it; none where these weights are few
    """
    slow = _decoded_at_load(proto, records)
    weights = sum(record.elements for record in slow)
    if weights < _MANY_WEIGHTS:
        return []
    remedies = ["formats of MatMulNBits (int4, int8) load as fast as floats"]
    installed = registry()
    if tables := sorted({r.format for r in slow if issubclass(installed.get(r.format, Format), NestedTable)}):
        remedies.append(
            f"products with {' and '.join(tables)} do on --target ort, whose MatMulBnb4 decodes them on every call instead"
        )
    return [
        f"without our library, {weights:,} weights are decoded whenever a session is created: "
        f"{weights * _SECONDS_PER_WEIGHT:.2g} s of processor time, and the memory of floats; {'; '.join(remedies)}"
    ]


def _decoded_at_load(proto: onnx.ModelProto, records: Iterable[Record]) -> list[Record]:
    bodies = {
        f.name
        for f in proto.functions
        if f.domain == DOMAIN and not f.name.startswith("Gather") and {n.op_type for n in f.node} >= {"Gather"}
    }
    calls = (n for n in nodes(proto) if n.domain == DOMAIN and n.op_type in bodies)
    read = {name for node in calls for name in node.input}
    return [record for record in records if not read.isdisjoint(record.plane_names)]
