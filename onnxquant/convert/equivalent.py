"""What is changed in a float model before its weights are solved: channels scaled for AWQ, columns put in another order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.collect import collect
from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import Reader, grams
from onnxquant.calibration.samples import Samples
from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.convert.solve_weights import Work
from onnxquant.errors import RecipeError
from onnxquant.formats.base import Format
from onnxquant.formats.matrix import Matrix
from onnxquant.graph.io import Document
from onnxquant.graph.sites import Site, find
from onnxquant.native import dispatch
from onnxquant.observers.absmean import AbsMean
from onnxquant.passes.equivalent import permute
from onnxquant.passes.equivalent.awq import Quantizer, awq
from onnxquant.passes.equivalent.rescale import Folded
from onnxquant.plan.planner import make_plan
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import Strategy
from onnxquant.solvers.awq import Awq
from onnxquant.solvers.base import Inputs


@dataclass(frozen=True)
class Rescaled:
    """A float model whose function is that of another one.

    Attributes:
        document: the model.
        weights: names of the weights that are not the other one's.
        orders: for weights whose columns are to be stored in another order, that order.
        notes: what was done, and why the rest was not.
    """

    document: Document
    weights: tuple[str, ...] = ()
    orders: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def rescaled(document: Document, rules: Recipe, samples: Samples | None, work: Work) -> Rescaled:
    """The model that weights are encoded of, for the rules' solvers and the order of columns that was asked for.

    Raises:
        RecipeError: what must be known of activations takes data, and there is none.
        FeedError: the data does not fit.
    """
    strategy = work.settings.permutation
    if strategy is None and all(rule.solver != Awq.name for rule in rules.rules):
        return Rescaled(document)
    sites, left = find(document)
    plan = make_plan(sites, left, rules, document.opset)
    forms = {d.name: d.format for d in plan.encoded}
    scaled = {d.name: forms[d.name] for d in plan.encoded if d.solver == Awq.name}
    copy, notes = document.copy(), list[str]()
    if scaled:
        notes.append(_scale(copy, scaled, samples, work).sentence("scaled") or "no activation to scale")
    orders: dict[str, NDArray[np.int32]] = {}
    if strategy is not None:
        folded, orders = _permute(copy, strategy, set(forms), samples, work)
        notes.append(folded.sentence("permuted") or "no activation to permute")
    return Rescaled(copy, tuple(rescaled_weight_names(document, copy)), orders, tuple(notes))


def rescaled_weight_names(before: Document, after: Document) -> list[str]:
    """Names of the sites whose float weight differs between two models. Biases are not sites."""
    tensors = {s.name: s.tensor for s in find(before)[0]}
    return [
        s.name
        for s in find(after)[0]
        if s.name not in tensors or not _is_equal(before.array(tensors[s.name]), after.array(s.tensor))
    ]


def _is_equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    """Whether two arrays have the same bytes."""
    return a is b or (a.shape == b.shape and np.array_equal(a.view(np.uint8), b.view(np.uint8)))


def _readers(document: Document, names: set[str] | dict[str, Format]) -> dict[str, list[tuple[Site, Reader]]]:
    """What reads each activation with one of these weights."""
    found: dict[str, list[tuple[Site, Reader]]] = {}
    for site in find(document)[0]:
        for reader in nodes_showing_the_input(site, document.proto.graph) if site.name in names else ():
            found.setdefault(reader.node.input[0], []).append((site, reader))
    return found


def _weighed(
    document: Document, read: Mapping[str, list[tuple[Site, Reader]]], feeds: Feeds, work: Work
) -> Iterator[tuple[str, NDArray[np.float64], int]]:
    """Each activation with its Gram matrix, and of how many inputs it is: of several readers one is enough."""
    one = {several[0][1].weight: x for x, several in read.items()}
    readers = [several[0][1] for several in read.values()]
    for weight, gram, count in grams(document, readers, feeds, threads=work.settings.threads, progress=work.progress):
        yield one[weight], gram, count


def _scale(document: Document, forms: dict[str, Format], samples: Samples | None, work: Work) -> Folded:
    if samples is None:
        raise RecipeError("solver awq needs samples that tell what weights are multiplied with: give --data")
    feeds, settings = samples.for_calibration(document), work.settings
    read = _readers(document, forms)
    # A Conv's channels are on the second axis.
    kinds = {x: "absmean:1" if r[0][1].node.op_type == "Conv" else "absmean" for x, r in read.items()}
    seen = collect(
        document, feeds, {x: [k] for x, k in kinds.items()}, threads=settings.threads, progress=work.progress
    )
    magnitudes = {
        x: observer.absmean for x, k in kinds.items() if isinstance(observer := seen.observers[x][k], AbsMean)
    }
    paths: dict[str, tuple[Path, int]] = {}
    for x, gram, count in _weighed(document, read, feeds, work):
        paths[x] = (work.folder / f"awq-{len(paths)}.npy", count)
        np.save(paths[x][0], gram)
    by_tensor = {site.tensor.name: forms[site.name] for r in read.values() for site, _ in r}

    def inputs(name: str) -> Inputs:
        path, count = paths[name]
        return Inputs(np.load(path), count)

    def quantizer(weight: str) -> Quantizer | None:
        form = by_tensor.get(weight)
        return None if form is None else partial(_decoded, form)

    try:
        known = {x: m for x, m in magnitudes.items() if x in paths}
        return awq(document, known, inputs, quantizer).folded
    finally:
        for path, _ in paths.values():
            path.unlink(missing_ok=True)


def _decoded(form: Format, matrix: Matrix) -> Matrix:
    return dispatch.decode(dispatch.rounded_to_nearest(form, matrix))


def _permute(
    document: Document, strategy: Strategy, names: set[str], samples: Samples | None, work: Work
) -> tuple[Folded, dict[str, NDArray[np.int32]]]:
    """Fold orders where that is possible; what is left is stored beside the weights."""
    energies: dict[str, NDArray[np.float64]] = {}
    read = _readers(document, names)
    if strategy == "activation":
        if samples is None:
            raise RecipeError(
                "permutation activation needs samples that tell what weights are multiplied with: give --data"
            )
        for x, gram, _ in _weighed(document, read, samples.for_calibration(document), work):
            if len(gram) == 1:
                energies[x] = np.diagonal(gram[0]).copy()
    orders = permute.orders(document, strategy, energies)
    folded = permute.fold(document, {x: o for x, o in orders.items() if x in read})
    stored = {
        site.name: orders[x].astype(np.int32)
        for x in folded.left
        for site, reader in read.get(x, ())
        if reader.node.op_type != "Conv"
        and site.cols == len(orders[x])
        and len(nodes_showing_the_input(site, document.proto.graph)) == 1
    }
    return folded, stored
