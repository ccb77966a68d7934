"""The trace of a session: each call of each node, as onnxruntime's profiler writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from onnxquant.graph.traverse import subgraphs
from onnxquant.runtime.sessions import Session, SessionOptions, write_optimized

_KERNEL = "_kernel_time"
_OPTIMIZED = "optimized.onnx"
# A name in the profiles of releases that write it as it is.
_NAME = re.compile(r'"name" :"(?P<name>.*?)","args" : \{', re.DOTALL)


@dataclass(frozen=True)
class TracedTensor:
    """Element type, as onnxruntime spells it, and shape of a tensor that a call read or gave."""

    type: str
    shape: tuple[int, ...]


@dataclass
class Call:
    """One call of a node.

    Attributes:
        name: the node's name; an unnamed node has its operator and a number.
        op: its operator, without the domain.
        seconds: time of the call, without that of the calls inside.
        inputs: tensors that it read; weights that the kernel has packed are not among them.
        outputs: tensors that it gave.
        inside: calls of the nodes of its subgraphs.
        node: the node of the optimized graph; None: not known.
        graph: the graph which that is a node of.
    """

    name: str
    op: str
    seconds: float
    inputs: tuple[TracedTensor, ...]
    outputs: tuple[TracedTensor, ...]
    inside: list[Call] = field(default_factory=list)
    node: onnx.NodeProto | None = None
    graph: onnx.GraphProto | None = None

    def all(self) -> list[Call]:
        """The call and those inside of it."""
        return [self, *(inner for call in self.inside for inner in call.all())]


@dataclass(frozen=True)
class Run:
    """One run of a model.

    Attributes:
        seconds: time of the run by the clock on the wall, the profiler's own included.
        calls: every call, those inside of others too.
    """

    seconds: float
    calls: tuple[Call, ...]


@dataclass(frozen=True)
class Trace:
    """The runs of a session, and the graph that it ran."""

    runs: tuple[Run, ...]
    graph: onnx.ModelProto


def trace_into(options: SessionOptions, folder: Path) -> None:
    """Let a session write a trace of its runs, and the graph that it runs, into a folder."""
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    write_optimized(options, folder / _OPTIMIZED)


def end_trace(session: Session, folder: Path) -> Trace:
    """The trace of a session that ``trace_into`` prepared; its further runs are not traced."""
    graph = onnx.load(str(folder / _OPTIMIZED), load_external_data=False)
    text = Path(session.end_profiling()).read_text(encoding="utf-8", errors="replace")
    return Trace(runs_of(events_of(text), graph.graph), graph)


def events_of(text: str) -> list[dict[str, Any]]:
    """The events of a profile, also of releases that write names as they are, with quotes and line ends in them."""
    try:
        events = json.loads(text)
    except ValueError:
        quoted = _NAME.sub(lambda match: f'"name" :{json.dumps(match["name"])},"args" : {{', text)
        events = json.loads(quoted)
    return [event for event in events if isinstance(event, dict)]


def runs_of(events: Sequence[Mapping[str, Any]], graph: onnx.GraphProto | None = None) -> tuple[Run, ...]:
    """The runs in a profile.

    Args:
        events: its events.
        graph: the optimized graph, whose nodes the calls get; None: they get none.
    """
    ordered = sorted(events, key=lambda event: (int(event.get("ts", 0)), -int(event.get("dur", 0))))
    calls = [event for event in ordered if event.get("cat") == "Node" and str(event["name"]).endswith(_KERNEL)]
    runs, place = [], 0
    for event in ordered:
        if event.get("cat") != "Session" or event.get("name") != "model_run":
            continue
        begin, end = int(event["ts"]), int(event["ts"]) + int(event["dur"])
        while place < len(calls) and int(calls[place]["ts"]) < begin:
            place += 1
        first = place
        while place < len(calls) and int(calls[place]["ts"]) < end:
            place += 1
        outer = _nested(calls[first:place])
        if graph is not None:
            _assign(outer, [graph])
        runs.append(Run(1e-6 * int(event["dur"]), tuple(inner for call in outer for inner in call.all())))
    return tuple(runs)


def _nested(events: Sequence[Mapping[str, Any]]) -> list[Call]:
    """The calls of one run, those of subgraphs inside of the node that runs them."""
    outer = list[Call]()
    around = list[tuple[int, Call]]()  # calls that are not over, with their ends
    for event in events:
        begin, microseconds = int(event["ts"]), int(event["dur"])
        while around and begin >= around[-1][0]:
            around.pop()
        arguments = event.get("args", {})
        call = Call(
            str(event["name"]).removesuffix(_KERNEL),
            str(arguments.get("op_name", "")),
            1e-6 * microseconds,
            _tensors(arguments.get("input_type_shape", ())),
            _tensors(arguments.get("output_type_shape", ())),
        )
        if around:
            holder = around[-1][1]
            holder.inside.append(call)
            holder.seconds = max(holder.seconds - call.seconds, 0.0)
        else:
            outer.append(call)
        around.append((begin + microseconds, call))
    return outer


def _tensors(values: Sequence[Mapping[str, Sequence[int]]]) -> tuple[TracedTensor, ...]:
    return tuple(TracedTensor(kind, tuple(shape)) for value in values for kind, shape in value.items())


def _assign(calls: Sequence[Call], graphs: Sequence[onnx.GraphProto]) -> None:
    """Give calls the nodes of that graph whose operators they are, in order; a loop runs its graph several times.

    onnxruntime runs nodes in the order in which it writes the optimized graph. Names alone would not do: nodes may have none.
    """
    for graph in graphs:
        count = len(graph.node)
        if not count or len(calls) % count:
            continue
        pairs = [(call, graph.node[place % count]) for place, call in enumerate(calls)]
        if all(call.op == node.op_type and node.name in ("", call.name) for call, node in pairs):
            for call, node in pairs:
                call.node, call.graph = node, graph
                _assign(call.inside, list(subgraphs(node)))
            return
