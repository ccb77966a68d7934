"""Blocks: parts of a graph between tensors that everything passes.

Each block learns the tensor at its end alone, from what the block before it gives; no gradient crosses its ends. A few
hundred samples teach a block more reliably than the whole network, and one block's values at a time need memory (Li et al.
2021, "BRECQ", learns block after block; here all blocks learn in one pass).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from onnxquant.modules.graph_module import GraphModule
from onnxquant.tuning.batches import Batch, TaughtSamples
from onnxquant.tuning.losses import Loss, OutputLoss

# Parts with fewer weights than this are joined to the next one.
_FEWEST_WEIGHTS = 2


@dataclass(frozen=True)
class Block:
    """A part of a graph.

    Attributes:
        begin: tensor that it reads beside the inputs of the model; None: these alone.
        ends: tensors that it gives: first the one that the next block begins with, then outputs of the model.
    """

    begin: str | None
    ends: tuple[str, ...]


def blocks_of(module: GraphModule, weights: Collection[str], known: Set[str]) -> list[Block]:
    """The blocks of a graph in order; one alone where no tensor inside parts it.

    Args:
        module: the graph.
        weights: names of the weights that are learned.
        known: names of the tensors that the teacher knows.
    """
    blocks, begin, outputs, count = list[Block](), None, list[str](), 0
    steps = module.schedule(module.inputs, module.outputs)
    last_read = {name: place for place, step in enumerate(steps) for name in step.inputs}
    computed: set[str] = set()  # from weights
    waiting: set[str] = set()  # those still to be read
    for place, step in enumerate(steps):
        learned = sum(name in weights for name in step.inputs)
        count += learned
        if learned or not computed.isdisjoint(step.inputs):
            computed.update(step.node.outputs)
            waiting.update(step.node.outputs)
        waiting = {name for name in waiting if last_read.get(name, -1) > place}
        outputs += [name for name in step.node.outputs if name in module.outputs]
        if len(waiting) == 1 and waiting <= known and count >= _FEWEST_WEIGHTS:
            blocks.append(Block(begin, tuple(dict.fromkeys([*waiting, *outputs]))))
            (begin,), outputs, count = waiting, [], 0
    if blocks and count < _FEWEST_WEIGHTS:  # the rest is part of the last one
        last = blocks.pop()
        begin, outputs = last.begin, [name for name in last.ends if name in module.outputs] + outputs
    return [*blocks, Block(begin, tuple(dict.fromkeys(outputs)))]


class Objective(Protocol):
    """A way to learn: takes the gradients of a batch."""

    samples: TaughtSamples

    def learn(self, batch: Batch) -> float:
        """Leave the gradients of a batch in the parameters; its loss."""


class Whole:
    """The whole network at once: gradients of the loss of its outputs.

    Args:
        student: the student.
        samples: samples with the outputs of the teacher.
        loss: distance of the student's outputs from the teacher's.
        bfloat16: whether products are computed in bfloat16; weights stay float32.
    """

    def __init__(self, student: nn.Module, samples: TaughtSamples, loss: Loss, bfloat16: bool = False) -> None:
        self._student, self.samples, self._loss, self._bfloat16 = student, samples, loss, bfloat16

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of a batch."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            outputs = self._student(batch.feeds)
        return self._loss(outputs, batch.outputs)

    def learn(self, batch: Batch) -> float:
        """Leave the gradients of a batch in the parameters; its loss."""
        loss = self.loss_of(batch)
        if math.isfinite(value := float(loss.detach())):
            loss.backward()  # type: ignore[no-untyped-call]
        return value


class BlockByBlock:
    """Each block by itself: gradients of the loss of its end, from what the block before it gives.

    Args:
        module: the student's graph.
        blocks: its blocks.
        samples: samples with the ends of all blocks, as the teacher has them.
    """

    def __init__(self, module: GraphModule, blocks: Sequence[Block], samples: TaughtSamples) -> None:
        self._module, self._blocks, self.samples = module, blocks, samples
        self._losses = [OutputLoss(module.producers, block.ends) for block in blocks]

    def learn(self, batch: Batch) -> float:
        """Leave the gradients of a batch in the parameters; the mean loss of the blocks."""
        known, total = dict(batch.feeds), 0.0
        for block, loss_of in zip(self._blocks, self._losses, strict=True):
            values = self._module.run(known, block.ends)
            loss = loss_of(values, batch.outputs)
            total += float(loss.detach())
            if not math.isfinite(total):
                break
            loss.backward()  # type: ignore[no-untyped-call]
            known = {**batch.feeds, block.ends[0]: values[block.ends[0]].detach()}
        return total / len(self._blocks)
