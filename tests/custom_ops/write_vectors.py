"""Cases for custom_ops/tests/kernels_test.cpp, which checks kernels where no Python runs: ``write_vectors.py OUT``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from kernel_oracle import ROW, float_bound, int8_matmul, outlier_matmul, sample, variants

BATCH = 33
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


def write(path, every):
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
    arguments = parser.parse_args()
    write(arguments.out, arguments.every)
