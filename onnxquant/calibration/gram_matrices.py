"""Gram matrices of what weights are multiplied with: sums of x x^T over columns x of the float model's inputs.

Where a bias takes up the mean error afterwards (``bias``), inputs count less their mean: only what varies is left for the
weight's codes to get right. A MatMul has no bias; there the mean counts. Zeros of a Conv's padding are data like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant import runtime
from onnxquant.calibration.feeds import Feeds
from onnxquant.graph.analysis.conv_windows import windows
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op

Doubles = NDArray[np.float64]
Progress = Callable[[str, float], None]
MEMORY = 512 << 20
"""Bytes that the matrices of one run over the samples may take; more take several runs."""
LARGEST = 288 << 20
"""Bytes of the largest matrix that is made: that of 6,144 columns."""
POSITIONS = 128
"""Output positions of a kernel that are looked at in one sample."""
SAMPLES = 64

# Bytes of columns, of several samples, that are multiplied together: the sum is read and written less often.
_TOGETHER = 4 << 20


@dataclass(frozen=True)
class Reader:
    """A node that multiplies its first input with a constant weight, its second.

    Attributes:
        node: a Conv, Gemm or MatMul of the main graph.
        weight: name of the weight.
        dims: its shape as the node sees it.
        centred: inputs count less their mean.
    """

    node: onnx.NodeProto
    weight: str
    dims: tuple[int, ...]
    centred: bool = False


def is_reader(node: onnx.NodeProto, position: int) -> bool:
    """Whether inputs of a node that reads a weight in this position can be weighed."""
    return is_op(node, "Conv", "Gemm", "MatMul") and position == 1 and not attribute(node, "transA", 0)


def grams(
    document: Document,
    readers: Iterable[Reader],
    feeds: Feeds,
    *,
    memory: int = MEMORY,
    threads: int | None = None,
    progress: Progress = lambda stage, done: None,
) -> Iterator[tuple[str, Doubles, int]]:
    """The name of each weight, its matrices [groups, cols, cols], and of how many inputs they are.

    Columns are in the order of the weight's own: a Conv's [channels of the group, kernel positions]. Weights whose matrices
    would be larger than ``LARGEST`` are left out, and those that readers see as different ones.

    Args:
        document: the float model.
        readers: what multiplies with the weights.
        feeds: calibration samples; ``SAMPLES`` of them are run, and seeded ``POSITIONS`` of each looked at.
        memory: as of ``MEMORY``.
        threads: of the session.
        progress: told what is done.

    Raises:
        ModelError: the model does not run on a sample.
    """
    found: dict[str, list[_Sum]] = {}
    for reader in readers:
        found.setdefault(reader.weight, []).append(_Sum(reader))
    with runtime.extendable(document, threads) as source:
        for sums in _runs([s for s in found.values() if _alike(s)], memory):
            _observe(source, [one for same in sums for one in same], feeds, progress)
            for same in sums:
                total = reduce(np.add, [one.result() for one in same])
                yield same[0].weight, total, sum(one.count for one in same)
                for one in same:
                    one.forget()


def _alike(sums: list[_Sum]) -> bool:
    """Whether readers that share a weight see it as the same small enough matrices."""
    return len({one.shape for one in sums}) == 1 and sums[0].nbytes <= LARGEST


def _runs(sums: Iterable[list[_Sum]], memory: int) -> Iterator[list[list[_Sum]]]:
    run: list[list[_Sum]] = []
    for same in sums:
        if run and sum(one.nbytes for s in [*run, same] for one in s) > memory:
            yield run
            run = []
        run.append(same)
    if run:
        yield run


def _observe(source: runtime.ExtendableModel, sums: list[_Sum], feeds: Feeds, progress: Progress) -> None:
    graph = source.document.proto.graph
    inputs, shown = {i.name for i in graph.input}, {o.name for o in graph.output}
    wanted = list(dict.fromkeys(one.x for one in sums if one.x not in inputs))  # onnxruntime gives no input back
    session = source.session(runtime.output_addition(n for n in wanted if n not in shown))
    count = min(SAMPLES, len(feeds))
    for i, feed in zip(range(count), feeds, strict=False):
        seen: Mapping[str, Any] = {**feed, **runtime.run(session, feed, wanted)}
        for one in sums:
            one.add(seen[one.x])
        progress("weighing inputs", (i + 1) / count)


class _Sum:
    """The matrices of one reader, while they are summed up."""

    def __init__(self, reader: Reader) -> None:
        node, dims = reader.node, reader.dims
        self.node, self.x, self.weight = node, node.input[0], reader.weight
        self._dims, self._centred = dims, reader.centred
        groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
        rows_first = node.op_type == "Conv" or attribute(node, "transB", 0)
        cols = int(np.prod(dims[1:])) if rows_first else dims[0]
        self.shape = (groups, cols, cols)
        self.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of the sum."""
        return 8 * int(np.prod(self.shape, dtype=np.int64))

    def forget(self) -> None:
        """Begin anew, without memory."""
        self._random = np.random.default_rng(0)
        self._pending: list[NDArray[Any]] = []
        self.count = 0
        # Values less a constant one keep their differences where their mean is large: that of the first sample.
        self._shift: Doubles | None = None
        self._total: Any = 0.0
        self._products: Any = 0.0

    def add(self, x: NDArray[Any]) -> None:
        """One more sample."""
        self._pending.append(self._columns(x))
        if sum(p.nbytes for p in self._pending) >= _TOGETHER:
            self._flush()

    def result(self) -> Doubles:
        """The matrices."""
        self._flush()
        products = np.broadcast_to(np.asarray(self._products, np.float64), self.shape)
        if not self.count or not self._centred:
            return products
        centred: Doubles = products - self._total[:, :, None] * self._total[:, None] / self.count
        return centred

    def _flush(self) -> None:
        if not sum(p.shape[1] for p in self._pending):
            return
        x = np.concatenate(self._pending, axis=1).astype(np.float64)
        self._pending = []
        if self._centred:
            self._shift = x.mean(1, keepdims=True) if self._shift is None else self._shift
            x -= self._shift
        self.count += x.shape[1]
        self._total = self._total + x.sum(1)
        self._products = self._products + x.swapaxes(1, 2) @ x

    def _columns(self, x: NDArray[Any]) -> NDArray[Any]:
        """Inputs at some positions: [groups, positions, cols]."""
        groups, cols, _ = self.shape
        if self.node.op_type != "Conv":
            flat = x.reshape(-1, cols)
            return flat[self._choose(len(flat))][None]
        read = windows(self.node, x, self._dims, self._choose)
        positions, taps, _ = read.shape
        return read.reshape(positions, taps, groups, -1).transpose(2, 0, 3, 1).reshape(groups, positions, cols)

    def _choose(self, total: int) -> NDArray[np.intp]:
        return np.sort(self._random.permutation(total)[:POSITIONS])
