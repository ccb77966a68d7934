"""Bodies: what our ops compute, as model-local functions for runtimes without our library.

A body comes in the kinds of our ops. The product and the lookup reorder planes into MatMulNBits' own form with
Transpose and Reshape, which fold when a session is created, and call com.microsoft ops. They never unpack bits: ONNX
Runtime keeps every folded intermediate, and unpacking takes ten times longer to load. ``Dequantize`` has no kernel on
purpose: it decodes with float arithmetic, folds, and serves ops that read dense weights. Sizes come as attributes,
because a function's constants cannot be computed from K and N.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import onnx
import onnx.parser

from onnxquant.formats.base import ScaledCodes

DOMAIN = "onnxquant"
MATMUL, GATHER, DEQUANTIZE = "MatMul", "Gather", "Dequantize"
# Attributes that only bodies read; the kernels compute them from K, N and block_size.
BODY_ATTRIBUTES = {
    MATMUL: ("code_shape", "scale_rows", "scale_shape", "rows"),
    GATHER: ("code_shape", "scale_rows", "scale_shape", "rows", "cols", "zero_shape"),
    DEQUANTIZE: ("code_shape", "scale_rows", "scale_shape", "rows", "cols", "shape", "perm", "to"),
}
MIN_OPSET, MIN_OPSET_HALF = 12, 15


@dataclass(frozen=True)
class Needs:
    """What the bodies of one model must serve.

    Attributes:
        opset: the model's; a function must import exactly that.
        half: some X is float16, so that bodies cast.
        ragged: some N is no multiple of 16 or some K none of its block, so that bodies cut the padding off.
    """

    opset: int
    half: bool
    ragged: bool


def op_name(kind: str, form_name: str) -> str:
    """Name of our op, ``MatMulQ4_0`` for ``q4_0``; the C++ library uses the same.

    >>> op_name("MatMul", "i2_s"), op_name("Gather", "int4")
    ('MatMulI2_S', 'GatherInt4')
    """
    return kind + form_name.upper().replace("INT", "Int")


@cache
def body(kind: str, form: ScaledCodes, needs: Needs) -> onnx.FunctionProto:
    """The body of one op.

    Args:
        kind: MATMUL, GATHER or DEQUANTIZE.
        form: the format; only its name, code width and scale granularity matter.
        needs: what the model requires.
    """
    inputs = {MATMUL: "X, codes, scales", GATHER: "codes, scales, indices", DEQUANTIZE: "codes, scales"}[kind]
    steps = {MATMUL: _matmul, GATHER: _gather, DEQUANTIZE: _dequantize}[kind](form, needs)
    attributes = ("K", "N", "block_size", *BODY_ATTRIBUTES[kind])
    text = "\n".join(
        [
            f'<domain: "{DOMAIN}", opset_import: ["" : {needs.opset}, "com.microsoft" : 1]>',
            f"{op_name(kind, form.name)} <{', '.join(attributes)}> ({inputs}) => (Y) {{",
            *_planes(form, needs),
            *steps,
            "}",
        ]
    )
    function: onnx.FunctionProto = onnx.parser.parse_function(text)
    if kind == MATMUL:
        function.attribute_proto.append(onnx.helper.make_attribute("compute", "int8"))
    return function


def _planes(form: ScaledCodes, needs: Needs) -> list[str]:
    """B uint8 [N, blocks, bytes] and S float [N, blocks] from planes in kernel order."""
    b, s = ("B0", "S0") if needs.ragged else ("B", "S")
    per_tensor = form.one_scale
    steps = [
        "codesT = Transpose <perm = [0, 2, 1, 3]> (codes)",
        "codeShape = Constant <value_ints : ints = @code_shape> ()",
        f"{b} = Reshape (codesT, codeShape)",
        "scaleRows = Constant <value_ints : ints = @scale_rows> ()",
        "scaleShape = Constant <value_ints : ints = @scale_shape> ()",
        *([] if per_tensor else ["scalesT = Transpose <perm = [0, 2, 1]> (scales)"]),
        f"scalesR = Reshape ({'scales' if per_tensor else 'scalesT'}, scaleRows)",
        "scalesF = Cast <to = 1> (scalesR)",
        f"{s} = Expand (scalesF, scaleShape)",
    ]
    if needs.ragged:
        steps += [
            "zero = Constant <value_ints = [0]> ()",
            "rows = Constant <value_ints : ints = @rows> ()",
            "B = Slice (B0, zero, rows)",
            "S = Slice (S0, zero, rows)",
        ]
    return steps


def _matmul(form: ScaledCodes, needs: Needs) -> list[str]:
    x, y = ("XF", "YF") if needs.half else ("X", "Y")
    call = (
        f"{y} = com.microsoft.MatMulNBits <K : int = @K, N : int = @N, bits = {form.bits}, "
        f"block_size : int = @block_size, accuracy_level = 4> ({x}, B, S)"
    )
    return ["XF = Cast <to = 1> (X)", call, "Y = CastLike (YF, X)"] if needs.half else [call]


def _cut_columns(source: str, result: str) -> list[str]:
    return [
        "cols = Constant <value_ints : ints = @cols> ()",
        "last = Constant <value_ints = [-1]> ()",
        f"{result} = Slice ({source}, zero, cols, last)",
    ]


def _gather(form: ScaledCodes, needs: Needs) -> list[str]:
    byte = sum(form.offset << i for i in range(0, 8, form.bits))
    return [
        "flat = Constant <value_ints = [0, -1]> ()",
        "table = Reshape (B, flat)",
        f"zeroByte = Constant <value = uint8[1] {{{byte}}}> ()",
        "zeroShape = Constant <value_ints : ints = @zero_shape> ()",
        "zeroPoints = Expand (zeroByte, zeroShape)",
        f"{'Y0' if needs.ragged else 'Y'} = com.microsoft.GatherBlockQuantized <bits = {form.bits}, "
        "block_size : int = @block_size, gather_axis = 0, quantize_axis = 1> (table, indices, S, zeroPoints)",
        *(_cut_columns("Y0", "Y") if needs.ragged else []),
    ]


def _dequantize(form: ScaledCodes, needs: Needs) -> list[str]:
    per_byte = 8 // form.bits
    steps = ["rest0 = Cast <to = 1> (B)", f"base = Constant <value_float = {float(1 << form.bits)}> ()"]
    steps += ["column = Constant <value_ints = [0, 0, -1, 1]> ()"]
    parts = []
    for i in range(per_byte):
        part = f"rest{i}"
        if i < per_byte - 1:
            steps += [
                f"quotient{i} = Div (rest{i}, base)",
                f"rest{i + 1} = Floor (quotient{i})",
                f"above{i} = Mul (rest{i + 1}, base)",
                f"low{i} = Sub (rest{i}, above{i})",
            ]
            part = f"low{i}"
        steps.append(f"part{i} = Reshape ({part}, column)")
        parts.append(f"part{i}")
    return [
        *steps,
        f"codesF = Concat <axis = 3> ({', '.join(parts)})",
        "blocked = Constant <value_ints = [0, 0, -1]> ()",
        "codesB = Reshape (codesF, blocked)",
        f"offset = Constant <value_float = {float(form.offset)}> ()",
        "centred = Sub (codesB, offset)",
        "perBlock = Constant <value_ints = [0, -1, 1]> ()",
        "scalesB = Reshape (S, perBlock)",
        "scaled = Mul (centred, scalesB)",
        "matrix = Constant <value_ints = [0, -1]> ()",
        "wide = Reshape (scaled, matrix)",
        *(_cut_columns("wide", "decoded") if needs.ragged else ["decoded = Identity (wide)"]),
        "shape = Constant <value_ints : ints = @shape> ()",
        "permuted = Reshape (decoded, shape)",
        "restored = Transpose <perm : ints = @perm> (permuted)",
        "Y = Cast <to : int = @to> (restored)",
    ]
