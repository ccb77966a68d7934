"""Data files: their names, their number, and renaming a model with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxquant
from onnxquant.errors import ModelError, OnnxQuantError, OutputError, RecipeError
from onnxquant.graph.data_files import name_like

X = graphs.weight(3, 64, seed=21)


def outputs(path: Path) -> Any:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def model(path: Path, *locations: str) -> Path:
    """Y = 0.5 X W' + 2 C, its two tensors in files of these names: both in one, or each in its own."""
    proto = graphs.gemm(64, 48)
    ends: dict[str, int] = {}
    for i, tensor in enumerate(proto.graph.initializer if locations else ()):
        raw, location = bytes(tensor.raw_data), locations[i % len(locations)]
        (path.parent / location).parent.mkdir(exist_ok=True)
        with (path.parent / location).open("ab") as file:
            file.write(raw)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        # The location need not come first.
        entries = {"offset": ends.get(location, 0), "length": len(raw), "location": location}
        ends[location] = ends.get(location, 0) + len(raw)
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=str(value))
    path.write_bytes(proto.SerializeToString())
    return path


def quantize(source: Path, output: Path, **options: Any) -> Any:
    return onnxquant.quantize(source, output, format="int8", target="ort", proof=False, **options)


# ---- names ----


@pytest.mark.parametrize(
    ("locations", "name"),
    [
        (["a.onnx_data"], "out.onnx_data"),
        (["a.onnx.data"], "out.onnx.data"),
        (["a.bin"], "out.bin"),
        (["a_weights.pb"], "out_weights.pb"),
        (["a.onnx_data", "a.onnx_data_1", "a.onnx_data_2"], "out.onnx_data"),
        (["a.onnx_data", "a.onnx_data_x"], "out.onnx.data"),
        (["weights.bin"], "out.onnx.data"),
        (["layer.0", "layer.1"], "out.onnx.data"),
        (["a/w"], "out.onnx.data"),
        (["a.onnx.d/w"], "out.onnx.data"),
        (["a.json"], "out.onnx.data"),
        (["a.int8.onnx.data"], "out.onnx.data"),
        (["ab"], "out.onnx.data"),
        ([], "out.onnx.data"),
    ],
)
def test_the_ending_behind_the_models_name_is_kept(locations: list[str], name: str) -> None:
    assert name_like(Path("d/a.onnx"), locations, Path("e/out.onnx")) == name


@pytest.mark.parametrize("how", ["quantize", "whole graph", "goal", "dequantize", "save"])
def test_every_way_of_writing_keeps_the_ending(how: str, tmp_path: Path) -> None:
    source, made = model(tmp_path / "m.onnx", "m.onnx_data"), tmp_path / "made"
    made.mkdir()
    output = made / "out.onnx"
    if how == "save":
        edited = onnxquant.Model(source)
        edited.set("w", onnxquant.encode(edited.weight("w"), "int8"))
        edited.save(output)
    elif how == "whole graph":
        onnxquant.quantize(source, output, format="f16", whole_graph=True, keep_io_types=True, proof=False)
    elif how == "goal":
        onnxquant.quantize(source, output, data={"x": X}, goal="small", effort="low")
    else:
        quantize(source, output)
        if how == "dequantize":
            output = made / "float.onnx"
            onnxquant.dequantize(made / "out.onnx", output)
    assert set(names(made)) >= {output.name, f"{output.name}_data"} and not list(made.glob("*.data"))
    assert outputs(output).shape == (3, 48)


@pytest.mark.parametrize(
    ("name", "file"),
    [("w.bin", "w.bin"), ("_data", "out.onnx_data"), (".bin", "out.onnx.bin"), ("-w.bin", "out.onnx-w.bin")],
)
def test_a_data_file_has_the_name_that_is_asked_for(name: str, file: str, tmp_path: Path) -> None:
    report = quantize(model(tmp_path / "m.onnx"), tmp_path / "out.onnx", data_name=name)
    assert names(tmp_path) == sorted(["m.onnx", "out.onnx", file])
    assert set(report.hashes.output) == {"out.onnx", file} and report.external_data
    assert report.output_bytes == (tmp_path / "out.onnx").stat().st_size + (tmp_path / file).stat().st_size
    assert outputs(tmp_path / "out.onnx").shape == (3, 48)


def test_a_client_is_served_under_the_name_that_it_looks_for(tmp_path: Path) -> None:
    source = model(tmp_path / "m.onnx", "m.bin")
    quantize(source, tmp_path / "out.onnx", clients=["transformers.js"])
    assert names(tmp_path) == ["m.bin", "m.onnx", "out.onnx", "out.onnx_data"]
    with pytest.raises(RecipeError, match=r"transformers\.js looks for b\.onnx_data"):
        quantize(source, tmp_path / "b.onnx", clients=["transformers.js"], data_name=".bin")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "x.json", "x.ONNX", "_x.md"])
def test_names_of_other_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="data_name is"):
        quantize(model(tmp_path / "m.onnx"), tmp_path / "out.onnx", data_name=name)
    with pytest.raises(RecipeError, match="data_name is"):
        onnxquant.move(model(tmp_path / "n.onnx", "n.bin"), tmp_path / "out.onnx", data_name=name)


@pytest.mark.parametrize("name", ["qq.bin", "qq"])
def test_the_name_of_the_model_itself_is_refused_before_any_work(name: str, tmp_path: Path) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("work has begun")

    output = tmp_path / ("qq.bin" if name == "qq.bin" else "qq_1")
    source = model(tmp_path / "m.onnx", "m.weights")
    with pytest.raises(RecipeError, match="the name of the model itself"):
        quantize(source, output, data_name=name, progress=fail)
    with pytest.raises(RecipeError, match="the name of the model itself"):
        onnxquant.move(source, output, data_name=name)
    assert names(tmp_path) == ["m.onnx", "m.weights"]


def test_a_derived_name_is_never_that_of_the_model_itself(tmp_path: Path) -> None:
    source = model(tmp_path / "m.onnx", "m.bin")
    (tmp_path / "other").mkdir()
    quantize(source, tmp_path / "q.bin")
    onnxquant.move(source, tmp_path / "other" / "b.bin")
    assert names(tmp_path) == ["other", "q.bin", "q.bin.data"] and names(tmp_path / "other") == ["b.bin", "b.bin.data"]
    source = model(tmp_path / "m.onnx", "weights")
    onnxquant.move(source, tmp_path / "other" / "weights")
    assert names(tmp_path / "other") == ["b.bin", "b.bin.data", "weights", "weights.data"]


def test_a_model_does_not_take_the_place_of_its_data(tmp_path: Path) -> None:
    source = model(tmp_path / "m.onnx", "weights")
    with pytest.raises(OutputError, match="weights: is data of the model"):
        onnxquant.move(source, tmp_path / "weights", force=True)
    assert outputs(source).shape == (3, 48)


def test_a_data_file_of_another_model_is_not_replaced(tmp_path: Path) -> None:
    source = model(tmp_path / "m.onnx")
    quantize(source, tmp_path / "a.onnx", data_name="w.bin")
    before = outputs(tmp_path / "a.onnx")
    with pytest.raises(OutputError, match=r"w\.bin: holds tensors of .*a\.onnx, too"):
        quantize(source, tmp_path / "b.onnx", data_name="w.bin", force=True)
    quantize(source, tmp_path / "a.onnx", data_name="w.bin", force=True)
    assert np.array_equal(outputs(tmp_path / "a.onnx"), before)


def test_one_data_file_for_several_models_is_refused(tmp_path: Path) -> None:
    sources = [model(tmp_path / "a.onnx"), model(tmp_path / "b.onnx")]
    with pytest.raises(RecipeError, match=r"data_name is 'w\.bin', one file for 2 models"):
        onnxquant.batch(sources, tmp_path / "made", data_name="w.bin")


# ---- several files ----


@pytest.mark.parametrize("limit", ["3100B", "1MB"])
def test_no_data_file_is_larger_than_asked(limit: str, tmp_path: Path) -> None:
    source = model(tmp_path / "m.onnx")
    made = [tmp_path / "one", tmp_path / "many"]
    for folder in made:
        folder.mkdir()
    quantize(source, made[0] / "out.onnx", external_data="always")
    planned = quantize(source, made[1] / "out.onnx", external_data="always", data_limit=limit, dry_run=True)
    quantize(source, made[1] / "out.onnx", external_data="always", data_limit=limit)
    files = [made[1] / name for name in names(made[1]) if name != "out.onnx"]
    assert [f.name for f in files] == ["out.onnx.data", "out.onnx.data_1"][: len(files)]
    assert len(files) == {"3100B": 2, "1MB": 1}[limit]
    assert max(f.stat().st_size for f in files) <= {"3100B": 3100, "1MB": 10**6}[limit]
    assert sum(p.stat().st_size for p in made[1].iterdir()) == planned.predicted_bytes
    assert np.array_equal(outputs(made[0] / "out.onnx"), outputs(made[1] / "out.onnx"))
    assert all(onnxquant.verify(made[1] / "out.onnx").values())


def replace_by(how: str, source: Path, target: Path) -> list[str]:
    """Replace a model by one with a single data file; the sentences on files that stay."""
    notes: list[str] = []
    if how == "move":
        other = model(target.parent / "other.onnx", "other.onnx.data")
        onnxquant.move(other, target, force=True, notes=notes)
        return notes
    options: dict[str, Any] = {"external_data": "always", "force": True}
    if how == "goal":
        report = onnxquant.quantize(source, target, data={"x": X}, goal="small", effort="low", **options)
    elif how == "whole graph":
        report = onnxquant.quantize(source, target, format="f16", whole_graph=True, proof=False, **options)
    else:
        report = quantize(source, target, **options)
    return [note for note in report.notes if "stays" in note]


@pytest.mark.parametrize("how", ["quantize", "move", "goal", "whole graph"])
def test_data_files_that_only_the_replaced_model_used_are_removed(how: str, tmp_path: Path) -> None:
    source, target = model(tmp_path / "m.onnx"), tmp_path / "out.onnx"
    quantize(source, target, external_data="always", data_limit="3100B")
    (tmp_path / "out.onnx.data_2").write_bytes(b"precious")
    assert (tmp_path / "out.onnx.data_1").exists()
    assert replace_by(how, source, target) == []
    assert names(tmp_path) == ["m.onnx", "out.onnx", "out.onnx.data", "out.onnx.data_2"]


@pytest.mark.parametrize("user", ["another model", "the source", "a file that cannot be read", "more bytes", "a link"])
def test_data_files_that_may_be_of_use_stay(user: str, tmp_path: Path) -> None:
    source, target, data = model(tmp_path / "m.onnx"), tmp_path / "out.onnx", tmp_path / "w.bin"
    quantize(source, target, data_name="w.bin")
    if user == "another model":
        (tmp_path / "other.onnx").write_bytes(target.read_bytes())
    elif user == "the source":  # whose name is none that other models have
        source = model(tmp_path / "float", "f.bin")
        target.unlink()
        target.write_bytes(source.read_bytes())
        data = tmp_path / "f.bin"
    elif user == "a file that cannot be read":
        (tmp_path / "other.onnx").write_bytes(b"text")
    elif user == "more bytes":
        data.write_bytes(data.read_bytes() + b"precious")
    else:
        data.rename(tmp_path / "real")
        data.symlink_to(tmp_path / "real")
    before = data.read_bytes()
    notes = replace_by("quantize", source, target)
    assert data.read_bytes() == before
    assert [note.split()[0] for note in notes] == ["w.bin"] * (user not in ("another model", "the source"))


def test_a_tensor_larger_than_a_file_may_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"'w/codes' has 3072 bytes; a data file may have 3000"):
        quantize(model(tmp_path / "m.onnx"), tmp_path / "out.onnx", external_data="always", data_limit="3kB")
    assert names(tmp_path) == ["m.onnx"]


def test_files_of_a_run_that_fails_after_writing_are_removed(tmp_path: Path) -> None:
    def fail(_: Any) -> float:
        raise ModelError("no")

    with pytest.raises(OnnxQuantError):
        onnxquant.quantize(
            model(tmp_path / "m.onnx"), tmp_path / "out.onnx", format="int8", external_data="always", data_limit="4kB",
            metric=fail,
        )  # fmt: skip
    assert names(tmp_path) == ["m.onnx"]


# ---- moving ----


@pytest.mark.parametrize("folder", ["", "other"])
@pytest.mark.parametrize(
    ("locations", "here", "there"),
    [
        ((), [], []),
        (("a.onnx_data",), ["b.onnx_data"], ["b.onnx_data"]),
        (("a.bin",), ["b.bin"], ["b.bin"]),
        (("a.onnx_data", "a.onnx_data_1"), ["b.onnx_data", "b.onnx_data_1"], ["b.onnx_data", "b.onnx_data_1"]),
        (("w.bin",), ["w.bin"], ["w.bin"]),
        (("one", "two"), ["one", "two"], ["b.onnx.data", "b.onnx.data_1"]),
        (("sub/w.bin",), ["sub"], ["w.bin"]),
    ],
)
def test_a_moved_pair_is_valid(
    locations: tuple[str, ...], here: list[str], there: list[str], folder: str, tmp_path: Path
) -> None:
    source = model(tmp_path / "a.onnx", *locations)
    before = outputs(source)
    (tmp_path / folder).mkdir(exist_ok=True)
    paths = onnxquant.move(source, tmp_path / folder / "b.onnx")
    assert names(tmp_path / folder) == sorted(["b.onnx", *(there if folder else here)])
    assert paths[0] == tmp_path / folder / "b.onnx" and all(path.is_file() for path in paths)
    assert not source.exists()
    assert np.array_equal(outputs(tmp_path / folder / "b.onnx"), before)


def test_a_moved_file_of_ours_keeps_its_hashes(tmp_path: Path) -> None:
    quantize(model(tmp_path / "m.onnx"), tmp_path / "a.onnx", external_data="always")
    onnxquant.move(tmp_path / "a.onnx", tmp_path / "b.onnx", data_name="_data")
    assert names(tmp_path) == ["b.onnx", "b.onnx_data", "m.onnx"]
    assert all(onnxquant.verify(tmp_path / "b.onnx").values())
    onnxquant.move(tmp_path / "b.onnx", tmp_path / "c.onnx", data_name="b.onnx_data")
    assert names(tmp_path) == ["b.onnx_data", "c.onnx", "m.onnx"]
    assert outputs(tmp_path / "c.onnx").shape == (3, 48)


def test_a_move_replaces_a_pair_with_force_alone(tmp_path: Path) -> None:
    source, target = model(tmp_path / "a.onnx", "a.onnx.data"), tmp_path / "b.onnx"
    quantize(source, target, external_data="always")
    expected = outputs(source)
    with pytest.raises(OutputError, match=r"b\.onnx: exists already; pass --force"):
        onnxquant.move(source, target)
    onnxquant.move(source, target, force=True)
    assert names(tmp_path) == ["b.onnx", "b.onnx.data"]
    assert np.array_equal(outputs(target), expected)


def refused_moves(folder: Path, case: str) -> tuple[Path, Path | str, dict[str, Any]]:
    source, target, options = model(folder / "a.onnx", "a.bin"), folder / "b.onnx", dict[str, Any]()
    if case == "the same":
        target = folder / "x" / ".." / "a.onnx"
        (folder / "x").mkdir()
    elif case == "data exists":
        (folder / "b.bin").write_bytes(b"precious")
    elif case == "shared data":
        (folder / "c.onnx").write_bytes(source.read_bytes())
    elif case == "a link":
        source.rename(folder / "real.onnx")
        source.symlink_to(folder / "real.onnx")
    elif case == "a linked model that is gone":
        source.unlink()
        source.symlink_to(folder / "gone.onnx")
    elif case == "linked data":
        (folder / "a.bin").rename(folder / "real.bin")
        (folder / "a.bin").symlink_to("real.bin")
    elif case == "a second name":
        (folder / "c.onnx").hardlink_to(source)
    elif case == "no folder":
        target = folder / "none" / "b.onnx"
    elif case == "a folder to come":
        return source, f"{folder}/none/", options
    elif case == "a folder":
        target.mkdir()
    elif case == "no data":
        source, options = model(folder / "c.onnx"), {"data_name": "_data"}
    elif case == "no model":
        source.write_bytes(b"text")
    elif case == "data gone":
        (folder / "a.bin").unlink()
    return source, target, options


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("the same", "is the model itself"),
        ("data exists", r"b\.bin: exists already"),
        ("shared data", r"a\.bin: holds tensors of .*c\.onnx, too"),
        ("a link", r"is a link to .*real\.onnx; move that"),
        ("a linked model that is gone", r"a\.onnx: is a link to .*gone\.onnx, which is not there"),
        ("linked data", r"a\.bin: is reached through a link to .*real\.bin, .* put the file itself there first"),
        ("a second name", r"a\.bin: holds tensors of .*c\.onnx, too, .* copy both files into another folder"),
        ("no folder", "does not exist; make it first"),
        ("a folder to come", "none/: the folder does not exist; make it first, and name the file in it"),
        ("a folder", "is a folder; .* add one"),
        ("no data", "has no data file"),
        ("no model", "not an ONNX model"),
        ("data gone", "No such file"),
    ],
)
def test_a_move_that_would_lose_something_is_refused(case: str, says: str, tmp_path: Path) -> None:
    source, target, options = refused_moves(tmp_path, case)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(OnnxQuantError, match=says):
        onnxquant.move(source, target, **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("replaces", [False, True])
def test_a_killed_move_leaves_a_whole_model(replaces: bool, links: bool, tmp_path: Path) -> None:
    """At every call that changes the folder, one of the names is a model that loads."""
    expected = None
    for step in range(1, 60):
        folder = tmp_path / str(step)
        folder.mkdir()
        source, target = model(folder / "a.onnx", "a.bin", "a.bin_1"), folder / "b.onnx"
        if replaces:
            quantize(source, target, external_data="always", data_name=".bin")
        expected = outputs(source)
        pid = os.fork()
        if pid == 0:
            _move_until(source, target, step, links=links)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        whole = [path for path in (source, target) if path.exists() and np.array_equal(outputs(path), expected)]
        assert whole, step
        assert all(outputs(path).shape == (3, 48) for path in (source, target) if path.exists()), step
        if code == 0:
            break
    assert code == 0 and step > 5
    assert names(folder) == ["b.bin", "b.bin_1", "b.onnx"]


def _move_until(source: Path, target: Path, step: int, *, links: bool) -> None:
    """Move in a process that ends at a call."""
    count = 0

    def stepped(call: Any) -> Any:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return call(*arguments, **named)

        return wrapped

    def no_links(*_: Any) -> None:
        raise OSError("no links here")

    os.link = stepped(os.link) if links else no_links  # type: ignore[assignment]
    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink")):
        setattr(owner, name, stepped(getattr(owner, name)))
    try:
        onnxquant.move(source, target, force=True)
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_a_move_through_a_link_to_the_folder_keeps_what_it_has_written(tmp_path: Path) -> None:
    source = model(tmp_path / "a.pb", "w", "w_2")
    before = outputs(source)
    (tmp_path / "link").symlink_to(tmp_path)
    onnxquant.move(source, tmp_path / "link" / "b.onnx", data_name="w", force=True)
    assert np.array_equal(outputs(tmp_path / "b.onnx"), before)
    assert names(tmp_path) == ["b.onnx", "link", "w", "w_1"]


@pytest.mark.parametrize("other", ["c.ONNX", "sub/c.onnx"])
def test_data_that_another_model_uses_is_not_moved(other: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    location = "sub/w" if "/" in other else "w"
    source = model(tmp_path / "a.onnx", location)
    proto = onnx.load(source, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "w" if entry.key == "location" else entry.value
    (tmp_path / other).write_bytes(proto.SerializeToString())
    with pytest.raises(OutputError, match=r"c\.(onnx|ONNX), too"):
        onnxquant.move(source, tmp_path / "b.onnx", data_name="_data")
    outputs(source)
