"""A weight decoded to its own shape ahead of the op that reads it, in standard ops that fold at session creation.

Cast and Mul, never DequantizeLinear: ONNX Runtime leaves DequantizeLinear in the graph and runs it on every call. What
folds costs the format's size on disk and runs at float speed.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import Site, Use
from onnxquant.targets.base import F32, Lowered, Planes, Result, add_planes
from onnxquant.targets.layouts import IR_OF_BITS, Dense


def lower_dense(
    editor: ModelEditor,
    site: Site,
    form: Format,
    encoded: Encoded | None,
    lowered: Lowered,
    uses: list[Use] | None = None,
) -> None:
    """Store the weight in its own shape and let ``uses`` (default: those no kernel serves) read it decoded."""
    layout = Dense(form, site.view, editor.opset)
    names = add_planes(editor, site, layout, encoded)
    if not layout.packed:
        editor.require_ir(IR_OF_BITS.get(form.bits, 3))
    chain = _Chain(editor, site)
    decoded = (
        chain.cast(names["values"], site.tensor.data_type)
        if isinstance(form, Floats)
        else _decode(chain, layout, names)
    )
    editor.first(site.graph, chain.nodes)
    lowered.planes["dense"] = names
    read_decoded(editor, site.served(UseKind.DENSE) if uses is None else uses, decoded, lowered)


def read_decoded(editor: ModelEditor, uses: list[Use], decoded: str, lowered: Lowered) -> None:
    """Let consumers read the decoded tensor instead of the weight."""
    lowered.results.append(Result(UseKind.DENSE, "", decoded))
    for use in uses:
        editor.read_instead(use, decoded)


class _Chain:
    """Nodes one after another at the start of the weight's graph."""

    def __init__(self, editor: ModelEditor, site: Site) -> None:
        self.editor = editor
        self.site = site
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        node = self.editor.node(self.site, op, inputs, **attributes)
        self.nodes.append(node)
        return str(node.output[0])

    def cast(self, name: str, to: int) -> str:
        return self.add("Cast", name, to=to)

    def ints(self, *values: int) -> str:
        return self.editor.constant(self.site.graph, f"{self.site.name}/shape", np.array(values, np.int64))

    def scalar(self, value: float) -> str:
        return self.editor.constant(self.site.graph, f"{self.site.name}/constant", np.float32(value))


def _decode(chain: _Chain, layout: Dense, names: Planes) -> str:
    form = layout.scaled
    codes = _unpack(chain, layout, names["codes"]) if layout.packed else chain.cast(names["codes"], F32)
    if form.has_zero_points:
        codes = chain.add("Sub", codes, _spread(chain, layout, chain.cast(names["zero_points"], F32)))
    elif layout.packed:
        codes = chain.add("Sub", codes, chain.scalar(form.offset))
    scales = names["scales"] if form.scale_dtype is np.float32 else chain.cast(names["scales"], F32)
    decoded = chain.add("Mul", codes, _spread(chain, layout, scales))
    if isinstance(form.granularity, PerBlock):
        if layout.view.permuted != layout.code_shape:
            decoded = chain.add("Reshape", decoded, chain.ints(*layout.view.permuted))
        if layout.view.perm != tuple(range(len(layout.view.perm))):
            decoded = chain.add("Transpose", decoded, perm=list(layout.view.inverse))
    if chain.site.tensor.data_type != F32:
        decoded = chain.cast(decoded, chain.site.tensor.data_type)
    return decoded


def _spread(chain: _Chain, layout: Dense, side: str) -> str:
    """Side information as it broadcasts against the codes; where the last block is short, one value per weight."""
    granularity = layout.scaled.granularity
    if not layout.ragged or not isinstance(granularity, PerBlock):
        return side
    rows, blocks = layout.groups
    wide = chain.add("Expand", side, chain.ints(rows, blocks, granularity.size))
    flat = chain.add("Reshape", wide, chain.ints(rows, -1))
    return chain.add("Slice", flat, chain.ints(0), chain.ints(layout.cols), chain.ints(1))


def _unpack(chain: _Chain, layout: Dense, packed: str) -> str:
    """Codes as float from bytes, by float arithmetic alone: it exists in every opset and every code is exact in it."""
    form: ScaledCodes = layout.scaled
    per_byte = 8 // form.bits
    rest = chain.cast(packed, F32)
    base = chain.scalar(1 << form.bits)
    parts = []
    for i in range(per_byte):
        if i == per_byte - 1:
            parts.append(rest)
            break
        above = chain.add("Floor", chain.add("Div", rest, base))
        parts.append(chain.add("Sub", rest, chain.add("Mul", above, base)))
        rest = above
    column = chain.ints(-1, 1)
    joined = chain.add("Concat", *[chain.add("Reshape", p, column) for p in parts], axis=1)
    count = prod(layout.code_shape)
    if count % per_byte:
        joined = chain.add("Reshape", joined, chain.ints(-1))
        joined = chain.add("Slice", joined, chain.ints(0), chain.ints(count), chain.ints(0))
    return chain.add("Reshape", joined, chain.ints(*layout.code_shape))
