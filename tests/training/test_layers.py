"""Layers of torch that round: they compute what torch's own do on rounded numbers, learn, and become an ONNX file."""

import importlib.util
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from onnxquant import training
from onnxquant.errors import FeedError, RecipeError

TORCHSCRIPT = {"dynamo": False, "opset_version": 20}


def rounded(weight, bits):
    """A weight on the grid of its rows with the least error of some scales, in float64."""
    rows = weight.detach().double().numpy().reshape(len(weight), -1)
    high = 2 ** (bits - 1) - 1
    low = -high if bits == 8 else -high - 1
    best = np.zeros_like(rows)
    for i, row in enumerate(rows):
        scales = np.abs(row).max() / high * np.arange(4, 17) / 16
        values = [np.clip(np.rint(row / scale), low, high) * scale for scale in scales]
        best[i] = min(values, key=lambda value: ((value - row) ** 2).sum())
    return torch.from_numpy(best.reshape(weight.shape).astype(np.float32))


def of_rounded(layer, bits):
    """A float layer with the weights that its rounded twin has."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name == "in_proj_weight":
                parameter.copy_(torch.cat([rounded(part, bits) for part in parameter.chunk(3)]))
            elif parameter.dim() > 1 and not name.startswith("bias_"):
                parameter.copy_(rounded(parameter, bits))
    return layer


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize(
    ("kind", "arguments", "shape"),
    [
        (nn.Linear, ((6, 5), {}), (3, 6)),
        (nn.Linear, ((6, 5), {"bias": False}), (2, 3, 6)),
        (nn.Conv2d, ((4, 6, 3), {"padding": "same", "groups": 2}), (2, 4, 5, 5)),
        (nn.Conv2d, ((3, 2, (3, 1), 2, 1, 1, 1, False, "reflect"), {}), (1, 3, 6, 6)),
    ],
)
def test_a_layer_computes_what_torch_computes_with_rounded_weights(kind, arguments, shape, bits):
    positional, named = arguments
    quantized = getattr(training, f"Quantized{kind.__name__}")
    torch.manual_seed(1)
    layer = kind(*positional, **named)
    torch.manual_seed(1)
    ours = quantized(*positional, **named, weight_bits=bits)
    x = torch.randn(shape)
    expected = of_rounded(kind(*positional, **named), bits)
    expected.load_state_dict(layer.state_dict())
    expected = of_rounded(expected, bits)(x)
    for candidate in (ours, quantized.from_float(layer, weight_bits=bits)):
        assert torch.allclose(candidate(x), expected, atol=1e-5)


CASES = {
    "self": ({}, {}),
    "batch first, no weights": ({"batch_first": True}, {"need_weights": False}),
    "weights of heads": ({"bias": False}, {"average_attn_weights": False}),
    "sizes": ({"kdim": 4, "vdim": 6}, {}),
    "added": ({"add_bias_kv": True, "add_zero_attn": True}, {}),
    "masks": ({"batch_first": True}, {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True}),
    "masks of heads": ({}, {"attn_mask": torch.linspace(-1, 1, 2 * 2 * 5 * 5).reshape(4, 5, 5)}),
    "padding": ({"add_zero_attn": True}, {"key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])}),
    "one": ({}, {"key_padding_mask": torch.tensor([False, True, False, False, True])}),
}


@pytest.mark.parametrize("case", CASES)
def test_attention_computes_what_torch_computes_with_rounded_weights(case):
    options, call = CASES[case]
    torch.manual_seed(2)
    layer = nn.MultiheadAttention(8, 2, **options)
    torch.manual_seed(2)
    ours = training.QuantizedMultiheadAttention(8, 2, **options, weight_bits=4)
    from_float = training.QuantizedMultiheadAttention.from_float(layer, weight_bits=4)
    shape = (5,) if case == "one" else (2, 5) if options.get("batch_first") else (5, 2)
    query = torch.randn(*shape, 8)
    inputs = (query, torch.randn(*shape, 4), torch.randn(*shape, 6)) if case == "sizes" else (query,) * 3
    expected = of_rounded(layer, 4)(*inputs, **call)
    for candidate in (ours, from_float):
        for value, other in zip(candidate(*inputs, **call), expected, strict=True):
            assert (value is None) == (other is None)
            assert value is None or torch.allclose(value, other, atol=1e-5)


def test_a_hint_about_a_mask_that_is_missing_is_refused():
    with pytest.raises(FeedError, match="attn_mask"):
        training.QuantizedMultiheadAttention(8, 2)(*[torch.zeros(5, 2, 8)] * 3, is_causal=True)


def test_an_encoder_takes_no_way_around_the_rounding():
    torch.manual_seed(3)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).eval()
    training.quantize_layers(encoder, weight_bits=3)
    x = torch.randn(2, 5, 8)
    with torch.no_grad():
        values = encoder(x)
    assert torch.allclose(values, encoder.train()(x), atol=1e-5)


def test_activations_begin_with_the_range_of_a_batch_and_the_state_knows_it():
    layer = training.QuantizedLinear(4, 2, activation_bits=4)
    x = torch.tensor([[-1.0, 0.52, 0.0, 2.0]])
    layer(x)
    scale = np.float32(3 / 15)
    codes = np.clip(np.rint(x.numpy() / scale) + 5, 0, 15)
    expected = torch.from_numpy(((codes - 5) * scale).astype(np.float32))
    assert torch.allclose(layer.rounded_input(x), expected)
    assert layer.rounded_input(torch.tensor([9.0])).item() == pytest.approx(10 * scale)
    other = training.QuantizedLinear(4, 2, activation_bits=4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(10 * x), layer(10 * x))


def network():
    torch.manual_seed(4)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 12), nn.ReLU(), nn.Linear(12, 3))


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


def trained(model, x, bits, steps=4):
    """A model with rounding layers that has learned a little."""
    training.quantize_layers(model, **bits)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model(x)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    target = torch.randn(model(x).shape)
    losses = []
    for _ in range(steps):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return model.eval(), [
        name for name, old in before.items() if torch.equal(old, dict(model.named_parameters())[name])
    ]


def exported(model, x, path, exporter):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (x,), path, input_names=["x"], output_names=["y"], **exporter)
    onnx.checker.check_model(path, full_check=True)
    return onnx.load(path)


@pytest.mark.parametrize(
    ("make", "bits", "exporter"),
    [
        (network, {}, TORCHSCRIPT),
        (network, {"weight_bits": 4, "activation_bits": 8}, TORCHSCRIPT),
        (Attending, {"weight_bits": 3, "activation_bits": 6}, TORCHSCRIPT),
        pytest.param(
            Attending,
            {"weight_bits": 3, "activation_bits": 6},
            {"dynamo": True, "verbose": False},
            marks=pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs onnxscript"),
        ),
    ],
)
def test_the_exported_file_computes_what_the_trained_module_computes(make, bits, exporter, tmp_path):
    model = make()
    x = torch.randn(5, 1, 6, 6) if make is network else torch.randn(3, 4, 8)
    model, unchanged = trained(model, x, bits)
    # Keys and values are the queries, rounded once; a zero point learns where values are clipped.
    assert all(name.endswith(".zero_point") or "rounded_key" in name or "rounded_value" in name for name in unchanged)
    proto = exported(model, x, tmp_path / "model.onnx", exporter)
    with torch.no_grad():
        expected = model(x).numpy()
    pairs = [node.op_type for node in proto.graph.node if node.op_type.endswith("quantizeLinear")]
    assert len(pairs) >= 3
    feeds = {"x": x.numpy()}
    for outputs in (
        ort.InferenceSession(tmp_path / "model.onnx").run(None, feeds),
        ReferenceEvaluator(proto).run(None, feeds),
    ):
        # A sum that lies between two codes is rounded to either.
        differences, largest = np.abs(outputs[0] - expected), np.abs(expected).max()
        assert np.median(differences) < 2e-6 * largest
        assert differences.max() < 0.02 * largest


def test_without_a_batch_there_is_no_file(tmp_path):
    model = training.quantize_layers(network(), activation_bits=8)
    with pytest.raises(FeedError, match="one batch"):
        exported(model.eval(), torch.randn(5, 1, 6, 6), tmp_path / "model.onnx", {"dynamo": False})
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("bits", [{"weight_bits": 1}, {"weight_bits": 9}, {"activation_bits": 1}])
def test_bits_without_codes_are_refused(bits):
    with pytest.raises(RecipeError, match=next(iter(bits))):
        training.QuantizedLinear(4, 4, **bits)


def test_layers_are_replaced_but_for_those_excluded():
    model = network()
    model.append(model[5])
    training.quantize_layers(model, exclude=["3"])
    assert [type(layer).__name__ for layer in model] == [
        "QuantizedConv2d", "ReLU", "Flatten", "Linear", "ReLU", "QuantizedLinear", "QuantizedLinear"
    ]  # fmt: skip
    assert model[5] is model[6]
    with pytest.raises(RecipeError, match="inside"):
        training.quantize_layers(nn.Linear(3, 3))


def test_the_outermost_codes_are_those_of_the_formats():
    layer = nn.Linear(2, 1, bias=False)
    nn.init.constant_(layer.weight, -3.0)
    for bits, lowest in ((8, -127), (4, -8)):
        ours = training.QuantizedLinear.from_float(layer, weight_bits=bits)
        nn.init.constant_(ours.rounded_weight.quantizer.step, -0.01)  # its magnitude counts
        assert ours(torch.tensor([1.0, 0.0])).item() == pytest.approx(lowest * 0.01)
