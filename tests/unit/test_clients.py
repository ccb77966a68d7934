"""Clients, and whether they run a file: as the releases of onnxruntime and the web builds themselves answered."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from commands import run
from onnx import TensorProto, helper

import onnxquant
from onnxquant.calibration.shapes import shapes_of
from onnxquant.clients import Size, Source, Support, check, client_named, clients, size_of
from onnxquant.clients.releases import releases
from onnxquant.convert.ways import ways
from onnxquant.convert.work import PreparedModel, work_of
from onnxquant.errors import ModelError, RecipeError
from onnxquant.formats import format_named
from onnxquant.graph.functions import expand_kernels
from onnxquant.graph.io import load
from onnxquant.recipe.options import Options
from onnxquant.recipe.values import Goal
from onnxquant.targets import target_named
from onnxquant.validation.saturation import kernels

MICROSOFT = "com.microsoft"


def both() -> onnx.ModelProto:
    """A convolution, and a product of what it gives."""
    nodes = [
        graphs.node("Conv", ["x", "w"], ["a"]),
        graphs.node("Flatten", ["a"], ["b"]),
        graphs.node("MatMul", ["b", "v"], ["y"]),
    ]
    constants = {"w": graphs.weight(48, 8, 3, 3), "v": graphs.weight(48 * 25, 16)}
    return graphs.model(nodes, {"x": ("float32", ["batch", 8, 7, 7])}, {"y": "float32"}, constants)


def model(
    *nodes: onnx.NodeProto, opset: int = 21, ir: int = 10, x: int = TensorProto.FLOAT, **constants: onnx.TensorProto
) -> onnx.ModelProto:
    """A model of one input x [1, 64] and one output y."""
    for name, tensor in constants.items():
        tensor.name = name
    kinds = [helper.make_tensor_value_info(n, t, None) for n, t in (("x", x), ("y", TensorProto.FLOAT))]
    kinds[0].CopyFrom(helper.make_tensor_value_info("x", x, [1, 64]))
    graph = helper.make_graph(nodes, "g", kinds[:1], kinds[1:], list(constants.values()))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def codes(kind: int, *dims: int) -> onnx.TensorProto:
    bits = {TensorProto.INT4: 4, TensorProto.INT8: 8, TensorProto.UINT8: 8}[kind]
    return TensorProto(data_type=kind, dims=dims, raw_data=bytes(int(np.prod(dims)) * bits // 8))


def ones(*dims: int) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ones(dims, np.float32))


def product(bits: int, operator: str = "MatMulNBits", **more: int) -> onnx.ModelProto:
    node = helper.make_node(
        operator, ["x", "w", "s"], ["y"], domain=MICROSOFT, K=64, N=16, bits=bits, block_size=32, **more
    )  # fmt: skip
    return model(node, w=codes(TensorProto.UINT8, 16, 2, 4 * bits), s=ones(32))


def decoded(kind: int, block: int = 0) -> onnx.ModelProto:
    settings = {"axis": 0, "block_size": block} if block else {"axis": 1}
    return model(
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], **settings), helper.make_node("MatMul", ["x", "d"], ["y"]),
        w=codes(kind, 64, 16), s=ones(64 // block, 16) if block else ones(16),
    )  # fmt: skip


def cast(kind: int) -> onnx.ModelProto:
    return model(
        helper.make_node("Cast", ["w"], ["d"], to=1),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
        w=codes(kind, 64, 16),
    )


def lookup() -> onnx.ModelProto:
    node = helper.make_node(
        "GatherBlockQuantized", ["w", "x", "s"], ["y"], domain=MICROSOFT, bits=8, block_size=32, quantize_axis=1
    )
    return model(node, x=TensorProto.INT64, w=codes(TensorProto.UINT8, 16, 64), s=ones(16, 2))


# What the clients themselves answered (scripts/write_client_tables.py; onnxruntime-web's builds in node).
ANSWERS = [
    (product(4), "onnxruntime-1.18", "slow"),
    (product(4), "onnxruntime-1.20", "yes"),
    (product(8), "onnxruntime-1.22", "no"),
    (product(8), "onnxruntime-1.23", "yes"),
    (product(8, accuracy_level=4), "onnxruntime-1.22", "yes"),
    (product(8, accuracy_level=4), "onnxruntime-1.21", "no"),
    (product(2), "onnxruntime-1.23", "no"),
    (product(2), "onnxruntime-1.27", "slow"),
    (product(2), "onnxruntime", "yes"),
    (decoded(TensorProto.INT8), "onnxruntime-1.18", "slow"),
    (decoded(TensorProto.INT8), "onnxruntime-1.25", "yes"),
    (decoded(TensorProto.INT8, 32), "onnxruntime-1.18", "no"),
    (decoded(TensorProto.INT8, 32), "onnxruntime-1.19", "slow"),
    (decoded(TensorProto.INT4, 32), "onnxruntime-1.18", "no"),
    (decoded(TensorProto.INT4, 32), "onnxruntime-1.20", "yes"),
    (decoded(TensorProto.INT4, 32), "transformers.js", "yes"),
    (cast(TensorProto.INT4), "onnxruntime-web", "yes"),
    (cast(TensorProto.INT4), "transformers.js", "no"),
    (cast(TensorProto.INT8), "transformers.js", "yes"),
    (lookup(), "onnxruntime-1.18", "no"),
    (lookup(), "onnxruntime-1.22", "no"),
    (lookup(), "onnxruntime-1.23", "yes"),
    (lookup(), "onnxruntime-web", "yes"),
    (product(4), "onnxruntime-web", "slow"),
    (decoded(TensorProto.INT8), "onnxruntime-web", "slow"),
    (product(4), "webgpu", "yes"),
    (product(4), "tensorrt", "slow"),
    (lookup(), "transformers.js", "no"),
    (model(helper.make_node("Add", ["x", "x"], ["y"]), opset=22), "onnxruntime-1.20", "no"),
    (model(helper.make_node("Add", ["x", "x"], ["y"]), opset=22), "onnxruntime-1.21", "yes"),
    (model(helper.make_node("Add", ["x", "x"], ["y"]), ir=11), "onnxruntime-1.22", "no"),
    (model(helper.make_node("Add", ["x", "x"], ["y"]), ir=11), "onnxruntime-1.23", "yes"),
]


@pytest.mark.parametrize(("proto", "name", "answer"), ANSWERS, ids=map(str, range(len(ANSWERS))))
def test_clients_run_what_they_ran(proto: onnx.ModelProto, name: str, answer: str) -> None:
    suitability = check(proto, [client_named(name)])[name]
    assert suitability.support is Support[answer.upper()], suitability


@pytest.mark.parametrize("form", ["int8", "int4", "int2", "nf4", "q4_k", "f16"])
@pytest.mark.parametrize("target", ["onnx", "ort", "custom"])
def test_the_answer_for_this_onnxruntime_is_that_of_a_session(form: str, target: str, tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    if not target_named(target).holds(format_named(form)):
        pytest.skip(f"{target} does not hold {form}")
    onnxquant.quantize(graphs.matmul(k=256, n=64), path, format=form, target=target, proof=False)
    minor = ort.__version__.rpartition(".")[0]
    ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert (
        check(onnx.load(path), [client_named(f"onnxruntime-{minor}")])[f"onnxruntime-{minor}"].support is not Support.NO
    )


def test_unknown_operators_stop_every_client() -> None:
    proto = model(helper.make_node("Nonsense", ["x"], ["y"], domain="example"))
    proto.opset_import.append(helper.make_opsetid("example", 1))
    for answer in check(proto, clients().values()).values():
        assert answer.support is Support.NO and "example::Nonsense" in answer.reason


def test_attributes_of_a_call_reach_the_body_of_a_function() -> None:
    """The body says ``bits = @bits``: 8 in the call decide, not the default of the operator."""
    proto = product(8)
    inner = helper.make_node("MatMulNBits", ["a", "b", "c"], ["d"], domain=MICROSOFT, K=64, N=16, block_size=32)
    bits = inner.attribute.add(name="bits", type=onnx.AttributeProto.INT, ref_attr_name="width")
    assert bits.ref_attr_name == "width"
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    function = helper.make_function("own", "Product", ["a", "b", "c"], ["d"], [inner], imports, ["width"])
    call = helper.make_node("Product", ["x", "w", "s"], ["y"], domain="own", width=8)
    del proto.graph.node[:]
    proto.graph.node.append(call)
    proto.functions.append(function)
    proto.opset_import.append(helper.make_opsetid("own", 1))
    answers = check(proto, [client_named(n) for n in ("onnxruntime-1.22", "onnxruntime-1.23", "openvino")])
    assert [a.support for a in answers.values()] == [Support.NO, Support.YES, Support.NO]


MODEL = Path(__file__).parents[2] / "models" / "default.onnx"
FOR = ["onnxruntime-1.18", "onnxruntime-1.20", "onnxruntime-1.23", "transformers.js", "openvino", "onnxruntime-web"]
WAYS = [{}, {"bits": 4}, {"bits": 2}, {"activations": "dynamic"}]


@pytest.mark.parametrize("client", FOR)
def test_files_for_a_client_run_there(client: str, tmp_path: Path) -> None:
    """Each was loaded and run by the client itself once; here by what is known of it, and by this onnxruntime."""
    for number, way in enumerate(WAYS):
        path = tmp_path / f"{number}.onnx"
        report = onnxquant.quantize(MODEL, path, clients=[client], proof=False, **way)
        assert check(onnx.load(path), [client_named(client)])[client].support is Support.YES
        assert report.ratio and report.ratio > 3
        image = np.zeros((1, 1, 28, 28), np.float32)
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"image": image})


def test_a_file_for_several_clients_suits_all(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    result = run(
        "quantize", MODEL, "-o", path, "--for", "openvino", "--for", "onnxruntime-1.20", "--bits", "4", "--no-proof"
    )
    assert result.exit_code == 0, result.output
    answers = check(onnx.load(path), [client_named("openvino"), client_named("onnxruntime-1.20")])
    assert {a.support for a in answers.values()} == {Support.YES}


def test_formats_that_no_client_runs_are_refused(tmp_path: Path) -> None:
    result = run("quantize", MODEL, "-o", tmp_path / "out.onnx", "--for", "openvino", "--format", "q4_k", "--no-proof")
    assert result.exit_code == 2 and "openvino: onnxquant::" in " ".join(result.output.split())
    assert not (tmp_path / "out.onnx").exists()


def test_an_old_opset_is_not_blamed_for_what_a_client_runs_at_none(tmp_path: Path) -> None:
    settings = {"format": "nf4", "clients": ["openvino"], "proof": False}
    with pytest.raises(ModelError, match="custom: openvino: onnxquant::DequantizeNF4") as error:
        onnxquant.quantize(graphs.matmul(k=256, n=64, opset=12), tmp_path / "out.onnx", **settings)
    assert "target ort takes any" not in str(error.value)


def test_an_original_that_a_client_does_not_run_is_told_so(tmp_path: Path) -> None:
    proto = graphs.matmul(k=256, n=64)
    proto.opset_import[0].version = 23
    path = tmp_path / "new.onnx"
    onnx.save(proto, path)
    result = run("quantize", path, "--for", "onnxruntime-1.20", "--no-proof")
    assert result.exit_code == 2
    assert "onnxruntime-1.20 does not run this model as it is: opset 23; it knows 21" in " ".join(result.output.split())
    assert [p.name for p in tmp_path.iterdir()] == ["new.onnx"]


def test_list_shows_clients() -> None:
    output = run("list", "clients").output
    assert "transformers.js" in output and "by its documentation" in output and "int4" not in output
    assert list(json.loads(run("list", "clients", "--json").output)) == ["clients"]


def test_clients_without_a_run_say_so() -> None:
    assert {c.source for c in clients().values()} == set(Source)
    assert all(c.version and c.date for c in clients().values())


def test_unknown_clients_are_named() -> None:
    with pytest.raises(RecipeError, match=r"unknown client 'transformer.js'; did you mean 'transformers.js'"):
        client_named("transformer.js")
    with pytest.raises(RecipeError, match=r"unknown client 'onnxruntime-1.17'"):
        client_named("onnxruntime-1.17")
    assert client_named("onnxruntime-1.20.1").release == "1.20.1"


def test_tables_have_every_release_in_order() -> None:
    table = releases()
    assert [int(n.split(".")[1]) for n in table.names] == list(range(18, 18 + len(table.names)))
    assert list(table.opsets) == sorted(table.opsets)
    assert list(table.ir_versions) == sorted(table.ir_versions)


def test_info_says_where_a_file_runs(tmp_path: Path) -> None:
    path = tmp_path / "lookup.onnx"
    onnx.save(lookup(), path)
    output = run("info", path).output
    assert "Where it runs" in output and "onnxruntime-1.23 to 1.32  yes" in output
    rows = {row["client"]: row for row in json.loads(run("info", path, "--json").output)["clients"]}
    assert rows["transformers.js"]["runs"] == "no"
    assert rows["transformers.js"]["reason"] == "com.microsoft::GatherBlockQuantized: no such operator"
    assert rows["qnn"]["source"] == "documentation"
    assert "(run: 1.23.2 to 1.32.0, 2026-11-29)" in " ".join(output.split())
    assert "not run; documentation of 1.32, 2026-11-29" in " ".join(output.split())


def inputs(proto: onnx.ModelProto, count: int = 4) -> list[dict[str, np.ndarray]]:
    """Samples of a model of one input."""
    (x,) = proto.graph.input
    shape = [d.dim_value or 2 for d in x.type.tensor_type.shape.dim]
    return [{x.name: np.random.default_rng(i).random(shape, np.float32)} for i in range(count)]


def test_a_client_with_signed_symmetric_activations_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    onnxquant.quantize(
        graphs.conv(), path, clients=["tensorrt"], activations="static", data=inputs(graphs.conv()), proof=False
    )
    proto = onnx.load(path)
    points = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    rounded = [points[n.input[2]] for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert rounded and all(point.dtype == np.int8 and not point.any() for point in rounded)
    assert check(proto, [client_named("tensorrt")])["tensorrt"].support is Support.YES


def test_options_of_a_client_have_no_effect_without_integer_activations_and_give_way_to_named_ones() -> None:
    assert Options.of_recipe({}, {"clients": ["tensorrt"]})[0].activation_type == "uint8"
    static = {"clients": ["tensorrt"], "activations": "static"}
    assert Options.of_recipe({}, static)[0].activation_type == "int8"
    assert Options.of_recipe({}, {**static, "activation_type": "uint8"})[0].activation_type == "uint8"


def test_qnn_takes_16_bit_activations_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    settings = {"activations": "static", "activation_type": "uint16", "data": inputs(graphs.conv())}
    report = onnxquant.quantize(graphs.conv(), path, clients=["qnn"], proof=False, **settings)
    kinds = {i.data_type for i in onnx.load(path).graph.initializer}
    assert {TensorProto.UINT16, TensorProto.INT8} <= kinds
    assert not any("slower" in note for note in report.notes)


@pytest.mark.parametrize("way", ["static", "dynamic", "dynamic without samples"])
def test_no_product_is_cut_off_on_a_client_without_vnni(way: str, tmp_path: Path) -> None:
    path, proto = tmp_path / "out.onnx", graphs.matmul(k=64, n=512)
    sample = np.zeros((2, 3, 64), np.float32)
    sample[..., 0] = 1  # one of each pair is zero, so that nothing is cut off on samples
    data = None if way.endswith("without samples") else [{"x": sample}] * 4
    largest = []
    for clients_of_file in ([], ["x86-no-vnni"]):
        kind = way.partition(" ")[0]
        onnxquant.quantize(proto, path, clients=clients_of_file, activations=kind, data=data, proof=False, force=True)
        document = load(path)
        expand_kernels(document.proto)
        (kernel,) = kernels(document)
        pairs = document.array(kernel.weight).astype(np.int64).reshape(32, 2, 512)
        largest.append(255 * max(np.maximum(pairs, 0).sum(1).max(), np.maximum(-pairs, 0).sum(1).max()))
    assert largest[0] > 32767 >= largest[1]


class Lines:
    """A display that keeps the lines that are told, with whether the file was there."""

    def __init__(self, path: Path) -> None:
        self.path, self.lines = path, list[tuple[str, bool]]()

    def __call__(self, stage: str, done: float, /) -> None:
        pass

    def announce(self, line: str, /) -> None:
        self.lines.append((line, self.path.exists()))


def rows(count: int) -> list[dict[str, np.ndarray]]:
    """Samples of ``graphs.matmul`` of 256 inputs, of three times as many rows."""
    return [{"x": np.random.default_rng(i).random((count, 3, 256), np.float32)} for i in range(2)]


def test_slow_forms_are_told_before_the_file_is_written(tmp_path: Path) -> None:
    display = Lines(tmp_path / "out.onnx")
    settings = {"activations": "dynamic", "clients": ["tensorrt"], "progress": display}
    report = onnxquant.quantize(graphs.matmul(k=256, n=512), display.path, proof=False, **settings)
    (line, there) = display.lines[0]
    assert "slower than float on tensorrt: com.microsoft::DynamicQuantizeMatMul" in line and not there
    assert any("slower than float on tensorrt" in note for note in report.notes)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize(("count", "is_integer"), [(1, False), (12, True)])
def test_products_of_few_rows_stay_in_float_where_integers_are_slow_with_them(
    kind: str, count: int, is_integer: bool, tmp_path: Path
) -> None:
    """onnxruntime-web computed one row of 256 x 512 at 0.7 of float's speed, 32 rows at 1.8."""
    display = Lines(tmp_path / "out.onnx")
    settings = {"activations": kind, "clients": ["onnxruntime-web"], "progress": display, "data": rows(count)}
    report = onnxquant.quantize(graphs.matmul(k=256, n=512), display.path, proof=False, **settings)
    operators = {node.op_type for node in onnx.load(display.path).graph.node}
    assert bool(operators & {"DynamicQuantizeMatMul", "QuantizeLinear"}) is is_integer
    lines = [(line, there) for line, there in display.lines if "fewer than 4 rows" in line]
    assert [("1 kernel stays in float" in line, there) for line, there in lines] == [(True, False)] * (not is_integer)
    assert any("1 kernel stays in float" in note for note in report.notes) is not is_integer


def test_where_rows_are_not_known_it_is_told_that_few_are_slow(tmp_path: Path) -> None:
    display = Lines(tmp_path / "out.onnx")
    settings = {"activations": "dynamic", "clients": ["onnxruntime-web"], "proof": False, "force": True}
    onnxquant.quantize(graphs.matmul(k=256, n=512), display.path, progress=display, **settings)
    ((line, there),) = display.lines
    assert "may be slower" in line and "fewer than 4 rows" in line and not there
    few = Lines(tmp_path / "few.onnx")
    onnxquant.quantize(graphs.matmul(k=256, n=512), few.path, progress=few, dim=["batch=1"], **settings)
    assert ["1 kernel stays in float" in line for line, _ in few.lines] == [True]
    answer = check(onnx.load(display.path), [client_named("onnxruntime-web")])["onnxruntime-web"]
    assert answer.support is Support.YES and "fewer than 4 rows" in answer.reason


@pytest.mark.parametrize("kind", [TensorProto.INT8, TensorProto.INT4])
def test_weights_that_are_decoded_on_every_call_are_said_to_be_slow(kind: int) -> None:
    """OpenVINO computed 32 rows by 1024 x 1024 at 0.65 of float's speed, an encoder by MatMulNBits at 0.8."""
    answer = check(decoded(kind), [client_named("openvino")])["openvino"]
    assert answer.support is Support.SLOW and "decoded on every call" in answer.reason


@pytest.mark.parametrize("bits", [4, 8])
def test_openvino_finds_no_codes_that_it_would_decode_on_every_call(bits: int, tmp_path: Path) -> None:
    """It knows them by a Cast to float of codes of 4 or 8 bits; Casts by way of int32 it computes when it loads a file."""
    path = tmp_path / "out.onnx"
    onnxquant.quantize(graphs.matmul(k=256, n=512), path, bits=bits, clients=["openvino"], proof=False)
    assert types_that_codes_become(onnx.load(path)) == [TensorProto.INT32]


def types_that_codes_become(proto: onnx.ModelProto) -> list[int]:
    """Element types that Casts make of codes."""
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    casts = [
        (kinds[n.input[0]], n.attribute[0].i) for n in proto.graph.node if n.op_type == "Cast" and n.input[0] in kinds
    ]
    return [to for kind, to in casts if kind not in (TensorProto.FLOAT16, TensorProto.FLOAT)]


def test_openvino_gets_recurrent_weights_that_it_decodes_when_it_loads_a_file(tmp_path: Path) -> None:
    """Beside integer activations it kept codes behind a Cast to float: "GRUSequence expects Constant for port 3"."""
    nodes = [graphs.node("GRU", ["x", "w", "r"], ["y"], hidden_size=32)]
    weights = {"w": graphs.weight(1, 96, 64), "r": graphs.weight(1, 96, 32)}
    proto = graphs.model(nodes, {"x": ("float32", [5, 1, 64])}, {"y": "float32"}, weights)
    onnxquant.quantize(proto, tmp_path / "out.onnx", format="int8", clients=["openvino"], proof=False)
    assert types_that_codes_become(onnx.load(tmp_path / "out.onnx")) == [TensorProto.INT32] * 2


@pytest.mark.parametrize("opset", [17, 21])
def test_openvino_looks_up_no_4_bit_codes(opset: int, tmp_path: Path) -> None:
    """It ran an encoder of 32 tokens at 0.9 of float's speed with them, in bytes too."""
    original = graphs.gather(2048, 64)
    original.opset_import[0].version = opset
    onnxquant.quantize(original, tmp_path / "out.onnx", format="int4", clients=["openvino"], proof=False)
    proto = onnx.load(tmp_path / "out.onnx")
    (answer,) = check(proto, [client_named("openvino")]).values()
    assert answer.support is Support.YES and types_that_codes_become(proto) == [TensorProto.INT32]


def test_lookups_of_bytes_that_hold_several_codes_are_said_to_be_slow_in_openvino(tmp_path: Path) -> None:
    supports = []
    for form in ("int4", "int8"):
        onnxquant.quantize(graphs.gather(2048, 64), tmp_path / f"{form}.onnx", format=form, target="onnx", proof=False)
        (answer,) = check(onnx.load(tmp_path / f"{form}.onnx"), [client_named("openvino")]).values()
        supports.append(answer.support)
    assert supports == [Support.SLOW, Support.YES]


def test_an_operator_that_is_taken_once_stops_files_with_several(tmp_path: Path) -> None:
    """onnxruntime's OpenVINO provider ran one product by MatMulBnb4, and did not load an encoder: no acyclic graph."""
    supports = []
    for count in (1, 2):
        names = ["x", *(f"y{i}" for i in range(1, count)), "y"]
        nodes = [graphs.node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
        weights = {f"w{i}": graphs.weight(256, 256, seed=i) for i in range(count)}
        proto = graphs.model(nodes, {"x": ("float32", ["batch", 256])}, {"y": "float32"}, weights)
        onnxquant.quantize(proto, tmp_path / f"{count}.onnx", format="nf4", target="ort", proof=False)
        (answer,) = check(onnx.load(tmp_path / f"{count}.onnx"), [client_named("onnxruntime-openvino")]).values()
        supports.append(answer.support)
    assert supports == [Support.SLOW, Support.NO]


def test_lookups_gather_scales_in_float32(tmp_path: Path) -> None:
    """Graphics cards without float16 have no Gather of float16; the Cast of the table folds."""
    onnxquant.quantize(graphs.gather(64, 64), tmp_path / "out.onnx", format="q4_0", target="onnx", proof=False)
    proto = onnx.load(tmp_path / "out.onnx")
    kinds = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    gathered = {kinds.get(n.input[0]) for n in proto.graph.node if n.op_type == "Gather"}
    assert TensorProto.FLOAT16 in kinds.values() and TensorProto.FLOAT16 not in gathered


def test_convolutions_of_few_inputs_stay_in_float_where_integers_are_slow_with_them(tmp_path: Path) -> None:
    nodes = [
        graphs.node("Conv", ["x", "w"], ["a"], "wide"), graphs.node("Conv", ["a", "d"], ["b"], "depthwise", group=16),
        graphs.node("Conv", ["b", "v"], ["y"], "narrow"),
    ]  # fmt: skip
    constants = {"w": graphs.weight(32, 16, 3, 3), "d": graphs.weight(16, 2, 3, 3), "v": graphs.weight(64, 16, 1, 1)}
    proto = graphs.model(nodes, {"x": ("float32", ["batch", 16, 12, 12])}, {"y": "float32"}, constants)
    settings = {"activations": "static", "data": inputs(proto), "proof": False, "clients": ["onnxruntime-web"]}
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", **settings)
    assert list(report.activations.left_in_float) == ["depthwise", "narrow"]
    assert all("fewer than 96 inputs" in reason for reason in report.activations.left_in_float.values())
    settings["clients"] = ["onnxruntime-1.23"]  # says it alone: larger networks of such kernels are faster there
    report = onnxquant.quantize(proto, tmp_path / "here.onnx", **settings)
    assert "depthwise" not in report.activations.left_in_float
    (note,) = (n for n in report.notes if "may be slower than float on onnxruntime-1.23: Conv: small networks" in n)
    assert "how many rows" not in note  # a convolution is slow by its inputs, whatever the sample


def test_convolutions_with_a_float_bias_stay_in_float_where_no_kernel_takes_them(tmp_path: Path) -> None:
    """onnxruntime 1.20 computed them at 0.1 to 0.7 of float's speed, 1.21 at 2.7 to 3."""
    proto = graphs.conv(channels=16)
    settings = {"activations": "static", "data": inputs(proto), "proof": False, "force": True}
    for client, is_float in (("onnxruntime-1.20", True), ("onnxruntime-1.21", False)):
        report = onnxquant.quantize(proto, tmp_path / "out.onnx", clients=[client], **settings)
        assert bool(report.activations.left_in_float) is is_float


def test_sizes_count_what_meets_the_weight() -> None:
    """The numbers of elements that numpy's own products have."""
    shapes = {"x": (2, 5, 8), "g": (8, 6), "w": (8, 3), "t": (3, 8), "open": (None, 8), "i": (1, 6, 9, 9), "k": (4, 3, 5, 5)}
    expected = {
        ("MatMul", "x", "w"): Size(8, 3, 10), ("MatMul", "open", "w"): Size(8, 3), ("MatMul", "unknown", "w"): Size(8, 3),
        ("Conv", "i", "k"): Size(75, 4), ("MatMul", "x", "unknown"): None, ("Add", "x", "w"): None,
    }  # fmt: skip
    found = {key: size_of(helper.make_node(key[0], key[1:], ["y"]), shapes, shapes) for key in expected}
    assert found == expected
    assert size_of(helper.make_node("Gemm", ["g", "t"], ["y"], transA=1, transB=1), shapes, shapes) == Size(8, 3, 6)


def test_a_sample_shows_shapes_behind_operators_that_onnx_does_not_know() -> None:
    nodes = [
        helper.make_node("Gelu", ["x"], ["a"], domain=MICROSOFT), graphs.node("MatMul", ["a", "w"], ["y"]),
    ]  # fmt: skip
    proto = graphs.model(nodes, {"x": ("float32", ["batch", 16])}, {"y": "float32"}, {"w": graphs.weight(16, 32)})
    proto.opset_import.add(domain=MICROSOFT, version=1)
    document = load(proto)
    assert shapes_of(document, {"batch": 2}, None).get("a") is None
    assert shapes_of(document, {}, {"x": np.zeros((5, 16), np.float32)})["a"] == (5, 16)


@pytest.mark.parametrize(
    ("client", "model", "slow"),
    [
        ("onnxruntime", "convolution", []),
        ("onnxruntime-web", "convolution", []),
        ("onnxruntime-web", "product", []),
        ("tensorrt", "product", ["dynamic int8"]),
        ("tensorrt", "both", ["dynamic int8", "static convolutions, dynamic products"]),
        (
            "cuda", "product",
            ["dynamic int8", "static int8", "static int8, smoothed by Muls", "static int8, some kernels in float"],
        ),
    ],
)  # fmt: skip
def test_a_choice_takes_no_way_that_is_slow_on_the_client(client: str, model: str, slow: list[str]) -> None:
    models = {"convolution": graphs.conv, "product": partial(graphs.matmul, k=256, n=512), "both": both}
    document = PreparedModel.of(load(models[model]()))
    found = ways(document, work_of(document), Goal.FAST, [client_named(client)])
    assert [way.name for way in found if way.objection] == slow
    assert all(f"slower than float on {client}" in way.objection for way in found if way.objection)
