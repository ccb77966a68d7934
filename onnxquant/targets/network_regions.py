"""Regions of units that one operator can compute: connected, and without a way that leaves one and comes back to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

import onnx

from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.traverse import names_read, subgraphs
from onnxquant.targets.network_steps import Step, StepKind, Unit


@dataclass(frozen=True)
class NetworkRegion:
    """Units that become one operator.

    Attributes:
        units: the units, in the order of the graph.
        nodes: their nodes, in the order of the graph.
        leaving: those of the nodes that the graph can do without; the others decode for readers outside, too.
        inputs: tensors of codes that it reads, in the order in which they are read.
        outputs: tensors of codes that it makes and others read.
    """

    units: tuple[Unit, ...]
    nodes: tuple[onnx.NodeProto, ...]
    leaving: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def steps(self) -> list[Step]:
        """The steps of all units."""
        return [step for unit in self.units for step in unit.steps]


def network_regions(editor: GraphEditor, units: Sequence[Unit], most: int) -> list[NetworkRegion]:
    """The regions of a graph that are worth an operator, the largest ``most`` of them, in the order of the graph."""
    groups = _groups(units, _levels(editor, units))
    regions = [_region(editor, group) for group in groups]
    worthwhile = [region for region in regions if region.outputs and is_worthwhile(region.steps)]
    largest = sorted(worthwhile, key=lambda region: -len(region.steps))[:most]
    return [region for region in worthwhile if any(region is one for one in largest)]


def is_worthwhile(steps: Sequence[Step]) -> bool:
    """Whether a region is faster as one operator: a convolution, and what follows it without a way through memory.

    One step alone only brings pixels into another order and back.
    """
    return len(steps) > 1 and any(step.kind is StepKind.CONVOLVE for step in steps)


def _levels(editor: GraphEditor, units: Sequence[Unit]) -> list[int]:
    """The level of each unit: the number of times that a way to it leaves units and comes back.

    Units of one level may be joined: a way from one to another of them that left them would have raised its level.
    """
    # A unit is reached where its first tensor is made; those that decode count as nodes outside, whoever reads them.
    reached = {min(editor.place(_maker(editor, name)) for name in unit.makes): i for i, unit in enumerate(units)}
    of_units = {name for unit in units for name in unit.makes}
    inside = {id(n) for unit in units for n in unit.nodes} - {id(n) for unit in units for n in unit.shared}
    levels, of_tensor = [0] * len(units), dict[str, int]()
    for place, node in enumerate(editor.nodes):
        if place in reached:
            unit = units[reached[place]]
            levels[reached[place]] = level = max((of_tensor.get(name, 0) for name in unit.reads), default=0)
            of_tensor.update(dict.fromkeys(unit.makes, level))
        elif id(node) not in inside:
            level = max((of_tensor.get(name, 0) + (name in of_units) for name in _reads(node)), default=0)
            of_tensor.update(dict.fromkeys(node.output, level))
    return levels


def _maker(editor: GraphEditor, name: str) -> onnx.NodeProto:
    node = editor.producer(name)
    if node is None:
        raise AssertionError(f"no node makes {name!r}, which a unit makes")
    return node


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node and the graphs nested in it read."""
    yield from node.input
    for inner in subgraphs(node):
        yield from names_read(inner)


def _groups(units: Sequence[Unit], levels: Sequence[int]) -> list[list[Unit]]:
    """Units of one level that read or make the same tensors, directly or through others."""
    parents = list(range(len(units)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = i = parents[parents[i]]
        return i

    first: dict[tuple[int, str], int] = {}
    for i, unit in enumerate(units):
        for name in (*unit.reads, *unit.makes):
            parents[root(i)] = root(first.setdefault((levels[i], name), i))
    groups: dict[int, list[Unit]] = {}
    for i, unit in enumerate(units):
        groups.setdefault(root(i), []).append(unit)
    return list(groups.values())


def _region(editor: GraphEditor, units: Sequence[Unit]) -> NetworkRegion:
    nodes = {editor.place(node): node for unit in units for node in unit.nodes}
    shared = {editor.place(node) for unit in units for node in unit.shared}
    staying = _staying(editor, nodes, shared)
    leaving = {id(node) for place, node in nodes.items() if place not in staying}
    own = [name for unit in units for name in unit.makes]
    outputs = [
        name
        for name in own
        if not editor.is_private(name) or any(id(reader) not in leaving for reader in editor.consumers(name))
    ]
    return NetworkRegion(
        tuple(units),
        tuple(nodes[place] for place in sorted(nodes)),
        tuple(nodes[place] for place in sorted(nodes) if place not in staying),
        tuple(dict.fromkeys(name for unit in units for name in unit.reads if name not in own)),
        tuple(outputs),
    )


def _staying(editor: GraphEditor, nodes: Mapping[int, onnx.NodeProto], shared: Set[int]) -> set[int]:
    """Places of the shared nodes that something outside needs, too."""
    staying: set[int] = set()
    for place in sorted(shared, reverse=True):
        name = nodes[place].output[0]
        readers = [editor.place(reader) for reader in editor.consumers(name)]
        if not editor.is_private(name) or any(reader not in nodes or reader in staying for reader in readers):
            staying.add(place)
    return staying
