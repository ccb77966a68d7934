"""Cases for custom_ops/tests/kernels_test.cpp, which checks the library where no Python runs: ``write_vectors.py OUT``.

OUT is a folder: ``products`` holds weights and what kernels compute with them, ``jobs`` what encoders, decoders, surveys and
packers are asked and what they answer.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

if __name__ == "__main__":  # pytest puts these on the path by itself
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from kernel_oracle import ROW, float_bound, int8_matmul, outlier_matmul, sample, variants
from test_encode import CASES, arranged, distributions, generator, whole

from onnxquant.errors import RangeError
from onnxquant.native import encoders, jobs, packers, weight_job

BATCH = 33
ONE_THREAD = jobs.Execution(1)
SHAPES = [(1, 1), (17, 31), (33, 100), (16, 257), (49, 528)]


class Writer:
    """Integers, texts and arrays in a row; arrays and texts begin with their length."""

    def __init__(self, file):
        self._file = file

    def integers(self, *values):
        self._file.write(np.array(values, "<i8").tobytes())

    def array(self, values):
        self.integers(values.size)
        self._file.write(np.ascontiguousarray(values).tobytes())

    def text(self, text):
        self.array(np.frombuffer(text.encode(), np.uint8))

    def case(self, name, weight, x, exact=True):
        """A weight, activations, and what each way to compute gives; ``exact`` False leaves out float32."""
        stored = weight.stored
        self.text(name)
        self.text(stored.format)
        self.integers(stored.rows, stored.cols, stored.block_size, len(stored.planes))
        for plane, values in stored.planes.items():
            self.text(plane)
            self.array(np.array(values.shape, "<i8"))
            self.array(np.frombuffer(values.tobytes(), np.uint8))
        self.array(weight.decoded)
        self.array(x)
        for expected in (int8_product(x, weight), float_product(x, weight) if exact else NOTHING):
            for values in expected:
                self.array(values.astype("<f8"))


NOTHING = np.zeros((2, 0))


def int8_product(x, weight):
    """What int8 compute gives, and by how much it may differ."""
    if not weight.has_int8:
        return NOTHING
    finite = np.isfinite(x).all(axis=1)
    expected = int8_matmul(np.where(finite[:, None], x, np.float32(0)), weight).astype(np.float64)
    bound = np.zeros_like(expected)
    if len(weight.outliers):
        expected += outlier_matmul(x, weight)
        magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
        bound = 4 * np.sqrt(x.shape[1]) * 2.0**-23 * magnitude
    expected[~finite] = np.nan
    return expected, bound


def float_product(x, weight):
    """What float32 compute approximates, and how closely."""
    return x.astype(np.float64) @ weight.values.T, float_bound(x, weight)


def activations(cols, seed):
    return np.random.default_rng([seed, cols]).normal(size=(BATCH, cols)).astype(np.float32) * np.float32(3)


def extremes(cols, block):
    """Rows that rounding treats apart: zeros, subnormals, tiny and huge ones, ties, NaN and infinities."""
    x = activations(cols, 7)
    x[0] = 0
    x[1] = np.sign(x[1]) * np.float32(1e-40)
    x[2] = np.sign(x[2]) * np.float32(1.4e-36)
    x[3] = np.sign(x[3]) * np.float32(1e-24)
    x[4] = np.sign(x[4]) * np.float32(1e30)
    # Halves between codes, with 127 to make the scale 1.
    x[5] = np.arange(cols) % 200 - np.float32(99.5)
    x[5, ::block] = 127
    x[6] = 127
    x[7] = -127
    for row, bad in ((8, np.nan), (15, np.inf), (20, -np.inf)):
        x[row, cols // 2] = bad
    return x


class Recorder:
    """Jobs as words of 8 bytes, and the memory that some of them point to."""

    OUTPUTS = {  # noqa: RUF012
        "encode": ("codes", "scales", "seconds", "subscales", "subminima", "statistics"),
        "measure": ("statistics",),
        "decode": ("decoded",),
        "survey": ("survey", "column_peaks"),
        "pack_codes": ("low", "high"),
    }

    def __init__(self, writer):
        self._writer = writer
        self._arrays = {}

    @contextmanager
    def watching(self):
        """Every job that runs is written, with what it answers."""
        run, address = jobs.run, jobs.address

        def noted_address(array):
            self._arrays[address(array)] = array
            return address(array)

        def noted_run(function, job):
            run(function, job)
            self._write(function, job)

        with ExitStack() as patches:
            for module in (jobs, packers, weight_job):
                patches.enter_context(mock.patch.object(module, "address", noted_address))
                patches.enter_context(mock.patch.object(module, "run", noted_run))
            yield
        self._arrays.clear()

    def _write(self, function, job):
        words = np.frombuffer(bytes(job), "<i8")
        pointers = list(self._pointers(job))
        self._writer.text(function)
        self._writer.array(words)
        self._writer.integers(len(pointers))
        outputs = self.OUTPUTS[job.action.decode() if hasattr(job, "action") else function]
        for name, offset, memory in pointers:
            self._writer.text(name)
            self._writer.integers(offset // 8, name in outputs)
            self._writer.array(np.frombuffer(memory, np.uint8))

    def _pointers(self, struct, start=0):
        """Name, place and memory of each pointer that is not null."""
        for name, kind in struct._fields_:
            offset, value = start + getattr(type(struct), name).offset, getattr(struct, name)
            if isinstance(value, ctypes.Structure):
                yield from self._pointers(value, offset)
            elif isinstance(value, bytes):
                yield name, offset, value + b"\0"
            elif kind is ctypes.c_void_p and value is not None:
                yield name, offset, ctypes.string_at(value, self._size(name, value))

    def _size(self, name, address):
        if name in ("statistics", "survey"):
            return ctypes.sizeof(jobs.ErrorSums if name == "statistics" else jobs.SurveyStructure)
        array = self._arrays[address]
        if not array.size:
            return 0
        return sum((n - 1) * step for n, step in zip(array.shape, array.strides, strict=True)) + array.itemsize


def write_encoding(recorder, form, weight):
    """What encoding, measuring and decoding one weight asks and answers; the answers are those of numpy."""
    try:
        expected = form.encode(weight)
    except RangeError:
        return
    with recorder.watching():
        encoded, _ = encoders.encode(form, weight, execution=ONE_THREAD)
        encoders.measure(encoded, weight, ONE_THREAD)
        decoded = encoders.decode(encoded, ONE_THREAD)
    assert all(encoded.planes[name].tobytes() == plane.tobytes() for name, plane in expected.planes.items()), form
    assert decoded.tobytes() == form.decode(expected).tobytes(), form


def encodings(every, names):
    """A format and a weight: every format at some shapes, in all distributions, and of some types and arrangements."""
    cases = []
    forms = [case.values[0] for case in CASES]
    chosen = [form for form in forms if not names or form.name in names]
    for form in chosen:
        for rows, cols in ((1, 1), (3, 33), (5, 256), (17, 300), (2, 1037)):
            cases.append((form, generator(rows, cols).normal(scale=0.02, size=(rows, whole(form, cols)))))
        cases += [(form, weight) for _, weight in distributions(2, whole(form, 288))]
    # Of fewer formats as many cases as of all.
    step = max(1, every * len(chosen) // len(forms))
    yield from ((form, weight.astype(np.float32)) for form, weight in cases[::step])
    for name in ("int4", "q4_k", "nf4", "llm_int8"):
        form = next(form for form in forms if form.name == name)
        for dtype in ("float16", "bfloat16", "float64"):
            weight = generator(1).normal(size=(37, whole(form, 160))).astype(dtype)
            yield form, weight
            yield form, next(matrix for how, matrix in arranged(weight) if how == "columns")


def write_packing(recorder):
    """Codes of every width into every layout."""
    for rows, cols, width in ((5, 17, 32), (33, 100, 128), (16, 520, 544)):
        codes = generator(rows, cols).integers(0, 256, (rows, cols), dtype=np.uint8)
        with recorder.watching():
            for bits in (2, 3, 4, 5, 6, 8):
                packers.pack_tiles(codes >> (8 - bits), bits, width, 1, ONE_THREAD)
            for bits in (2, 4, 8):
                packers.pack_rows(codes >> (8 - bits), bits, width, 1, ONE_THREAD)


def write_jobs(path, every, names):
    with path.open("wb") as file:
        recorder = Recorder(Writer(file))
        for form, weight in encodings(every, names):
            write_encoding(recorder, form, weight)
        write_packing(recorder)


def write_products(path, every):
    """All cases, or one of so many."""
    with path.open("wb") as file:
        writer, number = Writer(file), 0
        for name, granularity, block in variants():
            for rows, cols in SHAPES:
                number += 1
                if number % every:
                    continue
                label = f"{name}, {granularity}, block {block}, {rows} x {cols}"
                permuted, special = number // every % 4 == 0, number // every % 3 == 0
                weight = sample(name, rows, cols, block, granularity, permuted=permuted)
                writer.case(label + ", permuted" * permuted, weight, activations(cols, 1))
                if special and weight.has_int8 and not len(weight.outliers):
                    writer.case(f"{label}, extremes", weight, extremes(cols, block), exact=False)
        for outliers in (0, 1, 300):
            weight = sample("llm_int8", 40, 300, 64, ROW, outliers=outliers)
            writer.case(f"llm_int8, {outliers} outliers", weight, activations(300, 2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--every", type=int, default=1, help="take one of so many cases")
    parser.add_argument("--encoders", nargs="*", help="formats whose encoders are asked; all of them where none is named")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_products(arguments.out / "products", arguments.every)
    write_jobs(arguments.out / "jobs", arguments.every, arguments.encoders)
