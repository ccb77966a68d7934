"""Pruning within the way of a model to its file: after it is prepared, before it is planned."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxquant.calibration.gram_matrices import grams
from onnxquant.calibration.weight_inputs import nodes_showing_the_input
from onnxquant.errors import ModelError, RecipeError
from onnxquant.formats import format_named
from onnxquant.formats.base import Format
from onnxquant.graph.io import Document
from onnxquant.graph.needs import is_depthwise
from onnxquant.graph.sites import Site, find_sites
from onnxquant.numerics.arrays import Doubles
from onnxquant.plan.context import Context
from onnxquant.plan.decision import Plan
from onnxquant.plan.planner import first_matching_rule
from onnxquant.pruning.amounts import Amount, Pattern, Score
from onnxquant.pruning.channels import Channels, Group
from onnxquant.pruning.labels import Part
from onnxquant.pruning.masks import GROUP, scores, staying
from onnxquant.pruning.records import CompressedSizes, Left, Pruned, PrunedModel, PruningRecord, RemovedChannels, Work
from onnxquant.pruning.removal import least, place_of, remove
from onnxquant.pruning.values import set_values
from onnxquant.pruning.work import work_of
from onnxquant.pruning.zeros import keeps_zeros
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import announce
from onnxquant.recipe.rules import Recipe
from onnxquant.report.report import Report

# Roles of weights that are multiplied: the columns of their matrices are inputs.
_MULTIPLIED = ("matmul", "gemm", "conv", "conv_transpose", "recurrent", "fusedconv", "fusedmatmul", "fusedgemm", "attention")
# Bytes of a file that are compressed, in so many parts evenly spread, to estimate the size of all.
_PARTS, _PART_BYTES = 48, 1 << 20


@dataclass(frozen=True)
class _Target:
    """A weight that is to be pruned.

    Attributes:
        site: the weight.
        amount: the part of it that goes.
        taps: number of consecutive columns that read one input channel.
    """

    site: Site
    amount: Amount
    taps: int


def check_pruning(options: Options, rules: Recipe) -> None:
    """Refuse to prune weights whose format has no zero, and options without effect.

    Raises:
        RecipeError: the remedy is in the message.
    """
    pruning = [rule for rule in rules.rules if rule.prune is not None]
    if not pruning and options.prune_score != Score.MAGNITUDE:
        raise RecipeError("prune_score: has no effect without --prune")
    forms = [rule.make_format() for rule in pruning if Amount.parse(rule.prune or "").pattern is not Pattern.CHANNELS]
    searched = [format_named(name.partition(":")[0]) for name in options.formats] if forms and options.searches else []
    for form in (*forms, *searched):
        _refuse_without_zero(form)


def _refuse_without_zero(form: Format) -> None:
    if not keeps_zeros(form):
        raise RecipeError(
            f"prune: format {form.name} has no exact zero, so that pruned weights would come back; int4, int8, q4_0, q8_0 "
            "and nf4 have one, and channels=... goes with every format"
        )


def refuse_formats_without_zero(plan: Plan) -> None:
    """Refuse a plan that gives a pruned weight a format without a zero.

    Raises:
        RecipeError: it does.
    """
    for decision in plan.encoded:
        if plan.pruned is not None and decision.name in plan.pruned.zeros:
            _refuse_without_zero(decision.format)


def prune(context: Context) -> Context:
    """The context of the steps that go on with the pruned model; itself where no rule prunes.

    Raises:
        RecipeError: the score needs samples, and there are none.
        ModelError: nothing can be pruned.
    """
    if all(rule.prune is None for rule in context.rules.rules):
        return context
    context = context.with_document(context.document.copy())
    score = Score(context.options.prune_score)
    if score is Score.WANDA and context.samples is None:
        raise RecipeError("prune_score wanda needs samples that tell what weights are multiplied with: give --data")
    left = _Leftovers()
    removed = _remove_channels(context, score, left)
    pruned, elements = _prune_weights(context, score, left)
    if not pruned and removed is None:
        reasons = left.in_words() or "it has no constant float weights"
        raise ModelError(f"{context.document.name}: nothing to prune: {reasons}")
    record = PruningRecord(
        score=score.value, weights=len(pruned), elements=elements, zeros=sum(pruned.values()), left=left.entries(),
        total=_elements(context.document), channels=removed.count if removed else 0,
        before=removed.before if removed else None, after=removed.after if removed else None,
    )  # fmt: skip
    announce(context.progress, sentence(record))
    return replace(context, pruned=PrunedModel(Pruned(pruned, removed.places if removed else ()), record))


def add_pruning(context: Context, report: Report, path: Path) -> None:
    """Add the figures of pruning, with those of the file, to a report."""
    if context.pruned is None:
        return
    original = [context.original.path, *context.original.data_files()] if context.original.path else []
    compressed = CompressedSizes(compressed_bytes(p for p in original if p), compressed_bytes(_files(path)))
    report.pruning = replace(context.pruned.record, compressed=compressed)


def sentence(record: PruningRecord) -> str:
    """The result of pruning in one sentence."""
    parts = []
    if record.weights:
        share = 100 * record.zeros / max(record.elements, 1)
        parts.append(f"{share:.1f} % of the elements of {record.weights} weights are zero")
    if record.before and record.after:
        share = 100 * record.after.parameters / record.before.parameters
        parts.append(f"{record.channels} channels left the graph, {share:.0f} % of the parameters stay")
    return f"pruned by {record.score}: {'; '.join(parts)}"


class _Leftovers:
    """Weights and channels that are not pruned, by reason."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Note one that stays."""
        self._names.setdefault(reason, []).append(name)

    def entries(self) -> tuple[Left, ...]:
        """The reasons, most frequent first."""
        ordered = sorted(self._names.items(), key=lambda item: -len(item[1]))
        return tuple(Left(reason, len(names), names[0]) for reason, names in ordered)

    def in_words(self) -> str:
        """The reasons in one sentence."""
        return "; ".join(f"{left.count} {left.reason}, such as {left.example}" for left in self.entries())


def _amount_of(site: Site, rules: Recipe) -> Amount | None:
    """The amount that the rule of a weight prunes; None: nothing."""
    match = first_matching_rule(site, rules)
    return None if match is None or match[1].prune is None else Amount.parse(match[1].prune)


@dataclass(frozen=True)
class _Removed:
    """Channels that left a graph.

    Attributes:
        places: their places.
        before: work of the model with them.
        after: work without them.
    """

    places: tuple[RemovedChannels, ...]
    before: Work
    after: Work

    @property
    def count(self) -> int:
        """Number of channels."""
        return sum(len(place.channels) for place in self.places)


def _remove_channels(context: Context, score: Score, left: _Leftovers) -> _Removed | None:
    """Take the channels out of the graph that rules ask for, in place; None where none goes."""
    document = context.document
    sites = {site.tensor.name: site for site in find_sites(document)[0] if site.graph is document.proto.graph}
    amounts = {name: _amount_of(site, context.rules) for name, site in sites.items()}
    if not any(amount and amount.pattern is Pattern.CHANNELS for amount in amounts.values()):
        return None
    channels = Channels(document)
    chosen: list[tuple[Group, float]] = []
    for group in channels.groups():
        parts = [amount for maker in group.makers if (amount := amounts.get(maker)) and amount.pattern is Pattern.CHANNELS]
        if not parts:
            continue
        if group.locked or len(parts) < len(group.makers):
            reason = group.locked or "a weight that makes them is left out, or too small"
            left.add(f"layers whose channels stay: {reason}", group.makers[0])
        else:
            chosen.append((group, min(amount.part for amount in parts)))
    readers = {cut.tensor for group, _ in chosen for cut in group.cuts if cut.part is Part.READS}
    energies = _energies(context, [sites[name] for name in readers if name in sites]) if score is Score.WANDA else {}

    def energy(name: str) -> NDArray[Any] | None:
        if name not in energies:
            return None
        view = sites[name].view
        return view.restore(np.repeat(energies[name], view.rows // len(energies[name]), axis=0))

    going = [least(document, group, channels, part, energy) for group, part in chosen]
    places = tuple(
        place_of(group, channels, labels) for (group, _), labels in zip(chosen, going, strict=True) if labels.size
    )
    if not places:
        return None
    before = work_of(document)
    remove(document, channels, np.concatenate(going))
    return _Removed(places, before, work_of(document))


def _prune_weights(context: Context, score: Score, left: _Leftovers) -> tuple[dict[str, int], int]:
    """Make single weights zero, in place; the number of zeros by weight, and the number of elements of all of these."""
    targets = _targets(context, left)
    energies = _energies(context, [target.site for target in targets]) if score is Score.WANDA else {}
    zeros: dict[str, int] = {}
    for target in targets:
        energy = energies.get(target.site.tensor.name)
        if score is Score.WANDA and energy is None:
            left.add("by magnitude, as their inputs are not observed", target.site.name)
        zeros[target.site.name] = _prune(context.document, target, energy, by_row=score is Score.WANDA)
    return zeros, sum(target.site.elements for target in targets)


def _targets(context: Context, left: _Leftovers) -> list[_Target]:
    """The weights that rules prune and that can be; the others go to ``left``."""
    targets = []
    for site in find_sites(context.document)[0]:
        amount = _amount_of(site, context.rules)
        if amount is not None and amount.pattern is Pattern.CHANNELS:
            continue
        reason = "left out by include, exclude or a rule" if amount is None else _refusal(site, amount)
        if amount is None or reason:
            left.add(reason, site.name)
        else:
            targets.append(_Target(site, amount, _taps(site)))
    return targets


def _refusal(site: Site, amount: Amount) -> str:
    """The reason why single weights of a site cannot be pruned; empty where they can."""
    roles = {use.role for use in site.uses}
    if not roles & set(_MULTIPLIED):
        return f"read by {'+'.join(sorted(roles))}, not multiplied"
    if "gather" in roles:
        return "a table that is looked up, too"
    uses = [use for use in site.uses if use.role == "conv"]
    if uses and any(is_depthwise(use.node, site.tensor) for use in uses):
        return "a depthwise convolution: one input for each output"
    inputs = site.cols // _taps(site)
    is_by_row = "conv_transpose" not in roles or site.view.perm[0] == 1
    if amount.pattern is Pattern.TWO_OF_FOUR and (not is_by_row or inputs % GROUP):
        return f"{inputs} inputs: no whole groups of {GROUP}" if is_by_row else "a convolution whose rows are inputs"
    return ""


def _taps(site: Site) -> int:
    """Number of consecutive columns that read one input channel: positions of a convolution's kernel."""
    is_convolution = any(use.role in ("conv", "conv_transpose", "fusedconv") for use in site.uses)
    return int(np.prod(site.shape[2:], dtype=np.int64)) if is_convolution and site.view.split == 1 else 1


def _energies(context: Context, sites: Sequence[Site]) -> Mapping[str, Doubles]:
    """Sums of squares of the inputs of weights, [groups, cols] by the name of the tensor; unobserved ones have none."""
    assert context.samples is not None
    document = context.document
    main = document.proto.graph
    readers = [reader for site in sites for reader in nodes_showing_the_input(site, main)]
    if not readers:
        return {}
    feeds = context.samples.for_calibration(document).calibrating
    energies: dict[str, Doubles] = {}
    for name, gram, _ in grams(document, readers, feeds, threads=context.options.threads, progress=context.progress):
        energies[name] = np.diagonal(gram, axis1=1, axis2=2).copy()
    return energies


def _prune(document: Document, target: _Target, energy: Doubles | None, *, by_row: bool) -> int:
    """Prune one weight in place; the number of its zeros."""
    site = target.site
    weight = site.view.matrix(document.array(site.tensor))
    mask = staying(target.amount, scores(weight, energy), by_row=by_row, taps=target.taps)
    pruned = np.where(mask, weight, weight.dtype.type(0))
    set_values(document, site.tensor, site.view.restore(pruned))
    return int(pruned.size - np.count_nonzero(pruned))


def _elements(document: Document) -> int:
    sites, skipped = find_sites(document)
    return sum(site.elements for site in sites) + sum(int(np.prod(c.shape, dtype=np.int64)) for c in skipped)


def _files(path: Path) -> list[Path]:
    """A model's file, and its data files."""
    from onnxquant.graph.io import load

    return [path, *load(path).data_files()]


def compressed_bytes(paths: Iterable[Path]) -> int:
    """Bytes that zlib makes of files; of large ones parts that are evenly spread tell it."""
    total = 0
    for path in paths:
        size = path.stat().st_size
        parts = min(_PARTS, -(-size // _PART_BYTES))
        read = compressed = 0
        with path.open("rb") as file:
            for part in range(parts):
                file.seek(size * part // parts)
                data = file.read(min(_PART_BYTES, -(-size // parts)))
                read, compressed = read + len(data), compressed + len(zlib.compress(data, 6))
        total += round(size * compressed / max(read, 1))
    return total
