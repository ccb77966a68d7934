"""Operator IntegerNetwork: invalid programs end in a message; threads, callers and pads."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from test_threads import at_once

from onnxquant.native import library as native

# Elsewhere the operator is not registered, and bodies run.
pytestmark = pytest.mark.skipif(
    not {"avxvnni", "avx512vnni", "amx"} & set(native.isas()), reason="no instruction set on which networks are faster"
)

CONVOLVE, MAP, ADD, AVERAGE, MAX_POOL, AVERAGE_POOL, CONCAT, RESIZE, SLICE = 1, 2, 3, 5, 6, 7, 8, 9, 10
# Constants of a convolution; the scale and zero point of the output are those of the input.
CONSTANTS = {
    "weight": np.ones((4, 3, 3, 3), np.int8),
    "bias": np.zeros(4, np.int32),
    "scale": np.float32(0.5),
    "zero": np.uint8(3),
    "scales": np.ones(4, np.float32),
}
PLACES = {name: 1 + i for i, name in enumerate(CONSTANTS)}
WINDOW = [1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1]


def words(kind, tensors, constants, numbers):
    """A step as integers."""
    return [kind, len(tensors), *tensors, len(constants), *constants, len(numbers), *numbers]


def convolve(*, window=WINDOW, clamp=(0, 255), **other):
    places = {**PLACES, "y_scale": PLACES["scale"], "y_zero": PLACES["zero"], **other}
    names = ("weight", "bias", "scale", "zero", "scales", "y_scale", "y_zero")
    return words(CONVOLVE, [0], [places[name] for name in names], [*window, *clamp])


def session(program, *, constants=CONSTANTS, outputs=(1,), inputs=1, tables=None, made=1, dtype=np.uint8, threads=0):
    node = helper.make_node(
        "IntegerNetwork1", [*(f"X{i}" for i in range(max(inputs, 1))), *constants], [f"Y{i}" for i in range(made)],
        domain="onnxquant",
    )  # fmt: skip
    for name, value in {"inputs": inputs, "program": program, "outputs": list(outputs)}.items():
        node.attribute.append(helper.make_attribute(name, value, attr_type=None if value != [] else AttributeProto.INTS))
    if tables is not None:
        node.attribute.append(helper.make_attribute("tables", numpy_helper.from_array(tables, "tables")))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info(f"X{i}", kind, [None] * 4) for i in range(max(inputs, 1))],
        [helper.make_tensor_value_info(f"Y{i}", kind, [None] * 4) for i in range(made)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return opened_of(graph, threads)


def opened_of(graph, threads=0):
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("onnxquant", 1)]
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(native.library_path()))
    proto = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def image(channels=3, height=5, width=4, samples=1):
    return np.random.default_rng(0).integers(0, 256, (samples, channels, height, width), np.uint8)


def test_a_valid_program_runs():
    assert session(convolve()).run(None, {"X0": image()})[0].shape == (1, 4, 5, 4)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([], "no steps"),
        ([CONVOLVE], "middle of a step"),
        ([CONVOLVE, 5, 0], "list of 5"),
        ([CONVOLVE, -1], "list of -1"),
        ([99, 1, 0, 0, 0], "kind 99"),
        (words(MAP, [1], [], [0, 1]), "tensor 1"),
        (words(MAP, [-1], [], [0, 1]), "tensor -1"),
        (words(MAP, [0], [], [0, 1]), "tables 0 to 0 of 0"),
        (words(MAP, [0], [], [0]), "1 numbers"),
        (words(ADD, [0], [], [0, 255]), "'add' has 1 tensors"),
        (words(CONCAT, [], [], []), "'concat' has 0 tensors"),
        (words(RESIZE, [0], [], [0, 1]), "factors 0 and 1"),
        (words(RESIZE, [0], [], [1 << 62, 1]), "factors"),
        (convolve(weight=0), "input 0"),
        (convolve(weight=77), "input 77"),
        (convolve(bias=PLACES["scale"]), "bias of 1 for 4"),
        (convolve(zero=PLACES["scale"]), "wrong element type"),
        (convolve(scale=PLACES["scales"]), "4 values"),
        (convolve(weight=PLACES["scales"]), "wrong element type"),
        (convolve(window=[2, *WINDOW[1:]]), "2 groups of 3 channels"),
        (convolve(window=[3, *WINDOW[1:]]), "4 outputs in 3 groups"),
        (convolve(window=[0, *WINDOW[1:]]), "0 groups"),
        (convolve(window=[1, 5, 5, *WINDOW[3:]]), "another kernel"),
        (convolve(window=[1, 3, 3, 0, 1, *WINDOW[5:]]), "0 at place 2"),
        (convolve(window=[1, 3, 3, 1, 1, -1, *WINDOW[6:]]), "-1 at place 4"),
        (convolve(window=[1, 3, 3, 1, 17, *WINDOW[5:]]), "17 at place 3"),
        (convolve(weight=-(1 << 63)), "names input -9223372036854775808"),
        (convolve(clamp=(0, (1 << 63) - 1)), "9223372036854775807 is no code"),
        (convolve(window=[1, 3, 3, 1, 1, 1 << 40, *WINDOW[6:]]), "at place 4"),
        (convolve(clamp=(-1, 255)), "-1 is no code"),
        (convolve(clamp=(0, 256)), "256 is no code"),
    ],
)
def test_an_invalid_program_is_refused(program, message):
    with pytest.raises(Exception, match="onnxquant::IntegerNetwork1: .*" + message):
        session(program)


@pytest.mark.parametrize("outputs", [(0,), (2,), (-1,), (1, 1)])
def test_outputs_that_no_step_computes_are_refused(outputs):
    with pytest.raises(Exception, match=r"onnxquant::IntegerNetwork1: .*output"):
        session(convolve(), outputs=outputs)


def test_tables_of_another_shape_are_refused():
    with pytest.raises(Exception, match="tables is no uint8"):
        session(words(MAP, [0], [], [0, 1]), tables=np.zeros((1, 255), np.uint8))


@pytest.mark.parametrize(
    ("program", "inputs", "shapes", "message"),
    [
        (convolve(), 1, [(1, 2, 5, 5)], "3 channels reads 2"),
        (convolve(window=[1, 3, 3, 1, 1, 0, 0, 0, 0, 1, 1]), 1, [(1, 3, 2, 5)], "larger than its image"),
        (words(MAX_POOL, [0], [], [3, 3, 2, 2, 0, 0, 0, 0, 1, 1]), 1, [(1, 3, 1, 9)], "0 x 4 pixels"),
        (words(ADD, [0, 1], [4, 5] * 3, [0, 255]), 2, [(1, 3, 2, 2), (1, 3, 9, 9)], "sum of tensors of different"),
        (words(MAP, [0], [], [0, 2]), 1, [(1, 3, 2, 2)], "tables of 2 channels for 3"),
        (words(CONCAT, [0, 1], [], [-1, -1]), 2, [(1, 3, 2, 2), (1, 3, 2, 1)], "different sizes"),
        (words(CONCAT, [0, 1], [], [-1, -1]), 2, [(1, 3, 2, 2), (2, 3, 2, 2)], "1 and 2 samples"),
        (words(SLICE, [0], [], [1, 4]), 1, [(1, 3, 2, 2)], "1 to 4 of 3"),
        (words(RESIZE, [0], [], [64, 64]) + words(RESIZE, [1], [], [64, 64]) + words(RESIZE, [2], [], [64, 64]), 1,
         [(1, 3, 99, 99)], "pixels of"),
        (words(RESIZE, [0], [], [64, 64]) + words(RESIZE, [1], [], [64, 64]), 1, [(1, 3, 9, 9)], "too much"),
        (words(RESIZE, [0], [], [64, 32]) + words(MAX_POOL, [1], [], [999, 999, 1, 1, 499, 499, 499, 499, 1, 1]), 1,
         [(1, 3, 16, 16)], "seconds, which is too much"),
    ],
)  # fmt: skip
def test_inputs_of_wrong_sizes_are_refused(program, inputs, shapes, message):
    made = session(program, inputs=inputs, outputs=(inputs,), tables=np.zeros((2, 256), np.uint8))
    feeds = {f"X{i}": np.zeros(shape, np.uint8) for i, shape in enumerate(shapes)}
    with pytest.raises(Exception, match="onnxquant::IntegerNetwork1: .*" + message):
        made.run(None, feeds)


def test_threads_and_callers_get_the_same_bits():
    """Rows are shared by threads; each caller has memory of its own, for each size of inputs."""
    program = convolve() + words(MAX_POOL, [1], [], [3, 3, 1, 1, 1, 1, 1, 1, 1, 1])
    one, several = session(program, outputs=(2,), threads=1), session(program, outputs=(2,), threads=4)
    images = [image(height=40 + 31 * i, width=300 - 47 * i, samples=1 + i % 2) for i in range(6)]
    expected = [one.run(None, {"X0": x})[0] for x in images]

    def work(at):
        for i in range(at, at + 12):
            np.testing.assert_array_equal(several.run(None, {"X0": images[i % 6]})[0], expected[i % 6])

    at_once(6, work)


def test_the_sum_of_a_mean_may_exceed_32_bits():
    constants = {"x_scale": np.float32(1), "x_zero": np.uint8(0), "y_scale": np.float32(1), "y_zero": np.uint8(0)}
    program = words(AVERAGE, [0], [1, 2, 3, 4], [])
    x = np.full((1, 1, 3200, 3000), 251, np.uint8)
    assert session(program, constants=constants).run(None, {"X0": x})[0].item() == 251


def test_no_samples_give_no_samples():
    assert session(convolve()).run(None, {"X0": image(samples=0)})[0].shape == (0, 4, 5, 4)


def test_max_pool_ignores_pads():
    """The border of an image holds its zero point for convolutions, which a maximum must not see."""
    window = [3, 3, 1, 1, 1, 1, 1, 1, 1, 1]
    program = convolve() + words(MAX_POOL, [0], [], window)
    x = image() % 3  # below the zero point
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    expected = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2)).max((-1, -2))
    np.testing.assert_array_equal(session(program, outputs=(2,)).run(None, {"X0": x})[0][0], expected)


@pytest.mark.parametrize("shape", [(2, 2), (2, 7), (3, 9), (9, 2)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_pool_may_be_larger_than_its_image(shape, kernel):
    """By less than a stride: onnxruntime divides so."""
    sides = {"kernel_shape": [kernel] * 2, "strides": [4, 4]}
    window = [kernel, kernel, 4, 4, 0, 0, 0, 0, 1, 1]
    constants = {"scale": np.float32(1), "zero": np.uint8(0)}
    x = image(channels=20, height=shape[0], width=shape[1])
    average = helper.make_node("QLinearAveragePool", ["x", "s", "z", "s", "z"], ["y"], domain="com.microsoft", **sides)
    for node, program in (
        (helper.make_node("MaxPool", ["x"], ["y"], **sides), words(MAX_POOL, [0], [], window)),
        (average, words(AVERAGE_POOL, [0], [1, 2, 1, 2], [*window, 0])),
    ):
        graph = helper.make_graph(
            [node], "g", [helper.make_tensor_value_info("x", TensorProto.UINT8, [None] * 4)],
            [helper.make_tensor_value_info("y", TensorProto.UINT8, [None] * 4)],
            [numpy_helper.from_array(np.asarray(value), name[0]) for name, value in constants.items()],
        )  # fmt: skip
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        theirs = ort.InferenceSession(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
        (expected,) = theirs.run(None, {"x": x})
        (y,) = session(program, constants=constants).run(None, {"X0": x})
        np.testing.assert_array_equal(y, expected)


def test_threads_share_channels_where_there_are_few_rows():
    """Several outputs, each of blocks of channels that different threads compute."""
    random = np.random.default_rng(1)
    constants = {
        "weight": random.integers(-128, 128, (203, 300, 1, 1), dtype=np.int8),
        "second": random.integers(-128, 128, (203, 1, 3, 3), dtype=np.int8),
        "scale": np.float32(1),
        "zero": np.uint8(0),
        "fine": np.float32(0.001),
        "coarse": np.float32(0.2),
    }
    place = {name: 1 + i for i, name in enumerate(constants)}
    whole = [place[name] for name in ("weight", "scale", "scale", "zero", "fine", "scale", "zero")]
    apart = [place[name] for name in ("second", "scale", "scale", "zero", "fine", "coarse", "zero")]
    whole[1] = apart[1] = -1  # no bias
    program = words(CONVOLVE, [0], whole, [1, 1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 255])
    program += words(CONVOLVE, [1], apart, [203, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 0, 255])
    opened = session(program, constants=constants, outputs=(2, 1), made=2, threads=2)
    x = image(channels=300, height=7, width=31, samples=2)
    first = np.einsum("nchw,oc->nohw", x.astype(np.float64), constants["weight"][:, :, 0, 0].astype(np.float64))
    first = np.clip(np.rint(first.astype(np.float32) * constants["fine"]), 0, 255)
    taps = np.lib.stride_tricks.sliding_window_view(np.pad(first, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    second = np.einsum("nchwyx,cyx->nchw", taps.astype(np.float64), constants["second"][:, 0].astype(np.float64))
    scale = constants["fine"] / constants["coarse"]
    second = np.clip(np.rint(second.astype(np.float32) * scale), 0, 255)
    for _ in range(20):
        outputs = opened.run(None, {"X0": x})
        np.testing.assert_array_equal(outputs[0], second)
        np.testing.assert_array_equal(outputs[1], first)


def test_equal_names_of_dimensions_are_not_believed():
    """Inputs that a file says to be of one size may not be: outputs have their own, and nothing is written beyond them."""
    shape = ["n", 3, "h", "w"]
    node = helper.make_node("IntegerNetwork1", ["X0", "X1", *CONSTANTS], ["A", "B"], domain="onnxquant")
    places = {name: place + 1 for name, place in PLACES.items()}
    names = ("weight", "bias", "scale", "zero", "scales", "scale", "zero")
    steps = [words(CONVOLVE, [i], [places[name] for name in names], [*WINDOW, 0, 255]) for i in range(2)]
    for name, value in {"inputs": 2, "program": steps[0] + steps[1], "outputs": [2, 3]}.items():
        node.attribute.append(helper.make_attribute(name, value))
    after = [helper.make_node("MaxPool", [a], [b], kernel_shape=[1, 1]) for a, b in (("A", "Y0"), ("B", "Y1"))]
    made = ["n", 4, "h", "w"]
    graph = helper.make_graph(
        [node, *after], "g", [helper.make_tensor_value_info(f"X{i}", TensorProto.UINT8, shape) for i in range(2)],
        [helper.make_tensor_value_info(f"Y{i}", TensorProto.UINT8, made) for i in range(2)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
        value_info=[helper.make_tensor_value_info(name, TensorProto.UINT8, made) for name in "AB"],
    )  # fmt: skip
    opened = opened_of(graph)
    alone = session(convolve())
    images = [image(), image(height=97, width=61)]
    for first, second in ((0, 1), (1, 0), (0, 0)):
        given = [images[first], images[second]]
        for y, x in zip(opened.run(None, {"X0": given[0], "X1": given[1]}), given, strict=True):
            np.testing.assert_array_equal(y, alone.run(None, {"X0": x})[0])
