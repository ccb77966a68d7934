"""Scales of weights that leave room for biases.

An integer kernel adds its bias as an int32 in steps of the input's scale times the weight's. A channel whose weights are
zero, or tiny beside its bias, would have steps so small that the bias does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onnxquant.activations.placement import Placement
from onnxquant.activations.plan import StaticActivations
from onnxquant.activations.weights import nearest
from onnxquant.formats.base import Encoded
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.io import Document
from onnxquant.graph.sites import find_sites
from onnxquant.numerics.arrays import Doubles
from onnxquant.recipe.rules import Recipe

# The largest bias in steps; the rest of int32 is for the sum of products.
_MOST_STEPS = 1 << 30
_LEAST_SCALE, _MOST_SCALE = float(np.finfo(np.float16).smallest_subnormal), float(np.finfo(np.float16).max)


def with_room_for_biases(
    document: Document,
    placement: Placement,
    static: StaticActivations,
    rules: Recipe,
    solved: Mapping[str, Encoded],
) -> dict[str, Encoded]:
    """Encoded weights by name: those that a solver has chosen, and those whose scales had to be raised for a bias.

    Args:
        document: the float model, its biases corrected.
        placement: the units that compute on integers.
        static: their activations.
        rules: the rules of the recipe.
        solved: weights whose codes a solver has chosen.
    """
    encoded = dict(solved)
    sites = {site.name: site for site in find_sites(document)[0]}
    for name, least in _least_scales(document, placement, static).items():
        site = sites.get(name)
        if site is None:
            continue
        weight = site.view.matrix(document.array(site.tensor))
        if not (np.abs(weight).max(1).astype(np.float64) < 127 * least).any():
            continue
        before = encoded.get(name) or nearest(document, site, rules)
        if isinstance(before.format, ScaledCodes):
            encoded[name] = with_least_scales(before, before.format, weight.astype(np.float64), least)
    return encoded


def _least_scales(document: Document, placement: Placement, static: StaticActivations) -> dict[str, Doubles]:
    """The smallest scale of each row of the weights of kernels with biases."""
    constants = {tensor.name: tensor for tensor in document.proto.graph.initializer}
    least: dict[str, Doubles] = {}
    for unit in placement.kernels:
        node = unit.node
        bias = constants.get(node.input[2]) if len(node.input) > 2 else None
        if bias is None or node.output[0] in static.forms.split_gemms:
            continue
        scale, _ = static.codes.parameters(*static.ranges[placement.tensors[node.input[0]].source])
        values = np.abs(document.array(bias)).reshape(-1).astype(np.float64) / (float(scale) * _MOST_STEPS)
        least[node.input[1]] = np.maximum(least.get(node.input[1], _LEAST_SCALE), values)
    return least


def with_least_scales(encoded: Encoded, form: ScaledCodes, weight: Doubles, least: Doubles) -> Encoded:
    """An encoded weight with scales of at least these, and the codes of raised rows rounded again."""
    scales = encoded.planes["scales"]
    needed = least.reshape(scales.shape) if scales.size == least.size else np.full(scales.shape, least.max())
    raised = np.abs(scales.astype(np.float64)) < needed
    up = np.nextafter(np.minimum(needed, _MOST_SCALE).astype(np.float16), np.float16(np.inf)).astype(scales.dtype)
    scales = np.where(raised, np.minimum(up, _MOST_SCALE), scales).astype(scales.dtype)
    steps = np.broadcast_to(scales.reshape(-1, 1).astype(np.float64), (len(weight), 1))
    codes = (np.clip(np.rint(weight / np.where(steps, steps, 1.0)), -127, 127) + form.offset).astype(np.uint8)
    rows = np.broadcast_to(raised.reshape(-1, 1), (len(weight), 1))
    return replace(
        encoded, planes={**encoded.planes, "codes": np.where(rows, codes, encoded.planes["codes"]), "scales": scales}
    )
