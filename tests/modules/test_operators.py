"""Functions of operators compared with onnxruntime, and their gradients with differences of values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from operator_cases import CASES, MS, Array, Case, case, n, p, x

from onnxquant.errors import ModelError
from onnxquant.graph.io import load
from onnxquant.modules.graph_module import GraphModule
from onnxquant.modules.node import OPERATORS

_OPTIONS = ort.SessionOptions()
_OPTIONS.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
_OPTIONS.log_severity_level = 4
_OPTIONS.intra_op_num_threads = 1


def _ids(cases: list[Case]) -> list[str]:
    """Names in reports; some cases differ in their numbers alone."""
    return [f"{number}-{case.id}" for number, case in enumerate(cases)]


def proto_of(case: Case) -> onnx.ModelProto:
    """A model of one node, all of whose inputs are inputs of the model."""
    domain, op = case.op.rpartition(":")[::2]
    names = ["" if array is None else f"in.{k}" for k, array in enumerate(case.arrays)]
    outputs = [f"out.{k}" for k in range(case.outputs)]
    node = onnx.helper.make_node(op, names, outputs, domain=domain)
    node.attribute.extend(onnx.helper.make_attribute(name, value) for name, value in case.attributes.items())
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(names, case.arrays, strict=True)
        if array is not None
    ]
    graph = onnx.helper.make_graph([node], "test", infos, [onnx.ValueInfoProto(name=name) for name in outputs])
    imports = [onnx.helper.make_opsetid("", case.opset), onnx.helper.make_opsetid(MS, 1)]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=9)


def feed_of(case: Case) -> dict[str, Array]:
    return {f"in.{k}": array for k, array in enumerate(case.arrays) if array is not None}


@pytest.mark.parametrize("case", CASES, ids=_ids(CASES))
def test_a_function_equals_onnxruntime(case):
    proto, feed = proto_of(case), feed_of(case)
    session = ort.InferenceSession(proto.SerializeToString(), _OPTIONS, providers=["CPUExecutionProvider"])
    expected = session.run(None, feed)
    computed = GraphModule(load(proto))({name: torch.from_numpy(array) for name, array in feed.items()})
    assert len(computed) == case.outputs
    for values, array in zip(computed.values(), expected, strict=True):
        assert values.numpy().dtype == array.dtype
        assert values.shape == array.shape
        bound = 1e-5 * max(np.abs(array.astype("float64")).max(initial=0), 1e-30)
        np.testing.assert_allclose(values.numpy(), array, rtol=0, atol=bound)


def _learned(case: Case) -> list[int]:
    """Places of the inputs that gradients reach."""
    domain, op = case.op.rpartition(":")[::2]
    numbers = OPERATORS[domain, op].numbers
    return [
        k
        for k, array in enumerate(case.arrays)
        if array is not None and array.dtype == np.float32 and array.size > 1 and k not in numbers
    ]


# Functions that are constant between jumps, and those whose results are no floats.
_CONSTANT = {
    "Ceil", "Floor", "Round", "Sign", "QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "ConstantOfShape",
    "EyeLike", "Shape", "Size", "NonZero", "ArgMax", "IsNaN", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "CastLike",
    "Cast",
}  # fmt: skip


_SMOOTH = [c for c in CASES if c.op.rpartition(":")[2] not in _CONSTANT and _learned(c)]


@pytest.mark.parametrize("case", _SMOOTH, ids=_ids(_SMOOTH))
def test_gradients_are_slopes(case):
    module = GraphModule(load(proto_of(case))).double()
    values = {
        name: torch.from_numpy(array.astype("float64") if array.dtype == np.float32 else array)
        for name, array in feed_of(case).items()
    }
    names = [f"in.{k}" for k in _learned(case)]
    inputs = [values[name].requires_grad_() for name in names]

    def compute(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        results = module({**values, **dict(zip(names, given, strict=True))})
        return tuple(result for result in results.values() if result.dtype == torch.float64)

    assert torch.autograd.gradcheck(compute, inputs, fast_mode=True)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        (case("MaxPool", x(1, 1, 3, 3), kernel_shape=[2, 2], storage_order=1, outputs=2), "storage_order is 1"),
        (case("Conv", x(1, 1, 2, 2, 2, 2), x(1, 1, 1, 1, 1, 1)), "it has 4 spatial axes"),
        (case("BatchNormalization", x(2, 3, 4), *[p(3)] * 4, training_mode=1), "training_mode is 1"),
        (case("RNN", *[x(1, 2, 3)] * 2, x(1, 2, 2), hidden_size=2, activations=["Sine"]), "an activation is 'sine'"),
        (case("Squeeze", x(2, 3), n(0)), "axis 0 of"),
        (case("Cast", x(2), to=int(onnx.TensorProto.STRING)), "its type is STRING"),
        (case(f"{MS}:Attention", x(1, 2, 4), x(4, 12), x(12), do_rotary=1), "it rotates"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_function_says_what_it_does_not_do(case, words):
    module = GraphModule(load(proto_of(case)))
    with pytest.raises(ModelError, match=rf"node 'out\.0' \({case.op.rpartition(':')[2]}\): {words}.*it needs"):
        module({name: torch.from_numpy(array) for name, array in feed_of(case).items()})


def test_draws_have_the_moments_of_their_node():
    like = np.zeros((40, 50), "float32")
    normal = GraphModule(load(proto_of(case("RandomNormalLike", like, mean=3.0, scale=0.5))))
    uniform = GraphModule(load(proto_of(case("RandomUniformLike", like, low=2.0, high=4.0))))
    values = normal({"in.0": torch.from_numpy(like)})["out.0"]
    assert values.shape == like.shape
    assert abs(float(values.mean()) - 3) < 0.1
    assert abs(float(values.std()) - 0.5) < 0.1
    values = uniform({"in.0": torch.from_numpy(like)})["out.0"]
    assert 2 <= float(values.min()) < 2.1 < 3.9 < float(values.max()) <= 4
