"""Facts about outputs that the graph tells: what makes them, and what reads them."""

from __future__ import annotations

import onnx
import pytest

from onnxquant.graph.analysis.heads import heads_of
from onnxquant.numerics.classes import Heads

Y = frozenset({"y"})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = Sigmoid (x)", Heads(sigmoids=Y)),
        ("a = Sigmoid (x) b = Identity (a) y = Unsqueeze (b, axes)", Heads(sigmoids=Y)),
        ("a = Sigmoid (x) y = Mul (a, a)", Heads()),
        ("y = Relu (x) z = Sigmoid (y)", Heads(logits=Y)),
        ("y = Relu (x) z = ArgMax <axis = 1> (y)", Heads(classes=Y)),
        ("y = Relu (x) z = ArgMax <axis = 0> (y)", Heads()),
        ("y = Relu (x) z = Softmax (y)", Heads(classes=Y)),
        ("y = Relu (x)", Heads()),
    ],
)
def test_nodes_beside_an_output_tell_what_it_is(text: str, expected: Heads) -> None:
    model = onnx.parser.parse_model(
        f"<ir_version: 8, opset_import: ['' : 17]> g (float[N, 4] x) => (float[N, 4] y) "
        f"<int64[1] axes = {{-1}}> {{ {text} }}".replace("'", '"')
    )
    assert heads_of(model) == expected
