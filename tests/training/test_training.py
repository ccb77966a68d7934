"""A model becomes a module that rounds as its file does, learns, and becomes that file."""

import numpy as np
import onnxruntime as ort
import pytest
import torch

import onnxquant
from onnxquant import training
from onnxquant.errors import OutputExistsError, RecipeError

MODEL, TEST = "models/default.onnx", "models/default_test.npz"
WAYS = [  # the last one depends on how much it tries in its time
    {"format": "int4"},
    {"format": "tq2_0"},
    {"format": "nf4"},
    {"format": "q4_k"},
    {"activations": "dynamic"},
    {"activations": "static", "time": "1s"},
]


@pytest.fixture(scope="module")
def digits():
    with np.load(TEST) as arrays:
        images = arrays["image"].astype(np.float32)[:, None] / 255
        return torch.from_numpy(images), torch.from_numpy(arrays["label"].astype(np.int64))


def calibration(way, digits):
    return {"image": digits[0][:40, None].numpy()} if "activations" in way else None


@pytest.mark.parametrize("way", WAYS[:-1], ids=lambda way: "-".join(map(str, way.values())))
def test_the_module_computes_what_the_file_of_quantize_computes(way, digits, tmp_path):
    data, images = calibration(way, digits), digits[0][100:150]
    module = training.prepare(MODEL, data=data, solver="rtn", **way)
    onnxquant.quantize(MODEL, tmp_path / "quantized.onnx", data=data, solver="rtn", proof=False, **way)
    exact = ort.InferenceSession(MODEL).run(None, {"image": images.numpy()})[0]
    expected = onnxquant.load(tmp_path / "quantized.onnx").run(None, {"image": images.numpy()})[0]
    with torch.no_grad():
        ours = module(image=images)["logits"].numpy()
        with module.in_float():
            floats = module(image=images)["logits"].numpy()
    error, cost = np.abs(ours - expected).max(), np.abs(exact - expected).max()
    assert error < 0.2 * cost  # kernels round activations of their own in products of 4 bits
    if "activations" not in way:  # those have corrected biases
        assert np.abs(floats - exact).max() < 0.6 * cost


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
def test_the_file_computes_what_the_module_has_learned(way, digits, tmp_path):
    images, labels = digits
    torch.manual_seed(0)
    module = training.prepare(MODEL, data=calibration(way, digits), solver="rtn", **way)
    optimizer = training.UnitAdam(module.learned())
    losses = []
    for i in range(12):
        part = slice(32 * i, 32 * i + 32)
        loss = torch.nn.functional.cross_entropy(module(image=images[part])["logits"], labels[part])
        loss.backward()
        optimizer.step(1e-3)
        module.constrain()
        losses.append(float(loss.detach()))
    exported = training.export(module, tmp_path / "trained.onnx", samples={"image": images[1000:1040]})
    assert exported.difference < 0.06
    changed = onnxquant.load(tmp_path / "trained.onnx").run(None, {"image": images[1000:1040].numpy()})[0]
    assert np.abs(changed - ort.InferenceSession(MODEL).run(None, {"image": images[1000:1040].numpy()})[0]).max() > 0.01
    with pytest.raises(OutputExistsError):
        training.export(module, tmp_path / "trained.onnx")


def test_ternary_weights_learn_from_labels_what_rounding_lost(digits):
    images, labels = digits
    torch.manual_seed(0)
    module = training.prepare(MODEL, format="tq2_0")
    optimizer = training.UnitAdam(module.learned())

    def right():
        with torch.no_grad():
            return float((module(image=images[3000:])["logits"].argmax(1) == labels[3000:]).float().mean())

    before = right()
    for i in range(60):
        part = torch.randint(0, 3000, (64,))
        loss = torch.nn.functional.cross_entropy(module(image=images[part])["logits"], labels[part])
        loss.backward()
        optimizer.step(3e-3 * (1 - i / 60))
        module.constrain()
    assert right() > before + 0.01


def test_parameters_are_named_after_initializers():
    names = dict(training.prepare(MODEL, format="int4").named_parameters())
    assert any(name.endswith("stem/depthwise/weight") or "stem" in name for name in names)
    assert all(parameter.dtype == torch.float32 for parameter in names.values())


@pytest.mark.parametrize("options", [{"goal": "small"}, {"tune_epochs": 1, "format": "int4"}, {"float16": True}])
def test_what_names_no_single_way_is_refused(options):
    with pytest.raises(RecipeError):
        training.prepare(MODEL, data={"image": np.zeros((4, 1, 1, 28, 28), np.float32)}, **options)
