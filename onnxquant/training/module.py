"""A model as a torch module that rounds where its file will, and its file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from onnxquant import runtime
from onnxquant.calibration.feeds import Data
from onnxquant.convert.plan_model import PlannedModel
from onnxquant.convert.train import plan_to_train, write_trained
from onnxquant.convert.tune import learned_model
from onnxquant.errors import FeedError
from onnxquant.report.report import Report
from onnxquant.tuning.quantizers import Learned
from onnxquant.tuning.student import Student


class QuantizedModule(nn.Module):
    """A model that rounds where its quantized file will. ``prepare`` makes it.

    Weights, scales, ranges of activations and biases are its parameters; the name of a weight's ends in that of its
    initializer, with slashes for dots.

    Args:
        model: the planned model.
    """

    def __init__(self, model: PlannedModel) -> None:
        super().__init__()
        self.model = model
        self.student = Student(model.document, model.plan, model.solved)

    def forward(self, feeds: Mapping[str, Tensor] | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """The outputs by name.

        Args:
            feeds: inputs by name.
            inputs: more of them, where their names are words of Python.
        """
        return self.student({**(feeds or {}), **inputs})  # type: ignore[no-any-return]  # torch types calls as Any

    @contextmanager
    def in_float(self) -> Iterator[None]:
        """Let nothing be rounded meanwhile, but weights of formats without a grid."""
        with self.student.in_float():
            yield

    def learned(self) -> Iterator[Learned]:
        """The parameters that are learned, with the unit of their changes: what ``UnitAdam`` takes."""
        yield from self.student.learned()

    def constrain(self) -> None:
        """Keep scales in bounds. Call it after each step of an optimizer."""
        self.student.constrain()


def prepare(
    source: str | Path | onnx.ModelProto,
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    data: Data | None = None,
    **options: object,
) -> QuantizedModule:
    """A model as a torch module with fake quantization at the places and on the grids that ``quantize`` would write.

    Args:
        source: path of the model, or the model.
        recipe: rules and options, as ``quantize`` takes them.
        data: samples; static activations need them, for the ranges where learning begins.
        options: options of ``quantize`` that name one way, such as ``format="int4"`` or ``activations="static"``.

    Raises:
        ModelError: an operator has no function in torch; all that have none are named.
        RecipeError: the options name no single way.

    >>> module = prepare("models/default.onnx", format="int4")
    >>> sorted(module(image=torch.zeros(1, 1, 28, 28)))
    ['logits']
    """
    return QuantizedModule(plan_to_train(source, recipe, data, options))


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        report: its report: sizes, weights, ranges.
        difference: largest difference of its outputs from the module's, over the largest magnitude of that output; None:
            there were no samples to compare on.
    """

    report: Report
    difference: float | None


def export(
    module: QuantizedModule, path: str | Path, *, samples: Mapping[str, Tensor] | None = None, force: bool = False
) -> Exported:
    """Write the quantized file of a module.

    Args:
        module: the module.
        path: the file.
        samples: inputs by name, on which the file and the module are compared.
        force: whether it may replace another file.

    Raises:
        OutputExistsError: the file exists.
        FeedError: the samples do not fit.
    """
    report = write_trained(learned_model(module.model, module.student.tuned()), path, force=force)
    return Exported(report, None if samples is None else _difference(module, Path(path), samples))


@torch.no_grad()
def _difference(module: QuantizedModule, path: Path, samples: Mapping[str, Tensor]) -> float:
    """The largest difference of a file's outputs from a module's, over the largest magnitude of that output."""
    if missing := [name for name in module.student.module.inputs if name not in samples]:
        raise FeedError(f"samples: input {missing[0]!r} is missing")
    session = runtime.open_session(path, runtime.session_options())
    outputs = runtime.run(session, {name: tensor.numpy() for name, tensor in samples.items()})
    differences = [0.0]
    for name, expected in module(samples).items():
        if expected.is_floating_point():
            largest = float(expected.abs().max().clamp(min=1e-12))
            differences.append(float(np.abs(outputs[name] - expected.numpy()).max()) / largest)
    return max(differences)
