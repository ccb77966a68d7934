"""Sessions shared, side by side, and one after the other; scripts/check_sanitizers.sh runs this under ThreadSanitizer."""

from __future__ import annotations

import ctypes
import os
import sys
import threading

import kernels
import numpy as np
import pytest
from kernel_oracle import sample
from nodes import Node, session

from onnxquant.native import library as native

RUNS = int(os.environ.get("ONNXQUANT_TEST_RUNS", "100"))  # per thread
SESSIONS = int(os.environ.get("ONNXQUANT_TEST_SESSIONS", "300"))
THREADS = 8


def activations(rows, cols, seed):
    return np.random.default_rng([seed, rows, cols]).normal(size=(rows, cols)).astype(np.float32)


def at_once(count, work):
    """Run work(0) ... work(count - 1) on as many threads, which start together; the first error is raised."""
    errors, start = [], threading.Barrier(count)

    def run(at):
        try:
            start.wait()
            work(at)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(at,)) for at in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("name", ["q4_0", "llm_int8", "q4_k", "f16"])
@pytest.mark.parametrize("compute", ["int8", "float32"])
def test_one_session_of_many_threads(name, compute):
    """Each call has its own scratch memory, however many there are: above and below what is shared among threads."""
    form = kernels.geometry(name)
    weight = sample(name, 96, 320, min(max(32, form.min_block), form.max_block), form.granularities[0], permuted=True)
    opened = session(Node("MatMul", weight.stored, attributes={"compute": compute}).model(), threads=2)
    inputs = [activations(rows, 320, rows) for rows in (1, 2, 7, 40)]
    expected = [opened.run(None, {"X": x})[0] for x in inputs]
    for x, y in zip(inputs, expected, strict=True):
        np.testing.assert_array_equal(y, kernels.matmul(x, weight.stored, compute=compute))

    def work(at):
        for i in range(RUNS):
            k = (at + i) % len(inputs)
            np.testing.assert_array_equal(opened.run(None, {"X": inputs[k]})[0], expected[k])

    at_once(THREADS, work)


def test_a_session_for_each_thread():
    """Products and lookups of sessions that are made, used and destroyed at the same time."""
    weight = sample("int4", 64, 256, 32)
    product, lookup = Node("MatMul", weight.stored).model(), Node("Gather", weight.stored, np.int64).model()
    x, indices = activations(3, 256, 0), np.arange(-64, 64)
    expected = kernels.matmul(x, weight.stored), kernels.decode(weight.stored)[indices]

    def work(at):
        for _ in range(max(RUNS // 100, 2)):
            opened = session(product, threads=2), session(lookup, threads=1 + at % 2)
            for _ in range(10):
                np.testing.assert_array_equal(opened[0].run(None, {"X": x})[0], expected[0])
                np.testing.assert_array_equal(opened[1].run(None, {"indices": indices})[0], expected[1])

    at_once(THREADS, work)


def test_the_cap_may_change_while_others_compute():
    weight, x = sample("q8_0", 64, 256, 32), activations(5, 256, 0)
    opened = session(Node("MatMul", weight.stored).model(), threads=2)
    (expected,) = opened.run(None, {"X": x})

    def work(at):
        for i in range(RUNS):
            if at == 0:
                native.set_isa(native.isas()[i % len(native.isas())])
            np.testing.assert_array_equal(opened.run(None, {"X": x})[0], expected)

    try:
        at_once(4, work)
    finally:
        native.set_isa(None)


def test_the_last_error_is_the_threads_own():
    def work(at):
        for _ in range(RUNS):
            with pytest.raises(native.NativeLibraryError, match=f"'q{at}'"):
                kernels.geometry.__wrapped__(f"q{at}")

    at_once(THREADS, work)


class AllocatorState(ctypes.Structure):
    """`struct mallinfo2` of the C library, from glibc 2.33 on."""

    _fields_ = [(f"field{i}", ctypes.c_size_t) for i in range(10)]

    @property
    def allocated(self):
        """Bytes in use: mapped ones (`hblkhd`) and those of the heaps (`uordblks`)."""
        return self.field4 + self.field7


LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@pytest.mark.skipif(not hasattr(LIBC, "mallinfo2"), reason="this C library does not count what is allocated")
@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="sanitizers have an allocator of their own")
def test_sessions_leave_no_memory_behind():
    """Counted by the allocator: resident memory also moves with what other tests freed."""
    weight = sample("int8", 1000, 1000, 32, permuted=True)
    model, x = Node("MatMul", weight.stored).model(), activations(2, 1000, 0)
    LIBC.mallinfo2.restype = AllocatorState

    for i in range(SESSIONS):
        if i == 100:
            before = LIBC.mallinfo2().allocated
        session(model).run(None, {"X": x})
    assert LIBC.mallinfo2().allocated - before < 500_000
