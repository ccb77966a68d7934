"""Build ONNX graphs of MobileNetV2, EfficientNet-Lite0 and EfficientNet-Lite1 from their PyTorch weights, without PyTorch.

    python scripts/build_imagenet_models.py mobilenet_v2 weights.pth model.onnx

The graphs are float32, opset 17, with BatchNormalization left unfolded: to fold it is the task of the tool
that is tested with them, and the folded weights are what makes these depthwise networks hard to quantize.
"""

from __future__ import annotations

import argparse
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
Weights = Mapping[str, Array]

OPSET = 17
IR_VERSION = 8
IMAGE_SIZE = 224

_CHECKPOINT_MAGIC = 0x1950A86A20F9469CFC6C
_CHECKPOINT_PROTOCOL = 1001
_STORAGE_TYPES: dict[str, np.dtype[Any]] = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
}


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another layout, or that asks for more than arrays."""


@dataclass(frozen=True)
class _StorageType:
    """Stand-in for a torch storage class: all that matters of it is the element type."""

    dtype: np.dtype[Any]


@dataclass
class _Tensor:
    """A tensor as the pickle describes it: a strided view of a storage whose bytes come later in the file."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    """Stand-in for torch._utils._rebuild_tensor_v2; gradients and hooks are of no interest."""
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _WeightsUnpickler(pickle.Unpickler):
    """Unpickler that knows the few names a state dict needs and refuses others: it runs no foreign code."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin-1")
        self.storages: dict[str, tuple[np.dtype[Any], int]] = {}

    def find_class(self, module: str, name: str) -> object:
        """The stand-in for a global name of the pickle."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if module == "torch" and name in _STORAGE_TYPES:
            return _StorageType(_STORAGE_TYPES[name])
        raise CheckpointError(f"the checkpoint asks for {module}.{name}, expected only tensors in a dict")

    def persistent_load(self, pid: object) -> str:
        """Note the type and length of a storage; answers its key."""
        match pid:
            case ("storage", _StorageType() as kind, str(key), _, int(count), None):
                self.storages[key] = (kind.dtype, count)
                return key
        raise CheckpointError(f"the checkpoint has a storage of an unknown kind: {pid!r}")


def read_checkpoint(path: Path) -> dict[str, Array]:
    """The arrays of a state dict that PyTorch saved before its 1.6: pickles in a row, then raw storages."""
    try:
        with path.open("rb") as file:
            return _read_checkpoint(file)
    except (pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint that can be read: {error}") from error


def _read_checkpoint(file: BinaryIO) -> dict[str, Array]:
    header = [_WeightsUnpickler(file).load() for _ in range(3)]
    if header[:2] != [_CHECKPOINT_MAGIC, _CHECKPOINT_PROTOCOL] or not header[2].get("little_endian"):
        raise CheckpointError("expected a little-endian checkpoint of protocol 1001 (before PyTorch 1.6)")
    unpickler = _WeightsUnpickler(file)
    tensors = unpickler.load()
    storages = {}
    for key in _WeightsUnpickler(file).load():
        dtype, count = unpickler.storages[key]
        stored = int.from_bytes(file.read(8), "little")
        data = file.read(count * dtype.itemsize)
        if stored != count or len(data) != count * dtype.itemsize:
            count_in_file = min(stored, len(data) // dtype.itemsize)
            raise CheckpointError(f"storage {key} has {count_in_file} elements, expected {count}")
        storages[key] = np.frombuffer(data, dtype)
    return {name: _view(storages[tensor.storage], tensor) for name, tensor in tensors.items()}


def _view(storage: Array, tensor: _Tensor) -> Array:
    # A view that reached past its storage would read foreign memory: as_strided does not check.
    reach = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if min((tensor.offset, *tensor.strides, *tensor.shape)) < 0 or reach >= storage.size:
        raise CheckpointError(f"a tensor {tensor.shape} reaches past its storage of {storage.size} elements")
    strides = [s * storage.itemsize for s in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides).copy()


class GraphWriter:
    """An ONNX graph under construction: nodes in order, initializers by name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: Array) -> str:
        """Add an initializer; answers its name."""
        # ascontiguousarray would turn a scalar into a vector.
        return self.add(numpy_helper.from_array(np.asarray(value, order="C"), name))

    def add(self, tensor: onnx.TensorProto) -> str:
        """Add an initializer that is a tensor already; answers its name."""
        if tensor.name in self._initializers:
            raise ValueError(f"two initializers are called {tensor.name}")
        self._initializers[tensor.name] = tensor
        return tensor.name

    def node(self, op: str, inputs: Sequence[str], name: str, output: str = "", **attributes: object) -> str:
        """Add a node; answers the name of its output."""
        output = output or f"{name}.out"
        node = helper.make_node(op, inputs, [output], name=name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self._nodes.append(node)
        return output

    def halves(self, x: str, name: str) -> tuple[str, str]:
        """Split a tensor in the middle of its last axis; answers the names of both parts."""
        first, second = f"{name}.first", f"{name}.second"
        self._nodes.append(helper.make_node("Split", [x], [first, second], name=name, axis=-1, num_outputs=2))
        return first, second

    def model(
        self, name: str, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]
    ) -> onnx.ModelProto:
        """The finished model, checked; inputs and outputs are float32."""
        infos = [
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in values.items()]
            for values in (inputs, outputs)
        ]
        model = self.unchecked(name, infos[0], infos[1], (OPSET, IR_VERSION))
        onnx.checker.check_model(model, full_check=True)
        return model

    def unchecked(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        versions: tuple[int, int],
    ) -> onnx.ModelProto:
        """The finished model; ``versions`` are those of the operators and of the file."""
        graph = helper.make_graph(self._nodes, name, inputs, outputs, list(self._initializers.values()))
        opsets = [helper.make_opsetid("", versions[0])]
        return helper.make_model(graph, opset_imports=opsets, ir_version=versions[1])


class _ImageNetWriter:
    """The layers that both networks are made of, by the names that the checkpoint gives them."""

    def __init__(self, weights: Weights, epsilon: float) -> None:
        self.graph = GraphWriter()
        self.weights = weights
        self._epsilon = epsilon
        self._low = self.graph.constant("relu6.low", np.array(0, np.float32))
        self._high = self.graph.constant("relu6.high", np.array(6, np.float32))

    def conv(self, x: str, layer: str, stride: int, pads: tuple[int, int]) -> str:
        """A convolution without bias; depthwise when its kernels see one channel. ``pads``: before, after."""
        name = f"{layer}.weight"
        weight = self.weights[name]
        group = weight.shape[0] if weight.shape[1] == 1 else 1
        attributes: dict[str, Any] = {
            "group": group,
            "kernel_shape": weight.shape[2:],
            "strides": [stride, stride],
            "pads": [pads[0], pads[0], pads[1], pads[1]],
        }
        return self.graph.node("Conv", [x, self.graph.constant(name, weight)], layer, **attributes)

    def norm(self, x: str, layer: str, *, clip: bool = True) -> str:
        """BatchNormalization, then the clip to 0..6 that these networks have for an activation."""
        names = [f"{layer}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
        parameters = [self.graph.constant(name, self.weights[name]) for name in names]
        x = self.graph.node("BatchNormalization", [x, *parameters], layer, epsilon=self._epsilon)
        return self.graph.node("Clip", [x, self._low, self._high], f"{layer}.relu6") if clip else x

    def head(self, x: str, layer: str, name: str, size: int = IMAGE_SIZE) -> onnx.ModelProto:
        """Pooling and the classifier, and with them the model."""
        x = self.graph.node("GlobalAveragePool", [x], "pool")
        x = self.graph.node("Flatten", [x], "flatten", axis=1)
        names = [f"{layer}.weight", f"{layer}.bias"]
        parameters = [self.graph.constant(key, self.weights[key]) for key in names]
        self.graph.node("Gemm", [x, *parameters], layer, output="logits", transB=1)
        classes = self.weights[f"{layer}.bias"].shape[0]
        return self.graph.model(name, {"input": ["N", 3, size, size]}, {"logits": ["N", classes]})


def _centred(weight: Array) -> tuple[int, int]:
    """Padding that keeps the middle of an odd kernel on each position."""
    pad = weight.shape[-1] // 2
    return pad, pad


def _same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding, which puts the odd pixel behind the image."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def mobilenet_v2(weights: Weights) -> onnx.ModelProto:
    """MobileNetV2 (width 1.0) from torchvision's weights."""
    # Strides of the 17 inverted residuals; all else can be read off the shapes of the weights.
    strides = [1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 1, 2, 1, 1, 1]
    net = _ImageNetWriter(weights, epsilon=1e-5)

    def conv(x: str, layer: str, stride: int = 1) -> str:
        return net.conv(x, layer, stride, _centred(weights[f"{layer}.weight"]))

    x = net.norm(conv("input", "features.0.0", 2), "features.0.1")
    channels = 32
    for index, stride in enumerate(strides, start=1):
        shortcut, block = x, f"features.{index}.conv"
        hidden = 0
        if f"{block}.1.0.weight" in weights:  # the first block does not expand its channels
            x = net.norm(conv(x, f"{block}.0.0"), f"{block}.0.1")
            hidden = 1
        x = net.norm(conv(x, f"{block}.{hidden}.0", stride), f"{block}.{hidden}.1")
        x = net.norm(conv(x, f"{block}.{hidden + 1}"), f"{block}.{hidden + 2}", clip=False)
        width = weights[f"{block}.{hidden + 1}.weight"].shape[0]
        if stride == 1 and width == channels:
            x = net.graph.node("Add", [shortcut, x], f"features.{index}.add")
        channels = width
    x = net.norm(conv(x, "features.18.0"), "features.18.1")
    return net.head(x, "classifier.1", "mobilenet_v2")


# Strides of EfficientNet's stages, by their width: the first block of a stage has it.
_STAGE_STRIDES = {16: 1, 24: 2, 40: 2, 80: 2, 112: 1, 192: 2, 320: 1}


def efficientnet_lite(weights: Weights, name: str, image_size: int) -> onnx.ModelProto:
    """An EfficientNet-Lite of width 1 from the weights that were converted from TensorFlow's."""
    net = _ImageNetWriter(weights, epsilon=1e-3)
    size = image_size

    def conv(x: str, layer: str, stride: int = 1) -> str:
        return net.conv(x, layer, stride, _same(size, weights[f"{layer}.weight"].shape[-1], stride))

    x = net.norm(conv("input", "_conv_stem", 2), "_bn0")
    size, channels = size // 2, 32
    for index in range(sum(f"_blocks.{i}._project_conv.weight" in weights for i in range(len(weights)))):
        shortcut, block = x, f"_blocks.{index}"
        width = weights[f"{block}._project_conv.weight"].shape[0]
        stride = _STAGE_STRIDES[width] if width != channels else 1
        if f"{block}._expand_conv.weight" in weights:  # the first block does not expand its channels
            x = net.norm(conv(x, f"{block}._expand_conv"), f"{block}._bn0")
        x = net.norm(conv(x, f"{block}._depthwise_conv", stride), f"{block}._bn1")
        size = -(-size // stride)
        x = net.norm(conv(x, f"{block}._project_conv"), f"{block}._bn2", clip=False)
        if stride == 1 and width == channels:
            x = net.graph.node("Add", [shortcut, x], f"{block}.add")
        channels = width
    x = net.norm(conv(x, "_conv_head"), "_bn1")
    return net.head(x, "_fc", name, image_size)


BUILDERS: Mapping[str, Callable[[Weights], onnx.ModelProto]] = {
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": partial(efficientnet_lite, name="efficientnet_lite0", image_size=IMAGE_SIZE),
    "efficientnet_lite1": partial(efficientnet_lite, name="efficientnet_lite1", image_size=240),
}


def build(builder: str, weights: Path, model: Path) -> None:
    """Read a checkpoint and write the model that the named builder makes of it."""
    onnx.save(BUILDERS[builder](read_checkpoint(weights)), model)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("builder", choices=sorted(BUILDERS))
    parser.add_argument("weights", type=Path, help="checkpoint (.pth)")
    parser.add_argument("model", type=Path, help="ONNX file to write")
    arguments = parser.parse_args()
    build(arguments.builder, arguments.weights, arguments.model)


if __name__ == "__main__":
    main()
