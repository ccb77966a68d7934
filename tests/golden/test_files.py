"""Files that earlier versions wrote can be read, described, verified and dequantized by this one.

The files in tests/golden/files are never regenerated: users keep such files. Version 1 of the metadata, which has no schema
number, wrote all of them; ``expected.json`` and the ``.npz`` files are what that version said of them itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxquant
from onnxquant.artifact.records import Metadata, Origin, entry_text
from onnxquant.errors import ModelError
from onnxquant.graph.names import HASHES, METADATA
from onnxquant.graph.seal import seal
from onnxquant.json_data import to_object

FOLDER = Path(__file__).parent / "files"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
ENCODED = [name for name, entry in EXPECTED.items() if "dequantized" in entry]


def entry_of(path: Path) -> onnx.StringStringEntryProto:
    return next(e for e in onnx.load(path).metadata_props if e.key == METADATA)


def test_every_file_has_expectations() -> None:
    assert {p.stem for p in FOLDER.glob("*.onnx")} == set(EXPECTED)
    assert {p.stem for p in FOLDER.glob("*.npz")} == set(ENCODED)
    layouts = {
        layout
        for name in ENCODED
        for r in Metadata.read(onnx.load(FOLDER / f"{name}.onnx")).records
        for layout in r.planes
    }
    assert layouts == {"rows", "columns", "table", "tiles", "channels", "transposed", "dense"}


@pytest.mark.parametrize("name", EXPECTED)
def test_info_of_an_old_file(name: str) -> None:
    described = to_object(onnxquant.info(FOLDER / f"{name}.onnx"))
    # Clients, and the oldest onnxruntime, change with the releases that are known: tests/unit/test_clients.py.
    changing = ("model", "clients", "needs_onnxruntime")
    expected = {k: v for k, v in EXPECTED[name]["info"].items() if k not in changing}
    assert {k: v for k, v in described.items() if k not in changing} == expected


@pytest.mark.parametrize("name", EXPECTED)
def test_verify_of_an_old_file(name: str) -> None:
    results = onnxquant.verify(FOLDER / f"{name}.onnx")
    assert results == EXPECTED[name]["verify"] and all(results.values())


@pytest.mark.parametrize("name", EXPECTED)
def test_origin_of_an_old_file(name: str) -> None:
    origin = Origin.read(onnx.load(FOLDER / f"{name}.onnx"))
    assert origin and len(origin.sha256) == 64 and origin.rules


@pytest.mark.parametrize("name", ENCODED)
def test_dequantized_old_file_has_the_same_weights(name: str, tmp_path: Path) -> None:
    count = onnxquant.dequantize(FOLDER / f"{name}.onnx", tmp_path / "float.onnx")
    proto = onnx.load(tmp_path / "float.onnx")
    values = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    with np.load(FOLDER / f"{name}.npz") as expected:
        assert set(values) == set(expected)
        for key in expected:
            assert values[key].dtype == expected[key].dtype and values[key].tobytes() == expected[key].tobytes(), key
    assert count == EXPECTED[name]["dequantized"]
    assert [n.op_type for n in proto.graph.node] == EXPECTED[name]["nodes"]


def test_a_whole_graph_in_float16_has_no_encoded_weights(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=EXPECTED["float16"]["error"].removeprefix("FILE: ")):
        onnxquant.dequantize(FOLDER / "float16.onnx", tmp_path / "float.onnx")


@pytest.mark.parametrize("name", ENCODED)
def test_metadata_of_an_old_file_is_the_same_after_reading_and_writing(name: str) -> None:
    entry = entry_of(FOLDER / f"{name}.onnx")
    old = json.loads(entry.value)
    assert "schema" not in old
    proto = onnx.ModelProto()
    record = Metadata.read(onnx.load(FOLDER / f"{name}.onnx"))
    assert record
    proto.metadata_props.add(key=METADATA, value=entry_text(record))
    new = json.loads(proto.metadata_props[0].value)
    assert Metadata.read(proto) == record
    for site in new["sites"]:
        site["results"] = [[r["kind"], r["x"], r["y"], *([r["bias"]] if r["bias"] else [])] for r in site["results"]]
    assert new == {"schema": 2, "rescaled": [], **old}


def test_metadata_of_a_newer_version_is_refused_with_both_numbers(tmp_path: Path) -> None:
    proto = onnx.load(FOLDER / "ort.onnx")
    entry = next(e for e in proto.metadata_props if e.key == METADATA)
    entry.value = json.dumps({**json.loads(entry.value), "schema": 3, "version": "9.1.0"})
    seal(proto, json.loads(next(e.value for e in proto.metadata_props if e.key == HASHES)))
    onnx.save(proto, tmp_path / "newer.onnx")
    message = "schema 3, expected at most 2: onnxquant 9.1.0 wrote it"
    with pytest.raises(ModelError, match=message):
        onnxquant.info(tmp_path / "newer.onnx")
    with pytest.raises(ModelError, match=message):
        onnxquant.dequantize(tmp_path / "newer.onnx", tmp_path / "float.onnx")
    # Hashes say nothing of weights: they can be checked whoever wrote the file.
    assert all(onnxquant.verify(tmp_path / "newer.onnx").values())


@pytest.mark.parametrize("schema", [0, -1, "2", 1.5, None])
def test_a_damaged_schema_number_is_refused(schema: object, tmp_path: Path) -> None:
    proto = onnx.load(FOLDER / "ort.onnx")
    entry = next(e for e in proto.metadata_props if e.key == METADATA)
    entry.value = json.dumps({**json.loads(entry.value), "schema": schema})
    onnx.save(proto, tmp_path / "damaged.onnx")
    with pytest.raises(ModelError, match="metadata is damaged"):
        onnxquant.info(tmp_path / "damaged.onnx")
