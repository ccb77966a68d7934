"""Run as a program: products whose arrays touch pages that cannot be read. A fault would take the program down.

Every plane, X, the bias and Y end exactly where an unmapped page begins, then start right after one. Results must be
those of ordinary memory. Prints one line per format, so that the last line names the one that faulted.
"""

from __future__ import annotations

import ctypes
import faulthandler
import itertools
import mmap
import sys
from pathlib import Path

import kernels
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from kernel_oracle import BLOCK, sample
from nodes import TYPES, Node, session

from onnxquant.native import library as native

PAGE = mmap.PAGESIZE
PROT_NONE = 0
# Every tail of a vector, a tile and a block, shared among formats; the ends of the panels along K; a long row.
TAILS = [*range(1, 66), 127, 128, 129, 255, 256, 257]
ROWS = [1, 15, 16, 17, 33]
BATCHES = [1, 2, 5, 9, 33]

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Guarded:
    """Memory between two unmapped pages, for one array at a time."""

    def __init__(self, most: int) -> None:
        self.size = -(-most // PAGE) * PAGE
        self.map = mmap.mmap(-1, self.size + 2 * PAGE)
        self.memory = np.frombuffer(self.map, np.uint8)[PAGE : PAGE + self.size]
        first = self.memory.ctypes.data - PAGE
        for page in (first, first + PAGE + self.size):
            if libc.mprotect(page, PAGE, PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def place(self, array: np.ndarray, at_end: bool) -> np.ndarray:
        """A copy of the array that ends before, or starts after, an unmapped page."""
        used = self.memory[self.size - array.nbytes :] if at_end else self.memory[: array.nbytes]
        view = used.view(array.dtype).reshape(array.shape)
        view[...] = array
        return view


def pointer(array: np.ndarray):
    return array.ctypes.data_as(kernels.FLOATS)


class Arena:
    """A guarded memory for every array of a call."""

    def __init__(self, most: int = 1 << 17) -> None:
        self.most = most
        self.by_name: dict[str, Guarded] = {}

    def place(self, name: str, array: np.ndarray, at_end: bool) -> np.ndarray:
        if name not in self.by_name:
            self.by_name[name] = Guarded(self.most)
        return self.by_name[name].place(np.ascontiguousarray(array), at_end)

    def weight(self, stored: kernels.StoredWeight, at_end: bool) -> kernels.StoredWeight:
        planes = {name: self.place(name, plane, at_end) for name, plane in stored.planes.items()}
        return kernels.StoredWeight(stored.format, planes, stored.rows, stored.cols, stored.block_size)


def matmul(x, weight, bias, y, compute: str, isa: str) -> None:
    """The C ABI itself: kernels.matmul would make a Y of its own."""
    planes = kernels.PlaneArguments(weight)
    how = compute.encode(), isa.encode(), pointer(x), ctypes.c_int64(len(x)), pointer(bias), pointer(y)
    native.call("matmul", *planes.arguments, *how)


def check_products(arena: Arena, weight: kernels.StoredWeight, batch: int, isa: str) -> int:
    random = np.random.default_rng([batch, weight.rows, weight.cols])
    x = random.normal(size=(batch, weight.cols)).astype(np.float32)
    bias = random.normal(size=weight.rows).astype(np.float32)
    for compute in ("int8", "float32"):
        expected = kernels.matmul(x, weight, compute=compute, isa=isa, bias=bias)
        for at_end in (True, False):
            own = arena.weight(weight, at_end)
            own_x, own_bias = arena.place("X", x, at_end), arena.place("bias", bias, at_end)
            y = arena.place("Y", np.full_like(expected, np.nan), at_end)
            matmul(own_x, own, own_bias, y, compute, isa)
            np.testing.assert_array_equal(y, expected)
    return 4


def check_decoding(arena: Arena, weight: kernels.StoredWeight) -> None:
    expected = kernels.decode(weight)
    for at_end in (True, False):
        y = arena.place("Y", np.full_like(expected, np.nan), at_end)
        planes = kernels.PlaneArguments(arena.weight(weight, at_end))
        native.call("decode", *planes.arguments, pointer(y))
        np.testing.assert_array_equal(y, expected)


def check_halves(arena: Arena, weight: kernels.StoredWeight, batch: int) -> None:
    """float16 goes through the operator: X, the bias and Y are bound where they lie."""
    random = np.random.default_rng(batch)
    x = random.normal(size=(batch, weight.cols)).astype(np.float16)
    bias = random.normal(size=weight.rows).astype(np.float16)
    opened = session(Node("MatMul", weight, np.float16, bias=bias, fed=("bias",)).model())
    (expected,) = opened.run(None, {"X": x, "bias": bias})
    for at_end in (True, False):
        binding = opened.io_binding()
        inputs = {"X": arena.place("X", x, at_end), "bias": arena.place("bias", bias, at_end)}
        y = arena.place("Y", np.full_like(expected, np.nan), at_end)
        for name, array in inputs.items():
            binding.bind_input(name, "cpu", 0, TYPES[array.dtype], array.shape, array.ctypes.data)
        binding.bind_output("Y", "cpu", 0, TYPES[y.dtype], y.shape, y.ctypes.data)
        opened.run_with_iobinding(binding)
        np.testing.assert_array_equal(y, expected)


def blocks_of(form: kernels.Geometry) -> list[int]:
    """The smallest block, and one that takes many rows to another kernel where there is one."""
    return sorted({form.min_block, min(max(64, form.min_block), form.max_block)})


def check_format(arena: Arena, name: str, turn: int, tails: list[int]) -> int:
    form, isas, calls = kernels.geometry(name), native.isas(), 0
    sizes = itertools.cycle(itertools.product(ROWS, BATCHES))
    for _ in range(turn * 7):
        next(sizes)
    for cols, block in itertools.product(tails, blocks_of(form)):
        rows, batch = next(sizes)
        granularity = form.granularities[(cols + rows) % len(form.granularities)]
        permuted = cols % 3 == 0
        for isa in isas:
            weight = sample(name, rows, cols, block, granularity if form.bits < 16 else BLOCK, permuted=permuted).stored
            calls += check_products(arena, weight, batch, isa)
        check_decoding(arena, weight)
    for cols in (1, 17, 100):
        check_halves(arena, sample(name, 17, cols, blocks_of(form)[0], form.granularities[0]).stored, 5)
    return calls


def main() -> None:
    faulthandler.enable()
    count = int(sys.argv[1])
    arena = Arena()
    for turn, name in enumerate(kernels.formats()):
        print(name, end=" ", flush=True)
        # Each format begins with another tail: together they try all of them many times.
        tails = [TAILS[(turn * count + i) % len(TAILS)] for i in range(count)]
        print(check_format(arena, name, turn, tails), flush=True)


if __name__ == "__main__":
    main()
