"""What ``info`` says of files that other tools made: onnxruntime's own quantizers, and their ops by hand."""

from __future__ import annotations

from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from commands import run
from graphs import node
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from onnxquant import info

ROWS, COLS = 64, 96


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A lookup, a product and a convolution."""
    nodes = [
        node("Gather", ["table", "ids"], ["words"], name="embed"),
        node("MatMul", ["words", "w"], ["h"], name="product"),
        node("Unsqueeze", ["h", "one"], ["image"]),
        node("Conv", ["image", "kernel"], ["y"], name="conv"),
    ]
    constants = {
        "table": graphs.weight(300, ROWS), "w": graphs.weight(ROWS, COLS, seed=1), "one": np.array([1], np.int64),
        "kernel": graphs.weight(8, 1, 3, 3, seed=2),
    }  # fmt: skip
    proto = graphs.model(nodes, {"ids": ("int64", [1, 12])}, {"y": "float32"}, constants)
    return graphs.save(proto, tmp_path / "m.onnx")


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self._feeds = iter([{"ids": np.arange(12)[None]}] * 2)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def described(path: Path) -> dict[tuple[str, str], tuple[list[int], int | None, int | None]]:
    """Shape, bits and block of each encoded weight by op and format."""
    return {(t.target, t.format): (t.shape, t.bits, t.block_size) for t in info(path).tensors}


def test_products_and_lookups_in_blocks(model: Path, tmp_path: Path) -> None:
    quantizer = MatMulNBitsQuantizer(
        onnx.load(model), bits=4, block_size=32, op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )  # fmt: skip
    quantizer.process()
    quantizer.model.save_model_to_file(str(tmp_path / "n.onnx"))
    weights = described(tmp_path / "n.onnx")
    assert weights["MatMulNBits", "int4"] == ([COLS, ROWS], 4, 32)
    assert weights["GatherBlockQuantized", "int4"][1:] == (4, 32)
    assert np.prod(weights["GatherBlockQuantized", "int4"][0]) == 300 * ROWS
    contents = info(tmp_path / "n.onnx")
    assert contents.weights_encoded == 300 * ROWS + ROWS * COLS and contents.weights_encoded + 72 == contents.weights
    assert contents.original_bytes == pytest.approx(model.stat().st_size, rel=0.05)
    assert 4.5 <= contents.bits_per_weight <= 6 and contents.quantized_by is None


def test_products_of_dynamic_activations(model: Path, tmp_path: Path) -> None:
    quantize_dynamic(model, tmp_path / "d.onnx", weight_type=QuantType.QInt8)
    assert described(tmp_path / "d.onnx")["MatMulInteger", "int8"] == ([ROWS, COLS], 8, None)
    (note,) = info(tmp_path / "d.onnx").notes
    assert note.startswith("quantized by another tool; ") and "DynamicQuantizeLinear round values" in note


def test_conversions_around_every_op(model: Path, tmp_path: Path) -> None:
    quantize_static(model, tmp_path / "s.onnx", Reader(), per_channel=True)
    tensors = {t.name: t for t in info(tmp_path / "s.onnx").tensors}
    assert {t.target for t in tensors.values()} == {"DequantizeLinear"}
    assert sorted(t.shape for t in tensors.values()) == [[8, 1, 3, 3], [ROWS, COLS], [300, ROWS]]
    w = next(t for t in tensors.values() if t.shape == [ROWS, COLS])
    assert w.float_bytes == 4 * ROWS * COLS and w.bytes == ROWS * COLS + 5 * COLS and w.bits == 8
    shown = run("info", tmp_path / "s.onnx").output
    assert "quantized by another tool" in shown and "DequantizeLinear" in shown


def test_a_float_model_has_no_encoded_weights(model: Path) -> None:
    contents = info(model)
    assert contents.tensors == [] and contents.notes is None and contents.compression_ratio == 1
