"""Classes of other packages: what an entry point may name, and one clear error for one that is broken."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from onnxquant import registry, solvers
from onnxquant.errors import RecipeError
from onnxquant.solvers import Solver


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nosuchmodule:X", "cannot be loaded: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("onnxquant.solvers.rtn:Nothing", "cannot be loaded: AttributeError"),
        ("onnxquant.errors:RecipeError", "names no Solver"),
    ],
)
def test_a_broken_entry_point_is_named(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", value, "onnxquant.solvers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    with pytest.raises(RecipeError, match=f"entry point mine = {value} in onnxquant.solvers {message}"):
        registry.classes(solvers, Solver, "onnxquant.solvers")
