"""Build an ONNX graph of a language model of the llama architecture from its GGUF file.

    python scripts/build_language_model.py model.gguf model.onnx

The graph is float32, in standard operators, with external data: ``input_ids`` int64 [batch, length] to ``logits``
[batch, length, vocabulary]. Weights of GGUF files lie on the grid of a block format already, on which a format with the
same blocks would lose nothing. So channels are permuted, in a way that leaves the function as it is: blocks of the graph's
weights are of channels that had different scales.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import gguf
import numpy as np
import onnx
from build_imagenet_models import Array, GraphWriter
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OPSET = 21
IR_VERSION = 10
# Where tensors begin in the data file, so that they can be mapped.
ALIGNMENT = 4096
SEED = 0


class GgufError(ValueError):
    """A GGUF file that is not of the llama architecture, or has more to it than is built here."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of a llama. ``head``: width of one head; ``hidden``: that of the MLP; ``base``: that of rotation periods."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head: int
    base: float
    epsilon: float

    @property
    def group(self) -> int:
        """Queries that share a key and a value."""
        return self.heads // self.kv_heads


class Gguf:
    """A GGUF file of the llama architecture.

    Args:
        path: the file; it is mapped, and weights are decoded one at a time.

    Raises:
        GgufError: another architecture, or positions that are scaled.
    """

    def __init__(self, path: Path) -> None:
        self._reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        architecture = self._text("general.architecture")
        if architecture != "llama" or self._text("llama.rope.scaling.type", "none") != "none":
            raise GgufError(f"{path}: expected architecture llama without scaled positions, found {architecture}")

    def _field(self, name: str) -> gguf.ReaderField:
        field = self._reader.get_field(name)
        if field is None:
            raise GgufError(f"the GGUF file has no {name}")
        return field

    def _text(self, name: str, default: str | None = None) -> str:
        field = self._reader.get_field(name)
        return default if field is None and default is not None else str(self._field(name).contents())

    def _number(self, name: str, default: float | None = None) -> float:
        field = self._reader.get_field(name)
        return default if field is None and default is not None else float(self._field(name).contents())

    @cached_property
    def sizes(self) -> Sizes:
        """Sizes, by the names that llama.cpp gives them."""
        width, heads = (int(self._number(f"llama.{n}")) for n in ("embedding_length", "attention.head_count"))
        return Sizes(
            layers=int(self._number("llama.block_count")),
            width=width,
            hidden=int(self._number("llama.feed_forward_length")),
            heads=heads,
            kv_heads=int(self._number("llama.attention.head_count_kv", heads)),
            head=int(self._number("llama.rope.dimension_count", width // heads)),
            base=self._number("llama.rope.freq_base", 10_000.0),
            epsilon=self._number("llama.attention.layer_norm_rms_epsilon"),
        )

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._tensors)

    def weight(self, name: str) -> Array:
        """A tensor decoded to float32; matrices are [outputs, inputs].

        Raises:
            GgufError: there is none of that name.
        """
        if name not in self._tensors:
            raise GgufError(f"the GGUF file has no tensor {name}")
        tensor = self._tensors[name]
        decoded = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return np.asarray(decoded, np.float32).reshape(tuple(int(n) for n in tensor.shape[::-1]))

    def tokenizer(self) -> Tokenizer:
        """The byte-pair tokenizer that the file carries, as a ``tokenizers.Tokenizer``; digits are single tokens.

        Raises:
            GgufError: the file carries one of another kind.
        """
        from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

        kind = (self._text("tokenizer.ggml.model"), self._text("tokenizer.ggml.pre"))
        if kind != ("gpt2", "smollm"):
            raise GgufError(f"the tokenizer is {kind}, expected ('gpt2', 'smollm')")
        tokens = self._field("tokenizer.ggml.tokens").contents()
        merges = [tuple(merge.split(" ")) for merge in self._field("tokenizer.ggml.merges").contents()]
        tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        kinds = self._field("tokenizer.ggml.token_type").contents()
        control = [t for t, k in zip(tokens, kinds, strict=True) if k == gguf.TokenType.CONTROL]
        tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
        return tokenizer


class Permutations:
    """Permutations of channels that keep the function: the writer of a channel and its readers follow the same one.

    The residual stream has one, the hidden channels of each MLP one, and the values of each layer one within a head: those
    are mixed over positions, never with each other, before the output projection reads them. Queries and keys stay,
    because rotations pair their channels.

    Args:
        sizes: sizes of the model
        seed: seed of the permutations; None leaves all channels where they are
    """

    def __init__(self, sizes: Sizes, seed: int | None) -> None:
        self._sizes, self._seed = sizes, seed

    def _drawn(self, length: int, *stream: int) -> Array:
        if self._seed is None:
            return np.arange(length)
        return np.random.default_rng([self._seed, *stream]).permutation(length)

    def _values(self, layer: int, heads: int) -> Array:
        """Permutation of the values of one layer, laid out once for each head."""
        inner = self._drawn(self._sizes.head, 2, layer)
        return np.concatenate([h * self._sizes.head + inner for h in range(heads)])

    def apply(self, name: str, weight: Array) -> Array:
        """A tensor of the GGUF file, [outputs, inputs] or a vector, with its channels permuted."""
        sizes, residual = self._sizes, self._drawn(self._sizes.width, 0)
        layer = int(name.split(".")[1]) if name.startswith("blk.") else 0
        match name.split(".")[-2]:
            case "token_embd" | "output" | "attn_q" | "attn_k":
                return weight[:, residual]
            case "attn_norm" | "ffn_norm" | "output_norm":
                return weight[residual]
            case "attn_v":
                return weight[self._values(layer, sizes.kv_heads)][:, residual]
            case "attn_output":
                return weight[residual][:, self._values(layer, sizes.heads)]
            case "ffn_gate" | "ffn_up":
                return weight[self._drawn(sizes.hidden, 1, layer)][:, residual]
            case "ffn_down":
                return weight[residual][:, self._drawn(sizes.hidden, 1, layer)]
        raise GgufError(f"tensor {name} is none of the llama architecture")


class _DataFile:
    """External data, written as tensors come: no more than one of them is in memory."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name

    def tensor(self, name: str, value: Array) -> onnx.TensorProto:
        """Write an array; answers the tensor that stands for it."""
        self._file.write(bytes(-self._file.tell() % ALIGNMENT))
        offset = self._file.tell()
        np.ascontiguousarray(value, "<f4").tofile(self._file)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        entries = {"location": self._name, "offset": offset, "length": self._file.tell() - offset}
        for key, entry in entries.items():
            tensor.external_data.add(key=key, value=str(entry))
        return tensor


class _LlamaWriter:
    """The graph of a llama: RMSNorm, grouped attention with rotated queries and keys, gated MLP."""

    def __init__(self, source: Gguf, data: _DataFile, seed: int | None) -> None:
        self.graph = GraphWriter()
        self._source, self._data, self._sizes = source, data, source.sizes
        self._permutations = Permutations(source.sizes, seed)
        self._left = set(source.names)
        self._epsilon = self.graph.constant("epsilon", np.array(self._sizes.epsilon, np.float32))
        self._two = self.graph.constant("two", np.array(2, np.float32))
        self._last = self.graph.constant("last", np.array([-1], np.int64))

    def _weight(self, name: str) -> Array:
        self._left.discard(name)
        return self._permutations.apply(name, self._source.weight(name))

    def _norm(self, x: str, name: str) -> str:
        """RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + epsilon) * weight."""
        node, layer = self.graph.node, name.removesuffix(".weight")
        power = node("ReduceMean", [node("Pow", [x, self._two], f"{layer}.square"), self._last], f"{layer}.mean")
        root = node("Sqrt", [node("Add", [power, self._epsilon], f"{layer}.add")], f"{layer}.root")
        weight = self.graph.constant(name, self._weight(name))
        return node("Mul", [node("Div", [x, root], f"{layer}.divide"), weight], layer)

    def _linear(self, x: str, name: str, weight: Array | None = None) -> str:
        matrix = (self._weight(name) if weight is None else weight).T
        return self.graph.node("MatMul", [x, self.graph.add(self._data.tensor(name, matrix))], name[:-7])

    def _positions(self) -> None:
        """Tensors that all layers share: cosines and sines [length, head / 2], and the causal mask [length, length]."""
        node, constant = self.graph.node, self.graph.constant
        length = node("Squeeze", [node("Shape", ["input_ids"], "length.shape", start=1, end=2)], "length")
        zero, one = constant("zero", np.array(0, np.int64)), constant("one", np.array(1, np.int64))
        positions = node("Range", [zero, length, one], "positions")
        column = node("Unsqueeze", [positions, constant("axis1", np.array([1], np.int64))], "positions.column")
        self._causal = node("GreaterOrEqual", [column, positions], "causal")
        self._hidden = constant("hidden", np.array(np.finfo(np.float32).min, np.float32))
        half = self._sizes.head // 2
        frequencies = self._sizes.base ** (-np.arange(half) / half)
        rates = constant("frequencies", frequencies.astype(np.float32))
        angles = node("Mul", [node("Cast", [column], "positions.float", to=TensorProto.FLOAT), rates], "angles")
        self._cosines, self._sines = node("Cos", [angles], "cosines"), node("Sin", [angles], "sines")

    def _rotated(self, x: str, name: str) -> str:
        """RoPE (Su et al. 2021) of x [..., length, head]: channel i is paired with i + head / 2."""
        node = self.graph.node
        (a, b), cos, sin = self.graph.halves(x, f"{name}.split"), self._cosines, self._sines
        turned = [
            node("Sub", [node("Mul", [a, cos], f"{name}.ac"), node("Mul", [b, sin], f"{name}.bs")], f"{name}.real"),
            node(
                "Add", [node("Mul", [b, cos], f"{name}.bc"), node("Mul", [a, sin], f"{name}.as")], f"{name}.imaginary"
            ),
        ]
        return node("Concat", turned, f"{name}.rope", axis=-1)

    def _heads(self, x: str, name: str, group: int) -> str:
        """[batch, length, heads x head] to [batch, kv heads, group, length, head]."""
        shape = np.array([0, 0, self._sizes.kv_heads, group, self._sizes.head], np.int64)
        x = self.graph.node("Reshape", [x, self.graph.constant(f"{name}.shape", shape)], f"{name}.heads")
        return self.graph.node("Transpose", [x], f"{name}.by_head", perm=[0, 2, 3, 1, 4])

    def _paired(self, name: str, heads: int) -> Array:
        """Rows of queries or keys as rotations here pair them: llama.cpp stores the two channels of a pair together."""
        weight = self._weight(name)
        pairs = weight.reshape(heads, self._sizes.head // 2, 2, -1)
        return pairs.swapaxes(1, 2).reshape(weight.shape)

    def _attention(self, x: str, block: str) -> str:
        node, sizes = self.graph.node, self._sizes
        q, k, v, o = (f"{block}.attn_{part}.weight" for part in ("q", "k", "v", "output"))
        query = self._heads(self._linear(x, q, self._paired(q, sizes.heads)), f"{block}.q", sizes.group)
        key = self._heads(self._linear(x, k, self._paired(k, sizes.kv_heads)), f"{block}.k", 1)
        value = self._heads(self._linear(x, v), f"{block}.v", 1)
        query = node("Mul", [self._rotated(query, f"{block}.q"), self._scale], f"{block}.q.scaled")
        key = node("Transpose", [self._rotated(key, f"{block}.k")], f"{block}.k.transposed", perm=[0, 1, 2, 4, 3])
        scores = node("MatMul", [query, key], f"{block}.scores")
        scores = node("Where", [self._causal, scores, self._hidden], f"{block}.masked")
        mixed = node("MatMul", [node("Softmax", [scores], f"{block}.softmax", axis=-1), value], f"{block}.mixed")
        mixed = node("Transpose", [mixed], f"{block}.by_position", perm=[0, 3, 1, 2, 4])
        return self._linear(node("Reshape", [mixed, self._joined], f"{block}.joined"), o)

    def _mlp(self, x: str, block: str) -> str:
        node = self.graph.node
        gate = self._linear(x, f"{block}.ffn_gate.weight")
        gate = node("Mul", [gate, node("Sigmoid", [gate], f"{block}.sigmoid")], f"{block}.silu")
        up = self._linear(x, f"{block}.ffn_up.weight")
        return self._linear(node("Mul", [gate, up], f"{block}.gated"), f"{block}.ffn_down.weight")

    def model(self, name: str) -> onnx.ModelProto:
        """The whole model."""
        node, constant, sizes = self.graph.node, self.graph.constant, self._sizes
        self._positions()
        self._scale = constant("scale", np.array(sizes.head**-0.5, np.float32))
        self._joined = constant("joined", np.array([0, 0, sizes.heads * sizes.head], np.int64))
        embedding = self._data.tensor("token_embd.weight", self._weight("token_embd.weight"))
        table = self.graph.add(embedding)
        x = node("Gather", [table, "input_ids"], "token_embd")
        for block in (f"blk.{i}" for i in range(sizes.layers)):
            attention = self._attention(self._norm(x, f"{block}.attn_norm.weight"), block)
            x = node("Add", [x, attention], f"{block}.after_attention")
            mlp = self._mlp(self._norm(x, f"{block}.ffn_norm.weight"), block)
            x = node("Add", [x, mlp], f"{block}.after_mlp")
        x = self._norm(x, "output_norm.weight")
        if "output.weight" in self._left:
            head = self.graph.add(self._data.tensor("output.weight", self._weight("output.weight").T))
        else:  # tied: the embedding, stored once
            head = node("Transpose", [table], "output.transposed", perm=[1, 0])
        node("MatMul", [x, head], "output", output="logits")
        if self._left:
            raise GgufError(f"the GGUF file has tensors that are not built here: {', '.join(sorted(self._left)[:5])}")
        ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "length", embedding.dims[0]])
        return self.graph.unchecked(name, [ids], [logits], (OPSET, IR_VERSION))


@contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that is there whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def build(source: Path, output: Path, seed: int | None = SEED) -> None:
    """Write the model of a GGUF file, and its tensors beside it as ``<output>.data``.

    Args:
        source: GGUF file
        output: ONNX file to write
        seed: seed of the permutations of channels; None leaves them where they are

    Raises:
        GgufError: the file is not a llama that can be built.
    """
    data = output.with_name(f"{output.name}.data")
    with _whole(data) as file:
        model = _LlamaWriter(Gguf(source), _DataFile(file, data.name), seed).model(output.stem)
    with _whole(output) as file:
        file.write(model.SerializeToString())
    onnx.checker.check_model(output, full_check=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("gguf", type=Path, help="GGUF file")
    parser.add_argument("model", type=Path, help="ONNX file to write")
    arguments = parser.parse_args()
    build(arguments.gguf, arguments.model)


if __name__ == "__main__":
    main()
