"""Defects planted on purpose: the proof must find each, and say that it did; those of saved recipes show in the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant.convert import recipe_of_plan
from onnxquant.graph.names import ORIGIN, SEAL
from onnxquant.native import dispatch
from onnxquant.native import packers as packed
from onnxquant.numerics import packing
from onnxquant.targets import bodies, ort, products
from onnxquant.targets.layouts import columns, dense, rows, tiles
from onnxquant.validation import compare

Array = NDArray[Any]
Change = Callable[[Array], Array]
LAYOUTS: dict[str, Any] = {"ort": rows.RowsLayout, "onnx": columns.ColumnsLayout, "custom": tiles.TilesLayout}
SIZE = 256


@pytest.fixture(autouse=True)
def only_what_decides(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without the measurements of a proof (time, memory): they take most of it and decide nothing."""
    monkeypatch.setattr(compare, "_measure", lambda *arguments: None)
    bodies.body.cache_clear()
    yield
    bodies.body.cache_clear()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.save(graphs.matmul(SIZE, SIZE, opset=21), tmp_path / "model.onnx")


def problems(source: Path, target: str, **options: Any) -> list[str]:
    """Why the proof of a conversion fails; empty when it passes."""
    options = {"format": "q4_0", "samples": 1, "force": True, **options}
    report = onnxquant.quantize(source, source.with_name("out.onnx"), target=target, **options)
    assert report.proof
    assert report.passed == (not report.problems)
    return report.problems


def swapped_nibbles(values: Array) -> Array:
    """High and low nibble of each byte."""
    return (values << np.uint8(4) | values >> np.uint8(4)).astype(np.uint8)


def transposed(values: Array) -> Array:
    """A code plane written by columns."""
    return np.ascontiguousarray(values.reshape(SIZE, -1).T).reshape(values.shape)


def off_by_one(values: Array) -> Array:
    """Every code, or zero point, one higher."""
    return (values + np.uint8(0x11)).astype(np.uint8)


def shifted(values: Array) -> Array:
    """Each block has the value of the one before it."""
    return np.roll(values.reshape(-1), 1).reshape(values.shape)


def reversed_rows(values: Array) -> Array:
    """First row, or tile, last."""
    return np.ascontiguousarray(values[::-1])


def one_row_lost(values: Array) -> Array:
    """All but the last row, or tile, as they should be: the least that a defect can touch."""
    out = values.copy()
    out[-1] = out[0]
    return out


def scaled(values: Array) -> Array:
    """Scales a thousandth too large: as coarse as float16 itself."""
    return (values * np.float32(1.001)).astype(values.dtype)


# Where, what, and what undoes it when the reader makes the same mistake.
MUTATIONS: list[tuple[str, Change, Change]] = [
    ("codes", swapped_nibbles, swapped_nibbles),
    ("codes", transposed, lambda v: np.ascontiguousarray(v.reshape(-1, SIZE).T).reshape(v.shape)),
    ("codes", off_by_one, lambda v: (v - np.uint8(0x11)).astype(np.uint8)),
    ("codes", reversed_rows, reversed_rows),
    ("codes", shifted, lambda v: np.roll(v.reshape(-1), -1).reshape(v.shape)),
    ("scales", shifted, lambda v: np.roll(v.reshape(-1), -1).reshape(v.shape)),
    ("scales", reversed_rows, reversed_rows),
]
SYMMETRIC = [pytest.param(p, c, u, id=f"{p} {c.__name__}") for p, c, u in MUTATIONS]
ASYMMETRIC = [
    pytest.param("zero_points", off_by_one, lambda v: (v - np.uint8(0x11)).astype(np.uint8), id="off_by_one"),
    pytest.param("zero_points", reversed_rows, reversed_rows, id="reversed_rows"),
    pytest.param("zero_points", shifted, lambda v: np.roll(v.reshape(-1), -1).reshape(v.shape), id="shifted"),
]
SUBTLE = [pytest.param("codes", one_row_lost, id="one row"), pytest.param("scales", scaled, id="scales scaled")]


def plant(patch: pytest.MonkeyPatch, layout: Any, plane: str, change: Change, undo: Change | None = None) -> None:
    """Break what a layout writes; with ``undo`` also what it reads, in the same way."""
    pack, unpack = layout.pack, layout.unpack

    def broken_pack(self: Any, encoded: Any) -> dict[str, Array]:
        return {name: change(values) if name == plane else values for name, values in pack(self, encoded).items()}

    def broken_unpack(self: Any, planes: dict[str, Array]) -> Any:
        assert undo
        return unpack(self, {n: undo(v).reshape(v.shape) if n == plane else v for n, v in planes.items()})

    patch.setattr(layout, "pack", broken_pack)
    if undo:
        patch.setattr(layout, "unpack", broken_unpack)


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("options", [{}, {"format": "int4", "symmetric": False}, {"format": "i2_s"}], ids=str)
def test_without_a_defect_the_proof_passes(target: str, options: dict[str, Any], model: Path) -> None:
    assert problems(model, target, **options) == []


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize(("plane", "change", "undo"), SYMMETRIC)
def test_wrong_planes_are_found_by_reading_them_again(
    target: str, plane: str, change: Change, undo: Change, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is wrong and its reader right: then twin and file agree, and only what was encoded can tell."""
    plant(monkeypatch, LAYOUTS[target], plane, change)
    assert "weight 'w': the planes in the file are not the ones it was encoded to" in problems(model, target)


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize(("plane", "change", "undo"), SYMMETRIC)
def test_planes_wrong_both_ways_are_found_by_the_twin(
    target: str, plane: str, change: Change, undo: Change, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writer and reader agree on the mistake: only the runtime, reading by its own rules, can tell."""
    plant(monkeypatch, LAYOUTS[target], plane, change, undo)
    reasons = problems(model, target)
    assert any(p.startswith("twin vs exact: output 'y' has") for p in reasons), reasons
    assert not any("planes in the file" in p for p in reasons)
    # Our library and the bodies for stock onnxruntime are proven apart.
    assert any(p.startswith("twin vs library exact") for p in reasons) == (target == "custom")


@pytest.mark.parametrize("target", ["ort", "onnx"])
@pytest.mark.parametrize(("plane", "change", "undo"), ASYMMETRIC)
@pytest.mark.parametrize("both", [False, True], ids=["written", "written and read"])
def test_wrong_zero_points_are_found(
    target: str, both: bool, plane: str, change: Change, undo: Change, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, LAYOUTS[target], plane, change, undo if both else None)
    reasons = problems(model, target, format="int4", symmetric=False)
    assert any(("twin vs exact" if both else "planes in the file") in p for p in reasons), reasons


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize(("plane", "change"), SUBTLE)
def test_small_damage_is_found_too(
    target: str, plane: str, change: Change, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, LAYOUTS[target], plane, change)
    assert problems(model, target)


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("format", ["q4_0", "int2"])
def test_packer_and_unpacker_with_the_same_wrong_bit_order(
    target: str, format: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one bit packer itself: first code in the highest bits instead of the lowest."""
    pack, unpack = packing.pack, packing.unpack

    def turned(values: Array, bits: int) -> Array:
        per_byte = 8 // bits
        return np.ascontiguousarray(unpack(values, bits, values.shape[-1] * per_byte).reshape(-1, per_byte)[:, ::-1])

    def wrong_pack(codes: Array, bits: int) -> Array:
        good = pack(codes, bits)
        return pack(turned(good, bits), bits).reshape(good.shape) if bits < 8 else good

    def wrong_unpack(packed: Array, bits: int, count: int) -> Array:
        good = pack(turned(packed, bits), bits).reshape(packed.shape) if bits < 8 else packed
        return unpack(good, bits, count)

    monkeypatch.setattr(packed.library, "is_available", lambda: False)
    for module in (columns, dense, rows, packed):
        monkeypatch.setattr(module, "pack", wrong_pack)
        monkeypatch.setattr(module, "unpack", wrong_unpack)
    options = {"format": format} if target != "onnx" or format == "q4_0" else {"format": "int4"}
    reasons = problems(model, target, **options)
    assert any("twin vs exact" in p for p in reasons), reasons


def test_wrong_nibbles_in_the_packer_alone(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack = packing.pack
    monkeypatch.setattr(packed.library, "is_available", lambda: False)
    for module in (columns, dense, rows, packed):
        monkeypatch.setattr(module, "pack", lambda codes, bits: swapped_nibbles(pack(codes, bits)))
    for target in LAYOUTS:
        assert problems(model, target), target


@pytest.mark.parametrize("target", LAYOUTS)
@pytest.mark.parametrize("plane", ["codes", "scales"])
def test_a_defect_in_one_of_many_weights_of_a_real_model_is_found(
    target: str, plane: str, default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model.onnx"
    source.write_bytes(default_model.read_bytes())
    assert problems(source, target) == []
    # Only target onnx stores weights that no kernel reads (of convolutions) in an order of their own.
    for layout in (LAYOUTS[target], *([dense.DenseLayout] if target == "onnx" else [])):
        with monkeypatch.context() as patch:
            plant(patch, layout, plane, reversed_rows)
            reasons = problems(source, target)
        assert any("planes in the file are not the ones" in p for p in reasons), reasons
        assert all("planes in the file" in p or "rows or columns are misplaced" in p for p in reasons), reasons


# ---- defects in nodes, bodies and decoders: the planes are right ----


def decoded_half_a_step_off(patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    decode = dispatch.decode

    def wrong(encoded: Any) -> Array:
        return decode(encoded) + np.abs(encoded.planes["scales"].astype(np.float32)).mean() / 2

    patch.setattr(dispatch, "decode", wrong)
    return graphs.matmul(SIZE, SIZE)


def alpha_forgotten(patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    patch.setattr(products, "attribute", lambda node, name, default: default)
    return graphs.gemm(SIZE, SIZE)


def lookup_with_a_wrong_zero_point(patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    zero_points = ort._Blockwise._zero_points

    def wrong(self: Any, nodes: Any) -> str:
        name = zero_points(self, nodes)
        for tensor in self.site.graph.initializer:
            if "zero_point" in tensor.name:
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.full((1, 1), 0x99, np.uint8), tensor.name))
        return name

    patch.setattr(ort._Blockwise, "_zero_points", wrong)
    return graphs.gather(SIZE, SIZE)


def change_body(patch: pytest.MonkeyPatch, before: str, after: str) -> None:
    """Replace a piece of text in every body."""
    lines = bodies._Body.lines

    def wrong(self: Any, kind: str) -> list[str]:
        steps = lines(self, kind)
        assert any(before in step for step in steps)
        return [step.replace(before, after) for step in steps]

    patch.setattr(bodies._Body, "lines", wrong)


def body_with_a_wrong_offset(patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    change_body(patch, "-1.0, 0.0, 1.0,", "-1.0, 1.0, 1.0,")
    return graphs.conv(32, 64)


def body_that_forgets_to_turn_the_scales(patch: pytest.MonkeyPatch) -> onnx.ModelProto:
    change_body(patch, "perm = [0, 2, 1]", "perm = [0, 1, 2]")
    return graphs.matmul(SIZE, SIZE)


@pytest.mark.parametrize(
    ("plant_it", "target"),
    [
        (decoded_half_a_step_off, "ort"),
        (decoded_half_a_step_off, "onnx"),
        (decoded_half_a_step_off, "custom"),
        (alpha_forgotten, "ort"),
        (alpha_forgotten, "onnx"),
        (alpha_forgotten, "custom"),
        (lookup_with_a_wrong_zero_point, "ort"),
        (body_with_a_wrong_offset, "custom"),
        (body_that_forgets_to_turn_the_scales, "custom"),
    ],
)
def test_a_wrong_node_body_or_decoder_is_found_by_the_twin(
    plant_it: Callable[[pytest.MonkeyPatch], onnx.ModelProto],
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        source = graphs.save(plant_it(patch), tmp_path / "model.onnx")
        reasons = problems(source, target)
        assert any("twin vs exact" in p and "expected 100" in p for p in reasons), reasons
    bodies.body.cache_clear()
    assert problems(source, target) == []


# ---- an option that is missing from saved recipes: the file that such a recipe makes is another one ----

RECIPES: dict[str, dict[str, Any]] = {
    "target": {"target": "custom"},
    "compute": {"bits": 4, "compute": "float"},
    "solver": {"bits": 4, "solver": "mse"},
    "block_size": {"bits": 4, "block_size": 64},
    "activations": {"activations": "dynamic"},
    "permutation": {"bits": 4, "permutation": "norm", "target": "custom"},
    "external_data": {"external_data": "always"},
}


def contents_by_saved_recipe(source: Path, options: dict[str, Any]) -> list[bytes]:
    """A file made with options, and the one that its saved recipe makes, without the origin and the seal, which differ."""
    recipe, output = source.with_name("plan.toml"), source.with_name("out.onnx")
    contents = []
    for given in ({**options, "save_recipe": str(recipe)}, {"recipe": recipe}):
        onnxquant.quantize(source, output, proof=False, force=True, **given)
        proto = onnx.load(output, load_external_data=False)
        entries = [entry for entry in proto.metadata_props if entry.key not in (ORIGIN, SEAL)]
        del proto.metadata_props[:]
        proto.metadata_props.extend(entries)
        contents.append(proto.SerializeToString(deterministic=True))
    return contents


@pytest.mark.parametrize("name", RECIPES)
def test_an_option_that_saved_recipes_forget_makes_another_file(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, again = contents_by_saved_recipe(model, RECIPES[name])
    assert again == first
    to_toml = recipe_of_plan.to_toml

    def forgetful(entries: dict[str, Any], floats: Sequence[str] = ()) -> str:
        tables = [entries.get("options", {}), *entries["rules"]]
        assert sum(table.pop(name, None) is not None for table in tables) == 1
        return to_toml(entries, floats)

    monkeypatch.setattr(recipe_of_plan, "to_toml", forgetful)
    first, again = contents_by_saved_recipe(model, RECIPES[name])
    assert again != first


def test_a_coarse_format_is_no_defect(model: Path) -> None:
    """float vs twin is what the format costs; twin vs file is what is wrong with the file."""
    report = onnxquant.quantize(model, model.with_name("out.onnx"), format="int2", target="ort")
    assert report.passed and report.proof
    outputs = report.proof.outputs
    assert 3 < outputs["float vs twin"]["y"].sqnr_db < 15
    assert outputs["twin vs exact"]["y"].sqnr_db > 100


def test_last_bits_that_a_model_magnifies_are_no_defect(tmp_path: Path) -> None:
    """Sin(1e4 h) shows roundings of h that no other output shows; the same samples with other last bits show them, too."""
    nodes = [
        graphs.node("MatMul", ["x", "w"], ["h"]),
        graphs.node("Mul", ["h", "factor"], ["m"]),
        graphs.node("Sin", ["m"], ["y"]),
    ]
    constants = {"w": graphs.weight(256, 64), "factor": np.float32(1e4)}
    proto = graphs.model(nodes, {"x": ("float32", [4, 256])}, {"y": "float32"}, constants)
    report = onnxquant.quantize(proto, tmp_path / "q.onnx", format="q4_0", target="custom", samples=1, threads=1)
    assert report.problems == []
