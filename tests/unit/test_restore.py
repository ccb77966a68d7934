"""The float model that a quantized file stands for."""

from __future__ import annotations

from pathlib import Path

import graphs
import onnx
import pytest

import onnxquant
from onnxquant.graph.names import SITE


@pytest.mark.parametrize("target", ["onnx", "ort", "custom"])
def test_nodes_of_lowering_go_and_unread_nodes_of_an_exporter_stay(target: str, tmp_path: Path) -> None:
    proto = graphs.matmul(64, 64, opset=21)
    unread = onnx.helper.make_node("Relu", [proto.graph.input[0].name], ["unread"], name="of the exporter")
    unread.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="encoder")
    proto.graph.node.append(unread)
    source = graphs.save(proto, tmp_path / "model.onnx")
    onnxquant.quantize(source, tmp_path / "q.onnx", format="q4_0", target=target, proof=False)
    quantized = onnx.load(tmp_path / "q.onnx")
    assert any(e.key == SITE for n in quantized.graph.node for e in n.metadata_props)
    onnxquant.dequantize(tmp_path / "q.onnx", tmp_path / "f.onnx")
    restored = onnx.load(tmp_path / "f.onnx")
    assert [n.name for n in restored.graph.node if n.metadata_props] == ["of the exporter"]


def test_the_value_of_an_input_that_nothing_reads_stays(tmp_path: Path) -> None:
    proto = graphs.matmul(64, 64)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, [3]))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(graphs.weight(3), "scale"))
    onnxquant.quantize(graphs.save(proto, tmp_path / "model.onnx"), tmp_path / "q.onnx", proof=False)
    onnxquant.dequantize(tmp_path / "q.onnx", tmp_path / "f.onnx")
    restored = onnx.load(tmp_path / "f.onnx").graph
    assert "scale" in {i.name for i in restored.input} & {t.name for t in restored.initializer}
