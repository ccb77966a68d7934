"""Statistics of a float model's tensors, in memory and in one file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any, Self

from onnxquant.calibration import archive
from onnxquant.calibration.feeds import SampleOrigin
from onnxquant.errors import StatisticsError, nearest
from onnxquant.json_data import from_json, to_json
from onnxquant.observers import RangeObserver, accumulator_key, join, make, observer_named, ranging
from onnxquant.observers.base import Accumulator, ActivationGrid, Observer, ObserverState
from onnxquant.version import __version__

KIND, PARTIAL = "statistics", "the checkpoint of an interrupted run"
VERSION = 1


@dataclass
class Statistics:
    """The observers of a model's tensors, after they have seen samples.

    Attributes:
        model: digest of the float model (``graph.identity.digest``).
        observers: observers by tensor and by name; those of a tensor share accumulators.
        samples: number of samples.
        sources: origins of the samples, one per run.
        skipped: reasons by tensor that could not be observed.
    """

    model: str
    observers: dict[str, dict[str, Observer[Any]]] = field(default_factory=dict)
    samples: int = 0
    sources: list[SampleOrigin] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, observers: Mapping[str, Iterable[str]]) -> Self:
        """Empty statistics with new observers.

        Args:
            model: digest of the model.
            observers: names of observers by tensor.
        """
        return cls(model, {tensor: make(names) for tensor, names in observers.items()})

    @property
    def synthetic(self) -> bool:
        """Whether some of the samples are synthetic."""
        return any(source.is_synthetic for source in self.sources)

    def accumulators(self, tensor: str) -> dict[str, Accumulator]:
        """The accumulators of a tensor, by kind.

        Raises:
            StatisticsError: there are none.
        """
        if tensor not in self.observers:
            raise StatisticsError(f"no range is known of tensor {tensor!r}: {self._reason_for_no_range(tensor)}")
        return {accumulator_key(name): o.accumulated for name, o in self.observers[tensor].items()}

    def _reason_for_no_range(self, tensor: str) -> str:
        """The reason why a tensor has no statistics, and what to do about it."""
        if reason := self.skipped.get(tensor):
            return f"it {reason}; leave what reads it in float (exclude)"
        return f"its values were not collected{nearest(tensor, list(self.observers))}"

    def has_range(self, tensor: str) -> bool:
        """Whether the tensor was observed, and a sample had values of it."""
        observers = self.observers.get(tensor, {}).values()
        return any(isinstance(observer, RangeObserver) and observer.count for observer in observers)

    def range(self, tensor: str, method: str, grid: ActivationGrid, **parameters: object) -> tuple[float, float]:
        """The clipping range of a tensor, by any method whose statistic was collected.

        Args:
            tensor: name of the tensor.
            method: name of a calibration method, one of ``observers.ranging()``.
            grid: codes that the range is for.
            parameters: parameters of the method: ``percentile``, ``k``.

        Raises:
            StatisticsError: unknown tensor or method, the statistic is missing, or no values were seen.
        """
        cls = observer_named(method)
        if not issubclass(cls, RangeObserver):
            raise StatisticsError(f"{method} gives no range; those that do: {', '.join(ranging())}")
        accumulators = self.accumulators(tensor)
        if cls.accumulator.kind not in accumulators:
            methods = [m for m in ranging() if observer_named(m).accumulator.kind in accumulators]
            raise StatisticsError(
                f"tensor {tensor!r}: {method} needs a {cls.accumulator.kind} statistic, which was not collected; "
                f"collected for {', '.join(methods) or 'no method that gives ranges'}"
            )
        try:
            return cls(accumulators[cls.accumulator.kind], **parameters).range(grid)
        except StatisticsError as error:
            raise StatisticsError(f"tensor {tensor!r}: {error}") from None
        except TypeError:
            raise StatisticsError(f"{method} has no parameter {', '.join(parameters)}") from None

    def check(self, model: str, name: str) -> None:
        """Check that these are statistics of a model.

        Args:
            model: digest of the model.
            name: name of the model, for messages.

        Raises:
            StatisticsError: these are statistics of another model.
        """
        if model != self.model:
            raise StatisticsError(
                f"the statistics are of another model ({self.model[:12]}) than {name} ({model[:12]}): its graph or its "
                f"weights differ; calibrate again"
            )

    @staticmethod
    def merge(a: Statistics, b: Statistics) -> Statistics:
        """The statistics of the samples of both. The order does not matter: they are the same as those of one run.

        Raises:
            StatisticsError: they are of different models, tensors or observers.
        """
        b.check(a.model, "the one to merge with")
        skipped = {**b.skipped, **a.skipped}
        names = [{t: sorted(o) for t, o in s.observers.items() if t not in skipped} for s in (a, b)]
        if names[0] != names[1]:
            differ = sorted(t for t in {**names[0], **names[1]} if names[0].get(t) != names[1].get(t))
            texts = " and ".join(", ".join(n.get(differ[0], ["none"])) for n in names)
            raise StatisticsError(f"the statistics differ in what they observe: of tensor {differ[0]!r} {texts}")
        out = Statistics(a.model, {}, a.samples + b.samples, a.sources + b.sources, skipped)
        for tensor in names[0]:
            states = {key: accumulator.state() for key, accumulator in a.accumulators(tensor).items()}
            out.observers[tensor] = _restored(list(a.observers[tensor]), states)
            for key, accumulator in out.accumulators(tensor).items():
                accumulator.merge(b.accumulators(tensor)[key])
        return out

    @staticmethod
    def merge_all(parts: Sequence[Statistics]) -> Statistics:
        """The statistics of the samples of all parts."""
        return reduce(Statistics.merge, parts)

    def save(self, path: str | Path) -> None:
        """Write one file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        self.write(Path(path), KIND, {})

    def write(self, path: Path, kind: str, extra: Mapping[str, Any]) -> None:
        """Write a file.

        Args:
            path: the file.
            kind: kind of its contents: ``KIND`` or ``PARTIAL``.
            extra: further entries of its header.
        """
        arrays = {
            f"{i}.{key}.{part}": array
            for i, tensor in enumerate(self.observers)
            for key, accumulator in self.accumulators(tensor).items()
            for part, array in accumulator.state().items()
        }
        header = {
            "kind": kind,
            "version": VERSION,
            "written_by": f"onnxquant {__version__}",
            "model": self.model,
            "samples": self.samples,
            "sources": to_json(self.sources),
            "skipped": self.skipped,
            "synthetic": self.synthetic,
            "tensors": [[tensor, list(observers)] for tensor, observers in self.observers.items()],
            **extra,
        }
        archive.write(path, header, arrays)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that ``save`` wrote.

        Raises:
            StatisticsError: missing, damaged, something else, or of another version.
        """
        return cls.read(Path(path), KIND)[0]

    @classmethod
    def read(cls, path: Path, kind: str) -> tuple[Self, dict[str, Any]]:
        """Statistics and the header of a file of a kind.

        Raises:
            StatisticsError: missing, damaged, something else, or of another version.
        """
        header, arrays = archive.read(path, kind, VERSION)
        states: dict[int, dict[str, ObserverState]] = {}
        try:
            for name, array in arrays.items():
                index, rest = name.split(".", 1)
                key, part = rest.rsplit(".", 1)
                states.setdefault(int(index), {}).setdefault(key, {})[part] = array
            observers = {t: _restored(names, states.get(i, {})) for i, (t, names) in enumerate(header["tensors"])}
            sources = from_json(list[SampleOrigin], header["sources"])
            out = cls(header["model"], observers, header["samples"], sources, header["skipped"])
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise StatisticsError(f"{path}: damaged: {type(error).__name__} {error}") from None
        return out, header


def _restored(names: Iterable[str], states: Mapping[str, ObserverState]) -> dict[str, Observer[Any]]:
    """Observers over accumulators with these states, by name."""
    shared: dict[str, Accumulator] = {}
    for name in names:
        key = accumulator_key(name)
        shared[key] = observer_named(name.partition(":")[0]).accumulator.from_state(states[key])
    return {name: join(name, shared) for name in names}
