"""Every option of quantizing, once: the keyword facade and the command line are both generated from this."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Self, get_args

from onnxquant.errors import RecipeError, nearest
from onnxquant.formats import parameters as format_parameters
from onnxquant.recipe import schema
from onnxquant.recipe.rules import Recipe
from onnxquant.recipe.values import COMPUTE, Drop, Strategy
from onnxquant.solvers import registry as solvers

EXTERNAL_DATA = ("auto", "always", "never")
# Above this the tensors go to a file of their own, where sessions map them.
INLINE_BYTES = 100 << 20
# Endings of reports, each a face of its own.
REPORTS = (".html", ".md", ".json")
ACTIVATIONS = ("none", "static", "dynamic")
SOLVERS = ("auto", *solvers())
BESIDE_INTEGERS = ("auto", "rtn", "gptq")


def _option(default: Any, help: str, flag: str = "", metavar: str = "", choices: tuple[str, ...] = ()) -> Any:
    meta = {"help": help, "flag": flag, "metavar": metavar, "choices": choices}
    return field(default=default, metadata=meta)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of ``quantize``. Those up to ``target`` make a Rule for every site no other rule decides.

    ``parameters`` holds parameters of the format; each is a keyword and a command-line option of its own.
    """

    format: str | None = _option(None, "Format of the weights; `onnxquant list` shows all. [default: int8]")
    bits: int | None = _option(None, "Short form of --format: 8, 4 or 2 for int8, int4, int2.")
    parameters: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] = _option((), "Only weights whose name, or a consuming node's, matches.", metavar="REGEX")
    exclude: tuple[str, ...] = _option((), "Not weights whose name, or a consuming node's, matches.", metavar="REGEX")
    target: str = _option(
        "auto", "What encoded weights become: standard ops, onnxruntime's, or ours.",
        choices=("auto", "onnx", "ort", "custom"),
    )  # fmt: skip
    whole_graph: bool = _option(
        False, "With --format f16: activations too, every float32 of the graph becomes float16.", "--whole-graph"
    )
    keep_io_types: bool = _option(False, "With --whole-graph: inputs and outputs stay float32.", "--keep-io-types")
    activations: str = _option(
        "none", "Compute on integer activations: of ranges found by calibration on --data, or found anew per call.",
        choices=ACTIVATIONS,
    )  # fmt: skip
    calibration_method: str = _option(
        "auto", "How ranges are chosen: auto tries minmax, mse and percentile and keeps the best.",
        choices=("auto", "minmax", "moving-average", "percentile", "entropy", "mse", "mean-std"),
    )  # fmt: skip
    percentile: float | None = _option(None, "Of method percentile, in percent. [default: 99.999]", metavar="P")
    sigmas: float | None = _option(None, "Of method mean-std: standard deviations around the mean.", metavar="K")
    calibration: str | None = _option(
        None, "Statistics from `onnxquant calibrate`, used instead of running the samples again.", metavar="FILE"
    )
    calibration_samples: int = _option(512, "Samples of --data that calibration runs at most.", metavar="N")
    activation_type: str = _option(
        "uint8", "Type of the codes of static activations; 16 bits have no integer kernels on CPUs.",
        choices=("uint8", "int8", "uint16", "int16"),
    )  # fmt: skip
    symmetric_activations: bool = _option(False, "Zero points in the middle of the type.", "--symmetric-activations")
    balance: bool = _option(True, "Widen narrow channels before depthwise convolutions.", "--balance/--no-balance")
    bias_correction: bool = _option(
        True, "Correct biases for the mean error of rounding.", "--bias-correction/--no-bias-correction"
    )
    smooth: bool = _option(
        True, "Try SmoothQuant before matrix products, and keep it where it helps.", "--smooth/--no-smooth"
    )  # fmt: skip
    equalize: bool = _option(
        True, "Try cross-layer equalization, and keep it where it helps.", "--equalize/--no-equalize"
    )
    rebase: bool = _option(
        True, "Try another basis for linear streams of channels, and keep it where it helps.", "--rebase/--no-rebase"
    )
    solver: str = _option(
        "auto", "How weights get their codes; `onnxquant list` shows all. auto: gptq where --data tells what they are "
        "multiplied with and codes have less than 8 bits, or beside static activations where it is the better one; else rtn.",
        choices=SOLVERS,
    )  # fmt: skip
    compute: str = _option(
        "auto", "How products of encoded weights compute. auto: by the fastest kernels, most of which round activations to 8 "
        "bits; float: weights are decoded at load, for the speed and memory of float and nothing lost but in weights.",
        choices=COMPUTE,
    )  # fmt: skip
    permutation: Strategy | None = _option(  # noqa: RUF009 - a Literal does not change
        None, "Order in which columns of weights are stored, so that blocks hold alike ones: by their norm, by the energy of "
        "their inputs, or one by norm for the q, k and v of a layer. Folded into what makes the input where that is exact.",
        choices=get_args(Strategy),
    )  # fmt: skip
    jobs: int = _option(1, "Weights that are solved at a time, in processes.", metavar="N")
    work: str | None = _option(
        None, "Folder that keeps solved weights: an interrupted run goes on from there.", metavar="DIR"
    )
    auto_exclude: bool = _option(
        False, "Leave the fewest ops in float with which held-out samples keep --min-sqnr [default: 25], or --metric its "
        "value.", "--auto-exclude",
    )  # fmt: skip
    formats: tuple[str, ...] = _option(
        (), "Choose among these formats, weight by weight, the best choice under --budget-bpw or --max-size, or the smallest "
        "that keeps --min-sqnr or --metric. May be given several times. [default: int8 int6 int5 int4 int3]",
        metavar="NAME[:KEY=VALUE,...]",
    )  # fmt: skip
    budget_bpw: float | None = _option(
        None, "Choose formats so that the bits of all constant weights, those left in float too, divided by their number are "
        "at most this.", metavar="BITS",
    )  # fmt: skip
    max_size: str | None = _option(None, "Choose formats so that the file has at most this size.", metavar="30MB")
    cost: str = _option(
        "size", "What the choice under --min-sqnr or --metric is to save: bytes, or the time of products, measured here.",
        choices=("size", "latency"),
    )  # fmt: skip
    external_data: str = _option(
        "auto", "Keep tensors in OUTPUT.data beside the model. auto: as the input does, or above 100 MB.",
        choices=EXTERNAL_DATA,
    )  # fmt: skip
    external_root: tuple[str, ...] = _option(
        (), "Folder whose files the input's external data may link to.", metavar="DIR"
    )
    dim: tuple[str, ...] = _option((), "Length of a named dimension for synthetic feeds.", metavar="NAME=N")
    preprocess: str | Mapping[str, Any] | None = _option(
        None, "How images or texts of --data become inputs (docs/feeds.md).", metavar="FILE|KEY=VALUE,..."
    )
    samples: int = _option(4, "Samples that the proof runs.")
    seed: int = _option(0, "Seed of synthetic feeds.")
    threads: int | None = _option(None, "Threads of sessions. [default: onnxruntime's choice]")
    min_sqnr: float | None = _option(None, "Exit 1 unless every output keeps this SQNR in dB.", metavar="DB")
    max_mse: float | None = _option(None, "Exit 1 unless every output keeps this mean squared error.", metavar="X")
    metric: str | Callable[..., float] | None = _option(  # noqa: RUF009 - functions do not change
        None, "Function of an onnxruntime.InferenceSession that gives a number, more is better, e.g. accuracy.",
        metavar="MODULE:FUNCTION",
    )  # fmt: skip
    max_drop: str | float = _option(
        "0.5%", "Exit 1 unless --metric keeps within this of the original's: of its value, or a number.", metavar="P%|X"
    )
    proof: bool = _option(True, "Open the output again and prove it.", "--proof/--no-proof")
    save_recipe: str | None = _option(
        None, "Write the plan, formats that were searched for too, as a recipe to edit and to give to --recipe.",
        metavar="FILE",
    )  # fmt: skip
    report: tuple[str, ...] = _option(
        (), "Write what was done and proven to a file: its ending chooses .html, .md or .json, and an ending alone means "
        "beside the output. May be given several times.", metavar="FILE",
    )  # fmt: skip
    dry_run: bool = _option(
        False, "Print the plan: every site, its decision, sizes and refusals. Writes nothing.", "--dry-run"
    )
    force: bool = _option(False, "Replace an existing output, and existing reports.", "--force")

    @classmethod
    def make(cls, given: Mapping[str, Any]) -> Self:
        """Options from keywords.

        Raises:
            RecipeError: an unknown keyword; the nearest is named.
        """
        of_format = format_parameters()
        known = [*(f.name for f in fields(cls) if f.metadata), *of_format]
        for key in given:
            if key not in known:
                raise RecipeError(f"unknown option {key!r}{nearest(key, known)}")
        values: dict[str, Any] = {
            k: ((v,) if isinstance(v, str) else tuple(v)) if k in _SEVERAL and v is not None else v
            for k, v in given.items()
            if v is not None
        }
        chosen = {k: values.pop(k) for k in of_format if k in values}
        options = cls(**values, parameters=chosen)
        for spec in fields(cls):
            value, choices = getattr(options, spec.name), spec.metadata.get("choices")
            if choices and value is not None and value not in choices and spec.name != "target":
                raise RecipeError(f"{spec.name} is {value!r}{nearest(str(value), list(choices))}")
        for name, least in (("samples", 1), ("seed", 0), ("threads", 1), ("calibration_samples", 1), ("jobs", 1)):
            value = getattr(options, name)
            if value is not None and value < least:
                raise RecipeError(f"{name} is {value}, expected at least {least}")
        for name, most in (("samples", 10_000), ("threads", 256)):
            if (getattr(options, name) or 0) > most:
                raise RecipeError(f"{name} is {getattr(options, name)}, expected at most {most}")
        for name in ("min_sqnr", "max_mse"):
            bound = getattr(options, name)
            if bound is not None and math.isnan(bound):
                raise RecipeError(f"{name} is {bound}, expected a number")
            if bound is not None and not options.proof:
                raise RecipeError(f"{name} is a bound on the proof, which --no-proof leaves out")
        if options.activations == "static" and options.solver not in BESIDE_INTEGERS:
            raise RecipeError(
                f"solver {options.solver}: beside static activations expected one of {', '.join(BESIDE_INTEGERS)}"
            )
        if options.compute == "float" and options.activations != "none":
            raise RecipeError("compute float rounds no activations: leave out activations")
        if options.metric is not None and not options.proof:
            raise RecipeError("metric is measured by the proof, which --no-proof leaves out")
        if options.permutation is not None and (options.activations != "none" or options.whole_graph):
            raise RecipeError("permutation is an order of encoded weights alone: leave out activations and whole_graph")
        for name in options.report:
            # An ending alone is no suffix in the eyes of pathlib.
            if not str(name).endswith(REPORTS):
                raise RecipeError(f"report is {str(name)!r}, expected a name that ends in {', '.join(REPORTS)}")
        Drop.parse(options.max_drop)
        options.max_bytes()
        options.check_search()
        options.dims()
        return options

    @classmethod
    def of_recipe(cls, entries: Mapping[str, Any] | None, given: Mapping[str, Any]) -> tuple[Self, Recipe]:
        """Options and rules of a recipe's entries and of what was given beside it, which wins.

        Raises:
            RecipeError: an unknown key, or a value of the wrong type.
        """
        held = (entries or {}).get("options", {})
        schema.check(held, option_schema(), "recipe: options")
        named = {k: v for k, v in given.items() if v is not None}
        options = cls.make({**without_rivals(held, named), **named})
        return options, options.recipe(entries)

    @property
    def searches(self) -> bool:
        """Whether formats are to be chosen."""
        return bool(self.formats) or self.budget_bpw is not None or self.max_size is not None

    def max_bytes(self) -> int:
        """Bytes of ``max_size``; 0 without it.

        Raises:
            RecipeError: it is no size.

        >>> Options(max_size="1.5MB").max_bytes()
        1500000
        """
        if self.max_size is None:
            return 0
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMG]i?B|B|)\s*", self.max_size)
        if match is None or not float(match[1]):
            raise RecipeError(f"max_size is {self.max_size!r}, expected a size such as 30MB, 512kB or 1.5GiB")
        base = 1024 if "i" in match[2] else 1000
        return int(float(match[1]) * base ** " kMG".index(match[2][:1].replace("K", "k").replace("B", "") or " "))

    def is_external(self, *, already: bool, nbytes: int) -> bool:
        """Whether tensors go to a file of their own.

        Args:
            already: the original's do.
            nbytes: of the weights.
        """
        if self.external_data != "auto":
            return self.external_data == "always"
        return already or nbytes > INLINE_BYTES

    def check_search(self) -> None:
        """Refuse bounds and formats that do not go together.

        Raises:
            RecipeError: with what was expected.
        """
        if self.budget_bpw is not None and not 0 < self.budget_bpw < 64:
            raise RecipeError(f"budget_bpw is {self.budget_bpw}, expected bits per weight, such as 4.5")
        bounded = self.budget_bpw is not None or self.max_size is not None
        if self.cost != "size" and (bounded or not self.searches):
            raise RecipeError("cost says what to save under a bound on quality: name formats, and min_sqnr or metric")
        if not self.searches:
            return
        if self.budget_bpw is not None and self.max_size is not None:
            raise RecipeError("budget_bpw and max_size are two bounds on one thing: give one")
        if self.format is not None or self.bits is not None:
            raise RecipeError("format and bits say what weights become: name formats to choose among by formats")
        if self.activations != "none" or self.whole_graph:
            raise RecipeError("formats are chosen for weights alone: leave out activations and whole_graph")
        if not bounded and self.min_sqnr is None and self.metric is None:
            raise RecipeError("formats need a bound to choose by: give budget_bpw, max_size, min_sqnr or metric")

    def lasting(self) -> dict[str, Any]:
        """Options that shape what is written, other than those of rules, by name where they are not the defaults."""
        out = {}
        for spec in fields(self):
            value = getattr(self, spec.name)
            if not spec.metadata or spec.name in (*_OF_THE_RUN, *_RULE_FIELDS) or value in (spec.default, ()):
                continue
            if spec.name in ("min_sqnr", "metric", "max_drop") and not (self.searches or self.auto_exclude):
                continue  # only bounds on the proof
            out[spec.name] = list(value) if isinstance(value, tuple) else getattr(value, "__qualname__", value)
        if self.activations == "static" and self.solver != "auto":
            out["solver"] = self.solver
        return out

    def dims(self) -> dict[str, int]:
        """Lengths of named dimensions.

        Raises:
            RecipeError: an entry is not NAME=N with N > 0.
        """
        out = {}
        for entry in self.dim:
            name, _, value = entry.partition("=")
            if not name or not (value.isascii() and value.isdigit()) or int(value) < 1:
                raise RecipeError(f"dim {entry!r}: expected NAME=N with N > 0")
            out[name] = int(value)
        return out

    def recipe(self, entries: Mapping[str, Any] | None) -> Recipe:
        """The rules: those of a recipe, then the options as the last one (they override the recipe's own defaults)."""
        rule = {**{k: getattr(self, k) for k in _RULE_FIELDS}, **self.parameters}
        given = {k: list(v) if isinstance(v, tuple) else v for k, v in rule.items() if v not in (None, ())}
        for key in ("target", "compute"):
            if given[key] == "auto":
                given.pop(key)
        if self.solver == "auto" or self.activations == "static":  # beside static activations it is one for all
            given.pop("solver")
        merged = without_rivals(entries or {}, given)
        return Recipe.from_dict({**merged, **given})


@cache
def option_schema() -> schema.Schema:
    """What a table of options in a file may hold, as JSON Schema."""
    of_format = {name: schema.of_parameter(p) for name, p in format_parameters().items()}
    return schema.table({**schema.of_class(Options), **of_format}, "Options of quantize.")


def without_rivals(entries: Mapping[str, Any], stronger: Mapping[str, Any]) -> dict[str, Any]:
    """Entries without what stronger ones stand instead of: ``bits`` and ``format`` are two words for one thing.

    >>> without_rivals({"bits": 4, "seed": 1}, {"format": "q4_0"})
    {'seed': 1}
    """
    rivals = {"bits": "format", "format": "bits"}
    return {k: v for k, v in entries.items() if k not in rivals or rivals[k] not in stronger}


_SEVERAL = ("include", "exclude", "external_root", "dim", "formats", "report")
# How and where it is done, not what becomes of the model.
_OF_THE_RUN = (
    "calibration", "jobs", "work", "external_root", "dim", "preprocess", "samples", "threads", "max_mse", "proof", "report",
    "save_recipe", "dry_run", "force", "seed",
)  # fmt: skip
_RULE_FIELDS = ("format", "bits", "include", "exclude", "target", "solver", "compute")
