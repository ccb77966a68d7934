"""Layout ``tiles``: the planes of our kernels, 16 output channels interleaved, 4 bytes of consecutive k each."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxquant.formats.base import Encoded, Format
from onnxquant.formats.ggml.superblocks import SuperBlocks
from onnxquant.formats.granularity import PerBlock
from onnxquant.formats.planes import Extent, Plane
from onnxquant.graph.model_editor import TensorSpec
from onnxquant.graph.needs import View
from onnxquant.native.library import TILE
from onnxquant.native.packers import pack_tiles, unpack_tiles
from onnxquant.numerics.arrays import Array
from onnxquant.numerics.packing import low_bits
from onnxquant.targets.layouts.base import (
    Layout,
    as_stored,
    carrier_block,
    from_stored,
    padded_rows,
    tensor_spec,
)

# Activations that are rounded together: as many as share a scale of the weight, but no more than this.
MOST_ACTIVATIONS = 128


class TilesLayout(Layout):
    """The planes of the custom target, in the order of its operators' inputs (docs/layouts.md)."""

    name = "tiles"

    def __init__(self, form: Format, view: View, opset: int) -> None:
        super().__init__(form, view, opset)
        self.low = low_bits(form.bits)
        self.high = form.bits - self.low
        self.source = form.planes(self.rows, self.cols)
        self.block = self._block()
        self.padded_rows = -(-self.rows // TILE) * TILE
        # Whole blocks, and whole words of high bits.
        step = max(self.block, 32 // self.high) if self.high else self.block
        self.padded_cols = -(-self.cols // step) * step
        self.tiles = self.padded_rows // TILE

    def _block(self) -> int:
        granularity = self.form.granularity
        if granularity is None:
            return TILE
        if isinstance(granularity, PerBlock):
            return min(granularity.size // granularity.sub_blocks, MOST_ACTIVATIONS)
        return carrier_block(self.cols)

    @property
    def blocks(self) -> int:
        """Blocks of activations in a row."""
        return self.padded_cols // self.block

    @property
    def one_scale(self) -> bool:
        """Whether the scale is stored as one number."""
        return "scales" in self.source and self.source["scales"].extent is Extent.TENSOR

    @property
    def groups_in_row(self) -> int:
        """Scales of a row in the plane."""
        return int(self.source["scales"].shape[1]) if "scales" in self.source else 1

    @property
    def offset(self) -> int:
        """The code that fills padding."""
        return 1 << (self.form.bits - 1)

    def specs(self) -> dict[str, TensorSpec]:  # noqa: D102
        out: dict[str, TensorSpec] = {}
        for plane in self.source.values():
            out |= self._specs(plane)
        return out

    def _specs(self, plane: Plane) -> dict[str, TensorSpec]:
        """The tensors that one plane of the format becomes."""
        if plane.name == "codes":
            widths = {"codes": self.low, "high": self.high} if self.high else {"codes": self.low}
            vectors = {name: self.padded_cols * width // 32 for name, width in widths.items()}
            return {name: tensor_spec((self.tiles, count, TILE, 4), np.uint8) for name, count in vectors.items()}
        if plane.name == "values":
            return {"codes": tensor_spec((self.tiles, self.padded_cols, TILE), plane.dtype)}
        if plane.extent is Extent.SUB_BLOCK:
            # Factors of scales and of minima share bytes.
            factors = self._super_blocks.factors.plane(self.rows, self.groups_in_row)
            return {"factors": tensor_spec((self.tiles, *factors.shape[1:], TILE), factors.dtype)}
        if plane.extent is Extent.TENSOR:
            return {plane.name: tensor_spec((plane.size,), plane.dtype)}
        return {plane.name: tensor_spec((self.tiles, plane.shape[1], TILE), plane.dtype)}

    def pack(self, encoded: Encoded) -> dict[str, Array]:  # noqa: D102
        out: dict[str, Array] = {}
        for plane in self.source.values():
            out |= self._packed(plane, encoded.planes)
        return {name: out[name] for name in self.specs()}

    def _packed(self, plane: Plane, planes: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors of one plane of the format, by the names of ``_specs``."""
        values = as_stored(planes[plane.name])
        if plane.name == "codes":
            low, high = pack_tiles(values, self.form.bits, self.padded_cols, self.offset)
            return {"codes": low} if high is None else {"codes": low, "high": high}
        if plane.name == "values":
            padded = np.zeros((self.padded_rows, self.padded_cols), values.dtype)
            padded[: self.rows, : self.cols] = values
            return {"codes": self._interleave(padded)}
        if plane.extent is Extent.SUB_BLOCK:
            return {"factors": self._interleave(padded_rows(self._packed_factors(planes), self.padded_rows, 0))}
        if plane.extent is Extent.TENSOR:
            return {plane.name: np.ascontiguousarray(values.reshape(-1))}
        spread = np.broadcast_to(values, (self.rows, values.shape[1]))
        return {plane.name: self._interleave(padded_rows(spread, self.padded_rows, 0))}

    @property
    def _super_blocks(self) -> SuperBlocks:
        """The format, one with factors.

        Raises:
            ValueError: the format has sub-blocks, but is no format of super-blocks.
        """
        if isinstance(self.form, SuperBlocks):
            return self.form
        raise ValueError(f"layout tiles: format {self.form.name} has planes of sub-blocks, but is none of super-blocks")

    def _packed_factors(self, planes: Mapping[str, Array]) -> Array:
        """The factors of all sub-blocks as bytes, in the shape of ``Factors.plane`` [rows, ...]."""
        factors = self._super_blocks.factors
        by_super = {
            p.name: planes[p.name].reshape(self.rows, self.groups_in_row, -1)
            for p in self.source.values()
            if p.extent is Extent.SUB_BLOCK
        }
        return factors.pack(by_super).reshape(factors.plane(self.rows, self.groups_in_row).shape)

    def _unpacked_factors(self, packed: Array) -> Mapping[str, Array]:
        """Planes of sub-blocks [rows, super-blocks, sub-blocks of one]."""
        factors = self._super_blocks.factors
        return factors.unpack(packed.reshape(self.rows, self.groups_in_row, factors.count))

    def _interleave(self, matrix: Array) -> Array:
        """[rows, n, ...] as [tiles, n, ..., 16]."""
        return np.ascontiguousarray(np.moveaxis(matrix.reshape(self.tiles, TILE, *matrix.shape[1:]), 1, -1))

    def _rows(self, plane: Array) -> Array:
        """[tiles, n, ..., 16] as [rows, n, ...]."""
        return np.moveaxis(plane, -1, 1).reshape(self.padded_rows, *plane.shape[1:-1])[: self.rows]

    def unpack(self, planes: Mapping[str, Array]) -> Encoded:  # noqa: D102
        return self.encoded({p.name: np.ascontiguousarray(self._unpacked(p, planes)) for p in self.source.values()})

    def _unpacked(self, plane: Plane, planes: Mapping[str, Array]) -> Array:
        """One plane of the format from the tensors."""
        if plane.name == "codes":
            codes = unpack_tiles(planes["codes"], planes.get("high"), self.form.bits, self.padded_cols)
            return codes[: self.rows, : self.cols]
        if plane.name == "values":
            return self._rows(planes["codes"])[:, : self.cols]
        if plane.extent is Extent.SUB_BLOCK:
            return self._unpacked_factors(self._rows(planes["factors"]))[plane.name].reshape(plane.shape)
        values = from_stored(planes[plane.name], plane.dtype)
        if plane.extent is Extent.TENSOR:
            return values.reshape(plane.shape)
        return self._rows(values)[: plane.shape[0]]
