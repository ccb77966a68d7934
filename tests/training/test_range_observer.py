"""Ranges that follow the data."""

import numpy as np
import pytest
import torch
from torch.ao.quantization import MovingAverageMinMaxObserver

from onnxquant.errors import RecipeError, StatisticsError
from onnxquant.observers.codes import Codes
from onnxquant.training import MovingMinMaxObserver

BATCHES = [torch.randn(3, 5, generator=torch.Generator().manual_seed(i)) * (i + 1) + 0.3 for i in range(4)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("momentum", [0.01, 0.3, 1.0])
def test_it_follows_as_torch_does(momentum):
    theirs = MovingAverageMinMaxObserver(averaging_constant=momentum, dtype=torch.quint8)
    ours = MovingMinMaxObserver(momentum)
    for batch in BATCHES:
        theirs(batch)
        assert ours(batch) is batch
    assert ours.range == pytest.approx((float(theirs.min_val), float(theirs.max_val)), rel=1e-6)
    scale, zero = theirs.calculate_qparams()
    assert ours.quantization.scale == pytest.approx(float(scale), rel=1e-6)
    assert ours.quantization.zero_point == int(zero)


def test_scale_and_zero_point_are_those_of_the_codes():
    codes = Codes(bits=16, signed=True, symmetric=True)
    observer = MovingMinMaxObserver(0.5, codes)
    observer(BATCHES[0])
    assert (observer.quantization.scale, observer.quantization.zero_point) == codes.parameters(*observer.range)


def test_it_stays_when_frozen_and_in_evaluation_and_where_values_are_not_finite():
    observer = MovingMinMaxObserver(0.5)
    observer(BATCHES[0])
    before = observer.range
    observer(torch.tensor([np.inf, 1.0]))
    observer(torch.tensor([np.nan, 1.0]))
    observer.eval()(BATCHES[3])
    observer.train().is_frozen = True
    observer(BATCHES[3])
    assert observer.range == before
    observer.is_frozen = False
    observer(BATCHES[3])
    assert observer.range != before


def test_a_momentum_out_of_bounds_and_no_values_are_refused():
    for momentum in (0, -0.1, 1.5):
        with pytest.raises(RecipeError, match="expected a number above 0"):
            MovingMinMaxObserver(momentum)
    with pytest.raises(StatisticsError, match="expected a call in training mode"):
        _ = MovingMinMaxObserver().range
