"""Scales of weights that leave room for sums of two products.

x86 CPUs without VNNI add two products of 8-bit codes in 16 bits, and cut off what does not fit. Where a kernel would lose
more than rounding costs it, the rows whose sums do not fit get larger scales: at most twice as large, most a little.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.activations.bias_room import with_least_scales
from onnxquant.activations.weights import nearest
from onnxquant.formats.base import Encoded
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find_sites
from onnxquant.numerics.arrays import Doubles
from onnxquant.recipe.rules import Recipe
from onnxquant.validation.saturation import possible_pairs

# Decibels that it may cost if no sum can be cut off, not only none of those on the samples.
FOR_CERTAINTY_DB = 1.0
# Room for rounding, and for the sums of other samples.
_MARGIN = 1.1


def with_room_for_pairs(
    document: Document,
    largest: Mapping[str, Doubles | None],
    rules: Recipe,
    encoded: Mapping[str, Encoded],
    sites: Iterable[Site] | None = None,
) -> dict[str, Encoded]:
    """Encoded weights by name, those that saturate with larger scales.

    Args:
        document: the float model.
        largest: weights by name, with the largest sum of two products in each row, as a multiple of what fits; None: that
            of the codes, whatever the activations are.
        rules: the rules of the recipe.
        encoded: weights whose codes are chosen already.
        sites: weights of the model; None: they are looked for.
    """
    by_name = {site.name: site for site in (find_sites(document)[0] if sites is None else sites)}
    roomy = dict(encoded)
    for name, multiples in largest.items():
        site = by_name[name]
        weight = site.view.matrix(document.array(site.tensor))
        before = encoded.get(name) or nearest(document, site, rules)
        form = before.format
        if isinstance(form, ScaledCodes):
            roomy[name] = _with_room(before, form, weight, _possible(before, form) if multiples is None else multiples)
    return roomy


def _possible(encoded: Encoded, form: ScaledCodes) -> Doubles:
    """The largest sum of two products in each row for any activations, as a multiple of what fits."""
    return possible_pairs(encoded.planes["codes"].astype(np.int16) - form.offset)


def _with_room(encoded: Encoded, form: ScaledCodes, weight: NDArray[Any], multiples: Doubles) -> Encoded:
    """An encoded weight with scales that are larger where a multiple of what fits is more than one."""
    scales = np.abs(encoded.planes["scales"].astype(np.float64)).reshape(-1)
    return with_least_scales(encoded, form, weight.astype(np.float64), scales * multiples * _MARGIN)
