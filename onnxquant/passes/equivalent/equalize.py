"""Cross-layer equalization: the channels between two linear ops get the same range on both sides."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.graph.analysis.linear import Linear, linear
from onnxquant.graph.analysis.scale_paths import ScalePath, ScalePathFinder, clip_bounds
from onnxquant.graph.editor import ConstantChange, GraphEditor, graph_editors
from onnxquant.graph.io import Document
from onnxquant.graph.shapes import infer
from onnxquant.numerics.arrays import Doubles
from onnxquant.passes.base import Pass, PassResult
from onnxquant.passes.equivalent.rescale import shared_weight

_ROUNDS = 100
_CONVERGED = 1e-3
# A channel that is almost never on would otherwise move a whole range into its bias.
LIMIT = 1e3


@dataclass(frozen=True)
class Pair:
    """Two linear ops, and the path from the second up to the first."""

    first: Linear
    second: Linear
    path: ScalePath


@dataclass(frozen=True)
class Equalize(Pass):
    """Equalizes the ranges of weights on both sides of each activation that one linear op makes and one reads.

    Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", arXiv 1906.04721, section
    4.1: with ``f(s x) = s f(x)``, ``W2 f(W1 x + b1) = (W2 S) f(S^-1 W1 x + S^-1 b1)``; ``s_i = sqrt(r1_i / r2_i)`` makes
    the largest weight that makes channel i as large as the largest that reads it, both ``sqrt(r1_i r2_i)``.

    The batch norms of the model are to be folded before. What changes is rounding alone: of each weight and bias once more
    (a factor of at most 1 + 2^-24 in float32), and of the accumulation. Against a product of depth K the outputs move by at
    most ``(K + 2) 2^-23 sum |w| |x|`` per layer.

    1. Pairs of linear ops with a scale path between them are scaled, chains of pairs together.

           Conv(Relu(Conv(x, W1, b1)), W2)       ->   Conv(Relu(Conv(x, W1 / s, b1 / s)), s W2)

    2. A Clip from zero to a bound lies on a path only with ``relax_clip``, where it becomes Relu as in the paper (another
       function), or ``split_clip``, where it becomes Relu and a Min with a bound per channel (one more node).

           Conv(Clip(Conv(x, W1), 0, 6), W2)     ->   Conv(Min(Relu(Conv(x, W1 / s)), 6 / s), s W2)

    3. A chain with a constant that would not fit its type stays; so does a pair with a weight that other nodes read too.

    Attributes:
        relax_clip: whether Clips become Relu.
        split_clip: whether Clips become Relu and Min.
    """

    name = "equalize"
    summary = "cross-layer equalization: the channels between two linear ops get the same range on both sides"

    relax_clip: bool = False
    split_clip: bool = False

    def __call__(self, document: Document) -> PassResult:  # noqa: D102
        known = infer(document)
        pairs = clips = 0
        refusals: Counter[str] = Counter()
        through_clips = self.relax_clip or (self.split_clip and document.opset >= 8)
        for editor in graph_editors(document):
            finder = ScalePathFinder(document, editor, known, through_clips=through_clips)
            for chain in _chains(_pairs(finder)):
                scales = _scales(document, chain)
                if _commit(finder, chain, scales, split_clip=not self.relax_clip):
                    pairs += len(chain)
                    clips += sum(len(pair.path.clips) for pair in chain)
                else:
                    refusals["a scaled constant would not fit its type"] += len(chain)
            editor.apply()
        if not pairs:
            return PassResult(refusals=refusals)
        note = f"{pairs} activations equalized between their linear ops"
        if clips:
            note += f", {clips} Clips {'relaxed to Relu' if self.relax_clip else 'split into Relu and Min'}"
        return PassResult(True, (note,), refusals)


def _pairs(finder: ScalePathFinder) -> list[Pair]:
    """Every activation that one linear op makes, directly or not, and one reads."""
    pairs = []
    for node in finder.editor.nodes:
        second = linear(finder.editor, node)
        if second is None or not second.takes_rows or finder.only_reader(node.input[0]) is not node:
            continue
        path = finder.path(node.input[0], second.inputs, second.axis)
        if isinstance(path, ScalePath) and path.end is not None and not shared_weight(finder.editor, [path.end, second]):
            pairs.append(Pair(path.end, second, path))
    return pairs


def _chains(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs that share linear ops, together: each op is the second of one pair at most, and the first of one."""
    after = {pair.first.node.output[0]: pair for pair in pairs}
    seconds = {pair.second.node.output[0] for pair in pairs}
    chains = []
    for pair in pairs:
        if pair.first.node.output[0] in seconds:
            continue
        chain = [pair]
        while (following := after.get(chain[-1].second.node.output[0])) is not None:
            chain.append(following)
        chains.append(chain)
    return chains


def _scales(document: Document, chain: list[Pair]) -> list[Doubles]:
    """The scale of each pair's channels, by going over the chain until nothing moves."""
    ops = [chain[0].first, *(pair.second for pair in chain)]
    # [groups, outputs, inputs]: only the largest weight of each kernel counts.
    sizes = [np.abs(op.blocks(document)).max(axis=3) for op in ops]
    scales = [np.ones(pair.path.channels) for pair in chain]
    for _ in range(_ROUNDS):
        moved = 0.0
        for i, pair in enumerate(chain):
            made_by = sizes[i].max(axis=2).reshape(-1)
            read_by = sizes[i + 1].max(axis=1).reshape(-1, pair.path.repeat).max(axis=1)
            with np.errstate(divide="ignore", invalid="ignore"):
                step = np.where((made_by > 0) & (read_by > 0), np.sqrt(made_by / read_by), 1.0)
            step = np.clip(scales[i] * step, 1 / LIMIT, LIMIT) / scales[i]
            scales[i] = scales[i] * step
            sizes[i] /= ops[i].per_output(step)[..., 0]
            sizes[i + 1] *= ops[i + 1].per_input(np.repeat(step, pair.path.repeat))[..., 0]
            moved = max(moved, float(np.abs(np.log(step)).max()))
        if moved < _CONVERGED:
            break
    return scales


def _commit(finder: ScalePathFinder, chain: list[Pair], scales: list[Doubles], *, split_clip: bool) -> bool:
    """Write the scaled weights and operands, if all of them fit their types."""
    document, editor = finder.document, finder.editor
    ops = [chain[0].first, *(pair.second for pair in chain)]
    changes: list[ConstantChange] = []
    for i, op in enumerate(ops):
        out = 1 / scales[i] if i < len(chain) else None
        into = np.repeat(scales[i - 1], chain[i - 1].path.repeat) if i else None
        scaled = op.scaled(document, editor, out, into)
        if scaled is None:
            return False
        changes += scaled
    for pair, scale in zip(chain, scales, strict=True):
        for operand in pair.path.operands:
            values = operand.scaled(1 / scale)
            if values is None:
                return False
            changes.append(ConstantChange(operand.node, operand.position, values))
    editor.set_constants(changes)
    for pair, scale in zip(chain, scales, strict=True):
        for clip in pair.path.clips:
            bound = clip_bounds(document, editor, clip.node)[1] / scale
            shaped = bound.astype(pair.first.dtype).reshape((-1,) + (1,) * (-1 - clip.axis))
            _open_clip(editor, clip.node, shaped if split_clip else None)
    return True


def _open_clip(editor: GraphEditor, node: onnx.NodeProto, bound: NDArray[Any] | None) -> None:
    """Relu in the place of a Clip from zero; with a bound, then Min."""
    output = node.output[0]
    relu = output if bound is None else editor.names.fresh(f"{output}_relu")
    editor.remove(node)
    editor.insert_before(node, [onnx.helper.make_node("Relu", [node.input[0]], [relu], name=node.name)])
    if bound is not None:
        constant = editor.add_constant(f"{output}_bound", bound)
        name = editor.names.fresh(f"{node.name or output}_bound")
        editor.insert_before(node, [onnx.helper.make_node("Min", [relu, constant], [output], name=name)])
