"""Classes of other packages: what an entry point may name, and one clear error for one that is broken."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest

import onnxquant
from onnxquant import registry, solvers
from onnxquant.errors import RecipeError
from onnxquant.solvers import Solver
from onnxquant.solvers.rtn import Rtn


class Nameless(Rtn):
    """A solver whose name is a number."""

    name = 3  # type: ignore[assignment]


class Taken(Rtn):
    """A solver with a name of ours."""


class Unusable(Rtn):
    """A solver that cannot be made without arguments."""

    name = "unusable"

    def __init__(self, strength: int) -> None:
        self.strength = strength


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nosuchmodule:X", "cannot be loaded: ModuleNotFoundError: No module named 'nosuchmodule'"),
        ("onnxquant.solvers.rtn:Nothing", "cannot be loaded: AttributeError"),
        ("onnxquant.errors:RecipeError", "names no Solver"),
        ("onnxquant.solvers:Solver", "names a Solver without _solve"),
        (f"{__name__}:Nameless", "names a Solver whose name is no text"),
        (f"{__name__}:Taken", "is called 'rtn', as onnxquant.solvers.rtn.Rtn is"),
        (f"{__name__}:Unusable", "cannot be used: TypeError"),
    ],
)
def test_a_broken_entry_point_is_named(value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("mine", value, "onnxquant.solvers")
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
    expected = f"entry point mine = {value} in onnxquant.solvers {message}.*; repair or uninstall that package"
    with pytest.raises(RecipeError, match=expected):
        registry.classes(solvers, Solver, "onnxquant.solvers", trial=lambda solver: solver())
    with registry.broken_left_out() as reasons:
        assert "rtn" in registry.classes(solvers, Solver, "onnxquant.solvers", trial=lambda solver: solver())
    assert len(reasons) == 1 and re.match(expected, reasons[0])


def test_a_package_whose_entry_points_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "theirs-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="entry points of theirs cannot be read"):
        registry.classes(solvers, Solver, "onnxquant.solvers")


def test_lists_of_formats_and_targets_do_not_hide_their_modules() -> None:
    assert isinstance(onnxquant.formats, ModuleType) and isinstance(onnxquant.targets, ModuleType)
    assert "int8" in [f.name for f in onnxquant.formats.formats()]
    assert "onnx" in [t.name for t in onnxquant.targets.targets()]
