"""Bodies: our operators as model-local functions, for runtimes without our library.

There is a body for each kind of operator. Where codes have 2, 4 or 8 bits, the product and the lookup reorder planes into
the form of MatMulNBits and call operators of com.microsoft. They reorder by Transpose and Reshape, which fold when a session
is created. A minimum per block m is added as ``blocksum(X) @ m``. They never unpack bits there: ONNX Runtime keeps every
folded intermediate, and unpacking takes ten times longer to load. Formats that no stock kernel holds (odd widths, tables,
floats) are decoded, all codes of a byte by one lookup; they fold to a float weight and run at float speed.
``Dequantize`` has no kernel on purpose: it always decodes in this way, for operators that read dense weights. Sizes come as
attributes, because the constants of a function cannot be computed from K and N.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from onnxquant.formats.base import Format
from onnxquant.formats.bitsandbytes.dynamic8 import signed_map
from onnxquant.formats.native_job import ZeroPoint
from onnxquant.formats.planes import Extent
from onnxquant.formats.scaled_codes import ScaledCodes
from onnxquant.formats.table import TableCodes
from onnxquant.graph.names import DOMAIN
from onnxquant.numerics.packing import low_bits
from onnxquant.targets.factors import unpacked_factors
from onnxquant.targets.layouts.base import POWERS_OF_TWO
from onnxquant.targets.node_builder import I32, I64, NodeBuilder

MATMUL, GATHER, DEQUANTIZE = "MatMul", "Gather", "Dequantize"
# Attributes that only bodies read; the kernels compute them from K, N and block_size.
BODY_ATTRIBUTES = ("code_shape", "matrix", "side_rows", "spread", "rows", "cols", "blocks", "zero_shape")
DENSE_ATTRIBUTES = ("shape", "perm", "to")
MIN_OPSET, MIN_OPSET_HALF = 13, 15
# The value of each byte of a scale that is an exponent.
_POWERS = np.arange(256, dtype=np.uint8).view(POWERS_OF_TWO).astype(np.float32)


@dataclass(frozen=True)
class Needs:
    """The demands of one model on its bodies.

    Attributes:
        opset: opset of the model; a function must import exactly that.
        half: some X is float16, so that bodies cast.
        ragged_rows, ragged_cols: some N is no multiple of 16, some K none of its block, so that bodies cut the padding off.
        spread: whether in some weight a scale serves several blocks, or all.
        bias: the op has a bias as its last input.
    """

    opset: int
    half: bool
    ragged_rows: bool
    ragged_cols: bool
    spread: bool
    bias: bool = False


def kernel_name(form: Format) -> str:
    """Name of a format's kernel: variants with other planes have one of their own.

    >>> from onnxquant.formats import format_named
    >>> kernel_name(format_named("int4", symmetric=False)), kernel_name(format_named("q4_k"))
    ('int4_zero', 'q4_k')
    """
    if isinstance(form, ScaledCodes) and form.has_zero_points:
        return f"{form.name}_float_zero" if form.zero_type is ZeroPoint.FLOAT16 else f"{form.name}_zero"
    return form.name if form.inner is form else f"{form.name}_double"


def custom_op_name(kind: str, form: Format, *, bias: bool = False) -> str:
    """Name of our op, ``MatMulQ4_0`` for ``q4_0``; the C++ library uses the same.

    >>> from onnxquant.formats import format_named
    >>> custom_op_name("MatMul", format_named("i2_s")), custom_op_name("Gather", format_named("int4", symmetric=False))
    ('MatMulI2_S', 'GatherInt4Zero')
    """
    suffix = kernel_name(form).upper()
    for word in ("INT", "_ZERO", "_FLOAT", "_DOUBLE", "DYNAMIC"):
        suffix = suffix.replace(word, word.strip("_").capitalize())
    return kind + suffix + ("Permuted" if form.permuted else "") + ("Bias" if bias else "")


def is_packed(form: Format) -> bool:
    """Whether MatMulNBits holds the codes of a format; minima are added apart."""
    return form.bits in (2, 4, 8) and not isinstance(form, TableCodes)


@cache
def body(kind: str, form: Format, planes: tuple[str, ...], needs: Needs) -> onnx.FunctionProto:
    """The body of one op.

    Args:
        kind: MATMUL, GATHER or DEQUANTIZE.
        form: the format; its granularity does not matter.
        planes: names of its planes, in the order of the op's inputs.
        needs: demands of the model.
    """
    inputs = {MATMUL: ["X", *planes], GATHER: [*planes, "indices"], DEQUANTIZE: [*planes]}[kind]
    inputs += ["bias"] if needs.bias else []
    attributes = ("K", "N", "block_size", *BODY_ATTRIBUTES, *(DENSE_ATTRIBUTES if kind == DEQUANTIZE else ()))
    text = "\n".join(
        [
            f'<domain: "{DOMAIN}", opset_import: ["" : {needs.opset}, "com.microsoft" : 1]>',
            f"{custom_op_name(kind, form, bias=needs.bias)} <{', '.join(attributes)}> ({', '.join(inputs)}) => (Y) {{",
            *_Body(form, planes, needs).lines(kind),
            "}",
        ]
    )
    function: onnx.FunctionProto = onnx.parser.parse_function(text)
    if kind == MATMUL:
        function.attribute_proto.append(onnx.helper.make_attribute("compute", "int8"))
    return function


class _Body(NodeBuilder):
    """The nodes of one body as text."""

    def __init__(self, form: Format, planes: tuple[str, ...], needs: Needs) -> None:
        self.form, self.planes, self.needs = form, planes, needs
        self.steps: list[str] = []
        self._tensors: dict[str, str] = {}

    def lines(self, kind: str) -> list[str]:
        """The text of a kind's body."""
        {MATMUL: self._matmul, GATHER: self._gather, DEQUANTIZE: self._dequantize}[kind]()
        return self.steps

    # ---- pieces ----

    def op(self, name: str, *inputs: str, **attributes: object) -> str:
        """Add a node, unless there is the same one. An attribute ``@name`` is the function's own."""
        listed = ", ".join(f"{k} {_type(v)}= {_text(v)}" for k, v in attributes.items())
        node = f"{name}{f' <{listed}>' if listed else ''} ({', '.join(inputs)})"
        if node not in self._tensors:
            self._tensors[node] = f"t{len(self._tensors)}"
            self.steps.append(f"{self._tensors[node]} = {node}")
        return self._tensors[node]

    def size(self, attribute: str) -> str:
        """A constant whose value is an attribute of the function."""
        return self.op("Constant", value_ints=(f"@{attribute}", "ints "))

    def ints(self, *values: int) -> str:
        """A constant of int64 [n]."""
        return self.op("Constant", value_ints=list(values))

    def number(self, value: float) -> str:
        """A constant float32."""
        return self.op("Constant", value_float=float(value))

    def table(self, values: np.ndarray[Any, np.dtype[np.float32]]) -> str:
        # A value that is not finite is never written by an encoder.
        finite = np.where(np.isfinite(values), values, np.float32(0))
        return self.op("Constant", value_floats=[float(f"{v:.9g}") for v in finite.tolist()])

    def reshape(self, x: str, shape: str) -> str:
        return self.op("Reshape", x, shape)

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=list(perm))

    def unsqueeze(self, x: str, *axes: int) -> str:
        return self.op("Unsqueeze", x, self.ints(*axes))

    def slice(self, x: str, first: int, last: str, axis: int) -> str:
        return self.op("Slice", x, self.ints(first), last, self.ints(axis))

    def cut(self, x: str, end: str, axis: int) -> str:
        """The first of an axis: padding is left out."""
        return self.slice(x, 0, self.size(end), axis)

    def cut_rows(self, x: str) -> str:
        return self.cut(x, "rows", 0) if self.needs.ragged_rows else x

    def cut_cols(self, x: str, axis: int) -> str:
        return self.cut(x, "cols", axis) if self.needs.ragged_cols else x

    def linear(self, x: str, weight: str) -> str:
        """X @ weight.T."""
        return self.op("MatMul", x, self.transpose(weight, 1, 0))

    # ---- planes ----

    def side(self, plane: str) -> str:
        """A plane of one value per row and group as float [N, groups], or [1, 1]."""
        declared = self.form.planes(1, 1)[plane]
        rows = plane if declared.extent is Extent.TENSOR else self.transpose(plane, 0, 2, 1)
        matrix = self.reshape(rows, self.size("side_rows"))
        matrix = matrix if declared.extent is Extent.TENSOR else self.cut_rows(matrix)
        if declared.dtype == POWERS_OF_TWO:
            return self.op("Gather", self.table(_POWERS), self.cast(matrix, I64))
        return self.floats(matrix)

    def per_block(self, groups: str) -> str:
        """[N, groups] as [N, blocks]: a group serves one block, or several, or all of a row."""
        if not self.needs.spread:
            return groups
        wide = self.op("Expand", self.unsqueeze(groups, 2), self.size("spread"))
        return self.cut(self.reshape(wide, self.ints(0, -1)), "blocks", 1)

    def sides(self) -> tuple[str, str | None]:
        """Scale of each block, and its minimum or zero point where there is one."""
        if "factors" in self.planes:
            return self._super_blocks()
        scales = self._nested() if "nested_scales" in self.planes else self.side("scales")
        second = next((p for p in ("minima", "zero_points") if p in self.planes), None)
        return self.per_block(scales), self.per_block(self.side(second)) if second else None

    def _nested(self) -> str:
        rows = self.reshape(self.transpose("scales", 0, 2, 1), self.size("side_rows"))
        codes = self.cut_rows(self.cast(rows, I64))
        own = self.op("Gather", self.table(signed_map()), codes)
        wide = self.op("Expand", self.reshape("nested_scales", self.ints(-1, 1)), self.ints(1, 256))
        count = self.reshape(self.op("Size", codes), self.ints(1))
        used = self.slice(self.reshape(wide, self.ints(-1)), 0, count, 0)
        outer = self.reshape(used, self.op("Shape", codes))
        return self.op("Add", self.op("Mul", own, outer), "nested_offset")

    def _super_blocks(self) -> tuple[str, str | None]:
        """Scale and minimum of each sub-block: the factors of super-blocks unpacked and multiplied."""
        factors = unpacked_factors(self, self.form, "factors")
        sides = [self.unsqueeze(self.side("scales"), 2)]
        if "minima" in self.planes:
            sides.append(self.op("Neg", self.unsqueeze(self.side("minima"), 2)))
        out = [self.op("Mul", self._by_row(f), side) for f, side in zip(factors, sides, strict=True)]
        scale, *minimum = (self.cut(self.reshape(x, self.ints(0, -1)), "blocks", 1) for x in out)
        return scale, minimum[0] if minimum else None

    def _by_row(self, factors: str) -> str:
        """Factors [super-blocks, sub-blocks of one] as [N, super-blocks of a row, sub-blocks of one]."""
        count = self.slice(self.op("Shape", factors), 1, self.ints(2), 0)
        return self.cut_rows(self.reshape(factors, self.op("Concat", self.size("matrix"), count, axis=0)))

    # ---- MatMulNBits' form ----

    def packed_codes(self) -> str:
        """B uint8 [N, blocks, bytes]."""
        return self.cut_rows(self.reshape(self.transpose("codes", 0, 2, 1, 3), self.size("code_shape")))

    def around_offset(self) -> tuple[str, str | None]:
        """Scale [N, blocks], and the number to add where codes are read as code - 2^(bits-1)."""
        scale, second = self.sides()
        if second is None:
            return scale, None
        offset = self.number(1 << (self.form.bits - 1))
        if "zero_points" in self.planes:
            shift = self.op("Mul", self.op("Sub", offset, second), scale)
        else:
            shift = self.op("Add", second, self.op("Mul", scale, offset))
        return scale, shift

    # ---- decoding ----

    def _values(self, plane: str, bits: int, levels: NDArray[np.float32], *axes: int) -> str:
        """The value of each code in bytes, with more axes for the codes of a byte: all of a byte by one lookup.

        Args:
            plane: the bytes.
            bits: bits of a code; the first is the lowest.
            levels: value of each code.
            axes: lengths of the added axes; none: one axis.
        """
        table = self._bytes(bits, levels)
        table = self.reshape(table, self.ints(256, *axes)) if axes else table
        return self.op("Gather", table, self.cast(plane, I32))

    def _bytes(self, bits: int, levels: NDArray[np.float32]) -> str:
        """The values of the codes in each of the 256 bytes, [256, codes of a byte]."""
        column, count, fields = self.ints(-1, 1), len(levels), 8 // bits
        if fields == 1:
            return self.reshape(self._leveled(levels), column)
        values = self.reshape(self.table(levels), column)
        repeated = [(count ** (fields - 1 - place), count, count**place) for place in range(fields)]
        return self.op(
            "Concat", *(self.reshape(self.op("Expand", values, self.ints(*s)), column) for s in repeated), axis=1
        )

    def _leveled(self, levels: NDArray[np.float32]) -> str:
        """Many levels, computed where they are evenly spaced: a table of them would be stored in the file."""
        first, step = levels[0], levels[1] - levels[0]
        if not np.array_equal(levels, first + step * np.arange(len(levels), dtype=np.float32)):
            return self.table(levels)
        return self.op("Range", *(self.number(n) for n in (first, first + step * len(levels), step)))

    def codes(self, levels: NDArray[np.float32]) -> str:
        """The values of codes as float [N, blocks, ...].

        Axes are split and joined while codes are bytes: a float tensor is several times as large, and every node that
        folds leaves one in memory.

        Args:
            levels: value of each code of the lower bits; each higher bit adds its own.
        """
        low, packed = low_bits(self.form.bits), self.packed_codes()
        if "high" not in self.planes:
            return self._values(packed, low, levels)
        bits, fields = self.form.bits - low, 8 // low
        steps = np.arange(1 << bits, dtype=np.float32) * (1 << low)
        # Four bytes have the higher bits of several words of four bytes each, by turns.
        words = 8 // bits // fields
        shape = self.op("Concat", self.size("matrix"), self.ints(4), axis=0)
        high = self.cut_rows(self.reshape(self.transpose("high", 0, 2, 1, 3), shape))
        higher = self.transpose(self._values(high, bits, steps, words, fields), 0, 1, 3, 2, 4)
        out = self.op("Add", self._values(self.reshape(packed, self.ints(0, -1, words, 4)), low, levels), higher)
        return self.reshape(out, self.op("Concat", self.ints(0), self.size("blocks"), self.ints(-1, 1), axis=0))

    def decoded(self) -> str:
        """The weight as float [N, K], channels in the order of X."""
        if self.form.bits == 16:
            wide = self.floats(self.cut_rows(self.reshape(self.transpose("codes", 0, 2, 1), self.size("matrix"))))
        else:
            wide = self._scaled_codes()
        out = self.cut_cols(wide, 1)
        if "outliers" in self.planes:
            out = self._scatter(out, "outlier_columns", self.side("outliers"))
        return self._scatter(out, "permutation", out) if self.form.permuted else out

    def _scaled_codes(self) -> str:
        """The decoded weight: codes without their offset times scales, and minima added."""
        scale, second = self.sides()
        codes = self.codes(self._levels(has_offset=second is None))
        if second and "zero_points" in self.planes:
            codes = self.op("Sub", codes, self.unsqueeze(second, 2, 3))
        scaled = self.op("Mul", codes, self.unsqueeze(scale, 2, 3))
        if second and "minima" in self.planes:
            scaled = self.op("Add", scaled, self.unsqueeze(second, 2, 3))
        return self.reshape(scaled, self.ints(0, -1))

    def _levels(self, *, has_offset: bool) -> NDArray[np.float32]:
        """The value of each code of the lower bits."""
        if isinstance(self.form, TableCodes):
            return self.form.table().astype(np.float32)
        levels = np.arange(1 << low_bits(self.form.bits), dtype=np.float32)
        return levels - (1 << (self.form.bits - 1)) if has_offset else levels

    def _scatter(self, matrix: str, columns: str, values: str) -> str:
        """``matrix`` with columns set: out[:, columns[j]] = values[:, j]."""
        wide = self.op("Expand", columns, self.op("Shape", values))
        return self.op("ScatterElements", matrix, wide, values, axis=1)

    # ---- kinds ----

    def _matmul(self) -> None:
        x = self.floats("X") if self.needs.half else "X"
        y = self._packed_product(x) if is_packed(self.form) else self.linear(x, self.decoded())
        if self.needs.half:
            y = self.op("CastLike", y, "X")
        self.steps.append(f"Y = Add ({y}, bias)" if self.needs.bias else f"Y = Identity ({y})")

    def _packed_product(self, x: str) -> str:
        """The product by MatMulNBits; zero points, minima and outliers are further products."""
        if self.form.permuted:
            x = self.op("Gather", x, "permutation", axis=-1)
        scale, shift = self.around_offset()
        y = self.op(
            "com.microsoft.MatMulNBits", x, self.packed_codes(), scale, K=("@K", "int "), N=("@N", "int "),
            bits=self.form.bits, block_size=("@block_size", "int "), accuracy_level=4,
        )  # fmt: skip
        if shift is not None:
            added = self.linear(self._block_sums(x), shift)
            y = self.op("Add", y, self.reshape(added, self.op("Shape", y)))
        if "outliers" in self.planes:
            columns = self.op("Gather", x, "outlier_columns", axis=-1)
            y = self.op("Add", y, self.linear(columns, self.side("outliers")))
        return y

    def _block_sums(self, x: str) -> str:
        """Sums of X over each block: [rows of X, blocks]."""
        blocks, cols = self.size("blocks"), self.size("cols")
        size = self.reshape(self.op("Constant", value_int=("@block_size", "int ")), self.ints(1))
        flat = self.reshape(x, self.op("Concat", self.ints(-1), cols, axis=0))
        if self.needs.ragged_cols:
            missing = self.op("Sub", self.op("Mul", blocks, size), cols)
            flat = self.op("Pad", flat, self.op("Concat", self.ints(0, 0, 0), missing, axis=0))
        blocked = self.reshape(flat, self.op("Concat", self.ints(-1), blocks, size, axis=0))
        return self.op("ReduceSum", blocked, self.ints(2), keepdims=0)

    def _gather(self) -> None:
        """The steps of a lookup: GatherBlockQuantized where it can read the planes, else rows of the decoded weight."""
        direct = is_packed(self.form) and not self.form.permuted and set(self.planes) == {"codes", "scales"}
        if not direct:
            self.steps.append(f"Y = Gather <axis = 0> ({self.decoded()}, indices)")
            return
        table = self.reshape(self.packed_codes(), self.ints(0, -1))
        byte = sum(1 << (self.form.bits - 1) << i for i in range(0, 8, self.form.bits))
        zeros = self.op("Expand", self.op("Constant", value=(f"uint8[1] {{{byte}}}", "")), self.size("zero_shape"))
        y = self.op(
            "com.microsoft.GatherBlockQuantized", table, "indices", self.around_offset()[0], zeros,
            bits=self.form.bits, block_size=("@block_size", "int "), gather_axis=0, quantize_axis=1,
        )  # fmt: skip
        self.steps.append(f"Y = Identity ({self.cut_cols(y, -1)})")

    def _dequantize(self) -> None:
        permuted = self.reshape(self.decoded(), self.size("shape"))
        self.steps.append("restored = Transpose <perm : ints = @perm> (" + permuted + ")")
        self.steps.append("typed = Cast <to : int = @to> (restored)")
        # The Reshape changes nothing. Up to 1.29 onnxruntime fuses a Transpose into the Gemm behind it, whatever its perm.
        self.steps.append("Y = Reshape (typed, " + self.op("Shape", "typed") + ")")


def _type(value: object) -> str:
    return f": {value[1]}" if isinstance(value, tuple) and value[1] else ""


def _text(value: object) -> str:
    return str(value[0]) if isinstance(value, tuple) else str(value)
