"""Nodes whose functions are compared with onnxruntime: a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

Array = NDArray[Any]
MS = "com.microsoft"
_random = np.random.default_rng(7)


@dataclass(frozen=True)
class Case:
    """A node and its inputs.

    Attributes:
        op: its operator, with the domain before a colon where that is not ONNX's.
        arrays: its inputs; None: left out.
        opset: version of ONNX's domain.
        outputs: number of its outputs.
        attributes: its attributes.
    """

    op: str
    arrays: Sequence[Array | None]
    opset: int = 21
    outputs: int = 1
    attributes: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its name in reports."""
        shapes = "x".join("-" if a is None else "_".join(map(str, a.shape)) or "s" for a in self.arrays)
        words = ",".join(f"{k}={v if not isinstance(v, onnx.TensorProto) else '..'}" for k, v in self.attributes.items())
        return f"{self.op}-{self.opset}-{shapes}-{words}".replace(" ", "")


def case(op: str, *arrays: Array | None, opset: int = 21, outputs: int = 1, **attributes: Any) -> Case:
    """A node with these inputs and attributes."""
    return Case(op, arrays, opset, outputs, attributes)


def x(*shape: int) -> Array:
    """Values around zero."""
    return np.asarray(_random.standard_normal(shape), np.float32)


def p(*shape: int) -> Array:
    """Positive values."""
    return np.asarray(_random.uniform(0.5, 2, shape), np.float32)


def n(*values: int) -> Array:
    """Whole numbers in a row."""
    return np.array(values, np.int64)


def s(value: float, dtype: str = "int64") -> Array:
    """One number."""
    return np.array(value, dtype)


def codes(low: int, high: int, *shape: int, dtype: str = "uint8") -> Array:
    return _random.integers(low, high + 1, shape).astype(dtype)


def b(*shape: int) -> Array:
    """Truth values."""
    return _random.random(shape) < 0.6


def i(low: int, high: int, *shape: int, dtype: str = "int64") -> Array:
    """Whole numbers from low up to high."""
    return codes(low, high - 1, *shape, dtype=dtype)


def scalar_tensor(value: float, dtype: str = "float32") -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([value], dtype))


_IMAGE, _FILTER = (2, 4, 7, 6), (6, 4, 3, 2)
CONVOLUTIONS = [
    case("Conv", x(*_IMAGE), x(*_FILTER)),
    case("Conv", x(*_IMAGE), x(*_FILTER), x(6), strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
    case("Conv", x(*_IMAGE), x(6, 2, 3, 3), x(6), group=2, pads=[1, 1, 1, 1]),
    case("Conv", x(*_IMAGE), x(4, 1, 3, 3), group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    case("Conv", x(*_IMAGE), x(4, 1, 2, 3), group=4, auto_pad="SAME_LOWER", strides=[1, 2]),
    case("Conv", x(*_IMAGE), x(*_FILTER), auto_pad="VALID"),
    case("Conv", x(2, 3, 9), x(5, 3, 4), x(5), pads=[2, 1], opset=7),
    case("Conv", x(1, 2, 4, 5, 4), x(3, 2, 2, 3, 2), pads=[0, 1, 0, 1, 0, 1]),
    case("ConvTranspose", x(2, 4, 5, 4), x(4, 3, 3, 2), x(3), strides=[2, 3], pads=[1, 0, 0, 1]),
    case("ConvTranspose", x(2, 4, 5, 4), x(4, 3, 3, 3), x(6), strides=[2, 2], group=2, output_padding=[1, 0]),
    case("ConvTranspose", x(2, 4, 5), x(4, 3, 3), x(3), strides=[2], pads=[1, 1], output_padding=[1]),
    case("ConvTranspose", x(1, 2, 5, 4), x(2, 3, 3, 3), strides=[2, 2], output_shape=[10, 9], opset=11),
    case("ConvTranspose", x(1, 2, 5, 4), x(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_UPPER"),
    case("ConvTranspose", x(1, 2, 5, 4), x(2, 3, 3, 3), strides=[2, 2], auto_pad="SAME_LOWER"),
    case("ConvTranspose", x(1, 2, 5, 4), x(2, 3, 2, 2), dilations=[2, 1]),
    case("ConvTranspose", x(1, 2, 3, 4, 3), x(2, 2, 2, 2, 2), strides=[1, 2, 1]),
    case("MaxPool", x(*_IMAGE), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", x(*_IMAGE), kernel_shape=[2, 2], strides=[2, 3], ceil_mode=1),
    case("MaxPool", x(*_IMAGE), kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    case("MaxPool", x(*_IMAGE), kernel_shape=[2, 2], dilations=[2, 3]),
    case("MaxPool", x(*_IMAGE), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", outputs=2),
    case("MaxPool", x(*_IMAGE), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    case("MaxPool", x(2, 3, 9), kernel_shape=[4], strides=[2], pads=[1, 2], outputs=2),
    case("MaxPool", x(1, 2, 4, 5, 4), kernel_shape=[2, 2, 3]),
    case("MaxPool", codes(0, 255, 1, 2, 5, 5), kernel_shape=[2, 2]),
    case("AveragePool", x(*_IMAGE), kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    case("AveragePool", x(*_IMAGE), kernel_shape=[3, 2], pads=[1, 0, 2, 1], count_include_pad=1),
    case("AveragePool", x(*_IMAGE), kernel_shape=[2, 2], strides=[2, 4], ceil_mode=1),
    case("AveragePool", x(*_IMAGE), kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1], ceil_mode=1),
    case("AveragePool", x(*_IMAGE), kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"),
    case("AveragePool", x(*_IMAGE), kernel_shape=[2, 2], dilations=[2, 2]),
    case("AveragePool", x(2, 3, 9), kernel_shape=[4], opset=7),
    case("LpPool", x(*_IMAGE), kernel_shape=[3, 2], strides=[2, 2]),
    case("LpPool", x(*_IMAGE), kernel_shape=[2, 2], p=1, pads=[1, 1, 0, 0]),
    case("GlobalAveragePool", x(*_IMAGE)),
    case("GlobalAveragePool", x(2, 3, 5)),
    case("GlobalMaxPool", x(*_IMAGE)),
    case("GlobalLpPool", x(*_IMAGE), p=2),
]

SHAPES = [
    case("Shape", x(3, 4, 5)),
    case("Shape", x(3, 4, 5), start=1),
    case("Shape", x(3, 4, 5), start=-2, end=-1),
    case("Size", x(3, 4)),
    case("Reshape", x(2, 3, 4), n(0, -1)),
    case("Reshape", x(2, 3, 4), n(4, 0, 2)),
    case("Reshape", x(0, 3), n(3, 0), allowzero=1),
    case("Reshape", x(1, 1), n()),
    case("Flatten", x(2, 3, 4)),
    case("Flatten", x(2, 3, 4), axis=0),
    case("Flatten", x(2, 3, 4), axis=-1),
    case("Transpose", x(2, 3, 4)),
    case("Transpose", x(2, 3, 4), perm=[1, 2, 0]),
    case("Squeeze", x(1, 3, 1, 2)),
    case("Squeeze", x(1, 3, 1, 2), n(-2, 0)),
    case("Squeeze", x(1, 3, 1, 2), axes=[2], opset=11),
    case("Unsqueeze", x(3, 2), n(0, -1)),
    case("Unsqueeze", x(3, 2), axes=[2, 0], opset=11),
    case("Concat", x(2, 3), x(1, 3), x(4, 3), axis=0),
    case("Concat", x(2, 3), x(2, 1), axis=-1),
    case("Split", x(7, 2), outputs=3, num_outputs=3),
    case("Split", x(6, 2), n(1, 5), outputs=2),
    case("Split", x(2, 6), axis=1, split=[2, 4], outputs=2, opset=11),
    case("Split", x(2, 6), axis=-1, outputs=3, opset=11),
    case("Expand", x(3, 1), n(2, 1, 4)),
    case("Expand", x(2, 3, 4), n(1)),
    case("Tile", x(2, 3), n(2, 1)),
    case("DepthToSpace", x(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", x(1, 8, 2, 3), blocksize=2, mode="CRD"),
    case("SpaceToDepth", x(1, 2, 4, 6), blocksize=2),
    case("Pad", x(2, 3), n(1, 0, 2, 1)),
    case("Pad", x(2, 3), n(1, 0, 2, 1), s(1.5, "float32")),
    case("Pad", x(4, 3), n(-1, 1, 0, -1)),
    case("Pad", x(2, 4), n(2, 1), None, n(1), mode="reflect"),
    case("Pad", x(2, 4), n(2, 1), None, n(-1), mode="edge"),
    case("Pad", x(3, 4), n(1, 2, 2, 1), mode="wrap"),
    case("Pad", x(3, 4), n(1, 2, 2, 1), mode="reflect"),
    case("Pad", x(2, 3), pads=[1, 0, 2, 1], value=0.5, opset=10),
    case("Pad", i(0, 9, 2, 3), n(1, 0, 2, 1), s(7)),
]

INDICES = [
    case("Slice", x(5, 6), n(1, -3), n(4, 100)),
    case("Slice", x(5, 6), n(-1), n(-100), n(1), n(-2)),
    case("Slice", x(5, 6), n(4, 5), n(0, 1), n(0, -1), n(-1, -3)),
    case("Slice", x(5, 6), n(0), n(np.iinfo("int64").max), n(1), n(2)),
    case("Slice", x(5, 6), n(-1), n(np.iinfo("int64").min), n(0), n(-1)),
    case("Slice", x(5, 6), n(3), n(2), n(0)),
    case("Slice", x(5, 6), starts=[1], ends=[-1], axes=[1], opset=9),
    case("Slice", x(5, 6), starts=[1, 0], ends=[4, 3], opset=7),
    case("Gather", x(5, 6), n(0, -1, 3)),
    case("Gather", x(5, 6), i(0, 6, 2, 3), axis=1),
    case("Gather", x(5, 6), s(-2), axis=-1),
    case("GatherElements", x(4, 3), i(-4, 4, 2, 3)),
    case("GatherElements", x(4, 3), i(0, 3, 4, 2), axis=1),
    case("GatherND", x(4, 3, 2), i(-3, 3, 5, 2)),
    case("GatherND", x(4, 3, 2), i(0, 3, 4, 5, 1), batch_dims=1),
    case("GatherND", x(2, 2, 3), i(0, 3, 2, 2, 1), batch_dims=2),
    case("ScatterElements", x(4, 3), np.array([[0, -1, 2], [3, 1, 0]]), x(2, 3)),
    case("ScatterElements", x(4, 3), i(0, 3, 4, 2), x(4, 2), axis=1, reduction="add"),
    case("ScatterElements", x(4, 3), i(0, 4, 2, 3), x(2, 3), reduction="mul"),
    case("ScatterElements", x(4, 3), i(0, 4, 2, 3), x(2, 3), reduction="max"),
    case("ScatterElements", x(4, 3), i(0, 4, 2, 3), x(2, 3), reduction="min"),
    case("ScatterND", x(4, 3, 2), np.array([[0, 1], [-1, 2]]), x(2, 2)),
    case("ScatterND", x(4, 3), np.array([[1], [1]]), x(2, 3), reduction="add"),
    case("ScatterND", x(4, 3), np.array([[1], [-3]]), x(2, 3), reduction="mul"),
    case("ScatterND", x(4, 3), np.array([[1, 0], [1, 0]]), x(2), reduction="max"),
    case("Compress", x(4, 3), np.array([True, False, True]), axis=0),
    case("Compress", x(4, 3), np.array([True, False, False, True])),
    case("NonZero", np.array([[1, 0], [3, 4]], np.float32)),
    case("Trilu", x(2, 3, 4)),
    case("Trilu", x(3, 4), s(-1), upper=0),
    case("Trilu", x(3, 4), s(1)),
    case("CumSum", x(3, 4), s(1)),
    case("CumSum", x(3, 4), s(0), exclusive=1),
    case("CumSum", x(3, 4), s(-1), reverse=1),
    case("CumSum", x(3, 4), s(1), reverse=1, exclusive=1),
    case("TopK", x(3, 6), n(2), outputs=2),
    case("TopK", x(6, 3), n(4), axis=0, largest=0, outputs=2),
    case("TopK", i(0, 3, 2, 8), n(5), outputs=2),
    case("TopK", x(3, 6), k=2, outputs=2, opset=9),
    case("ReverseSequence", x(4, 3, 2), n(1, 4, 2)),
    case("ReverseSequence", x(3, 4, 2), n(1, 4, 2), time_axis=1, batch_axis=0),
]

FILLING = [
    case("ConstantOfShape", n(2, 3)),
    case("ConstantOfShape", n(2, 3), value=scalar_tensor(3, "int64")),
    case("ConstantOfShape", n(), value=scalar_tensor(1.5)),
    case("Range", s(1), s(8), s(3)),
    case("Range", s(1, "float32"), s(0, "float32"), s(-0.25, "float32")),
    case("EyeLike", x(3, 4)),
    case("EyeLike", x(3, 4), k=-1, dtype=int(onnx.TensorProto.INT64)),
    case("OneHot", n(0, 2, -1), s(4), n(5, 7)),
    case("OneHot", i(0, 3, 2, 2), s(3), np.array([0, 1], "float32"), axis=1),
    case("OneHot", i(0, 3, 2, 2), s(3), np.array([0, 1], "float32"), axis=0),
]

RESIZES = [
    *(
        case("Resize", x(1, 2, 4, 5), None, np.array([1, 1, 1.7, 0.6], "float32"), mode=mode,
             coordinate_transformation_mode=coordinates)
        for mode in ("nearest", "linear", "cubic")
        for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    ),
    *(
        case("Resize", x(1, 1, 4, 6), None, None, n(1, 1, 7, 4), mode="nearest", nearest_mode=mode)
        for mode in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
    ),
    *(
        case("Resize", x(1, 1, 4, 6), None, None, n(1, 1, 8, 3), mode=mode, opset=opset)
        for mode in ("nearest", "linear", "cubic")
        for opset in (13, 19)
    ),
    case("Resize", x(1, 1, 4, 6), x(0), x(0), n(1, 1, 8, 3), mode="cubic", opset=11),
    case("Resize", x(1, 1, 4, 6), None, None, n(8, 3), mode="linear", axes=[2, 3]),
    case("Resize", x(1, 1, 4, 6), None, None, n(9, 9), mode="linear", axes=[2, 3], keep_aspect_ratio_policy="not_larger"),
    case("Resize", x(1, 1, 4, 6), None, None, n(9, 9), mode="nearest", axes=[2, 3], keep_aspect_ratio_policy="not_smaller"),
    case("Resize", x(1, 1, 9, 12), None, None, n(1, 1, 4, 5), mode="linear", antialias=1),
    case("Resize", x(1, 1, 9, 12), None, None, n(1, 1, 4, 5), mode="cubic", antialias=1, exclude_outside=1),
    case("Resize", x(1, 1, 9, 12), None, None, n(1, 1, 4, 5), mode="cubic", antialias=1),
    case("Resize", x(1, 1, 4, 5), None, None, n(1, 1, 7, 8), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1),
    case("Resize", x(1, 1, 5, 6), np.array([0, 0, 0.2, -0.1, 1, 1, 0.7, 1.2], "float32"), None, n(1, 1, 4, 7),
         mode="linear", coordinate_transformation_mode="tf_crop_and_resize", extrapolation_value=3.0),
    case("Resize", x(1, 2, 3, 4, 3), None, np.array([1, 1, 2, 2, 2], "float32"), mode="linear"),
    case("Resize", x(2, 3, 5), None, np.array([1, 1, 2.5], "float32"), mode="nearest"),
    case("Resize", x(1, 1, 3, 6), np.array([1, 1, 2, 0.5], "float32"), mode="nearest", opset=10),
    case("Resize", x(1, 1, 3, 6), np.array([1, 1, 2, 0.5], "float32"), mode="linear", opset=10),
    case("Upsample", x(1, 1, 3, 4), np.array([1, 1, 2, 3], "float32"), mode="nearest", opset=9),
    case("Upsample", x(1, 1, 3, 4), np.array([1, 1, 2, 3], "float32"), mode="linear", opset=9),
    case("Upsample", x(1, 1, 3, 4), scales=[1.0, 1.0, 2.0, 1.5], mode="nearest", opset=7),
]  # fmt: skip

NORMS = [
    case("BatchNormalization", x(2, 3, 4), x(3), x(3), x(3), p(3)),
    case("BatchNormalization", x(2, 3, 4, 2), x(3), x(3), x(3), p(3), epsilon=0.1, opset=8),
    case("InstanceNormalization", x(2, 3, 4, 5), x(3), x(3), epsilon=0.01),
    case("InstanceNormalization", x(2, 3, 4), x(3), x(3)),
    case("GroupNormalization", x(2, 6, 4), x(6), x(6), num_groups=3),
    case("GroupNormalization", x(2, 6, 4), x(3), x(3), num_groups=3, opset=18),
    case("MeanVarianceNormalization", x(2, 3, 4, 5)),
    case("LayerNormalization", x(2, 3, 8), x(8), x(8)),
    case("LayerNormalization", x(2, 3, 8), x(3, 8), axis=1, epsilon=0.1),
    case("LayerNormalization", x(2, 3, 8), x(8), x(8), outputs=3),
    case("RMSNormalization", x(2, 3, 8), x(8), opset=23),
    case("SimplifiedLayerNormalization", x(2, 3, 8), x(8)),
    case("SimplifiedLayerNormalization", x(2, 3, 8), x(8), outputs=2),
    case(f"{MS}:SkipLayerNormalization", x(2, 3, 8), x(2, 3, 8), x(8), x(8), x(8)),
    case(f"{MS}:SkipLayerNormalization", x(2, 3, 8), x(2, 3, 8), x(8), x(8)),
    case(f"{MS}:SkipSimplifiedLayerNormalization", x(2, 3, 8), x(2, 3, 8), x(8), x(8)),
    case("LpNormalization", x(3, 4), axis=0, p=1),
    case("LpNormalization", x(3, 4)),
    case("LRN", x(2, 7, 3, 2), size=3, alpha=0.5, beta=0.6, bias=1.5),
    case("Softmax", x(2, 3, 4)),
    case("Softmax", x(2, 3, 4), axis=1),
    case("Softmax", x(2, 3, 4), opset=11),
    case("LogSoftmax", x(2, 3, 4), axis=2, opset=11),
    case("LogSoftmax", x(2, 3, 4), axis=0),
    case("Dropout", x(2, 3), outputs=2),
    case("Dropout", x(2, 3), opset=7, ratio=0.3),
    case(f"{MS}:EmbedLayerNormalization", i(0, 9, 2, 4, dtype="int32"), i(0, 2, 2, 4, dtype="int32"), x(9, 8), x(5, 8),
         x(2, 8), x(8), x(8), np.array([[1, 1, 1, 0], [1, 1, 1, 1]], "int32"), outputs=2),
    case(f"{MS}:EmbedLayerNormalization", i(0, 9, 2, 4, dtype="int32"), None, x(9, 8), x(5, 8), None, x(8), x(8),
         outputs=2),
]  # fmt: skip

_SUMS = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
REDUCTIONS = [
    *(case(f"Reduce{name}", x(2, 3, 4), n(0, -1), opset=20) for name in _SUMS),
    *(case(f"Reduce{name}", x(2, 3, 4), axes=[1], keepdims=0, opset=11) for name in _SUMS),
    *(case(f"Reduce{name}", x(2, 3, 4), opset=12) for name in _SUMS),
    case("ReduceLogSum", p(2, 3), n(1), opset=18),
    case("ReduceSum", x(2, 3), n(), noop_with_empty_axes=1),
    case("ReduceSum", x(2, 3), None, keepdims=0),
    case("ReduceSum", i(0, 5, 2, 3, dtype="int32"), n(1)),
    case("ReduceMax", i(0, 5, 2, 3), n(1)),
    case("ArgMax", x(3, 4)),
    case("ArgMax", i(0, 2, 3, 6), axis=1, keepdims=0, select_last_index=1),
    case("ArgMin", i(0, 2, 3, 6), axis=-1),
]

_H = 8  # channels of all heads
PRODUCTS = [
    case("MatMul", x(2, 3, 4), x(4, 5)),
    case("MatMul", x(4), x(2, 4, 5)),
    case("MatMul", i(0, 9, 2, 3), i(0, 9, 3, 2)),
    case("Gemm", x(3, 4), x(4, 5)),
    case("Gemm", x(4, 3), x(5, 4), x(5), transA=1, transB=1, alpha=0.5, beta=2.0),
    case("Gemm", x(3, 4), x(4, 5), x(3, 1)),
    case("Einsum", x(2, 3, 4), x(2, 4, 5), equation="bij, bjk -> bik"),
    case("Einsum", x(2, 3, 4), x(5, 4), equation="...d,hd->...h"),
    case(f"{MS}:FusedMatMul", x(2, 4, 3), x(2, 5, 4), transA=1, transB=1, alpha=0.25),
]

_MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], "int32")
_QKV = (x(2, 3, _H), x(2, 5, _H), x(2, 5, _H))


def _table(positions: int, pairs: int) -> tuple[Array, Array]:
    """Cosines and sines of angles."""
    angles = np.arange(positions)[:, None] / 10 ** (np.arange(pairs)[None] / pairs)
    return np.cos(angles).astype("float32"), np.sin(angles).astype("float32")


_COS, _SIN = _table(16, 4)
_WIDE_COS, _WIDE_SIN = _table(16, 8)
_GROUPED = {"num_heads": 4, "kv_num_heads": 2}


def _grouped(
    length: int, past: int, lengths: Sequence[int], *, rotary: bool = True, bias: bool = False
) -> list[Array | None]:
    """Inputs of attention with 4 heads of 16 channels that share 2 keys."""
    batch, total = len(lengths), length + past
    cached: list[Array | None] = [x(batch, 2, past, 16), x(batch, 2, past, 16)]
    tables: list[Array | None] = [_WIDE_COS, _WIDE_SIN] if rotary else [None, None]
    return [
        x(batch, length, 64), x(batch, length, 32), x(batch, length, 32), *cached,
        np.array(lengths, "int32") - 1, np.array(total, "int32"), *tables,
        *([None, x(batch, 1, length, total)] if bias else []),
    ]  # fmt: skip


ATTENTION = [
    case(f"{MS}:MultiHeadAttention", *_QKV, num_heads=2),
    case(f"{MS}:MultiHeadAttention", *_QKV, x(3 * _H), num_heads=2, scale=0.3),
    case(f"{MS}:MultiHeadAttention", *_QKV, None, _MASK, num_heads=2),
    case(f"{MS}:MultiHeadAttention", *_QKV, None, None, x(2, 2, 3, 5), num_heads=2),
    case(f"{MS}:MultiHeadAttention", *_QKV, None, _MASK, x(1, 2, 3, 5), num_heads=2, mask_filter_value=-50.0),
    case(f"{MS}:MultiHeadAttention", x(2, 4, _H), x(2, 4, _H), x(2, 4, _H), num_heads=2, unidirectional=1),
    case(f"{MS}:MultiHeadAttention", x(2, 3, _H), x(2, 3, _H), x(2, 3, _H), None, None, None, x(2, 2, 4, 4), x(2, 2, 4, 4),
         num_heads=2, outputs=3),
    case(f"{MS}:Attention", x(2, 4, 6), x(6, 24), x(24), num_heads=2),
    case(f"{MS}:Attention", x(2, 4, 6), x(6, 24), x(24), np.array([3, 4], "int32"), num_heads=2),
    case(f"{MS}:Attention", x(2, 4, 6), x(6, 24), x(24), None, x(2, 2, 2, 3, 4), num_heads=2, unidirectional=1, outputs=2),
    case(f"{MS}:RotaryEmbedding", x(2, 3, 16), i(0, 16, 2, 3), _COS, _SIN),
    case(f"{MS}:RotaryEmbedding", x(2, 3, 16), n(2), _COS, _SIN, interleaved=1),
    case(f"{MS}:RotaryEmbedding", x(2, 2, 3, 8), n(2), _COS, _SIN),
    case(f"{MS}:RotaryEmbedding", x(2, 3, 32), n(2), _COS, _SIN, num_heads=2, rotary_embedding_dim=8),
    case("RotaryEmbedding", x(2, 3, 16), _COS, _SIN, i(0, 16, 2, 3), num_heads=2, opset=23),
    case("RotaryEmbedding", x(2, 2, 3, 8), x(2, 3, 4), x(2, 3, 4), interleaved=1, opset=23),
    case(f"{MS}:GroupQueryAttention", *_grouped(5, 0, [5, 5]), do_rotary=1, outputs=3, **_GROUPED),
    case(f"{MS}:GroupQueryAttention", *_grouped(5, 0, [5, 5], bias=True), do_rotary=1, outputs=3, **_GROUPED),
    case(f"{MS}:GroupQueryAttention", *_grouped(1, 6, [7, 7]), do_rotary=1, outputs=3, rotary_interleaved=1, **_GROUPED),
    case(f"{MS}:GroupQueryAttention", *_grouped(3, 4, [7]), do_rotary=1, outputs=3, softcap=2.0, **_GROUPED),
    case(f"{MS}:GroupQueryAttention", *_grouped(6, 0, [6], rotary=False), outputs=3, local_window_size=3, scale=0.2,
         **_GROUPED),
    case(f"{MS}:GroupQueryAttention", x(2, 5, 128), None, None, *_grouped(5, 0, [5, 5])[3:], do_rotary=1, outputs=3,
         **_GROUPED),
    case("Attention", x(2, 3, _H), x(2, 5, _H), x(2, 5, _H), q_num_heads=2, kv_num_heads=2, opset=23),
    case("Attention", x(2, 4, 3, 4), x(2, 2, 5, 4), x(2, 2, 5, 6), x(3, 5), softcap=1.5, scale=0.4, opset=23),
    case("Attention", x(2, 4, 3, 4), x(2, 4, 3, 4), x(2, 4, 3, 4), is_causal=1, opset=23),
    case("Attention", x(2, 2, 3, 4), x(2, 2, 3, 4), x(2, 2, 3, 4), np.tri(3, 5, 2).astype(bool), x(2, 2, 2, 4), x(2, 2, 2, 4),
         outputs=3, opset=23),
]  # fmt: skip


def _recurrent(op: str, directions: int, *, time: int = 5, batch: int = 2, bias: bool = True) -> list[Array | None]:
    """Input and weights of a layer of 3 inputs and 4 hidden units."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    biases = x(directions, 8 * gates) if bias else None
    return [x(time, batch, 3), x(directions, 4 * gates, 3), x(directions, 4 * gates, 4), biases]


_LENGTHS = np.array([5, 3], "int32")
RECURRENT = [
    *(
        case(op, *_recurrent(op, 1), hidden_size=4, direction=direction, outputs=2)
        for op in ("LSTM", "GRU", "RNN")
        for direction in ("forward", "reverse")
    ),
    *(case(op, *_recurrent(op, 2), hidden_size=4, direction="bidirectional", outputs=2) for op in ("LSTM", "GRU", "RNN")),
    *(
        case(op, *_recurrent(op, 2), _LENGTHS, x(2, 2, 4), hidden_size=4, direction="bidirectional", outputs=2)
        for op in ("LSTM", "GRU", "RNN")
    ),
    case("LSTM", *_recurrent("LSTM", 1), None, x(1, 2, 4), x(1, 2, 4), hidden_size=4, outputs=3),
    case("LSTM", *_recurrent("LSTM", 1), None, None, None, x(1, 12), hidden_size=4, outputs=3),
    case("LSTM", *_recurrent("LSTM", 1, bias=False), hidden_size=4, clip=0.5, outputs=3),
    case("LSTM", *_recurrent("LSTM", 1), hidden_size=4, input_forget=1),
    case("LSTM", *_recurrent("LSTM", 1), hidden_size=4, activations=["HardSigmoid", "Softsign", "Tanh"],
         activation_alpha=[0.3], activation_beta=[0.4]),
    case("GRU", *_recurrent("GRU", 1), hidden_size=4, linear_before_reset=1, outputs=2),
    case("GRU", *_recurrent("GRU", 2), None, x(2, 2, 4), hidden_size=4, linear_before_reset=1, direction="bidirectional",
         outputs=2),
    case("GRU", *_recurrent("GRU", 1), hidden_size=4, activations=["Sigmoid", "Relu"]),
    case("RNN", *_recurrent("RNN", 1), hidden_size=4, activations=["Relu"], opset=14),
]  # fmt: skip

_SCALE = s(0.02, "float32")
CODES = [
    case("QuantizeLinear", x(3, 4), _SCALE),
    case("QuantizeLinear", x(3, 4), _SCALE, s(3, "int8"), opset=13),
    case("QuantizeLinear", x(3, 4), p(4) / 50, codes(0, 9, 4)),
    case("QuantizeLinear", x(3, 4), p(3) / 50, codes(0, 9, 3), axis=0),
    case("QuantizeLinear", x(4, 6), p(4, 2) / 50, codes(0, 9, 4, 2), axis=1, block_size=3),
    case("DequantizeLinear", codes(0, 255, 3, 4), _SCALE, s(3, "uint8")),
    case("DequantizeLinear", codes(-128, 127, 3, 4, dtype="int8"), p(3), axis=0),
    case("DequantizeLinear", codes(-99, 99, 4, dtype="int32"), p(4), axis=0),
    case("DequantizeLinear", codes(0, 255, 4, 6), p(2, 6), codes(0, 9, 2, 6), axis=0, block_size=2),
    case("DynamicQuantizeLinear", x(3, 4), outputs=3),
    case("DynamicQuantizeLinear", np.zeros((3, 4), "float32"), outputs=3),
    case("MatMulInteger", codes(0, 255, 3, 4), codes(-128, 127, 4, 5, dtype="int8")),
    case("MatMulInteger", codes(0, 255, 3, 4), codes(0, 255, 4, 5), s(7, "uint8"), codes(0, 9, 5)),
    case("ConvInteger", codes(0, 255, 1, 2, 5, 5), codes(0, 255, 3, 2, 3, 3), s(7, "uint8"), s(9, "uint8"),
         pads=[1, 1, 1, 1]),
    case(f"{MS}:DynamicQuantizeMatMul", x(3, 4), codes(0, 255, 4, 5), p(5), codes(0, 9, 5), x(5)),
    case(f"{MS}:MatMulIntegerToFloat", codes(0, 255, 3, 4), codes(0, 255, 4, 5), s(0.1, "float32"), p(5), s(3, "uint8"),
         codes(0, 9, 5), x(5)),
]  # fmt: skip

ELEMENTS = [
    *(
        case(op, x(3, 4), opset=opset)
        for op, opset in [
            ("Abs", 21), ("Ceil", 21), ("Cos", 21), ("Erf", 21), ("Exp", 21), ("Floor", 21), ("HardSwish", 21),
            ("Identity", 21), ("IsNaN", 21), ("Mish", 21), ("Neg", 21), ("Reciprocal", 21), ("Relu", 21), ("Round", 21),
            ("Sigmoid", 21), ("Sign", 21), ("Sin", 21), ("Softplus", 21), ("Softsign", 21), ("Tanh", 21), ("Gelu", 21),
            ("Elu", 21), ("Selu", 21), ("HardSigmoid", 21), ("ThresholdedRelu", 21), ("LeakyRelu", 21), (f"{MS}:Gelu", 21),
            (f"{MS}:QuickGelu", 21), (f"{MS}:FastGelu", 21), ("Celu", 21), ("Atan", 21), ("Asinh", 21), ("Cosh", 21),
            ("Sinh", 21), ("Tan", 21),
        ]
    ),
    *(case(op, x(3, 4) / 9) for op in ("Acos", "Asin", "Atanh")),
    case("Acosh", p(3, 4) + 1),
    case("Shrink", x(3, 4), lambd=0.3, bias=0.1),
    case(f"{MS}:FastGelu", x(3, 4), x(4)),
    case("Log", p(3, 4)),
    case("Sqrt", p(3, 4)),
    *(case(op, x(3, 4), x(4)) for op in ("Add", "Sub", "Mul", "Div", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")),
    *(case(op, b(3, 4), b(4)) for op in ("And", "Or", "Xor")),
    case("Not", b(3, 4)),
    case("Equal", i(0, 3, 3, 4), i(0, 3, 4)),
    case("Div", i(-9, 9, 3, 4), n(-2, 3, 4, -5)),
    case("Mod", i(-9, 9, 3, 4), n(-2, 3, 4, -5)),
    case("Mod", x(3, 4), x(4), fmod=1),
    case("Pow", p(3, 4), p(4)),
    case("Pow", x(3, 4), s(2, "float32")),
    case("Pow", i(0, 5, 3), s(2)),
    *(case(op, x(3, 4), x(4), x(3, 1)) for op in ("Sum", "Mean", "Max", "Min")),
    case("Where", b(3, 4), x(3, 1), x(4)),
    case("Clip", x(3, 4), s(-0.5, "float32"), s(0.5, "float32")),
    case("Clip", x(3, 4), None, s(0.5, "float32")),
    case("Clip", x(3, 4), min=-0.5, max=0.3, opset=7),
    case("PRelu", x(3, 4), x(4)),
    case(f"{MS}:BiasGelu", x(3, 4), x(4)),
    case("Gelu", x(3, 4), approximate="tanh"),
    case("Cast", x(3, 4), to=int(onnx.TensorProto.INT32)),
    case("CastLike", i(0, 9, 3), x(1)),
]  # fmt: skip

CASES = [
    *CONVOLUTIONS, *SHAPES, *INDICES, *FILLING, *RESIZES, *NORMS, *REDUCTIONS, *PRODUCTS, *ATTENTION, *RECURRENT, *CODES,
    *ELEMENTS,
]  # fmt: skip
