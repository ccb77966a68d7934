"""Run as a program, with fail_allocation.cpp preloaded: every allocation of the library fails once.

Prints one line per call: its name and how many allocations failed. Each failure must be reported, and the next call
must be right; an exception that crosses the C boundary takes the program down.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kernels
import numpy as np
import onnxruntime as ort

sys.path.insert(0, str(Path(__file__).parent))

from kernel_oracle import BLOCK, ROW, sample
from nodes import Node, session

from onnxquant.native import library as native

MOST = 100_000  # allocations of one call; a loop that runs so long is not getting on

shim = ctypes.CDLL(None)
shim.stop_failing.restype = ctypes.c_long


def failing(k: int, call: Callable[[], Any]) -> tuple[int, Any, Exception | None]:
    """Make a call of which allocation k fails: how many there were, the result and the error.

    On a thread of its own, because the library keeps memory for the next call of a thread.
    """
    result, error = None, None

    def work() -> None:
        nonlocal result, error
        shim.fail_allocation(str(native.library_path()).encode(), ctypes.c_long(k))
        try:
            result = call()
        except Exception as raised:
            error = raised
        shim.stop_failing()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return shim.stop_failing(), result, error


def fail_each(name: str, call: Callable[[], Any], once: bool = False) -> Any:
    """Let the first allocation of a call fail, then the second ... until it has no more; what it then gives.

    `once`: the call allocates only until it has succeeded, so success waits until all have failed.
    """
    expected = None if once else call()
    for k in range(1, MOST):
        count, result, error = failing(k, call)
        if count < k:
            assert error is None, f"{name}: {error}"
            print(name, count, flush=True)
            return result
        assert error is not None, f"{name}: allocation {k} fails, and nothing says so"
        assert "bad_alloc" in str(error), f"{name}: allocation {k} fails, and the error is {error}"
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(call(), expected)
    raise AssertionError(f"{name} does not end")


def register() -> None:
    ort.SessionOptions().register_custom_ops_library(str(native.library_path()))


def main() -> None:
    native.function("isas")  # loads the library
    for function in (kernels.formats, native.isas, native.compiled_isas):
        fail_each(function.__name__, function, once=True)
    fail_each("register", register, once=True)
    fail_each("describe", lambda: kernels.geometry.__wrapped__("q4_0"))
    fail_each("set_isa", lambda: native.set_isa(None))
    x = np.random.default_rng(0).normal(size=(9, 100)).astype(np.float32)
    indices = np.arange(-33, 33)
    for name, granularity in (("q4_0", BLOCK), ("llm_int8", ROW), ("f16", BLOCK)):
        weight = sample(name, 33, 100, 32, granularity, permuted=True).stored
        bias = x[0, :33].copy()
        fail_each(f"decode_{name}", lambda w=weight: kernels.decode(w))
        for compute in ("int8", "float32"):
            fail_each(f"matmul_{compute}_{name}", lambda w=weight, c=compute: kernels.matmul(x, w, compute=c))
        for dtype in (np.float32, np.float16):
            model = Node("MatMul", weight, dtype, bias=bias.astype(dtype)).model()
            opened = fail_each(f"create_MatMul_{dtype.__name__}_{name}", lambda m=model: session(m))
            feed = {"X": x.astype(dtype)}
            fail_each(f"run_MatMul_{dtype.__name__}_{name}", lambda o=opened, f=feed: o.run(None, f)[0])
        model = Node("Gather", weight, np.int64).model()
        opened = fail_each(f"create_Gather_{name}", lambda m=model: session(m))
        fail_each(f"run_Gather_{name}", lambda o=opened: o.run(None, {"indices": indices})[0])


if __name__ == "__main__":
    main()
