"""Float models of the same function that are easier to round: AWQ channel scales and reordered columns."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import GramFile, Reader, grams
from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.errors import RecipeError
from onnxquant.formats.base import Format
from onnxquant.formats.matrix import Matrix
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find_sites
from onnxquant.native import dispatch
from onnxquant.numerics.arrays import Order
from onnxquant.observers.absmean import AbsMean
from onnxquant.passes.equivalent import permute
from onnxquant.passes.equivalent.awq import Quantizer, ScaleForAwq
from onnxquant.passes.equivalent.permute import Strategy
from onnxquant.passes.equivalent.rescale import ChannelResult
from onnxquant.plan.context import Context
from onnxquant.plan.planner import make_plan
from onnxquant.solvers.awq import Awq
from onnxquant.solvers.base import Inputs


@dataclass(frozen=True)
class EquivalentModel:
    """A float model whose function is that of another one.

    Attributes:
        document: the model
        rescaled: names of the weights that are not the other one's
        orders: stored order of columns, by weight, where it is another one
        notes: sentences on the changes, and on what could not be changed
    """

    document: Document
    rescaled: tuple[str, ...] = ()
    orders: Mapping[str, Order] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _SiteReader:
    """A site, and a node that shows what it is multiplied with."""

    site: Site
    reader: Reader


def equivalent_model(context: Context) -> EquivalentModel:
    """The model whose weights are encoded, as the rules' solvers and the order of columns ask for it.

    Raises:
        RecipeError: the inputs of weights must be known for that, and there are no samples.
        FeedError: the samples do not fit.
    """
    document, strategy = context.document, context.options.permutation
    if strategy is None and all(rule.solver != Awq.name for rule in context.rules.rules):
        return EquivalentModel(document)
    sites, skipped = find_sites(document)
    encoded = make_plan(sites, skipped, context.rules, document.opset).encoded
    scaled = {d.name: d.format for d in encoded if d.solver == Awq.name}
    context = context.with_document(document.copy())
    notes: list[str] = []
    if scaled:
        notes += _scale(context, scaled).notes or ("no activation to scale",)
    orders: dict[str, Order] = {}
    if strategy is not None:
        result, orders = _permute(context, strategy, {d.name for d in encoded})
        notes += result.notes or ("no activation to permute",)
    names = rescaled_weight_names(document, context.document)
    return EquivalentModel(context.document, tuple(names), orders, tuple(notes))


def rescaled_weight_names(before: Document, after: Document) -> list[str]:
    """Names of the sites whose float weight differs between two models. Biases are not sites."""
    tensors = {s.name: s.tensor for s in find_sites(before)[0]}
    return [
        s.name
        for s in find_sites(after)[0]
        if s.name not in tensors or not _is_equal(before.array(tensors[s.name]), after.array(s.tensor))
    ]


def _is_equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays have the same bytes."""
    return a is b or (a.shape == b.shape and np.array_equal(a.view(np.uint8), b.view(np.uint8)))


def _scale(context: Context, formats: Mapping[str, Format]) -> ChannelResult:
    """Scale the channels of activations for AWQ, in place; the changes."""
    if context.samples is None:
        raise RecipeError("solver awq needs samples that tell what weights are multiplied with: give --data")
    document, options = context.document, context.options
    readers = _readers_by_activation(document, formats)
    # The channels of a Conv are on the second axis.
    observers = {
        x: "absmean:1" if first.reader.node.op_type == "Conv" else "absmean" for x, (first, *_) in readers.items()
    }
    feeds = context.samples.for_calibration(document).calibrating
    statistics = collect(
        document,
        feeds,
        {x: [observer] for x, observer in observers.items()},
        threads=options.threads,
        progress=context.progress,
    )
    files: dict[str, GramFile] = {}
    for x, inputs in _inputs_by_activation(context, readers, feeds):
        files[x] = GramFile.save(context.folder / f"awq-{len(files)}.npy", inputs.gram, inputs.count or 0)
    magnitudes = {
        x: accumulator.absmean
        for x, observer in observers.items()
        if x in files and isinstance(accumulator := statistics.observers[x][observer], AbsMean)
    }
    by_tensor = {r.site.tensor.name: formats[r.site.name] for site_readers in readers.values() for r in site_readers}

    def quantizer(weight: str) -> Quantizer | None:
        form = by_tensor.get(weight)
        return None if form is None else partial(_decoded, form)

    try:
        return ScaleForAwq(magnitudes, lambda x: files[x].load(), quantizer)(document)
    finally:
        for file in files.values():
            file.path.unlink(missing_ok=True)


def _decoded(form: Format, matrix: Matrix) -> Matrix:
    return dispatch.decode(dispatch.rounded_to_nearest(form, matrix))


def _permute(context: Context, strategy: Strategy, names: Container[str]) -> tuple[ChannelResult, dict[str, Order]]:
    """Permute the columns of weights, with the rows of those before, in place; the changes, and the orders to be stored."""
    document, main = context.document, context.document.proto.graph
    readers = _readers_by_activation(document, names)
    energies: dict[str, NDArray[np.float64]] = {}
    if strategy == "activation":
        if context.samples is None:
            raise RecipeError(
                "permutation activation needs samples that tell what weights are multiplied with: give --data"
            )
        feeds = context.samples.for_calibration(document).calibrating
        for x, inputs in _inputs_by_activation(context, readers, feeds):
            if len(inputs.gram) == 1:
                energies[x] = inputs.energy[0].copy()
    orders = permute.orders(document, strategy, energies)
    result = permute.PermuteChannels({x: order for x, order in orders.items() if x in readers})(document)
    stored = {
        r.site.name: orders[x].astype(np.int32)
        for x in result.refused
        for r in readers.get(x, ())
        if r.reader.node.op_type != "Conv"
        and r.site.cols == len(orders[x])
        and len(nodes_showing_the_input(r.site, main)) == 1
    }
    return result, stored


def _readers_by_activation(document: Document, names: Container[str]) -> dict[str, list[_SiteReader]]:
    """The readers of each activation that is multiplied with one of these weights."""
    readers: dict[str, list[_SiteReader]] = {}
    for site in find_sites(document)[0]:
        for reader in nodes_showing_the_input(site, document.proto.graph) if site.name in names else ():
            readers.setdefault(reader.node.input[0], []).append(_SiteReader(site, reader))
    return readers


def _inputs_by_activation(
    context: Context, readers: Mapping[str, list[_SiteReader]], feeds: Feeds
) -> Iterator[tuple[str, Inputs]]:
    """Each activation with its Gram matrices. One of its readers is enough to show them."""
    first = {x: site_readers[0].reader for x, site_readers in readers.items()}
    names = {reader.weight: x for x, reader in first.items()}
    for weight, gram, count in grams(
        context.document, first.values(), feeds, threads=context.options.threads, progress=context.progress
    ):
        yield names[weight], Inputs(gram, count)
