"""A weight decoded to its own shape ahead of the op that reads it, in standard ops that fold at session creation.

Cast and Mul, never DequantizeLinear: ONNX Runtime leaves DequantizeLinear in the graph and runs it on every call. What
folds costs the format's size on disk and runs at float speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import onnx

from onnxquant.formats.base import Encoded
from onnxquant.formats.floats import Floats
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.model_editor import ModelEditor
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import Site, Use
from onnxquant.targets.base import Lowered, Result, add_planes
from onnxquant.targets.layouts.base import IR_OF_BITS
from onnxquant.targets.layouts.dense import DenseLayout
from onnxquant.targets.node_builder import F32, GraphNodes


def lower_dense(
    editor: ModelEditor, site: Site, layout: DenseLayout, encoded: Encoded | None, uses: Sequence[Use]
) -> Lowered:
    """Store the weight in its own shape and let nodes read it decoded.

    Args:
        editor: editor of the model.
        site: the weight.
        layout: its layout.
        encoded: the encoded weight; None: sizes only.
        uses: the nodes that read it decoded.
    """
    names = add_planes(editor, site, layout, encoded)
    if not layout.packed:
        editor.require_ir(IR_OF_BITS.get(layout.form.bits, 3))
    nodes = GraphNodes(editor, site)
    if isinstance(layout.form, Floats):
        decoded = nodes.cast(names["values"], site.tensor.data_type)
    else:
        decoded = _decode(nodes, layout, layout.form, names)
    nodes.insert_first()
    return Lowered({layout.name: names}, [read_decoded(editor, uses, decoded)])


def read_decoded(editor: ModelEditor, uses: Sequence[Use], decoded: str) -> Result:
    """Let nodes read the decoded tensor instead of the weight."""
    for use in uses:
        editor.read_instead(use, decoded)
    return Result(UseKind.DENSE, "", decoded)


def _decode(nodes: GraphNodes, layout: DenseLayout, form: ScaledCodes, names: Mapping[str, str]) -> str:
    """Nodes that decode the weight in its own shape and type; the result's name."""
    codes = _unpack(nodes, layout, names["codes"]) if layout.packed else _whole(nodes, names["codes"])
    if form.has_zero_points:
        codes = nodes.op("Sub", codes, _spread(nodes, layout, nodes.floats(names["zero_points"])))
    elif layout.packed:
        codes = nodes.op("Sub", codes, nodes.number(form.offset))
    scales = names["scales"] if layout.specs()["scales"].elem_type == F32 else nodes.floats(names["scales"])
    decoded = nodes.op("Mul", codes, _spread(nodes, layout, scales))
    view, elem_type = layout.view, nodes.site.tensor.data_type
    if isinstance(form.granularity, PerBlock):
        if view.permuted != layout.code_shape:
            decoded = nodes.op("Reshape", decoded, nodes.ints(*view.permuted))
        if view.perm != tuple(range(len(view.perm))):
            decoded = nodes.op("Transpose", decoded, perm=list(view.inverse))
    return decoded if elem_type == F32 else nodes.cast(decoded, elem_type)


# Operators whose codes OpenVINO would keep.
_KEPT = ("MatMul", "Gemm", "Gather", "GRU", "LSTM", "RNN")


def _whole(nodes: GraphNodes, codes: str) -> str:
    """Whole codes as floats.

    OpenVINO decodes codes that a product or a lookup reads through Cast and Mul on every call, at half of float's speed; in
    a file with integer activations it keeps those of recurrent layers, too, and then refuses them, as no constants. With a
    wider integer in between it decodes them when it loads the file: int32, as onnxruntime-web's build for WebGPU
    casts no int16.
    """
    is_kept = any(use.node.op_type in _KEPT for use in nodes.site.uses)
    return nodes.floats(nodes.cast(codes, onnx.TensorProto.INT32) if is_kept else codes)


def _spread(nodes: GraphNodes, layout: DenseLayout, side: str) -> str:
    """Scales or zero points as they broadcast against the codes; where the last block is short, one per weight."""
    granularity = layout.form.granularity
    if not layout.ragged or not isinstance(granularity, PerBlock):
        return side
    rows, blocks = granularity.shape(layout.rows, layout.cols)
    wide = nodes.expanded(side, (rows, blocks, 1), (rows, blocks, granularity.size))
    return nodes.first(nodes.op("Reshape", wide, nodes.ints(rows, -1)), layout.cols, 1)


def _unpack(nodes: GraphNodes, layout: DenseLayout, packed: str) -> str:
    """Codes as floats from bytes."""
    fields = nodes.fields(nodes.floats(packed), layout.form.bits)
    column = nodes.ints(-1, 1)
    joined = nodes.op("Concat", *[nodes.op("Reshape", field, column) for field in fields], axis=1)
    count = prod(layout.code_shape)
    if count % len(fields):
        joined = nodes.op("Reshape", joined, nodes.ints(-1))
        joined = nodes.first(joined, count, 0)
    return nodes.op("Reshape", joined, nodes.ints(*layout.code_shape))
