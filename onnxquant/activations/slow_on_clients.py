"""Kernels that a client runs slower on integers than in float, by their sizes: they stay in float in a file for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from onnxquant.activations.placement import Cause, FloatKernel
from onnxquant.clients import Client, Form, Shapes, Source, size_of, slow_reason
from onnxquant.graph.io import Document
from onnxquant.graph.names import MICROSOFT
from onnxquant.graph.node import is_op
from onnxquant.graph.sites import Use, find_sites
from onnxquant.targets import Activations


def measured(clients: Iterable[Client]) -> list[Client]:
    """The clients of which it was measured what they run slower: what documentation says of others is only told."""
    return [client for client in clients if client.source is Source.RUN and client.slow]


def slow_on_clients(
    document: Document, clients: Sequence[Client], kind: Activations, shapes: Shapes
) -> dict[str, FloatKernel]:
    """Kernels that certainly are slower on integers on a client, by the first outputs of their nodes.

    Args:
        document: the float model.
        clients: clients that the file is for.
        kind: kind of the integer activations.
        shapes: shapes of the tensors that kernels read, as far as they are known.
    """
    slow = {}
    clients = measured(clients)
    for use in (use for site in find_sites(document)[0] for use in site.uses if clients):
        form = _form(use, document, kind, shapes)
        reasons = ((client.name, slow_reason(form, client)) for client in clients) if form is not None else ()
        reason = next((f"slower than float on {name}: {reason}" for name, reason in reasons if reason), "")
        if reason:
            slow[use.node.output[0]] = FloatKernel(Cause.CLIENT, reason)
    return slow


def _form(use: Use, document: Document, kind: Activations, shapes: Shapes) -> Form | None:
    """The form of the node that a use becomes; None where it is neither a product nor a convolution of the main graph."""
    node = use.node
    if use.graph is not document.proto.graph or not any(is_op(node, name) for name in ("MatMul", "Gemm", "Conv")):
        return None
    weights = {tensor.name: tuple(tensor.dims) for tensor in use.graph.initializer}
    size = size_of(node, shapes, weights)
    if kind is Activations.DYNAMIC:
        return Form(MICROSOFT, "DynamicQuantizeMatMul", 1, size=size)
    # Biases stay floats, and one may be added for what rounding shifts.
    return Form("", node.op_type, 13, codes=(8, 8), size=size, has_float_bias=node.op_type == "Conv")
