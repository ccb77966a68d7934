"""Maps of codes: the kernels against numpy, the operator against its body, and nodes that lie."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_threads import at_once

from onnxquant.errors import NativeLibraryError
from onnxquant.native import library as native

SIZES = [*range(131), 255, 256, 257, 1000, 32767, 32768, 32769, 100_003]
SHAPES = [(2, 3, 1), (1, 7, 49), (3, 2, 33000), (1, 4000, 1), (5, 64, 16), (0, 3, 4)]
BYTES = ctypes.POINTER(ctypes.c_uint8)


def map_codes(tables, codes, channels=1, inner=1, isa="", out=None):
    out = np.empty_like(codes) if out is None else out
    sizes = ctypes.c_int64(channels), ctypes.c_int64(inner)
    pointers = [array.ctypes.data_as(BYTES) for array in (tables, codes, out)]
    native.call("map_codes", isa.encode(), pointers[0], *sizes, pointers[1], ctypes.c_int64(codes.size), pointers[2])
    return out


def random_bytes(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("isa", native.isas())
def test_one_table(isa):
    table, codes = random_bytes(256), random_bytes(max(SIZES) + 3)
    for size in SIZES:
        for start in (0, 3):
            part = codes[start : start + size]
            np.testing.assert_array_equal(map_codes(table, part, isa=isa), table[part])
    np.testing.assert_array_equal(map_codes(codes[:256].copy(), np.arange(256, dtype=np.uint8), isa=isa), codes[:256])


@pytest.mark.parametrize("isa", native.isas())
def test_a_table_for_each_channel(isa):
    for outer, channels, inner in SHAPES:
        tables, codes = random_bytes(channels, 256), random_bytes(outer, channels, inner)
        expected = np.take_along_axis(tables, np.moveaxis(codes, 1, 0).reshape(channels, -1), 1)
        expected = np.moveaxis(expected.reshape(channels, outer, inner), 0, 1)
        np.testing.assert_array_equal(map_codes(tables, codes, channels, inner, isa), expected)


def test_codes_may_be_mapped_in_place():
    table, codes = random_bytes(256), random_bytes(1000)
    expected = table[codes]
    np.testing.assert_array_equal(map_codes(table, codes, out=codes), expected)


@pytest.mark.parametrize(
    ("count", "channels", "inner"), [(10, 3, 1), (12, 3, 5), (12, 0, 1), (12, -1, 1), (12, 3, 0), (12, 3, -4)]
)
def test_sizes_that_do_not_fit_are_refused(count, channels, inner):
    with pytest.raises(NativeLibraryError):
        map_codes(random_bytes(3, 256), random_bytes(count), channels, inner)


@pytest.mark.skipif(sys.platform == "win32", reason="mprotect")
def test_nothing_outside_of_the_codes_is_touched():
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "map_codes_guarded.py")],
        capture_output=True, text=True, timeout=600, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(native.__file__).parents[2]), *sys.path])},
    )  # fmt: skip
    assert (run.returncode, run.stdout) == (0, "right\n"), run.stderr[-2000:]


def model(tables, shape, *, axis=None, constants=(), attribute=True, out_type=None):
    kind = TensorProto.UINT8 if tables.dtype == np.uint8 else TensorProto.INT8
    node = helper.make_node(
        "MapCodes1", ["X", *(f"c{i}" for i in range(len(constants) or 1))], ["Y"], domain="onnxquant"
    )
    if attribute:
        node.attribute.append(helper.make_attribute("tables", numpy_helper.from_array(tables, "tables")))
    if axis is not None:
        node.attribute.append(helper.make_attribute("axis", axis))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("X", out_type or kind, shape)],
        [helper.make_tensor_value_info("Y", out_type or kind, None)],
        [numpy_helper.from_array(np.float32(i), f"c{i}") for i in range(len(constants) or 1)],
    )  # fmt: skip
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("onnxquant", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def session(proto, threads=1):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.register_custom_ops_library(str(native.library_path()))
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("threads", [1, 4])
def test_the_operator_maps_both_types_on_any_number_of_threads(dtype, threads):
    tables = random_bytes(5, 256).view(dtype)
    one, several = (
        session(model(tables[0], ["n", "m"]), threads),
        session(model(tables, ["n", 5, "m"], axis=-2), threads),
    )
    for m in (0, 1, 77, 9001):
        codes = random_bytes(3, 5, m).view(dtype)
        flat = codes.reshape(3, -1)
        np.testing.assert_array_equal(one.run(None, {"X": flat})[0], tables[0][flat.view(np.uint8)])
        expected = np.stack([tables[c][codes[:, c].view(np.uint8)] for c in range(5)], 1)
        np.testing.assert_array_equal(several.run(None, {"X": codes})[0], expected)
    assert session(model(tables[0], ["n", 4])).get_outputs()[0].shape == ["n", 4]


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        ({"tables": random_bytes(255)}, "expected \\[256\\]"),
        ({"tables": random_bytes(2, 3, 256)}, "3 dimensions"),
        ({"tables": random_bytes(0, 256)}, "expected \\[256\\]"),
        ({"tables": random_bytes(256), "out_type": TensorProto.INT8}, "another type"),
        ({"tables": random_bytes(256), "attribute": False}, "tables"),
        ({"tables": random_bytes(5, 256)}, "axis"),
    ],
)
def test_a_node_that_lies_is_no_session(lie, message):
    with pytest.raises(Exception, match=message):
        session(model(lie["tables"], ["n", 5, "m"], **{k: v for k, v in lie.items() if k != "tables"}))


@pytest.mark.parametrize(
    ("shape", "axis", "message"), [((2, 4, 3), -2, "4 channels"), ((5,), -2, "axis"), ((5, 5), 1, "axis")]
)
def test_codes_of_another_shape_are_refused(shape, axis, message):
    opened = session(model(random_bytes(5, 256), None, axis=axis))
    with pytest.raises(Exception, match=message):
        opened.run(None, {"X": random_bytes(*shape)})


def test_sessions_side_by_side():
    """What the library keeps per operator is read alone."""
    tables = [random_bytes(256, seed=i) for i in range(4)]
    opened, codes = [session(model(table, ["n"]), 2) for table in tables], random_bytes(100_000)

    def work(at):
        for _ in range(10):
            np.testing.assert_array_equal(opened[at % 4].run(None, {"X": codes})[0], tables[at % 4][codes])

    at_once(8, work)


def test_unknown_ranks_stay_unknown():
    proto = model(random_bytes(256), None)
    np.testing.assert_array_equal(session(proto).run(None, {"X": np.zeros((), np.uint8)})[0], random_bytes(256)[0])
