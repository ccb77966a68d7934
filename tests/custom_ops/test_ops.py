"""The operators as ONNX Runtime sees them: loading, shapes, types, threads, and nodes that lie."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import kernels
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from every import every
from kernel_oracle import check_int8, float_bound, int8_matmul, sample
from nodes import DOMAIN, Node, parsed, session
from onnx import TensorProto, helper, numpy_helper

from onnxquant.native import library as native

RANDOM_LIES = int(os.environ.get("ONNXQUANT_TEST_LIES", "2"))
KINDS = kernels.kinds()
NAMES = kernels.formats() if RANDOM_LIES >= 4 else KINDS
# Formats to lie about by kernel and by whether columns are permuted. One format of each kind of side information is permuted:
# the permutation is checked alike for all. Each kernel has every second kind, because the two read planes alike;
# with many random lies both have all formats.
FEWER = 2 if RANDOM_LIES >= 4 else 3
PERMUTED = ("int4", "q5_1", "q6_k", "nf4_double", "llm_int8", "f16")
LIED_ABOUT = {
    ("MatMul", "plain"): NAMES if RANDOM_LIES > 4 else KINDS[::2],
    ("Gather", "plain"): NAMES if RANDOM_LIES > 4 else KINDS[1::2],
    ("MatMul", "permuted"): PERMUTED if RANDOM_LIES > 4 else PERMUTED[::FEWER],
    ("Gather", "permuted"): PERMUTED if RANDOM_LIES > 4 else PERMUTED[1::FEWER],
}


def weight_of(name, rows=33, cols=100, block=32):
    form = kernels.geometry(name)
    return sample(name, rows, cols, min(max(block, form.min_block), form.max_block), form.granularities[0])


def activations(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# ---- results ----


@pytest.mark.parametrize("name", NAMES)
@every("threads", [1, 2])
def test_matmul_int8(name, threads):
    weight = weight_of(name)
    opened = session(Node("MatMul", weight.stored, shape=["a", "b", 100]).model(), threads)
    for shape in ((1, 1), (2, 3), (13, 33), (0, 4), (5, 0)):
        x = activations(*shape, 100)
        (y,) = opened.run(None, {"X": x})
        assert y.shape == (*shape, 33)
        if weight.has_int8:
            check_int8(y.reshape(-1, 33), x.reshape(-1, 100), weight)


@pytest.mark.parametrize("name", NAMES)
def test_matmul_float32(name):
    weight = weight_of(name)
    opened = session(Node("MatMul", weight.stored, attributes={"compute": "float32"}).model())
    x = activations(21, 100)
    (y,) = opened.run(None, {"X": x})
    assert (np.abs(y - x.astype(np.float64) @ weight.values.T) <= float_bound(x, weight)).all()


@pytest.mark.parametrize("name", NAMES)
@every("dtype", [np.float32, np.float16])
def test_permuted_with_a_bias(name, dtype):
    form = kernels.geometry(name)
    block = min(max(32, form.min_block), form.max_block)
    weight = sample(name, 33, 100, block, form.granularities[0], permuted=True)
    bias = activations(33, seed=2).astype(dtype)
    opened = session(Node("MatMul", weight.stored, dtype, bias=bias).model())
    for batch in (5, 40):
        x = activations(batch, 100).astype(dtype)
        (y,) = opened.run(None, {"X": x})
        expected = kernels.matmul(x.astype(np.float32), weight.stored, bias=bias.astype(np.float32))
        np.testing.assert_array_equal(y, expected.astype(dtype))
    indices = np.arange(-33, 33)
    (rows,) = session(Node("Gather", weight.stored, np.int64).model()).run(None, {"indices": indices})
    np.testing.assert_array_equal(rows, weight.decoded[indices])


@pytest.mark.parametrize("bias", [np.ones(32, np.float32), np.ones((33, 1), np.float32), np.ones((), np.float32)])
def test_a_bias_that_does_not_fit(bias):
    opened = session(Node("MatMul", weight_of("int4").stored, bias=bias).model())
    with pytest.raises(Exception, match=r"expected \[33\]"):
        opened.run(None, {"X": activations(2, 100)})


@pytest.mark.parametrize("name", NAMES)
@every("compute", ["int8", "float32"])
def test_matmul_float16(name, compute):
    weight = weight_of(name)
    opened = session(Node("MatMul", weight.stored, np.float16, attributes={"compute": compute}).model())
    x = activations(21, 100).astype(np.float16)
    (y,) = opened.run(None, {"X": x})
    assert y.dtype == np.float16
    wide = kernels.matmul(x.astype(np.float32), weight.stored, compute=compute)
    np.testing.assert_array_equal(y, wide.astype(np.float16))


def test_float16_overflow_and_special_values():
    weight = weight_of("int8")
    opened = session(Node("MatMul", weight.stored, np.float16).model())
    x = np.zeros((5, 100), np.float16)
    x[0, 3], x[1, 99], x[2, :] = np.nan, -np.inf, 60000
    x[3, 0] = 6e-8
    (y,) = opened.run(None, {"X": x})
    assert np.isnan(y[:2]).all()
    with np.errstate(over="ignore"):
        wide = kernels.matmul(x.astype(np.float32), weight.stored).astype(np.float16)
    np.testing.assert_array_equal(y, wide)
    assert np.isinf(y[2]).any(), "the sample has sums beyond float16"
    np.testing.assert_array_equal(y[4], 0)


@pytest.mark.parametrize("name", NAMES)
@every("dtype", [np.int64, np.int32])
@every("threads", [1, 2])
def test_gather(name, dtype, threads):
    weight = weight_of(name)
    opened = session(Node("Gather", weight.stored, dtype, shape=["a", "b"]).model(), threads)
    values = kernels.decode(weight.stored)
    every = np.arange(-33, 33).astype(dtype)
    np.testing.assert_array_equal(values, weight.decoded)
    for indices in (every.reshape(6, 11), every[:1].reshape(1, 1), every[:0].reshape(0, 3), np.tile(every, (40, 1))):
        (y,) = opened.run(None, {"indices": indices})
        np.testing.assert_array_equal(y, values[indices])


def test_gather_of_a_scalar():
    weight = weight_of("int4")
    opened = session(Node("Gather", weight.stored, shape=[], dtype=np.int64).model())
    (y,) = opened.run(None, {"indices": np.array(-1, np.int64)})
    np.testing.assert_array_equal(y, kernels.decode(weight.stored)[-1])


@pytest.mark.parametrize("permuted", [False, True])
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [(np.int64, bad) for bad in (33, -34, 2**32, 2**40, -(2**63))] + [(np.int32, bad) for bad in (33, -34, -(2**31))],
)
def test_gather_out_of_range_names_the_index(dtype, bad, permuted):
    weight = sample("int4", 33, 100, 32, permuted=permuted)
    opened = session(Node("Gather", weight.stored, dtype).model())
    with pytest.raises(Exception, match=f"index {bad} is out of range, expected \\[-33, 33\\)"):
        opened.run(None, {"indices": np.array([0, bad, 1], dtype)})
    (y,) = opened.run(None, {"indices": np.array([0], dtype)})
    np.testing.assert_array_equal(y[0], weight.decoded[0])


def test_a_vector_is_a_product_without_batch():
    weight = weight_of("int8")
    opened = session(Node("MatMul", weight.stored, shape=[100]).model())
    x = activations(100)
    (y,) = opened.run(None, {"X": x})
    np.testing.assert_array_equal(y, int8_matmul(x[None], weight)[0])


def test_unknown_attributes_are_tolerated():
    attributes = {"code_shape": [48, 4, 16], "rows": [33], "note": "for the body"}
    opened = session(Node("MatMul", weight_of("int4").stored, attributes=attributes).model())
    opened.run(None, {"X": activations(2, 100)})


# ---- shapes and types ----


def output_of(model: bytes):
    return session(model).get_outputs()[0]


@pytest.mark.parametrize("name", NAMES)
def test_shape_inference_keeps_symbols(name):
    stored = weight_of(name).stored
    assert output_of(Node("MatMul", stored, shape=["batch", "time", 100]).model()).shape == ["batch", "time", 33]
    assert output_of(Node("MatMul", stored, shape=[7, 100]).model()).shape == [7, 33]
    assert output_of(Node("MatMul", stored, np.float16, shape=["b", 100]).model()).type == "tensor(float16)"
    assert output_of(Node("Gather", stored, np.int64, shape=["batch", "time"]).model()).shape == ["batch", "time", 100]
    assert output_of(Node("Gather", stored, np.int32, shape=["batch"]).model()).type == "tensor(float)"


@pytest.mark.parametrize("shape", [[None], [None, None], [None, "time"], ["batch", None, 3, None]])
@pytest.mark.parametrize("kernel", ["MatMul", "Gather"])
def test_open_dimensions_without_a_name_stay_open(kernel, shape):
    """Each gets a name of its own: without one ONNX Runtime would take it for the size -1, with a common one for equal."""
    matmul = kernel == "MatMul"
    node = Node(
        kernel, weight_of("int4").stored, np.float32 if matmul else np.int64, [*shape, 100] if matmul else shape
    )
    *dims, last = output_of(node.model()).shape
    assert (len(dims), last) == (len(shape), 33 if matmul else 100)
    assert all(dim == known for dim, known in zip(dims, shape, strict=True) if known is not None)
    invented = [dim for dim, known in zip(dims, shape, strict=True) if known is None]
    assert all(isinstance(dim, str) and dim for dim in invented) and len(set(invented)) == len(invented)


@pytest.mark.parametrize("level", ["DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL"])
def test_shapes_computed_behind_open_dimensions_are_right_and_silent(level, capfd):
    """Heads of attention: Shape, Gather and Concat make the target of a Reshape from two open dimensions."""
    weight = sample("int4", 64, 100, 32)
    model = parsed(Node("MatMul", weight.stored, shape=[None, None, 100]).model())
    graph = model.graph
    graph.node[0].output[0] = "product"
    for name, value in {"first": 0, "second": 1, "axis": [0], "heads": [4], "size": [16]}.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    graph.node.append(helper.make_node("Shape", ["product"], ["sizes"]))
    for name in ("first", "second"):
        graph.node.append(helper.make_node("Gather", ["sizes", name], [f"{name} size"]))
        graph.node.append(helper.make_node("Unsqueeze", [f"{name} size", "axis"], [f"{name} part"]))
    parts = ["first part", "second part", "heads", "size"]
    graph.node.append(helper.make_node("Concat", parts, ["target"], axis=0))
    graph.node.append(helper.make_node("Reshape", ["product", "target"], ["Y"]))
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(native.library_path()))
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    opened = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x = activations(2, 3, 100)
    (y,) = opened.run(None, {"X": x})
    np.testing.assert_array_equal(
        y.reshape(2, 3, 64), kernels.matmul(x.reshape(-1, 100), weight.stored).reshape(2, 3, 64)
    )
    assert y.shape == (2, 3, 4, 16)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_chain_needs_no_declared_types(dtype):
    """The type and shape between two nodes come from inference alone."""
    first, second = sample("int8", 64, 100, 32), sample("int4", 10, 64, 32)
    model = parsed(Node("MatMul", first.stored, dtype, shape=["batch", 100]).model())
    graph = model.graph
    graph.node[0].output[0] = "between"
    graph.initializer.extend(
        [
            numpy_helper.from_array(second.stored.planes["codes"], "c2"),
            numpy_helper.from_array(second.stored.planes["scales"], "s2"),
        ]
    )
    graph.node.append(helper.make_node("Relu", ["between"], ["relu"]))
    graph.node.append(
        helper.make_node("MatMulInt4", ["relu", "c2", "s2"], ["Y"], domain=DOMAIN, N=10, K=64, block_size=32)
    )
    opened = session(model.SerializeToString())
    assert opened.get_outputs()[0].shape == ["batch", 10]
    x = activations(3, 100).astype(dtype)
    (y,) = opened.run(None, {"X": x})
    middle = np.maximum(kernels.matmul(x.astype(np.float32), first.stored).astype(dtype), 0)
    np.testing.assert_array_equal(y, kernels.matmul(middle.astype(np.float32), second.stored).astype(dtype))


@pytest.mark.parametrize("place", ["inside", "outside"])
@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_planes_of_a_subgraph(kind, place):
    """A node in a branch or a loop reads planes of its own graph or of an outer one."""
    weight = sample("q4_0", 100, 100, 32)
    info = helper.make_tensor_value_info
    planes = [numpy_helper.from_array(plane, name) for name, plane in weight.stored.planes.items()]
    names = ["X" if kind == "If" else "x_in", "codes", "scales"]
    node = helper.make_node("MatMulQ4_0", names, ["out"], domain=DOMAIN, N=100, K=100, block_size=32)
    inner, outer = (planes, []) if place == "inside" else ([], planes)
    out = info("out", TensorProto.FLOAT, [2, 100])
    if kind == "If":
        then = helper.make_graph([node], "then", [], [out], inner)
        other = helper.make_graph(
            [helper.make_node("Identity", ["X"], ["same"])], "else", [], [info("same", 1, [2, 100])]
        )
        made = helper.make_node("If", ["flag"], ["Y"], then_branch=then, else_branch=other)
        inputs = [info("flag", TensorProto.BOOL, []), info("X", TensorProto.FLOAT, [2, 100])]
    else:
        keep = helper.make_node("Identity", ["go_in"], ["go_out"])
        ends = [info("i", TensorProto.INT64, []), info("go_in", TensorProto.BOOL, []), info("x_in", 1, [2, 100])]
        body = helper.make_graph([node, keep], "body", ends, [info("go_out", TensorProto.BOOL, []), out], inner)
        made = helper.make_node("Loop", ["count", "flag", "X"], ["Y"], body=body)
        inputs = [info("count", TensorProto.INT64, []), info("flag", TensorProto.BOOL, []), info("X", 1, [2, 100])]
    graph = helper.make_graph([made], "g", inputs, [info("Y", TensorProto.FLOAT, [2, 100])], outer)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    opened = session(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
    x = activations(2, 100)
    feed = {"X": x, "flag": np.array(True)}
    expected = kernels.matmul(x, weight.stored)
    if kind == "Loop":
        feed["count"] = np.array(2, np.int64)
        expected = kernels.matmul(expected, weight.stored)
    (y,) = opened.run(None, feed)
    np.testing.assert_array_equal(y, expected)


# ---- threads ----


@pytest.mark.parametrize("compute", ["int8", "float32"])
@pytest.mark.parametrize("batch", [1, 13, 300])
def test_thread_count_changes_nothing(compute, batch):
    weight = sample("q4_0", 1000, 640, 32)
    model = Node("MatMul", weight.stored, attributes={"compute": compute}).model()
    x = activations(batch, 640)
    one, two = (session(model, threads).run(None, {"X": x})[0] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_few_channels_many_rows():
    weight = sample("int2", 5, 512, 64)
    x = activations(3000, 512)
    (y,) = session(Node("MatMul", weight.stored).model(), 2).run(None, {"X": x})
    np.testing.assert_array_equal(y, int8_matmul(x, weight))


def test_one_session_from_four_threads():
    weight = sample("int4", 400, 320, 32)
    opened = session(Node("MatMul", weight.stored).model(), 2)
    inputs = [activations(batch, 320, seed=batch) for batch in (1, 2, 7, 40)]
    expected = [kernels.matmul(x, weight.stored) for x in inputs]
    wrong = []

    def work(at):
        for i in range(100):
            k = (at + i) % len(inputs)
            (y,) = opened.run(None, {"X": inputs[k]})
            if not np.array_equal(y, expected[k]):
                wrong.append((at, i))

    workers = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


def test_the_cap_holds_for_operators():
    weight = weight_of("int8")
    opened = session(Node("MatMul", weight.stored).model())
    x = activations(9, 100)
    found = []
    try:
        for isa in native.isas():
            native.set_isa(isa)
            found.append(opened.run(None, {"X": x})[0])
    finally:
        native.set_isa(None)
    for y in found:
        np.testing.assert_array_equal(y, found[0])


def test_sessions_come_and_go():
    model = Node("MatMul", weight_of("int8").stored).model()
    for _ in range(100):
        session(model).run(None, {"X": activations(1, 100)})


# ---- lies ----


@pytest.mark.parametrize(("kernel", "permuted"), LIED_ABOUT)
def test_lying_nodes_are_refused(kernel, permuted):
    names = LIED_ABOUT[kernel, permuted]
    program = Path(__file__).parent / "lying_nodes.py"
    run = subprocess.run(
        [sys.executable, str(program), kernel, str(RANDOM_LIES), permuted, *names],
        capture_output=True, text=True, timeout=900, check=False, cwd=Path(native.__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(native.__file__).parents[2])},
    )  # fmt: skip
    assert run.returncode == 0, f"{run.returncode}: after {run.stdout.splitlines()[-1:]}: {run.stderr[-2000:]}"
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert {row["format"] for row in rows} == set(names)
    accepted = [(row["format"], row["lie"]) for row in rows if "lie" in row and "ran" in row]
    assert accepted == []
    for name in {row["format"] for row in rows}:
        assert sum("lie" in row for row in rows if row["format"] == name) >= 45
        assert sum("random" in row for row in rows if row["format"] == name) == RANDOM_LIES
    assert all("bad_alloc" not in row.get("error", "") for row in rows)


@pytest.mark.parametrize("plane", ["codes", "scales"])
@pytest.mark.parametrize("kernel", ["MatMul", "Gather"])
def test_a_computed_plane_is_named(kernel, plane):
    node = Node(kernel, weight_of("int4").stored, np.float32 if kernel == "MatMul" else np.int64, fed=(plane,))
    with pytest.raises(Exception, match=f"onnxquant::{kernel}Int4: input '{plane}' must be a constant initializer"):
        session(node.model())


def test_a_wrong_plane_shows_both_shapes():
    stored = weight_of("int4").stored
    node = Node("MatMul", stored, planes={"codes": np.zeros((3, 16, 16, 3), np.uint8)})
    with pytest.raises(Exception, match=r"codes have shape \[3, 16, 16, 3\], expected \[3, 16, 16, 4\]"):
        session(node.model())


def test_a_coarser_scale_than_the_format_has():
    node = Node("MatMul", weight_of("q4_0").stored, planes={"scales": np.ones(1, np.float16)})
    with pytest.raises(Exception, match="one value per tensor, which q4_0 does not have"):
        session(node.model())


def test_the_checker_and_the_domain():
    model = parsed(Node("MatMul", weight_of("int4").stored).model(["batch", 33]))
    onnx.checker.check_model(model)
    assert model.graph.node[0].domain == "onnxquant"
