"""Libraries of operators beside ours: named by a user, of onnxruntime-extensions, and two that bring one domain."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import onnxruntime_extensions
import pytest
from commands import refused, run
from onnx import TensorProto, helper, numpy_helper

import onnxquant
from onnxquant import runtime
from onnxquant.errors import ModelError, RecipeError

OTHER = "elsewhere"
X = np.random.default_rng(0).standard_normal((2, 64), np.float32)


def model(domain: str = OTHER) -> onnx.ModelProto:
    """A product that can be quantized behind a lookup of ours under the name of another domain."""
    random = np.random.default_rng(0)
    constants = {
        "codes": random.integers(0, 256, (1, 8, 16, 4), np.uint8),
        "scales": np.full((1, 2, 16), 0.1, np.float16),
        "w": random.standard_normal((64, 512), np.float32),
    }
    nodes = [
        helper.make_node("GatherQ4_0", ["codes", "scales", "rows"], ["x"], domain=domain, N=16, K=64, block_size=32),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("rows", TensorProto.INT64, [4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        nodes, "g", inputs, outputs, [numpy_helper.from_array(v, n) for n, v in constants.items()]
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def another(path: Path, marker: bytes = b"elsewhere") -> Path:
    """A library with the operators of ours in another domain, which knows nothing of ours or of others like it."""
    binary = onnxquant.library_path().read_bytes().replace(b"\0onnxquant\0", b"\0elsewhere\0")
    path.write_bytes(binary.replace(b"onnxquant.registered", marker + b".registered"))
    return path


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return another(tmp_path / "libelsewhere.so")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(model(), path)
    return path


def test_a_named_library_serves_every_command(library: Path, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    option = ("--custom-op-library", library)
    result = run("quantize", source, "-o", out, "--format", "int8", "--force", *option)
    assert result.exit_code == 0, result.output
    for command in (("benchmark", source, out), ("plan", source)):
        assert run(*command, *option).exit_code == 0, command
    assert run("calibrate", source, "--synthetic", "-o", tmp_path / "s.npz", *option).exit_code == 0
    session = onnxquant.load(out, custom_op_library=library)
    assert session.run(None, {"rows": np.arange(4)})[0].shape == (4, 512)
    report = json.loads(run("validate", source, out, "--json", *option).stdout)
    assert report["passed"]


def test_recipes_and_processes_of_batches_name_libraries(library: Path, source: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[options]\nformat = "int8"\ncustom_op_library = ["{library}"]\n')
    report = onnxquant.batch([source], tmp_path / "out", recipe=recipe)
    assert [(row.done, row.reason) for row in report.rows] == [(True, "")]


@pytest.mark.parametrize("command", [("quantize", "--format", "int8"), ("plan",)])
def test_a_missing_library_is_asked_for(command: tuple[str, ...], source: Path) -> None:
    refused(run(command[0], source, *command[1:]), OTHER, "--custom-op-library")


def test_weights_beside_unknown_operators_are_quantized_without_proof(source: Path, tmp_path: Path) -> None:
    report = onnxquant.quantize(source, tmp_path / "out.onnx", format="int8", proof=False)
    assert [site.decision.name for site in report.encoded] == ["w"]


def test_libraries_that_do_not_exist_or_are_none_are_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no file"):
        onnxquant.benchmark(source, custom_op_library=str(tmp_path / "none.so"))
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(RecipeError, match=r"custom_op_library: .* cannot load this library"):
        onnxquant.benchmark(source, custom_op_library=str(text))


def test_a_library_that_brings_our_domain_is_registered_in_place_of_ours(tmp_path: Path) -> None:
    copy = Path(shutil.copy2(onnxquant.library_path(), tmp_path / "copy.so"))
    path = tmp_path / "ours.onnx"
    onnx.save(model("onnxquant"), path)
    for libraries in ([copy], [onnxquant.library_path()], [copy, copy]):
        onnxquant.load(path, custom_op_library=libraries).run(None, {"rows": np.arange(4)})


def test_the_library_of_the_extensions_may_be_named(tmp_path: Path) -> None:
    node = helper.make_node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")
    texts = [helper.make_tensor_value_info(n, TensorProto.STRING, [1]) for n in "xy"]
    graph = helper.make_graph([node], "g", texts[:1], texts[1:])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    path = tmp_path / "text.onnx"
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    session = onnxquant.load(path, custom_op_library=onnxruntime_extensions.get_library_path())
    assert session.run(None, {"x": np.array(["a"])})[0].tolist() == ["A"]


def test_two_named_libraries_of_one_domain_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    libraries = [str(another(tmp_path / f"{m.decode()}.so", m)) for m in (b"elsewher1", b"elsewher2")]
    with pytest.raises(ModelError, match=r"elsewher1\.so and .*elsewher2\.so bring operators of the same domain"):
        onnxquant.benchmark(source, custom_op_library=libraries)


def test_our_library_may_be_registered_twice_in_one_session() -> None:
    options = ort.SessionOptions()
    for _ in range(2):
        options.register_custom_ops_library(str(onnxquant.library_path()))
    session = ort.InferenceSession(model("onnxquant").SerializeToString(), options)
    assert session.run(None, {"rows": np.arange(4)})[0].shape == (4, 512)


def test_both_domains_of_the_extensions_are_registered(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "image.png")
    nodes = [
        helper.make_node("DecodeImage", ["bytes"], ["rgb"], domain="com.microsoft.extensions"),
        helper.make_node("Cast", ["rgb"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["x", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    w = np.random.default_rng(0).standard_normal((768, 128), np.float32)
    constants = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(np.array([1, -1]), "shape")]
    inputs = [helper.make_tensor_value_info("bytes", TensorProto.UINT8, ["n"])]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", 1, None)], constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft.extensions", 1)]
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    feed = {"bytes": np.frombuffer((tmp_path / "image.png").read_bytes(), np.uint8)}
    report = onnxquant.quantize(proto, tmp_path / "out.onnx", format="int8", data=[feed])
    assert report.proof is not None
    runtime.run(onnxquant.load(tmp_path / "out.onnx"), feed)
