"""The refusal of outputs that are larger than their source."""

from __future__ import annotations

from onnxquant.artifact import lowering
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document


def refuse_larger(original: Document, size: lowering.PredictedSize) -> None:
    """Refuse an output whose constants take no fewer bytes than before, and that is larger as a whole.

    Nodes and metadata come on top: a file of a few kilobytes may grow by them.

    Raises:
        ModelError: it is larger.
    """
    before = lowering.constant_bytes(original.proto)
    if size.constants >= before and size.nbytes > original.size():
        comparison = f"larger: {size.constants} bytes of constants, {before} now"
        if size.constants == before:
            comparison = f"no smaller: {before} bytes of constants, as now"
        raise ModelError(
            f"{original.name}: the output would be {comparison}; nothing was written; choose a smaller format, or keep "
            f"weights as they are with --exclude"
        )
