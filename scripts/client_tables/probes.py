"""Small models, each with one thing that a release of onnxruntime may not take.

Names of those that are about attributes are ``DOMAIN+OPERATOR+ATTRIBUTE=VALUE,...+TYPE+...``; value 0 stands for any.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

ROWS, COLS = 64, 256
OPSETS, IR_VERSIONS = range(13, 29), range(8, 15)
BITS, BLOCKS = (2, 4, 8), (16, 32, 64, 128, 256)
# Products with activations of 8 bits.
INT8_LEVEL = 4


def write(folder: Path) -> None:
    """Write every probe as NAME.onnx; parts of a name are divided by ``+``."""
    for name, model in probes():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def probes() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Probes by name."""
    add = helper.make_node("Add", ["x", "x"], ["y"])
    for opset in OPSETS:
        yield f"opset+{opset}", _model([add], opset=opset)
    for version in IR_VERSIONS:
        model = _model([add])
        model.ir_version = version
        yield f"ir+{version}", model
    for bits in BITS:
        for block in BLOCKS:
            for kind in (np.float32, np.float16) if block == 32 else (np.float32,):
                name = "float16" if kind is np.float16 else "float"
                for level, setting in ((0, ""), (INT8_LEVEL, f",accuracy_level={INT8_LEVEL}")):
                    yield (
                        f"com.microsoft+MatMulNBits+bits={bits}{setting}+{name}+{block}",
                        _product(bits, block, kind, level),
                    )
        yield f"com.microsoft+GatherBlockQuantized+bits={bits}+float", _lookup(bits)
    yield "+DequantizeLinear+block_size=0+float", _decoded_blocks()


def _model(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray] | None = None, opset: int = 17,
    kind: int = TensorProto.FLOAT, shape: tuple[int, ...] = (1, COLS),
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(
        nodes, "probe", [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind if kind != TensorProto.INT64 else TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _codes(bits: int, block: int) -> np.ndarray:
    return np.zeros((ROWS, COLS // block, block * bits // 8), np.uint8)


def _product(bits: int, block: int, kind: type[np.floating], level: int) -> onnx.ModelProto:
    node = helper.make_node(
        "MatMulNBits", ["x", "codes", "scales"], ["y"], domain="com.microsoft", K=COLS, N=ROWS, bits=bits, block_size=block
    )
    if level:
        node.attribute.append(helper.make_attribute("accuracy_level", level))
    constants = {"codes": _codes(bits, block), "scales": np.ones(ROWS * (COLS // block), kind)}
    return _model([node], constants, kind=TensorProto.FLOAT if kind is np.float32 else TensorProto.FLOAT16)


def _lookup(bits: int, block: int = 32) -> onnx.ModelProto:
    node = helper.make_node(
        "GatherBlockQuantized", ["codes", "x", "scales"], ["y"], domain="com.microsoft", bits=bits, block_size=block,
        gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    constants = {"codes": _codes(bits, block).reshape(ROWS, -1), "scales": np.ones((ROWS, COLS // block), np.float32)}
    return _model([node], constants, kind=TensorProto.INT64, shape=(1, 4))


def _decoded_blocks() -> onnx.ModelProto:
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["weight"], axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    codes, scales = np.zeros((COLS, ROWS), np.int8), np.ones((COLS // 32, ROWS), np.float32)
    model = _model(nodes, {"codes": codes, "scales": scales}, opset=21)
    model.ir_version = 10
    return model
