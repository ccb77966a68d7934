"""LSQ as the paper has it."""

import numpy as np
import pytest
import torch

from onnxquant.errors import RecipeError
from onnxquant.training import LearnedStepSize

WAYS = [(2, True, None), (4, True, 0), (8, False, None), (3, False, -1)]


def values_of(signed):
    values = np.random.default_rng(3).normal(size=(5, 4, 6))
    return values if signed else np.abs(values)


def bounds(bits, signed):
    return (2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def channels_of(values, axis):
    return values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


@pytest.mark.parametrize(("bits", "signed", "axis"), WAYS)
def test_steps_begin_and_values_are_rounded_as_in_the_paper(bits, signed, axis):
    values = values_of(signed)
    quantizer = LearnedStepSize(torch.from_numpy(values).float(), bits=bits, signed=signed, axis=axis)
    below, above = bounds(bits, signed)
    step = 2 * np.abs(channels_of(values, axis)).mean(1) / np.sqrt(above)
    np.testing.assert_allclose(quantizer.step.detach().numpy(), step, rtol=1e-5)
    rounded = np.clip(np.rint(channels_of(values, axis) / step[:, None]), -below, above) * step[:, None]
    ours = quantizer(torch.from_numpy(values).float()).detach().numpy()
    assert ours.shape == values.shape
    np.testing.assert_allclose(channels_of(ours, axis), rounded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bits", "signed", "axis"), WAYS)
def test_gradients_are_those_of_the_surrogate(bits, signed, axis):
    """The surrogate takes rounding errors for constants: where values are inside, ``v + (q - v / s) s``, outside ``Q s``."""
    values = values_of(signed)
    quantizer = LearnedStepSize(torch.from_numpy(values).float(), bits=bits, signed=signed, axis=axis)
    latent = torch.from_numpy(values).float().requires_grad_()
    weights = np.random.default_rng(4).normal(size=values.shape)
    (quantizer(latent) * torch.from_numpy(weights).float()).sum().backward()

    below, above = bounds(bits, signed)
    step, rows = quantizer.step.detach().double().numpy(), channels_of(values, axis)
    ratio = rows / step[:, None]
    inside = (ratio > -below) & (ratio < above)
    error = np.where(inside, np.rint(ratio) - ratio, 0.0)

    def loss(rows, step):
        ends = np.clip(ratio, -below, above)
        surrogate = np.where(inside, rows + error * step[:, None], ends * step[:, None])
        return (surrogate * channels_of(weights, axis)).sum(1)

    small, scale = 1e-6, 1 / np.sqrt(rows.shape[1] * above)
    of_step = (loss(rows, step + small) - loss(rows, step - small)) / (2 * small) * scale
    np.testing.assert_allclose(quantizer.step.grad.numpy(), of_step, rtol=2e-3, atol=2e-4)
    of_values = np.where(inside, channels_of(weights, axis), 0)
    np.testing.assert_allclose(channels_of(latent.grad.numpy(), axis), of_values, rtol=1e-5, atol=1e-6)


def test_a_step_learns_in_a_module_of_the_users():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(16, 8), torch.randn(64, 16)
    target = layer(x).detach()
    quantizer = LearnedStepSize(layer.weight, bits=3, axis=0)
    optimizer = torch.optim.Adam([*layer.parameters(), *quantizer.parameters()], lr=3e-3)
    losses = []
    for _ in range(80):
        loss = (torch.nn.functional.linear(x, quantizer(layer.weight), layer.bias) - target).square().mean()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 17}, {"bits": 4, "axis": 2}])
def test_what_is_out_of_bounds_is_refused(options):
    with pytest.raises(RecipeError, match="expected"):
        LearnedStepSize(torch.ones(2, 2), **options)
