"""Steps of integer networks, and units: the nodes between codes and codes that become steps."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import onnx

from onnxquant.targets.code_functions import CodeFunction


class StepKind(IntEnum):
    """The kinds of steps; a program has their numbers."""

    CONVOLVE = 1
    MAP = 2
    ADD = 3
    MULTIPLY = 4
    AVERAGE = 5
    MAX_POOL = 6
    AVERAGE_POOL = 7
    CONCAT = 8
    RESIZE = 9
    SLICE = 10


@dataclass(frozen=True)
class Step:
    """One step: it makes one tensor of codes.

    Attributes:
        kind: its kind.
        reads: names of the tensors of codes that it reads.
        makes: name of the tensor that it makes.
        constants: names of its constants, empty for one that is absent.
        numbers: its numbers, but for those of tables.
        functions: functions of a code that are computed by tables: that of a map, or of each tensor that is joined; None: the
            tensor stays as it is.
    """

    kind: StepKind
    reads: tuple[str, ...]
    makes: str
    constants: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    functions: tuple[CodeFunction | None, ...] = ()


@dataclass(frozen=True)
class Unit:
    """Nodes between codes and codes that become steps.

    Attributes:
        steps: the steps.
        nodes: the nodes that compute the same.
        shared: those of the nodes that only decode a tensor or a constant, which others may read too.
    """

    steps: tuple[Step, ...]
    nodes: tuple[onnx.NodeProto, ...]
    shared: tuple[onnx.NodeProto, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Tensors of codes that it reads."""
        own = {step.makes for step in self.steps}
        return tuple(dict.fromkeys(name for step in self.steps for name in step.reads if name not in own))

    @property
    def makes(self) -> tuple[str, ...]:
        """Tensors of codes that it makes and that its nodes make too; others lie between its steps."""
        outputs = {name for node in self.nodes for name in node.output}
        return tuple(step.makes for step in self.steps if step.makes in outputs)
