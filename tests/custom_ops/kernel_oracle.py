"""What planes mean, in numpy alone, and how int8 compute rounds: written from the layout's table, not from the kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxquant import native

BLOCK, ROW, TENSOR = "block", "row", "tensor"


@dataclass(frozen=True)
class Sample:
    """A random weight: as the library takes it, and as float64 values."""

    stored: native.StoredWeight
    values: np.ndarray  # float64 [N, K]
    codes: np.ndarray  # codes minus the offset [N, K]
    scales: np.ndarray  # float32 [N, blocks]


def pack(codes, bits, block, padding=None):
    """Codes [N, K] as a plane: k = 4 P v + P b + i lies in field i of byte b of vector v, with P codes per byte."""
    rows, cols = codes.shape
    fields = 8 // bits
    padded = np.full((-(-rows // 16) * 16, -(-cols // block) * block), 1 << (bits - 1), np.uint8)
    if padding is not None:
        padded[...] = padding.integers(0, 1 << bits, padded.shape)
    padded[:rows, :cols] = codes
    out = np.zeros((padded.shape[0] // 16, padded.shape[1] // (4 * fields), 16, 4), np.uint8)
    for field in range(fields):
        part = padded[:, field::fields].reshape(out.shape[0], 16, out.shape[1], 4)
        out |= part.transpose(0, 2, 1, 3) << (bits * field)
    return out


def pack_scales(scales, padding=None):
    """Scales [N, groups] as a plane [tiles, groups, 16]."""
    rows, groups = scales.shape
    padded = np.zeros((-(-rows // 16) * 16, groups), scales.dtype)
    if padding is not None:
        padded[...] = padding.normal(size=padded.shape)
    padded[:rows] = scales
    return np.ascontiguousarray(padded.reshape(-1, 16, groups).transpose(0, 2, 1))


def sample(name, rows, cols, block, granularity=BLOCK, seed=0):
    """A random weight with every code, whether or not an encoder emits it, and noise in the padding."""
    form = native.geometry(name)
    random = np.random.default_rng([seed, rows, cols, block])
    codes = random.integers(0, 1 << form.bits, (rows, cols)).astype(np.uint8)
    blocks = -(-cols // block)
    shape = {BLOCK: (rows, blocks), ROW: (rows, 1), TENSOR: (1, 1)}[granularity]
    scales = (random.normal(size=shape) * 0.02).astype(form.scale_dtype)
    plane = scales.reshape(1) if granularity == TENSOR else pack_scales(scales, random)
    full = np.broadcast_to(scales.astype(np.float32), (rows, blocks))
    offset = codes.astype(np.int64) - (1 << (form.bits - 1))
    values = offset * np.repeat(full, block, axis=1)[:, :cols].astype(np.float64)
    stored = native.StoredWeight(name, pack(codes, form.bits, block, random), plane, rows, cols, block)
    return Sample(stored, values, offset, full)


def quantize_rows(x, block):
    """Activations [M, K] as int64 codes [M, K] and float32 scales [M, blocks], in float32 arithmetic."""
    blocks = -(-x.shape[1] // block)
    padded = np.zeros((x.shape[0], blocks * block), np.float32)
    padded[:, : x.shape[1]] = x
    parts = padded.reshape(x.shape[0], blocks, block)
    largest = np.abs(parts).max(axis=2)
    used = largest >= np.float32(1.5e-36)
    inverse = np.divide(np.float32(127), largest, out=np.zeros_like(largest), where=used)
    codes = np.rint(parts * inverse[..., None]).astype(np.int64)
    scales = np.where(used, largest / np.float32(127), np.float32(0))
    return codes.reshape(padded.shape)[:, : x.shape[1]], scales


def int8_matmul(x, weight):
    """The product of int8 compute to the bit: exact sums per block, float32 from then on, in order of k."""
    block = weight.stored.block_size
    codes, scales = quantize_rows(x, block)
    total = np.zeros((x.shape[0], weight.stored.rows), np.float32)
    for b, first in enumerate(range(0, x.shape[1], block)):
        part = slice(first, first + block)
        dot = (codes[:, part] @ weight.codes[:, part].T).astype(np.float32)
        total = total + dot * (scales[:, b, None] * weight.scales[None, :, b])
    return total


def float_bound(x, weight):
    """How far float compute may be off, per output."""
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
    return 4 * np.sqrt(x.shape[1]) * 2.0**-24 * magnitude
