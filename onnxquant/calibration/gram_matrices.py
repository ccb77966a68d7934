"""Gram matrices of the inputs that weights are multiplied with: sums of x x^T over columns x, in the float model.

Where the mean error is corrected in a bias afterwards, the mean is subtracted from inputs: the codes of a weight then only
have to get the deviations right. A MatMul has no bias; there the mean counts. Zeros of a Conv's padding are data, too.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.stages import StagedModel
from onnxquant.graph.analysis.conv_windows import windows
from onnxquant.graph.io import Document
from onnxquant.graph.node import attribute, is_op
from onnxquant.numerics.arrays import Doubles
from onnxquant.recipe.progress import Progress, silent
from onnxquant.solvers.base import Inputs

MEMORY = 512 << 20
"""Bytes that the matrices of one run over the samples may take; if they take more, there are several runs."""
LARGEST = 288 << 20
"""Bytes of the largest matrix that is computed where no other bound is given: that of 6,144 columns."""
POSITIONS = 128
"""Number of output positions of a kernel that are used in one sample."""
SAMPLES = 64
"""Number of samples that are run."""

# Bytes of columns, of several samples, that are multiplied at once: the sum is read and written less often.
_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Reader:
    """A node that multiplies its first input with a constant weight, its second.

    Attributes:
        node: a Conv, Gemm or MatMul of the main graph.
        weight: name of the weight.
        dims: shape of the weight as the node sees it.
        centred: whether the mean of the inputs is subtracted.
    """

    node: onnx.NodeProto
    weight: str
    dims: tuple[int, ...]
    centred: bool = False


class GramMatrix(NamedTuple):
    """The Gram matrix of the inputs that a weight is multiplied with.

    Attributes:
        weight: name of the weight.
        matrix: [groups, cols, cols].
        inputs: number of inputs that it is summed over.
    """

    weight: str
    matrix: Doubles
    inputs: int


@dataclass(frozen=True)
class GramFile:
    """A Gram matrix in a file, and the number of inputs that it sums up."""

    path: Path
    count: int

    @classmethod
    def save(cls, path: Path, matrix: Doubles, count: int) -> Self:
        """Write the matrix to a new file."""
        np.save(path, matrix)
        return cls(path, count)

    def load(self) -> Inputs:
        """The matrix as solvers take it."""
        return Inputs(np.load(self.path), self.count)


def is_reader(node: onnx.NodeProto, position: int) -> bool:
    """Whether the inputs of a node that reads a weight in this position have a Gram matrix."""
    return is_op(node, "Conv", "Gemm", "MatMul") and position == 1 and not attribute(node, "transA", 0)


@dataclass(frozen=True)
class EarlierRun:
    """Files of earlier runs, by which stages whose weights are solved do not run again.

    Attributes:
        folder: folder for tensors between stages.
        is_solved: whether a weight needs no Gram matrix any more, by its name.
    """

    folder: Path
    is_solved: Callable[[str], bool]


def grams(
    document: Document,
    readers: Iterable[Reader],
    feeds: Feeds,
    *,
    memory: int = MEMORY,
    largest: int | None = None,
    threads: int | None = None,
    progress: Progress = silent,
    earlier_run: EarlierRun | None = None,
) -> Iterator[GramMatrix]:
    """Compute the Gram matrix of the inputs of each weight.

    Columns are in the order of the weight's own: a Conv's [channels of the group, kernel positions]. Weights whose matrices
    would be larger than ``largest`` are left out, those whose readers see them in different shapes, and those that no
    sample has inputs for. The model runs in stages, as many weights at a time as their matrices fit in memory.

    Args:
        document: the float model.
        readers: nodes that multiply with the weights.
        feeds: calibration samples; ``SAMPLES`` of them are run, and seeded ``POSITIONS`` of each are used.
        memory: bytes that the matrices of one stage may take; one that takes more has a stage of its own.
        largest: bytes of the largest matrix; None: ``LARGEST``.
        threads: number of threads of the session.
        progress: display of the part that is done.
        earlier_run: files of earlier runs; None: there are none, and none are left for later ones.

    Raises:
        ModelError: the model does not run on a sample.
    """
    sums_by_weight: dict[str, list[_GramSum]] = {}
    for reader in readers:
        sums_by_weight.setdefault(reader.weight, []).append(_GramSum(reader))
    makers = {name: place for place, node in enumerate(document.proto.graph.node) for name in node.output}
    inputs = {i.name for i in document.proto.graph.input}
    weights = sorted(
        (sums for sums in sums_by_weight.values() if _have_one_shape(sums, LARGEST if largest is None else largest)),
        key=lambda sums: max(makers.get(part.x, -1) for part in sums),
    )
    runs = list(_runs(weights, memory))
    shown = [list(dict.fromkeys(p.x for sums in run for p in sums if p.x not in inputs)) for run in runs]
    with ExitStack() as stack:
        if earlier_run is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="onnxquant-")))
        else:
            folder = earlier_run.folder
        model = StagedModel(document, shown, feeds, count=min(SAMPLES, len(feeds)), folder=folder, threads=threads)
        for number, run in enumerate(runs):
            if earlier_run and all(earlier_run.is_solved(sums[0].weight) for sums in run):
                continue
            # Of all runs, since work on their matrices lies between them.
            whole = partial(_part_of_runs, progress, number, len(runs))
            _observe(model, number, [part for sums in run for part in sums], min(SAMPLES, len(feeds)), whole)
            for sums in run:
                total = reduce(np.add, [part.result() for part in sums])
                if count := sum(part.count for part in sums):
                    yield GramMatrix(sums[0].weight, total, count)
                for part in sums:
                    part.forget()
                del total  # before the next one is made: it may be large
        model.remove()


def _part_of_runs(progress: Progress, number: int, count: int, stage: str, done: float, /) -> None:
    """Tell the progress in one run as a part of all.

    Args:
        progress: callback.
        number: place of the run.
        count: number of runs.
        stage: name of the stage.
        done: part of the run that is done.
    """
    progress(stage, (number + done) / count)


def samples_digest(feeds: Feeds) -> str:
    """Digest of the samples that matrices are made from."""
    digest = hashlib.blake2b(digest_size=16)
    for _, feed in zip(range(SAMPLES), feeds, strict=False):
        for name, value in sorted(feed.items()):
            array = np.asarray(value)
            digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
            digest.update(str(array.tolist()).encode() if array.dtype == object else array.tobytes())
    return digest.hexdigest()


def _have_one_shape(sums: list[_GramSum], largest: int) -> bool:
    """Whether the readers of a weight see it in one shape, and its matrices are small enough."""
    return len({part.shape for part in sums}) == 1 and sums[0].nbytes <= largest


def _runs(weights: Iterable[list[_GramSum]], memory: int) -> Iterator[list[list[_GramSum]]]:
    """Groups of weights whose sums fit in memory together."""
    run: list[list[_GramSum]] = []
    for sums in weights:
        if run and sum(part.nbytes for s in [*run, sums] for part in s) > memory:
            yield run
            run = []
        run.append(sums)
    if run:
        yield run


def _observe(model: StagedModel, number: int, sums: list[_GramSum], count: int, progress: Progress) -> None:
    """Let the sums see the inputs of one stage."""

    def see(sample: int, values: Mapping[str, Any]) -> None:
        for part in sums:
            part.add(values[part.x])
        progress("weighing inputs", (sample + 1) / count)

    model.run(number, see)


class _GramSum:
    """The matrices of one reader, while samples are added."""

    def __init__(self, reader: Reader) -> None:
        node, dims = reader.node, reader.dims
        self.node, self.x, self.weight = node, node.input[0], reader.weight
        self._dims, self._centred = dims, reader.centred
        groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
        rows_first = node.op_type == "Conv" or attribute(node, "transB", 0)
        # A MatMul of a weight of several matrices multiplies each with rows of its input: all of them count for all.
        cols = int(np.prod(dims[1:])) if rows_first else dims[-2]
        self.shape = (groups, cols, cols)
        self.forget()

    @property
    def nbytes(self) -> int:
        """Bytes of the sum."""
        return 8 * int(np.prod(self.shape, dtype=np.int64))

    def forget(self) -> None:
        """Begin again, and free the memory."""
        self._random = np.random.default_rng(0)
        self._pending: list[NDArray[Any]] = []
        self.count = 0
        # The mean of the first sample is subtracted, so that differences stay exact where the mean is large.
        self._shift: Doubles | None = None
        self._total: Any = 0.0
        self._products: Any = 0.0

    def add(self, x: NDArray[Any]) -> None:
        """Add one sample."""
        self._pending.append(self._columns(x))
        if sum(p.nbytes for p in self._pending) >= _BATCH_BYTES:
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
        self._products += x.swapaxes(1, 2) @ x  # in place: the sum may be large

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
