"""Files that other programs quantized, trained or not: their codes and scales stay, and our operators compute on them."""

import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from commands import run
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import nn

import onnxquant
from onnxquant import training
from onnxquant.errors import ModelError

MODEL, TEST = "models/default.onnx", "models/default_test.npz"


class Images(CalibrationDataReader):
    """The samples of onnxruntime's quantizer."""

    def __init__(self, images):
        self.images = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"image": image[None]}


@pytest.fixture(scope="module")
def images():
    with np.load(TEST) as arrays:
        return arrays["image"][:40].astype(np.float32)[:, None] / 255


@pytest.fixture(scope="module", params=[QuantType.QUInt8, QuantType.QInt8], ids=str)
def foreign(request, images, tmp_path_factory):
    """The file of onnxruntime's quantizer."""
    path = tmp_path_factory.mktemp("foreign") / "qdq.onnx"
    quantize_static(
        MODEL, path, Images(images[:8]), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=request.param, weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def constants(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def outputs_as_written(path, feeds):
    """What the nodes say, none of them fused."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options).run(None, feeds)[0]


@pytest.mark.parametrize("options", [{}, {"data": True}, {"format": "int4"}], ids=str)  # with samples, ways would race
def test_codes_and_scales_stay_and_our_operators_compute_on_them(foreign, images, options, tmp_path):
    if "data" in options:
        options = {"data": {"image": images[:16, None]}}
    report = onnxquant.quantize(foreign, tmp_path / "out.onnx", proof=False, **options)
    assert report.kept_codes
    assert "DequantizeLinear of weights" in report.kept_codes
    before, after = constants(foreign), constants(tmp_path / "out.onnx")
    kept = {name for name, array in after.items() if name in before and np.array_equal(array, before[name])}
    codes = {name for name, array in before.items() if array.dtype.kind in "iu" and array.size > 64}
    assert codes
    assert codes <= kept
    assert all(name in kept for name in before if name.endswith("_scale"))
    assert any(node.domain == "onnxquant" for node in onnx.load(tmp_path / "out.onnx").graph.node)
    feeds = {"image": images}
    expected = outputs_as_written(foreign, feeds)
    assert np.array_equal(outputs_as_written(tmp_path / "out.onnx", feeds), expected)
    # A sum between two codes is rounded to either, by onnxruntime's kernels too.
    theirs = decibels(expected, ort.InferenceSession(foreign).run(None, feeds)[0])
    assert decibels(expected, onnxquant.load(tmp_path / "out.onnx").run(None, feeds)[0]) > min(theirs, 60) - 4


def decibels(expected, values):
    """Signal to noise ratio."""
    return 10 * np.log10((expected**2).sum() / max(((values - expected) ** 2).sum(), 1e-30))


def rounding_net():
    """Two layers behind torch's own fake quantization: channels of the weight, asymmetric activations."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Linear(64, 128), nn.Linear(128, 64)

        def forward(self, x):
            for layer, step, zero in ((self.first, 0.02, 128), (self.second, 0.015, 3)):
                scale = layer.weight.detach().abs().amax(1) / 100
                weight = torch.fake_quantize_per_channel_affine(
                    layer.weight, scale, torch.zeros(len(scale), dtype=torch.int32), 0, -128, 127
                )
                x = torch.fake_quantize_per_tensor_affine(x, step, zero, 0, 255)
                x = torch.relu(nn.functional.linear(x, weight, layer.bias))
            return x

    return Net()


def exported(module, x, path):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(), (x,), path, input_names=["x"], output_names=["y"], dynamo=False, opset_version=17
        )
    return path


def test_weights_that_torch_rounds_are_stored_as_the_codes_that_it_rounds_to(tmp_path):
    module, x = rounding_net(), torch.randn(9, 64)
    path = exported(module, x, tmp_path / "model.onnx")
    report = onnxquant.quantize(path, tmp_path / "out.onnx", proof=False)
    assert report.output_bytes < 0.35 * report.original_bytes
    arrays = list(constants(tmp_path / "out.onnx").values())
    for layer in (module.first, module.second):
        weight = layer.weight.detach().numpy()
        scale = np.abs(weight).max(1) / np.float32(100)
        codes = np.clip(np.rint(weight / scale[:, None]), -128, 127).astype(np.int8)
        assert any(array.dtype == np.int8 and np.array_equal(array, codes) for array in arrays)
        assert any(np.array_equal(array, scale) for array in arrays)
    with torch.no_grad():
        expected = module(x).numpy()
    for file in (path, tmp_path / "out.onnx"):
        ours = onnxquant.load(file).run(None, {"x": x.numpy()})[0]
        assert np.median(np.abs(ours - expected)) < 1e-5
        assert np.abs(ours - expected).max() < 0.02 * np.abs(expected).max()


def test_layers_that_were_trained_in_torch_keep_their_codes_of_four_bits(tmp_path):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64)), torch.randn(9, 64)
    training.quantize_layers(model, weight_bits=4, activation_bits=6)
    expected = model(x).detach().numpy()
    path = exported(model, x, tmp_path / "model.onnx")
    assert onnxquant.quantize(path, tmp_path / "out.onnx").passed
    arrays = list(constants(tmp_path / "out.onnx").values())
    for layer in (model[0], model[2]):
        step = layer.rounded_weight.quantizer.step.detach().numpy()
        codes = np.clip(np.rint(layer.weight.detach().numpy() / step[:, None]), -8, 7).astype(np.int8)
        assert any(array.dtype == np.int8 and np.array_equal(array, codes) for array in arrays)
        assert any(np.array_equal(array, step) for array in arrays)
    ours = outputs_as_written(tmp_path / "out.onnx", {"x": x.numpy()})  # onnxruntime's Gemm would round the biases too
    assert np.median(np.abs(ours - expected)) < 1e-5


def test_fewer_codes_and_computed_scales_become_constants(tmp_path):
    weight = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Abs", ["raw"], ["magnitude"]), node("Mul", ["magnitude", "two"], ["scale"]),
        node("QuantizeLinear", ["w", "scale", "zero"], ["wide"]), node("Clip", ["wide", "low", "high"], ["codes"]),
        node("DequantizeLinear", ["codes", "scale", "zero"], ["decoded"]), node("MatMul", ["x", "decoded"], ["y"]),
    ]  # fmt: skip
    values = {"raw": np.float32(-0.1), "two": np.float32(2), "zero": np.int8(0), "low": np.int8(-8), "high": np.int8(7)}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in {**values, "w": weight}.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnxquant.quantize(model, tmp_path / "out.onnx").passed
    written = onnx.load(tmp_path / "out.onnx")
    arrays = constants(tmp_path / "out.onnx")
    assert [n.op_type for n in written.graph.node] == ["DequantizeLinear", "MatMul"]
    codes = np.clip(np.rint(weight / np.float32(0.2)), -8, 7).astype(np.int8)
    assert any(np.array_equal(array, codes) for array in arrays.values())


def test_codes_do_not_learn_and_the_message_says_what_does(foreign):
    with pytest.raises(ModelError, match="prepare the model of floats"):
        training.prepare(foreign, format="int8")


def test_the_command_says_whose_codes_the_file_has(foreign, tmp_path):
    result = run("quantize", foreign, "--output", tmp_path / "out.onnx", "--no-proof")
    assert result.exit_code == 0, result.output
    assert "they stay as they are" in result.output
    again = run("quantize", tmp_path / "out.onnx", "--output", tmp_path / "again.onnx")
    assert again.exit_code == 2
    assert not (tmp_path / "again.onnx").exists()
