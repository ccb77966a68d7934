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
from onnxquant.errors import FeedError, RecipeError
from onnxquant.report.report import Report
from onnxquant.training.schedule import Schedule
from onnxquant.training.statistics import LayerStatistics, layer_statistics
from onnxquant.tuning.quantizers import Learned
from onnxquant.tuning.student import Student


class QuantizedModule(nn.Module):
    """A model that rounds where its quantized file will. ``prepare`` makes it.

    Weights, scales, ranges of activations and biases are its parameters; the name of a weight's ends in that of its
    initializer, with slashes for dots.

    In training mode, in which it begins, ranges that follow the data and running statistics move.

    Args:
        model: the planned model.
        range_momentum: momentum of ranges that follow the data; None: scales and zero points learn.
        updates_statistics: whether running statistics of BatchNormalization move.
    """

    def __init__(
        self, model: PlannedModel, *, range_momentum: float | None = None, updates_statistics: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.student = Student(
            model.document,
            model.plan,
            model.solved,
            range_momentum=range_momentum,
            updates_statistics=updates_statistics,
        )

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

    def follow(self, schedule: Schedule, step: int) -> None:
        """Round and learn from now on as a schedule says for a step.

        Args:
            schedule: the schedule.
            step: number of steps of training before this one.

        Raises:
            RecipeError: the schedule ends with more bits than a weight has.
        """
        fewest = schedule.bits_at(schedule.last_change)
        for name, quantizer in self.student.weights.items():
            if quantizer.bits < fewest:
                raise RecipeError(
                    f"schedule: bits end at {fewest}, weight {name!r} has codes of {quantizer.bits} bits "
                    f"({quantizer.encoded.format.name}); expected a last step with {quantizer.bits} or fewer"
                )
        self._round(is_on=step >= schedule.start_step, bits=schedule.bits_at(step))
        self.student.freeze(is_frozen=schedule.freeze_step is not None and step >= schedule.freeze_step)

    def round_as_exported(self) -> None:
        """Round from now on as the file will, whatever a schedule said."""
        self._round(is_on=True, bits=0)

    def _round(self, *, is_on: bool, bits: int) -> None:
        for quantizer in self.student.quantizers():
            quantizer.is_on = is_on
        for weights in self.student.weights.values():
            weights.refine(bits)

    @contextmanager
    def as_exported(self) -> Iterator[None]:
        """Compute meanwhile what the file does: rounded to its grids, with the statistics and ranges that there are."""
        is_training, refined = self.training, {name: q.refined for name, q in self.student.weights.items()}
        self.eval()
        try:
            with self.student.rounding(is_on=True):
                for quantizer in self.student.weights.values():
                    quantizer.refine(0)
                yield
        finally:
            self.train(is_training)
            for name, bits in refined.items():
                self.student.weights[name].refine(bits)

    def statistics(self, feeds: Mapping[str, Tensor] | None = None) -> list[LayerStatistics]:
        """Figures of the rounded weights and activations, as they would be in the file.

        Args:
            feeds: inputs by name, on which activations are judged; None: their errors are not known.
        """
        with self.as_exported():
            return layer_statistics(self.student, feeds)


def prepare(
    source: str | Path | onnx.ModelProto,
    recipe: str | Path | Mapping[str, Any] | None = None,
    *,
    data: Data | None = None,
    range_momentum: float | None = None,
    updates_statistics: bool = False,
    **options: object,
) -> QuantizedModule:
    """A model as a torch module with fake quantization at the places and on the grids that ``quantize`` would write.

    Args:
        source: path of the model, or the model.
        recipe: rules and options, as ``quantize`` takes them.
        data: samples; static activations need them, for the ranges where learning begins.
        range_momentum: static activations have ranges that follow the data in training mode, moving averages of the
            extremes with this weight of each batch, in place of scales and zero points that learn. None: these learn.
        updates_statistics: each BatchNormalization that is there normalizes by the batch in training mode and moves its
            running statistics, as torch's does. Else it keeps them. ``passes=["fold-batch-norms"]`` leaves none behind
            linear operators; static activations do so by themselves.
        options: options of ``quantize`` that name one way, such as ``format="int4"`` or ``activations="static"``.

    Raises:
        ModelError: an operator has no function in torch; all that have none are named.
        RecipeError: the options name no single way, or there is nothing that could follow the data.

    >>> module = prepare("models/default.onnx", format="int4")
    >>> sorted(module(image=torch.zeros(1, 1, 28, 28)))
    ['logits']
    """
    model = plan_to_train(source, recipe, data, options)
    module = QuantizedModule(model, range_momentum=range_momentum, updates_statistics=updates_statistics)
    if updates_statistics and not module.student.has_statistics:
        raise RecipeError(
            "updates_statistics: no BatchNormalization is left; static activations and the pass fold-batch-norms fold those "
            "behind linear operators; leave it out"
        )
    if range_momentum is not None and not module.student.ranges:
        raise RecipeError('range_momentum: there are no ranges of activations; expected activations="static" with data')
    return module


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
    with module.as_exported():
        computed = module(samples)
    for name, expected in computed.items():
        if expected.is_floating_point():
            largest = float(expected.abs().max().clamp(min=1e-12))
            differences.append(float(np.abs(outputs[name] - expected.numpy()).max()) / largest)
    return max(differences)
