"""The graph of a decoder: tokens and the keys and values of earlier ones to logits and those of all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxquant.calibration.feeds.caches import LOGITS_COUNT
from onnxquant.errors import CheckpointError
from onnxquant.graph.names import MICROSOFT
from onnxquant.language.architecture import Activation, Architecture, Layer, Rotation
from onnxquant.language.folder_names import ATTENTION_MASK, INPUT_IDS, LOGITS, PAST, PRESENT
from onnxquant.language.weights import Matrix, Weights
from onnxquant.numerics.arrays import Array
from onnxquant.version import __version__

OPSET, IR_VERSION = 21, 10
# Rotations turn whole groups of so many pairs.
_PAIRS = 8
_LOWEST = float(np.finfo(np.float32).min)


@dataclass
class DecoderGraph:
    """A decoder's graph, and where its weights come from.

    Attributes:
        proto: the model; initializers of ``matrices`` have names, types and shapes, and no values.
        matrices: weights of the graph by name, each [outputs, inputs].
        transposed: names of those that the graph holds as [inputs, outputs].
    """

    proto: onnx.ModelProto
    matrices: dict[str, Matrix]
    transposed: frozenset[str]


def decoder_graph(weights: Weights, context_length: int) -> DecoderGraph:
    """The graph of a decoder around its weights.

    Args:
        weights: the weights by the parts of the network.
        context_length: number of positions that rotations are stored for.

    Raises:
        CheckpointError: a weight is missing, or has another shape than the architecture.
    """
    return _Builder(weights, context_length).build()


@dataclass
class _Builder:
    """The nodes and constants of a graph, while it is built."""

    weights: Weights
    context_length: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    matrices: dict[str, Matrix] = field(default_factory=dict)
    transposed: set[str] = field(default_factory=set)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    @property
    def architecture(self) -> Architecture:
        return self.weights.architecture

    @property
    def _projected(self) -> dict[str, int]:
        """Channels of queries, keys and values."""
        shape = self.architecture
        return {
            "q": shape.heads * shape.head_dim,
            "k": shape.kv_heads * shape.head_dim,
            "v": shape.kv_heads * shape.head_dim,
        }

    def build(self) -> DecoderGraph:
        shape = self.architecture
        self._input(INPUT_IDS, TensorProto.INT64, ["batch_size", "sequence_length"])
        self._input(ATTENTION_MASK, TensorProto.INT64, ["batch_size", "total_sequence_length"])
        embedding = self.weights.matrix("embedding", shape.vocabulary, shape.hidden_size)
        hidden = self._op("Gather", [self._matrix(embedding), INPUT_IDS], "embedding")
        if shape.embedding_scale != 1:
            hidden = self._op(
                "Mul", [hidden, self._constant("embedding/factor", shape.embedding_scale)], "embedding/scaled"
            )
        positions = _Positions.of(self)
        tables = [self._tables(rotation, f"rotation.{i}", positions) for i, rotation in enumerate(shape.rotations)]
        for number, layer in enumerate(shape.layers):
            hidden = self._layer(number, layer, hidden, positions, tables[layer.rotation])
        self._lm_head(hidden, embedding, positions)
        graph = helper.make_graph(self.nodes, shape.family, self.inputs, self.outputs, self.initializers)
        proto = helper.make_model(
            graph, ir_version=IR_VERSION, producer_name="onnxquant", producer_version=__version__,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
        )  # fmt: skip
        return DecoderGraph(proto, self.matrices, frozenset(self.transposed))

    def _layer(self, number: int, layer: Layer, hidden: str, positions: _Positions, tables: Sequence[str]) -> str:
        shape, prefix = self.architecture, f"layers.{number}"
        normed = self._norm(hidden, "attention_norm", number)
        attended = self._attention(number, layer, normed, positions, tables)
        out = self._product(
            attended, self.weights.matrix("o", shape.hidden_size, shape.heads * shape.head_dim, number), "o", number
        )
        if shape.has_post_norms:
            out = self._norm(out, "attention_post_norm", number)
        hidden = self._op("Add", [hidden, out], f"{prefix}/attention/sum")
        normed = self._norm(hidden, "mlp_norm", number)
        down = self.weights.matrix("down", shape.hidden_size, shape.intermediate_size, number)
        out = self._product(self._gated(normed, number), down, "down", number)
        if shape.has_post_norms:
            out = self._norm(out, "mlp_post_norm", number)
        return self._op("Add", [hidden, out], f"{prefix}/mlp/sum")

    def _attention(self, number: int, layer: Layer, x: str, positions: _Positions, tables: Sequence[str]) -> str:
        """Attention of one layer on its normalized input."""
        shape, prefix = self.architecture, f"layers.{number}/attention"
        query, key, value = self._projections(number, x)
        past = [self._input(PAST[kind] % number, TensorProto.FLOAT, self._cache("past")) for kind in PAST]
        present = [self._output(PRESENT[kind] % number, TensorProto.FLOAT, self._cache("total")) for kind in PRESENT]
        attributes: dict[str, float | int] = {
            "num_heads": shape.heads, "kv_num_heads": shape.kv_heads, "scale": shape.scale, "do_rotary": 1,
        }  # fmt: skip
        bias = positions.bias
        if layer.sliding_window is not None:
            attributes["local_window_size"] = layer.sliding_window
            bias = self._window_bias(layer.sliding_window, positions)
        if shape.softcap:
            attributes["softcap"] = shape.softcap
        output = f"{prefix}/output"
        inputs = [query, key, value, *past, positions.lengths, positions.total, *tables, "", bias]
        self._node("GroupQueryAttention", inputs, [output, *present], attributes, MICROSOFT)
        return output

    def _window_bias(self, window: int, positions: _Positions) -> str:
        """The bias of layers that see a window: onnxruntime before 1.24 sees one key more than the attribute says."""
        prefix = f"positions/window of {window}"
        output = f"{prefix}/bias"
        if not any(output in node.output for node in self.nodes):
            first = self._op("Sub", [positions.queries, self._whole(f"window of {window}", window)], f"{prefix}/before")
            is_near = self._op("Greater", [positions.keys, first], f"{prefix}/is near")
            self._op("Where", [is_near, positions.bias, self._constant("lowest", _LOWEST)], output)
        return output

    def _projections(self, number: int, x: str) -> tuple[str, str, str]:
        """Queries, keys and values: as one tensor where their weights are joined and nothing stands between."""
        shape, prefix = self.architecture, f"layers.{number}/attention"
        sizes = self._projected
        if self.weights.names.weight("qkv", number) in self.weights.checkpoint.tensors:
            if self.weights.names.is_gguf and shape.family == "llama":
                raise CheckpointError(
                    f"{self.weights.checkpoint.path}: queries, keys and values of layer {number} are one tensor; "
                    f"expected three, whose rows can be put in order"
                )
            whole = self.weights.matrix("qkv", sum(sizes.values()), shape.hidden_size, number)
            packed = self._product(x, whole, "qkv", number)
        else:
            matrices = [self.weights.matrix(part, size, shape.hidden_size, number) for part, size in sizes.items()]
            whole_or_none = self.weights.joined(matrices, self.weights.names.weight("qkv", number))
            if whole_or_none is None:
                parts = [self._product(x, matrix, part, number) for part, matrix in zip(sizes, matrices, strict=True)]
                return self._normed_heads(number, *parts)
            packed = self._product(x, whole_or_none, list(sizes), number)
        if not shape.has_qk_norms:
            return packed, "", ""
        parts = self._split(packed, list(sizes.values()), f"{prefix}/split")
        return self._normed_heads(number, *parts)

    def _normed_heads(self, number: int, query: str, key: str, value: str) -> tuple[str, str, str]:
        """Queries and keys with each head normalized, where the architecture does that."""
        if not self.architecture.has_qk_norms:
            return query, key, value
        return self._head_norm(query, "q_norm", number), self._head_norm(key, "k_norm", number), value

    def _head_norm(self, x: str, part: str, number: int) -> str:
        size, prefix = self.architecture.head_dim, f"layers.{number}/{part}"
        heads = self._op("Reshape", [x, self._integers(f"heads of {size}", [0, 0, -1, size])], f"{prefix}/heads")
        normed = self._norm(heads, part, number, size)
        return self._op("Reshape", [normed, self._integers("joined heads", [0, 0, -1])], f"{prefix}/joined")

    def _gated(self, x: str, number: int) -> str:
        """The inside of the feed-forward network: a function of the gate times what is gated."""
        shape, prefix = self.architecture, f"layers.{number}/mlp"
        if self.weights.names.weight("gate", number) in self.weights.checkpoint.tensors:
            matrices = [
                self.weights.matrix(part, shape.intermediate_size, shape.hidden_size, number) for part in ("gate", "up")
            ]
            whole = self.weights.joined(
                matrices, self.weights.names.weight("gate_up", number).replace("ffn_up", "ffn_gate_up")
            )
            parts = ["gate", "up"]
        else:
            matrices, parts = [], ["gate_up"]
            whole = self.weights.matrix("gate_up", 2 * shape.intermediate_size, shape.hidden_size, number)
        if whole is None:
            gate, up = (self._product(x, m, part, number) for part, m in zip(parts, matrices, strict=True))
        else:
            gate, up = self._split(
                self._product(x, whole, parts, number), [shape.intermediate_size] * 2, f"{prefix}/split"
            )
        if shape.activation is Activation.SILU:
            share = self._op("Sigmoid", [gate], f"{prefix}/sigmoid")
            active = self._op("Mul", [gate, share], f"{prefix}/active")
        else:
            active = self._op("Gelu", [gate], f"{prefix}/active", approximate="tanh")
        return self._op("Mul", [active, up], f"{prefix}/gated")

    def _lm_head(self, hidden: str, embedding: Matrix, positions: _Positions) -> None:
        """Logits of the last position of each row, or of several."""
        shape = self.architecture
        one = self._whole("one", 1)
        self.initializers.append(numpy_helper.from_array(np.array(1, np.int64), LOGITS_COUNT))
        # An input as well: what a caller may override is no constant.
        self._input(LOGITS_COUNT, TensorProto.INT64, [])
        back = self._op("Range", [self._op("Sub", [one, LOGITS_COUNT], "head/begin"), one, one], "head/back")
        places = self._op("Add", [positions.last, back], "head/places")
        indices = self._op("Unsqueeze", [places, self._integers("last axis", [-1])], "head/indices")
        last = self._op("GatherND", [hidden, indices], "head/positions", batch_dims=1)
        normed = self._norm(last, "norm", None)
        matrix = embedding if shape.is_tied else self.weights.matrix("lm_head", shape.vocabulary, shape.hidden_size)
        logits = self._product(normed, matrix, (), None)
        if shape.logit_softcap:
            cap = self._constant("head/cap", shape.logit_softcap)
            logits = self._op(
                "Mul",
                [self._op("Tanh", [self._op("Div", [logits, cap], "head/share")], "head/tanh"), cap],
                "head/capped",
            )
        self.nodes[-1].output[0] = LOGITS
        # One position, though callers may ask for more: onnxruntime-genai tells by it that prompts give one alone.
        self._output(LOGITS, TensorProto.FLOAT, ["batch_size", 1, shape.vocabulary])

    def _product(self, x: str, matrix: Matrix, parts: str | Sequence[str], number: int | None) -> str:
        """The product x W^T, and a bias where the checkpoint has one for these parts."""
        parts = [parts] if isinstance(parts, str) else parts
        name = matrix.name.removesuffix(".weight")
        if matrix.name in self.matrices:  # the embedding, which is the head as well
            weight = self._op("Transpose", [matrix.name], f"{name}/transposed", perm=[1, 0])
        else:
            weight = self._matrix(matrix, is_transposed=True)
        out = self._op("MatMul", [x, weight], f"{name}/product")
        if number is None:
            return out
        sizes = {
            **self._projected,
            "gate": self.architecture.intermediate_size,
            "up": self.architecture.intermediate_size,
        }
        biases = [self.weights.bias(part, sizes.get(part, matrix.rows), number) for part in parts]
        if all(bias is None for bias in biases):
            return out
        values = [
            np.zeros(sizes.get(part, matrix.rows), np.float32) if bias is None else bias
            for part, bias in zip(parts, biases, strict=True)
        ]
        return self._op("Add", [out, self._constant(f"{name}.bias", np.concatenate(values))], f"{name}/sum")

    def _norm(self, x: str, part: str, number: int | None, size: int | None = None) -> str:
        """A tensor over its root mean square, times a weight. In standard nodes, which onnxruntime makes one of."""
        weight = self.weights.vector(part, size or self.architecture.hidden_size, number)
        prefix = part if number is None else f"layers.{number}/{part}"
        square = self._op("Pow", [x, self._constant("two", 2.0)], f"{prefix}/square")
        mean = self._op("ReduceMean", [square, self._integers("last axis", [-1])], f"{prefix}/mean", keepdims=1)
        raised = self._op("Add", [mean, self._constant("epsilon", self.architecture.epsilon)], f"{prefix}/raised")
        root = self._op("Sqrt", [raised], f"{prefix}/root")
        divided = self._op("Div", [x, root], f"{prefix}/divided")
        return self._op("Mul", [divided, self._constant(f"{prefix}.weight", weight)], f"{prefix}/output")

    def _split(self, x: str, sizes: Sequence[int], name: str) -> list[str]:
        outputs = [f"{name}.{i}" for i in range(len(sizes))]
        self._node("Split", [x, self._integers(f"sizes {list(sizes)}", sizes)], outputs, {"axis": -1})
        return outputs

    def _tables(self, rotation: Rotation, name: str, positions: _Positions) -> list[str]:
        """Cosine and sine of each position and pair."""
        if len(rotation.frequencies) % _PAIRS:
            raise CheckpointError(
                f"{self.weights.checkpoint.path}: rotations of {2 * len(rotation.frequencies)} channels of a head; "
                f"expected a multiple of {2 * _PAIRS}, which onnxruntime's attention can turn"
            )
        if rotation.long is None:
            return [self._table(rotation, function, name) for function in (np.cos, np.sin)]
        switch = self._integers(f"switch {rotation.switch}", [rotation.switch])
        is_long = self._op("Greater", [positions.total1, switch], f"{name}/is long")
        # The rows that a call needs: a whole table would be copied with each token.
        begin = self._op(
            "Where",
            [is_long, self._integers("context", [self.context_length]), self._integers("start", [0])],
            f"{name}/begin",
        )
        end, axis = self._op("Add", [begin, positions.total1], f"{name}/end"), self._integers("axis 0", [0])
        return [
            self._op("Slice", [self._table(rotation, function, name), begin, end, axis], f"{name}/{function.__name__}")
            for function in (np.cos, np.sin)
        ]

    def _table(self, rotation: Rotation, function: Callable[[Array], Array], name: str) -> str:
        """One function of all angles; those of long texts follow the others."""
        parts = [rotation, rotation.long] if rotation.long else [rotation]
        values = [part.magnitude * function(part.angles(self.context_length)) for part in parts]
        return self._constant(f"{name}.{function.__name__}", np.concatenate(values).astype(np.float32))

    def _cache(self, length: str) -> list[str | int]:
        return ["batch_size", self.architecture.kv_heads, f"{length}_sequence_length", self.architecture.head_dim]

    def _input(self, name: str, kind: int, shape: Sequence[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def _output(self, name: str, kind: int, shape: Sequence[str | int]) -> str:
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def _matrix(self, matrix: Matrix, *, is_transposed: bool = False) -> str:
        dims = (matrix.cols, matrix.rows) if is_transposed else (matrix.rows, matrix.cols)
        self.initializers.append(TensorProto(name=matrix.name, data_type=TensorProto.FLOAT, dims=dims))
        self.matrices[matrix.name] = matrix
        if is_transposed:
            self.transposed.add(matrix.name)
        return matrix.name

    def _constant(self, name: str, value: float | Array) -> str:
        return self._stored(name, np.asarray(value, np.float32))

    def _integers(self, name: str, values: Sequence[int]) -> str:
        return self._stored(name, np.array(values, np.int64))

    def _whole(self, name: str, value: int) -> str:
        return self._stored(name, np.array(value, np.int64))

    def _stored(self, name: str, array: Array) -> str:
        if all(tensor.name != name for tensor in self.initializers):
            self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def _op(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self._node(op, inputs, [output], attributes)
        return output

    def _node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, object], domain: str = ""
    ) -> None:
        node = helper.make_node(op, inputs, outputs, name=f"{outputs[0]}/node", domain=domain)
        node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
        self.nodes.append(node)


@dataclass(frozen=True)
class _Positions:
    """Tensors that all layers read of the positions of a call.

    Texts of a batch may end together, with padding before them, as transformers does it; or begin together, with padding
    behind the first part of them, as onnxruntime-genai does it. The first column of the mask tells: it is 0 in rows that
    begin with padding. Padding counts as positions there: what attention sees is the distance of two.

    Attributes:
        lengths: int32 [batch]: keys of each row, less one.
        total: int32 scalar: keys of the longest row.
        total1: int64 [1]: the same.
        bias: float32 [batch, 1, length, total]: lowest float where a key is padding before a text, else 0.
        keys: int64 [total]: places of the keys.
        queries: int64 [batch, 1, length, 1]: places of the tokens of the call among them.
        last: int64 [batch, 1]: the last token of each row that is no padding, among those of the call.
    """

    lengths: str
    total: str
    total1: str
    bias: str
    keys: str
    queries: str
    last: str

    @classmethod
    def of(cls, builder: _Builder) -> _Positions:
        """The nodes that compute them from the mask."""

        def op(kind: str, inputs: Sequence[str], name: str, **attributes: object) -> str:
            return builder._op(kind, inputs, f"positions/{name}", **attributes)

        one = builder._whole("one", 1)
        first_axis, second_axis = builder._integers("axis 0", [0]), builder._integers("axis 1", [1])
        batch = op("Shape", [ATTENTION_MASK], "batch", start=0, end=1)
        total = op("Shape", [ATTENTION_MASK], "total", start=1, end=2)
        length = op("Shape", [INPUT_IDS], "length", start=1, end=2)
        real = op("Cast", [ATTENTION_MASK], "is real", to=TensorProto.BOOL)
        first = op("Slice", [ATTENTION_MASK, builder._integers("start", [0]), second_axis, second_axis], "first column")
        is_padded = op("Not", [op("Cast", [first], "begins", to=TensorProto.BOOL)], "begins with padding")
        count = op("ReduceSum", [ATTENTION_MASK, second_axis], "tokens", keepdims=1)
        keys = op("Where", [is_padded, total, count], "keys")
        last = op("Sub", [op("Squeeze", [keys, second_axis], "keys of rows"), one], "last key")
        lengths = op("Cast", [last], "lengths", to=TensorProto.INT32)
        is_first = op("Equal", [length, total], "is first call")
        places = op(
            "Range",
            [builder._whole("zero", 0), op("Squeeze", [total, first_axis], "total scalar"), one],
            "places of keys",
        )
        total32 = op("Cast", ["positions/total scalar"], "total32", to=TensorProto.INT32)
        own = op("Slice", [places, builder._integers("start", [0]), length, first_axis], "places in call")
        before = op(
            "Where", [is_first, builder._whole("zero", 0), op("Sub", [keys, length], "tokens before")], "earlier"
        )
        queries = op(
            "Unsqueeze", [op("Add", [before, own], "places of call"), builder._integers("axes 1 3", [1, 3])], "queries"
        )
        lowest, nothing = builder._constant("lowest", _LOWEST), builder._constant("nothing", 0.0)
        is_seen = op("Or", [real, op("Not", [is_padded], "begins with text")], "is seen")
        row = op(
            "Unsqueeze",
            [op("Where", [is_seen, nothing, lowest], "bias of keys"), builder._integers("axes 1 2", [1, 2])],
            "bias row",
        )
        shape = op("Concat", [batch, builder._integers("ones", [1]), length, total], "bias shape", axis=0)
        bias = op("Expand", [row, shape], "bias")
        is_short = op("And", [is_first, op("Not", [is_padded], "ends with padding")], "may end with padding")
        ends = op("Where", [is_short, count, length], "ends")
        return cls(lengths, total32, total, bias, places, queries, op("Sub", [ends, one], "last of call"))
