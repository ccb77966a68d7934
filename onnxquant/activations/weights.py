"""Weights of kernels between integer activations: which of them can be int8 per channel, and which sites that decides."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxquant.activations.op_kinds import OpKind, kind_of
from onnxquant.activations.placement import ON_EVERY_CALL, Cause, FloatKernel
from onnxquant.errors import RangeError, WeightError
from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.integers import Integers
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document
from onnxquant.graph.needs import UseKind
from onnxquant.graph.sites import Site, Use, find_sites
from onnxquant.native import dispatch
from onnxquant.plan.planner import DYNAMIC_BY_RULE, IntegerSites, make_plan, refusal_beside_integers
from onnxquant.recipe.rules import Recipe
from onnxquant.solvers.own_grid import own_grid
from onnxquant.targets import Activations

# Opsets of DequantizeLinear per channel, and of 16-bit codes.
OPSET, WIDE_OPSET = 13, 21


def site_of(document: Document, tensor: str) -> Site:
    """The site of a weight, by the name of its tensor."""
    return next(s for s in find_sites(document)[0] if s.name == tensor)


def _multiplying(site: Site) -> list[Use]:
    """The uses of a weight but for lookups, which read the codes of any product."""
    return [use for use in site.uses if use not in site.served(UseKind.LOOKUP)]


def excluded_kernels(document: Document, rules: Recipe) -> dict[str, FloatKernel]:
    """Kernels whose weight cannot be int8 per channel under the rules, by the first output of their nodes."""
    reasons, dynamic = dict[str, str](), set[str]()
    editor, sites, opset = GraphEditor(document.proto.graph), find_sites(document)[0], max(document.opset, OPSET)
    kernels = {n.output[0] for n in editor.nodes if kind_of(n, editor) is OpKind.KERNEL}
    readers = {s.name: {u.node.output[0] for u in _multiplying(s)} for s in sites}
    for site in sites:
        refusal = refusal_beside_integers(site, rules, Activations.STATIC, opset)
        if refusal is DYNAMIC_BY_RULE:
            dynamic |= readers[site.name]
        elif refusal is not None and str(refusal):
            reasons.update(dict.fromkeys(readers[site.name], str(refusal)))
        elif not readers[site.name] <= kernels:
            reason = "its weight is shared with an op that computes in float"
            reasons.update(dict.fromkeys(readers[site.name], reason))
        elif reason := beyond_range(document, site, static_format(site, rules)):
            reasons.update(dict.fromkeys(readers[site.name], reason))
    without_site = kernels.difference(*readers.values())
    reasons.update(dict.fromkeys(without_site, "its weight is too small to be worth it"))
    in_float = {name: FloatKernel(Cause.WEIGHT, reason) for name, reason in reasons.items()}
    return {**in_float, **dict.fromkeys(dynamic, ON_EVERY_CALL)}


def beyond_range(document: Document, site: Site, form: Format) -> str:
    """The reason why a format cannot express a weight, as the row with its largest magnitude shows; empty where it can.

    Raises:
        WeightError: the weight holds NaN or infinity.
    """
    weight = site.view.matrix(document.array(site.tensor))
    largest = int(np.maximum(weight.max(axis=1), -weight.min(axis=1)).argmax())
    try:
        dispatch.encode(form, weight[largest : largest + 1])
    except RangeError as error:
        return str(error)
    except WeightError:
        raise WeightError(
            f"{document.name}: weight {site.name!r} holds NaN or infinity; expected finite values; keep it in float with "
            f"--exclude to go on"
        ) from None
    return ""


def static_sites(document: Document, float_kernels: Mapping[str, FloatKernel]) -> IntegerSites:
    """The sites that static activations decide; rules decide about the others.

    Args:
        document: the float model.
        float_kernels: kernels that stay in float, by name.
    """
    editor = GraphEditor(document.proto.graph)
    multiplied, for_accuracy = set(), set()
    for site in find_sites(document)[0]:
        nodes = [u.node for u in _multiplying(site)]
        in_float = [k for n in nodes if (k := float_kernels.get(n.output[0], float_kernels.get(n.name)))]
        if any(kernel.cause is Cause.ACCURACY for kernel in in_float):
            for_accuracy.add(site.name)
        elif nodes and not in_float and all(_is_kernel(use, editor) for use in _multiplying(site)):
            multiplied.add(site.name)
    return IntegerSites(Activations.STATIC, frozenset(multiplied), frozenset(for_accuracy))


def _is_kernel(use: Use, editor: GraphEditor) -> bool:
    """Whether a use multiplies in the main graph, where activations are quantized.

    ONNX Runtime breaks down at a DequantizeLinear whose output a nested graph reads.
    """
    return use.graph is editor.graph and kind_of(use.node, editor) is OpKind.KERNEL


def dynamic_sites(document: Document, rules: Recipe) -> IntegerSites:
    """The sites that dynamic activations decide: every product whose weight can be int8 per channel."""
    kind, sites = Activations.DYNAMIC, [s for s in find_sites(document)[0] if s.served(UseKind.PRODUCT)]
    names = (s.name for s in sites if refusal_beside_integers(s, rules, kind, document.opset) is None)
    return IntegerSites(kind, frozenset(names))


def nearest(document: Document, site: Site, rules: Recipe) -> Encoded:
    """A weight that is multiplied with integer activations: kept on the grid that it lies on, or rounded to nearest.

    Raises:
        WeightError: it holds NaN or infinity, or its scales do not fit their type.
    """
    form, weight = static_format(site, rules), site.view.matrix(document.array(site.tensor))
    grid = own_grid(form, weight) if isinstance(form, Integers) else None
    return dispatch.rounded_to_nearest(form, weight) if grid is None else grid.encoded(weight)


def static_format(site: Site, rules: Recipe) -> Format:
    """The format of a weight that is multiplied with static activations."""
    sites = IntegerSites(Activations.STATIC, frozenset([site.name]))
    return make_plan([site], [], rules, OPSET, sites).encoded[0].format
