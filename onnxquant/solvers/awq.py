"""awq: channels are scaled by what they carry (``passes.awq``); then scales are searched, columns weighed by their inputs.

Lin et al. 2023, arXiv 2306.00978: the search for scales of channels, section 3.2, is done on the graph, before weights are
solved; the clip search of the paper's code is what ``mse`` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.solvers.mse import Mse


@dataclass(frozen=True)
class Awq(Mse):
    """Channels scaled by their activations where that folds into what makes them, then the least squared error (AWQ)."""

    name = "awq"
    needs_inputs = True
