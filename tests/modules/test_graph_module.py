"""The module of a graph: what it computes, keeps, names and refuses."""

from __future__ import annotations

import weakref
from itertools import pairwise

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from graphs import captures, model, node, weight

from onnxquant.errors import ModelError
from onnxquant.graph.io import load
from onnxquant.modules.graph_module import GraphModule, Replacement


def chain(*, nodes=(), initializers=None, inputs=None, outputs=("y",)):
    proto = model(
        nodes, inputs or {"x": ("float32", ["n", 4])}, dict.fromkeys(outputs, "float32"), initializers or {}, opset=17
    )
    return load(proto)


@pytest.fixture
def two_layers():
    nodes = [
        node("MatMul", ["x", "layer.0.weight"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "layer.1.weight"], ["m"]),
        node("Add", ["m", "layer.1.bias"], ["y"]),
    ]
    constants = {"layer.0.weight": weight(4, 3), "layer.1.weight": weight(3, 2, seed=1), "layer.1.bias": weight(2, seed=2)}
    return GraphModule(chain(nodes=nodes, initializers=constants))


class Watch(torch.nn.Module):
    """Passes a tensor on; keeps no hold of it, and knows which of those before were alive."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen
        self.alive = None

    def forward(self, x):
        self.alive = [reference() is not None for reference in self.seen]
        result = x + 1
        self.seen.append(weakref.ref(result))
        return result


def test_outputs_by_name(two_layers):
    x = torch.ones(2, 4)
    w, v, b = (two_layers.constant(name) for name in ("layer.0.weight", "layer.1.weight", "layer.1.bias"))
    torch.testing.assert_close(two_layers({"x": x})["y"], torch.relu(x @ w) @ v + b)
    assert torch.equal(two_layers(x=x)["y"], two_layers({"x": x})["y"])


def test_parameters_have_the_names_of_weights(two_layers):
    assert set(two_layers.learned()) == {"layer.0.weight", "layer.1.weight", "layer.1.bias"}
    assert {name for name, _ in two_layers.named_parameters()} == {"layer/0/weight", "layer/1/weight", "layer/1/bias"}
    two_layers({"x": torch.ones(2, 4)})["y"].sum().backward()
    assert all(parameter.grad is not None for parameter in two_layers.parameters())


def test_names_that_differ_in_dots_alone_stay_two():
    nodes = [node("Add", ["x", "a.b"], ["h"]), node("Add", ["h", "a/b"], ["y"])]
    module = GraphModule(chain(nodes=nodes, initializers={"a.b": weight(4), "a/b": weight(4, seed=1)}))
    assert len(list(module.parameters())) == 2
    np.testing.assert_array_equal(module.constant("a.b").detach().numpy(), weight(4))
    np.testing.assert_array_equal(module.constant("a/b").detach().numpy(), weight(4, seed=1))


def test_numbers_statistics_and_integers_are_no_parameters():
    nodes = [
        node("Reshape", ["x", "shape"], ["r"]),
        node("BatchNormalization", ["r", "scale", "bias", "mean", "variance"], ["n"]),
        node("Clip", ["n", "low"], ["c"]),
        node("Mul", ["c", "one"], ["y"]),
    ]
    constants = {
        "shape": np.array([-1, 2, 2]), "scale": weight(2), "bias": weight(2), "mean": weight(2),
        "variance": abs(weight(2)), "low": np.array(0, "float32"), "one": np.array([1], "float32"),
    }  # fmt: skip
    module = GraphModule(chain(nodes=nodes, initializers=constants))
    assert set(module.learned()) == {"scale", "bias"}
    assert set(module.constants) == set(constants)


def test_nodes_that_no_output_needs_are_not_computed():
    nodes = [node("Reshape", ["x", "impossible"], ["dead"]), node("Relu", ["x"], ["y"])]
    module = GraphModule(chain(nodes=nodes, initializers={"impossible": np.array([7, 7])}))
    assert module({"x": torch.ones(1, 4)})["y"].shape == (1, 4)
    with pytest.raises(ModelError, match=r"node 'dead' \(Reshape\) of inputs \[1, 4\], \[2\]"):
        module.run({"x": torch.ones(1, 4)}, ["dead"])


def test_a_part_of_the_graph_needs_no_input(two_layers):
    hidden = torch.ones(2, 3)
    expected = hidden @ two_layers.constant("layer.1.weight")
    results = two_layers.run({"r": hidden}, ["m", "layer.1.bias"])
    torch.testing.assert_close(results["m"], expected)
    assert results["layer.1.bias"] is two_layers.constant("layer.1.bias")
    assert list(two_layers.run({"x": torch.ones(2, 4)}, ["h"])) == ["h"]


def test_tensors_go_after_their_last_use():
    names = ["x", "a", "b", "c", "y"]
    pairs = list(pairwise(names))
    nodes = [node("Relu", [before], [after]) for before, after in pairs]
    seen = []
    watches = {after: Watch(seen) for after in names[1:]}
    replaced = {after: Replacement(watches[after], (before,)) for before, after in pairs}
    module = GraphModule(chain(nodes=nodes), replaced)
    result = module({"x": torch.zeros(1, 4)})["y"]
    assert result.tolist() == [[4, 4, 4, 4]]
    # While a node runs, only what it reads is there.
    assert watches["y"].alive == [False, False, True]
    module.run({"x": torch.zeros(1, 4)}, ["a", "y"])
    assert watches["y"].alive[-3:] == [True, False, True]


def test_a_rounded_weight_is_rounded_once_however_many_read_it():
    class Count(torch.nn.Module):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.round(x)

    nodes = [node("MatMul", ["x", "w.0"], ["h"]), node("MatMul", ["h", "w.0"], ["y"])]
    rounding = Count()
    module = GraphModule(chain(nodes=nodes, initializers={"w.0": weight(4, 4) * 20}), rounded={"w.0": rounding})
    w = torch.round(module.constant("w.0"))
    torch.testing.assert_close(module({"x": torch.ones(1, 4)})["y"], torch.ones(1, 4) @ w @ w)
    assert rounding.calls == 1


def test_all_missing_operators_are_named():
    nodes = [
        node("NonMaxSuppression", ["x", "x"], ["a"]),
        node("Own", ["x"], ["b"], domain="some.domain"),
        node("If", ["x"], ["y"], then_branch=captures("x", "Abs")[0], else_branch=captures("x", "Neg")[0]),
    ]
    with pytest.raises(ModelError, match=r"without a torch function: If, NonMaxSuppression, some\.domain\.Own;"):
        GraphModule(chain(nodes=nodes))


def test_what_is_missing_is_named(two_layers):
    with pytest.raises(ModelError, match="input 'x' is missing; expected x"):
        two_layers({})
    with pytest.raises(ModelError, match="tensor 'x' is computed by no node"):
        two_layers.run({}, ["y"])
    with pytest.raises(ModelError, match=r"node 'h' \(MatMul\) of inputs \[2, 5\], \[4, 3\]"):
        two_layers({"x": torch.ones(2, 5)})


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (np.array([-8, 7, 3], ml_dtypes.int4), torch.int8),
        (np.array([15, 7, 3], ml_dtypes.uint4), torch.uint8),
        (np.array([1.5, -2, 3], ml_dtypes.bfloat16), torch.bfloat16),
        (np.array([1.5, -2, 3], ml_dtypes.float8_e4m3fn), torch.float8_e4m3fn),
        (np.array([1.5, -2, 3], np.float16), torch.float16),
        (np.array([True, False, True]), torch.bool),
    ],
)
def test_constants_of_every_type_keep_their_values(values, dtype):
    nodes = [node("Identity", ["c"], ["y"])]
    module = GraphModule(chain(nodes=nodes, initializers={"c": values}))
    constant = module.constant("c")
    assert constant.dtype == dtype
    assert constant.float().tolist() == values.astype("float32").tolist()


def test_texts_are_refused():
    proto = model([node("Identity", ["c"], ["y"])], {"x": ("float32", [1])}, {"y": "float32"}, {}, opset=17)
    proto.graph.initializer.append(onnx.helper.make_tensor("c", onnx.TensorProto.STRING, [1], [b"text"]))
    with pytest.raises(ModelError, match="constant 'c' has type object"):
        GraphModule(load(proto))
