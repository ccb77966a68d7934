"""Operator DynamicProducts beside DynamicQuantizeMatMul: odd shapes, special values, threads; bad nodes are refused."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from test_threads import at_once

from onnxquant.native import library as native

# Elsewhere the operator is not registered, and bodies run.
pytestmark = pytest.mark.skipif("amx" not in native.isas(), reason="no matrix registers")

WORDS = [1, 2, 3, 4, 0]


def constants(length, channels, seed=0):
    random = np.random.default_rng(seed)
    return {
        "weights": random.integers(-127, 128, (length, channels), np.int8),
        "scales": (random.random(channels) / 100).astype(np.float32),
        "zeros": np.zeros(channels, np.int8),
        "bias": random.standard_normal(channels).astype(np.float32),
    }


def session(op, values, *, domain="onnxquant", threads=1, outputs=1, **attributes):
    node = helper.make_node(op, ["X", *values], [f"Y{i}" for i in range(outputs)], domain=domain, **attributes)
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("X", 1, None)],
        [helper.make_tensor_value_info(f"Y{i}", 1, None) for i in range(outputs)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("onnxquant", 1), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(native.library_path()))
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def ours(values, words=WORDS, **options):
    return session("DynamicProducts1", values, products=words, **options)


def onnxruntimes(values):
    return session("DynamicQuantizeMatMul", values, domain="com.microsoft")


@pytest.fixture(params=native.isas())
def isa(request):
    native.set_isa(request.param)
    yield request.param
    native.set_isa("")


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (2, 3, 65), (17, 63), (1, 200, 7), (0, 8)])
@pytest.mark.parametrize("channels", [1, 200])
def test_products_are_onnxruntimes(isa, shape, channels):
    values = constants(shape[-1], channels)
    one, other = ours(values), onnxruntimes(values)
    for ends in ((-1, 2), (0.5, 3), (-3, -0.5), (0, 0)):  # zero points between, 0, 255; and no range
        x = np.random.default_rng(1).uniform(*ends, shape).astype(np.float32)
        expected = other.run(None, {"X": x})[0]
        np.testing.assert_allclose(one.run(None, {"X": x})[0], expected, rtol=1e-6, atol=1e-6)


def test_one_scale_and_no_bias(isa):
    values = constants(40, 33)
    del values["bias"]
    values["scales"], values["zeros"] = np.float32(0.01), np.int8(0)
    x = np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    expected = onnxruntimes(values).run(None, {"X": x})[0]
    for words in ([1, 2, 3, -1, 0], [1, 2, -1, -1, 0]):
        np.testing.assert_allclose(ours(values, words).run(None, {"X": x})[0], expected, rtol=1e-6, atol=1e-6)


def test_numbers_that_are_none_do_not_count(isa):
    """Their code is 0, the lowest one, as onnxruntime rounds them; others keep their range."""
    values = constants(40, 33)
    x = np.random.default_rng(1).standard_normal((5, 40)).astype(np.float32)
    x[2, 7] = x[4, 39] = x.min()
    spoiled = x.copy()
    spoiled[2, 7] = spoiled[4, 39] = np.nan
    np.testing.assert_array_equal(*(ours(values).run(None, {"X": one})[0] for one in (spoiled, x)))


@pytest.mark.parametrize("rows", [3, 70])
def test_sets_and_threads_and_callers_get_the_same_bits(rows):
    values = constants(130, 205)
    x = np.random.default_rng(1).standard_normal((rows, 130)).astype(np.float32)
    words = [*WORDS[:4], 2, *WORDS[:4], 1]
    expected = ours(values, words, outputs=2).run(None, {"X": x})
    for name in native.isas():
        native.set_isa(name)
        several = ours(values, words, outputs=2, threads=3)

        def work(_, several=several):
            for one, other in zip(several.run(None, {"X": x}), expected, strict=True):
                np.testing.assert_array_equal(one, other)

        at_once(3, work)
    native.set_isa("")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([1, 2, 3, 4], "4 numbers for 1 outputs"),
        ([0, 2, 3, 4, 0], "weights are input 0"),
        ([9, 2, 3, 4, 0], "weights are input 9 of 5"),
        ([2, 2, 3, 4, 0], "weights have another type"),
        ([3, 2, 3, 4, 0], "weights have 1 dimensions"),
        ([1, 1, 3, 4, 0], "scales have another type"),
        ([1, 2, 1, 4, 0], "expected 0"),
        ([1, 2, 3, 3, 0], "biases have another type"),
        ([1, 2, 3, 4, 3], "activation 3"),
        ([1, 2, 3, 4, -1], "activation -1"),
    ],
)
def test_bad_nodes_are_refused(words, message):
    with pytest.raises(Exception, match="onnxquant::DynamicProducts1: .*" + message):
        ours(constants(8, 16), words)


def test_inputs_and_constants_of_other_sizes_are_refused():
    values = constants(8, 16)
    with pytest.raises(Exception, match="last dimension is 9, expected 8"):
        ours(values).run(None, {"X": np.zeros((2, 9), np.float32)})
    with pytest.raises(Exception, match="neither one nor one for each"):
        ours({**values, "scales": values["scales"][:3]})
    with pytest.raises(Exception, match="biases are not one for each"):
        ours({**values, "bias": values["bias"][:3]})
