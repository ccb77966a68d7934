"""The time of a model by operator and by node, from the trace of its runs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median, median_low
from typing import TypeAlias

import onnx

from onnxquant import runtime
from onnxquant.errors import ModelError
from onnxquant.graph.traverse import nodes
from onnxquant.inspect.node_labels import NodeLabels
from onnxquant.inspect.not_integer import NotInteger, TimedNode, not_integer
from onnxquant.json_data import OPTIONAL

# Steady runs that are enough, and the factor by which they may take longer than the processor worked on them.
_FEWEST, _STEADY = 5, 1.05

_Key: TypeAlias = int | tuple[str, str]


@dataclass(frozen=True)
class OperatorTime:
    """The nodes of one operator.

    Attributes:
        operator: the operator as it ran, after onnxruntime's fusions; with its domain where that is not ONNX's own.
        nodes: number of nodes that ran.
        calls: calls in a run; a node of a loop has several.
        seconds: their time in a run.
        share: its part of the time of all operators.
    """

    operator: str
    nodes: int
    calls: int
    seconds: float
    share: float


@dataclass(frozen=True)
class ProfiledNode:
    """One node.

    Attributes:
        name: its name, as onnxruntime calls it.
        operator: its operator, as of ``OperatorTime``.
        origin: the node of the file that it comes from, or the tensor which that gives; None: not known.
        inputs: type and shape of the tensors that it read; weights that its kernel has packed are not among them.
        calls: calls in a run.
        seconds: time in a run; that of the nodes in its subgraphs is theirs.
        share: its part of the time of all operators.
    """

    name: str
    operator: str
    origin: str | None
    inputs: tuple[str, ...]
    calls: int
    seconds: float
    share: float


@dataclass(frozen=True)
class ModelProfile:
    """The time of one model in a run, by operator and by node; times are medians.

    With one thread the times of whole runs are processor time, to which other processes add nothing; the calls of operators
    are timed by the clock on the wall, and so is all with more threads.

    Attributes:
        model: the file, or the decoder folder.
        seconds: time of a run that nothing watches.
        operator_seconds: time of all operators in a run with the profiler, some of whose own time is in each call.
        outside_seconds: the rest of the run: what no operator did. None: there is none, as the operators of a run with the
            profiler take longer than a run without it.
        profiled_seconds: time of a run with the profiler.
        runs: number of runs, with the profiler and without.
        steady_runs: those with the profiler in which no other process took the processor. The calls of these count; where
            they are fewer than 5, the lower quartiles of all.
        threads: number of threads.
        operators: operators, the longest first.
        nodes: nodes, the longest first.
        not_integer: time in floats of a model that computes on integers; None: it does not, or there is no such time.
        part: the part of a decoder's work that a run is; None: it is a sample.
        samples: steps from images or texts to the inputs; None: the sample was an array.
    """

    model: str
    seconds: float
    operator_seconds: float
    outside_seconds: float | None
    profiled_seconds: float
    runs: int
    steady_runs: int
    threads: int
    operators: tuple[OperatorTime, ...]
    nodes: tuple[ProfiledNode, ...]
    not_integer: NotInteger | None = None
    part: str | None = field(default=None, metadata=OPTIONAL)
    samples: str | None = field(default=None, metadata=OPTIONAL)

    @property
    def is_disturbed(self) -> bool:
        """Whether other processes took the processor in most runs, so that times are uncertain."""
        return self.steady_runs < min(_FEWEST, self.runs)


@dataclass(frozen=True)
class TimedRuns:
    """The runs of one model.

    Attributes:
        plain: seconds of runs that nothing watched.
        watched: seconds of runs with the profiler.
        traced: these runs, by the clock on the wall.
    """

    plain: Sequence[float]
    watched: Sequence[float]
    traced: Sequence[runtime.Run]


def operator_times(
    model: onnx.ModelProto, optimized: onnx.ModelProto, runs: TimedRuns, threads: int, name: str = ""
) -> ModelProfile:
    """The profile of a model.

    Args:
        model: the model.
        optimized: the graph that onnxruntime runs.
        runs: its runs, the first ones left out.
        threads: number of threads.
        name: path of the model.

    Raises:
        ModelError: no run was traced.
    """
    if not runs.traced:
        raise ModelError(f"{name}: its trace holds no run: a run has more calls than onnxruntime's profiler keeps")
    steady = _steady(runs) if threads == 1 else runs.traced
    is_quiet = len(steady) >= min(_FEWEST, len(runs.traced))
    nodes_of_runs = _timed(steady, optimized, median) if is_quiet else _timed(runs.traced, optimized, _lower_quartile)
    timed = sorted(nodes_of_runs, key=lambda node: (-node.seconds, node.name))
    total = sum(node.seconds for node in timed)
    labels, seconds = NodeLabels(model), median(runs.plain)
    return ModelProfile(
        model=name,
        seconds=seconds,
        operator_seconds=total,
        outside_seconds=seconds - total if seconds > total else None,
        profiled_seconds=median(runs.watched),
        runs=len(runs.watched),
        steady_runs=len(steady),
        threads=threads,
        operators=tuple(_operators(timed, total)),
        nodes=tuple(_node(node, labels, total) for node in timed),
        not_integer=not_integer(timed, model),
    )


def _steady(runs: TimedRuns) -> list[runtime.Run]:
    """The runs that took hardly longer by the clock on the wall than the processor worked on them.

    A call in which another process gets the processor lasts as long as that process works.
    """
    pairs = zip(runs.traced, runs.watched, strict=False)
    return [run for run, seconds in pairs if run.seconds <= _STEADY * seconds]


def _lower_quartile(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 4]


def _timed(
    runs: Sequence[runtime.Run], optimized: onnx.ModelProto, typical: Callable[[Sequence[float]], float]
) -> list[TimedNode]:
    """The nodes that ran.

    Args:
        runs: the runs.
        optimized: the graph that onnxruntime runs.
        typical: function that returns the time of a node from its times in the runs.
    """
    operators = defaultdict[str, set[str]](set)
    for node in nodes(optimized):
        operators[node.op_type].add(runtime.op_name(node))
    calls = dict[_Key, runtime.Call]()
    seconds = defaultdict[_Key, list[float]](list)
    numbers = defaultdict[_Key, list[int]](list)
    for run in runs:
        sums, counts = defaultdict[_Key, float](float), Counter[_Key]()
        for call in run.calls:
            key = (call.name, call.op) if call.node is None else id(call.node)
            calls[key] = call
            sums[key] += call.seconds
            counts[key] += 1
        for key, count in counts.items():
            seconds[key].append(sums[key])
            numbers[key].append(count)
    return [
        TimedNode(
            call=call,
            operator=_operator(call, operators[call.op]),
            calls=median_low(numbers[key]),
            seconds=typical(seconds[key]),
        )
        for key, call in calls.items()
    ]


def _operator(call: runtime.Call, names: Iterable[str]) -> str:
    """The operator of a call with its domain, which the trace does not have."""
    if call.node is not None:
        return runtime.op_name(call.node)
    domains = list(names)
    return domains[0] if len(domains) == 1 else call.op


def _operators(timed: Sequence[TimedNode], total: float) -> list[OperatorTime]:
    by_operator = defaultdict[str, list[TimedNode]](list)
    for node in timed:
        by_operator[node.operator].append(node)
    times = []
    for operator, timed_nodes in by_operator.items():
        seconds = sum(node.seconds for node in timed_nodes)
        calls = sum(node.calls for node in timed_nodes)
        times.append(OperatorTime(operator, len(timed_nodes), calls, seconds, seconds / (total or 1.0)))
    return sorted(times, key=lambda time: (-time.seconds, time.operator))


def _node(node: TimedNode, labels: NodeLabels, total: float) -> ProfiledNode:
    return ProfiledNode(
        name=node.name,
        operator=node.operator,
        origin=labels.origin(runtime.NodeTime(node.name, node.call.op, node.seconds)),
        inputs=tuple(f"{tensor.type} {list(tensor.shape)}" for tensor in node.call.inputs),
        calls=node.calls,
        seconds=node.seconds,
        share=node.seconds / (total or 1.0),
    )
