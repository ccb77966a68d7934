"""The passes that make a model ready to be planned, in their order.

A pass takes a Document, edits its graph in place and returns a sentence on what it changed, or None.
"""

from __future__ import annotations

from collections.abc import Callable

from onnxquant.graph.io import Document
from onnxquant.passes.prepare.constants import fold_constants
from onnxquant.passes.prepare.functions import inline_functions_with_weights
from onnxquant.passes.prepare.initializers import constants_to_initializers, raise_ir_version
from onnxquant.passes.simplify.batch_norm import fold_batch_norms
from onnxquant.passes.simplify.biases import join_biases
from onnxquant.passes.simplify.pads import fold_pads
from onnxquant.passes.simplify.transposes import sink_transposes

Pass = Callable[[Document], str | None]

PREPARE: tuple[Pass, ...] = (
    raise_ir_version,
    inline_functions_with_weights,
    constants_to_initializers,
)

# For integer activations: fewer, plainer nodes between the linear ops.
SIMPLIFY: tuple[Pass, ...] = (fold_constants, fold_batch_norms, fold_pads, sink_transposes, join_biases)


def prepare(document: Document) -> list[str]:
    """Run the passes; the sentences say what changed."""
    return [note for step in PREPARE if (note := step(document))]


def simplify(document: Document) -> list[str]:
    """Run the passes that leave less to quantize, on a prepared document; the sentences say what changed."""
    return [note for step in SIMPLIFY if (note := step(document))]
