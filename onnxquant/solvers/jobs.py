"""Many weights solved one after the other, in processes, or on the workers of a cluster. Results are files.

A task names the files of its weight and its Gram matrix. Workers on one file system read these themselves, and nothing is
sent to them. The name of a result's file is a digest of everything that the result depends on: interrupted work goes on
where it ended, and if a worker dies only its own task is done again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from onnxquant.errors import OnnxQuantError, RangeError, WeightError
from onnxquant.formats import format_named
from onnxquant.formats.base import Encoded, Format
from onnxquant.solvers import solver_named
from onnxquant.solvers.base import Inputs
from onnxquant.version import __version__

# Number of starts without a single finished weight in between, after which a dying worker is an error.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
    """One weight to be solved.

    Attributes:
        name: name of the weight.
        format: format that it is encoded in.
        solver: name of the solver.
        weight: the float matrix [rows, cols] in the order in which columns are stored, or the ``.npy`` file it is in.
        gram: Gram matrices [groups, cols, cols], or their file; None: its inputs are not known.
        count: number of inputs in the Gram matrices.
        order: the original column of each stored one; None: columns keep their order.
        origin: digest of what the Gram matrices are made of; empty: the result is known by the matrices themselves.
        keeps_zeros: whether weights that are zero stay zero.
    """

    name: str
    format: Format
    solver: str
    weight: NDArray[Any] | Path
    gram: NDArray[np.float64] | Path | None = None
    count: int | None = None
    order: NDArray[np.int32] | None = None
    origin: str = ""
    keeps_zeros: bool = False

    @cached_property
    def key(self) -> str:
        """Digest of everything that the result depends on."""
        count = None if self.origin else self.count
        settings = [__version__, self.name, self.format.name, self.format.settings(), self.solver, count, self.origin]
        settings += ["keeps zeros"] if self.keeps_zeros else []
        digest = hashlib.blake2b(json.dumps(settings, default=str).encode(), digest_size=16)
        for array in (self.weight, None if self.origin else self.gram, self.order):
            if array is not None:
                digest.update(np.ascontiguousarray(_array(array)).view(np.uint8).reshape(-1).data)
        return digest.hexdigest()

    def solve(self) -> Encoded:
        """The encoded weight.

        Raises:
            WeightError: it holds NaN or infinity, or the format cannot hold it.
        """
        inputs = None if self.gram is None else Inputs(np.asarray(_array(self.gram)), self.count)
        weight = np.asarray(_array(self.weight))
        solver = replace(solver_named(self.solver), keeps_zeros=self.keeps_zeros)
        encoded = solver.solve(self.format, weight, inputs)
        if self.order is None:
            return encoded
        return encoded.with_order(self.order)


def _array(source: NDArray[Any] | Path) -> NDArray[Any]:
    if not isinstance(source, Path):
        return source
    array: NDArray[Any] = np.load(source, mmap_mode="r")
    return array


class Results(Mapping[str, Encoded]):
    """Encoded weights by name, each read from its file on access.

    Args:
        folder: folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, Path] = {}

    def __getitem__(self, name: str) -> Encoded:
        return read(self._files[name])

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def without(self, names: Container[str]) -> Results:
        """The results of the other weights."""
        others = Results(self.folder)
        others._files = {name: path for name, path in self._files.items() if name not in names}
        return others

    def file(self, task: Task) -> Path:
        """The file of a task's result."""
        return self.folder / f"{task.key}.npz"

    def take(self, task: Task) -> bool:
        """Add the result of a task if its file exists; whether it does."""
        path = self.file(task)
        exists = path.exists()
        if exists:
            self._files[task.name] = path
        return exists


def run(
    tasks: Sequence[Task], results: Results, jobs: int = 1, done: Callable[[Task], None] = lambda task: None
) -> None:
    """Solve tasks and write their results to files; tasks with a file are not solved again.

    A weight with values beyond the range of its format has no result.

    Args:
        tasks: tasks with a weight each.
        results: results that are added to.
        jobs: number of tasks at a time. Above 1 they run in processes, or on a cluster if joblib is set up for one
            (``joblib.parallel_config``). Weights and matrices are then written to the results' folder, which workers
            must see under the same path.
        done: callback for each finished task.

    Raises:
        WeightError: a weight cannot be encoded; its name is in the message.
    """
    remaining = {task.name: task for task in tasks}
    failures = 0
    while remaining:
        for name in [n for n, t in remaining.items() if results.take(t)]:
            done(remaining.pop(name))
        before = len(remaining)
        try:
            for name in _finished(list(remaining.values()), results, jobs):
                task = remaining.pop(name)
                results.take(task)
                done(task)
        except OnnxQuantError:
            raise
        except Exception:  # each backend raises another exception when a worker dies
            failures = failures + 1 if len(remaining) == before else 0
            if jobs == 1 or failures == _ATTEMPTS:
                raise


def _finished(tasks: Sequence[Task], results: Results, jobs: int) -> Iterator[str]:
    """Solve tasks; yields the name of each once its result is written."""
    if jobs == 1:
        yield from (_solve(task, results.file(task)) for task in tasks)
        return
    with tempfile.TemporaryDirectory(prefix="inputs-", dir=results.folder, ignore_cleanup_errors=True) as folder:
        filed = [_filed(task, Path(folder)) for task in tasks]
        yield from Parallel(n_jobs=jobs, return_as="generator_unordered")(
            delayed(_solve)(task, results.file(original), Path(folder))
            for task, original in zip(filed, tasks, strict=True)
        )


def _solve(task: Task, file: Path, folder: Path | None = None) -> str:
    try:
        write(file, task.solve(), folder)
    except RangeError:
        pass
    except WeightError as error:
        raise WeightError(f"weight {task.name!r} {error}") from None
    return task.name


def _filed(task: Task, folder: Path) -> Task:
    """A copy of the task with its arrays in files."""
    gram = None if task.gram is None else _file(task.gram, folder)
    return replace(task, weight=_file(task.weight, folder), gram=gram)


def _file(array: NDArray[Any] | Path, folder: Path) -> Path:
    if isinstance(array, Path):
        return array
    path = folder / f"{secrets.token_hex(8)}.npy"
    np.save(path, array)
    return path


def write(path: Path, encoded: Encoded, folder: Path | None = None) -> None:
    """Write an encoded weight to a file, whole or not at all.

    Args:
        path: the file.
        encoded: the weight.
        folder: folder on the same disk for the unfinished file, removed when the work is interrupted; None: that of the file.
    """
    header = {"format": encoded.format.name, "settings": encoded.format.settings(), "shape": encoded.shape}
    temporary = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as file:
            text = np.frombuffer(json.dumps(header | {"size": [encoded.rows, encoded.cols]}).encode(), np.uint8)
            np.savez(file, about=text, **{f"plane {n}": p for n, p in encoded.planes.items()})  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Encoded:
    """An encoded weight from its file."""
    with np.load(path) as data:
        header = json.loads(data["about"].tobytes())
        form = format_named(header["format"]).with_(**header["settings"])
        rows, cols = header["size"]
        # numpy writes element types that are not its own as raw bytes.
        kinds = {name: plane.dtype for name, plane in form.planes(rows, cols).items()}
        planes = {name: data[f"plane {name}"].view(kind) for name, kind in kinds.items()}
    return Encoded(form, rows, cols, planes, tuple(header["shape"]))
