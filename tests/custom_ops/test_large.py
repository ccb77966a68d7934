"""Sizes beyond 32 bits: a weight of more than 2^32 codes, and an output of more than 2^31 numbers.

Memory stays small: what is not under test is pages of zeros, and the output is one piece of memory many times over.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import kernels
import numpy as np
import onnxruntime as ort
import pytest
from kernel_oracle import BLOCK, ROW, int8_matmul, sample
from nodes import Node, parsed
from onnx import TensorProto

from onnxquant.native import library as native

N, K = 65_536, 65_664
NEEDED = 3 << 30  # bytes, though less is used


def free_memory():
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="how much memory is free is read from /proc"),
    pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="too slow with a sanitizer"),
    pytest.mark.skipif(sys.platform == "linux" and free_memory() < NEEDED, reason="3 GiB of memory are needed"),
]


@pytest.fixture(scope="module")
def large():
    """All codes and scales are zero but those of the last 16 channels, which are a weight of their own."""
    last = sample("int2", 16, K, 256, ROW)
    planes = {}
    for name, plane in last.stored.planes.items():
        shape = (N // 16, *plane.shape[1:])
        memory = mmap.mmap(-1, int(np.prod(shape)) * plane.itemsize)
        planes[name] = np.frombuffer(memory, plane.dtype).reshape(shape)
        planes[name][-1] = plane[0]
    stored = kernels.StoredWeight("int2", planes, N, K, 256)
    assert stored.rows * stored.cols > 1 << 32
    return stored, last


def session_of(stored, kernel, dtype):
    """A session that reads the planes where they are: a model of more than 2 GiB could not be written down."""
    small = {name: plane[:0] for name, plane in stored.planes.items()}
    model = parsed(Node(kernel, stored, dtype, planes=small).model())
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(native.library_path()))
    values = {}
    for initializer in model.graph.initializer:
        name = initializer.name
        initializer.dims[:] = stored.planes[name].shape
        initializer.ClearField("raw_data")
        initializer.data_location = TensorProto.EXTERNAL
        entry = initializer.external_data.add()
        entry.key, entry.value = "location", "given"
        values[name] = ort.OrtValue.ortvalue_from_numpy(stored.planes[name])
    options.add_external_initializers(list(values), list(values.values()))
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_the_last_channels_of_a_product(large):
    stored, last = large
    x = np.random.default_rng(0).normal(size=(1, K)).astype(np.float32)
    y = kernels.matmul(x, stored)
    np.testing.assert_array_equal(y[:, -16:], int8_matmul(x, last))
    assert not y[:, :-16].any()


def test_the_last_channels_of_a_lookup(large):
    stored, last = large
    indices = np.array([N - 1, -16, 0, -N], np.int64)
    (rows,) = session_of(stored, "Gather", np.int64).run(None, {"indices": indices})
    np.testing.assert_array_equal(rows[:2], last.decoded[[15, 0]])
    assert not rows[2:].any()


@contextmanager
def repeated_memory(size, piece):
    """Addresses for `size` bytes that are the same `piece` bytes over and over."""
    libc = ctypes.CDLL(None, use_errno=True)
    address, length, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype = address
    libc.mmap.argtypes = (address, length, number, number, number, ctypes.c_int64)
    libc.munmap.argtypes = (address, length)
    shared, fixed, reserve_nothing = 0x01, 0x10, 0x4000
    file = os.memfd_create("piece")
    os.ftruncate(file, piece)
    size = -(-size // piece) * piece
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve_nothing
    first = libc.mmap(None, size, 0, flags, -1, 0)
    try:
        for at in range(0, size, piece):
            found = libc.mmap(first + at, piece, mmap.PROT_READ | mmap.PROT_WRITE, shared | fixed, file, 0)
            assert found == first + at
        yield first
    finally:
        libc.munmap(first, size)
        os.close(file)


@pytest.mark.skipif("ONNXQUANT_TEST_LARGE" not in os.environ, reason="a minute: set ONNXQUANT_TEST_LARGE to run it")
def test_the_last_row_of_a_large_output():
    """2^31 outputs and more: the last row is where it belongs, and is right."""
    weight = sample("int4", 32_800, 16, 16, BLOCK)
    x = np.random.default_rng(0).normal(size=(65_500, 16)).astype(np.float32)
    count = len(x) * weight.stored.rows
    assert count > 1 << 31
    expected = kernels.matmul(x[-8:], weight.stored)
    # Not a divisor of 2^32, so that an index that lost its upper bits would point into other bytes, or nowhere.
    with repeated_memory(4 * count, 67 << 20) as y:
        planes = kernels.PlaneArguments(weight.stored)
        ends = x.ctypes.data_as(kernels.FLOATS), ctypes.c_int64(len(x)), None, ctypes.cast(y, kernels.FLOATS)
        native.call("matmul", *planes.arguments, b"int8", b"", *ends)
        found = (ctypes.c_float * expected.size).from_address(y + 4 * (count - expected.size))
        np.testing.assert_array_equal(np.frombuffer(found, np.float32).reshape(expected.shape), expected)
