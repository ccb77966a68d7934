"""Generated networks with the habits of exporters: a good verdict, a smaller file, no weight stored twice."""

from __future__ import annotations

from collections import Counter

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from zoo.catalogue import models

import onnxquant

BY_NAME = {model.name: model for model in models()}
# A spread: each kind of network and each habit once, the modes in turn.
DEFAULT = [
    "vit-float16_storage",
    "resnet-opset9",
    "vad-branch",
    "lora",
    "merged_decoder",
    "loop",
    "experts",
    "heads",
    "weight_norm",
]
FOUR_BITS = [
    "vit-fixed",
    "decoder-identity",
    "mlp-transposed",
    "translator-shapes",
    "wide_and_deep",
    "speech_synthesis",
]
DYNAMIC = ["tied_lm-identity", "conformer", "unrolled_gru", "swin-float16_storage", "graph_network"]
STATIC = ["mlp_leaky", "text_cnn-opset10", "keras-constants", "siamese-identity"]
CASES = [
    *((name, {"format": "int8"}) for name in DEFAULT),
    *((name, {"format": "q4_0" if i % 2 else "int4"}) for i, name in enumerate(FOUR_BITS)),
    *((name, {"activations": "dynamic"}) for name in DYNAMIC),
    *((name, {"activations": "static", "calibration_method": "minmax", "smooth": False}) for name in STATIC),
]

def cases():
    """Networks and options."""
    for name, options in CASES:
        yield pytest.param(BY_NAME[name], options, id=f"{name}-{options.get('activations', options.get('format', 'int8'))}")


def stored(path) -> list[bytes]:
    """Contents of all large constants, those of nested graphs and Constant nodes included."""

    def inside(graph):
        yield from graph.initializer
        for attribute in (a for node in graph.node for a in node.attribute):
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from inside(attribute.g)

    arrays = (onnx.numpy_helper.to_array(t) for t in inside(onnx.load(path).graph))
    return [a.tobytes() for a in arrays if a.size >= 512 and np.unique(a).size > 1]


@pytest.mark.parametrize(("network", "options"), list(cases()))
def test_what_was_never_tuned_for_converts_and_shrinks(network, options, tmp_path):
    case = network.build()
    path, output = graphs.save(case.proto, tmp_path / "model.onnx"), tmp_path / "quantized.onnx"
    samples = case.samples(3)

    report = onnxquant.quantize(path, output, data=samples, samples=2, threads=1, **options)

    assert report.problems == []
    assert report.encoded
    assert output.stat().st_size < path.stat().st_size
    assert max(Counter(stored(output)).values()) == 1
    session = ort.InferenceSession(output, providers=["CPUExecutionProvider"])
    assert all(np.isfinite(value.astype(np.float64)).all() for value in session.run(None, samples[-1]))


def test_the_zoo_covers_networks_and_habits():
    assert len(BY_NAME) >= 150
    assert {9, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21} <= {model.opset for model in BY_NAME.values()}
