"""The fields of the options of ``quantize``: defaults, help, scope and choices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from onnxquant.passes import passes_by_name
from onnxquant.passes.equivalent.permute import Strategy
from onnxquant.pruning.amounts import Score
from onnxquant.recipe.declaration import Needs, Scope, any_path, option
from onnxquant.recipe.rules import RuleOptions
from onnxquant.recipe.values import (
    ActivationType,
    Effort,
    ExternalData,
    Goal,
    SearchCost,
    calibration_methods,
    client_names,
    format_names,
)
from onnxquant.targets import AUTO, Activations


def _is_file_name(value: str) -> bool:
    """Whether a value is the name of a file, not an ending alone such as ``.html``."""
    return not value.startswith(".") or "/" in value


def _is_table(value: str) -> bool:
    """Whether a value is the path of a TOML or YAML file."""
    return value.lower().endswith((".toml", ".yaml", ".yml"))


@dataclass(frozen=True, kw_only=True)
class OptionFields(RuleOptions):
    """Options of ``quantize``. Those of ``RuleOptions`` make the last rule, for the weights that no other rule matches."""

    float16: bool = option(
        False, "Compute in float16 whatever is not on integers: activations, inputs, outputs and constants. Goes with every "
        "format and with --activations; without them the weights are float16 too.", Scope.FILE,
    )  # fmt: skip
    whole_graph: bool = option(False, "With --format f16: what --float16 does.", Scope.FILE)
    keep_io_types: bool = option(False, "With --float16: inputs and outputs stay float32.", Scope.FILE)
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
        "percentile and keeps the best.", Scope.FILE, needs=Needs.STATIC, metavar="METHOD", choices=calibration_methods,
    )  # fmt: skip
    percentile: float | None = option(
        None,
        "Percentile used by --calibration-method percentile, in percent. [default: 99.999]",
        Scope.FILE, needs=Needs.STATIC,
        metavar="P",
    )
    sigmas: float | None = option(
        None, "Standard deviations around the mean that --calibration-method mean-std keeps.", Scope.FILE,
        metavar="K", needs=Needs.STATIC,
    )
    calibration: str | None = option(
        None, "Statistics from `onnxquant calibrate`, used instead of running the samples again.", Scope.RUN,
        metavar="FILE", is_path=any_path, needs=Needs.STATIC,
    )  # fmt: skip
    calibration_samples: int = option(
        512, "Largest number of samples of --data that calibration runs.", Scope.FILE, metavar="N", minimum=1,
        needs=Needs.DATA,
    )
    effort: str = option(
        Effort.MEDIUM.value, "Time for the search of integer activations. low: 10 seconds or 4 passes over the samples, "
        "whichever is more; medium: a minute or 20 passes; high: no limit. Where a goal chooses, no further way is begun "
        "after 20 seconds, a minute, or without limit.", Scope.FILE, choices=tuple(Effort),
        needs=Needs.INTEGERS,
    )  # fmt: skip
    time: str | None = option(
        None, "Time for the choice of a way, or for the search of integer activations, in place of that of --effort.",
        Scope.FILE, metavar="90s|5min|1h", needs=Needs.INTEGERS,
    )  # fmt: skip
    activation_type: str = option(
        ActivationType.UINT8.value, "Integer type of static activations. CPUs have no integer kernels for 16 bits.",
        Scope.FILE, needs=Needs.STATIC, choices=tuple(ActivationType),
    )  # fmt: skip
    symmetric_activations: bool = option(
        False, "Put the zero points of activations in the middle of their type.", Scope.FILE, needs=Needs.STATIC
    )
    balance: bool = option(
        True, "Try wider narrow channels before depthwise convolutions, and keep them where it helps.", Scope.FILE,
        needs=Needs.STATIC,
    )  # fmt: skip
    bias_correction: bool = option(True, "Correct biases for the mean error of rounding.", Scope.FILE, needs=Needs.STATIC)
    smooth: bool = option(True, "Try SmoothQuant before matrix products, and keep it where it helps.", Scope.FILE,
        needs=Needs.INTEGERS)
    smoothing_muls: bool = option(
        True, "Let SmoothQuant put a Mul before products whose division no operator before them can take: it costs time in "
        "every call. Where a goal chooses, only if the outputs lose too much without.", Scope.FILE, needs=Needs.STATIC,
    )  # fmt: skip
    equalize: bool = option(True, "Try cross-layer equalization, and keep it where it helps.", Scope.FILE, needs=Needs.STATIC)
    rebase: bool = option(
        True, "Try another basis for linear streams of channels, and keep it where it helps.", Scope.FILE, needs=Needs.STATIC
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
    prune_score: str = option(
        Score.MAGNITUDE.value, "Measure by which --prune chooses: magnitude, of all weights of a tensor together; or wanda, "
        "magnitude times the norm of the input, row by row, from --data.", Scope.FILE, choices=tuple(Score),
    )  # fmt: skip
    tune: str | None = option(
        None, "Learn weights, their scales, ranges of activations and biases for so long: the outputs of the float model "
        "teach, and samples that nothing was learned from judge. Needs the extra onnxquant[train].", Scope.FILE,
        metavar="90s|10min|1h", needs=Needs.DATA,
    )  # fmt: skip
    tune_epochs: int | None = option(
        None, "Learn from each sample so many times. In place of --tune; the same seed and threads then give the same bytes.",
        Scope.FILE, metavar="N", minimum=1, needs=Needs.DATA,
    )  # fmt: skip
    tune_seed: int = option(0, "Seed of the order of samples.", Scope.FILE, minimum=0, needs=Needs.TUNE)
    tune_loss: str | Callable[..., Any] | None = option(  # noqa: RUF009 - functions do not change
        None, "Function of two dicts of torch tensors, the file's outputs and the float model's, that gives the loss. "
        "[default: divergence of probabilities, relative squares of other outputs]", Scope.FILE,
        metavar="MODULE:FUNCTION", needs=Needs.TUNE,
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
        "small, or balanced between both. Each keeps 20 dB and 99 % of the answers, or --min-sqnr, --max-mse, --metric. "
        "[default: fast, where samples are given and no option names the way]",
        Scope.SEARCH, choices=tuple(Goal),
    )  # fmt: skip
    auto_exclude: bool = option(
        False, "Leave the fewest operators in float with which held-out samples keep --min-sqnr [default: 25], or --metric "
        "its value.", Scope.SEARCH, needs=Needs.STATIC,
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
    clients: tuple[str, ...] = option(
        (), "Program that is to run the file: onnxruntime-1.20, onnxruntime-web, transformers.js, openvino ... "
        "(`onnxquant list clients`). Nothing is written that it does not run. May be given several times: the file then "
        "suits all. [default: onnxruntime 1.23 and newer]", Scope.FILE, flag="--for", metavar="CLIENT",
        completion=client_names,
    )  # fmt: skip
    external_data: str = option(
        ExternalData.AUTO.value,
        "Whether tensors are kept in a data file beside the model. auto: as in the input, or above 100 MB.",
        Scope.FILE, choices=tuple(ExternalData),
    )  # fmt: skip
    data_name: str | None = option(
        None, "Name of the data file, which is then written; an ending alone (_data, .bin) goes behind the model's name. "
        "[default: as the client of --for expects, or as in the input, or OUTPUT.data]", Scope.FILE, metavar="NAME",
    )  # fmt: skip
    data_limit: str | None = option(
        None, "Size of the largest data file; further ones are NAME_1, NAME_2 ... [default: as the client of --for needs]",
        Scope.FILE, metavar="2GB",
    )  # fmt: skip
    external_root: tuple[str, ...] = option(
        (), "Folder into which external data of the input may link.", Scope.RUN, metavar="DIR", is_path=any_path
    )
    custom_op_library: tuple[str, ...] = option(
        (), "Library of operators that sessions register, for operators that onnxruntime does not have. May be given "
        "several times.", Scope.RUN, metavar="PATH", is_path=any_path,
    )  # fmt: skip
    dim: tuple[str, ...] = option(
        (), "Length of a named dimension of synthetic samples.", Scope.RUN, metavar="NAME=N", is_proof=True
    )
    preprocess: str | Mapping[str, Any] | None = option(
        None, "How images, texts or sounds of --data become inputs: a preset (imagenet, yolo, clip, siglip, ocr, "
        "minus1to1, whisper, wav2vec2), or steps, or both: imagenet,size=384 (docs/feeds.md).", Scope.RUN,
        metavar="PRESET|FILE|KEY=VALUE,...",
        is_path=_is_table, is_proof=True, needs=Needs.DATA,
    )  # fmt: skip
    labels: str | None = option(
        None, "Class of each sample of --data, one a line, or pairs of a file's or folder's name and a class (.txt, .csv, "
        ".tsv, .npy, .npz): the proof then tells the accuracy of both models.", Scope.RUN, metavar="FILE", is_path=any_path,
        is_proof=True, needs=Needs.DATA,
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
        Scope.SEARCH, needs=Needs.METRIC, metavar="P%|X", is_proof=True,
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

    @property
    def tunes(self) -> bool:
        """Whether what is rounded is learned from samples."""
        return self.tune is not None or self.tune_epochs is not None

    @property
    def in_float16(self) -> bool:
        """Whether what is not on integers computes in float16."""
        return self.float16 or self.whole_graph

    @property
    def searches(self) -> bool:
        """Whether formats are to be chosen."""
        return bool(self.formats) or self.budget_bpw is not None or self.max_size is not None
