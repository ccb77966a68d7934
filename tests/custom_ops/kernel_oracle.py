"""What planes mean, in numpy alone, and how int8 compute rounds: written from the layout's table, not from the kernels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import kernels
import ml_dtypes
import numpy as np

from onnxquant.formats import format_named
from onnxquant.native import library as native

BLOCK, PAIR, ROW, TENSOR = "block", "pair", "row", "tensor"

NF4 = np.float32(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]
)  # fmt: skip
FP4 = np.float32([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4])


def dynamic_map():
    """bitsandbytes' signed map: midpoints of 2^i parts of [0.1, 1], times 10^(i-6), both signs, 0 and 1."""
    values = [np.float32(0), np.float32(1)]
    for i in range(7):
        count, f = 2**i + 1, np.float32
        step = np.float64(f(f(1) - f(0.1)) / f(count - 1))
        ends = [f(f(0.1) + step * j) if j < count // 2 else f(1 - step * (count - 1 - j)) for j in range(count)]
        for low, high in itertools.pairwise(ends):
            middle = f(10.0 ** (i - 6)) * f((low + high) / f(2))
            values += [middle, -middle]
    return np.sort(np.array(values, np.float32))


def all_floats(dtype):
    """Every value of an 8-bit float; what is not finite counts as zero."""
    values = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    return np.where(np.isfinite(values), values, np.float32(0))


TABLES = {
    "nf4": NF4,
    "fp4": np.concatenate([FP4, -FP4]),
    "dynamic8": dynamic_map(),
    "f8_e4m3": all_floats(ml_dtypes.float8_e4m3fn),
    "f8_e5m2": all_floats(ml_dtypes.float8_e5m2),
}
# What int8 compute makes of a table: integers, and the float that they count.
FINE = {
    "nf4": (np.rint(NF4.astype(np.float64) * 16383).astype(np.int64), np.float32(1) / np.float32(16383)),
    "fp4": (np.rint(TABLES["fp4"].astype(np.float64) * 16320).astype(np.int64), np.float32(1) / np.float32(16320)),
}


def table_of(name):
    """The value of each code where codes choose from a table, else None: as above, or as the format's numpy code says."""
    if family(name) in TABLES:
        return TABLES[family(name)]
    form = None if name.endswith("_zero") else format_named(family(name))
    return form.table() if hasattr(form, "table") else None


def fine_of(name):
    """The table of int8 compute: integers, which a table may hold as it is, and the float that they count."""
    if family(name) in FINE or not kernels.geometry(name).has_int8:
        return FINE.get(family(name), (np.zeros(256, np.int64), np.float32(1)))
    unit = next(u for u in np.float32([1, 0.5, 0.25]) if (table_of(name) % u == 0).all())
    return (table_of(name) / unit).astype(np.int64), unit


@dataclass(frozen=True)
class Sample:
    """A random weight: as the library takes it, and what it means."""

    stored: kernels.StoredWeight
    values: np.ndarray  # float64 [N, K], in the order of X
    decoded: np.ndarray  # float32 [N, K]
    codes: np.ndarray  # the integers of int8 compute [N, K], in the order of the planes
    scales: np.ndarray  # float32 [N, blocks]
    minima: np.ndarray | None  # float32 [N, blocks]
    order: np.ndarray  # order[j] is the column of X that meets stored column j
    outliers: np.ndarray  # stored columns that are kept as floats

    @property
    def has_int8(self):
        return kernels.geometry(self.stored.format).has_int8


def variants():
    """Every format at every granularity and block, but the larger blocks of the many variants of integers once."""
    for name in kernels.formats():
        form = kernels.geometry(name)
        shared = BLOCK in form.granularities and "scales" in form.planes and "factors" not in form.planes
        for granularity in [*form.granularities, PAIR] if shared else form.granularities:
            for block in (16, 32, 64, 128, 256):
                small = block <= 32 or granularity == form.granularities[0]
                if form.min_block <= block <= form.max_block and small:
                    yield name, granularity, block


def family(name):
    return name.removesuffix("_double")


def split_bits(bits):
    """Widths of the low and the high plane."""
    low = {3: 2, 5: 4, 6: 4}.get(bits, bits)
    return low, bits - low


def pack(codes, bits, block, padding=None):
    """Codes [N, K] as a plane: k = 4 P v + P b + i lies in field i of byte b of vector v, with P codes per byte."""
    fields = 8 // bits
    padded = padded_codes(codes, bits, block, padding)
    out = np.zeros((padded.shape[0] // 16, padded.shape[1] // (4 * fields), 16, 4), np.uint8)
    for field in range(fields):
        part = padded[:, field::fields].reshape(out.shape[0], 16, out.shape[1], 4)
        out |= part.transpose(0, 2, 1, 3) << (bits * field)
    return out


def pack_high(codes, low_bits, high_bits, block, padding=None):
    """High bits [N, K] as a plane: those of a code are in the byte of its low bits, vector by vector, field by field."""
    fields = 8 // low_bits
    padded = padded_codes(codes, high_bits, block, padding)
    per_byte = 8 // high_bits
    tiles, words = padded.shape[0] // 16, padded.shape[1] // (4 * per_byte)
    # k = (word, vector, byte, field)
    parts = padded.reshape(tiles, 16, words, per_byte // fields, 4, fields)
    out = np.zeros((tiles, words, 16, 4), np.uint8)
    for vector in range(per_byte // fields):
        for field in range(fields):
            shift = high_bits * (vector * fields + field)
            out |= parts[:, :, :, vector, :, field].transpose(0, 2, 1, 3) << shift
    return out


def padded_codes(codes, bits, block, padding):
    rows, cols = codes.shape
    padded = np.full((-(-rows // 16) * 16, -(-cols // block) * block), 1 << (bits - 1), np.uint8)
    if padding is not None:
        padded[...] = padding.integers(0, 1 << bits, padded.shape)
    padded[:rows, :cols] = codes
    return padded


def interleave(values, padding=None):
    """Side information [N, groups] as a plane [tiles, groups, 16]."""
    rows, groups = values.shape
    padded = np.zeros((-(-rows // 16) * 16, groups), values.dtype)
    if padding is not None and values.dtype.kind == "f":
        padded[...] = padding.normal(size=padded.shape)
    padded[:rows] = values
    return np.ascontiguousarray(padded.reshape(len(padded) // 16, 16, groups).transpose(0, 2, 1))


def pack_six_bits(scales, minima):
    """ggml's 12 bytes per super-block, from 6-bit scales and minima [N, 8 S]: [tiles, S, 12, 16]."""
    rows = scales.shape[0]
    sc, m = (v.reshape(rows, -1, 8).astype(np.uint8) for v in (scales, minima))
    out = np.zeros((rows, sc.shape[1], 12), np.uint8)
    for j in range(4):
        out[..., j] = sc[..., j] | (sc[..., j + 4] >> 4) << 6
        out[..., j + 4] = m[..., j] | (m[..., j + 4] >> 4) << 6
        out[..., j + 8] = (sc[..., j + 4] & 15) | (m[..., j + 4] & 15) << 4
    return interleave_bytes(out)


def pack_signed_six_bits(scales):
    """ggml's 12 bytes per super-block, from signed 6-bit scales [N, 16 S]: [tiles, S, 12, 16]."""
    rows = scales.shape[0]
    sc = (scales.reshape(rows, -1, 16) + 32).astype(np.uint8)
    out = np.zeros((rows, sc.shape[1], 12), np.uint8)
    for j in range(16):
        out[..., j % 8] |= (sc[..., j] & 15) << (4 * (j // 8))
        out[..., 8 + j % 4] |= (sc[..., j] >> 4) << (2 * (j // 4))
    return interleave_bytes(out)


def interleave_bytes(values):
    """[N, S, bytes] as [tiles, S, bytes, 16]."""
    padded = np.zeros((-(-values.shape[0] // 16) * 16, *values.shape[1:]), np.uint8)
    padded[: len(values)] = values
    return np.ascontiguousarray(padded.reshape(-1, 16, *values.shape[1:]).transpose(0, 2, 3, 1))


class _Random:
    """Random side information of one weight: planes, and scales and minima as float32 [N, blocks]."""

    def __init__(self, form, rows, cols, block, granularity, random):
        self.form, self.rows, self.block, self.random = form, rows, block, random
        self.blocks = -(-cols // block)
        self.granularity = granularity
        self.groups = {BLOCK: self.blocks, PAIR: -(-self.blocks // 2)}.get(granularity, 1)
        self.planes = {}

    def per_group(self, values):
        """A plane of one value per group, and the values spread over blocks."""
        if self.granularity == TENSOR:
            return values.reshape(1), np.broadcast_to(values, (self.rows, self.blocks))
        repeat = {BLOCK: 1, PAIR: 2}.get(self.granularity, self.blocks)
        return interleave(values, self.random), np.repeat(values, repeat, axis=1)[:, : self.blocks]

    @property
    def shape(self):
        return (1, 1) if self.granularity == TENSOR else (self.rows, self.groups)

    def side(self):
        """Scales and minima (or None) per block."""
        expected = self.form.planes
        if "factors" in expected:
            return self.super_blocks()
        if "scales" not in expected:
            return np.ones((self.rows, self.blocks), np.float32), None
        if "nested_scales" in expected:
            return self.nested(), None
        if expected["scales"] == np.uint8:
            exponents = self.random.integers(110, 130, self.shape).astype(np.uint8)
            self.planes["scales"], exponents = self.per_group(exponents)
            return np.exp2(exponents.astype(np.float32) - np.float32(127)), None
        scales = (self.random.normal(size=self.shape) * 0.02).astype(expected["scales"])
        self.planes["scales"], scales = self.per_group(scales)
        scales = scales.astype(np.float32)
        if "minima" in expected:
            minima = (self.random.normal(size=self.shape) * 0.1).astype(np.float16)
            self.planes["minima"], minima = self.per_group(minima)
            return scales, minima.astype(np.float32)
        if "zero_points" in expected:
            zeros = self.random.uniform(0, 1 << self.form.bits, self.shape).astype(expected["zero_points"])
            self.planes["zero_points"], zeros = self.per_group(zeros)
            self.zeros = zeros.astype(np.float32)
            return scales, -(self.zeros * scales)
        return scales, None

    def nested(self):
        codes = self.random.integers(0, 256, self.shape).astype(np.uint8)
        nested = self.random.uniform(0.01, 0.05, -(-self.rows * self.groups // 256)).astype(np.float32)
        offset = np.float32([0.03])
        flat = TABLES["dynamic8"][codes.reshape(-1)] * nested[np.arange(codes.size) // 256] + offset
        self.planes.update(nested_scales=nested, nested_offset=offset)
        self.planes["scales"], _ = self.per_group(codes)
        return self.per_group(flat.reshape(self.shape))[1]

    def super_blocks(self):
        per = 256 // self.block
        supers = -(-self.blocks // per)
        d = (self.random.normal(size=(self.rows, supers)) * 0.02).astype(np.float16)
        self.planes["scales"] = interleave(d, self.random)
        wide = np.repeat(d.astype(np.float32), per, axis=1)[:, : self.blocks]
        if "minima" not in self.form.planes:
            bound = 128 if self.form.planes["factors"] == np.int8 else 32
            factors = self.random.integers(-bound, bound, (self.rows, per * supers)).astype(np.int8)
            self.planes["factors"] = interleave(factors) if bound == 128 else pack_signed_six_bits(factors)
            return wide * factors[:, : self.blocks].astype(np.float32), None
        low = (self.random.normal(size=d.shape) * 0.02).astype(np.float16)
        self.planes["minima"] = interleave(low, self.random)
        bits = 6 if per == 8 else 4
        sc, m = (self.random.integers(0, 1 << bits, (self.rows, per * supers)) for _ in range(2))
        self.planes["factors"] = pack_six_bits(sc, m) if bits == 6 else interleave((sc | m << 4).astype(np.uint8))
        wide_low = np.repeat(low.astype(np.float32), per, axis=1)[:, : self.blocks]
        return wide * sc[:, : self.blocks].astype(np.float32), -(wide_low * m[:, : self.blocks].astype(np.float32))


def sample(name, rows, cols, block, granularity=BLOCK, seed=0, permuted=False, outliers=3):
    """A random weight with every code, whether or not an encoder emits it, and noise in the padding."""
    form = kernels.geometry(name)
    random = np.random.default_rng([seed, rows, cols, block])
    if form.bits == 16:
        made = _floats(name, form, rows, cols, random)
    else:
        made = _codes(name, form, rows, cols, block, granularity, random)
    if "outlier_columns" in form.planes:
        made = _with_outliers(made, min(outliers, cols), random)
    return _permuted(made, random) if permuted else made


def _floats(name, form, rows, cols, random):
    values = random.normal(size=(rows, cols)).astype(form.planes["codes"])
    padded = random.normal(size=(rows, -(-cols // 16) * 16)).astype(values.dtype)
    padded[:, :cols] = values
    wide = np.zeros((-(-rows // 16) * 16, padded.shape[1]), values.dtype)
    wide[:rows] = padded
    plane = np.ascontiguousarray(wide.reshape(-1, 16, padded.shape[1]).transpose(0, 2, 1))
    stored = kernels.StoredWeight(name, {"codes": plane}, rows, cols, 16)
    decoded = values.astype(np.float32)
    nothing = np.zeros((0,), np.int64)
    return Sample(stored, decoded.astype(np.float64), decoded, nothing, nothing, None, np.arange(cols), nothing)


def _codes(name, form, rows, cols, block, granularity, random):
    # The code 0 of i2_s has no meaning: adding and subtracting alone cannot make -2 of it.
    codes = random.integers(1 if name == "i2_s" else 0, 1 << form.bits, (rows, cols)).astype(np.uint8)
    low, high = split_bits(form.bits)
    # K is padded to whole blocks, and to whole words of high bits.
    step = max(block, 32 // high) if high else block
    planes = {"codes": pack(codes & ((1 << low) - 1), low, step, random)}
    if high:
        planes["high"] = pack_high(codes >> low, low, high, step, random)
    side = _Random(form, rows, cols, block, granularity, random)
    scales, minima = side.side()
    planes.update(side.planes)

    def spread(values):
        return np.repeat(values, block, axis=1)[:, :cols]

    unsigned = minima is not None
    table = table_of(name)
    if table is not None:
        integers, unit = fine_of(name)
        decoded = table[codes] * spread(scales)
        meant, scales = integers[codes], scales * unit
        values = table[codes].astype(np.float64) * spread(scales / unit).astype(np.float64)
    else:
        meant = codes.astype(np.int64) - (0 if unsigned else 1 << (form.bits - 1))
        zeros = getattr(side, "zeros", None)
        centred = meant.astype(np.float32) - (spread(zeros) if zeros is not None else np.float32(0))
        decoded = centred * spread(scales)
        values = centred.astype(np.float64) * spread(scales)
        if unsigned and zeros is None:
            decoded = decoded + spread(minima)
            values = values + spread(minima)
    stored = kernels.StoredWeight(name, planes, rows, cols, block)
    nothing = np.zeros((0,), np.int64)
    return Sample(stored, values, decoded, meant, scales, minima, np.arange(cols), nothing)


def _with_outliers(made, count, random):
    rows, cols = made.values.shape
    columns = np.sort(random.choice(cols, count, replace=False)).astype(np.int32)
    kept = (random.normal(size=(rows, count)) * 5).astype(np.float16)
    planes = {**made.stored.planes, "outlier_columns": columns, "outliers": interleave(kept, random)}
    values, decoded, codes = made.values.copy(), made.decoded.copy(), made.codes.copy()
    values[:, columns] = kept
    decoded[:, columns] = kept
    codes[:, columns] = 0
    low = pack((codes + 128).astype(np.uint8), 8, made.stored.block_size, random)
    stored = replace(made.stored, planes={**planes, "codes": low})
    return replace(made, stored=stored, values=values, decoded=decoded, codes=codes, outliers=columns)


def _permuted(made, random):
    cols = made.values.shape[1]
    order = random.permutation(cols).astype(np.int32)
    values, decoded = np.empty_like(made.values), np.empty_like(made.decoded)
    values[:, order], decoded[:, order] = made.values, made.decoded
    stored = replace(made.stored, planes={**made.stored.planes, "permutation": order})
    return replace(made, stored=stored, values=values, decoded=decoded, order=order)


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
    """The product of int8 compute to the bit: exact sums per block, float32 from then on, in order of k.

    Columns that are kept as floats are left out: their sum comes on top, in no defined order.
    """
    block = weight.stored.block_size
    x = x[:, weight.order].copy()
    x[:, weight.outliers] = 0
    codes, scales = quantize_rows(x, block)
    total = np.zeros((x.shape[0], weight.stored.rows), np.float32)
    for b, first in enumerate(range(0, x.shape[1], block)):
        part = slice(first, first + block)
        dot = (codes[:, part] @ weight.codes[:, part].T).astype(np.float32)
        total = total + (dot * weight.scales[None, :, b]) * scales[:, b, None]
        if weight.minima is not None:
            sums = scales[:, b] * codes[:, part].sum(axis=1).astype(np.float32)
            total = total + sums[:, None] * weight.minima[None, :, b]
    return total


def outlier_matmul(x, weight):
    """What the columns kept as floats add, in float64."""
    columns = weight.order[weight.outliers]
    return x[:, columns].astype(np.float64) @ weight.values[:, columns].T


def float_bound(x, weight):
    """How far float compute may be off, per output."""
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
    if weight.minima is not None:
        # A minimum and a scaled code are rounded before they cancel.
        spread = np.repeat(np.abs(weight.minima), weight.stored.block_size, axis=1)[:, : x.shape[1]]
        magnitude = magnitude + 2 * np.abs(x[:, weight.order].astype(np.float64)) @ spread.T.astype(np.float64)
    return 4 * np.sqrt(x.shape[1]) * 2.0**-24 * magnitude


def uses_bfloat(rows, weight, isa):
    """Whether int8 compute multiplies this many rows as bfloat16; float16 has more bits than that keeps."""
    if weight.stored.format == "f16":
        return False
    if (isa or native.isas()[-1]) != "amx" or rows < 32:
        return False
    return not weight.has_int8 or table_of(weight.stored.format) is not None or weight.stored.block_size < 64


def round_bfloat(values):
    """To the nearest bfloat16, half to even; subnormals are zero."""
    rounded = values.astype(ml_dtypes.bfloat16).astype(np.float64)
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, 0, rounded)


def bfloat_factors(x, weight):
    """What the matrix registers multiply: activations and weights, float64 in the order of the planes."""
    decoded = weight.decoded[:, weight.order].copy()
    if weight.minima is not None:
        # Kernels scale a code first, then add the minimum: before bfloat16 that decides some ties.
        sides = (np.repeat(side, weight.stored.block_size, axis=1) for side in (weight.scales, weight.minima))
        scales, minima = (side[:, : x.shape[1]] for side in sides)
        decoded = weight.codes.astype(np.float32) * scales + minima
    decoded[:, weight.outliers] = 0
    return round_bfloat(x[:, weight.order]), round_bfloat(decoded)


def bfloat_bound(x, weight):
    """How far bfloat16 may be off, per output: both factors of each product are rounded to 8 significant bits."""
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
    flushed = 2.0**-126 * (2 * x.shape[1] + np.abs(weight.values).sum(axis=1))
    return (2.0**-7 + 2.0**-16) * magnitude + float_bound(x, weight) + flushed


def check_bfloat(found, x, weight):
    """Whether the product is that of rounded factors, and within the bound that is stated."""
    left, right = bfloat_factors(x, weight)
    expected = left @ right.T
    bound = 4 * np.sqrt(x.shape[1]) * 2.0**-24 * (np.abs(left) @ np.abs(right).T) + 2 * x.shape[1] * 2.0**-126
    if len(weight.outliers):
        expected = expected + outlier_matmul(x, weight)
        bound = bound + float_bound(x, weight)
    assert (np.abs(found - expected) <= bound).all()
    assert (np.abs(found - x.astype(np.float64) @ weight.values.T) <= bfloat_bound(x, weight)).all()


def check_int8(found, x, weight, isa=None):
    """Whether int8 compute gave what it is defined to give on an instruction set."""
    if uses_bfloat(len(x), weight, isa):
        check_bfloat(found, x, weight)
        return
    if not weight.has_int8:
        assert (np.abs(found - x.astype(np.float64) @ weight.values.T) <= float_bound(x, weight)).all()
        return
    expected = int8_matmul(x, weight)
    if len(weight.outliers) == 0:
        np.testing.assert_array_equal(found, expected)
        return
    rest = outlier_matmul(x, weight)
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(weight.values).T
    assert (np.abs(found - (expected + rest)) <= 4 * np.sqrt(x.shape[1]) * 2.0**-23 * magnitude).all()
