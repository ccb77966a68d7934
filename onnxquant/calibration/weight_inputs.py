"""The inputs that weights are multiplied with: which nodes show them."""

from __future__ import annotations

import onnx

from onnxquant.calibration.gram_matrices import Reader, is_reader
from onnxquant.graph.sites import Site


def nodes_showing_the_input(site: Site, main: onnx.GraphProto) -> list[Reader]:
    """The nodes whose inputs show what a weight is multiplied with; none where these cannot be observed.

    They must be in the main graph and see the weight as its codes are laid out. Lookups of a weight that products read
    too do not count.

    Args:
        site: the weight
        main: main graph of the model
    """
    readers = []
    for use in site.uses:
        if use.role == "gather":
            continue
        if not is_reader(use.node, use.input) or use.view != site.view or use.graph is not main:
            return []
        dims = site.shape if use.via is None else site.shape[::-1]
        readers.append(Reader(use.node, site.tensor.name, dims))
    return readers
