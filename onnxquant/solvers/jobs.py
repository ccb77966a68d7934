"""Solving many weights: one after the other, in processes, or on the workers of a cluster; results are kept in files.

A task names the files that its weight and its Gram matrix are in, so that workers on one file system read what they need
and nothing is shipped to them. What a file of results holds is found again by its content: work that was interrupted
goes on where it ended, and a worker that dies takes only its own task with it, which is done again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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

# How often work that died is begun again without a single weight done in between.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Task:
    """One weight to be solved.

    Attributes:
        name: of the weight.
        format: what it becomes.
        solver: how.
        weight: the float matrix [rows, cols] in the order in which columns are stored, or the ``.npy`` file it is in.
        gram: matrices [groups, cols, cols], or their file; None: its inputs are not known.
        count: of how many inputs they are.
        order: the column that each stored one is; None: they are stored as they are.
    """

    name: str
    format: Format
    solver: str
    weight: NDArray[Any] | Path
    gram: NDArray[np.float64] | Path | None = None
    count: int | None = None
    order: NDArray[np.int32] | None = None

    @property
    def key(self) -> str:
        """What its result is filed under: a digest of all that it depends on."""
        about = [__version__, self.name, self.format.name, self.format.settings(), self.solver, self.count]
        found = hashlib.blake2b(json.dumps(about, default=str).encode(), digest_size=16)
        for array in (self.weight, self.gram, self.order):
            if array is not None:
                found.update(np.ascontiguousarray(_array(array)).view(np.uint8).reshape(-1).data)
        return found.hexdigest()

    def solve(self) -> Encoded:
        """The encoded weight.

        Raises:
            WeightError: it holds NaN or infinity, or the format cannot hold it.
        """
        inputs = None if self.gram is None else Inputs(np.asarray(_array(self.gram)), self.count)
        weight = np.asarray(_array(self.weight))
        encoded = solver_named(self.solver).solve(self.format, weight, inputs)
        if self.order is None:
            return encoded
        form = encoded.format.with_(permuted=True)
        return replace(encoded, format=form, planes={**encoded.planes, "permutation": self.order})


def _array(source: NDArray[Any] | Path) -> NDArray[Any]:
    if not isinstance(source, Path):
        return source
    array: NDArray[Any] = np.load(source, mmap_mode="r")
    return array


class Results(Mapping[str, Encoded]):
    """Encoded weights by name, each read from its file when it is asked for.

    Args:
        folder: where the files are.
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
        """Those of the other weights."""
        found = Results(self.folder)
        found._files = {name: path for name, path in self._files.items() if name not in names}
        return found

    def file(self, task: Task) -> Path:
        """Where a task's result is filed."""
        return self.folder / f"{task.key}.npz"

    def take(self, task: Task) -> bool:
        """Whether a task's result is there; it is one of these then."""
        if found := (path := self.file(task)).exists():
            self._files[task.name] = path
        return found


def run(
    tasks: Sequence[Task], results: Results, jobs: int = 1, done: Callable[[Task], None] = lambda task: None
) -> None:
    """Solve tasks and file what comes out; those that are filed already are not solved again.

    A weight with values beyond the range of its format has no result.

    Args:
        tasks: each weight once.
        results: where to.
        jobs: at a time. Above 1 they run in processes, or where joblib has been told to (``joblib.parallel_config``), on a
            cluster; weights and matrices go to files in the results' folder, which workers must see under the same path.
        done: told of each task.

    Raises:
        WeightError: of a weight that cannot be encoded; its name is in the message.
    """
    left = {task.name: task for task in tasks}
    failures = 0
    while left:
        for name in [n for n, t in left.items() if results.take(t)]:
            done(left.pop(name))
        before = len(left)
        try:
            for name in _finished(list(left.values()), results, jobs):
                task = left.pop(name)
                results.take(task)
                done(task)
        except OnnxQuantError:
            raise
        except Exception:  # a worker that dies is told by another exception in each backend
            failures = failures + 1 if len(left) == before else 0
            if jobs == 1 or failures == _ATTEMPTS:
                raise


def _finished(tasks: Sequence[Task], results: Results, jobs: int) -> Iterator[str]:
    """Solve tasks; the name of each once it is filed."""
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
    """The task with its arrays in files."""
    weight, gram = (None if a is None else _file(a, folder) for a in (task.weight, task.gram))
    assert weight is not None
    return replace(task, weight=weight, gram=gram)


def _file(array: NDArray[Any] | Path, folder: Path) -> Path:
    if isinstance(array, Path):
        return array
    path = folder / f"{secrets.token_hex(8)}.npy"
    np.save(path, array)
    return path


def write(path: Path, encoded: Encoded, folder: Path | None = None) -> None:
    """Put an encoded weight into a file, whole or not at all.

    Args:
        path: the file.
        encoded: the weight.
        folder: on the same disk, for what is not whole yet; it goes away with whoever is stopped. None: the file's own.
    """
    about = {"format": encoded.format.name, "settings": encoded.format.settings(), "shape": encoded.shape}
    temporary = (folder or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with temporary.open("wb") as file:
            text = np.frombuffer(json.dumps(about | {"size": [encoded.rows, encoded.cols]}).encode(), np.uint8)
            np.savez(file, about=text, **{f"plane {n}": p for n, p in encoded.planes.items()})  # type: ignore[arg-type]
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Encoded:
    """An encoded weight from its file."""
    with np.load(path) as data:
        about = json.loads(data["about"].tobytes())
        form = format_named(about["format"]).with_(**about["settings"])
        planes = {n.removeprefix("plane "): data[n] for n in data.files if n != "about"}
    rows, cols = about["size"]
    return Encoded(form, rows, cols, planes, tuple(about["shape"]))
