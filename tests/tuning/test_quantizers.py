"""A quantizer begins exactly at an encoded weight, and comes back to one."""

import numpy as np
import pytest
import torch

from onnxquant.errors import WeightError
from onnxquant.formats import format_named, formats
from onnxquant.graph.needs import View
from onnxquant.observers.codes import Codes
from onnxquant.tuning.optimizer import UnitAdam
from onnxquant.tuning.quantizers import ActivationQuantizer, DynamicQuantizer, Learned, WeightQuantizer

VIEW = View((512, 6), (1, 0), 1)
ON_GRIDS = [form.name for form in formats() if form.has_grid]


def weight_of(seed=0):
    return np.random.default_rng(seed).normal(size=VIEW.shape).astype(np.float32)


@pytest.mark.parametrize("permuted", [False, True], ids=["in order", "permuted"])
@pytest.mark.parametrize("name", ON_GRIDS)
def test_learning_begins_at_the_codes_that_there_are(name, permuted):
    weight, form = weight_of(), format_named(name)
    try:
        form = form.with_(permuted=permuted)
        encoded = form.encode(VIEW.matrix(weight))
    except WeightError as error:  # it does not take this shape, or another order
        pytest.skip(str(error))
    quantizer = WeightQuantizer(encoded, VIEW)
    # Codes that a solver chose are not those nearest to the weight.
    start = quantizer.start(torch.from_numpy(weight + 0.05 * np.sin(np.arange(weight.size)).reshape(weight.shape)).float())
    decoded = VIEW.restore(form.decode(encoded))
    np.testing.assert_allclose(quantizer(start).detach().numpy(), decoded, rtol=2e-5, atol=2e-6)
    again = quantizer.encode(start)
    np.testing.assert_allclose(VIEW.restore(form.decode(again)), decoded, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["int4", "int8", "nf4", "q4_0", "q4_1"])
def test_learning_brings_the_codes_nearer_to_what_the_loss_asks_for(name):
    weight = torch.from_numpy(weight_of())
    form = format_named(name)
    quantizer = WeightQuantizer(form.encode(VIEW.matrix(weight_of(1) * 0.6)), VIEW)
    latent = torch.nn.Parameter(quantizer.start(weight))
    learned = [Learned(latent, quantizer.unit(latent)), *quantizer.learned()]
    optimizer, losses = UnitAdam(learned), []
    for _ in range(150):
        loss = (quantizer(latent) - weight).square().mean()
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step(0.01)
        quantizer.constrain()
    decoded = VIEW.restore(form.decode(quantizer.encode(latent)))
    assert losses[-1] < 0.5 * losses[0]
    assert np.square(decoded - weight.numpy()).mean() == pytest.approx(losses[-1], rel=0.1)


@pytest.mark.parametrize("codes", [Codes(), Codes(signed=True, symmetric=True), Codes(bits=16)], ids=str)
def test_the_range_of_an_activation_gives_its_scale_and_zero_point_again(codes):
    quantizer = ActivationQuantizer(codes, -1.3, 2.9)
    with torch.no_grad():
        quantizer.scale.mul_(1.07)
        if not codes.symmetric:
            quantizer.zero_point.add_(3.4)
    scale, zero = codes.parameters(*quantizer.range)
    assert float(scale) == pytest.approx(float(quantizer.scale.detach()), rel=1e-6)
    assert int(zero) == round(float(quantizer.zero_point.detach()))


def test_dynamic_codes_are_those_of_dynamic_quantize_linear():
    values = np.random.default_rng(2).normal(size=(7, 33)).astype(np.float32) * 3 + 1
    low, high = min(values.min(), 0), max(values.max(), 0)
    scale = np.float32((high - low) / 255)
    zero = np.clip(np.rint(-low / scale), 0, 255)
    expected = (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale
    np.testing.assert_allclose(DynamicQuantizer()(torch.from_numpy(values)).numpy(), expected, atol=1e-6)


def test_pruned_weights_stay_zero_whatever_learning_does_to_them():
    weight, form = weight_of(), format_named("int4")
    weight[::2] = 0
    staying = torch.from_numpy(weight != 0).float()
    quantizer = WeightQuantizer(form.encode(VIEW.matrix(weight)), VIEW, staying)
    latent = (torch.from_numpy(weight) + 1).requires_grad_()
    quantizer(latent).sum().backward()
    assert not latent.grad[::2].any()
    assert not VIEW.restore(form.decode(quantizer.encode(latent)))[::2].any()
