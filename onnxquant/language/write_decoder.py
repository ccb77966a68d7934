"""A decoder folder from a checkpoint: its graph, with the checkpoint's codes in it, and what runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxquant.artifact import lowering
from onnxquant.errors import CheckpointError, RecipeError, WeightError, nearest
from onnxquant.formats import format_named, format_parameters
from onnxquant.formats.base import Encoded, Format
from onnxquant.graph.data_files import DataFiles
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find_sites
from onnxquant.interchange.convert import refuse_output, size_of
from onnxquant.interchange.files import open_checkpoint
from onnxquant.interchange.folders import whole_folder
from onnxquant.interchange.tensor import Checkpoint
from onnxquant.json_data import JsonValue
from onnxquant.language.architecture import Architecture
from onnxquant.language.document import DecoderDocument
from onnxquant.language.fields import Fields, JsonFiles
from onnxquant.language.folder_names import CONFIG, DATA, GENAI, MODEL, TOKENIZER, is_file_of_decoder
from onnxquant.language.genai_config import genai_config
from onnxquant.language.gguf_config import architecture_of_gguf
from onnxquant.language.graph import DecoderGraph, decoder_graph
from onnxquant.language.hf_config import architecture_of_config
from onnxquant.language.names import Names
from onnxquant.language.special_tokens import SpecialTokens
from onnxquant.language.tokenizers import has_tokenizer, write_tokenizer
from onnxquant.language.weights import Matrix, Weights
from onnxquant.native import dispatch
from onnxquant.numerics.difference import Difference
from onnxquant.plan.decision import Decision, EncodeDecision, KeepDecision, Plan
from onnxquant.plan.planner import decide
from onnxquant.recipe.progress import Progress, silent
from onnxquant.recipe.rules import Rule
from onnxquant.targets import AUTO

_GGUF = "gguf"
# Options of a rule that hold here, beside the parameters of formats.
_RULE_OPTIONS = ("format", "bits", "include", "exclude", "target", "compute")
# Formats that hold 16-bit floats as they are.
_HALVES = {"float16": "f16", "bfloat16": "bf16"}


@dataclass(frozen=True)
class WeightGroup:
    """Weights of one format in a decoder.

    Attributes:
        format: name of the format; f32 where they stay in float.
        weights: number of them.
        elements: number of their elements.
        nbytes: bytes of their codes and scales.
        sqnr_db: signal over error of the worst of those that were rounded, in decibels; None where none was.
    """

    format: str
    weights: int
    elements: int
    nbytes: int
    sqnr_db: float | None = None


@dataclass(frozen=True)
class DecoderReport:
    """A decoder folder that was written.

    Attributes:
        source: the checkpoint.
        output: the folder.
        family: family of its architecture.
        parameters: number of its weights.
        context: positions that it holds.
        groups: its weights by format.
        nbytes: bytes of the folder.
        source_bytes: bytes of the checkpoint's tensors.
        unused: tensors of the checkpoint that the graph does not read.
        notes: sentences about what a reader should know.
    """

    source: str
    output: str
    family: str
    parameters: int
    context: int
    groups: tuple[WeightGroup, ...]
    nbytes: int
    source_bytes: int
    unused: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """Bits per weight, scales and what stays in float included."""
        return 8 * sum(group.nbytes for group in self.groups) / max(self.parameters, 1)


def write_decoder(
    source: str | Path,
    output: str | Path,
    *,
    context: int | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: object,
) -> DecoderReport:
    """Write the decoder of a checkpoint, with a cache of float32; see ``onnxquant.language.convert``."""
    output = Path(output)
    if output.suffix == ".onnx":
        raise RecipeError(f"{output}: a decoder is a folder with {MODEL} in it; expected a name without .onnx")
    checkpoint = open_checkpoint(source)
    refuse_output(checkpoint, output, is_folder=True, force=force)
    files = JsonFiles(checkpoint.folder)
    architecture = architecture_of(checkpoint, files)
    positions = architecture.context_length if context is None else context
    if not 0 < positions <= architecture.context_length:
        raise RecipeError(
            f"context {positions}: expected 1 to {architecture.context_length}, the positions of {source}"
        )
    weights = Weights(checkpoint, architecture, _names(checkpoint, architecture))
    graph = decoder_graph(weights, positions)
    work = _Work(graph, DecoderDocument(graph, checkpoint), _rule(options), checkpoint, progress)
    work.plan()
    in_float = work.notes()
    with whole_folder(output, is_file_of_decoder) as folder:
        work.write(folder / MODEL)
        tokens, notes = _tokenizer(checkpoint, files, folder, architecture.vocabulary)
        config = genai_config(architecture, positions, tokens)
        (folder / GENAI).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        _copy_config(checkpoint, folder)
    parameters = sum(matrix.rows * matrix.cols for matrix in graph.matrices.values())
    return DecoderReport(
        str(source), str(output), architecture.family, parameters, positions, tuple(work.groups()), size_of(output),
        sum(tensor.nbytes for tensor in checkpoint.tensors.values()), tuple(weights.unused()),
        (*checkpoint.notes, *in_float, *notes),
    )  # fmt: skip


def architecture_of(checkpoint: Checkpoint, files: JsonFiles) -> Architecture:
    """The architecture of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        files: files beside it.

    Raises:
        CheckpointError: it says none, or one that is not known.
    """
    if checkpoint.container == _GGUF:
        return architecture_of_gguf(checkpoint)
    if not files.has(CONFIG):
        raise CheckpointError(f"{checkpoint.path}: has no {CONFIG} beside it, which says what architecture it is of")
    return architecture_of_config(files.fields(CONFIG))


def _names(checkpoint: Checkpoint, architecture: Architecture) -> Names:
    return Names.of(checkpoint.tensors.keys(), architecture, is_gguf=checkpoint.container == _GGUF)


def _copy_config(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the checkpoint's own configuration, by which people tell what a folder holds."""
    place = checkpoint.folder / CONFIG
    if checkpoint.container != _GGUF:
        shutil.copyfile(place, folder / CONFIG)


def _tokenizer(
    checkpoint: Checkpoint, files: JsonFiles, folder: Path, vocabulary: int
) -> tuple[SpecialTokens, tuple[str, ...]]:
    """Write the tokenizer of a checkpoint; its special tokens, and sentences about it."""
    declared = _declared_tokens(checkpoint, files, vocabulary)
    if not has_tokenizer(checkpoint):
        return declared, (f"{checkpoint.path} has no tokenizer: put {TOKENIZER} into the written folder to work with texts",)
    facts = write_tokenizer(checkpoint, folder, files)
    special = replace(
        facts.special,
        bos=declared.bos if facts.special.bos is None else facts.special.bos,
        eos=facts.special.eos or declared.eos,
        pad=declared.pad if facts.special.pad is None else facts.special.pad,
    )
    return special, facts.notes


def _declared_tokens(checkpoint: Checkpoint, files: JsonFiles, vocabulary: int) -> SpecialTokens:
    """The special tokens that a configuration names, of those that there are."""
    if checkpoint.container == _GGUF:
        fields = Fields(str(checkpoint.path), checkpoint.metadata, "tokenizer.ggml.")
        names = ("bos_token_id", "eos_token_id", "padding_token_id")
    else:
        fields, names = files.fields(CONFIG), ("bos_token_id", "eos_token_id", "pad_token_id")
    begins, ends, pads = (_tokens_among(fields.get(name), vocabulary) for name in names)
    return SpecialTokens(next(iter(begins), None), tuple(dict.fromkeys(ends)), next(iter(pads), None))


def _tokens_among(value: JsonValue, vocabulary: int) -> list[int]:
    """The tokens of an entry that are in the vocabulary."""
    values = value if isinstance(value, list) else [value]
    return [token for token in values if type(token) is int and 0 <= token < vocabulary]


def _rule(options: Mapping[str, Any]) -> Rule:
    """The rule for floats.

    Raises:
        RecipeError: there is no such option, or it has no effect without a format.
    """
    chosen = {name: value for name, value in options.items() if value not in (None, ())}
    parameters = {name: chosen.pop(name) for name in list(chosen) if name in format_parameters()}
    if unknown := [name for name in chosen if name not in _RULE_OPTIONS]:
        raise RecipeError(f"unknown option {unknown[0]!r}{nearest(unknown[0], [*_RULE_OPTIONS, *format_parameters()])}")
    of_format = [*parameters, *(name for name in ("include", "exclude") if name in chosen)]
    if of_format and not {"format", "bits"} & chosen.keys():
        raise RecipeError(
            f"{of_format[0]} has no effect without a format that floats are rounded to (--format or --bits)"
        )
    return Rule(**chosen, parameters=parameters)


@dataclass
class _Work:
    """The writing of one decoder.

    Attributes:
        graph: its graph.
        document: the graph as a model.
        rule: options for floats.
        checkpoint: the checkpoint.
        progress: called with the part that is done.
        decisions: decision about each weight.
        rounded: errors of weights that were rounded.
        refused: reasons why weights stay in float that a format was asked for, by name.
    """

    graph: DecoderGraph
    document: DecoderDocument
    rule: Rule
    checkpoint: Checkpoint
    progress: Progress
    decisions: list[Decision] = field(default_factory=list)
    rounded: dict[str, Difference] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    _done: int = 0

    def plan(self) -> None:
        """Decide what becomes of each weight.

        Raises:
            RecipeError: a target cannot hold codes of the checkpoint, or a format has no effect.
        """
        floats = 0
        for site in find_sites(self.document)[0]:
            matrix = self.graph.matrices.get(site.name)
            if matrix is None:
                continue
            form = matrix.format
            if form is None:
                floats += self.rule.matches(site)
                decision = self._decide_floats(site, matrix)
                if self._has_format and isinstance(decision, KeepDecision):
                    self.refused[site.name] = decision.reason
            else:
                decision = self._decide_codes(site, form)
            if decision is not None:
                self.decisions.append(decision)
        if not floats and self._has_format:
            raise RecipeError(
                f"{self.checkpoint.path}: no weight of floats is left for a format: others have codes, which move as they "
                f"are, or --include and --exclude leave them out"
            )

    @property
    def _has_format(self) -> bool:
        """Whether floats are to be rounded."""
        return self.rule.format is not None or self.rule.bits is not None

    def notes(self) -> list[str]:
        """Sentences on weights that stay in float, though a format was asked for.

        Raises:
            RecipeError: all of them do.
        """
        if not self.refused:
            return []
        name, reason = next(iter(self.refused.items()))
        if not any(isinstance(decision, EncodeDecision) for decision in self.decisions):
            raise RecipeError(f"{self.checkpoint.path}: no weight can be rounded: {name}: {reason}")
        return [f"{len(self.refused)} weights stay in float; {name}: {reason}"]

    def _decide_codes(self, site: Site, form: Format) -> Decision:
        rule = Rule(format=form.name, target=self.rule.target, compute=self.rule.compute)
        decision = decide(site, form, rule, self.document.opset)
        if not isinstance(decision, EncodeDecision):
            raise RecipeError(
                f"{self.checkpoint.path}: weight {site.name}: target {self.rule.target} cannot hold its {form.name}: "
                f"{decision.reason}" + f"; leave the choice to --target {AUTO}" * (self.rule.target != AUTO)
            )
        return replace(decision, format=form)

    def _decide_floats(self, site: Site, matrix: Matrix) -> Decision | None:
        form: Format | None = None
        if self._has_format:
            form = self.rule.make_format() if self.rule.matches(site) else None
        kinds = {str(tensor.kind) for tensor in matrix.tensors}
        if form is None and len(kinds) == 1 and (name := _HALVES.get(kinds.pop())):
            form = format_named(name)
        return None if form is None else decide(site, form, self.rule, self.document.opset)

    def write(self, place: Path) -> None:
        """Write the model and its data file."""
        with Publisher(place, external=True, force=False, data=DataFiles(DATA), source=None) as publisher:
            lowering.write(self.document, Plan(tuple(self.decisions)), publisher, self._encoded)

    def _encoded(self, site: Site, decision: EncodeDecision) -> Encoded:
        """The codes of a weight: the checkpoint's, or new ones."""
        total = sum(matrix.rows * matrix.cols for matrix in self.graph.matrices.values())
        self.progress("writing weights", self._done / total)
        self._done += site.elements
        for file in self.checkpoint.files:
            file.forget()
        matrix = self.graph.matrices[site.name]
        if matrix.format is not None:
            return matrix.encoded()
        if self._is_half(matrix, decision.format):
            try:
                return matrix.halves(decision.format)
            except WeightError as error:
                raise WeightError(f"{self.checkpoint.path}: {error}") from None
        try:
            encoded, difference = dispatch.encode(decision.format, matrix.stack())
        except WeightError as error:
            raise WeightError(f"{self.checkpoint.path}: weight {site.name}: {error}") from None
        self.rounded[site.name] = difference
        return encoded

    def _is_half(self, matrix: Matrix, form: Format) -> bool:
        """Whether the checkpoint has the numbers of a weight in a format of 16-bit floats."""
        return all(_HALVES.get(str(tensor.kind)) == form.name for tensor in matrix.tensors)

    def groups(self) -> list[WeightGroup]:
        """The weights by format, largest group first."""
        decided = {decision.name: decision for decision in self.decisions if isinstance(decision, EncodeDecision)}
        groups: dict[str, WeightGroup] = {}
        for name, matrix in self.graph.matrices.items():
            decision = decided.get(name)
            elements = matrix.rows * matrix.cols
            form, size = (decision.format.name, decision.nbytes) if decision else ("f32", 4 * elements)
            old = groups.get(form, WeightGroup(form, 0, 0, 0))
            levels = [level for level in (old.sqnr_db,) if level is not None]
            levels += [self.rounded[name].sqnr_db] if name in self.rounded else []
            groups[form] = WeightGroup(
                form, old.weights + 1, old.elements + elements, old.nbytes + size, min(levels, default=None)
            )
        return sorted(groups.values(), key=lambda group: -group.elements)
