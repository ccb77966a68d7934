"""Blocks: where a graph is parted, and that each learns its own end alone."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxquant
from onnxquant import training
from onnxquant.graph.io import load
from onnxquant.modules.graph_module import GraphModule
from onnxquant.tuning.batches import Batch
from onnxquant.tuning.blocks import Block, BlockByBlock, blocks_of


def model_of(path, nodes, weights, outputs=("y",), width=8):
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    random = np.random.default_rng(0)
    constants = [numpy_helper.from_array(random.normal(size=(width, width)).astype(np.float32), name) for name in weights]
    graph = helper.make_graph(nodes, "graph", inputs, results, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return GraphModule(load(path))


def product(x, weight, y):
    return helper.make_node("MatMul", [x, weight], [y], name=y)


def tensors(module):
    return {name for node in module.nodes for name in node.outputs}


def test_a_chain_is_parted_where_two_weights_are_together(tmp_path):
    names = [f"w{i}" for i in range(6)]
    nodes = [product("x" if i == 0 else f"t{i - 1}", name, f"t{i}" if i < 5 else "y") for i, name in enumerate(names)]
    module = model_of(tmp_path / "chain.onnx", nodes, names)
    assert blocks_of(module, names, tensors(module)) == [
        Block(None, ("t1",)),
        Block("t1", ("t3",)),
        Block("t3", ("y",)),
    ]
    # A tensor that the teacher does not know parts nothing.
    assert [block.ends for block in blocks_of(module, names, tensors(module) - {"t1"})] == [("t2",), ("y",)]


def test_no_block_ends_inside_a_residual_branch(tmp_path):
    names = ["w0", "w1", "w2", "w3"]
    nodes = [
        product("x", "w0", "a"),
        product("a", "w1", "b"),
        product("b", "w2", "c"),
        helper.make_node("Add", ["c", "a"], ["d"]),
        product("d", "w3", "y"),
    ]
    module = model_of(tmp_path / "residual.onnx", nodes, names)
    # Behind the sum is one weight alone, which is none for itself.
    assert blocks_of(module, names, tensors(module)) == [Block(None, ("y",))]
    assert blocks_of(module, [*names, "d"], tensors(module))[0].begin is None


def test_outputs_on_the_way_belong_to_the_block_that_computes_them(tmp_path):
    names = ["w0", "w1", "w2", "w3"]
    nodes = [product("x", "w0", "a"), product("a", "w1", "b"), product("b", "w2", "c"), product("c", "w3", "y")]
    module = model_of(tmp_path / "outputs.onnx", nodes, names, outputs=("a", "y"))
    assert blocks_of(module, names, tensors(module)) == [Block(None, ("b", "a")), Block("b", ("y",))]


def test_no_gradient_crosses_the_end_of_a_block(tmp_path):
    names = ["w0", "w1", "w2", "w3"]
    nodes = [product("x", "w0", "a"), product("a", "w1", "b"), product("b", "w2", "c"), product("c", "w3", "y")]
    module = model_of(tmp_path / "chain.onnx", nodes, names)
    blocks = blocks_of(module, names, tensors(module))
    feeds = {"x": torch.randn(4, 8)}
    with torch.no_grad():
        exact = module.run(feeds, ["b", "y"])
    outputs = {"b": exact["b"] + 0.0, "y": exact["y"] * 1.5}
    loss = BlockByBlock(module, blocks, None).learn(Batch(feeds, outputs))
    assert loss > 0
    gradients = {name: module.constant(name).grad.abs().max() for name in names}
    assert gradients["w0"] == gradients["w1"] == 0  # the first block is exact, whatever the second one lacks
    assert gradients["w2"] > 0
    assert gradients["w3"] > 0


def relu6_network(path):
    random = np.random.default_rng(1)
    weights = [random.normal(size=shape).astype(np.float32) for shape in ((8, 3, 3, 3), (8, 8, 3, 3))]
    constants = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    constants += [numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "low"), (6, "high"))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"]), helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"]), helper.make_node("Clip", ["c", "low", "high"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 8, 8])], constants,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_a_clip_that_codes_replace_clips_where_nothing_is_rounded(tmp_path):
    path = tmp_path / "relu6.onnx"
    relu6_network(path)
    samples = np.random.default_rng(2).normal(size=(24, 1, 3, 12, 12)).astype(np.float32)
    module = training.prepare(
        path, activations="static", data=[{"x": s} for s in samples], solver="rtn", equalize=False, rebase=False,
        bias_correction=False, smooth=False,
    )  # fmt: skip
    exact = onnxquant.load(path).run(None, {"x": samples[0]})[0]
    with torch.no_grad(), module.in_float():
        (values,) = module(x=torch.from_numpy(samples[0])).values()
    assert exact.max() == 6
    # Weights are those in the middle of their codes, which is all that parts the two.
    assert float(np.abs(values.numpy() - exact).max()) < 0.2
