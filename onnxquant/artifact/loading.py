"""The weights of a file that are decoded whenever a session is created without our library, and what that costs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxquant.artifact.records import Record
from onnxquant.formats import Format, registry
from onnxquant.formats.bitsandbytes.nf4_fp4 import NestedTable
from onnxquant.formats.ggml.superblocks import SuperBlocks
from onnxquant.graph.names import DOMAIN
from onnxquant.graph.traverse import nodes
from onnxquant.targets.bodies import GATHER

# Processor time to decode one weight by the body of one of our operators (x86 with AVX2): of codes that are parts of a byte,
# and of those that are put together first, or whose scales are; and the fewest weights that are told of.
_SECONDS_PER_WEIGHT, _SECONDS_PER_SPLIT_WEIGHT, _MANY_WEIGHTS = 12e-9, 35e-9, 2_000_000
_WHOLE = (2, 4, 8)


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
    seconds = sum(record.elements * _seconds_per_weight(installed.get(record.format)) for record in slow)
    return [
        f"without our library, {weights:,} weights are decoded whenever a session is created: {seconds:.2g} s of processor "
        f"time, and the memory of floats; {'; '.join(remedies)}"
    ]


def _decoded_at_load(proto: onnx.ModelProto, records: Iterable[Record]) -> list[Record]:
    bodies = {f.name for f in proto.functions if f.domain == DOMAIN and _looks_codes_up(f)}
    calls = (n for n in nodes(proto) if n.domain == DOMAIN and n.op_type in bodies)
    read = {name for node in calls for name in node.input}
    return [record for record in records if not read.isdisjoint(record.plane_names)]


def _seconds_per_weight(form: type[Format] | None) -> float:
    is_whole = form is not None and form.bits in _WHOLE and not issubclass(form, SuperBlocks)
    return _SECONDS_PER_WEIGHT if is_whole else _SECONDS_PER_SPLIT_WEIGHT


def _looks_codes_up(body: onnx.FunctionProto) -> bool:
    """Whether a body decodes by lookups of codes; a lookup of rows has one more, that of its indices."""
    lookups = sum(n.op_type == GATHER for n in body.node)
    return lookups > body.name.startswith(GATHER)
