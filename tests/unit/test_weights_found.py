"""Every weight of a model is found, whatever the exporter put between it and its readers, and stored once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import branches, matmul, model, node, rng, save, weight

import onnxquant
from onnxquant.artifact import lowering
from onnxquant.artifact.lowering import PredictedSize, constant_bytes
from onnxquant.artifact.records import records
from onnxquant.errors import ModelError
from onnxquant.graph.io import load
from onnxquant.graph.names import MICROSOFT
from onnxquant.inspect.info import info
from onnxquant.passes.prepare.carried_constants import ReadCarriedConstants
from onnxquant.passes.prepare.identities import ReadThroughIdentity
from onnxquant.passes.prepare.leading_axes import DropLeadingAxes
from onnxquant.passes.prepare.shared_constants import ShareConstants
from onnxquant.passes.prepare.transposed_constants import ReadTransposes, ShareTransposes
from onnxquant.passes.prepare.weights import FoldWeights

IDS = {"ids": np.int64([[1, 5, 60]])}


def tied_through(identities: int) -> onnx.ModelProto:
    """A table that a lookup and a head read, each through a chain of Identity nodes of its own."""
    nodes, names = [], {"e": "w", "h": "w"}
    for reader in names:
        for link in range(identities):
            nodes.append(node("Identity", [names[reader]], [f"{reader}{link}"]))
            names[reader] = f"{reader}{link}"
    nodes += [
        node("Gather", [names["e"], "ids"], ["e"]),
        node("Transpose", [names["h"]], ["t"], perm=[1, 0]),
        node("MatMul", ["e", "t"], ["y"]),
    ]
    return model(nodes, {"ids": ("int64", ["b", 3])}, {"y": "float32"}, {"w": weight(512, 256)})


@pytest.mark.parametrize("bits", [8, 4])
def test_a_table_behind_identity_nodes_is_stored_once(tmp_path: Path, bits: int) -> None:
    sizes = []
    for identities in (0, 1, 3):
        report = onnxquant.quantize(tied_through(identities), tmp_path / f"{identities}.onnx", bits=bits, proof=False)
        sizes.append(report.output_bytes)
        assert [site.decision.name for site in report.sites] == ["w"] and not report.sites[0].decision.folded
    assert len(set(sizes)) == 1


def tied_twice(*head: onnx.NodeProto) -> onnx.ModelProto:
    """A table, and a head that multiplies with its transpose ``t``, which is a constant of its own."""
    table = weight(640, 64)
    nodes = [node("Gather", ["w", "ids"], ["e"]), node("Reshape", ["e", "rows"], ["r"]), *head]
    constants = {"w": table, "t": np.ascontiguousarray(table.T), "rows": np.int64([-1, 64])}
    return model(nodes, {"ids": ("int64", ["b", 3])}, {"y": "float32"}, constants)


HEADS = {
    "MatMul": node("MatMul", ["e", "t"], ["y"]),
    "Gemm": node("Gemm", ["r", "t"], ["y"]),
    "GemmOfRows": node("Gemm", ["r", "w"], ["y"], transB=1),
}


@pytest.mark.parametrize(
    "options", [{}, {"target": "ort"}, {"activations": "dynamic"}, {"activations": "static"}], ids=str
)
@pytest.mark.parametrize("head", HEADS)
def test_a_table_and_its_transpose_are_stored_once(tmp_path: Path, head: str, options: dict[str, Any]) -> None:
    proto, out = tied_twice(HEADS[head]), tmp_path / "out.onnx"
    samples = [{"ids": rng(i).integers(0, 640, (4, 3))} for i in range(3)]
    report = onnxquant.quantize(proto, out, data=samples, samples=1, threads=1, proof=False, **options)
    encoded = [(site.decision.name, site.decision.target) for site in report.encoded]
    beside = {"static": "qdq", "dynamic": "dynamic"}.get(options.get("activations", ""))
    assert encoded == [("w", beside or encoded[0][1])]
    onnxquant.dequantize(out, tmp_path / "float.onnx")
    exact = agreement.outputs(proto, samples[2])["y"]
    for path in (out, tmp_path / "float.onnx"):
        (close,) = onnxquant.load(path).run(None, samples[2])
        assert np.square(exact - close).mean() < 1e-2 * np.square(exact).mean()


def test_a_transpose_that_something_else_reads_or_of_another_weight_stays() -> None:
    nodes = [node("MatMul", ["e", "t"], ["p"]), node("Add", ["t", "t"], ["s"]), node("MatMul", ["e", "s"], ["y"])]
    for proto in (tied_twice(*nodes), tied_twice(HEADS["MatMul"])):
        proto.graph.initializer[1].raw_data = np.float32(0.5).tobytes() + proto.graph.initializer[1].raw_data[4:]
        assert not ShareTransposes()(load(proto)).changed


def test_a_transpose_inside_a_branch_is_stored_once() -> None:
    table, shown = weight(64, 32), onnx.helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None)
    stored = onnx.numpy_helper.from_array(np.ascontiguousarray(table.T), "other")
    then = onnx.helper.make_graph([node("MatMul", ["e", "other"], ["t"])], "then", [], [shown], [stored])
    other = onnx.helper.make_graph([node("Relu", ["e"], ["t"])], "else", [], [shown])
    nodes = [node("Gather", ["w", "ids"], ["e"]), node("If", ["c"], ["y"], then_branch=then, else_branch=other)]
    inputs = {"ids": ("int64", ["b", 3]), "c": ("bool", [])}
    for value, is_shared in ((table, True), (table + 1, False)):
        document = load(model(nodes, inputs, {"y": "float32"}, {"w": value}))
        assert ShareTransposes()(document).changed == is_shared
        branch = document.proto.graph.node[1].attribute[1].g
        branch = branch if branch.name == "then" else document.proto.graph.node[1].attribute[0].g
        assert [t.name for t in branch.initializer] == ["other"] * (not is_shared)
        assert [n.op_type for n in branch.node] == ["Transpose"] * is_shared + ["MatMul"]


def test_a_weight_that_products_read_in_two_orders_is_multiplied_on_integers(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w"], ["g"], transB=1), node("Tanh", ["g"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    proto = model(nodes, {"x": ("float32", ["b", 64])}, {"y": "float32"}, {"w": weight(64, 64)})
    samples = [{"x": rng(i).standard_normal((4, 64), np.float32)} for i in range(3)]
    report = onnxquant.quantize(
        proto, tmp_path / "out.onnx", data=samples, threads=1, proof=False, activations="static", smooth=False
    )
    assert [(s.decision.target, s.decision.nbytes) for s in report.encoded] == [("qdq", 64 * 64 + 5)]


@pytest.mark.parametrize(
    ("target", "form"), [("ort", "int8"), ("ort", "int4"), ("onnx", "int8"), ("custom", "q8_0"), ("custom", "int3")]
)
@pytest.mark.parametrize(("shape", "indices"), [((16, 40, 24), ()), ((17, 2, 40, 20), (2, 2))], ids=str)
def test_only_the_experts_that_are_chosen_are_decoded(
    tmp_path: Path, target: str, form: str, shape: tuple[int, ...], indices: tuple[int, ...]
) -> None:
    nodes = [node("Gather", ["w", "expert"], ["e"]), node("MatMul", ["x", "e"], ["y"])]
    inputs = {"x": ("float32", ["b", 40]), "expert": ("int64", indices)}
    proto, out = model(nodes, inputs, {"y": "float32"}, {"w": weight(*shape)}), tmp_path / "out.onnx"
    feed = {"x": weight(3, 40, seed=5), "expert": rng().integers(0, 16, indices)}
    report = onnxquant.quantize(proto, out, data=[feed], format=form, target=target, threads=1)
    assert not report.problems and not report.encoded[0].decision.folded
    onnxquant.dequantize(out, tmp_path / "float.onnx")
    (decoded,) = onnxquant.load(tmp_path / "float.onnx").run(None, feed)
    np.testing.assert_allclose(onnxquant.load(out).run(None, feed)[0], decoded, atol=1e-5)


def merged() -> onnx.ModelProto:
    """A decoder merged of two: a branch with a cache and one without, which read the same weights of the outer graph."""

    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        shown = onnx.helper.make_tensor_value_info(nodes[-1].output[0], onnx.TensorProto.FLOAT, None)
        return onnx.helper.make_graph(list(nodes), name, [], [shown])

    first = branch(
        "first", node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["c"])
    )
    later = branch(
        "later", node("MatMul", ["x", "w"], ["d"]), node("Add", ["d", "past"], ["e"]), node("MatMul", ["e", "v"], ["f"])
    )
    choice = node("If", ["use_cache_branch"], ["y"], then_branch=later, else_branch=first)
    inputs = {"x": ("float32", ["n", 256]), "past": ("float32", ["n", 288]), "use_cache_branch": ("bool", [1])}
    return model([choice], inputs, {"y": "float32"}, {"w": weight(256, 288), "v": weight(288, 256, seed=1)})


def test_weights_of_both_branches_of_a_merged_decoder_are_stored_once(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    draws = rng(4).standard_normal
    feeds = [
        {"x": draws((3, 256), np.float32), "past": draws((3, 288), np.float32), "use_cache_branch": np.array([choice])}
        for choice in (True, False)
    ]
    report = onnxquant.quantize(merged(), out, bits=4, data=feeds, threads=1)
    assert not report.problems and len(report.encoded) == 2
    assert out.stat().st_size < 1.25 * 0.5625 * 2 * 256 * 288
    onnxquant.dequantize(out, tmp_path / "float.onnx")
    for feed in feeds:
        (decoded,) = onnxquant.load(tmp_path / "float.onnx").run(None, feed)
        np.testing.assert_allclose(
            onnxquant.load(out).run(None, feed)[0], decoded, rtol=0, atol=0.02 * np.abs(decoded).max()
        )
    with pytest.raises(ModelError, match="no static ranges; `--activations dynamic`"):
        onnxquant.quantize(merged(), tmp_path / "static.onnx", activations="static", data=feeds, threads=1)
    dynamic = onnxquant.quantize(merged(), tmp_path / "dynamic.onnx", activations="dynamic", data=feeds, threads=1)
    assert dynamic.activations is not None and dynamic.activations.integer_kernels >= 2


def test_experts_are_decoded_at_load_unless_a_target_is_named(tmp_path: Path) -> None:
    nodes = [node("Gather", ["w", "expert"], ["e"]), node("MatMul", ["x", "e"], ["y"])]
    inputs = {"x": ("float32", ["b", 128]), "expert": ("int64", [])}
    proto = model(nodes, inputs, {"y": "float32"}, {"w": weight(8, 128, 96)})
    for target, ops in (("auto", ["Gather", "MatMul"]), ("ort", ["com.microsoft.GatherBlockQuantized", "MatMul"])):
        out = tmp_path / f"{target}.onnx"
        onnxquant.quantize(proto, out, bits=4, target=target, proof=False)
        computed = onnxquant.runtime.optimized_ops(out)
        assert sorted(op for op in computed if op != "Reshape") == sorted(ops)
        assert out.stat().st_size < 0.2 * 4 * 8 * 128 * 96


def test_nested_graphs_read_a_weight_behind_identity_nodes_and_outputs_keep_theirs() -> None:
    def branch(name: str, *nodes: onnx.NodeProto) -> onnx.GraphProto:
        return onnx.helper.make_graph(list(nodes), name, [], [onnx.ValueInfoProto(name=nodes[-1].output[0])])

    then = branch("then", node("Identity", ["v"], ["u"]), node("MatMul", ["x", "u"], ["t1"]))
    other = branch("other", node("Identity", ["v"], ["whole"]))
    proto = model(
        [
            node("Identity", ["w"], ["v"]),
            node("Identity", ["v"], ["shown"]),
            node("If", ["choice"], ["y"], then_branch=then, else_branch=other),
            node("MatMul", ["x", "shown"], ["z"]),
        ],
        {"x": ("float32", ["n", 16]), "choice": ("bool", [])},
        {"y": "float32", "z": "float32", "shown": "float32"},
        {"w": weight(16, 16)},
    )
    feeds = [{"x": rng().standard_normal((16, 16)).astype(np.float32), "choice": np.array(c)} for c in (True, False)]
    document, note = agreement.check(proto, ReadThroughIdentity(), *feeds, within=0)
    assert note == "2 Identity nodes of constants removed"
    assert agreement.ops(document)["Identity"] == 2


def test_a_nested_graph_with_a_tensor_of_the_same_name_keeps_its_own() -> None:
    inner = onnx.helper.make_graph(
        [node("Neg", ["x"], ["v"]), node("MatMul", ["x", "v"], ["t"])], "then", [], [onnx.ValueInfoProto(name="t")]
    )
    other = onnx.helper.make_graph([node("MatMul", ["x", "v2"], ["o"])], "other", [], [onnx.ValueInfoProto(name="o")])
    proto = model(
        [node("Identity", ["w"], ["v2"]), node("If", ["choice"], ["y"], then_branch=inner, else_branch=other)],
        {"x": ("float32", [16, 16]), "choice": ("bool", [])},
        {"y": "float32"},
        {"w": weight(16, 16)},
    )
    feeds: list[dict[str, Any]] = [{"x": weight(16, 16, seed=3), "choice": np.array(c)} for c in (True, False)]
    document, note = agreement.check(proto, ReadThroughIdentity(), *feeds, within=0)
    assert note and agreement.ops(document)["Identity"] == 0


def shared(readers: int, op: str) -> onnx.ModelProto:
    """A chain of products of one weight, as of an unrolled recurrence, with norms between them."""
    nodes, state = [], "x"
    for step in range(readers):
        nodes.append(node("LayerNormalization", [state, "scale", "bias"], [f"n{step}"]))
        weights = "w"
        if op == "Transpose":
            nodes.append(node("Transpose", ["w"], [f"t{step}"], perm=[1, 0]))
            weights = f"t{step}"
        inputs = [f"n{step}", weights] if op != "Gemm" else [f"n{step}", "w", "bias"]
        nodes.append(node("Gemm" if op == "Gemm" else "MatMul", inputs, [f"p{step}"]))
        nodes.append(node("Tanh", [f"p{step}"], [f"a{step}"]))
        state = f"a{step}"
    nodes.append(node("Relu", [state], ["y"]))
    constants = {
        "w": weight(48, 48),
        "scale": rng(1).uniform(0.1, 9, 48).astype(np.float32),
        "bias": weight(48, seed=2),
    }
    return model(nodes, {"x": ("float32", ["n", 48])}, {"y": "float32"}, constants)


@pytest.mark.parametrize("op", ["MatMul", "Gemm", "Transpose"])
@pytest.mark.parametrize(
    "options",
    [
        {"activations": "dynamic"},
        {"activations": "static", "calibration_method": "minmax", "solver": "rtn"},
        {"bits": 4, "solver": "awq"},
    ],
)
def test_a_weight_of_many_readers_is_stored_once(tmp_path: Path, op: str, options: dict[str, Any]) -> None:
    proto = shared(5, op)
    data = [{"x": rng(i).standard_normal((3, 48)).astype(np.float32)} for i in range(4)]
    onnxquant.quantize(proto, tmp_path / "out.onnx", data=data, proof=False, **options)
    out = onnx.load(tmp_path / "out.onnx")
    assert len([t for t in out.graph.initializer if np.prod(t.dims) >= 48 * 24]) == 1
    assert constant_bytes(out) < constant_bytes(proto) / 2


def test_a_plan_that_would_store_more_than_the_original_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = shared(2, "MatMul")
    larger = PredictedSize(proto.ByteSize() + 1, constant_bytes(proto) + 1)
    monkeypatch.setattr(lowering, "predict", lambda *_, **__: larger)
    with pytest.raises(ModelError, match=r"would be larger: \d+ bytes of constants, \d+ now; nothing was written"):
        onnxquant.quantize(proto, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"bits": 8}, {"activations": "dynamic"}, {"activations": "static"}])
def test_weights_that_are_graph_inputs_are_constants_where_the_hint_is_taken(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    proto = matmul(64, 64)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [64, 64]))
    source, out = save(proto, tmp_path / "source.onnx"), tmp_path / "out.onnx"
    data = {"x": rng(3).standard_normal((8, 3, 64)).astype(np.float32)}
    assert info(source).notes == [
        "1 weights are graph inputs, which a caller may override: --constant-inputs takes them for constants"
    ]
    with pytest.raises(
        ModelError, match=r"(weight|w:) is also a graph input.*; --constant-inputs takes it for a constant"
    ):
        onnxquant.quantize(source, out, data=data, proof=False, **options)
    cheap = {"calibration_method": "minmax", "solver": "rtn"} if options.get("activations") == "static" else {}
    report = onnxquant.quantize(source, out, data=data, constant_inputs=True, samples=1, **options, **cheap)
    assert report.passed and len(report.encoded) == 1
    assert [i.name for i in onnx.load(out).graph.input] == ["x"]
    assert onnxquant.validate(source, out, data, samples=1).passed


X64 = {"x": rng(5).standard_normal((4, 64)).astype(np.float32)}
HALF = weight(64, 64, dtype="float16")


def cast(name: str, output: str) -> onnx.NodeProto:
    return node("Cast", [name], [output], to=onnx.TensorProto.FLOAT)


def product(name: str, output: str = "y", x: str = "x") -> onnx.NodeProto:
    return node("MatMul", [x, name], [output])


NORMED = [
    node("ReduceL2", ["v"], ["length"], axes=[1], keepdims=1),
    node("Div", ["v", "length"], ["unit"]),
    node("Mul", ["unit", "g"], ["weight"]),
]
UPDATED = [product("a", "d", "b"), node("Add", ["w", "d"], ["weight"])]
TWICE = [cast("w", "f"), cast("w", "g"), product("f", "h")]
# Nodes, constants, and the name of the weight.
COMPUTED: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str]] = {
    "float16": ([cast("w", "f"), product("f")], {"w": HALF}, "w"),
    "bfloat16": ([cast("w", "f"), product("f")], {"w": weight(64, 64, dtype="bfloat16")}, "w"),
    "cast twice": ([*TWICE, product("g", x="h")], {"w": HALF}, "w"),
    "transposed, then cast": (
        [node("Transpose", ["w"], ["t"], perm=[1, 0]), cast("t", "f"), product("f")], {"w": HALF}, "f",
    ),
    "weight normalization": ([*NORMED, product("weight")], {"v": weight(64, 64), "g": weight(64, 1, seed=3)}, "weight"),
    "low-rank update": (
        [*UPDATED, product("weight")], {"w": weight(64, 64), "a": weight(4, 64), "b": weight(64, 4)}, "weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COMPUTED)
def test_a_weight_computed_from_constants_is_encoded(tmp_path: Path, case: str) -> None:
    nodes, constants, name = COMPUTED[case]
    proto = model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, constants)
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", target="onnx", samples=1)
    assert report.passed and [site.decision.name for site in report.encoded] == [name]
    assert constant_bytes(onnx.load(tmp_path / "out.onnx")) < 0.6 * constant_bytes(proto)
    source = save(proto, tmp_path / "source.onnx")
    assert onnxquant.validate(source, tmp_path / "out.onnx", samples=1).passed


@pytest.mark.parametrize("case", COMPUTED)
def test_a_computed_weight_that_stays_in_float_is_stored_as_it_was(tmp_path: Path, case: str) -> None:
    nodes, constants, name = COMPUTED[case]
    proto = model(
        [*nodes, node("MatMul", ["y", "other"], ["z"])],
        {"x": ("float32", ["n", 64])},
        {"z": "float32"},
        constants | {"other": weight(64, 64, seed=8)},
    )
    onnxquant.quantize(proto, tmp_path / "out.onnx", exclude=(name,), proof=False)
    out = onnx.load(tmp_path / "out.onnx")
    sizes = {t.name: (t.data_type, list(t.dims)) for t in out.graph.initializer}
    assert all(sizes[t.name] == (t.data_type, list(t.dims)) for t in proto.graph.initializer if t.name != "other")
    onnxquant.quantize(proto, tmp_path / "half.onnx", format="f16", whole_graph=True, keep_io_types=True, samples=1)
    assert constant_bytes(onnx.load(tmp_path / "half.onnx")) <= constant_bytes(proto)


@pytest.mark.parametrize("choice", [True, False])
def test_weights_of_one_name_in_two_branches_are_stored_each_as_it_was(tmp_path: Path, choice: bool) -> None:
    def branch(output: str, seed: int) -> onnx.GraphProto:
        half = onnx.numpy_helper.from_array(weight(64, 64, seed=seed, dtype="float16"), "w")
        nodes = [cast("w", f"{output}_w"), product(f"{output}_w", output)]
        return onnx.helper.make_graph(nodes, output, [], [onnx.ValueInfoProto(name=output)], [half])

    nodes = [node("If", ["c"], ["h"], then_branch=branch("t", 1), else_branch=branch("e", 2)), product("v", x="h")]
    inputs = {"x": ("float32", [4, 64]), "c": ("bool", [])}
    proto = model(nodes, inputs, {"y": "float32"}, {"v": weight(64, 64)})
    onnxquant.quantize(proto, tmp_path / "out.onnx", include=("^v$",), proof=False)
    feed = X64 | {"c": np.array(choice)}
    exact, close = (agreement.outputs(p, feed)["y"] for p in (proto, onnx.load(tmp_path / "out.onnx")))
    assert np.square(exact - close).mean() < 1e-3 * np.square(exact).mean()


def test_a_product_of_two_thin_matrices_stays_one() -> None:
    """Folded it would take more space than both of them."""
    proto = model(
        [product("a", "d", "b"), product("d")],
        {"x": ("float32", ["n", 64])},
        {"y": "float32"},
        {"a": weight(1, 64), "b": weight(64, 1)},
    )
    document, note = agreement.check(proto, FoldWeights(), X64, within=0)
    assert note is None and len(document.proto.graph.node) == 2


@pytest.mark.parametrize("case", ["codes", "read elsewhere too", "output"])
def test_computed_weights_that_stay(case: str) -> None:
    nodes, constants, outputs = [cast("w", "f"), product("f")], {"w": HALF}, {"y": "float32"}
    if case == "codes":
        constants = {"w": rng().integers(-8, 8, (64, 64)).astype(np.int8)}
    elif case == "read elsewhere too":
        nodes.append(node("Neg", ["w"], ["n"]))
        outputs = outputs | {"n": "float16"}
    else:
        outputs = outputs | {"f": "float32"}
    proto = model(nodes, {"x": ("float32", ["n", 64])}, outputs, constants)
    document, note = agreement.check(proto, FoldWeights(), X64, within=0)
    assert note is None and len(document.proto.graph.initializer) == len(constants)


def test_a_node_that_reads_a_weight_at_two_inputs_gets_it_decoded(tmp_path: Path) -> None:
    proto = model(
        [product("w", "h"), node("Gemm", ["h", "w", "w"], ["y"])],
        {"x": ("float32", [64, 64])},
        {"y": "float32"},
        {"w": weight(64, 64)},
    )
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", min_sqnr=30, samples=1, target="ort")
    assert report.passed and report.output_bytes < report.original_bytes


def function(name: str, nodes: list[onnx.NodeProto], *inputs: str, opset: int = 17) -> onnx.FunctionProto:
    imports = [onnx.helper.make_opsetid("", opset), onnx.helper.make_opsetid("pkg", 1)]
    return onnx.helper.make_function("pkg", name, list(inputs), ["y"], nodes, imports)


@pytest.mark.parametrize("case", ["input", "nested", "older opset", "If", "Cast"])
def test_weights_that_functions_are_called_with_are_found(tmp_path: Path, case: str) -> None:
    linear = function("Linear", [product("w")], "x", "w", opset=13 if case == "older opset" else 17)
    functions, name, constant = [linear], "Linear", weight(64, 64)
    if case == "nested":
        name, nodes = "Layer", [node("Linear", ["a", "b"], ["c"], domain="pkg"), node("Relu", ["c"], ["y"])]
        functions.append(function("Layer", nodes, "a", "b"))
    elif case == "Cast":
        linear.CopyFrom(function("Linear", [node("Identity", ["w"], ["i"]), cast("i", "f"), product("f")], "x", "w"))
        constant = HALF
    elif case == "If":
        branches = [
            onnx.helper.make_graph(nodes, nodes[-1].output[0], [], [onnx.ValueInfoProto(name=nodes[-1].output[0])])
            for nodes in ([product("w", "t")], [product("w", "p"), node("Neg", ["p"], ["e"])])
        ]
        choice = node("Constant", [], ["choice"], value=onnx.numpy_helper.from_array(np.array(True)))
        chosen = node("If", ["choice"], ["y"], then_branch=branches[0], else_branch=branches[1])
        linear.CopyFrom(function("Linear", [choice, chosen], "x", "w"))
    small = function("Act", [node("Relu", ["x"], ["y"])], "x")
    proto = model(
        [node(name, ["x", "w"], ["h"], domain="pkg"), node("Act", ["h"], ["y"], domain="pkg")],
        {"x": ("float32", ["n", 64])},
        {"y": "float32"},
        {"w": constant},
        functions=[*functions, small],
    )
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", samples=1)
    assert report.passed and len(report.encoded) == 1
    assert {f.name for f in onnx.load(tmp_path / "out.onnx").functions} & {"Linear", "Layer", "Act"} == {"Act"}


PRODUCTS_OF_CONSTANTS = {
    "MatMul": [node("MatMul", ["b", "a"], ["k"])],
    "Gemm": [node("Gemm", ["b", "a"], ["k"])],
    "Transpose": [node("Transpose", ["at"], ["t"], perm=[1, 0]), node("MatMul", ["b", "t"], ["k"])],
}


@pytest.mark.parametrize("options", [{"activations": "dynamic"}, {"bits": 4, "target": "onnx"}], ids=str)
@pytest.mark.parametrize("case", PRODUCTS_OF_CONSTANTS)
def test_a_product_of_two_constants_is_computed_at_load(tmp_path: Path, case: str, options: dict[str, Any]) -> None:
    """A kernel read one of them by its name, which was no more."""
    second = {"at": weight(900, 16)} if case == "Transpose" else {"a": weight(16, 900)}
    constants = {"b": weight(80, 16), **second}
    nodes = [*PRODUCTS_OF_CONSTANTS[case], node("MatMul", ["x", "k"], ["h"]), node("MatMul", ["x", "b"], ["z"])]
    outputs = {"h": "float32", "z": "float32"}
    report = onnxquant.quantize(
        model(nodes, {"x": ("float32", ["n", 80])}, outputs, constants), tmp_path / "out.onnx", proof=False, **options
    )
    assert {site.decision.name for site in report.encoded} == constants.keys()
    feed = {"x": weight(3, 80, seed=4)}
    onnxquant.dequantize(tmp_path / "out.onnx", tmp_path / "float.onnx")
    for close, exact in zip(
        onnxquant.load(tmp_path / "out.onnx").run(["h"], feed),
        onnxquant.load(tmp_path / "float.onnx").run(["h"], feed),
        strict=True,
    ):
        np.testing.assert_allclose(close, exact, atol=1e-4)


def test_the_kernel_of_a_deformable_convolution_is_encoded(tmp_path: Path) -> None:
    proto = model(
        [node("DeformConv", ["x", "w", "o"], ["y"], pads=[1] * 4)],
        {"x": ("float32", [1, 8, 6, 6]), "o": ("float32", [1, 18, 6, 6])}, {"y": "float32"}, {"w": weight(64, 8, 3, 3)},
    )  # fmt: skip
    proto.opset_import[0].version, proto.ir_version = 19, 9
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", samples=1, min_sqnr=30)
    assert report.passed and [site.decision.name for site in report.encoded] == ["w"]


@pytest.mark.parametrize("form", ["int8", "q4_0"])
def test_a_weight_too_small_for_scales_stays_in_float(tmp_path: Path, form: str) -> None:
    """Scales are float16: they became zero, and with them the weight."""
    nodes = [node("MatMul", ["x", "tiny"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    constants = {"tiny": weight(64, 64) * np.float32(1e-9), "w": weight(64, 64)}
    proto = model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, constants)
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", format=form, proof=False)
    assert [site.decision.name for site in report.encoded] == ["w"]
    assert "too small for the format's scales" in next(
        s.decision.reason for s in report.sites if s.decision.name == "tiny"
    )


def test_an_initializer_that_nothing_reads_is_dropped(tmp_path: Path) -> None:
    proto = model(
        [product("w")], {"x": ("float32", ["n", 64])}, {"y": "float32"}, {"w": HALF.astype("float32"), "u": HALF}
    )
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", samples=1)
    assert report.passed and "1 initializers that nothing reads dropped" in report.notes
    assert "u" not in {t.name for t in onnx.load(tmp_path / "out.onnx").graph.initializer}


@pytest.mark.parametrize("shape", [[1, 64, 48], [1, 1, 64, 48]])
def test_a_weight_with_leading_axes_of_one_is_a_matrix_for_kernels(tmp_path: Path, shape: list[int]) -> None:
    proto = model([product("w")], {"x": ("float32", ["a", 1, "n", 64])}, {"y": "float32"}, {"w": weight(*shape)})
    x = {"x": rng(5).standard_normal((2, 1, 3, 64)).astype(np.float32)}
    document, note = agreement.check(proto, DropLeadingAxes(), x, within=0)
    assert note and list(document.proto.graph.initializer[0].dims) == [64, 48]
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", bits=4, target="ort", samples=1)
    assert report.passed and "MatMulNBits" in {n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}


@pytest.mark.parametrize("case", ["fewer axes", "more matrices", "read by another op"])
def test_leading_axes_that_count_stay(case: str) -> None:
    nodes, outputs = [product("w")], {"y": "float32"}
    shape = [2, 64, 48] if case == "more matrices" else [1, 64, 48]
    if case == "read by another op":
        nodes, outputs = [*nodes, node("Neg", ["w"], ["z"])], outputs | {"z": "float32"}
    inputs: dict[str, Any] = {"x": ("float32", ["n", 64] if case == "fewer axes" else ["a", "n", 64])}
    feed: dict[str, Any] = {
        "x": rng(5).standard_normal((3, 64) if case == "fewer axes" else (1, 3, 64)).astype("float32")
    }
    proto = model(nodes, inputs, outputs, {"w": weight(*shape)})
    _, note = agreement.check(proto, DropLeadingAxes(), feed, within=0)
    assert note is None


SOLVED = [{"bits": 4, "solver": solver} for solver in ("mse", "gptq", "awq", "adaround")]


@pytest.mark.parametrize("options", [{"bits": 4, "solver": "hqq", "symmetric": False}, *SOLVED])
def test_a_weight_of_several_matrices_is_solved(tmp_path: Path, options: dict[str, Any]) -> None:
    proto = model([product("w")], {"x": ("float32", ["b", 4, "n", 64])}, {"y": "float32"}, {"w": weight(4, 64, 16)})
    data = {"x": rng(5).standard_normal((4, 4, 9, 64)).astype(np.float32)}
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", data=data, samples=1, min_sqnr=15, **options)
    assert report.passed and len(report.encoded) == 1


def test_a_budget_weighs_a_weight_of_several_matrices(tmp_path: Path) -> None:
    proto = model([product("w")], {"x": ("float32", ["b", 4, "n", 64])}, {"y": "float32"}, {"w": weight(4, 64, 16)})
    data = {"x": rng(5).standard_normal((8, 4, 9, 64)).astype(np.float32)}
    report = onnxquant.quantize(
        proto, tmp_path / "out.onnx", data=data, formats=("int8", "int4"), budget_bpw=6.5, proof=False
    )
    assert [site.decision.format.name for site in report.encoded if site.decision.format] == ["int4"]


CONTRIB: dict[str, tuple[onnx.NodeProto, dict[str, Any], dict[str, Any], set[str]]] = {
    "EmbedLayerNormalization": (
        node("EmbedLayerNormalization", ["x", "", "words", "places", "", "g", "b"], ["y", "mask"], domain=MICROSOFT),
        {"words": weight(400, 32), "places": weight(32, 32), "g": np.ones(32, np.float32), "b": weight(32)},
        {"x": ("int32", ["n", 4])},
        {"words", "places"},
    ),
    "MoE": (
        node("MoE", ["x", "r", "w1", "", "w2"], ["y"], domain=MICROSOFT, k=1, activation_type="relu"),
        {"w1": weight(2, 48, 32), "w2": weight(2, 32, 48)},
        {"x": ("float32", ["n", 32]), "r": ("float32", ["n", 2])},
        {"w1", "w2"},
    ),
}


@pytest.mark.parametrize("op", CONTRIB)
def test_weights_of_operators_of_onnxruntimes_optimizer_are_encoded(tmp_path: Path, op: str) -> None:
    contrib, constants, inputs, names = CONTRIB[op]
    proto = model([contrib], inputs, {"y": "float32"}, constants)
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", samples=1, min_sqnr=30)
    assert report.passed and {site.decision.name for site in report.encoded} == names


@pytest.mark.parametrize(
    "options",
    [
        {"format": "int8", "target": "ort"},
        {"format": "int4", "symmetric": False, "block_size": 16, "target": "ort"},
        {"format": "int4", "per_channel": True, "target": "ort"},
        {"format": "q4_0", "target": "custom"},
    ],
    ids=str,
)
def test_a_table_that_a_head_and_onnxruntimes_embedding_read_is_stored_once(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    nodes = [
        node("EmbedLayerNormalization", ["x", "", "words", "places", "", "g", "b"], ["e", "mask"], domain=MICROSOFT),
        node("Transpose", ["words"], ["head"], perm=[1, 0]),
        node("MatMul", ["e", "head"], ["y"]),
    ]
    constants = {"words": weight(400, 72), "places": weight(3, 72), "g": np.ones(72, np.float32), "b": weight(72)}
    proto = model(nodes, {"x": ("int32", ["n", 3])}, {"y": "float32"}, constants)
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", proof=False, **options)
    assert [site.decision.name for site in report.encoded] == ["words"]
    (record,) = records(onnx.load(tmp_path / "out.onnx"))
    assert len(record.plane_names) == len(record.stored_format.declared_planes(400, 72))
    onnxquant.dequantize(tmp_path / "out.onnx", tmp_path / "float.onnx")
    feed = {"x": np.int32([[1, 5, 399]])}
    (decoded,) = onnxquant.load(tmp_path / "float.onnx").run(None, feed)
    (close,) = onnxquant.load(tmp_path / "out.onnx").run(None, feed)
    assert np.square(decoded - close).mean() < 1e-3 * np.square(decoded).mean()


@pytest.mark.parametrize("case", ["initializers", "nodes", "both"])
def test_two_tensors_of_one_name_are_refused(case: str) -> None:
    proto = model(
        [product("w", "h"), node("Relu", ["h"], ["h" if case == "nodes" else "w" if case == "both" else "r"])],
        {"x": ("float32", ["n", 64])},
        {"h": "float32"},
        {"w": weight(64, 64)},
    )
    if case == "initializers":
        proto.graph.initializer.append(onnx.numpy_helper.from_array(weight(3, 3), "w"))
    with pytest.raises(ModelError, match="two tensors of graph 'test' have the name"):
        load(proto)


def twins(name: str, second: int) -> onnx.ModelProto:
    """An If whose branches hold one plain constant each, and a weight: the same where ``second`` is 7."""
    proto = branches(other_name=name)
    for graph, seed in zip((a.g for a in proto.graph.node[0].attribute), (7, second), strict=True):
        graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array(weight(64, 32, seed=seed), graph.initializer[0].name)
        )
        graph.initializer.append(onnx.numpy_helper.from_array(weight(32, seed=3).repeat(4), "bias"))
        graph.node[1].output[0], shown = "product", graph.output[0].name
        graph.node.append(node("Slice", ["bias", "zero", "end"], ["part"]))
        graph.node.append(node("Add", ["product", "part"], [shown]))
        for key, value in (("zero", 0), ("end", 32)):
            graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), key))
    return proto


@pytest.mark.parametrize(("name", "second", "weights"), [("w_then", 7, 2), ("w_else", 7, 2), ("w_else", 8, 3)])
def test_branches_share_equal_constants_encoded_or_not(tmp_path: Path, name: str, second: int, weights: int) -> None:
    proto = twins(name, second)
    report = onnxquant.quantize(proto, tmp_path / "q.onnx", samples=1, threads=1)
    assert not report.problems and len(report.encoded) == weights
    stored = [t for t in onnx.load(tmp_path / "q.onnx").graph.initializer if t.dims == [128]]
    assert len(stored) == 1, "a bias that stays in float"
    for branch in (True, False):
        feed = {"x": rng().standard_normal((2, 64)).astype("float32"), "c": np.array(branch)}
        exact, close = (agreement.outputs(p, feed)["y"] for p in (proto, onnx.load(tmp_path / "q.onnx")))
        assert np.square(exact - close).mean() < 1e-3 * np.square(exact).mean()


def test_layers_with_equal_weights_share_them_and_their_biases_stay(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w", "b"], ["h"]), node("Gemm", ["h", "v", "c"], ["y"])]
    constants = {"w": weight(128, 128), "v": weight(128, 128), "b": weight(128), "c": weight(128)}
    document = load(model(nodes, {"x": ("float32", ["b", 128])}, {"y": "float32"}, constants))
    ShareConstants()(document)
    assert [t.name for t in document.proto.graph.initializer] == ["w", "b", "c"]
    assert [n.input[1] for n in document.proto.graph.node] == ["w", "w"]


def test_equal_long_vectors_are_stored_once_unless_all_numbers_are_the_same() -> None:
    window, ones = weight(4096), np.ones(4096, np.float32)
    constants = {"a": window, "b": window, "c": ones, "d": ones, "e": window[:512], "f": window[:512]}
    nodes = [node("Mul", ["x", name], [f"{name}_x"]) for name in "abcd"]
    nodes += [node("Mul", ["z", name], [f"{name}_x"]) for name in "ef"]
    inputs = {"x": ("float32", ["n", 4096]), "z": ("float32", ["n", 512])}
    document = load(model(nodes, inputs, {f"{name}_x": "float32" for name in constants}, constants))
    assert ShareConstants()(document).changed
    assert [t.name for t in document.proto.graph.initializer] == ["a", "c", "d", "e", "f"]
    assert document.proto.graph.node[1].input[1] == "a"


def test_equal_weights_behind_casts_are_stored_once(tmp_path: Path) -> None:
    nodes = [cast("w", "f"), cast("v", "g"), product("f", "h"), product("g", x="h")]
    proto = model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, {"w": HALF, "v": HALF})
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", samples=1)
    assert report.passed and [s.decision.name for s in report.encoded] == ["w"]


def looped(handed_on: str, *, inside: str, read_after: bool) -> onnx.ModelProto:
    """A Loop whose state ``w`` is a weight, called ``inside`` in its body, which hands ``handed_on`` to the next step."""
    body = onnx.helper.make_graph(
        [
            node("Identity", ["go"], ["again"]),
            node("Identity", [inside], ["same"]),
            node("Neg", [inside], ["other"]),
            node("MatMul", ["s", inside], ["p"]),
            node("Tanh", ["p"], ["t"]),
        ],
        "body",
        [onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [])]
        + [onnx.helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, [])]
        + [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [16, 16]) for n in (inside, "s")],
        [onnx.ValueInfoProto(name=n) for n in ("again", handed_on, "t")],
    )
    after = node("MatMul", ["last", "end"], ["y"]) if read_after else node("Relu", ["last"], ["y"])
    nodes = [node("Loop", ["steps", "", "w", "x"], ["end", "last"], body=body), after]
    constants = {"w": weight(16, 16), "steps": np.array(3)}
    proto = model(nodes, {"x": ("float32", [16, 16])}, {"y": "float32"}, constants)
    for size in (16, 16):  # onnx infers no shape behind a Loop
        proto.graph.output[0].type.tensor_type.shape.dim.add(dim_value=size)
    return proto


@pytest.mark.parametrize("read_after", [True, False])
@pytest.mark.parametrize("inside", ["w", "w_of_a_step"])
@pytest.mark.parametrize("handed_on", ["same", "w", "other"])
def test_a_loop_reads_a_weight_that_it_hands_on_unchanged_from_outside(
    handed_on: str, inside: str, read_after: bool
) -> None:
    proto = looped(inside if handed_on == "w" else handed_on, inside=inside, read_after=read_after)
    document, note = agreement.check(proto, ReadCarriedConstants(), {"x": weight(16, 16, seed=3)})
    assert note == (None if handed_on == "other" else "1 constants carried by Loop or Scan read from outside")
    assert len(document.proto.graph.node[0].output) == (2 if handed_on == "other" else 1)


def test_a_scan_reads_a_weight_that_it_hands_on_unchanged_from_outside(tmp_path: Path) -> None:
    names = {"v": [32, 32], "s": [32], "e": [32]}
    body = onnx.helper.make_graph(
        [
            node("Identity", ["v"], ["v2"]),
            node("MatMul", ["s", "v"], ["p"]),
            node("Add", ["p", "e"], ["q"]),
            node("Tanh", ["q"], ["s2"]),
            node("Relu", ["s2"], ["r"]),
        ],
        "body",
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, shape) for n, shape in names.items()],
        [onnx.ValueInfoProto(name=n) for n in ("v2", "s2", "r")],
    )
    proto = model(
        [node("Scan", ["w", "x0", "xs"], ["end", "last", "y"], body=body, num_scan_inputs=1)],
        {"x0": ("float32", [32]), "xs": ("float32", ["n", 32])},
        {"y": "float32"},
        {"w": weight(32, 32)},
    )
    feed = {"x0": weight(32), "xs": weight(5, 32, seed=3)}
    document, note = agreement.check(proto, ReadCarriedConstants(), feed)
    assert note and list(document.proto.graph.node[0].output) == ["last", "y"]
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", data=[feed], format="int8")
    assert report.passed and [s.decision.name for s in report.encoded] == ["w"]


def test_a_weight_that_a_loop_hands_on_is_encoded_where_its_last_value_is_an_output(tmp_path: Path) -> None:
    proto = looped("same", inside="v", read_after=False)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("end", onnx.TensorProto.FLOAT, [16, 16]))
    feed = {"x": weight(16, 16, seed=3)}
    agreement.check(proto, ReadCarriedConstants(), feed)
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", data=[feed], format="int8")
    assert not report.problems and [s.decision.name for s in report.encoded] == ["w"]


def test_a_loop_in_a_loop_reads_a_weight_that_both_hand_on_from_outside() -> None:
    inner = looped("same", inside="v", read_after=False).graph.node[0]
    outer = looped("same", inside="u", read_after=False)
    body = outer.graph.node[0].attribute[0].g
    inner.input[:] = ["steps", "", "u", "s"]
    inner.output[:] = ["same", "p"]
    graph = inner.attribute[0].g
    names = {n: f"{n}_in" for n in ("again", "go", "same", "other", "p", "s", "t", "i")}
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for inside in graph.node:
        inside.input[:] = [names.get(n, n) for n in inside.input]
        inside.output[:] = [names.get(n, n) for n in inside.output]
    del body.node[1], body.node[2]
    body.node.insert(0, inner)
    document, note = agreement.check(outer, ReadCarriedConstants(), {"x": weight(16, 16, seed=3)})
    assert note == "2 constants carried by Loop or Scan read from outside"
    assert list(document.proto.graph.node[0].input) == ["steps", "", "x"]


def test_a_scan_before_opset_9_keeps_its_states() -> None:
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [8]) for n in ("s", "c", "e")]
    nodes = [node("Identity", ["c"], ["c2"]), node("Add", ["s", "e"], ["a"]), node("Add", ["a", "c"], ["s2"])]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("s2", "c2")]
    scan = node(
        "Scan", ["", "s0", "c0", "x"], ["last", "end"], num_scan_inputs=1,
        body=onnx.helper.make_graph(nodes, "body", infos, outputs),
    )  # fmt: skip
    constants = {"s0": weight(1, 8), "c0": weight(1, 8, seed=2)}
    proto = model([scan, node("Neg", ["last"], ["y"])], {"x": ("float32", [1, 5, 8])}, {"y": "float32"}, constants, 8)
    assert not ReadCarriedConstants()(load(proto)).changed


@pytest.mark.parametrize("trans", [0, 1])
def test_a_gemm_reads_a_weight_in_the_place_of_its_transpose(trans: int, tmp_path: Path) -> None:
    shape = (48, 64) if not trans else (64, 48)
    nodes = [node("Transpose", ["w"], ["t"]), node("Gemm", ["x", "t", "b"], ["y"], transB=trans)]
    constants = {"w": weight(*shape), "b": weight(48)}
    proto = model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, constants)
    x = {"x": rng(5).standard_normal((3, 64)).astype(np.float32)}
    document, note = agreement.check(proto, ReadTransposes(), x)
    assert note == "1 Gemms read a weight as it is stored" and agreement.ops(document) == {"Gemm": 1}
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", activations="dynamic", target="ort", data=[x] * 4)
    assert report.passed and "DynamicQuantizeMatMul" in {n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}


def test_a_transpose_that_something_else_reads_stays_beside_a_gemm() -> None:
    nodes = [node("Transpose", ["w"], ["t"]), node("Gemm", ["x", "t"], ["y"]), node("Neg", ["t"], ["z"])]
    proto = model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32", "z": "float32"}, {"w": weight(48, 64)})
    x = {"x": rng(5).standard_normal((3, 64)).astype(np.float32)}
    document, note = agreement.check(proto, ReadTransposes(), x)
    assert note and agreement.ops(document) == {"Transpose": 1, "Gemm": 1, "Neg": 1}


def test_a_table_beside_products_of_another_tool_is_encoded_and_proven(tmp_path: Path) -> None:
    """int4 of onnxruntime-genai's builder: products on 8-bit activations, a float table of embeddings."""
    codes = rng(1).integers(0, 256, (96, 2, 16), np.uint8)
    scales = (rng(2).random((96, 2)) * 0.01 + 0.01).astype(np.float32)
    product = node(
        "MatMulNBits", ["e", "codes", "scales"], ["y"], domain=MICROSOFT, K=64, N=96, bits=4, block_size=32,
        accuracy_level=4,
    )  # fmt: skip
    constants = {"table": weight(1100, 64), "codes": codes, "scales": scales}
    shapes = {"ids": ("int64", ["b", "n"])}
    proto = model([node("Gather", ["table", "ids"], ["e"]), product], shapes, {"y": "float32"}, constants)
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    report = onnxquant.quantize(proto, tmp_path / "q.onnx", samples=1, threads=1)
    assert report.passed and [site.decision.name for site in report.encoded] == ["table"]
    assert any("quantized already (1 MatMulNBits)" in note for note in report.notes)
