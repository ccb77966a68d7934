"""Whether passes left a model's function alone: onnxruntime without optimizations, and ONNX's reference, before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
from numpy.typing import NDArray

from onnxquant.graph.io import Document, load
from onnxquant.graph.traverse import nodes, tensors
from onnxquant.passes import PassResult

Feed = Mapping[str, NDArray[Any]]


def complete(document: Document) -> onnx.ModelProto:
    """A copy that carries its tensors."""
    proto = onnx.ModelProto()
    proto.CopyFrom(document.proto)
    for tensor in tensors(proto):
        document.inline(tensor)
    return proto


def outputs(proto: onnx.ModelProto, feed: Feed) -> dict[str, Any]:
    """What onnxruntime makes of a feed, every node as it stands."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feed)), strict=True))


@cache
def products_saturate() -> bool:
    """Whether onnxruntime's products of uint8 and int8 saturate on this CPU, as on x86 without VNNI."""
    shape = {"x": ("uint8", [1, 64]), "w": ("int8", [64, 16])}
    inputs = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(np.dtype(d)), s)
        for n, (d, s) in shape.items()
    ]
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "g", inputs, [y])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    feed = {"x": np.full((1, 64), 255, np.uint8), "w": np.full((64, 16), 127, np.int8)}
    return bool((outputs(proto, feed)["y"] != 64 * 255 * 127).any())


def ops(document: Document) -> Counter[str]:
    """Number of nodes by op, Constants aside."""
    return Counter(n.op_type for n in nodes(document.proto) if n.op_type != "Constant")


def difference(expected: Mapping[str, Any], got: Mapping[str, Any]) -> float:
    """Largest difference relative to the largest value, over all outputs."""
    assert list(expected) == list(got)
    worst = 0.0
    for name, value in expected.items():
        assert value.shape == got[name].shape and value.dtype == got[name].dtype, name
        if value.dtype.kind not in "fV":
            assert np.array_equal(value, got[name]), name
            continue
        a, b = value.astype(np.float64), got[name].astype(np.float64)
        assert np.array_equal(np.isnan(a), np.isnan(b)), name
        worst = max(worst, float(np.nanmax(np.abs(a - b), initial=0) / (np.nanmax(np.abs(a), initial=0) or 1)))
    return worst


def check(
    proto: onnx.ModelProto,
    step: Callable[[Document], PassResult],
    *feeds: Feed,
    within: float = 2e-6,
    reference: bool = True,
) -> tuple[Document, str | None]:
    """Run a pass, compare the outputs before and after, and give the document and the pass's sentence."""
    document = load(proto)
    before = complete(document)
    result = step(document)
    changed = complete(document)
    same = list(before.graph.node) == list(changed.graph.node)
    same = same and list(before.graph.initializer) == list(changed.graph.initializer)
    assert result.changed != same
    # The checker asks for the shapes of outputs, which small models may leave out.
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(changed, check_type=True, strict_mode=reference))
    for kind in ("input", "output"):
        assert list(getattr(changed.graph, kind)) == list(getattr(proto.graph, kind))
    names = [n.name for n in nodes(changed) if n.name]
    assert len(names) == len(set(names))
    for feed in feeds:
        assert difference(outputs(proto, feed), outputs(changed, feed)) <= within
        if reference:
            evaluated = []
            for model in (proto, changed):
                values = onnx.reference.ReferenceEvaluator(model).run(None, dict(feed))
                evaluated.append(dict(zip([o.name for o in model.graph.output], map(np.asarray, values), strict=True)))
            assert difference(*evaluated) <= within
    # A pass that says nothing has changed nothing, but a sentence may also say why nothing could be changed.
    assert result.notes or not result.changed
    return document, "; ".join(result.notes) or None
