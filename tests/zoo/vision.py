"""Networks for pictures."""

from __future__ import annotations

import numpy as np

from zoo.net import Net, images, integers, pictures_last


def _picture(net: Net, channels: int = 3) -> str:
    return net.input("pixels", ["batch", channels, 32, 32], images)


def _classes(net: Net, x: str, channels: int, classes: int = 10) -> None:
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x), axis=1)
    net.output(net.gemm(pooled, channels, classes))


def cnn(net: Net) -> None:
    """Convolutions with Relu and pooling, then Gemm."""
    w = net.width
    x = net.op("Relu", net.conv(_picture(net), 3, w))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.conv(x, w, w))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.conv(x, w, 2 * w, stride=2))
    hidden = net.op("Relu", net.gemm(net.op("Flatten", x, axis=1), 2 * w * 16, 2 * w))
    net.output(net.gemm(hidden, 2 * w, 10))


def resnet(net: Net) -> None:
    """Residual blocks with BatchNormalization."""
    w = net.width
    x = net.op("Relu", net.batch_norm(net.conv(_picture(net), 3, w, bias=False), w))
    for _ in range(2):
        y = net.op("Relu", net.batch_norm(net.conv(x, w, w, bias=False), w))
        y = net.batch_norm(net.conv(y, w, w, bias=False), w)
        x = net.op("Relu", net.op("Add", y, x))
    _classes(net, x, w)


def _inverted(net: Net, x: str, cin: int, cout: int, activation: str, stride: int = 1, squeeze: bool = False) -> str:
    """An inverted residual: expand, depthwise, project."""

    def act(t: str) -> str:
        kinds = {"relu6": lambda v: net.clip(v, 0, 6), "hard_swish": net.hard_swish, "silu": net.silu}
        return kinds[activation](t)

    wide = 4 * cin
    y = act(net.batch_norm(net.conv(x, cin, wide, 1, bias=False), wide))
    y = act(net.batch_norm(net.conv(y, wide, wide, 3, stride, group=wide, bias=False), wide))
    if squeeze:
        s = net.op("Relu", net.conv(net.op("GlobalAveragePool", y), wide, wide // 4, 1))
        y = net.op("Mul", y, net.op("HardSigmoid", net.conv(s, wide // 4, wide, 1), alpha=1 / 6, beta=0.5))
    y = net.batch_norm(net.conv(y, wide, cout, 1, bias=False), cout)
    return str(net.op("Add", x, y)) if stride == 1 and cin == cout else y


def _mobile(net: Net, activation: str, squeeze: bool = False) -> None:
    w = net.width // 2
    x = net.conv(_picture(net), 3, w, stride=2)
    for cin, cout, stride in ((w, w, 1), (w, 2 * w, 2), (2 * w, 2 * w, 1)):
        x = _inverted(net, x, cin, cout, activation, stride, squeeze)
    _classes(net, x, 2 * w)


def mobilenet_v2(net: Net) -> None:
    """Depthwise convolutions with Clip from 0 to 6."""
    _mobile(net, "relu6")


def mobilenet_v3(net: Net) -> None:
    """Depthwise convolutions with HardSwish and squeeze-excite."""
    _mobile(net, "hard_swish", squeeze=True)


def efficientnet(net: Net) -> None:
    """Depthwise convolutions with x * sigmoid(x)."""
    _mobile(net, "silu")


def resnext(net: Net) -> None:
    """Grouped convolutions."""
    w = net.width
    x = net.op("Relu", net.conv(_picture(net), 3, w))
    for _ in range(2):
        y = net.op("Relu", net.conv(x, w, w, 1))
        y = net.op("Relu", net.conv(y, w, w, group=4))
        x = net.op("Relu", net.op("Add", x, net.conv(y, w, w, 1)))
    _classes(net, x, w)


def shufflenet(net: Net) -> None:
    """Channels split, mixed and shuffled by Reshape and Transpose."""
    w = net.width
    x = net.op("Relu", net.conv(_picture(net), 3, w, stride=2))
    for _ in range(2):
        a, b = net.split(x, [w // 2, w // 2], 1)
        b = net.op("Relu", net.conv(b, w // 2, w // 2, 1))
        b = net.conv(b, w // 2, w // 2, group=w // 2)
        b = net.op("Relu", net.conv(b, w // 2, w // 2, 1))
        y = net.op("Concat", a, b, axis=1)
        y = net.op("Transpose", net.reshape(y, 0, 2, w // 2, 16, 16), perm=[0, 2, 1, 3, 4])
        x = net.reshape(y, 0, w, 16, 16)
    _classes(net, x, w)


def densenet(net: Net) -> None:
    """Concatenated features, normalization before each convolution."""
    w = net.width
    x = net.conv(_picture(net), 3, w)
    channels = w
    for _ in range(3):
        y = net.op("Relu", net.batch_norm(x, channels))
        x = net.op("Concat", x, net.conv(y, channels, w), axis=1)
        channels += w
    _classes(net, net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), channels)


def _unet(net: Net, activation: str, upward: str) -> None:
    w = net.width // 2

    def act(t: str) -> str:
        return str(net.hard_swish(t) if activation == "HardSwish" else net.op(activation, t))

    x = act(net.conv(_picture(net), 3, w))
    y = act(net.conv(net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), w, 2 * w))
    z = act(net.conv(net.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]), 2 * w, 4 * w))
    for skip, cin, cout in ((y, 4 * w, 2 * w), (x, 2 * w, w)):
        if upward == "resize":
            up, channels = net.enlarge(z), cin
        else:
            kernel = net.weight(cin, cout, 2, 2, fan=cin)
            up = net.op("ConvTranspose", z, kernel, net.bias(cout), kernel_shape=[2, 2], strides=[2, 2])
            channels = cout
        z = act(net.conv(net.op("Concat", up, skip, axis=1), channels + cout, cout))
    net.output(net.op("Sigmoid", net.conv(z, w, 1, 1)))


def unet_resize(net: Net) -> None:
    """A U-Net with Resize and Concat."""
    _unet(net, "Relu", "resize")


def unet_elu(net: Net) -> None:
    """A U-Net with ConvTranspose and Elu."""
    _unet(net, "Elu", "transpose")


def unet_hard_swish(net: Net) -> None:
    """A U-Net with Resize and HardSwish."""
    _unet(net, "HardSwish", "resize")


def super_resolution(net: Net) -> None:
    """Convolutions of any size of picture and DepthToSpace."""
    w = net.width
    x = net.input("pixels", ["batch", 3, "height", "width"], images)
    y = net.op("PRelu", net.conv(x, 3, w, 5), net.const(np.full((w, 1, 1), 0.2)))
    y = net.op("LeakyRelu", net.conv(y, w, w), alpha=0.1)
    y = net.op("DepthToSpace", net.conv(y, w, 12), blocksize=2)
    net.output(net.op("Add", y, net.enlarge(x)))


def autoencoder(net: Net) -> None:
    """Strided convolutions down, ConvTranspose up, symmetric clipping."""
    w = net.width
    x = net.clip(net.conv(_picture(net), 3, w, stride=2), -1, 1)
    x = net.clip(net.conv(x, w, 2 * w, stride=2), -1, 1)
    for cin, cout in ((2 * w, w), (w, 3)):
        kernel = net.weight(cin, cout, 4, 4, fan=4 * cin)
        x = net.op("ConvTranspose", x, kernel, net.bias(cout), kernel_shape=[4, 4], strides=[2, 2], pads=[1] * 4)
        x = net.op("Tanh", x)
    net.output(x)


def style(net: Net) -> None:
    """InstanceNormalization and reflected borders."""
    w = net.width
    x = net.conv(net.pad(_picture(net), [0, 0, 1, 1, 0, 0, 1, 1], "reflect"), 3, w)
    for _ in range(2):
        scale, shift = net.const(np.ones(w)), net.const(np.zeros(w))
        x = net.op("Relu", net.op("InstanceNormalization", net.conv(x, w, w), scale, shift))
    net.output(net.conv(x, w, 3))


def detector(net: Net) -> None:
    """Boxes and scores of a grid, two outputs of different scale."""
    w = net.width
    x = net.silu(net.batch_norm(net.conv(_picture(net), 3, w, stride=2), w))
    x = net.silu(net.batch_norm(net.conv(x, w, w, stride=2), w))
    boxes = net.reshape(net.conv(x, w, 4, 1), 0, 4, 64)
    scores = net.op("Sigmoid", net.reshape(net.conv(x, w, 8, 1), 0, 8, 64))
    centres = net.op("Add", boxes, net.const(np.tile(np.arange(64.0) * 4, (1, 4, 1))))
    net.output(net.op("Concat", centres, scores, axis=1))


def detector_nms(net: Net) -> None:
    """A detector with NonMaxSuppression inside: the size of its outputs depends on values."""
    w = net.width
    x = net.op("Relu", net.conv(_picture(net), 3, w, stride=2))
    x = net.op("Relu", net.conv(x, w, w, stride=2))
    offsets = net.op("Transpose", net.reshape(net.conv(x, w, 4, 1), 0, 4, 64), perm=[0, 2, 1])
    grid = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), -1).reshape(1, 64, 2) * 4
    boxes = net.op("Add", offsets, net.const(np.concatenate([grid, grid + 8], -1)))
    scores = net.op("Sigmoid", net.reshape(net.conv(x, w, 4, 1), 0, 4, 64))
    limits = [net.const([12], "int64"), net.const([0.3]), net.const([0.5])]
    kept = net.op("NonMaxSuppression", boxes, scores, *limits)
    index = net.op("Gather", kept, net.const(2, "int64"), axis=1)
    net.output(net.op("Gather", net.squeeze(boxes, 0), index, axis=0))
    net.output(kept, "int64")


def keras(net: Net) -> None:
    """Channels last at the input, with Transposes round every convolution, as converted from TensorFlow."""
    w = net.width
    x = net.input("input_1", ["batch", 32, 32, 3], pictures_last)
    for cin, cout, group in ((3, w, 1), (w, w, w), (w, 2 * w, 1)):
        y = net.conv(net.op("Transpose", x, perm=[0, 3, 1, 2]), cin, cout, group=group)
        x = net.op("Relu", net.op("Transpose", y, perm=[0, 2, 3, 1]))
    pooled = net.mean(x, 1, 2, keepdims=0)
    net.output(net.op("Softmax", net.linear(pooled, 2 * w, 10), axis=-1))


def patches(net: Net, size: int) -> str:
    """A picture cut into patches, as tokens."""
    w = net.weight(size, 3, 4, 4)
    x = net.op("Conv", _picture(net), w, net.bias(size), kernel_shape=[4, 4], strides=[4, 4])
    return str(net.op("Transpose", net.reshape(x, 0, size, 64), perm=[0, 2, 1]))


def vit(net: Net) -> None:
    """A vision transformer with a class token."""
    w = net.width
    x = patches(net, w)
    if net.is_open:
        batch = net.slice(net.op("Shape", x), 0, 0, 1)
        shape = net.op("Concat", batch, net.ints(1, w), axis=0)
        token = net.op("Expand", net.const(net.random.standard_normal((1, 1, w))), shape)
    else:
        token = net.const(net.random.standard_normal((1, 1, w)))
    x = net.op("Add", net.op("Concat", token, x, axis=1), net.const(0.2 * net.random.standard_normal((1, 65, w))))
    for _ in range(2):
        x = net.block(x, w)
    first = net.op("Gather", net.layer_norm(x, w), net.const(0, "int64"), axis=1)
    net.output(net.gemm(first, w, 10))


def swin(net: Net) -> None:
    """Attention in windows: Reshape and Transpose of six axes, and a position table."""
    w = net.width
    x = patches(net, w)
    for _ in range(2):
        y = net.reshape(x, -1, 2, 4, 2, 4, w)
        y = net.reshape(net.op("Transpose", y, perm=[0, 1, 3, 2, 4, 5]), -1, 16, w)
        y = net.attention(y, w, 4, mask=net.const(0.3 * net.random.standard_normal((1, 4, 16, 16))))
        y = net.op("Transpose", net.reshape(y, -1, 2, 2, 4, 4, w), perm=[0, 1, 3, 2, 4, 5])
        x = net.op("Add", x, net.reshape(y, -1, 64, w))
        x = net.op("Add", x, net.linear(net.gelu(net.linear(net.layer_norm(x, w), w, 2 * w)), 2 * w, w))
    net.output(net.gemm(net.mean(x, 1, keepdims=0), w, 10))


def mixer(net: Net) -> None:
    """Products along tokens and along channels."""
    w = net.width
    x = patches(net, w)
    for _ in range(2):
        y = net.op("Transpose", net.layer_norm(x, w), perm=[0, 2, 1])
        y = net.op("Transpose", net.linear(net.gelu(net.linear(y, 64, 64)), 64, 64), perm=[0, 2, 1])
        x = net.op("Add", x, y)
        x = net.op("Add", x, net.linear(net.gelu(net.linear(net.layer_norm(x, w), w, 2 * w)), 2 * w, w))
    net.output(net.gemm(net.mean(x, 1, keepdims=0), w, 10))


def segformer(net: Net) -> None:
    """Convolutions beside attention with fewer keys."""
    w = net.width
    x = net.conv(_picture(net), 3, w, 7, stride=4)
    tokens = net.op("Transpose", net.reshape(x, 0, w, 64), perm=[0, 2, 1])
    small = net.reshape(net.conv(x, w, w, stride=2), 0, w, 16)
    context = net.layer_norm(net.op("Transpose", small, perm=[0, 2, 1]), w)
    y = net.op("Add", tokens, net.attention(net.layer_norm(tokens, w), w, 4, context))
    wide = net.linear(net.layer_norm(y, w), w, 4 * w)
    plane = net.reshape(net.op("Transpose", wide, perm=[0, 2, 1]), 0, 4 * w, 8, 8)
    plane = net.gelu(net.conv(plane, 4 * w, 4 * w, group=4 * w))
    wide = net.op("Transpose", net.reshape(plane, 0, 4 * w, 64), perm=[0, 2, 1])
    y = net.op("Add", y, net.linear(wide, 4 * w, w))
    net.output(net.linear(y, w, 6))


def siamese(net: Net) -> None:
    """One network on two pictures: every weight has two readers."""
    w = net.width
    a, b = (net.input(n, ["batch", 3, 32, 32], images) for n in ("left", "right"))
    kernels = [net.weight(w, 3, 3, 3), net.weight(2 * w, w, 3, 3)]
    head = net.weight(64, 2 * w)
    features = []
    for x in (a, b):
        for kernel in kernels:
            x = net.op("Relu", net.op("Conv", x, kernel, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4))
        features.append(net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), head, transB=1))
    net.output(net.op("Sub", *features))


def weight_norm(net: Net) -> None:
    """Kernels computed from constants: v * g / |v|, as weight_norm exports them."""
    w = net.width
    x = _picture(net)
    for cin in (3, w):
        v = net.weight(w, cin, 3, 3)
        norm = net.op("Sqrt", net.op("ReduceSum", net.op("Mul", v, v), *([net.ints(1, 2, 3)] if net.opset >= 13 else []),
                                     keepdims=1, **({} if net.opset >= 13 else {"axes": [1, 2, 3]})))  # fmt: skip
        kernel = net.op("Mul", net.op("Div", v, norm), net.const(np.full((w, 1, 1, 1), 1.5)))
        x = net.op("Relu", net.op("Conv", x, kernel, net.bias(w), kernel_shape=[3, 3], pads=[1] * 4))
    _classes(net, x, w)


def volume(net: Net) -> None:
    """Convolutions over three axes."""
    w = net.width // 2
    x = net.input("voxels", ["batch", 1, 8, 16, 16], images)
    for cin, cout in ((1, w), (w, 2 * w)):
        kernel = net.weight(cout, cin, 3, 3, 3)
        x = net.op(
            "Relu", net.op("Conv", x, kernel, net.bias(cout), kernel_shape=[3] * 3, pads=[1] * 6, strides=[2] * 3)
        )
    _classes(net, x, 2 * w)


def captioner(net: Net) -> None:
    """A picture and tokens: two inputs of different kind, attention between them."""
    w = net.width
    context = net.layer_norm(patches(net, w), w)
    ids = net.input("input_ids", ["batch", "sequence"], integers(64), "int64")
    x = net.op("Gather", net.weight(64, w, fan=1), ids)
    x = net.op("Add", x, net.attention(net.layer_norm(x, w), w, 4, context))
    net.output(net.linear(net.layer_norm(x, w), w, 64, bias=False))


NETWORKS = {
    f.__name__: f
    for f in (cnn, resnet, mobilenet_v2, mobilenet_v3, efficientnet, resnext, shufflenet, densenet, unet_resize, unet_elu,
              unet_hard_swish, super_resolution, autoencoder, style, detector, detector_nms, keras, vit, swin, mixer,
              segformer, siamese, weight_norm, volume, captioner)
}  # fmt: skip
