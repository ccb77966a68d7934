"""awq: the solver that follows the scaling of channels by AWQ.

Lin et al. 2023, arXiv 2306.00978. The search for scales of channels, section 3.2, is done on the graph before weights are
solved. The clip search of the paper's code is the search for scales of ``mse``, columns weighted by their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnxquant.solvers.mse import LeastSquares


@dataclass(frozen=True)
class Awq(LeastSquares):
    """Channels scaled by their activations where the producer takes the scale, then the least squared error (AWQ)."""

    name = "awq"
    needs_inputs = True
