"""Sessions with further outputs, the environment, and what an optimized graph says of its kernels."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from graphs import node

import onnxquant
from onnxquant import runtime
from onnxquant.errors import ModelError
from onnxquant.graph.io import load
from onnxquant.runtime.profile import node_times
from onnxquant.runtime.trace import Call, Run
from onnxquant.system.environment import environment_with, instruction_set_cap

MICROSOFT = "com.microsoft"


def chain() -> onnx.ModelProto:
    """x -> MatMul -> Relu -> y."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), node("Relu", ["m"], ["y"])]
    return graphs.model(nodes, {"x": ("float32", ["n", 6])}, {"y": "float32"}, {"w": graphs.weight(6, 5)})


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_session_shows_intermediate_tensors(tmp_path: Path, in_memory: bool) -> None:
    path = graphs.save(chain(), tmp_path / "m.onnx")
    x = graphs.rng().standard_normal((3, 6)).astype(np.float32)
    with runtime.session_of(load(path) if in_memory else path, ["m"], threads=1) as session:
        values = runtime.run(session, {"x": x})
    np.testing.assert_allclose(values["m"], x @ graphs.weight(6, 5), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(values["y"], np.maximum(values["m"], 0))


def test_a_session_shows_shapes_instead_of_tensors() -> None:
    x = np.zeros((7, 6), np.float32)
    with runtime.extendable(load(chain())) as source:
        session = source.session(runtime.shape_addition(["m", "x"]))
        outputs = [runtime.shape_output(i) for i in range(2)]
        shapes = runtime.run(session, {"x": x}, outputs)
    assert [list(shape) for shape in shapes.values()] == [[7, 5], [7, 6]]


def test_an_unknown_tensor_cannot_be_shown() -> None:
    with pytest.raises(ModelError, match="cannot load it"), runtime.session_of(load(chain()), ["nothing"]):
        pytest.fail("a session was opened")


def test_running_no_outputs_returns_none_of_them() -> None:
    with runtime.session_of(load(chain())) as session:
        assert runtime.run(session, {"x": np.zeros((1, 6), np.float32)}, []) == {}


def test_one_disturbed_run_of_a_profile_changes_no_time() -> None:
    """A node that runs once in each run, one that runs twice, as in a Loop, and one that not all runs reach."""

    def call(name: str, microseconds: int) -> Call:
        return Call(name, "Conv", 1e-6 * microseconds, (), ())

    once, twice, some = [900, 10, 11, 5000, 12, 10], [901, 42, 44, 7025, 43, 41], [5, 5, 5, 5, 0, 0]
    runs = [
        Run(1.0, (call("once", a), call("twice", 20), call("twice", b - 20), *[call("some", c)] * (c > 0)))
        for a, b, c in zip(once, twice, some, strict=True)
    ]
    times = {time.name: round(1e6 * time.seconds, 6) for time in node_times(runs)}
    assert times == {"once": 11.0, "twice": 43.0, "some": 5.0}


def test_the_environment_of_a_child_has_the_given_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONNXQUANT_TEST_VARIABLE", "parent")
    assert environment_with()["ONNXQUANT_TEST_VARIABLE"] == "parent"
    assert environment_with(ONNXQUANT_TEST_VARIABLE="child")["ONNXQUANT_TEST_VARIABLE"] == "child"


@pytest.mark.parametrize(("value", "cap"), [("avx2", "avx2"), ("", None), (None, None)])
def test_the_cap_of_instruction_sets_is_read_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str | None, cap: str | None
) -> None:
    monkeypatch.delenv("ONNXQUANT_ISA", raising=False)
    if value is not None:
        monkeypatch.setenv("ONNXQUANT_ISA", value)
    assert instruction_set_cap() == cap


def optimized() -> onnx.ModelProto:
    """A product behind a bias and a reshape, and a weight that is moved before a convolution reads it."""
    nodes = [
        node("MatMulNBits", ["x", "codes"], ["p"], domain=MICROSOFT, name="product"),
        node("Add", ["p", "bias"], ["q"]),
        node("Reshape", ["q", "shape"], ["y"]),
        node("Reshape", ["moved", "shape"], ["w"], name="move"),
        node("Conv", ["x", "w"], ["z"], name="conv"),
    ]
    constants = {"codes": graphs.weight(4), "bias": graphs.weight(4), "moved": graphs.weight(4)}
    constants["shape"] = np.array([4])
    return graphs.model(nodes, {"x": ("float32", ["n"])}, {"y": "float32", "z": "float32"}, constants)


def test_kernels_are_told_by_the_constants_they_read() -> None:
    kernels = runtime.Kernels(optimized())
    assert kernels.reading(["codes"]) == {"com.microsoft.MatMulNBits"}
    assert kernels.reading(["moved", "bias"]) == set(), "a Reshape or an Add computes nothing with a weight"
    assert kernels.reading(["w"]) == set(), "it is computed, not a constant"


def test_kernels_are_told_by_the_tensors_they_make_behind_moves_and_biases() -> None:
    kernels = runtime.Kernels(optimized())
    assert kernels.making(["y", "nothing"]) == {"com.microsoft.MatMulNBits"}
    assert kernels.making(["z"]) == {"Conv"}


def test_kernels_are_told_by_the_names_of_their_nodes() -> None:
    assert runtime.Kernels(optimized()).named({"conv", "product", ""}) == {"Conv", "com.microsoft.MatMulNBits"}


def test_the_histogram_counts_ops_with_their_domains() -> None:
    assert runtime.histogram(optimized()) == {"Reshape": 2, "com.microsoft.MatMulNBits": 1, "Add": 1, "Conv": 1}


def test_both_domains_of_the_extensions_are_registered() -> None:
    decode = onnx.helper.make_node("DecodeImage", ["file"], ["y"], domain="com.microsoft.extensions")
    proto = graphs.model([decode], {"file": ("uint8", ["bytes"])}, {"y": "uint8"}, {}, 17)
    proto.opset_import.append(onnx.helper.make_opsetid("com.microsoft.extensions", 1))
    session = runtime.open_session(proto.SerializeToString(), runtime.session_options(threads=1))
    assert list(runtime.outputs_of(session)) == ["y"]


def noisy(extra: int) -> onnx.ModelProto:
    """x -> some Relus -> Add of normal noise -> MatMul -> y."""
    nodes = [node("Relu", [f"x{i}" if i else "x"], [f"x{i + 1}"]) for i in range(extra)]
    nodes += [node("RandomNormalLike", [f"x{extra}" if extra else "x"], ["noise"]), node("Add", ["noise", "x"], ["s"])]
    nodes.append(node("MatMul", ["s", "w"], ["y"]))
    return graphs.model(nodes, {"x": ("float32", ["n", 64])}, {"y": "float32"}, {"w": graphs.weight(64, 64)})


@pytest.mark.parametrize("external", [True, False])
def test_compared_sessions_draw_the_same_random_numbers_and_deployed_ones_do_not(tmp_path: Path, external: bool) -> None:
    paths = [tmp_path / f"{extra}.onnx" for extra in (0, 2)]
    for path, extra in zip(paths, (0, 2), strict=True):
        onnx.save(noisy(extra), path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    x = np.ones((3, 64), np.float32)
    first, second = (runtime.run(runtime.open_session(p, runtime.session_options(threads=1)), {"x": x}) for p in paths)
    np.testing.assert_array_equal(first["y"], second["y"])
    free = [runtime.run(runtime.load(p), {"x": x}) for p in paths]
    assert not np.array_equal(free[0]["y"], free[1]["y"])


def test_a_model_that_draws_random_numbers_is_judged_by_its_weights_alone(tmp_path: Path) -> None:
    report = onnxquant.quantize(noisy(0), tmp_path / "out.onnx", format="int8")
    assert report.proof
    assert all(error.sqnr_db > 30 for error in report.proof.deployed.values())
    assert any("draws random numbers (1 x RandomNormalLike)" in note for note in report.proof.notes)


def test_a_seed_that_some_calls_of_a_function_leave_out_is_the_same_where_they_are_inlined(tmp_path: Path) -> None:
    def with_seed(call: onnx.NodeProto, of: str) -> onnx.NodeProto:
        call.attribute.add(name=of, type=onnx.AttributeProto.FLOAT, ref_attr_name="seed")
        return call

    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("layers", 1)]
    noise = with_seed(node("RandomNormalLike", ["x"], ["noise"]), "seed")
    inner = [noise, node("Add", ["noise", "x"], ["s"]), node("MatMul", ["s", "w"], ["y"])]
    outer = [with_seed(node("Noisy", ["x", "w"], ["y"], domain="layers"), "seed")]
    functions = [
        onnx.helper.make_function("layers", name, ["x", "w"], ["y"], nodes, opsets, attributes=["seed"])
        for name, nodes in (("Noisy", inner), ("Layer", outer))
    ]
    calls = [node("Layer", ["x", "w"], ["h"], domain="layers"), node("Layer", ["h", "w"], ["k"], domain="layers", seed=3.0)]
    calls.append(node("Noisy", ["k", "w"], ["y"], domain="layers"))
    weights = {"w": graphs.weight(64, 64)}
    proto = graphs.model(calls, {"x": ("float32", ["n", 64])}, {"y": "float32"}, weights, functions=functions)
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", format="int8")
    assert report.proof
    assert report.proof.deployed["y"].sqnr_db > 30


def test_functions_that_draw_random_numbers_draw_the_same_where_they_are_inlined(tmp_path: Path) -> None:
    main = noisy(0)
    nodes = [*main.graph.node]
    nodes.insert(0, node("Constant", [], ["w"], value=onnx.numpy_helper.from_array(graphs.weight(64, 64), "w")))
    layer = onnx.helper.make_function("layers", "Layer", ["x"], ["y"], nodes, [onnx.helper.make_opsetid("", 17)])
    calls = [node("Layer", ["x"], ["h"], domain="layers"), node("Layer", ["h"], ["y"], domain="layers")]
    proto = graphs.model(calls, {"x": ("float32", ["n", 64])}, {"y": "float32"}, {}, functions=[layer])
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", format="int8")
    assert report.proof and all(error.sqnr_db > 30 for error in report.proof.deployed.values())
