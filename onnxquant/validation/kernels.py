"""The kernel that runs on each encoded weight, read from the optimized graph of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from onnxquant.artifact.records import Record
from onnxquant.graph.sites import Site
from onnxquant.runtime.optimized import Kernels


def kernels_of(records: Iterable[Record], sites: Iterable[Site], optimized: onnx.ModelProto) -> dict[str, str]:
    """Ops on each weight, several joined by commas; weights that no preserved name leads to are left out.

    Args:
        records: the file's records of its weights.
        sites: sites of the float model, for the names of the nodes that read a weight.
        optimized: the optimized graph (``runtime.optimized_graph``).
    """
    kernels = Kernels(optimized)
    uses = {site.name: {use.node.name for use in site.uses} for site in sites}
    ops_by_weight = {}
    for record in records:
        results = [r.y for r in record.results]
        ops = kernels.reading(record.plane_names.union(results)) or kernels.making(results)
        ops = ops or kernels.named(uses.get(record.name, ()))
        if ops:
            ops_by_weight[record.name] = ", ".join(sorted(ops))
    return ops_by_weight
