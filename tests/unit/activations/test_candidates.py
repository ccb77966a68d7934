"""Candidates of a search are judged by the worst part of their outputs."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import pytest
from graphs import node

from onnxquant.activations.candidates import CandidateRunner
from onnxquant.activations.plan import ActivationPlan
from onnxquant.calibration.feeds import Input, open_feeds
from onnxquant.calibration.folds import undivided
from onnxquant.graph.io import load
from onnxquant.recipe.rules import Recipe


def detector(scores: float = 1.0) -> onnx.ModelProto:
    """Boxes of hundreds of pixels beside scores below 1 in one output."""
    nodes = [
        node("Mul", ["x", "pixels"], ["boxes"]),
        node("Sigmoid", ["x"], ["raw"]),
        node("Mul", ["raw", "size"], ["scores"]),
        node("Concat", ["boxes", "scores"], ["y"], axis=1),
    ]
    constants = {"pixels": np.float32(600), "size": np.float32(scores)}
    return graphs.model(nodes, {"x": ("float32", [1, 4, 50])}, {"y": "float32"}, constants)


def test_scores_that_are_ten_percent_off_count_beside_exact_boxes() -> None:
    random = graphs.rng(1)
    samples = [{"x": random.standard_normal((1, 4, 50)).astype(np.float32)} for _ in range(6)]
    feeds = open_feeds(samples, [Input("x", "tensor(float)", (1, 4, 50))])
    runner = CandidateRunner(load(detector()), Recipe.from_dict({"rules": [{"format": "int8"}]}), undivided(feeds), 1)
    assert runner.score(ActivationPlan(load(detector(1.1)))).criterion == pytest.approx(20, abs=0.1)
