"""Options that do not go together, and options without effect beside others: both are refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from onnxquant.errors import RecipeError
from onnxquant.graph.data_files import objection_to_name
from onnxquant.recipe.declaration import Needs, declared
from onnxquant.recipe.fields import OptionFields
from onnxquant.recipe.values import REPORTS, Compute, ExternalData, SearchCost, static_solver_names
from onnxquant.targets import AUTO, Activations


def check(options: OptionFields) -> None:
    """Refuse options that do not go together.

    Raises:
        RecipeError: an option is refused; the message says what was expected.
    """
    _check_needs(options)
    _check_bounds_of_the_proof(options)
    _check_activations(options)
    _check_calibration_method(options)
    _check_clip(options)
    _check_permutation(options)
    _check_reports(options)
    _check_data_name(options)
    _check_search(options)
    _check_goal(options)
    _check_tuning(options)


def has_effect(name: str, named: Mapping[str, Any]) -> bool:
    """Whether an option has an effect beside those that the user names."""
    needs = declared(OptionFields)[name].declared.needs
    activations = named.get("activations", Activations.NONE)
    is_tuned = named.get("tune") is not None or named.get("tune_epochs") is not None
    met = _met(activations, named.get("goal"), named.get("metric"), is_tuned=is_tuned)
    return met.get(needs, True) if needs else True


def _met(activations: str, goal: object, metric: object, *, is_tuned: bool) -> dict[Needs, bool]:
    """Whether each need of options is met."""
    return {
        Needs.STATIC: activations == Activations.STATIC or goal is not None,
        Needs.INTEGERS: activations != Activations.NONE or goal is not None,
        Needs.METRIC: metric is not None,
        Needs.TUNE: is_tuned,
    }


def _check_needs(options: OptionFields) -> None:
    """Refuse options that have no effect without others."""
    met = _met(options.activations, options.goal, options.metric, is_tuned=options.tunes)
    for name, spec in declared(type(options)).items():
        needs = spec.declared.needs
        if needs in met and not met[needs] and getattr(options, name) != spec.default:
            remedy = "; clip (--clip) clips weights" if name in ("percentile", "sigmas", "calibration_method") else ""
            raise RecipeError(f"{name}: has no effect without {needs.value}{remedy}")


def _check_bounds_of_the_proof(options: OptionFields) -> None:
    is_of_search = options.searches or options.auto_exclude
    for name in ("min_sqnr", "max_mse"):
        bound = getattr(options, name)
        if bound is not None and math.isnan(bound):
            raise RecipeError(f"{name} is {bound}, expected a number")
        if bound is not None and not options.proof and not is_of_search:
            raise RecipeError(f"{name} is a bound on the proof, which --no-proof leaves out")
    if options.metric is not None and not options.proof and not is_of_search:
        raise RecipeError("metric is measured by the proof, which --no-proof leaves out")


def _check_activations(options: OptionFields) -> None:
    if options.activations == Activations.STATIC and options.solver not in static_solver_names():
        expected = ", ".join(static_solver_names())
        raise RecipeError(f"solver {options.solver}: beside static activations expected one of {expected}")
    if options.compute == Compute.FLOAT and options.activations != Activations.NONE:
        raise RecipeError("compute float rounds no activations: leave out activations")


def _check_calibration_method(options: OptionFields) -> None:
    """Refuse parameters of calibration methods that are not used."""
    for name, methods in (("percentile", ("percentile", AUTO)), ("sigmas", ("mean-std",))):
        if getattr(options, name) is not None and options.calibration_method not in methods:
            raise RecipeError(
                f"{name}: has no effect with calibration_method {options.calibration_method}, expected {methods[0]}"
            )


def _check_clip(options: OptionFields) -> None:
    if options.clip is None:
        return
    for name, others in (
        ("activations", options.activations != Activations.NONE), ("formats", options.searches), ("goal", options.goal)
    ):  # fmt: skip
        if others:
            raise RecipeError(f"clip: has no effect beside {name}, which chooses ranges by itself: leave out one of them")


def _check_permutation(options: OptionFields) -> None:
    if options.permutation is not None and (options.activations != Activations.NONE or options.in_float16):
        raise RecipeError("permutation is an order of encoded weights alone: leave out activations and float16")


def _check_reports(options: OptionFields) -> None:
    for name in options.report:
        if not str(name).endswith(REPORTS):  # the suffix of Path(".html") is empty
            raise RecipeError(f"report is {str(name)!r}, expected a name that ends in {', '.join(REPORTS)}")


def _check_data_name(options: OptionFields) -> None:
    if options.data_name is None:
        return
    if options.external_data == ExternalData.NEVER:
        raise RecipeError("data_name names a file that external_data never leaves out")
    if objection := objection_to_name(options.data_name):
        raise RecipeError(f"data_name is {options.data_name!r}, {objection}")


def _check_search(options: OptionFields) -> None:
    if options.budget_bpw is not None and not 0 < options.budget_bpw < 64:
        raise RecipeError(f"budget_bpw is {options.budget_bpw}, expected bits per weight, such as 4.5")
    is_bounded = options.budget_bpw is not None or options.max_size is not None
    if options.cost != SearchCost.SIZE and (is_bounded or not options.searches):
        raise RecipeError("cost says what to save under a bound on quality: name formats, and min_sqnr or metric")
    if not options.searches:
        return
    if options.budget_bpw is not None and options.max_size is not None:
        raise RecipeError("budget_bpw and max_size are two bounds on one thing: give one")
    if options.format is not None or options.bits is not None:
        raise RecipeError("format and bits say what weights become: name formats to choose among by formats")
    if options.activations != Activations.NONE or options.in_float16:
        raise RecipeError("formats are chosen for weights alone: leave out activations and float16")
    if not is_bounded and options.min_sqnr is None and options.metric is None:
        raise RecipeError("formats need a bound to choose by: give budget_bpw, max_size, min_sqnr or metric")


def _check_goal(options: OptionFields) -> None:
    if options.goal is not None and (not options.proof or options.dry_run):
        raise RecipeError("goal: files are compared by their proofs: leave out no_proof and dry_run")


def _check_tuning(options: OptionFields) -> None:
    if not options.tunes:
        return
    if options.tune is not None and options.tune_epochs is not None:
        raise RecipeError("tune and tune_epochs both say how long to learn: give one")
    for name, is_there in (
        ("goal", options.goal), ("dry_run", options.dry_run), ("float16", options.in_float16), ("formats", options.searches)
    ):  # fmt: skip
        if is_there:
            raise RecipeError(f"{name}: a model is tuned in one named way, which this is not: leave out one of them")
