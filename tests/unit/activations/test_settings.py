"""Settings of the search, from the options of a run."""

from __future__ import annotations

from typing import Any

import pytest

from onnxquant.activations.settings import AUTO_METHODS, DEFAULT_GOAL_DB, AccuracyGoal, StaticSettings, required_opset
from onnxquant.observers.codes import Codes
from onnxquant.recipe.options import Options
from onnxquant.recipe.values import Drop


def options(**values: Any) -> Options:
    return Options.make({"activations": "static", **values})


@pytest.mark.parametrize(
    ("values", "codes"),
    [
        ({}, Codes(8, False, False)),
        ({"activation_type": "int8", "symmetric_activations": True}, Codes(8, True, True)),
        ({"activation_type": "uint16"}, Codes(16, False, False)),
        ({"activation_type": "int16"}, Codes(16, True, False)),
    ],
    ids=str,
)
def test_codes_follow_the_activation_type(values: dict[str, Any], codes: Codes) -> None:
    assert StaticSettings.of(options(**values)).codes == codes


@pytest.mark.parametrize(
    ("values", "opset"),
    [({}, 13), ({"activation_type": "int16"}, 21), ({"activations": "dynamic"}, 0), ({"activations": "none"}, 0)],
    ids=str,
)
def test_the_required_opset_follows_the_codes(values: dict[str, Any], opset: int) -> None:
    assert required_opset(options(**values)) == opset


def test_method_auto_stands_for_several_methods() -> None:
    assert StaticSettings.of(options()).methods == AUTO_METHODS
    assert StaticSettings.of(options(calibration_method="entropy")).methods == ("entropy",)


def test_parameters_of_methods_are_those_that_were_set() -> None:
    assert StaticSettings.of(options()).parameters == {"percentile": {}, "mean-std": {}}
    assert StaticSettings.of(options(percentile=99.0)).parameters == {"percentile": {"percentile": 99.0}, "mean-std": {}}
    given = StaticSettings.of(options(calibration_method="mean-std", sigmas=3.0)).parameters
    assert given == {"percentile": {}, "mean-std": {"k": 3.0}}


@pytest.mark.parametrize(
    ("values", "ratio"),
    [
        ({}, DEFAULT_GOAL_DB),
        ({"min_sqnr": 31.0}, 31.0),
        ({"metric": len}, None),
        ({"metric": len, "min_sqnr": 31.0}, 31.0),
    ],
    ids=str,
)
def test_the_goal_of_excluding_is_the_metric_or_the_ratio(values: dict[str, Any], ratio: float | None) -> None:
    goal = StaticSettings.of(options(auto_exclude=True, **values)).goal
    assert goal == AccuracyGoal(min_sqnr_db=ratio, metric=values.get("metric"), max_drop=Drop(0.005, relative=True))
