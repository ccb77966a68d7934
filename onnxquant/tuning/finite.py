"""The place where numbers stop being finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from onnxquant.modules.graph_module import GraphModule
from onnxquant.modules.node import Node


@torch.no_grad()
def first_not_finite(module: GraphModule, feeds: Mapping[str, Tensor]) -> str:
    """The first node whose output is not finite, as the end of a message; empty: there is none."""
    names: list[str] = []

    def watch(node: Node, results: tuple[Tensor, ...]) -> None:
        if any(r.is_floating_point() and not bool(torch.isfinite(r).all()) for r in results):
            names.append(f", first at node {node.name!r} ({node.op})")

    module.run(feeds, module.outputs, watch)
    return names[0] if names else ""
