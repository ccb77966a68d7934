"""Functions of each element between codes and codes become tables: what is taken, what comes out, and the way back."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import node
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxquant
from onnxquant.graph.functions import MOST_NAMES
from onnxquant.graph.names import ACTIVATION
from onnxquant.native import library as native
from onnxquant.targets.code_maps import add_code_maps, expand_code_maps, is_code_map

CODES: dict[str, Any] = {"uint8": np.uint8, "int8": np.int8}
# Functions by name: operators, each with its constants; "x" is the value so far, "0" the value before all of them.
CHAINS: dict[str, list[tuple[str, list[Any]]]] = {
    "hardswish": [("Add", ["x", 3.0]), ("Clip", ["x", 0.0, 6.0]), ("Mul", ["0", "x"]), ("Div", ["x", 6.0])],
    "silu": [("Sigmoid", ["x"]), ("Mul", ["x", "0"])],
    "gelu": [("Div", ["x", 1.4142135]), ("Erf", ["x"]), ("Add", ["x", 1.0]), ("Mul", ["0", "x"]), ("Mul", ["x", 0.5])],
    "mish": [("Softplus", ["x"]), ("Tanh", ["x"]), ("Mul", ["x", "0"])],
    "root": [("Mul", ["x", "x"]), ("Sqrt", ["x"]), ("Neg", ["x"])],
    "rounded between": [("Mul", ["x", 1.7]), ("QDQ", ["x"]), ("Sigmoid", ["x"]), ("QDQ", ["x"]), ("Mul", ["x", "0"])],
    "square": [("Pow", ["x", 2.0])],
}


class Chain:
    """A model whose input and output are codes, with a chain of operators in between."""

    def __init__(self, codes: str = "uint8", opset: int = 17) -> None:
        self.codes, self.opset = codes, opset
        self.constants: dict[str, NDArray[Any]] = {}
        self.nodes: list[onnx.NodeProto] = []

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        return self._keep(array.astype(np.float32) if array.dtype.kind == "f" else array)

    def _keep(self, array: NDArray[Any]) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"t{len(self.nodes)}"
        self.nodes.append(node(op, list(inputs), [output], **attributes))
        if op in ("QuantizeLinear", "DequantizeLinear"):
            self.nodes[-1].metadata_props.add(key=ACTIVATION, value=op)
        return output

    def decode(self, x: str, scale: float = 0.05, zero: int = 100) -> str:
        return self.add("DequantizeLinear", x, self.constant(scale), self.constant(CODES[self.codes](zero)))

    def encode(self, x: str, output: str = "", scale: float = 0.04, zero: int = 90) -> str:
        return self.add(
            "QuantizeLinear", x, self.constant(scale), self.constant(CODES[self.codes](zero)), output=output
        )

    def chain(self, x: str, steps: list[tuple[str, list[Any]]]) -> str:
        first = value = x
        for op, inputs in steps:
            if op == "QDQ":
                value = self.decode(self.encode(value, scale=0.02, zero=77), scale=0.02, zero=77)
                continue
            names = {"x": value, "0": first}
            value = self.add(op, *(names[i] if isinstance(i, str) else self.constant(i) for i in inputs))
        return value

    def model(
        self, shape: list[Any] | None, outputs: tuple[str, ...] = ("y",), kinds: tuple[str, ...] = ()
    ) -> onnx.ModelProto:
        kinds = kinds or (self.codes,) * len(outputs)
        made = graphs.model(
            self.nodes, {"x": (self.codes, shape)}, dict(zip(outputs, kinds, strict=True)), self.constants, self.opset
        )
        if shape is None:
            made.graph.input[0].type.tensor_type.ClearField("shape")
        return made


def chain(name: str, codes: str = "uint8", shape: list[Any] | None = None) -> onnx.ModelProto:
    made = Chain(codes)
    made.encode(made.chain(made.decode("x"), CHAINS[name]), "y")
    return made.model([None, 256] if shape is None else shape)


def run(proto: onnx.ModelProto, x: NDArray[Any], *, library: bool, optimize: bool = True) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if library:
        options.register_custom_ops_library(str(native.library_path()))
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"x": x}))


def with_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    add_code_maps(copy)
    return copy


def maps(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node if is_code_map(n)]


def all_codes(codes: str, *shape: int) -> NDArray[Any]:
    """Every code at every place of the other axes."""
    flat = np.arange(256, dtype=np.uint8).view(CODES[codes])
    return np.ascontiguousarray(np.broadcast_to(flat, (*shape, 256)))


@pytest.mark.parametrize("codes", list(CODES))
@pytest.mark.parametrize("name", list(CHAINS))
def test_a_table_gives_what_the_nodes_give(name: str, codes: str) -> None:
    proto, x = chain(name, codes), all_codes(codes, 3)
    mapped = with_maps(proto)
    assert [n.op_type for n in mapped.graph.node] == ["MapCodes1"]
    expected = run(proto, x, library=False)
    np.testing.assert_array_equal(run(mapped, x, library=True), expected)
    np.testing.assert_array_equal(run(mapped, x, library=False), expected)


@pytest.mark.parametrize("codes", list(CODES))
@pytest.mark.parametrize("seed", range(4))
def test_random_functions_of_channels(seed: int, codes: str) -> None:
    random, made = np.random.default_rng(seed), Chain(codes)
    first = value = made.decode("x")
    for op in random.choice(["Add", "Mul", "Sub", "Clip", "Tanh", "HardSigmoid", "PRelu", "again", "Max"], 7):
        per_channel = made.constant(random.uniform(0.2, 2, (5, 1, 1) if random.random() < 0.7 else (1, 5, 1, 1)))
        if op == "again":
            value = made.add("Mul", value, first)
        elif op in ("Tanh", "HardSigmoid"):
            value = made.add(op, value)
        elif op == "Clip":
            value = made.add(op, value, made.constant(-1.0), made.constant(1.5))
        else:
            value = made.add(op, value, per_channel)
    made.encode(made.add("Mul", value, made.constant(random.uniform(0.2, 2, (5, 1, 1)))), "y")
    proto = made.model([None, 5, None, 256])
    mapped = with_maps(proto)
    assert maps(mapped) == ["MapCodes1"]
    x = all_codes(codes, 2, 5, 3)
    expected = run(proto, x, library=False)
    np.testing.assert_array_equal(run(mapped, x, library=True), expected)
    np.testing.assert_array_equal(run(mapped, x, library=False), expected)


def test_functions_that_differ_in_constants_share_a_body() -> None:
    made, value = Chain(), "x"
    for place, name in enumerate(["hardswish", "silu", "hardswish", "hardswish"]):
        flat = made.add("Reshape", value, made.constant(np.array([-1, 256])))  # which ends a region
        value = made.encode(made.chain(made.decode(flat, 0.05 + 0.01 * place), CHAINS[name]), "y" if place == 3 else "")
    proto = made.model([None, 256])
    mapped = with_maps(proto)
    assert maps(mapped) == ["MapCodes1", "MapCodes2", "MapCodes1", "MapCodes1"]
    assert [f.name for f in mapped.functions] == ["MapCodes1", "MapCodes2"]
    x = all_codes("uint8", 2)
    np.testing.assert_array_equal(run(mapped, x, library=True), run(proto, x, library=False))


def test_no_more_functions_than_the_library_has_names() -> None:
    made, value = Chain(), "x"
    for place in range(MOST_NAMES + 2):
        flat = made.add("Reshape", value, made.constant(np.array([-1, 256])))
        steps = [("Neg", ["x"])] * (2 + place)
        value = made.encode(made.chain(made.decode(flat), steps), "y" if place == MOST_NAMES + 1 else "")
    mapped = with_maps(made.model([None, 256]))
    assert maps(mapped) == [f"MapCodes{i + 1}" for i in range(MOST_NAMES)]


def _two_tensors() -> onnx.ModelProto:
    made = Chain()
    other = made.decode(made.add("MaxPool", "x", kernel_shape=[1, 1]))
    made.encode(made.add("Mul", made.add("Tanh", made.decode("x")), other), "y")
    return made.model([1, 2, 4, 256])


def _read_inside() -> onnx.ModelProto:
    made = Chain()
    inner = made.add("Tanh", made.decode("x"), output="inner")
    made.encode(made.add("Neg", inner), "y")
    return made.model([1, 256], ("y", "inner"), ("uint8", "float32"))


def _not_elementwise() -> onnx.ModelProto:
    made = Chain()
    made.encode(made.add("Softmax", made.add("Tanh", made.decode("x"))), "y")
    return made.model([1, 256])


def _wider() -> onnx.ModelProto:
    made = Chain()
    made.encode(made.add("Mul", made.add("Tanh", made.decode("x")), made.constant(np.ones((3, 1)))), "y")
    return made.model([1, 256])


def _two_axes() -> onnx.ModelProto:
    made = Chain()
    made.encode(made.add("Mul", made.add("Tanh", made.decode("x")), made.constant(np.ones((3, 256)))), "y")
    return made.model([3, 256])


def _unknown_rank() -> onnx.ModelProto:
    made = Chain()
    made.encode(made.add("Mul", made.add("Tanh", made.decode("x")), made.constant([0.5])), "y")
    return made.model(None)


def _one_function(op: str) -> onnx.ModelProto:
    made = Chain()
    made.encode(made.add(op, made.decode("x")), "y")
    return made.model([1, 256])


def _types() -> onnx.ModelProto:
    made = Chain()
    value = made.add("Neg", made.add("Tanh", made.decode("x")))
    made.codes = "int8"
    made.encode(value, "y", zero=5)
    made.codes = "uint8"
    return made.model([1, 256], kinds=("int8",))


@pytest.mark.parametrize(
    "proto",
    [
        _two_tensors(), _read_inside(), _not_elementwise(), _wider(), _two_axes(), _unknown_rank(), _types(),
        _one_function("Sigmoid"), _one_function("LeakyRelu"),
    ],
    ids=[
        "two tensors", "read inside", "not elementwise", "wider", "two axes", "unknown rank", "two types", "sigmoid",
        "leaky relu",
    ],
)  # fmt: skip
def test_what_is_no_table_stays(proto: onnx.ModelProto) -> None:
    assert add_code_maps(proto) == 0
    assert not maps(proto)
    assert not proto.functions


def test_codes_between_that_others_read_end_a_region() -> None:
    """The largest region would hide them: two of the rest take its place."""
    made = Chain()
    middle = made.encode(made.chain(made.decode("x"), CHAINS["hardswish"]), "middle")
    made.encode(made.chain(made.decode(middle), CHAINS["silu"]), "y")
    proto = made.model([1, 256], ("y", "middle"))
    mapped = with_maps(proto)
    assert maps(mapped) == ["MapCodes1", "MapCodes2"]
    x = all_codes("uint8", 1)
    for got, expected in zip(run(mapped, x, library=True), run(proto, x, library=False), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_decoded_values_that_others_read_stay() -> None:
    made = Chain()
    values = made.decode("x")
    made.encode(made.chain(values, CHAINS["hardswish"]), "y")
    made.add("Softmax", values, output="z")
    proto = made.model([1, 256], ("y", "z"), ("uint8", "float32"))
    mapped = with_maps(proto)
    assert sorted(n.op_type for n in mapped.graph.node) == ["DequantizeLinear", "MapCodes1", "Softmax"]
    x = all_codes("uint8", 1)
    for got, expected in zip(run(mapped, x, library=True), run(proto, x, library=False), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_saved_table_is_used_and_not_the_body() -> None:
    """The kernel reads the attribute: with another table the same node gives something else."""
    mapped = with_maps(chain("hardswish"))
    table = next(a for a in mapped.graph.node[0].attribute if a.name == "tables")
    other = np.arange(256, dtype=np.uint8)[::-1].copy()
    table.t.CopyFrom(numpy_helper.from_array(other, "tables"))
    x = all_codes("uint8", 1)
    np.testing.assert_array_equal(run(mapped, x, library=True)[0], other[x])


def test_the_way_back() -> None:
    for name in CHAINS:
        proto = chain(name)
        mapped = with_maps(proto)
        expand_code_maps(mapped)
        assert not mapped.functions
        assert [n.op_type for n in mapped.graph.node] == [n.op_type for n in proto.graph.node]
        assert [[e.value for e in n.metadata_props] for n in mapped.graph.node] == [
            [e.value for e in n.metadata_props] for n in proto.graph.node
        ]
        x = all_codes("uint8", 1)
        np.testing.assert_array_equal(run(mapped, x, library=False), run(proto, x, library=False))


def network() -> onnx.ModelProto:
    """Convolutions with HardSwish, as exporters divide it, and SiLU between them; of signals: images make networks."""
    random, constants, nodes, value, width = graphs.rng(1), dict[str, NDArray[Any]](), list[onnx.NodeProto](), "x", 3
    constants |= {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    for i, act in enumerate(["hardswish", "silu", "hardswish", "hardswish"]):
        constants[f"w{i}"] = (random.standard_normal((24, width, 5)) * np.sqrt(2 / (5 * width))).astype(np.float32)
        nodes.append(node("Conv", [value, f"w{i}"], [f"a{i}"], pads=[2, 2]))
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
    constants["w"] = (random.standard_normal((24, 24, 5)) / 11).astype(np.float32)
    nodes.append(node("Conv", [value, "w"], ["y"]))
    return graphs.model(nodes, {"x": ("float32", [None, 3, 144])}, {"y": "float32"}, constants, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network, its samples, and what becomes of it with target auto and with target onnx."""
    where = tmp_path_factory.mktemp("maps")
    graphs.save(network(), where / "model.onnx")
    np.savez(where / "data.npz", x=graphs.rng(2).standard_normal((4, 1, 3, 144)).astype(np.float32))
    onnxquant.calibrate(where / "model.onnx", where / "data.npz", where / "model.stats")
    options: dict[str, Any] = {
        "activations": "static", "calibration": where / "model.stats", "calibration_method": "minmax", "solver": "rtn",
    }  # fmt: skip
    onnxquant.quantize(where / "model.onnx", where / "auto.onnx", **options)
    onnxquant.quantize(where / "model.onnx", where / "onnx.onnx", target="onnx", proof=False, **options)
    onnxquant.quantize(where / "model.onnx", where / "web.onnx", clients=["onnxruntime-web"], proof=False, **options)
    return where


def test_files_of_target_auto_have_tables_and_others_do_not(folder: Path) -> None:
    assert maps(onnx.load(folder / "auto.onnx")) == ["MapCodes1", "MapCodes2", "MapCodes1", "MapCodes1"]
    assert not maps(onnx.load(folder / "onnx.onnx"))
    assert not maps(onnx.load(folder / "web.onnx"))


def test_a_file_gives_the_same_with_tables_and_without(folder: Path) -> None:
    x = np.load(folder / "data.npz")["x"][0]
    proto = onnx.load(folder / "auto.onnx")
    with_library, without = run(proto, x, library=True), run(proto, x, library=False)
    expand_code_maps(proto)
    np.testing.assert_array_equal(with_library, run(proto, x, library=False))
    np.testing.assert_array_equal(without, with_library)


def test_convolutions_around_tables_stay_integers(folder: Path, tmp_path: Path) -> None:
    ops = {}
    for library in (True, False):
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / f"{library}.onnx")
        options.log_severity_level = 4
        if library:
            options.register_custom_ops_library(str(native.library_path()))
        ort.InferenceSession(str(folder / "auto.onnx"), options, providers=["CPUExecutionProvider"])
        ops[library] = Counter(n.op_type for n in onnx.load(tmp_path / f"{library}.onnx").graph.node)
    assert ops[True]["QLinearConv"] == ops[False]["QLinearConv"] == 5
    assert (ops[True]["MapCodes1"], ops[True]["MapCodes2"]) == (3, 1)
    assert ops[True]["QuantizeLinear"] == ops[True]["DequantizeLinear"] == 1


def test_a_file_with_tables_becomes_floats_again(folder: Path, tmp_path: Path) -> None:
    onnxquant.dequantize(folder / "auto.onnx", tmp_path / "float.onnx")
    restored = onnx.load(tmp_path / "float.onnx")
    assert not restored.functions
    left = Counter(n.op_type for n in restored.graph.node if n.op_type != "Identity")  # of decoded weights
    kept = Counter(n.op_type for n in network().graph.node if n.op_type not in ("Add", "Clip", "Div"))
    assert left == kept + Counter({"HardSigmoid": 3})  # its parts are written so before codes are chosen


def test_a_file_with_tables_is_known(folder: Path) -> None:
    told = onnxquant.info(folder / "auto.onnx")
    assert told.library == "optional: our kernels, faster"
    assert {c.client: c.runs for c in told.clients}["onnxruntime"] == "yes"
    report = onnxquant.validate(folder / "model.onnx", folder / "auto.onnx", data=folder / "data.npz", detailed=True)
    assert report.proof is not None
    assert not report.proof.problems
