"""Networks for sound and other sequences: recurrences, filter banks, loops."""

from __future__ import annotations

import numpy as np
import onnx

from zoo.net import Net, normal, sounds


def lstm(net: Net) -> None:
    """An LSTM whose state goes in and out."""
    w = net.width
    x = net.input("x", ["frames", "batch", w])
    state = [net.input(n, [1, "batch", w]) for n in ("h", "c")]
    kernels = [net.weight(1, 4 * w, w, fan=w), net.weight(1, 4 * w, w, fan=w), net.const(np.zeros((1, 8 * w)))]
    y, h, c = net.op("LSTM", x, *kernels, "", *state, hidden_size=w, outputs=3)
    net.output(net.linear(net.squeeze(y, 1), w, w))
    net.output(h)
    net.output(c)


def gru(net: Net) -> None:
    """Two GRUs, one after the other."""
    w = net.width
    x = net.input("x", ["frames", "batch", w])
    for _ in range(2):
        kernels = [net.weight(1, 3 * w, w, fan=w), net.weight(1, 3 * w, w, fan=w), net.const(np.zeros((1, 6 * w)))]
        x = net.squeeze(net.op("GRU", x, *kernels, hidden_size=w, linear_before_reset=1, outputs=2)[0], 1)
    net.output(net.linear(x, w, 8))


def _unrolled(net: Net, steps: int) -> str:
    """A recurrence written out: every step reads the same two weights."""
    w = net.width
    x = net.input("x", ["batch", steps, w])
    inner, outer = net.weight(w, 4 * w, fan=w), net.weight(w, 4 * w, fan=w)
    bias = net.bias(4 * w)
    h, c = (net.op("Mul", net.op("Gather", x, net.const(0, "int64"), axis=1), net.const(0.0)) for _ in range(2))
    for step in range(steps):
        now = net.op("Gather", x, net.const(step, "int64"), axis=1)
        gates = net.op("Add", net.op("Add", net.op("MatMul", now, inner), net.op("MatMul", h, outer)), bias)
        i, f, g, o = net.split(gates, [w] * 4, 1)
        kept = net.op("Mul", net.op("Sigmoid", f), c)
        c = net.op("Add", kept, net.op("Mul", net.op("Sigmoid", i), net.op("Tanh", g)))
        h = net.op("Mul", net.op("Sigmoid", o), net.op("Tanh", c))
    return str(h)


def unrolled_lstm(net: Net) -> None:
    """An LSTM written out as products that share two weights."""
    net.output(net.linear(_unrolled(net, 8), net.width, 10))


def unrolled_gru(net: Net) -> None:
    """A GRU written out as Gemms that share weights."""
    w, steps = net.width, 6
    x = net.input("x", ["batch", steps, w])
    reset, update, candidate = (net.weight(w, 2 * w) for _ in range(3))
    h = net.op("Mul", net.op("Gather", x, net.const(0, "int64"), axis=1), net.const(0.0))
    for step in range(steps):
        now = net.op("Gather", x, net.const(step, "int64"), axis=1)
        both = net.op("Concat", now, h, axis=1)
        r, z = (net.op("Sigmoid", net.op("Gemm", both, k, transB=1)) for k in (reset, update))
        both = net.op("Concat", now, net.op("Mul", r, h), axis=1)
        n = net.op("Tanh", net.op("Gemm", both, candidate, transB=1))
        h = net.op("Add", h, net.op("Mul", z, net.op("Sub", n, h)))
    net.output(h)


def vad(net: Net) -> None:
    """Voice activity: a filter bank as a convolution, convolutions, an LSTM with its state."""
    w = net.width
    x = net.input("input", ["batch", 512], sounds)
    state = net.input("state", [2, "batch", w])
    spectrum = _spectrum(net, net.unsqueeze(x, 1), bins=33, step=32)
    y = net.op("Relu", net.conv1d(spectrum, 33, w, 3, stride=2))
    y = net.op("Relu", net.conv1d(y, w, w))
    y = net.op("Transpose", y, perm=[2, 0, 1])
    h, c = net.split(state, [1, 1], 0)
    kernels = [net.weight(1, 4 * w, w, fan=w), net.weight(1, 4 * w, w, fan=w), net.const(np.zeros((1, 8 * w)))]
    y, h, c = net.op("LSTM", y, *kernels, "", h, c, hidden_size=w, outputs=3)
    last = net.squeeze(h, 0)
    net.output(net.op("Sigmoid", net.gemm(net.op("Relu", last), w, 1)))
    net.output(net.op("Concat", h, c, axis=0))


def _spectrum(net: Net, x: str, bins: int, step: int) -> str:
    """Magnitudes of a Fourier transform, as a convolution with constant filters."""
    size = 2 * (bins - 1)
    angle = 2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / size
    window = np.hanning(size)
    filters = np.concatenate([np.cos(angle) * window, np.sin(angle) * window])[:, None] / bins
    y = net.op("Conv", x, net.const(filters, name="filters"), strides=[step], kernel_shape=[size])
    real, imaginary = net.split(y, [bins, bins], 1)
    power = net.op("Add", net.op("Mul", real, real), net.op("Mul", imaginary, imaginary))
    return str(net.op("Sqrt", net.op("Add", power, net.const(1e-6))))


def transcriber(net: Net) -> None:
    """Spectrum, bands, logarithm, small convolutions: fine steps matter."""
    w = net.width
    x = net.input("audio", ["batch", 1, 1024], sounds)
    spectrum = _spectrum(net, x, bins=65, step=32)
    bands = np.maximum(0, 1 - np.abs(np.arange(65) - np.linspace(1, 62, 24)[:, None]) / 3)[:, :, None]
    y = net.op("Conv", spectrum, net.const(bands, name="bands"), kernel_shape=[1])
    y = net.op("Log", net.op("Add", y, net.const(1e-3)))
    y = net.op("Relu", net.conv1d(y, 24, w, 5))
    y = net.op("Relu", net.conv1d(y, w, w, 3))
    net.output(net.op("Sigmoid", net.conv1d(y, w, 12, 1)))


def tcn(net: Net) -> None:
    """Dilated and depthwise convolutions over time with PRelu."""
    w = net.width
    x = net.conv1d(net.input("x", ["batch", w, "frames"], sounds), w, 2 * w, 1)
    for dilation in (1, 2, 4):
        y = net.op("PRelu", net.conv1d(x, 2 * w, 2 * w, 1), net.const([[0.25]]))
        y = net.op("PRelu", net.conv1d(y, 2 * w, 2 * w, 3, dilation=dilation, group=2 * w), net.const([[0.25]]))
        x = net.op("Add", x, net.conv1d(y, 2 * w, 2 * w, 1))
    net.output(net.op("Sigmoid", net.conv1d(x, 2 * w, w, 1)))


def conformer(net: Net) -> None:
    """Attention beside gated depthwise convolutions."""
    w = net.width
    x = net.linear(net.input("features", ["batch", "frames", 40]), 40, w)
    for _ in range(2):
        x = net.op("Add", x, net.attention(net.layer_norm(x, w), w, 4))
        y = net.op("Transpose", net.layer_norm(x, w), perm=[0, 2, 1])
        a, b = net.split(net.conv1d(y, w, 2 * w, 1), [w, w], 1)
        y = net.silu(net.conv1d(net.op("Mul", a, net.op("Sigmoid", b)), w, w, 5, group=w))
        x = net.op("Add", x, net.op("Transpose", net.conv1d(y, w, w, 1), perm=[0, 2, 1]))
        x = net.op("Add", x, net.linear(net.silu(net.linear(net.layer_norm(x, w), w, 4 * w)), 4 * w, w))
    net.output(net.op("LogSoftmax", net.linear(x, w, 30), axis=-1))


def denoiser(net: Net) -> None:
    """A recurrence written out between convolutions, and a mask."""
    w = net.width
    h = _unrolled(net, 8)
    y = net.op("Relu", net.linear(h, w, 2 * w))
    net.output(net.op("Sigmoid", net.linear(y, 2 * w, w)))


def vocoder(net: Net) -> None:
    """ConvTranspose over time, LeakyRelu, residual dilated convolutions."""
    w = net.width
    x = net.conv1d(net.input("mel", ["batch", 20, "frames"]), 20, 2 * w, 7)
    for cin, cout in ((2 * w, w), (w, w // 2)):
        kernel = net.weight(cin, cout, 4, fan=2 * cin)
        x = net.op("LeakyRelu", x, alpha=0.1)
        x = net.op("ConvTranspose", x, kernel, net.bias(cout), kernel_shape=[4], strides=[2], pads=[1, 1])
        x = net.op("Add", x, net.conv1d(net.op("LeakyRelu", x, alpha=0.1), cout, cout, 3, dilation=3))
    net.output(net.op("Tanh", net.conv1d(x, w // 2, 1, 7)))


def speech_synthesis(net: Net) -> None:
    """Durations decide how often each token is repeated: the length of the output depends on values."""
    w = net.width
    x = net.linear(net.input("tokens", [1, 12, w], normal), w, w)
    durations = net.op("Cast", net.op("Ceil", net.op("Exp", net.linear(x, w, 1))), to=onnx.TensorProto.INT64)
    ends = net.op("CumSum", net.reshape(durations, -1), net.const(0, "int64"))
    total = net.op("ReduceMax", ends, keepdims=0)
    frames = net.op("Range", net.const(0, "int64"), total, net.const(1, "int64"))
    past = net.op("Not", net.op("Less", net.unsqueeze(frames, 1), net.unsqueeze(ends, 0)))
    counts = net.op("Cast", past, to=onnx.TensorProto.INT64)
    axes = [net.ints(1)] if net.opset >= 13 else []
    index = net.op("ReduceSum", counts, *axes, keepdims=0, **({} if axes else {"axes": [1]}))
    y = net.op("Transpose", net.op("Gather", x, index, axis=1), perm=[0, 2, 1])
    net.output(net.op("Tanh", net.conv1d(net.op("Relu", net.conv1d(y, w, w, 5)), w, 1, 3)))


def loop(net: Net) -> None:
    """A Loop whose body holds a weight and reads one of the outer graph."""
    w = net.width
    x = net.input("x", ["batch", w])
    outer = net.weight(w, w)
    inner = [
        onnx.helper.make_node("MatMul", ["state", outer], ["a"]),
        onnx.helper.make_node("Tanh", ["a"], ["b"]),
        onnx.helper.make_node("MatMul", ["b", "inside"], ["next_state"]),
        onnx.helper.make_node("Identity", ["go"], ["go_on"]),
    ]
    info = onnx.helper.make_tensor_value_info
    floats, booleans = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL
    body = onnx.helper.make_graph(
        inner,
        "body",
        [info("i", onnx.TensorProto.INT64, []), info("go", booleans, []), info("state", floats, None)],
        [info("go_on", booleans, []), info("next_state", floats, None)],
        [onnx.numpy_helper.from_array((net.random.standard_normal((w, w)) / np.sqrt(w)).astype(np.float32), "inside")],
    )
    y = net.op("Loop", net.const(3, "int64"), net.const(True, "bool"), x, body=body)
    net.output(net.gemm(y, w, w))


def scan(net: Net) -> None:
    """A Scan over time with two products."""
    w = net.width
    x = net.input("x", ["frames", w])
    start = net.const(np.zeros(w))
    inner, outer = net.weight(w, w), net.weight(w, w)
    nodes = [
        onnx.helper.make_node("MatMul", ["step", inner], ["a"]),
        onnx.helper.make_node("MatMul", ["state", outer], ["b"]),
        onnx.helper.make_node("Add", ["a", "b"], ["sum"]),
        onnx.helper.make_node("Tanh", ["sum"], ["next_state"]),
        onnx.helper.make_node("Identity", ["next_state"], ["row"]),
    ]
    info, floats = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    body = onnx.helper.make_graph(
        nodes,
        "body",
        [info("state", floats, [w]), info("step", floats, [w])],
        [info("next_state", floats, [w]), info("row", floats, [w])],
    )
    rows = net.op("Scan", start, x, body=body, num_scan_inputs=1, outputs=2)[1]
    net.output(net.linear(rows, w, w))


NETWORKS = {
    f.__name__: f
    for f in (lstm, gru, unrolled_lstm, unrolled_gru, vad, transcriber, tcn, conformer, denoiser, vocoder, speech_synthesis,
              loop, scan)
}  # fmt: skip
