"""Weights of integer kernels whose codes a solver has chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnxquant.activations.calibrated import CalibratedModel
from onnxquant.activations.settings import StaticSettings
from onnxquant.activations.weights import site_of, static_format
from onnxquant.calibration.feeds import Feeds
from onnxquant.calibration.gram_matrices import Reader, grams
from onnxquant.formats.base import Encoded
from onnxquant.formats.integers import Integers
from onnxquant.native import dispatch
from onnxquant.recipe.progress import Progress
from onnxquant.recipe.rules import Recipe
from onnxquant.solvers import Inputs, solver_named
from onnxquant.solvers.own_grid import own_grid


def solved_weights(
    model: CalibratedModel,
    rules: Recipe,
    settings: StaticSettings,
    feeds: Feeds,
    progress: Progress,
    starts: Mapping[str, Encoded] | None = None,
) -> dict[str, Encoded]:
    """Encoded weights by name; those that the solver cannot serve are left out.

    Args:
        model: the calibrated model.
        rules: the rules of the recipe.
        settings: the solver, and whether biases take up the mean error afterwards.
        feeds: calibration samples.
        progress: display of the part that is done.
        starts: the weights to solve, encoded with the scales that they keep; None: all, with those of rounding to nearest.
    """
    document = model.document
    solver = replace(solver_named(settings.weight_solver), keeps_zeros=settings.keeps_zeros)
    dims = {t.name: tuple(t.dims) for t in document.proto.graph.initializer}
    # Where a bias takes up the mean error afterwards, only deviations from the mean count for the weight's codes.
    readers = [
        Reader(n, n.input[1], dims[n.input[1]], settings.correct_biases and n.op_type in ("Conv", "Gemm"))
        for n in (u.node for u in model.placement.kernels)
        if starts is None or n.input[1] in starts
    ]
    weights, count = dict[str, Encoded](), len({reader.weight for reader in readers})
    for i, (name, gram, inputs) in enumerate(
        grams(document, readers, feeds, threads=settings.threads, progress=progress)
    ):
        progress("solving weights", i / count)
        site = site_of(document, name)
        form, weight = static_format(site, rules), site.view.matrix(document.array(site.tensor))
        if form.permuted or solver.refusal(form):
            continue
        if starts is None and isinstance(form, Integers) and own_grid(form, weight):
            continue  # nothing is lost that a solver could win back
        start = dispatch.rounded_to_nearest(form, weight) if starts is None else starts[name]
        weights[name] = solver.solve(form, weight, Inputs(gram, inputs), start)
    return weights
