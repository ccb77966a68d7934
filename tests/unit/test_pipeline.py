"""The registry of passes, and passes that are asked for by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from graphs import model, node, save, weight

import onnxquant
from onnxquant import passes
from onnxquant.cli import main
from onnxquant.errors import RecipeError
from onnxquant.graph.io import Document, load
from onnxquant.passes import Pass, PassResult, pass_named, passes_by_name, pipeline

NORM = {n: np.linspace(0.5, 2, 16, dtype=np.float32) for n in ("scale", "shift", "mean", "variance")}
# An outlying channel between two convolutions, which equalization moves.
UNEVEN = weight(16, 16, 3, 3) * np.geomspace(1, 50, 16, dtype=np.float32)[:, None, None, None]


def network() -> onnx.ModelProto:
    nodes = [
        node("Conv", ["x", "w1"], ["a"], name="first"),
        node("BatchNormalization", ["a", *NORM], ["n"], name="norm"),
        node("Relu", ["n"], ["r"], name="relu"),
        node("Conv", ["r", "w2"], ["y"], name="second"),
    ]
    weights = {"w1": UNEVEN, "w2": weight(16, 16, 3, 3, seed=1), **NORM}
    return model(nodes, {"x": ("float32", [1, 16, 9, 9])}, {"y": "float32"}, weights)


@pytest.mark.parametrize("name", passes.registry())
def test_every_pass_numbers_its_rules(name: str) -> None:
    cls = passes.registry()[name]
    assert re.search(r"^    1\. ", cls.__doc__ or "", re.MULTILINE) and cls.summary
    assert not cls.summary.endswith(".")


def test_every_pass_of_the_pipeline_is_registered() -> None:
    for step in (*pipeline.PREPARE, *pipeline.SIMPLIFY):
        assert passes.registry()[step.name] is type(step)


def test_a_pass_without_settings_can_be_asked_for() -> None:
    assert {"equalize", "fold-batch-norms", "keep-sums"} <= set(passes_by_name())
    assert {"smooth", "float16", "rebase", "awq-scaling", "permute-channels"}.isdisjoint(passes_by_name())
    with pytest.raises(RecipeError, match=r"unknown pass 'equalise'.*equalize"):
        pass_named("equalise")
    with pytest.raises(RecipeError, match=r"pass 'smooth' needs settings; expected one of .*equalize"):
        pass_named("smooth")


@pytest.mark.parametrize("options", [{}, {"activations": "static"}, {"whole_graph": True, "format": "f16"}])
def test_passes_asked_for_are_run_in_order_and_proven(tmp_path: Path, options: dict[str, object]) -> None:
    source = save(network(), tmp_path / "source.onnx")
    data = [{"x": np.random.default_rng(i).standard_normal((1, 16, 9, 9)).astype(np.float32)} for i in range(8)]
    report = onnxquant.quantize(
        source, tmp_path / "out.onnx", data=data, passes=("fold-batch-norms", "equalize"), solver="auto", **options
    )
    assert report.passed, report.proof and report.proof.problems
    assert any("1 activations equalized between their linear ops" in note for note in report.notes)
    assert "BatchNormalization" not in {n.op_type for n in onnx.load(tmp_path / "out.onnx").graph.node}


def test_a_file_made_with_passes_can_be_validated_later(tmp_path: Path) -> None:
    source = save(network(), tmp_path / "source.onnx")
    onnxquant.quantize(source, tmp_path / "out.onnx", passes=("fold-batch-norms", "equalize"), proof=False)
    report = onnxquant.validate(source, tmp_path / "out.onnx")
    assert report.passed, report.proof and report.proof.problems


def test_without_asking_weights_are_not_equalized(tmp_path: Path) -> None:
    report = onnxquant.quantize(save(network(), tmp_path / "source.onnx"), tmp_path / "out.onnx", proof=False)
    assert not report.notes


def test_the_command_line_asks_for_passes(tmp_path: Path) -> None:
    source = save(network(), tmp_path / "source.onnx")
    command = ["quantize", str(source), "-o", str(tmp_path / "out.onnx"), "--no-proof", "--pass"]
    assert CliRunner().invoke(main, [*command, "fold-batch-norms"]).exit_code == 0
    assert len(onnx.load(tmp_path / "out.onnx").graph.node) > 3
    refused = CliRunner().invoke(main, [*command, "fold-batch-norm", "--force"])
    assert refused.exit_code == 2 and "fold-batch-norms" in refused.output


def test_a_pass_of_another_package_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Rename(Pass):
        """Renames the graph.

        1. The graph is called "renamed".
        """

        name = "rename"
        summary = "renames the graph"

        def __call__(self, document: Document) -> PassResult:
            document.proto.graph.name = "renamed"
            return PassResult(True, ("graph renamed",))

    monkeypatch.setattr(passes, "registry", lambda: {"rename": Rename})
    report = onnxquant.quantize(
        save(network(), tmp_path / "source.onnx"), tmp_path / "out.onnx", passes=("rename",), proof=False
    )
    assert report.notes == ["graph renamed"]
    assert load(tmp_path / "out.onnx").proto.graph.name == "renamed"
