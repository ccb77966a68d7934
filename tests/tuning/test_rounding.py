import numpy as np
import pytest
import torch

from onnxquant.observers.codes import Codes, QuantizationParameters
from onnxquant.tuning.rounding import fake_quantize, round_to_levels

EVEN = torch.arange(-8.0, 8.0)
TABLE = torch.tensor([-1.0, -0.5, -0.1, 0.0, 0.2, 0.7, 1.0])


def surrogate(weight, step, shift, levels):
    """Rounding by torch's own operators, its derivative replaced by that of a straight line between the outermost levels."""
    ratio = (weight - shift) / step
    inside = ratio.clamp(float(levels[0]), float(levels[-1]))
    nearest = levels[(ratio[..., None] - levels).abs().argmin(-1)]
    return (inside + (nearest - inside).detach()) * step + shift


@pytest.mark.parametrize("levels", [EVEN, TABLE], ids=["even", "table"])
def test_values_and_gradients_are_those_of_the_straight_through_estimator(levels):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 4, 5, generator=generator)
    step, shift = torch.rand(3, 4, 1, generator=generator) * 0.2 + 0.05, torch.randn(3, 4, 1, generator=generator) * 0.1
    factors = torch.randn(3, 4, 5, generator=generator)
    results = []
    for function in (round_to_levels, surrogate):
        inputs = [tensor.clone().requires_grad_() for tensor in (weight, step, shift)]
        rounded = function(*inputs, levels)
        (rounded * factors).sum().backward()
        results.append([rounded, *(tensor.grad for tensor in inputs)])
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 6.0), (-0.02, 0.01)])
def test_activations_are_rounded_as_quantize_linear_does(low, high):
    values = np.random.default_rng(0).uniform(1.5 * low - 0.1, 1.5 * high + 0.1, 1000).astype(np.float32)
    parameters = QuantizationParameters.of(low, high, Codes())
    expected = parameters.dequantize(parameters.quantize(values))
    scale, zero = torch.tensor([parameters.scale]), torch.tensor([float(parameters.zero_point)])
    ours = fake_quantize(torch.from_numpy(values), scale, zero, 0, 255).numpy()
    # A number halfway between two codes may go either way: torch multiplies by the inverse of the scale.
    assert np.abs(ours - expected).max() <= parameters.scale * 1.001
    assert (ours != expected).mean() < 0.01


def test_gradients_stop_where_activations_are_clipped_and_reach_the_range():
    values = torch.tensor([-5.0, 0.3, 9.0], requires_grad=True)
    scale, zero = torch.tensor([0.1], requires_grad=True), torch.tensor([4.0], requires_grad=True)
    fake_quantize(values, scale, zero, 0, 15).sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 0.0]
    assert scale.grad.item() == pytest.approx((0 - 4) + (15 - 4), abs=1e-4)
    assert zero.grad.item() == pytest.approx(-0.2, abs=1e-5)
