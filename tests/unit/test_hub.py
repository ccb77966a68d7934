"""The folder that model hubs expect: names of variants, bounds, config.json and the table for the card."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from click.testing import CliRunner

import onnxquant
from onnxquant.batch.job import Job, run_job
from onnxquant.batch.run import BatchReport
from onnxquant.cli import main
from onnxquant.errors import FeedError, ModelError, OutputError, RecipeError
from onnxquant.hub.config_json import with_value
from onnxquant.hub.variants import variants, variants_named
from onnxquant.recipe.progress import silent

CONFIG = b'{\r\n\t"model_type": "bert",\r\n\t"labels": {"0": "caf\xc3\xa9"},  \r\n\t"sizes": [1,2 , 3]\r\n}'


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of a batch without processes of their own."""

    def run(jobs: Sequence[Job], *_: Any, **__: Any) -> BatchReport:
        return BatchReport(tuple(run_job(job, silent) for job in jobs))

    monkeypatch.setattr(sys.modules["onnxquant.hub.make"], "run", run)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "onnx").mkdir()
    graphs.save(graphs.matmul(64, 96), tmp_path / "onnx" / "model.onnx")
    (tmp_path / "config.json").write_bytes(CONFIG)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / "onnx").iterdir())


def save(folder: Path, weight: Any, x: Any) -> dict[str, Any]:
    """Save Y = X W as the folder's model; its samples."""
    proto = graphs.matmul(*weight.shape)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "rows"
    tensor = proto.graph.initializer[0]
    tensor.CopyFrom(onnx.numpy_helper.from_array(weight.astype(np.float32), tensor.name))
    graphs.save(proto, folder / "onnx" / "model.onnx")
    return {proto.graph.input[0].name: x.astype(np.float32)}


def config(folder: Path) -> Any:
    return json.loads((folder / "config.json").read_bytes())["transformers.js_config"]


def test_variants_have_the_names_and_the_entries_that_the_client_looks_for(folder: Path) -> None:
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "decoder_model_merged.onnx")
    report = onnxquant.hub(folder, only=["q8,q4"], external_data="always")
    files = ["decoder_model_merged_q4.onnx", "decoder_model_merged_quantized.onnx", "model_q4.onnx", "model_quantized.onnx"]
    data = [f"{name}_data" for name in files]
    own = ["decoder_model_merged.onnx", "model.onnx", "variants.json", "variants.md"]
    assert names(folder) == sorted([*files, *data, *own])
    assert config(folder) == {"dtype": "q8", "use_external_data_format": dict.fromkeys(files, 1)}
    assert report.passed and {row.file for row in report.rows} == set(files)
    assert all(row.cosine and row.cosine > row.least_cosine for row in report.rows)
    card = (folder / "onnx" / "variants.md").read_text()
    assert all(f"| {row.file} | {row.dtype} | {row.figures[0]} |" in card for row in report.rows)
    proofs = json.loads((folder / "onnx" / "variants.json").read_text())["variants"]
    assert [entry["report"]["passed"] for entry in proofs] == [True] * 4


def test_all_other_bytes_of_the_configuration_stay(folder: Path) -> None:
    onnxquant.hub(folder, only=["int8"])
    text = (folder / "config.json").read_bytes()
    assert text.startswith(CONFIG[:-3]) and text.endswith(b"\r\n}")
    assert text[len(CONFIG) - 3 :] == b',\r\n\t"transformers.js_config": {\r\n\t\t"dtype": "int8"\r\n\t}\r\n}'


def test_a_variant_that_is_not_close_enough_is_not_kept_and_the_others_are(folder: Path) -> None:
    weight = np.random.default_rng(0).standard_normal((64, 96))
    weight[::32], weight[1::32] = 6, -6  # the others of their blocks are lost in 2 bits
    save(folder, weight, np.zeros(0))
    report = onnxquant.hub(folder, only=["int8", "q2"], external_data="always")
    states = {row.dtype: row.state for row in report.rows}
    assert not report.passed and states["int8"] != "FAILED" and states["q2"] == "FAILED"
    assert names(folder) == ["model.onnx", "model_int8.onnx", "model_int8.onnx_data", "variants.json", "variants.md"]
    assert "q2 of model (cosine" in (folder / "onnx" / "variants.md").read_text()
    assert config(folder)["use_external_data_format"] == {"model_int8.onnx": 1}


def test_a_variant_is_made_in_its_next_way_where_the_first_is_not_close_enough(folder: Path) -> None:
    """A sum over inputs of very different size: 8 bits for all of them together are too few, blocks of weights are not."""
    weight, x = (np.random.default_rng(i).standard_normal(shape) for i, shape in enumerate([(512, 96), (2, 16, 512)]))
    weight[0], x[..., 0] = 0, 120
    report = onnxquant.hub(folder, only=["q8"], data=save(folder, weight, x))
    operators = {node.op_type for node in onnx.load(folder / "onnx" / "model_quantized.onnx").graph.node}
    assert report.passed and (report.rows[0].cosine or 0) > 0.999
    assert report.rows[0].way.startswith("8-bit weights; dynamic activations not close enough: 0.")
    assert "Made otherwise than usual: q8 of model (8-bit weights; " in (folder / "onnx" / "variants.md").read_text()
    assert not operators & {"DynamicQuantizeMatMul", "DynamicQuantizeLinear"}


def test_convolutions_of_uint8_are_those_of_int8(folder: Path) -> None:
    """A classifier of depthwise convolutions had a cosine of 0.998 with int8's grid and 0.981 with zero points."""
    graphs.save(graphs.conv(32, 64), folder / "onnx" / "model.onnx")
    report = onnxquant.hub(folder, only=["int8", "uint8"])
    x = {"x": np.random.default_rng(0).standard_normal((1, 32, 7, 7)).astype(np.float32)}
    outputs = [ort.InferenceSession(str(folder / "onnx" / row.file)).run(None, x)[0] for row in report.rows]
    assert [row.way for row in report.rows] == ["", ""] and np.array_equal(*outputs)


def test_products_of_uint8_have_zero_points(folder: Path) -> None:
    graphs.save(graphs.matmul(512, 512), folder / "onnx" / "model.onnx")
    onnxquant.hub(folder, only=["uint8"])
    (product,) = (n for n in onnx.load(folder / "onnx" / "model_uint8.onnx").graph.node if n.op_type == "MatMulNBits")
    assert len(product.input) > 3 and product.input[3]


def test_a_dry_run_writes_nothing(folder: Path) -> None:
    before = names(folder)
    report = onnxquant.hub(folder, only=["fp16", "q4f16", "bnb4"], dry_run=True)
    assert report.passed and all(row.output_bytes for row in report.rows)
    assert names(folder) == before and (folder / "config.json").read_bytes() == CONFIG


def test_a_later_run_keeps_what_is_there(folder: Path) -> None:
    onnxquant.hub(folder, only=["int8"])
    made = (folder / "onnx" / "model_int8.onnx").stat().st_mtime_ns
    report = onnxquant.hub(folder, only=["q4"])
    assert [row.dtype for row in report.rows] == ["int8", "q4"]
    again = onnxquant.hub(folder, only=["int8"])
    assert again.passed and again.rows[0].cosine == report.rows[0].cosine and "--force" in again.rows[0].reason
    assert "| model_int8.onnx |" in (folder / "onnx" / "variants.md").read_text()
    kept = onnxquant.hub(folder, skip_existing=True, only=["int8", "q4"])
    assert kept.passed and kept.rows[0].cosine
    assert (folder / "onnx" / "model_int8.onnx").stat().st_mtime_ns == made
    # A file that is gone has no row any more.
    (folder / "onnx" / "model_q4.onnx").unlink()
    assert [row.dtype for row in onnxquant.hub(folder, only=["int8"], force=True).rows] == ["int8"]


@pytest.mark.parametrize("changed", ["model.onnx", "model_int8.onnx"])
def test_a_file_that_is_not_as_an_earlier_run_left_it_is_refused(folder: Path, changed: str) -> None:
    onnxquant.hub(folder, only=["int8"])
    proto = onnx.load(folder / "onnx" / changed)
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.raw_data = bytes([tensor.raw_data[0] ^ 1]) + tensor.raw_data[1:]  # of the same size
    onnx.save(proto, folder / "onnx" / changed)
    (row,) = onnxquant.hub(folder, only=["int8"]).rows
    assert row.state == "ERROR" and row.reason.startswith("onnx/model_int8.onnx: exists already")


@pytest.mark.parametrize("skip_existing", [False, True])
def test_a_file_stays_where_the_one_that_would_replace_it_is_not_close_enough(folder: Path, skip_existing: bool) -> None:
    onnxquant.hub(folder, only=["int8"], external_data="always")
    onnx_folder = folder / "onnx"
    for ending in ("", "_data"):
        shutil.copy(onnx_folder / f"model_int8.onnx{ending}", onnx_folder / f"model_q2.onnx{ending}")
    proto = onnx.load(onnx_folder / "model_q2.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.replace("model_int8", "model_q2")
    onnx.save(proto, onnx_folder / "model_q2.onnx")
    before = {path.name: path.read_bytes() for path in onnx_folder.glob("model_q2*")}
    weight = np.random.default_rng(0).standard_normal((64, 96))
    weight[::32], weight[1::32] = 6, -6  # the others of their blocks are lost in 2 bits
    save(folder, weight, np.zeros(0))
    report = onnxquant.hub(folder, only=["q2"], force=True, skip_existing=skip_existing, external_data="always")
    assert [row.state for row in report.rows] == ["FAILED"]
    assert {path.name: path.read_bytes() for path in onnx_folder.glob("model_q2*")} == before
    assert not [name for name in names(folder) if name.startswith(".")]


def test_a_file_that_is_close_enough_replaces_the_one_that_was_there(folder: Path) -> None:
    (folder / "onnx" / "model_int8.onnx").write_bytes(b"old")
    report = onnxquant.hub(folder, only=["int8"], force=True, external_data="always")
    assert report.passed and report.rows[0].report and report.rows[0].report["output"] == "onnx/model_int8.onnx"
    assert names(folder) == ["model.onnx", "model_int8.onnx", "model_int8.onnx_data", "variants.json", "variants.md"]
    assert config(folder)["use_external_data_format"] == {"model_int8.onnx": 1}


def test_a_file_that_cannot_be_read_is_named_and_harms_no_other(folder: Path) -> None:
    for name in ("model_q2f16.onnx", "model_q4.onnx", "encoder_model.onnx"):
        (folder / "onnx" / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    report = onnxquant.hub(folder, only=["int8"])
    assert [row.file for row in report.rows] == ["model_int8.onnx"] and report.passed
    assert config(folder)["dtype"] == "int8" and "variants.md" in names(folder)
    for name, end in (("model_q2f16", "no entry is made for it"), ("encoder_model", "no variants are made of it")):
        (note,) = [n for n in report.notes if n.startswith(f"{name}.onnx: cannot be read (") and n.endswith(f"); {end}")]
        assert str(folder) not in note


def test_another_client_gets_no_entries_of_transformers_js(folder: Path) -> None:
    graphs.save(graphs.matmul(64, 96), folder / "onnx" / "model.onnx", external=True)
    report = onnxquant.hub(folder, only="int8", clients="openvino")
    assert report.passed and report.config == {} and (folder / "config.json").read_bytes() == CONFIG
    assert not any("rename" in note for note in report.notes)


def test_one_client_may_be_given_as_a_text(folder: Path) -> None:
    assert [row.dtype for row in onnxquant.hub(folder, only="q8", clients="transformers.js", dry_run=True).rows] == ["q8"]


def test_what_is_published_names_no_folder_of_this_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "feeds").mkdir()
    np.savez(folder / "feeds" / "x.npz", x=np.ones((2, 3, 64), np.float32))
    (folder / "onnx" / "model_q4.onnx").write_bytes(b"mine")
    for place in (folder, Path(folder.name)):
        monkeypatch.chdir(folder.parent)
        onnxquant.hub(place, only=["int8", "q4"], data=str(folder / "feeds" / "x.npz"))
        text = "".join((folder / "onnx" / name).read_text() for name in ("variants.md", "variants.json"))
        assert str(folder.parent) not in text and f"{folder.name}/" not in text
        assert "q4 of model (onnx/model_q4.onnx: exists already" in text
        (folder / "onnx" / "model_int8.onnx").unlink()


def test_files_that_are_no_float_models_are_left_out(folder: Path) -> None:
    onnxquant.quantize(folder / "onnx" / "model.onnx", folder / "onnx" / "other.onnx", proof=False)
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "model_O2.onnx")
    onnxquant.quantize(
        folder / "onnx" / "model.onnx", folder / "onnx" / "half.onnx", format="f16", whole_graph=True, proof=False
    )
    report = onnxquant.hub(folder, only=["int8"], dry_run=True)
    assert [row.file for row in report.rows] == ["model_int8.onnx"]
    assert any(note.startswith("other.onnx: is quantized already") for note in report.notes)
    assert any(note.startswith("half.onnx: holds no float32 weights") for note in report.notes)


def test_entries_of_the_user_stay_or_are_named(folder: Path) -> None:
    table = '{"transformers.js_config": {"dtype": "fp32", "use_external_data_format": true, "kv": [1]}}'
    (folder / "config.json").write_text(table)
    report = onnxquant.hub(folder, only=["int8"])
    assert config(folder) == {"dtype": "fp32", "use_external_data_format": False, "kv": [1]}
    assert any("dtype stays 'fp32'" in note for note in report.notes)
    assert any("use_external_data_format was True" in note for note in report.notes)


def test_a_folder_without_a_configuration_gets_none(folder: Path) -> None:
    (folder / "config.json").unlink()
    report = onnxquant.hub(folder, only=["int8"])
    assert report.passed and not (folder / "config.json").exists()
    assert any("config.json is missing" in note for note in report.notes)


def test_data_of_the_float_model_under_another_name_is_said(folder: Path) -> None:
    graphs.save(graphs.matmul(64, 96), folder / "onnx" / "model.onnx", external=True)
    report = onnxquant.hub(folder, only=["int8"])
    assert any("model.onnx: keeps its data in model.bin" in note and "onnxquant move" in note for note in report.notes)
    assert {"model.bin", "model_int8.onnx", "model_int8.onnx_data"} <= set(names(folder))


def test_each_model_may_have_samples_of_its_own(folder: Path) -> None:
    shutil.copy(folder / "onnx" / "model.onnx", folder / "onnx" / "encoder_model.onnx")
    (folder / "feeds").mkdir()
    for count, name in ((3, "model"), (5, "encoder_model")):
        np.savez(folder / "feeds" / f"{name}.npz", x=np.ones((count, 3, 64), np.float32))
    report = onnxquant.hub(folder, only=["int8"], data=str(folder / "feeds"))
    assert report.passed
    proofs = json.loads((folder / "onnx" / "variants.json").read_text())["variants"]
    feeds = [Path(entry["report"]["proof"]["feeds"]["source"]).name for entry in proofs]
    assert feeds == ["encoder_model.npz", "model.npz"]


def test_what_cannot_be_done_is_refused_before_any_work(folder: Path) -> None:
    for text, says in ((b"[1]", "expected an object"), (b"{", "is no JSON"), (b'{"transformers.js_config": 3}', "is 3")):
        (folder / "config.json").write_bytes(text)
        with pytest.raises(RecipeError, match=says):
            onnxquant.hub(folder)
    (folder / "config.json").write_bytes(CONFIG)
    with pytest.raises(RecipeError, match="unknown variant 'q5'"):
        onnxquant.hub(folder, only=["q8,q5"])
    (folder / "onnx" / "variants.md").write_text("mine")
    with pytest.raises(OutputError, match=r"variants\.md: exists already"):
        onnxquant.hub(folder)
    (folder / "onnx" / "variants.md").unlink()
    for data in ("none.npz", folder / "none"):
        with pytest.raises(FeedError, match="no such file or folder"):
            onnxquant.hub(folder, data=data)
        assert CliRunner().invoke(main, ["hub", str(folder), "--data", str(data)]).exit_code == 2
    with pytest.raises(ModelError, match="has no folder 'onnx'"):
        onnxquant.hub(folder / "onnx")
    (folder / "onnx" / "model.onnx").unlink()
    with pytest.raises(ModelError, match="holds no model with float32 weights"):
        onnxquant.hub(folder)
    assert names(folder) == []


def test_a_model_without_weights_is_nothing_to_do(folder: Path) -> None:
    save(folder, np.ones((4, 4)), np.ones((1, 4)))
    result = CliRunner().invoke(main, ["hub", str(folder)])
    assert result.exit_code == 0 and "model.onnx: nothing to do" in result.output
    assert names(folder) == ["model.onnx"]


def test_the_command_prints_a_narrow_table_and_says_what_is_missing(folder: Path) -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["hub", str(folder), "--only", "int8"])
    assert result.exit_code == 0, result.output
    assert "model_int8.onnx" in result.output and 'dtype: "int8"' in result.output
    assert max(map(len, result.output.splitlines()[:3])) <= 80
    again = CliRunner().invoke(main, ["hub", str(folder), "--only", "int8", "--json"])
    assert again.exit_code == 0
    assert "there already" in json.loads(again.output)["variants"][0]["reason"]
    assert CliRunner().invoke(main, ["hub", str(folder / "none")]).exit_code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{}', '{\n  "t": {\n    "d": 1\n  }\n}'),
        ('{ }', '{\n  "t": {\n    "d": 1\n  }\n}'),
        ('{"a":1}', '{"a":1, "t": {"d": 1}}'),
        ('\ufeff{ "a" : "}" , "b":[ ] }\n', '\ufeff{ "a" : "}" , "b":[ ], "t": {"d": 1} }\n'),
        ('{\n    "a": {"t": {"d": 0}}\n}\n', '{\n    "a": {"t": {"d": 0}},\n    "t": {\n        "d": 1\n    }\n}\n'),
        ('{"t": {"d": [0, 2], "e" :3}, "a": 1e5}', '{"t": {"d": 1, "e" :3}, "a": 1e5}'),
        ('{"t": {}, "a": "\\"{"}', '{"t": {\n    "d": 1\n  }, "a": "\\"{"}'),
        ('{"t": {"e": 3}, "a": 0.10}', '{"t": {"e": 3, "d": 1}, "a": 0.10}'),
    ],
)  # fmt: skip
def test_one_entry_changes_and_nothing_else(text: str, expected: str) -> None:
    changed = with_value(text, ["t", "d"], 1)
    assert json.loads(changed.removeprefix("\ufeff")) == json.loads(expected.removeprefix("\ufeff"))
    if text not in ('{"t": {}, "a": "\\"{"}',):  # an empty object has no style
        assert changed == expected
    assert changed.startswith(text[: text.index("{") + 1])


def test_a_variant_that_few_models_come_close_in_is_made_only_where_it_is_named() -> None:
    assert "q2" in variants() and [v.dtype for v in variants_named([])] == [name for name in variants() if name != "q2"]
    assert [v.dtype for v in variants_named(["q2,q4"])] == ["q4", "q2"]
