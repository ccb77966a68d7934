"""Networks for tokens and tables."""

from __future__ import annotations

import numpy as np
import onnx

from zoo.net import Net, constant, integers, normal

VOCABULARY = 96


def _tokens(net: Net, length: str = "sequence") -> str:
    return net.input("input_ids", ["batch", length], integers(VOCABULARY), "int64")


def bert(net: Net) -> None:
    """An encoder with a mask, three integer inputs and three tables."""
    w = net.width
    ids = _tokens(net)
    mask = net.input("attention_mask", ["batch", "sequence"], constant(1, "int64"), "int64")
    types = net.input("token_type_ids", ["batch", "sequence"], constant(0, "int64"), "int64")
    x = net.op(
        "Add", net.op("Gather", net.weight(VOCABULARY, w, fan=1), ids), net.op("Gather", net.weight(2, w, fan=1), types)
    )
    x = net.layer_norm(x, w)
    scores = net.mask_of(mask)
    for _ in range(2):
        x = net.layer_norm(net.op("Add", x, net.attention(x, w, 4, mask=scores)), w)
        x = net.layer_norm(net.op("Add", x, net.linear(net.gelu(net.linear(x, w, 4 * w)), 4 * w, w)), w)
    net.output(x)
    first = net.op("Gather", x, net.const(0, "int64"), axis=1)
    net.output(net.op("Tanh", net.gemm(first, w, w)))


def tied_lm(net: Net) -> None:
    """A language model whose head is its embedding, transposed."""
    w = net.width
    table = net.weight(VOCABULARY, w, fan=w)
    x = net.op("Mul", net.op("Gather", table, _tokens(net)), net.const(np.sqrt(w)))
    for _ in range(2):
        x = net.block(x, w)
    head = net.op("Transpose", table, perm=[1, 0])
    net.output(net.op("MatMul", net.layer_norm(x, w), head))


def _cached_attention(net: Net, x: str, w: int, layer: int, heads: int = 4) -> str:
    """Attention that appends to a cache of keys and values, which are inputs and outputs."""
    part = w // heads
    shape: list[int | str] = ["batch", heads, "past", part]
    past = [net.input(f"past.{layer}.{kind}", shape) for kind in ("key", "value")]
    q, k, v = (net.linear(x, w, w) for _ in range(3))
    q, k, v = (net.op("Transpose", net.reshape(t, 0, -1, heads, part), perm=[0, 2, 1, 3]) for t in (q, k, v))
    k, v = (net.op("Concat", p, t, axis=2) for p, t in zip(past, (k, v), strict=True))
    net.output(k)
    net.output(v)
    scores = net.op("Mul", net.op("MatMul", q, net.op("Transpose", k, perm=[0, 1, 3, 2])), net.const(part**-0.5))
    mixed = net.op("Transpose", net.op("MatMul", net.op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return net.linear(net.reshape(mixed, 0, -1, w), w, w)


def decoder(net: Net) -> None:
    """A decoder with a cache, a gated feed-forward part and root-mean-square normalization."""
    w = net.width

    def rms(t: str) -> str:
        square = net.mean(net.op("Mul", t, t), -1)
        root = net.op("Sqrt", net.op("Add", square, net.const(1e-6)))
        return str(net.op("Mul", net.op("Div", t, root), net.const(1 + 0.1 * net.random.standard_normal(w))))

    x = net.op("Gather", net.weight(VOCABULARY, w, fan=1), _tokens(net))
    for layer in range(2):
        x = net.op("Add", x, _cached_attention(net, rms(x), w, layer))
        y = rms(x)
        gate = net.silu(net.linear(y, w, 3 * w, bias=False))
        x = net.op("Add", x, net.linear(net.op("Mul", gate, net.linear(y, w, 3 * w, bias=False)), 3 * w, w, bias=False))
    net.output(net.linear(rms(x), w, VOCABULARY, bias=False))


def merged_decoder(net: Net) -> None:
    """An If between a step with and without a cache; the branches hold weights and share a head of the outer graph."""
    w = net.width
    ids = _tokens(net)
    net.input("use_cache", [1], constant(True, "bool"), "bool")
    past = net.input("past", ["batch", "past", w])
    x = net.op("Gather", net.weight(VOCABULARY, w, fan=1), ids)
    branches = []
    for name in ("then", "else"):
        inner = Net(net.opset, net.is_open, width=w, seed=5 if name == "then" else 6)
        y = inner.op("Identity", x)
        if name == "then":
            y = inner.op("Add", y, inner.mean(past, 1))
        y = inner.linear(inner.op("Tanh", inner.linear(y, w, 2 * w)), 2 * w, w)
        branches.append(_branch(inner, f"{name}_", y, outer={x, past}))
    y = net.op("If", "use_cache", then_branch=branches[0], else_branch=branches[1])
    net.output(net.linear(y, w, VOCABULARY, bias=False))


def _branch(inner: Net, prefix: str, result: str, outer: set[str]) -> onnx.GraphProto:
    """The graph of a branch; names that are not of the outer graph get a prefix."""
    rename = {name: prefix + name for node in inner.nodes for name in node.output} | {
        n: prefix + n for n in inner.weights
    }
    for node in inner.nodes:
        node.input[:] = [rename.get(n, n) for n in node.input]
        node.output[:] = [rename[n] for n in node.output]
        node.name = prefix + node.name
    assert outer.isdisjoint(rename.values())
    weights = [onnx.numpy_helper.from_array(v, rename[n]) for n, v in inner.weights.items()]
    shown = onnx.helper.make_tensor_value_info(rename[result], onnx.TensorProto.FLOAT, None)
    return onnx.helper.make_graph(inner.nodes, prefix, [], [shown], weights)


def translator(net: Net) -> None:
    """A decoder with attention to an encoder's states, positions computed from lengths."""
    w = net.width
    states = net.input("encoder_hidden_states", ["batch", "frames", w])
    x = net.op("Gather", net.weight(VOCABULARY, w, fan=1), _tokens(net))
    if net.opset >= 11 and net.is_open:
        length = net.op("Gather", net.op("Shape", x), net.const(1, "int64"), axis=0)
        positions = net.op("Range", net.const(0, "int64"), length, net.const(1, "int64"))
        x = net.op("Add", x, net.op("Gather", net.weight(64, w, fan=1), positions))
    x = net.block(x, w)
    x = net.op("Add", x, net.attention(net.layer_norm(x, w), w, 4, states))
    net.output(net.linear(net.layer_norm(x, w), w, VOCABULARY, bias=False))


def text_cnn(net: Net) -> None:
    """Embeddings and convolutions of several lengths."""
    w = net.width
    x = net.op("Transpose", net.op("Gather", net.weight(VOCABULARY, w, fan=1), _tokens(net)), perm=[0, 2, 1])
    parts = []
    for kernel in (3, 5):
        y = net.op("Relu", net.conv1d(x, w, w, kernel))
        parts.append(net.op("GlobalMaxPool", y))
    net.output(net.gemm(net.op("Flatten", net.op("Concat", *parts, axis=1)), 2 * w, 8))


def tagger(net: Net) -> None:
    """Embeddings, an LSTM in both directions, tags."""
    w = net.width
    x = net.op("Transpose", net.op("Gather", net.weight(VOCABULARY, w, fan=1), _tokens(net)), perm=[1, 0, 2])
    kernels = [net.weight(2, 4 * w, w, fan=w), net.weight(2, 4 * w, w, fan=w), net.const(np.zeros((2, 8 * w)))]
    y = net.op("LSTM", x, *kernels, hidden_size=w, direction="bidirectional", outputs=3)[0]
    y = net.reshape(net.op("Transpose", y, perm=[2, 0, 1, 3]), 0, 0, 2 * w)
    net.output(net.linear(y, 2 * w, 12))


def experts(net: Net) -> None:
    """Each token's expert gathered out of weights of three axes."""
    w, count = net.width, 4
    x = net.input("hidden", [8, w])
    choice = net.op("ArgMax", net.linear(x, w, count, bias=False), axis=-1, keepdims=0)
    up = net.op("Gather", net.weight(count, w, 2 * w, fan=w), choice, axis=0)
    down = net.op("Gather", net.weight(count, 2 * w, w, fan=2 * w), choice, axis=0)
    y = net.op("Relu", net.op("MatMul", net.unsqueeze(x, 1), up))
    net.output(net.squeeze(net.op("MatMul", y, down), 1))


def routed(net: Net) -> None:
    """Experts that see the rows routed to them: none for some experts."""
    w = net.width
    x = net.input("hidden", [12, w])
    scores = net.op("Add", net.linear(x, w, 3, bias=False), net.const([0.0, 0.0, -50.0]))
    choice = net.op("ArgMax", scores, axis=-1, keepdims=0)
    total = net.op("Mul", x, net.const(0.5))
    for expert in range(3):
        mask = net.op("Equal", choice, net.const(expert, "int64"))
        rows = net.op("Transpose", net.op("NonZero", mask), perm=[1, 0])
        picked = net.op("Gather", x, net.squeeze(rows, 1), axis=0)
        y = net.linear(net.op("Relu", net.linear(picked, w, 2 * w)), 2 * w, w)
        total = net.op("ScatterND", total, rows, y)
    net.output(total)


def heads(net: Net) -> None:
    """Products with weights of three axes, one matrix per head."""
    w = net.width
    x = net.unsqueeze(net.input("hidden", ["batch", "sequence", w]), 1)
    y = net.op("Relu", net.op("MatMul", x, net.weight(4, w, w, fan=w)))
    y = net.op("MatMul", y, net.weight(1, 4, w, w, fan=w))
    net.output(net.mean(y, 1, keepdims=0))


def wide_and_deep(net: Net) -> None:
    """Categories, numbers and a float16 input side by side."""
    w = net.width
    ids = net.input("category", ["batch", 3], integers(50, "int32"), "int32")
    numbers = net.input("numbers", ["batch", 12], normal)
    half = net.input("half", ["batch", 4], lambda r, s: r.standard_normal(s).astype("float16"), "float16")
    looked_up = net.op("Flatten", net.op("Gather", net.weight(50, w, fan=1), ids))
    joined = net.op("Concat", looked_up, numbers, net.op("Cast", half, to=onnx.TensorProto.FLOAT), axis=1)
    hidden = net.op("Relu", net.gemm(joined, 3 * w + 16, 2 * w))
    net.output(net.op("Sigmoid", net.op("Add", net.gemm(hidden, 2 * w, 1), net.gemm(numbers, 12, 1))))


def mlp(net: Net) -> None:
    """Gemm and Relu."""
    w = net.width
    x = net.input("features", ["batch", w])
    for cin, cout in ((w, 4 * w), (4 * w, 4 * w)):
        x = net.op("Relu", net.gemm(x, cin, cout))
    net.output(net.gemm(x, 4 * w, 6))


def mlp_leaky(net: Net) -> None:
    """Products with Max(x, 0.2 x), and a bias of shape [1, N]."""
    w = net.width
    x = net.input("features", ["batch", w])
    for cin, cout in ((w, 4 * w), (4 * w, 2 * w)):
        bias = net.const(0.1 * net.random.standard_normal((1, cout)))
        y = net.op("Gemm", x, net.weight(cin, cout, fan=cin), bias)
        x = net.op("Max", y, net.op("Mul", y, net.const(0.2)))
    net.output(net.gemm(x, 2 * w, 6))


def graph_network(net: Net) -> None:
    """Messages along edges: Gather of rows, products, ScatterElements back."""
    w = net.width
    x = net.input("nodes", [10, w])
    edges = net.input("edges", [2, 24], integers(10), "int64")
    source, target = (net.op("Gather", edges, net.const(i, "int64"), axis=0) for i in range(2))
    for _ in range(2):
        pair = net.op("Concat", net.op("Gather", x, source, axis=0), net.op("Gather", x, target, axis=0), axis=1)
        message = net.op("Relu", net.gemm(pair, 2 * w, w))
        index = net.op("Expand", net.unsqueeze(target, 1), net.op("Shape", message))
        received = net.op("ScatterElements", x, index, message, axis=0)
        x = net.op("Add", x, net.gemm(net.op("Concat", x, received, axis=1), 2 * w, w))
    net.output(net.mean(x, 0, keepdims=0))


def einsum(net: Net) -> None:
    """Products written as Einsum."""
    w = net.width
    x = net.input("hidden", ["batch", "sequence", w])
    y = net.op("Einsum", x, net.weight(w, 4, w // 4, fan=w), equation="bsd,dhe->bshe")
    z = net.op("Einsum", net.op("Tanh", y), net.weight(4, w // 4, w, fan=w), equation="bshe,hed->bsd")
    net.output(net.op("Add", x, z))


def lora(net: Net) -> None:
    """Weights with a low-rank update that is not folded: W + B A."""
    w = net.width
    x = net.input("hidden", ["batch", "sequence", w])
    for _ in range(2):
        update = net.op("MatMul", net.weight(w, 4, fan=w), net.weight(4, w, fan=4))
        merged = net.op("Add", net.weight(w, w, fan=w), net.op("Mul", update, net.const(0.3)))
        x = net.op("Add", x, net.op("Tanh", net.op("MatMul", x, merged)))
    net.output(x)


NETWORKS = {
    f.__name__: f
    for f in (bert, tied_lm, decoder, merged_decoder, translator, text_cnn, tagger, experts, routed, heads, wide_and_deep,
              mlp, mlp_leaky, graph_network, einsum, lora)
}  # fmt: skip
