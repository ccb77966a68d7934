"""Training by the user: the plan of a model that is to learn, and the file of what it learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx

from onnxquant.calibration.feeds import Data
from onnxquant.convert.plan_model import PlannedModel, plan_model
from onnxquant.convert.prepare_model import fit_operators, prepare_model
from onnxquant.convert.prune import check_pruning, prune
from onnxquant.convert.quantize import context_of, encode_and_write, opened, samples_of
from onnxquant.convert.solve_weights import decisions_to_solve, solve_weights
from onnxquant.convert.tune import starting_codes
from onnxquant.errors import ModelError, OutputExistsError, RecipeError
from onnxquant.graph.analysis.quantized import integer_weights, rounds_activations
from onnxquant.graph.io import Document
from onnxquant.plan.context import workspace
from onnxquant.recipe.files import read_recipe
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import Progress, silent
from onnxquant.report.report import Report
from onnxquant.validation.reference import Reference


def plan_to_train(
    source: str | Path | onnx.ModelProto,
    recipe: str | Path | Mapping[str, Any] | None,
    data: Data | None,
    options: Mapping[str, Any],
    progress: Progress = silent,
) -> PlannedModel:
    """The plan of a model, with the codes of all its weights where learning begins.

    Args:
        source: the model.
        recipe: rules and options, as ``quantize`` takes them.
        data: samples; those of static activations set the ranges where learning begins.
        options: options of ``quantize`` that name one way.
        progress: display of the part that is done.

    Raises:
        RecipeError: the options name no single way.
        ModelError: nodes of the model round already.
    """
    entries = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe
    settings, rules = Options.of_recipe(entries, {**options, "proof": False})
    if settings.searches or settings.goal is not None or settings.in_float16 or settings.tunes:
        raise RecipeError("a model is trained in one named way: leave out goal, formats, float16 and tune")
    check_pruning(settings, rules)
    original = opened(source, settings, rules)
    _refuse_rounding(original)
    with workspace(settings) as folder:
        samples = samples_of(data, settings, original)
        context = context_of(original, settings, rules, samples, folder, progress)
        prepare_model(context)
        context = prune(context)
        fit_operators(context)
        model = plan_model(context, None)
        unsolved = decisions_to_solve(model.plan, model.orders, model.solved)
        feeds = samples.for_calibration(model.document).calibrating if samples is not None and unsolved else None
        solved = solve_weights(context, unsolved, model.orders, feeds)
        return replace(model, solved=starting_codes(model, solved))


def _refuse_rounding(original: Document) -> None:
    """Refuse a model that has codes of another program: no gradient passes its QuantizeLinear, and codes are no numbers.

    Raises:
        ModelError: it has.
    """
    integers = integer_weights(original.proto)
    if integers or rounds_activations(original.proto):
        what = integers or "QuantizeLinear of activations"
        raise ModelError(
            f"{original.name}: is quantized already ({what}), and codes do not learn; prepare the model of floats that it "
            f"was made from, or train it on in the program that made it"
        )


def write_trained(model: PlannedModel, path: str | Path, *, force: bool = False) -> Report:
    """Write the file of a model whose codes are all chosen. Nothing compares it with the original: it learned something else.

    Args:
        model: the model.
        path: the file.
        force: whether it may replace another one.

    Raises:
        OutputExistsError: it exists.
    """
    path = Path(path)
    if path.exists() and not force:
        raise OutputExistsError(f"{path}: exists already; force=True replaces it")
    options = replace(model.context.options, force=force)
    model = replace(model, context=replace(model.context, options=options))
    with Reference(model.context.original, model.context.samples, options) as reference:
        return encode_and_write(model, reference, path, list(model.notes))
