"""The refusal of outputs that are larger than their source."""

from __future__ import annotations

from onnxquant.artifact import lowering
from onnxquant.errors import ModelError
from onnxquant.graph.io import Document

# Nodes and metadata take a few kilobytes: a file of fewer bytes than this may grow by them.
_FEW_BYTES = 1 << 16


def refuse_larger(original: Document, size: lowering.PredictedSize, *, has_integers: bool = False) -> None:
    """Refuse an output that is larger as a whole, unless it is a small file whose constants take fewer bytes.

    Args:
        original: the model.
        size: size of the output.
        has_integers: whether activations are integers, which is for speed: constants that take fewer bytes suffice.

    Raises:
        ModelError: it is larger.
    """
    before = lowering.constant_bytes(original.proto)
    is_excused = size.constants < before and (has_integers or original.size() < _FEW_BYTES)
    if size.nbytes > original.size() and not is_excused:
        comparison = f"larger: {size.constants} bytes of constants, {before} now"
        if size.constants < before:
            comparison = f"larger: {size.nbytes} bytes, {original.size()} now"
        if size.constants == before:
            comparison = f"no smaller: {before} bytes of constants, as now"
        raise ModelError(
            f"{original.name}: the output would be {comparison}; nothing was written; choose a smaller format, or keep "
            f"weights as they are with --exclude"
        )
