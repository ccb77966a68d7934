"""Graphs that older releases of onnxruntime get wrong are not written."""

from __future__ import annotations

import graphs
import onnx
import onnx.inliner
import pytest

import onnxquant


@pytest.mark.parametrize("trans_b", [0, 1])
def test_no_transpose_feeds_a_gemm(trans_b, tmp_path):
    """Up to 1.29 it becomes transB, also where it leaves the axes as they are (GemmTransposeFusion)."""
    source = graphs.save(graphs.gemm(64, 10, trans_b=trans_b), tmp_path / "float.onnx")
    onnxquant.quantize(source, tmp_path / "q.onnx", format="q5_0", target="auto", proof=False)
    inlined = onnx.inliner.inline_local_functions(onnx.load(tmp_path / "q.onnx"))
    producer = {n.output[0]: n for n in inlined.graph.node}
    (gemm,) = (n for n in inlined.graph.node if n.op_type == "Gemm")
    weight = producer[gemm.input[1]]
    while weight.op_type in ("Cast", "Identity"):  # which onnxruntime removes before it looks
        weight = producer[weight.input[0]]
    assert weight.op_type == "Reshape"
