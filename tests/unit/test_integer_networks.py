"""Parts of a network become one operator: what is taken, that its program and its body compute the same, and the way back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from code_networks import CodeNetwork
from graphs import node
from network_programs import Program, attributes_of, steps_of
from numpy.typing import NDArray

import onnxquant
from onnxquant.graph.analysis.quantized import integer_weights
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.functions import MOST_NAMES
from onnxquant.graph.io import Document
from onnxquant.graph.shapes import infer
from onnxquant.native import library as native
from onnxquant.targets.integer_networks import (
    add_integer_networks,
    expand_integer_networks,
    is_integer_network,
)
from onnxquant.targets.network_ends import CodeReader
from onnxquant.targets.network_regions import network_regions
from onnxquant.targets.network_units import find_units

Array = NDArray[Any]


def run(
    proto: onnx.ModelProto, feed: Mapping[str, Array], extra: Iterable[str] = (), *, library: bool = False
) -> dict[str, Array]:
    """Outputs of a model, on onnxruntime alone or with our library, and tensors that are none of its outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    known = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra if name not in known)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(str(native.library_path()))
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feed)), strict=True))


def with_networks(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    add_integer_networks(copy)
    return copy


def networks(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in proto.graph.node if is_integer_network(node)]


def kinds(proto: onnx.ModelProto) -> list[list[str]]:
    """Kinds of the steps of each network."""
    return [[step.kind for step in steps_of(call)] for call in networks(proto)]


def nodes_of(proto: onnx.ModelProto) -> list[bytes]:
    return sorted(node.SerializeToString(deterministic=True) for node in proto.graph.node)


def check(proto: onnx.ModelProto, feed: Mapping[str, Array], *, few_steps: bool = True) -> onnx.ModelProto:
    """Check all that a model with networks promises; the model."""
    merged = with_networks(proto)
    onnx.checker.check_model(merged)
    back = onnx.ModelProto()
    back.CopyFrom(merged)
    expand_integer_networks(back)
    onnx.checker.check_model(back)
    assert nodes_of(back) == nodes_of(proto)
    assert not [f for f in back.functions if f.name.startswith("IntegerNetwork")]
    expected, bodies = run(proto, feed), run(merged, feed)
    for name, values in expected.items():
        np.testing.assert_array_equal(bodies[name], values, err_msg=name)
    check_programs(proto, merged, feed)
    check_kernel(merged, feed, expected, few_steps=few_steps)
    return merged


def check_kernel(
    merged: onnx.ModelProto, feed: Mapping[str, Array], expected: Mapping[str, Array], *, few_steps: bool
) -> None:
    """Check our kernel, which may round values in the middle between two codes to the other one; next steps read that."""
    for name, values in run(merged, feed, library=True).items():
        assert values.shape == expected[name].shape
        if values.dtype.kind == "f":
            np.testing.assert_allclose(values, expected[name], atol=0.05)
            continue
        apart = np.abs(values.astype(np.int64) - expected[name].astype(np.int64))
        assert apart.max(initial=0) <= (2 if few_steps else 32), name
        assert np.count_nonzero(apart) <= (0.01 if few_steps else 0.1) * apart.size, name


def step_names(proto: onnx.ModelProto) -> list[list[str]]:
    """Names of the tensors that the steps of each network make; those between two steps of a unit are in no graph."""
    editor = GraphEditor(proto.graph)
    units = find_units(CodeReader(editor, infer(Document(proto, memoryview(b""), None))))
    return [[step.makes for step in region.steps] for region in network_regions(editor, units, MOST_NAMES)]


def constants_of(proto: onnx.ModelProto) -> dict[str, Array]:
    """Constants of a model by name: initializers, and what Constant nodes hold."""
    editor = GraphEditor(proto.graph)
    names = [t.name for t in proto.graph.initializer] + [n.output[0] for n in proto.graph.node if n.op_type == "Constant"]
    return {name: onnx.numpy_helper.to_array(tensor) for name in names if (tensor := editor.constant(name)) is not None}


def check_programs(proto: onnx.ModelProto, merged: onnx.ModelProto, feed: Mapping[str, Array]) -> None:
    """Check each step against what onnxruntime computes of the same codes."""
    constants = constants_of(merged)
    computed = {name for node in proto.graph.node for name in node.output}
    for call, names in zip(networks(merged), step_names(proto), strict=True):
        program = Program(call, constants)
        inputs = list(call.input[: program.inputs])
        known = {**feed, **run(proto, feed, [name for name in (*inputs, *names) if name in computed])}
        tensors = [known[name] for name in inputs]
        for step, name in zip(program.steps, names, strict=True):
            result = program.step(step, [tensors[i] for i in step.tensors])
            if name in known:
                assert result.codes.shape == known[name].shape
                assert result.mistakes(known[name]) == 0, (step.kind, name)
            tensors.append(known.get(name, result.codes))
        for place, name in zip(program.outputs, call.output, strict=True):
            np.testing.assert_array_equal(tensors[place], known[name])


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "pointwise": {"kernel": (1, 1)},
    "3x3": {"kernel": (3, 3), "pads": [1, 1, 1, 1]},
    "odd pads": {"kernel": (3, 2), "pads": [0, 1, 2, 0]},
    "5x3 strides": {"kernel": (5, 3), "pads": [2, 1, 2, 1], "strides": [2, 1]},
    "dilated": {"kernel": (3, 3), "pads": [2, 3, 2, 3], "dilations": [2, 3]},
    "dilated strides": {"kernel": (2, 3), "pads": [1, 0, 0, 2], "dilations": [3, 1], "strides": [1, 3]},
    "depthwise": {"kernel": (3, 3), "pads": [1, 1, 1, 1], "group": 32, "count": 32},
    "depthwise strides": {"kernel": (5, 5), "pads": [2, 2, 2, 2], "group": 32, "count": 32, "strides": [2, 2]},
    "groups": {"kernel": (3, 3), "group": 2, "count": 64},
    "same upper": {"kernel": (3, 3), "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    "same lower": {"kernel": (2, 2), "auto_pad": "SAME_LOWER"},
    "valid": {"kernel": (3, 3), "auto_pad": "VALID"},
    "no bias": {"kernel": (3, 3), "bias": False},
    "one scale": {"kernel": (3, 3), "per_channel": False},
    "relu": {"kernel": (3, 3), "act": ("Relu",)},
    "relu6": {"kernel": (3, 3), "act": ("Relu6",)},
    "two clamps": {"kernel": (1, 1), "act": ("Clip", "Relu")},
}


@pytest.mark.parametrize(("codes", "zero"), [("uint8", None), ("uint8", 0), ("uint8", 255), ("int8", None)])
@pytest.mark.parametrize("name", list(CONVOLUTIONS))
def test_convolutions(name: str, codes: str, zero: int | None) -> None:
    options = dict(CONVOLUTIONS[name])
    net = CodeNetwork(codes, seed=len(name), zero=zero)
    count = options.pop("count", 21)
    y = net.conv(net.input(2, 32, 11, 9), (32, count), **options)
    y = net.conv(y, (count, 7), zero=0, output="y")
    merged = check(net.model(y), net.feed())
    assert kinds(merged) == [["convolve", "convolve"]]


def _first(net: CodeNetwork, count: int = 16, shape: tuple[int, int] = (9, 11), output: str = "") -> str:
    """A convolution of an input, so that what follows belongs to a network."""
    return net.conv(net.input(2, 3, *shape), (3, count), (3, 3), pads=[1, 1, 1, 1], output=output)


def _add(net: CodeNetwork) -> str:
    x = _first(net)
    return net.add(x, net.conv(x, (16, 16)), output="y")


def _add_clamped(net: CodeNetwork) -> str:
    x = _first(net)
    return net.add(x, net.conv(x, (16, 16)), act=("Relu6",), output="y")


def _mul(net: CodeNetwork) -> str:
    x = _first(net)
    return net.mul(x, net.conv(x, (16, 16)), act=("Clip",), output="y")


def _excitation(net: CodeNetwork) -> str:
    x = _first(net)
    pooled = net.unit("GlobalAveragePool", x, gain=0.3)
    gate = net.unit("Sigmoid", net.conv(pooled, (16, 16), act=("Relu",)), gain=0.1)
    return net.mul(gate, x, output="y")


def _reduce_mean(net: CodeNetwork) -> str:
    return net.unit("ReduceMean", _first(net), gain=0.3, axes=[-1, 2], output="y")


def _max_pools(net: CodeNetwork) -> str:
    x = net.move("MaxPool", _first(net), kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    x = net.move("MaxPool", x, kernel_shape=[2, 2], dilations=[2, 3])
    x = net.move("MaxPool", x, kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)
    return net.unit("MaxPool", x, gain=1.3, kernel_shape=[1, 1], output="y")


def _average_pools(net: CodeNetwork) -> str:
    """Scales differ: else many means would lie in the middle between two codes."""
    x = net.unit("AveragePool", _first(net), gain=0.93, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 1])
    return net.unit(
        "AveragePool", x, gain=0.93, kernel_shape=[3, 3], pads=[1, 1, 0, 1], count_include_pad=1, output="y"
    )


def _concat(net: CodeNetwork) -> str:
    x = _first(net, 5)
    y = net.conv(x, (5, 16))
    return net.unit("Concat", y, x, net.silu(y), x, axis=1, output="y")


def _concat_then_relu(net: CodeNetwork) -> str:
    x = _first(net, 5)
    values = net.node("Concat", [net.decoded(x), net.decoded(net.conv(x, (5, 7)))], axis=-3)
    return net.encoded(net.node("Relu", [values]), net.scales[x][0], output="y")


def _resize(net: CodeNetwork) -> str:
    scales = net.constant([1.0, 1.0, 2.0, 3.0])
    x = net.move("Resize", _first(net), ["", scales], mode="nearest", coordinate_transformation_mode="asymmetric",
                 nearest_mode="floor")  # fmt: skip
    sizes = net.constant(np.array([2, 16, 36, 33]))
    return net.move("Resize", x, ["", "", sizes], output="y", mode="nearest",
                    coordinate_transformation_mode="half_pixel")  # fmt: skip


def _slices(net: CodeNetwork) -> str:
    x = _first(net, 20)
    cut = [net.constant(np.array([n])) for n in (-18, 1 << 40, 1)]
    x = net.move("Slice", x, cut)
    values = [f"s{i}" for i in range(3)]
    net.nodes.append(onnx.helper.make_node("Split", [net.decoded(x), net.constant(np.array([3, 10, 5]))], values, axis=1))
    parts = [net.same(value, x) if i else net.encoded(value, 0.08) for i, value in enumerate(values)]
    return net.unit("Concat", parts[2], parts[0], parts[1], axis=1, output="y")


def _functions(net: CodeNetwork) -> str:
    x = net.move("MaxPool", net.silu(_first(net)), kernel_shape=[1, 2])
    values = net.node("PRelu", [net.decoded(x), net.constant(np.linspace(0.1, 2, 16).reshape(16, 1, 1))])
    x = net.move("MaxPool", net.encoded(values, net.scales[x][0] * 1.5), kernel_shape=[2, 1])
    x = net.move("MaxPool", net.unit("LeakyRelu", x, alpha=0.1), kernel_shape=[2, 2])
    return net.encoded(net.decoded(x), net.scales[x][0] * 1.1, output="y")  # to another scale


def _on_codes(net: CodeNetwork) -> str:
    x = _first(net, 12)
    pooled = net.node("MaxPool", [x], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    parts = ["p0", "p1"]
    net.nodes.append(onnx.helper.make_node("Split", [pooled], parts, axis=1))
    return net.node("Concat", [parts[1], x, parts[0]], "y", axis=1)


UNITS: dict[str, tuple[Callable[[CodeNetwork], str], list[str]]] = {
    "add": (_add, ["convolve", "convolve", "add"]),
    "add clamped": (_add_clamped, ["convolve", "convolve", "add"]),
    "mul": (_mul, ["convolve", "convolve", "multiply"]),
    "excitation": (_excitation, ["convolve", "average", "convolve", "map", "multiply"]),
    "reduce mean": (_reduce_mean, ["convolve", "average"]),
    "max pools": (_max_pools, ["convolve", "max_pool", "max_pool", "max_pool", "max_pool", "map"]),
    "average pools": (_average_pools, ["convolve", "average_pool", "average_pool"]),
    "concat": (_concat, ["convolve", "convolve", "map", "concat"]),
    "concat, relu": (_concat_then_relu, ["convolve", "convolve", "concat"]),
    "resize": (_resize, ["convolve", "resize", "resize"]),
    "slices": (_slices, ["convolve", "slice", "slice", "map", "slice", "slice", "concat"]),
    "functions": (_functions, ["convolve", "map", "max_pool", "map", "max_pool", "map", "max_pool", "map"]),
    "on codes": (_on_codes, ["convolve", "max_pool", "slice", "slice", "concat"]),
}


@pytest.mark.parametrize("codes", ["uint8", "int8"])
@pytest.mark.parametrize("name", list(UNITS))
def test_units(name: str, codes: str) -> None:
    build, expected = UNITS[name]
    net = CodeNetwork(codes, seed=len(name))
    merged = check(net.model(build(net)), net.feed())
    assert kinds(merged) == [expected]


def test_a_model_whose_tensors_were_renamed_expands_all_the_same() -> None:
    """Tools that join models rename what a graph holds, not what stands in an attribute."""
    net = CodeNetwork()
    proto = net.model(_add(net))
    merged = onnx.compose.add_prefix(with_networks(proto), "p/")
    expand_integer_networks(merged)
    assert not networks(merged)
    onnx.checker.check_model(merged)
    (expected,), (values,) = (
        run(model, {f"{prefix}{name}": x for name, x in net.feed().items()}).values()
        for model, prefix in ((proto, ""), (merged, "p/"))
    )
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("zero", [0, 100])
def test_a_clamp_that_rounding_does_too_is_left_out_of_the_body(zero: int) -> None:
    net = CodeNetwork(zero=zero)
    x = net.input(2, 32, 11, 9)
    y = net.conv(net.conv(x, (32, 16), act=("Relu",)), (16, 7), output="y")
    merged = check(net.model(y), net.feed())
    assert sum(n.op_type == "Relu" for f in merged.functions for n in f.node) == (zero > 0)


def test_a_window_in_the_pads_at_the_end_stays_onnxruntimes() -> None:
    """onnx's shape inference counts a last window that begins in the pads, onnxruntime does not."""
    net = CodeNetwork()
    x = net.conv(net.input(1, 16, 16, 16), (16, 16))
    pooled = net.move("MaxPool", x, kernel_shape=[1, 1], strides=[2, 2], ceil_mode=1)
    y = net.conv(net.conv(pooled, (16, 16)), (16, 7), output="y")
    merged = with_networks(net.model(y))
    assert "max_pool" not in [kind for steps in kinds(merged) for kind in steps]
    assert run(merged, net.feed(), library=True)["y"].shape == run(net.model(y), net.feed())["y"].shape


@pytest.mark.parametrize(("factor", "is_taken"), [(64, True), (65, False)])
def test_a_pixel_is_repeated_as_often_as_the_kernels_can(factor: int, *, is_taken: bool) -> None:
    net = CodeNetwork()
    x = net.conv(net.input(1, 16, 1, 1), (16, 16))
    extra = ["", net.constant(np.array([1, 1, factor, factor], np.float32))]
    grown = net.move("Resize", x, extra, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    merged = check(net.model(net.conv(net.conv(grown, (16, 16)), (16, 7), output="y")), net.feed())
    assert ("resize" in [kind for steps in kinds(merged) for kind in steps]) == is_taken


def test_a_constant_that_others_decode_stays() -> None:
    """A chain may multiply by a constant that a DequantizeLinear gives to others as well."""
    net = CodeNetwork()
    x = net.conv(net.input(1, 16, 6, 6), (16, 16))
    factor = net.node("DequantizeLinear", [net.constant(np.uint8(9)), *net.scale("factor", 0.3, 2)])
    decoded = net.decoded(x)
    scaled = net.encoded(net.node("Mul", [net.node("Sigmoid", [decoded]), factor]), 0.02)
    y = net.conv(scaled, (16, 7), output="y")
    z = net.node("Mul", [net.decoded(y), factor], "z")
    check(net.model(y, z, kinds=["uint8", "float32"]), net.feed())


def test_clamps_that_exclude_each_other() -> None:
    net = CodeNetwork(zero=100)
    x = net.input(1, 16, 6, 6)
    codes = net.random.integers(-127, 128, (16, 16, 1, 1)).astype(np.int8)
    constants = [net.constant(value) for value in (codes, np.full(16, 0.01), np.zeros(16, np.int8))]
    values = net.node("Conv", [net.decoded(x), net.node("DequantizeLinear", constants, axis=0)])
    values = net.node("Clip", [values, net.constant(np.float32(-3)), net.constant(np.float32(-2))])
    y = net.encoded(net.node("Relu", [values]), 0.05, 100)
    check(net.model(net.conv(y, (16, 7), output="y")), net.feed())


@pytest.mark.parametrize("same", [True, False])
def test_sizes_that_may_vary_are_added_where_they_are_certain_to_be_equal(*, same: bool) -> None:
    net = CodeNetwork()
    x = net.input("n", 16, "h", "w")
    other = x if same else net.input("m", 16, "h", "w")
    a = net.conv(x, (16, 16), (3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    b = net.conv(other, (16, 16), strides=[2, 2])
    merged = check(net.model(net.conv(net.add(a, b), (16, 7), output="y")), net.feed(n=2, m=1, h=8, w=6))
    assert ("add" in [kind for steps in kinds(merged) for kind in steps]) == same


def test_values_that_others_read_become_outputs() -> None:
    """Codes inside a network that are outputs of the model, or read by what is left, and a decoder that others read, too."""
    net = CodeNetwork(seed=3)
    a = _first(net, output="a")
    b = net.conv(a, (16, 16), (3, 3), pads=[1, 1, 1, 1], output="b")
    c = net.add(a, b, output="c")
    net.conv(c, (16, 8), output="y")
    net.node("Softmax", [net.decoded(b)], "z")
    merged = check(net.model("y", "a", "z", kinds=["uint8", "uint8", "float32"]), net.feed())
    (call,) = networks(merged)
    assert list(call.output) == ["a", "b", "y"]
    assert attributes_of(call)["outputs"] == [1, 2, 4]
    assert [node.op_type for node in merged.graph.node] == ["IntegerNetwork1", "DequantizeLinear", "Softmax"]
    declared = {value.name: [d.dim_value for d in value.type.tensor_type.shape.dim] for value in merged.graph.value_info}
    assert declared == {"b": [2, 16, 9, 11]}


def _left_and_back(net: CodeNetwork) -> list[str]:
    """A branch that leaves a network (Softmax) comes back to it: two networks, the second one reads the first one."""
    a = _first(net)
    other = net.encoded(net.node("Softmax", [net.decoded(a)], axis=1), 0.004)
    b = net.conv(a, (16, 16))
    c = net.add(net.conv(b, (16, 16)), net.conv(other, (16, 16)))
    net.conv(c, (16, 4), output="y")
    return ["y"]


def test_a_way_that_leaves_a_network_does_not_come_back_to_it() -> None:
    net = CodeNetwork(seed=4)
    merged = check(net.model(*_left_and_back(net)), net.feed())
    assert kinds(merged) == [["convolve", "convolve", "convolve"], ["convolve", "add", "convolve"]]
    first, second = networks(merged)
    assert set(second.input[:2]) & set(first.output)


def test_nodes_come_behind_what_they_read() -> None:
    """A node outside reads an early tensor of a network, and stands before what the network reads last."""
    net = CodeNetwork(seed=5)
    a = _first(net, output="a")
    net.node("Softmax", [net.decoded(a)], "z")
    late = net.encoded(net.node("Softmax", [net.decoded(net.input(2, 16, 9, 11))]), 0.01)
    net.conv(net.add(a, late), (16, 16), output="y")
    merged = check(net.model("y", "z", kinds=["uint8", "float32"]), net.feed())
    assert len(networks(merged)) == 1
    seen = {t.name for t in merged.graph.initializer} | {value.name for value in merged.graph.input}
    for following in merged.graph.node:
        assert seen.issuperset(following.input)
        seen.update(following.output)


def test_no_more_networks_than_the_library_has_names() -> None:
    net, x = CodeNetwork(seed=6), ""
    for place in range(MOST_NAMES + 2):
        x = net.conv(x or net.input(1, 4, 3, 3), (4, 4))
        x = net.conv(x, (4, 4)) if place not in (3, 5) else net.add(x, net.conv(net.conv(x, (4, 4)), (4, 4)))
        x = net.encoded(net.node("Softmax", [net.decoded(x)]), 0.004, output="y" if place == MOST_NAMES + 1 else "")
    merged = check(net.model("y"), net.feed())
    assert [call.op_type for call in networks(merged)] == [f"IntegerNetwork{i + 1}" for i in range(MOST_NAMES)]
    assert [len(steps) for steps in kinds(merged)].count(4) == 2  # the largest ones are among them


def test_a_weight_that_several_convolutions_read() -> None:
    """Each reads a copy by a Reshape of the one before (as files of ours have it); a reader outside keeps its own."""
    net = CodeNetwork(seed=7)
    x = _first(net)
    codes = net.constant(np.arange(-128, 128, dtype=np.int8).reshape(16, 16, 1, 1))
    zeros = net.constant(np.zeros(16, np.int8))
    scales, values = net.constant(np.full(16, 0.01)), []
    for place in range(3):
        if place:
            codes = net.node("Reshape", [codes, net.constant(np.array([16, 16, 1, 1]))])
            zeros = net.node("Reshape", [zeros, net.constant(np.array([16]))])
        weight = net.node("DequantizeLinear", [codes, scales, zeros], axis=0)
        values.append(net.node("Conv", [net.decoded(x), weight], kernel_shape=[1, 1]))
        x = net.encoded(values[-1], 0.1) if place < 2 else x
    net.node("Softmax", [values[2]], "z")
    merged = check(net.model(x, "z", kinds=["uint8", "float32"]), net.feed())
    assert kinds(merged) == [["convolve", "convolve", "convolve"]]
    left = [node.op_type for node in merged.graph.node]
    assert left.count("Reshape") == 4  # the third copy is made of the second one
    assert left.count("DequantizeLinear") == 2


def test_lengths_that_are_not_known() -> None:
    net = CodeNetwork(seed=8)
    x = net.conv(net.input("batch", 3, "height", "width"), (3, 16), (3, 3), pads=[1, 1, 1, 1], strides=[2, 2])
    x = net.add(x, net.conv(x, (16, 16), (3, 3), pads=[1, 1, 1, 1], group=16))
    pooled = net.unit("GlobalAveragePool", x, gain=0.3)
    net.mul(x, net.unit("Sigmoid", net.conv(pooled, (16, 16)), gain=0.1), output="y")
    merged = check(net.model("y"), net.feed(batch=2, height=9, width=6))
    assert kinds(merged) == [["convolve", "convolve", "add", "average", "convolve", "map", "multiply"]]


@pytest.mark.parametrize(("factor", "is_taken"), [(1.0, True), (1.5, False)])
def test_a_bias_of_codes(factor: float, is_taken: bool) -> None:
    """It must be on the scale of the products."""
    net = CodeNetwork(seed=9)
    x = _first(net, 8)
    y = net.conv(x, (8, 4))
    convolution = net.nodes[-2]
    weight = next(node for node in net.nodes if node.output[0] == convolution.input[1])
    scales = net.constant(net.constants[weight.input[1]] * np.float32(net.scales[x][0] * factor))
    codes = net.constant(net.random.integers(-4000, 4000, 4).astype(np.int32))
    net.nodes.insert(0, onnx.helper.make_node("DequantizeLinear", [codes, scales], ["bias"], axis=0))
    convolution.input[2] = "bias"
    merged = check(net.model(y), net.feed())
    assert kinds(merged) == ([["convolve", "convolve"]] if is_taken else [])


class RandomNetwork:
    """A network of random units: chains, branches that meet again, and nodes that no network computes in between."""

    def __init__(self, seed: int, codes: str) -> None:
        self.net = CodeNetwork(codes, seed)
        self.random = np.random.default_rng(seed + 1000)
        self.images = [(self.net.input(2, 5, 10, 9), 5, 10, 9)]

    def model(self, steps: int) -> onnx.ModelProto:
        kinds = [self._conv, self._pair, self._pool, self._resize, self._concat, self._slice, self._table, self._outside]
        for place in range(steps):
            kind = self._conv if place < 2 else kinds[self.random.choice(8, p=[0.35, 0.2, 0.1, 0.05, 0.1, 0.05, 0.1, 0.05])]
            kind(*self._image())
        outputs = {self.images[-1][0], *(self._image()[0] for _ in range(2))} - {self.images[0][0]}
        return self.net.model(*sorted(outputs))

    def _image(self) -> tuple[str, int, int, int]:
        """One of the last images, the last one most often."""
        return self.images[-1 - min(int(self.random.geometric(0.6)) - 1, len(self.images) - 1)]

    def _keep(self, name: str, *size: int) -> None:
        self.images.append((name, *size))

    def _conv(self, x: str, channels: int, height: int, width: int) -> None:
        kernel = tuple(int(n) for n in self.random.integers(1, 4, 2))
        pads = [int(self.random.integers(0, kernel[i % 2])) for i in range(4)]
        strides = [1, 1] if self.random.random() < 0.7 else [2, 1]
        size = [(n + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, n in enumerate((height, width))]
        if min(size) < 1:
            return
        group, count = (channels, channels) if self.random.random() < 0.3 else (1, int(self.random.integers(1, 40)))
        act = [(), ("Relu",), ("Relu6",)][self.random.integers(3)]
        options = {"group": group, "pads": pads, "strides": strides, "act": act}
        self._keep(self.net.conv(x, (channels, count), (kernel[0], kernel[1]), **options), count, *size)

    def _pair(self, x: str, channels: int, height: int, width: int) -> None:
        other = self.net.conv(x, (channels, channels), (3, 3), pads=[1, 1, 1, 1])
        size = (channels, height, width)
        others = [name for name, *own in self.images if tuple(own) == size and name != x]
        a, b = (x, others[0]) if others and self.random.random() < 0.5 else (other, x)
        if self.random.random() < 0.3:
            pooled = self.net.unit("GlobalAveragePool", x, gain=0.2)
            b = self.net.unit("Sigmoid", self.net.conv(pooled, (channels, channels)), gain=0.1)
            self._keep(self.net.mul(a, b), *size)
        else:
            self._keep(self.net.add(a, b), *size)

    def _pool(self, x: str, channels: int, height: int, width: int) -> None:
        if min(height, width) < 3:
            return
        op, options = ["MaxPool", "AveragePool"][self.random.integers(2)], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}
        y = self.net.move(op, x, **options) if op == "MaxPool" else self.net.unit(op, x, gain=0.71, **options)
        self._keep(y, channels, height, width)

    def _resize(self, x: str, channels: int, height: int, width: int) -> None:
        if height * width < 200:
            scales = self.net.constant([1.0, 1.0, 2.0, 1.0])
            self._keep(self.net.move("Resize", x, ["", scales], mode="nearest"), channels, 2 * height, width)

    def _concat(self, x: str, channels: int, height: int, width: int) -> None:
        alike = [image for image in self.images if image[2:] == (height, width)]
        joined = [alike[i] for i in self.random.choice(len(alike), min(2, len(alike)), replace=False)]
        count = channels + sum(image[1] for image in joined)
        self._keep(self.net.unit("Concat", x, *(image[0] for image in joined), axis=1), count, height, width)

    def _slice(self, x: str, channels: int, height: int, width: int) -> None:
        cut = sorted(self.random.choice(channels + 1, 2, replace=False))
        constants = [self.net.constant(np.array([n])) for n in (*cut, 1)]
        self._keep(self.net.move("Slice", x, constants), int(cut[1] - cut[0]), height, width)

    def _table(self, x: str, *size: int) -> None:
        self._keep(self.net.silu(x), *size)

    def _outside(self, x: str, *size: int) -> None:
        values = self.net.node("Transpose", [self.net.decoded(x)], perm=[0, 1, 3, 2])
        values = self.net.node("Transpose", [self.net.node("Softmax", [values])], perm=[0, 1, 3, 2])
        self._keep(self.net.encoded(values, 0.004), *size)


@pytest.mark.parametrize("codes", ["uint8", "int8"])
@pytest.mark.parametrize("seed", range(6))
def test_random_networks(seed: int, codes: str) -> None:
    network = RandomNetwork(seed, codes)
    proto = network.model(14)
    merged = check(proto, network.net.feed(), few_steps=False)
    assert networks(merged)


def float_network() -> onnx.ModelProto:
    """Convolutions with HardSwish, as exporters divide it, and SiLU between them."""
    random, constants, nodes, value, width = graphs.rng(1), dict[str, NDArray[Any]](), list[onnx.NodeProto](), "x", 3
    constants |= {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    for i, act in enumerate(["hardswish", "silu", "hardswish", "hardswish"]):
        constants[f"w{i}"] = (random.standard_normal((24, width, 3, 3)) * np.sqrt(2 / (9 * width))).astype(np.float32)
        nodes.append(node("Conv", [value, f"w{i}"], [f"a{i}"], pads=[1, 1, 1, 1]))
        if act == "silu":
            nodes += [node("Sigmoid", [f"a{i}"], [f"s{i}"]), node("Mul", [f"a{i}", f"s{i}"], [f"b{i}"])]
        else:
            nodes += [
                node("Add", [f"a{i}", "three"], [f"p{i}"]),
                node("Clip", [f"p{i}", "zero", "six"], [f"c{i}"]),
                node("Mul", [f"a{i}", f"c{i}"], [f"m{i}"]),
                node("Div", [f"m{i}", "six"], [f"b{i}"]),
            ]
        value, width = f"b{i}", 24
    constants["w"] = (random.standard_normal((24, 24, 3, 3)) / 15).astype(np.float32)
    nodes.append(node("Conv", [value, "w"], ["y"]))
    return graphs.model(nodes, {"x": ("float32", [None, 3, 12, 12])}, {"y": "float32"}, constants, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, its samples, what becomes of it, the same without operators of ours, and what target onnx makes of it."""
    where = tmp_path_factory.mktemp("networks")
    graphs.save(float_network(), where / "model.onnx")
    np.savez(where / "data.npz", x=graphs.rng(2).standard_normal((4, 1, 3, 12, 12)).astype(np.float32))
    onnxquant.calibrate(where / "model.onnx", where / "data.npz", where / "model.stats")
    options: dict[str, Any] = {
        "activations": "static", "calibration": where / "model.stats", "calibration_method": "minmax", "solver": "rtn",
    }  # fmt: skip
    onnxquant.quantize(where / "model.onnx", where / "auto.onnx", **options)
    onnxquant.quantize(where / "model.onnx", where / "onnx.onnx", target="onnx", proof=False, **options)
    return where


def test_files_of_target_auto_have_networks_and_others_do_not(folder: Path) -> None:
    auto = onnx.load(folder / "auto.onnx")
    assert kinds(auto) == [["convolve", "map"] * 4 + ["convolve"]]
    assert not networks(onnx.load(folder / "onnx.onnx"))
    feed = {"x": np.load(folder / "data.npz")["x"][0]}
    expected = run(onnx.load(folder / "onnx.onnx"), feed)
    np.testing.assert_array_equal(run(auto, feed)["y"], expected["y"])


def test_a_file_with_a_network_becomes_floats_again(folder: Path, tmp_path: Path) -> None:
    onnxquant.dequantize(folder / "auto.onnx", tmp_path / "float.onnx")
    restored = onnx.load(tmp_path / "float.onnx")
    assert not restored.functions
    left = Counter(n.op_type for n in restored.graph.node if n.op_type != "Identity")  # of decoded weights
    kept = Counter(n.op_type for n in float_network().graph.node if n.op_type not in ("Add", "Clip", "Div"))
    assert left == kept + Counter({"HardSigmoid": 3})  # its parts are written so before codes are chosen


def test_a_file_with_a_network_is_known(folder: Path) -> None:
    told = onnxquant.info(folder / "auto.onnx")
    beside = onnxquant.info(folder / "onnx.onnx")
    assert told.library == "optional: our kernels, faster"
    assert told.activations == beside.activations
    assert told.tensors == beside.tensors
    assert {**beside.ops, "onnxquant.IntegerNetwork": 1} == told.ops
    answers, others = ({c.client: (c.runs, c.reason) for c in i.clients} for i in (told, beside))
    assert answers["onnxruntime"] == others["onnxruntime"] == ("yes", answers["onnxruntime"][1])
    weights = [integer_weights(onnx.load(folder / name)) for name in ("auto.onnx", "onnx.onnx")]
    assert weights == ["5 DequantizeLinear of weights"] * 2


def test_a_file_with_a_network_is_proven(folder: Path) -> None:
    reports = [
        onnxquant.validate(folder / "model.onnx", folder / name, data=folder / "data.npz", detailed=True)
        for name in ("auto.onnx", "onnx.onnx")
    ]
    assert not any(report.proof is None or report.proof.problems for report in reports)
    one, other = (report.proof for report in reports)
    assert one is not None
    assert other is not None
    assert one.weights.keys() == other.weights.keys()
    assert one.activations.saturation == other.activations.saturation
    assert one.activations.conversions == other.activations.conversions
    assert one.contributions == other.contributions


def squeeze_and_excitation() -> onnx.ModelProto:
    """A block of MobileNetV3: HardSwish before and behind a depthwise convolution, a mean over images, a gate."""
    random = graphs.rng(3)
    constants = {
        name: (random.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
        for name, shape in {
            "expand": (16, 16, 3, 3), "depthwise": (16, 1, 5, 5), "squeeze": (16, 16, 1, 1), "excite": (16, 16, 1, 1),
            "last": (16, 16, 1, 1),
        }.items()
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "expand"], ["a"], pads=[1, 1, 1, 1]),
        node("HardSwish", ["a"], ["b"]),
        node("Conv", ["b", "depthwise"], ["c"], pads=[2, 2, 2, 2], group=16),
        node("HardSwish", ["c"], ["d"]),
        node("ReduceMean", ["d"], ["e"], axes=[2, 3]),
        node("Conv", ["e", "squeeze"], ["f"]),
        node("Relu", ["f"], ["g"]),
        node("Conv", ["g", "excite"], ["h"]),
        node("HardSigmoid", ["h"], ["i"], alpha=1 / 6),
        node("Mul", ["d", "i"], ["j"]),
        node("Conv", ["j", "last"], ["y"]),
    ]
    return graphs.model(nodes, {"x": ("float32", [None, 16, 12, 12])}, {"y": "float32"}, constants, 17)


def test_squeeze_and_excitation_is_one_network(tmp_path: Path) -> None:
    graphs.save(squeeze_and_excitation(), tmp_path / "model.onnx")
    feeds = graphs.rng(4).standard_normal((4, 1, 16, 12, 12)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=feeds)
    onnxquant.calibrate(tmp_path / "model.onnx", tmp_path / "data.npz", tmp_path / "model.stats")
    onnxquant.quantize(
        tmp_path / "model.onnx", tmp_path / "out.onnx", activations="static", calibration=tmp_path / "model.stats",
        calibration_method="minmax", solver="rtn", proof=False,
    )  # fmt: skip
    proto = onnx.load(tmp_path / "out.onnx")
    block = ["convolve", "map", "convolve", "map", "average", "convolve", "convolve", "map", "multiply", "convolve"]
    assert kinds(proto) == [block]
    assert "GlobalAveragePool" in {n.op_type for f in proto.functions for n in f.node}, "onnxruntime's integer kernel"
    (original,) = run(onnx.load(tmp_path / "model.onnx"), {"x": feeds[0]}).values()
    (rounded,) = run(proto, {"x": feeds[0]}).values()
    assert np.linalg.norm(rounded - original) < 0.05 * np.linalg.norm(original)


def test_sizes_are_predicted(folder: Path, tmp_path: Path) -> None:
    """The weights' bytes are not there yet when a plan is made."""
    report = onnxquant.quantize(
        folder / "model.onnx", tmp_path / "none.onnx", activations="static", calibration=folder / "model.stats",
        calibration_method="minmax", solver="rtn", dry_run=True,
    )  # fmt: skip
    assert report.predicted_bytes is not None
    assert abs(report.predicted_bytes - (folder / "auto.onnx").stat().st_size) < 64
