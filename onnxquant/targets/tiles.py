"""Our kernels' order of planes: 16 output channels interleaved, 4 bytes of consecutive k each (docs/layouts.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from onnxquant.formats.base import Encoded, Format, ScaledCodes
from onnxquant.native.library import TILE
from onnxquant.native.packers import pack_tiles, unpack_tiles
from onnxquant.numerics.packing import low_bits
from onnxquant.targets.layouts import Array, Layout, carrier_block, padded_rows, stored_as

# Activations that are rounded together: as many as share a scale of the weight, but no more than this.
MOST_ACTIVATIONS = 128
# Planes of one value per row and group.
SIDES = ("scales", "minima", "zero_points", "outliers")
# Weights of a super-block, and bytes of its 6-bit scales and minima.
SUPER, SIX_BIT_BYTES = 256, 12


def kernel_name(form: Format) -> str:
    """Name of a format's kernel: variants with other planes have one of their own.

    >>> from onnxquant.formats import format_named
    >>> kernel_name(format_named("int4", symmetric=False)), kernel_name(format_named("q4_k"))
    ('int4_zero', 'q4_k')
    """
    if isinstance(form, ScaledCodes) and form.has_zero_points:
        return f"{form.name}_float_zero" if form.float_zero_points else f"{form.name}_zero"
    return f"{form.name}_double" if getattr(form, "double_quant", False) else form.name


class Tiles(Layout):
    """The planes of the custom target, in the order of its operators' inputs."""

    def __init__(self, form: Format, rows: int, cols: int) -> None:
        super().__init__(form, rows, cols)
        self.low = low_bits(form.bits)
        self.high = form.bits - self.low
        self.source = form.planes(rows, cols)
        self.block = self._block()
        self.padded_rows = -(-rows // TILE) * TILE
        self.padded_cols = -(-cols // self.block) * self.block
        self.tiles = self.padded_rows // TILE
        self._packed: tuple[Encoded, Array, Array | None] | None = None

    def _block(self) -> int:
        if "values" in self.source:
            return 16
        if "subscales" in self.source:
            return 32 if "subminima" in self.source else 16
        group = getattr(self.form, "group", 0)
        return min(group, MOST_ACTIVATIONS) if group else carrier_block(self.cols)

    @property
    def blocks(self) -> int:
        """Blocks of activations in a row."""
        return self.padded_cols // self.block

    @property
    def one_scale(self) -> bool:
        """Whether the scale is one number."""
        return isinstance(self.form, ScaledCodes) and self.form.one_scale

    @property
    def groups_in_row(self) -> int:
        """Scales of a row in the plane."""
        return int(self.source["scales"].shape[1]) if "scales" in self.source else 1

    @property
    def offset(self) -> int:
        """The code that fills padding."""
        return 1 << (self.form.bits - 1)

    def stored(self) -> dict[str, Any]:  # noqa: D102
        source, out = self.source, {}
        if "values" in source:
            return self._with_permutation(
                {"codes": stored_as((self.tiles, self.padded_cols, TILE), source["values"].dtype)}
            )
        out["codes"] = stored_as((self.tiles, self.padded_cols * self.low // 32, TILE, 4), np.uint8)
        if self.high:
            out["high"] = stored_as((self.tiles, self.padded_cols * self.high // 32, TILE, 4), np.uint8)
        for name in ("scales", "minima", "zero_points"):
            if name in source:
                shape = (1,) if self.one_scale else (self.tiles, source[name].shape[1], TILE)
                out[name] = stored_as(shape, source[name].dtype)
        if "subminima" in source:
            out["factors"] = stored_as((self.tiles, self.groups_in_row, SIX_BIT_BYTES, TILE), np.uint8)
        elif "subscales" in source:
            out["factors"] = stored_as((self.tiles, source["subscales"].shape[1], TILE), np.int8)
        for name in ("nested_scales", "nested_offset", "outlier_columns"):
            if name in source:
                out[name] = stored_as(source[name].shape, source[name].dtype)
        if "outliers" in source:
            out["outliers"] = stored_as((self.tiles, source["outliers"].shape[1], TILE), source["outliers"].dtype)
        return self._with_permutation(out)

    def _with_permutation(self, out: dict[str, Any]) -> dict[str, Any]:
        if "permutation" in self.source:
            out["permutation"] = stored_as((self.cols,), np.int32)
        return out

    def pack(self, plane: str, encoded: Encoded) -> Array:  # noqa: D102
        planes = encoded.planes
        if plane == "codes" and "values" in planes:
            padded = np.zeros((self.padded_rows, self.padded_cols), planes["values"].dtype)
            padded[: self.rows, : self.cols] = planes["values"]
            return self._interleave(padded)
        if plane in ("codes", "high"):
            return self._pack_codes(plane, encoded)
        if plane == "factors":
            factors = (
                six_bits(planes["subscales"], planes["subminima"]) if "subminima" in planes else planes["subscales"]
            )
            return self._interleave(padded_rows(factors, self.padded_rows, 0))
        if plane not in SIDES:
            return np.ascontiguousarray(planes[plane])
        if self.one_scale:
            return planes[plane].reshape(1)
        spread = np.broadcast_to(planes[plane], (self.rows, planes[plane].shape[1]))
        return self._interleave(padded_rows(spread, self.padded_rows, 0))

    def _interleave(self, matrix: Array) -> Array:
        """[rows, n, ...] as [tiles, n, ..., 16]."""
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(self.tiles, TILE, *matrix.shape[1:]), 1, -1))

    def _rows(self, plane: Array) -> Array:
        """[tiles, n, ..., 16] as [rows, n, ...]."""
        return np.moveaxis(plane, -1, 1).reshape(self.padded_rows, *plane.shape[1:-1])[: self.rows]

    def _pack_codes(self, plane: str, encoded: Encoded) -> Array:
        """Both planes of an odd width are made at once, and asked for one after the other."""
        if self._packed is None or self._packed[0] is not encoded:
            low, high = pack_tiles(encoded.planes["codes"], self.form.bits, self.padded_cols, self.offset)
            self._packed = (encoded, low, high)
        _, low, high = self._packed
        if plane == "high":
            assert high is not None
            return high
        if high is None:
            self._packed = None  # nothing asks again
        return low

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        out: dict[str, Array] = {}
        if "values" in self.source:
            out["values"] = self._rows(planes["codes"])[:, : self.cols]
        else:
            out["codes"] = self._unpack_codes(planes)
        if "factors" in planes:
            factors = self._rows(planes["factors"])
            if "subminima" in self.source:
                out["subscales"], out["subminima"] = from_six_bits(factors)
            else:
                out["subscales"] = factors
        for name, plane in planes.items():
            if name in SIDES:
                side = plane.reshape(1, 1) if self.one_scale else self._rows(plane)
                out[name] = side[: self.source[name].shape[0]]
            elif name not in ("codes", "high", "factors"):
                out[name] = plane
        return self.encoded({name: np.ascontiguousarray(out[name]) for name in self.source})

    def _unpack_codes(self, planes: Mapping[str, Array]) -> Array:
        codes = unpack_tiles(planes["codes"], planes.get("high"), self.form.bits, self.padded_cols)
        return codes[: self.rows, : self.cols]


def six_bits(scales: Array, minima: Array) -> Array:
    """Ggml's 12 bytes of a super-block from eight 6-bit scales and minima: [rows, supers, 12] from [rows, 8 supers]."""
    sc, m = (v.reshape(len(v), -1, 8) for v in (scales, minima))
    low, high = np.uint8(15), np.uint8(4)
    first: Callable[[Array], Array] = lambda v: v[..., :4] | v[..., 4:] >> high << np.uint8(6)  # noqa: E731
    last = sc[..., 4:] & low | (m[..., 4:] & low) << high
    return np.concatenate([first(sc), first(m), last], axis=-1)


def from_six_bits(packed: Array) -> tuple[Array, Array]:
    """Scales and minima [rows, 8 supers] from 12 bytes per super-block."""
    scales, minima, last = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    low, six, two = np.uint8(63), np.uint8(6), np.uint8(4)
    sc = np.concatenate([scales & low, last & np.uint8(15) | scales >> six << two], axis=-1)
    m = np.concatenate([minima & low, last >> two | minima >> six << two], axis=-1)
    return sc.reshape(len(packed), -1), m.reshape(len(packed), -1)
