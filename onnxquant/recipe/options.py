"""The options of ``quantize``. Keywords, command line, files, their schemas and the reference page are made from them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Self, get_args

from onnxquant.errors import RecipeError, nearest
from onnxquant.passes import passes_by_name
from onnxquant.passes.equivalent.permute import Strategy
from onnxquant.recipe import schema
from onnxquant.recipe.declaration import Scope, any_path, declared, format_options, option, options_of
from onnxquant.recipe.rules import Recipe, RuleOptions
from onnxquant.recipe.values import (
    ActivationType,
    Compute,
    Drop,
    Effort,
    ExternalData,
    Goal,
    SearchCost,
    calibration_methods,
    format_names,
    static_solver_names,
)
from onnxquant.targets import AUTO, Activations

# Above this size, tensors go to a file of their own, from which sessions map them.
INLINE_BYTES = 100 << 20
# Endings of report files; each has its own writer.
REPORTS = (".html", ".md", ".json")


def _is_file_name(value: str) -> bool:
    """Whether a value is the name of a file, not an ending alone such as ``.html``."""
    return not value.startswith(".") or "/" in value


def _is_no_pair(value: str) -> bool:
    """Whether a value is a path, not ``key=value``."""
    return "=" not in value


@dataclass(frozen=True, kw_only=True)
class Options(RuleOptions):
    """Options of ``quantize``. Those of ``RuleOptions`` make the last rule, for the weights that no other rule matches."""

    whole_graph: bool = option(
        False, "With --format f16: convert every float32 tensor of the graph to float16, activations too.", Scope.FILE
    )
    keep_io_types: bool = option(False, "With --whole-graph: inputs and outputs stay float32.", Scope.FILE)
    constant_inputs: bool = option(
        False, "Take graph inputs that have a default value for constants: initializers that old exporters list as inputs. "
        "Callers can no longer override them.", Scope.FILE,
    )  # fmt: skip
    activations: str = option(
        Activations.NONE.value, "Integer activations. static: their ranges come from calibration on --data; dynamic: ranges "
        "are computed in every call.", Scope.FILE, choices=tuple(Activations),
    )  # fmt: skip
    calibration_method: str = option(
        AUTO, "Method that chooses the ranges of static activations; `onnxquant list` shows all. auto tries minmax, mse and "
        "percentile and keeps the best.", Scope.FILE, metavar="METHOD", choices=calibration_methods,
    )  # fmt: skip
    percentile: float | None = option(
        None,
        "Percentile used by --calibration-method percentile, in percent. [default: 99.999]",
        Scope.FILE,
        metavar="P",
    )
    sigmas: float | None = option(
        None, "Standard deviations around the mean that --calibration-method mean-std keeps.", Scope.FILE, metavar="K"
    )
    calibration: str | None = option(
        None, "Statistics from `onnxquant calibrate`, used instead of running the samples again.", Scope.RUN,
        metavar="FILE", is_path=any_path,
    )  # fmt: skip
    calibration_samples: int = option(
        512, "Largest number of samples of --data that calibration runs.", Scope.FILE, metavar="N", minimum=1
    )
    effort: str = option(
        Effort.MEDIUM.value, "Time for the search of integer activations. low: 10 seconds or 4 passes over the samples, "
        "whichever is more; medium: a minute or 20 passes; high: no limit.", Scope.FILE, choices=tuple(Effort),
    )  # fmt: skip
    activation_type: str = option(
        ActivationType.UINT8.value, "Integer type of static activations. CPUs have no integer kernels for 16 bits.",
        Scope.FILE, choices=tuple(ActivationType),
    )  # fmt: skip
    symmetric_activations: bool = option(
        False, "Put the zero points of activations in the middle of their type.", Scope.FILE
    )
    balance: bool = option(True, "Widen narrow channels before depthwise convolutions.", Scope.FILE)
    bias_correction: bool = option(True, "Correct biases for the mean error of rounding.", Scope.FILE)
    smooth: bool = option(True, "Try SmoothQuant before matrix products, and keep it where it helps.", Scope.FILE)
    equalize: bool = option(True, "Try cross-layer equalization, and keep it where it helps.", Scope.FILE)
    rebase: bool = option(
        True, "Try another basis for linear streams of channels, and keep it where it helps.", Scope.FILE
    )
    permutation: Strategy | None = option(  # noqa: RUF009 - a Literal does not change
        None, "Order of the columns of weights, so that similar ones share a block: norm, activation (by the energy of "
        "their inputs; needs --data), or attention (one order by norm for q, k and v). It is folded into the node that makes "
        "the input, where that is exact.", Scope.FILE, choices=get_args(Strategy),
    )  # fmt: skip
    passes: tuple[str, ...] = option(
        (), "Pass to run on the float model before it is planned; `onnxquant list` shows all. May be given several times; "
        "passes run in the order given.",
        Scope.FILE, flag="--pass", metavar="NAME", choices=passes_by_name,
    )  # fmt: skip
    jobs: int = option(
        1, "Number of weights that are solved at a time, in processes.", Scope.RUN, metavar="N", minimum=1
    )
    work: str | None = option(
        None, "Folder that keeps solved weights, so that an interrupted run can continue.", Scope.RUN, metavar="DIR",
        is_path=any_path,
    )  # fmt: skip
    goal: str | None = option(
        None, "Try the ways that can suit the model as whole files, with the samples of --data, and write the best: fast, "
        "small, or balanced between both. Each keeps 20 dB and 99 % of the answers, or --min-sqnr, --max-mse, --metric.",
        Scope.SEARCH, choices=tuple(Goal),
    )  # fmt: skip
    auto_exclude: bool = option(
        False, "Leave the fewest operators in float with which held-out samples keep --min-sqnr [default: 25], or --metric "
        "its value.", Scope.SEARCH,
    )  # fmt: skip
    formats: tuple[str, ...] = option(
        (), "Format to choose among, weight by weight: the best choice under --budget-bpw or --max-size, or the smallest "
        "that keeps --min-sqnr or --metric. May be given several times. [default: int8 int6 int5 int4 int3]", Scope.SEARCH,
        metavar="NAME[:KEY=VALUE,...]", completion=format_names,
    )  # fmt: skip
    budget_bpw: float | None = option(
        None, "Choose formats so that all constant weights together, those that stay in float included, have at most this "
        "many bits per weight.", Scope.SEARCH, metavar="BITS",
    )  # fmt: skip
    max_size: str | None = option(
        None, "Choose formats so that the file has at most this size.", Scope.SEARCH, metavar="30MB"
    )
    cost: str = option(
        SearchCost.SIZE.value,
        "What a search under --min-sqnr or --metric makes small: the size of the file, or the latency of its "
        "products, measured on this machine.", Scope.SEARCH, choices=tuple(SearchCost),
    )  # fmt: skip
    external_data: str = option(
        ExternalData.AUTO.value,
        "Whether tensors are kept in OUTPUT.data beside the model. auto: as in the input, or above 100 MB.",
        Scope.FILE, choices=tuple(ExternalData),
    )  # fmt: skip
    external_root: tuple[str, ...] = option(
        (), "Folder into which external data of the input may link.", Scope.RUN, metavar="DIR", is_path=any_path
    )
    dim: tuple[str, ...] = option(
        (), "Length of a named dimension of synthetic samples.", Scope.RUN, metavar="NAME=N", is_proof=True
    )
    preprocess: str | Mapping[str, Any] | None = option(
        None, "How images or texts of --data become inputs (docs/feeds.md).", Scope.RUN, metavar="FILE|KEY=VALUE,...",
        is_path=_is_no_pair, is_proof=True,
    )  # fmt: skip
    samples: int = option(
        4, "Number of samples that the proof runs.", Scope.RUN, minimum=1, maximum=10_000, is_proof=True
    )
    seed: int = option(0, "Seed of synthetic samples.", Scope.RUN, minimum=0, is_proof=True)
    threads: int | None = option(
        None, "Number of threads of sessions. [default: onnxruntime's choice]", Scope.RUN, minimum=1, maximum=256
    )
    min_sqnr: float | None = option(
        None, "Exit 1 unless every output keeps this SQNR in dB.", Scope.SEARCH, metavar="DB", is_proof=True
    )
    max_mse: float | None = option(
        None, "Exit 1 if the mean squared error of an output is above this.", Scope.RUN, metavar="X", is_proof=True
    )
    metric: str | Callable[..., float] | None = option(  # noqa: RUF009 - functions do not change
        None, "Function that measures an onnxruntime.InferenceSession by a number, more is better; accuracy, for example.",
        Scope.SEARCH, metavar="MODULE:FUNCTION", is_proof=True,
    )  # fmt: skip
    max_drop: str | float = option(
        "0.5%", "Exit 1 if --metric is lower than the original's by more than this: a part of its value, or a number.",
        Scope.SEARCH, metavar="P%|X", is_proof=True,
    )  # fmt: skip
    judge: tuple[str, ...] = option(
        (), "Output that matters, or a part of it such as 'boxes:[:, 0:4]'; searches and the proof judge no other. May be "
        "given several times. [default: all outputs, each in parts of one scale]", Scope.SEARCH, metavar="NAME[:SLICE]",
        is_proof=True,
    )  # fmt: skip
    proof: bool = option(True, "Open the output again and prove it.", Scope.RUN, is_proof=True)
    save_recipe: str | None = option(
        None, "Write the plan as a recipe to edit and to give to --recipe; with the formats that a search chose.",
        Scope.RUN, metavar="FILE", is_path=any_path, names_file=True,
    )  # fmt: skip
    report: tuple[str, ...] = option(
        (), "Write what was done and proven to a file. Its ending chooses .html, .md or .json; an ending alone means beside "
        "the output. May be given several times.", Scope.RUN, metavar="FILE", is_path=_is_file_name, names_file=True,
        is_reported=False,
    )  # fmt: skip
    dry_run: bool = option(
        False, "Print the plan: every weight, its decision, sizes and refusals. Writes nothing.", Scope.RUN,
        is_reported=False,
    )  # fmt: skip
    force: bool = option(False, "Replace an existing output, and existing reports.", Scope.RUN, is_reported=False)

    @classmethod
    def make(cls, keywords: Mapping[str, Any]) -> Self:
        """Options from keywords; None stands for the default.

        Raises:
            RecipeError: an unknown keyword (the nearest is named), or values that do not go together.
        """
        known = options_of(cls)
        for name in keywords:
            if name not in known:
                raise RecipeError(f"unknown option {name!r}{nearest(name, list(known))}")
        values = {k: v for k, v in keywords.items() if v is not None}
        parameters = {k: values.pop(k) for k in format_options() if k in values}
        for name, value in values.items():
            if known[name].is_list:
                values[name] = (value,) if isinstance(value, str) else tuple(value)
        options = cls(**values, parameters=parameters)
        options.check()
        return options

    @classmethod
    def of_recipe(cls, entries: Mapping[str, Any] | None, keywords: Mapping[str, Any]) -> tuple[Self, Recipe]:
        """Options and rules of a recipe's entries and of keywords, which win.

        Raises:
            RecipeError: an unknown key, or a value of the wrong type.
        """
        table = (entries or {}).get("options", {})
        schema.check(table, option_schema(), "recipe: options")
        stronger = {k: v for k, v in keywords.items() if v is not None}
        options = cls.make({**drop_overridden_aliases(table, stronger), **stronger})
        return options, options.recipe(entries)

    def check(self) -> None:
        """Refuse values that are not allowed, and options that do not go together.

        Raises:
            RecipeError: an option is refused; the message says what was expected.
        """
        for name, spec in declared(type(self)).items():
            spec.check(getattr(self, name))
        self._check_bounds_of_the_proof()
        self._check_activations()
        self._check_permutation()
        self._check_reports()
        self._check_search()
        self._check_goal()
        Drop.parse(self.max_drop)
        self.max_bytes()
        self.dims()

    def _check_bounds_of_the_proof(self) -> None:
        for name in ("min_sqnr", "max_mse"):
            bound = getattr(self, name)
            if bound is not None and math.isnan(bound):
                raise RecipeError(f"{name} is {bound}, expected a number")
            if bound is not None and not self.proof:
                raise RecipeError(f"{name} is a bound on the proof, which --no-proof leaves out")
        if self.metric is not None and not self.proof:
            raise RecipeError("metric is measured by the proof, which --no-proof leaves out")

    def _check_activations(self) -> None:
        if self.activations == Activations.STATIC and self.solver not in static_solver_names():
            expected = ", ".join(static_solver_names())
            raise RecipeError(f"solver {self.solver}: beside static activations expected one of {expected}")
        defaults = {"calibration_method": AUTO, "percentile": None, "sigmas": None, "auto_exclude": False}
        for name, default in defaults.items():
            if getattr(self, name) != default and self.activations == Activations.NONE:
                raise RecipeError(f"{name} is about ranges of activations: it has no effect without --activations static")
        if self.compute == Compute.FLOAT and self.activations != Activations.NONE:
            raise RecipeError("compute float rounds no activations: leave out activations")

    def _check_permutation(self) -> None:
        if self.permutation is not None and (self.activations != Activations.NONE or self.whole_graph):
            raise RecipeError("permutation is an order of encoded weights alone: leave out activations and whole_graph")

    def _check_reports(self) -> None:
        for name in self.report:
            if not str(name).endswith(REPORTS):  # the suffix of Path(".html") is empty
                raise RecipeError(f"report is {str(name)!r}, expected a name that ends in {', '.join(REPORTS)}")

    def _check_search(self) -> None:
        if self.budget_bpw is not None and not 0 < self.budget_bpw < 64:
            raise RecipeError(f"budget_bpw is {self.budget_bpw}, expected bits per weight, such as 4.5")
        is_bounded = self.budget_bpw is not None or self.max_size is not None
        if self.cost != SearchCost.SIZE and (is_bounded or not self.searches):
            raise RecipeError("cost says what to save under a bound on quality: name formats, and min_sqnr or metric")
        if not self.searches:
            return
        if self.budget_bpw is not None and self.max_size is not None:
            raise RecipeError("budget_bpw and max_size are two bounds on one thing: give one")
        if self.format is not None or self.bits is not None:
            raise RecipeError("format and bits say what weights become: name formats to choose among by formats")
        if self.activations != Activations.NONE or self.whole_graph:
            raise RecipeError("formats are chosen for weights alone: leave out activations and whole_graph")
        if not is_bounded and self.min_sqnr is None and self.metric is None:
            raise RecipeError("formats need a bound to choose by: give budget_bpw, max_size, min_sqnr or metric")

    def _check_goal(self) -> None:
        if self.goal is None:
            return
        ours = ("format", "bits", "activations", "whole_graph", "formats", "budget_bpw", "max_size", "auto_exclude")
        defaults = declared(type(self))
        for name in ours:
            if getattr(self, name) != defaults[name].default:
                raise RecipeError(f"{name}: goal chooses that itself; leave out one of the two")
        if not self.proof or self.dry_run:
            raise RecipeError("goal: files are compared by their proofs: leave out no_proof and dry_run")

    @property
    def searches(self) -> bool:
        """Whether formats are to be chosen."""
        return bool(self.formats) or self.budget_bpw is not None or self.max_size is not None

    def max_bytes(self) -> int:
        """Number of bytes that ``max_size`` stands for; 0 without it.

        Raises:
            RecipeError: it is no size.

        >>> Options(max_size="1.5MB").max_bytes()
        1500000
        """
        if self.max_size is None:
            return 0
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:(?:([kKMG])(i?))?B)?\s*", self.max_size)
        if match is None or not float(match[1]):
            raise RecipeError(f"max_size is {self.max_size!r}, expected a size such as 30MB, 512kB or 1.5GiB")
        base = 1024 if match[3] else 1000
        return int(float(match[1]) * base ** ("", "k", "m", "g").index((match[2] or "").lower()))

    def dims(self) -> dict[str, int]:
        """Lengths of named dimensions.

        Raises:
            RecipeError: an entry is not NAME=N with N > 0.
        """
        lengths = {}
        for entry in self.dim:
            name, _, value = entry.partition("=")
            if not name or not (value.isascii() and value.isdigit()) or int(value) < 1:
                raise RecipeError(f"dim {entry!r}: expected NAME=N with N > 0")
            lengths[name] = int(value)
        return lengths

    def is_external(self, *, already: bool, nbytes: int) -> bool:
        """Whether tensors go to a file of their own.

        Args:
            already: whether the original's tensors are in such a file
            nbytes: number of bytes of the weights
        """
        if self.external_data != ExternalData.AUTO:
            return self.external_data == ExternalData.ALWAYS
        return already or nbytes > INLINE_BYTES

    def options_that_shape_the_file(self) -> dict[str, Any]:
        """Options that differ from their defaults and change the output, other than those that its rules hold."""
        is_searching = self.searches or self.auto_exclude  # else its bounds are only bounds of the proof
        scopes = {Scope.FILE, Scope.SEARCH} if is_searching else {Scope.FILE}
        options = self._changed(scopes)
        if self.activations == Activations.STATIC and self.solver != AUTO:  # one solver for all weights
            options["solver"] = self.solver
        return options

    def options_that_shape_the_plan(self) -> dict[str, Any]:
        """Those that shape the file but for the ones of a search, whose result a plan is."""
        options = self.options_that_shape_the_file()
        return {k: v for k, v in options.items() if declared(type(self))[k].declared.scope is not Scope.SEARCH}

    def _changed(self, scopes: set[Scope]) -> dict[str, Any]:
        values = {}
        for name, spec in declared(type(self)).items():
            value = getattr(self, name)
            if spec.declared.scope in scopes and value not in (spec.default, ()):
                values[name] = list(value) if isinstance(value, tuple) else getattr(value, "__qualname__", value)
        return values

    def recipe(self, entries: Mapping[str, Any] | None) -> Recipe:
        """The rules of a recipe, then one of these options, which override the recipe's own defaults."""
        last = {**self._changed({Scope.RULE}), **self.parameters}
        if self.activations == Activations.STATIC:  # one solver for all weights, so no rule names it
            last.pop("solver", None)
        return Recipe.from_dict({**drop_overridden_aliases(entries or {}, last), **last})


@cache
def option_schema() -> schema.Schema:
    """JSON Schema of a table of options in a file."""
    return schema.of_table(options_of(Options), "Options of quantize.")


def options_to_report(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords that differ from the defaults, but for those that say where to report."""
    known = options_of(Options)
    return {
        name: value
        for name, value in keywords.items()
        if value is not None and value != known[name].default and known[name].declared.is_reported
    }


def drop_overridden_aliases(entries: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Entries but for those that a stronger entry replaces: ``bits`` and ``format`` set the same thing.

    >>> drop_overridden_aliases({"bits": 4, "seed": 1}, {"format": "q4_0"})
    {'seed': 1}
    """
    pairs = [(name, spec.declared.alias_of) for name, spec in declared(Options).items() if spec.declared.alias_of]
    dropped = {one for pair in pairs for one, other in (pair, pair[::-1]) if other in stronger}
    return {k: v for k, v in entries.items() if k not in dropped}
