"""Tuning within the way of a model to its file: after its codes are chosen, before they are written."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from onnxquant import runtime
from onnxquant.activations.plan import DynamicActivations
from onnxquant.artifact import lowering
from onnxquant.artifact.hashes import planes_digest
from onnxquant.calibration.feeds import Feed, Feeds, Split, in_windows, vocabulary
from onnxquant.calibration.gram_matrices import samples_digest
from onnxquant.calibration.inputs import sampled_inputs_of
from onnxquant.convert.plan_model import PlannedModel
from onnxquant.errors import FeedError, ModelError, RangeError, RecipeError
from onnxquant.formats.base import Encoded
from onnxquant.graph.io import Document
from onnxquant.graph.publish import Publisher
from onnxquant.graph.sites import Site, find_sites
from onnxquant.native import dispatch
from onnxquant.numerics.score import Judge
from onnxquant.plan.context import Context
from onnxquant.plan.decision import EncodeDecision, Plan
from onnxquant.plan.tuning import TuningRecord
from onnxquant.recipe.options import Options
from onnxquant.recipe.progress import announce
from onnxquant.recipe.values import seconds_of
from onnxquant.version import __version__

if TYPE_CHECKING:
    from onnxquant.tuning.batches import TaughtSamples
    from onnxquant.tuning.blocks import Objective
    from onnxquant.tuning.losses import Loss
    from onnxquant.tuning.run import Settings
    from onnxquant.tuning.student import Tuned

# Fewer samples are learned by heart.
FEWEST_SAMPLES = 16
# The part of a run in which blocks learn apart.
_APART = 0.4
# Copies of the weights: themselves, the teacher's two, rounded ones, what their gradients need, gradients, two moments, the
# best and the first.
_COPIES = 12
# Tokens of one step of a language model.
_TOKENS = 1024
# Steps that see each text once, at least.
_FEWEST_STEPS = 8


@dataclass(frozen=True)
class TunedModel:
    """A planned model after tuning.

    Attributes:
        model: the model, all codes of its weights chosen.
        record: figures of tuning.
    """

    model: PlannedModel
    record: TuningRecord


def check_tuning(options: Options) -> None:
    """Refuse to tune where torch is not installed.

    Raises:
        RecipeError: it is not.
    """
    if options.tunes and importlib.util.find_spec("torch") is None:
        raise RecipeError("tune: learning needs torch: pip install 'onnxquant[train]'")


def tune(model: PlannedModel, solved: Mapping[str, Encoded], split: Split) -> TunedModel:
    """Learn what a plan rounds; what is not better on the samples that judge is not taken.

    Args:
        model: the planned model.
        solved: weights whose codes solvers have chosen.
        split: samples that are learned from, and others that judge.

    Raises:
        FeedError: there are too few samples.
        ModelError: an operator has no function in torch.
        WeightError: the loss is no number any more.
    """
    import torch

    from onnxquant.tuning.batches import TaughtSamples
    from onnxquant.tuning.blocks import BlockByBlock, Whole
    from onnxquant.tuning.losses import OutputLoss, UsersLoss
    from onnxquant.tuning.run import Run, threads
    from onnxquant.tuning.student import Student

    context, options = model.context, model.context.options
    _refuse_few(split)
    _refuse_without_memory(model.document)
    logits, inputs = () if options.tune_loss else logits_of_tokens(context.original), sampled_inputs_of(context.original)
    learning, judging = (in_windows(list(part), inputs) for part in (split.calibrating, split.judging))
    encoded = starting_codes(model, solved)
    student = Student(model.document, model.plan, encoded)
    with ExitStack() as sessions:
        teacher = sessions.enter_context(runtime.session_of(context.original, threads=options.threads))
        module = student.module
        loss = UsersLoss(options.tune_loss) if options.tune_loss else OutputLoss(module.producers, module.outputs, logits)
        taught = TaughtSamples(judging, teacher, context.original, logits)
        in_bfloat16 = bool(logits) and bool(torch.cpu.get_capabilities().get("avx512_bf16"))
        objectives: list[tuple[Objective, float]] = [
            (Whole(student, TaughtSamples(learning, teacher, context.original, logits), loss, in_bfloat16), 1.0)
        ]
        blocks = [] if options.tune_loss or logits else student.blocks(learning[0])
        if len(blocks) > 1:
            inside = [end for block in blocks for end in block.ends if end not in module.outputs]
            knowing = sessions.enter_context(runtime.session_of(model.document, inside, threads=options.threads))
            samples = TaughtSamples(learning, knowing, context.original)
            objectives.insert(0, (BlockByBlock(module, blocks, samples), _APART))
        run = Run(
            student,
            objectives,
            Whole(student, taught, loss, in_bfloat16),
            _settings(context, model.plan, encoded, split.calibrating, _texts_of_a_step(learning) if logits else None),
            context.progress,
        )
        with threads(options.threads):
            course = run.run()
        judge: _Judge = (
            _DivergenceJudge(judging, taught, loss)
            if logits
            else _OutputJudge(judging, Judge([runtime.run(teacher, feed) for feed in judging], options.judge))
        )
        learned, start = learned_model(model, student.tuned()), replace(model, solved=encoded, on_grids={})
        before, after = (_score(candidate, judge) for candidate in (start, learned))
    record = TuningRecord(
        samples=len(learning), judged=len(judging), steps=course.steps, seconds=round(course.seconds, 1),
        before=round(before, 2), after=round(after, 2), gained=after > before, course=tuple(course.points),
    )  # fmt: skip
    announce(context.progress, _sentence(record))
    return TunedModel(learned if record.gained else start, record)


def learned_model(model: PlannedModel, tuned: Tuned) -> PlannedModel:
    """The planned model of what was learned: all codes of its weights are those."""
    plan = replace(model.plan, rescaled=tuple(dict.fromkeys([*model.plan.rescaled, *tuned.changed])))
    if tuned.activations is not None:
        plan = replace(plan, activations=tuned.activations)
    context = model.context.with_document(tuned.document)
    return replace(model, context=context, plan=plan, solved=tuned.encoded, on_grids={})


def check_tunable(context: Context) -> None:
    """Refuse a model or samples that cannot be learned from before any search.

    Raises:
        FeedError: there are too few samples.
        ModelError: an operator has no function in torch, or the weights do not fit into memory.
    """
    if not context.options.tunes:
        return
    from onnxquant.modules.graph_module import refuse_operators

    refuse_operators(context.document.proto)
    _refuse_without_memory(context.document)
    if context.samples is not None:
        _refuse_few(context.samples.for_calibration(context.document))


def _refuse_few(split: Split) -> None:
    if not split.apart:
        raise FeedError(
            f"tune: the samples ({len(split.whole)}) cannot be parted into some to learn from and others that judge: "
            f"they are too few, or of one source; expected {FEWEST_SAMPLES + FEWEST_SAMPLES // 2} or more of several sources"
        )
    if len(split.calibrating) < FEWEST_SAMPLES:
        raise FeedError(
            f"tune: {len(split.calibrating)} samples to learn from beside {len(split.judging)} that judge, expected "
            f"{FEWEST_SAMPLES} or more"
        )


def _refuse_without_memory(document: Document) -> None:
    """Refuse a model whose weights, gradients and their moments do not fit into memory.

    Raises:
        ModelError: they do not.
    """
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = _COPIES * document.size()
    if needed > memory:
        raise ModelError(
            f"{document.name}: tune takes about {needed / 1e9:.1f} GB for weights, gradients and their moments, this machine "
            f"has {memory / 1e9:.1f} GB"
        )


def logits_of_tokens(document: Document) -> tuple[str, ...]:
    """Outputs that are logits of tokens: with as many columns as the table that the model looks its tokens up in has rows."""
    rows = max(vocabulary(document, find_sites(document)[0]).values(), default=0)
    return tuple(
        value.name
        for value in document.proto.graph.output
        if len(shape := value.type.tensor_type.shape.dim) == 3 and rows == shape[2].dim_value > 0
    )


def _texts_of_a_step(learning: Sequence[Feed]) -> int:
    """The number of texts of one step: rounding the weights takes as long as hundreds of tokens. A few make many steps."""
    tokens = max((array.size for array in learning[0].values() if array.dtype.kind == "i"), default=1)
    return max(min(_TOKENS // tokens, len(learning) // _FEWEST_STEPS), 1)


def _settings(
    context: Context, plan: Plan, encoded: Mapping[str, Encoded], learning: Feeds, texts: int | None
) -> Settings:
    """The settings of a run.

    Args:
        context: the context.
        plan: the plan.
        encoded: weights where learning begins.
        learning: samples that are learned from.
        texts: number of texts of a step of a language model; None: the model is none.
    """
    from onnxquant.tuning.run import Settings

    options, file = context.options, None
    # A function has no name that tells it from others.
    if options.work is not None and (options.tune_loss is None or isinstance(options.tune_loss, str)):
        codes = [planes_digest(weight) for weight in encoded.values()]
        origin = f"{__version__} {context.origin} {samples_digest(learning)} {codes} {plan.activation_record}"
        file = context.folder / f"tuning-{hashlib.blake2b(origin.encode(), digest_size=16).hexdigest()}.pt"
    seconds = None if options.tune is None else seconds_of(options.tune)
    # Ranges that are computed on every call are those of one sample.
    batch = 1 if isinstance(plan.activations, DynamicActivations) else texts or Settings.batch
    return Settings(seconds=seconds, epochs=options.tune_epochs, seed=options.tune_seed, batch=batch, file=file)


def _sentence(record: TuningRecord) -> str:
    change = f"{record.before:.1f} dB before, {record.after:.1f} dB after {record.steps} steps"
    return f"tuning: {change}" if record.gained else f"tuning gained nothing ({change}): the file is as without it"


def starting_codes(model: PlannedModel, solved: Mapping[str, Encoded]) -> dict[str, Encoded]:
    """The encoded weights of a plan where learning begins."""
    sites = {site.name: site for site in find_sites(model.document)[0]}
    encoded: dict[str, Encoded] = {}
    for decision in model.plan.encoded:
        chosen = next((w[decision.name] for w in (model.on_grids, model.solved, solved) if decision.name in w), None)
        if chosen is None or chosen.format != decision.format:
            site = sites[decision.name]
            matrix = decision.clipped(site.view.matrix(model.document.array(site.tensor)))
            try:
                chosen = dispatch.rounded_to_nearest(decision.format, matrix)
            except RangeError:  # it stays in float
                continue
        encoded[decision.name] = chosen
    return encoded


class _Judge(Protocol):
    """Closeness of a file's outputs to the float model's, in decibels."""

    def score(self, session: runtime.Session) -> float:
        """The closeness of the outputs of a session."""


@dataclass(frozen=True)
class _OutputJudge:
    """The judge of proofs and searches, on samples."""

    feeds: Sequence[Feed]
    judge: Judge

    def score(self, session: runtime.Session) -> float:
        return self.judge.score([runtime.run(session, feed) for feed in self.feeds]).typical


@dataclass(frozen=True)
class _DivergenceJudge:
    """The divergence of logits of tokens, which a number added to all of them does not change: 0.01 nats are 20 dB."""

    feeds: Sequence[Feed]
    taught: TaughtSamples
    loss: Loss

    def score(self, session: runtime.Session) -> float:
        import torch

        divergences = []
        for place, feed in enumerate(self.feeds):
            expected = self.taught.batch([place]).outputs
            outputs = {n: torch.from_numpy(a) for n, a in runtime.run(session, feed, list(expected)).items()}
            divergences.append(float(self.loss(outputs, expected)))
        return -10 * math.log10(max(sum(divergences) / len(divergences), 1e-12))


def _score(model: PlannedModel, judge: _Judge) -> float:
    """The score of the file that a planned model becomes, in decibels."""
    document: Document = model.document
    plan: Plan = model.plan

    def encode(site: Site, decision: EncodeDecision) -> Encoded | None:
        return model.solved.get(site.name)

    with tempfile.TemporaryDirectory(prefix="onnxquant-") as folder:
        path = Path(folder) / "tuned.onnx"
        with Publisher(path, external=document.is_external(), force=True) as publisher:
            lowering.write(document, plan, publisher, encode)
        return judge.score(runtime.open_session(path, runtime.session_options(threads=model.context.options.threads)))
