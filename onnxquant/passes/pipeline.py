"""The order of the passes that run on every model, on models with integer activations, and on request."""

from __future__ import annotations

from collections.abc import Iterable

from onnxquant.graph.io import Document
from onnxquant.graph.sites import MIN_ELEMENTS
from onnxquant.passes import pass_named
from onnxquant.passes.base import Pass
from onnxquant.passes.prepare.attention import SplitAttention
from onnxquant.passes.prepare.carried_constants import ReadCarriedConstants
from onnxquant.passes.prepare.embeddings import SplitEmbeddings
from onnxquant.passes.prepare.functions import InlineFunctions
from onnxquant.passes.prepare.half import NarrowFloat64, WidenFloat16
from onnxquant.passes.prepare.identities import ReadThroughIdentity
from onnxquant.passes.prepare.initializers import ConstantsToInitializers, DropUnread, RaiseIrVersion
from onnxquant.passes.prepare.leading_axes import DropLeadingAxes
from onnxquant.passes.prepare.matrices import MultiplyMatrices
from onnxquant.passes.prepare.quantized_weights import FoldQuantizedWeights
from onnxquant.passes.prepare.rows import GatherRows
from onnxquant.passes.prepare.shared_constants import ShareConstants
from onnxquant.passes.prepare.spellings import SpellActivations
from onnxquant.passes.prepare.transposed_constants import ReadTransposes, ShareTransposes
from onnxquant.passes.prepare.weights import FoldWeights
from onnxquant.passes.simplify.batch_norm import FoldBatchNorms
from onnxquant.passes.simplify.biases import JoinBiases
from onnxquant.passes.simplify.constants import FoldConstants
from onnxquant.passes.simplify.leaky_relus import JoinLeakyRelus
from onnxquant.passes.simplify.means import JoinMeans
from onnxquant.passes.simplify.pads import FoldPads
from onnxquant.passes.simplify.transposed_products import ReadTables
from onnxquant.passes.simplify.transposes import SinkTransposes

PREPARE: tuple[Pass, ...] = (
    RaiseIrVersion(),
    InlineFunctions(),
    ConstantsToInitializers(),
    ReadThroughIdentity(),
    ReadCarriedConstants(),
    FoldQuantizedWeights(),
    SpellActivations(),
    ShareConstants(across_graphs=False),
    FoldWeights(),
    ShareConstants(),
    ShareTransposes(),
    ReadTransposes(),
    SplitAttention(),
    SplitEmbeddings(),
    DropLeadingAxes(),
    MultiplyMatrices(),
    GatherRows(),
    DropUnread(),
)

# For integer activations: fewer, plainer nodes between the linear ops.
SIMPLIFY: tuple[Pass, ...] = (
    ReadTables(),
    FoldConstants(),
    FoldBatchNorms(),
    FoldPads(),
    SinkTransposes(),
    JoinBiases(),
    JoinLeakyRelus(),
    JoinMeans(),
)


# For integer activations of either kind: kernels compute in float32, and products of any size are worth it.
WIDEN: tuple[Pass, ...] = (WidenFloat16(), NarrowFloat64(), SplitAttention(least=MIN_ELEMENTS))


def run(document: Document, passes: Iterable[Pass]) -> list[str]:
    """Run passes one after the other; the sentences say what they changed."""
    return [note for step in passes for note in step(document).notes]


def prepare(document: Document) -> list[str]:
    """Bring a model into the form that the rest expects; the sentences say what changed."""
    return run(document, PREPARE)


def simplify(document: Document) -> list[str]:
    """Leave less to quantize in a prepared document; the sentences say what changed."""
    return run(document, SIMPLIFY)


def widen(document: Document) -> list[str]:
    """Make more products of a prepared document fit for integer activations; the sentences say what changed."""
    return run(document, WIDEN)


def requested(document: Document, names: Iterable[str]) -> list[str]:
    """Run passes by their names; the sentences say what changed.

    Raises:
        RecipeError: no such pass, or one that needs settings.
    """
    return run(document, [pass_named(name) for name in names])
