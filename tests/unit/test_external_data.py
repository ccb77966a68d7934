"""Untrusted files: where external data may lie and what it may claim, what is written, and damaged protobufs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import graphs
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import onnxquant
from onnxquant.errors import ExternalDataError, ModelError, OutputError
from onnxquant.graph import external, io, wire
from onnxquant.graph.io import Document, load
from onnxquant.graph.traverse import tensors

K, N = 48, 40
WEIGHT = graphs.weight(K, N)
NBYTES = WEIGHT.nbytes
OK = "ok.bin"
Entries = dict[str, str]


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fail rather than hang: a FIFO or a device opened by mistake would block for ever."""

    def late(number: int, frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"took more than {seconds} s: it hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def refer(tensor: onnx.TensorProto, entries: Entries) -> None:
    """Make a tensor external with exactly these entries."""
    tensor.ClearField("raw_data")
    del tensor.external_data[:]
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    tensor.data_location = onnx.TensorProto.EXTERNAL


def write_model(path: Path, entries: Entries) -> Path:
    """Y = X @ W with W external."""
    proto = graphs.matmul(K, N)
    refer(proto.graph.initializer[0], entries)
    path.write_bytes(proto.SerializeToString())
    return path


def snapshot(folder: Path) -> dict[str, str]:
    """Every regular file below a folder with its hash, so that a change anywhere shows."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and not p.is_symlink()
    }


@dataclass(frozen=True)
class World:
    """A folder with the model, one beside it that it must not reach, and one whose name begins the same."""

    folder: Path
    outside: Path
    twin: Path

    @property
    def target(self) -> Path:
        return self.outside / "secret.bin"


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "model", tmp_path / "outside", tmp_path / "model-twin")
    for folder in (made.folder, made.folder / "sub", made.outside, made.twin):
        folder.mkdir()
    for path in (made.folder / OK, made.folder / "sub" / OK, made.folder / "a..b.bin", made.target, made.twin / OK):
        path.write_bytes(WEIGHT.tobytes())
    return made


Arrange = Callable[[World], Entries]


def at(location: str, **more: str) -> Arrange:
    """A case that needs no preparation."""
    return lambda world: {"location": location, **more}


def linked(location: str, source: str, *, outside: bool = True, hard: bool = False) -> Arrange:
    """A case with a link in the model's folder."""

    def arrange(world: World) -> Entries:
        link = world.folder / location.split("/")[0]
        origin = (world.outside if outside else world.folder) / source
        os.link(origin, link) if hard else link.symlink_to(origin)
        return {"location": location}

    return arrange


def fifo(world: World) -> Entries:
    os.mkfifo(world.folder / "pipe.bin")
    return {"location": "pipe.bin"}


def directory(world: World) -> Entries:
    return {"location": "sub"}


def below_a_file(world: World) -> Entries:
    return {"location": f"{OK}/w.bin"}


def loop(world: World) -> Entries:
    (world.folder / "loop").symlink_to(world.folder / "loop")
    return {"location": "loop"}


def absolute(world: World) -> Entries:
    return {"location": str(world.folder / OK)}


PLAIN = [
    pytest.param(at(OK), id="plain"),
    pytest.param(at(f"sub/{OK}"), id="in a subfolder"),
    pytest.param(at("a..b.bin"), id="dots in the name"),
    pytest.param(at(OK, offset="0", length=str(NBYTES)), id="whole file stated"),
    pytest.param(at(OK, checksum="00"), id="checksum given"),
]
CUT = r"ok\.bin: holds \d+ bytes, expected \d+ or more"
HOSTILE = [
    pytest.param(at("../outside/secret.bin"), "leaves the model's folder", id="parent"),
    pytest.param(at("sub/../../outside/secret.bin"), "leaves the model's folder", id="parent of a subfolder"),
    pytest.param(at(f"sub/../{OK}"), "leaves the model's folder", id="dotdot that stays inside"),
    pytest.param(at(f"../model/{OK}"), "leaves the model's folder", id="out and in again"),
    pytest.param(at(f"../model-twin/{OK}"), "leaves the model's folder", id="sibling with the same prefix"),
    pytest.param(absolute, "leaves the model's folder", id="absolute, even to an allowed file"),
    pytest.param(at("/etc/passwd"), "leaves the model's folder", id="absolute"),
    pytest.param(at("/proc/self/environ"), "leaves the model's folder", id="environ"),
    pytest.param(at("/dev/zero"), "leaves the model's folder", id="device"),
    pytest.param(at(""), "not a file name", id="empty"),
    pytest.param(at("."), "not a file name", id="dot"),
    pytest.param(at("./"), "not a file name", id="dot slash"),
    pytest.param(at("./."), "not a file name", id="dot slash dot"),
    pytest.param(at("missing.bin"), "No such file", id="missing"),
    pytest.param(at(f"{OK}\x00x"), "not a file name", id="embedded NUL"),
    pytest.param(at("x" * 300), "File name too long", id="name too long"),
    pytest.param(fifo, "not a regular file", id="fifo"),
    pytest.param(directory, "not a regular file", id="folder"),
    pytest.param(below_a_file, "Not a directory", id="below a file"),
    pytest.param(loop, "symbolic link", id="symlink loop"),
    pytest.param(linked("link.bin", "secret.bin"), "symbolic link", id="symlink outside"),
    pytest.param(linked("way/secret.bin", ""), "symbolic link", id="symlinked parent folder"),
    pytest.param(linked("link.bin", OK, outside=False), "symbolic link", id="symlink inside"),
    pytest.param(linked("way/ok.bin", "sub", outside=False), "symbolic link", id="symlinked folder inside"),
    pytest.param(lambda w: {"offset": "0"}, "without a location", id="no location"),
    pytest.param(at(OK, length=str(1 << 60)), "do not give", id="length 2^60"),
    pytest.param(at(OK, length=str(1 << 63)), "do not give", id="length 2^63"),
    pytest.param(at(OK, length="9" * 30), "expected bytes", id="length of 30 digits"),
    pytest.param(at(OK, length="-1"), "expected bytes", id="negative length"),
    pytest.param(at(OK, offset="-4"), "expected bytes", id="negative offset"),
    pytest.param(at(OK, offset=str(NBYTES)), CUT, id="offset at the end"),
    pytest.param(at(OK, offset=str(NBYTES + 4096)), CUT, id="offset past the end"),
    pytest.param(at(OK, offset="4", length=str(NBYTES)), CUT, id="offset and length past the end"),
    pytest.param(at(OK, offset=str((1 << 63) - 1), length="1"), CUT, id="sum beyond 63 bits"),
    pytest.param(at(OK, offset="four"), "expected bytes", id="offset not a number"),
    pytest.param(at(OK, offset="0x10"), "expected bytes", id="hexadecimal offset"),
    pytest.param(at(OK, length="1e3"), "expected bytes", id="float length"),
    pytest.param(at(OK, length="²"), "expected bytes", id="a digit that is no number"),
    pytest.param(at(OK, length=""), "expected bytes", id="empty length"),
    pytest.param(at(OK, length=str(NBYTES - 4)), "do not give", id="shorter than the shape"),
    pytest.param(at(OK, length="0"), "do not give", id="length 0"),
    pytest.param(at(OK, __class__="x"), "unknown external data key '__class__'", id="unknown key"),
    pytest.param(at(OK, basepath="/etc"), "unknown external data key", id="base path"),
]


@pytest.mark.parametrize("arrange", PLAIN)
def test_location_inside_the_folder_is_read(arrange: Arrange, world: World) -> None:
    path = write_model(world.folder / "m.onnx", arrange(world))
    document = load(path)
    np.testing.assert_array_equal(document.array(document.proto.graph.initializer[0]), WEIGHT)
    report = onnxquant.quantize(path, world.folder / "out.onnx", proof=False)
    assert len(report.encoded) == 1


@pytest.mark.parametrize(("arrange", "message"), HOSTILE)
def test_hostile_reference_is_refused_before_anything_is_written(
    arrange: Arrange, message: str, world: World, tmp_path: Path
) -> None:
    path = write_model(world.folder / "m.onnx", arrange(world))
    before, names = snapshot(tmp_path), sorted(tmp_path.rglob("*"))
    with within(5):
        with pytest.raises(ExternalDataError, match=message):
            load(path)
        with pytest.raises(ModelError, match=message):
            onnxquant.quantize(path, world.folder / "out.onnx", proof=False)
    assert snapshot(tmp_path) == before
    assert sorted(tmp_path.rglob("*")) == names


@pytest.mark.parametrize(
    ("arrange", "root"),
    [
        pytest.param(linked("link.bin", OK, outside=False), "model", id="symlink inside"),
        pytest.param(linked("link.bin", "secret.bin"), "outside", id="symlink outside"),
        pytest.param(linked("way/secret.bin", ""), "outside", id="symlinked parent folder"),
    ],
)
def test_links_are_followed_into_an_allowed_root(arrange: Arrange, root: str, world: World, tmp_path: Path) -> None:
    path = write_model(world.folder / "m.onnx", arrange(world))
    document = load(path, [tmp_path / root])
    np.testing.assert_array_equal(document.array(document.proto.graph.initializer[0]), WEIGHT)
    report = onnxquant.quantize(path, world.folder / "out.onnx", proof=False, external_root=str(tmp_path / root))
    assert len(report.encoded) == 1


@pytest.mark.parametrize(
    ("arrange", "root", "message"),
    [
        pytest.param(linked("link.bin", "secret.bin"), "model-twin", "symbolic link", id="another root"),
        pytest.param(linked("link.bin", "secret.bin"), "out", "symbolic link", id="root with the same prefix"),
        pytest.param(at("../outside/secret.bin"), "outside", "leaves", id="a root allows links, not traversal"),
        pytest.param(lambda w: {"location": str(w.target)}, "outside", "leaves", id="nor absolute paths"),
        pytest.param(linked("link.bin", "pipe"), "outside", "not a regular file", id="a fifo in a root"),
        pytest.param(linked("link.bin", "../../../../../../../../dev/zero"), "/dev", "not a regular", id="a device"),
    ],
)
def test_an_allowed_root_allows_nothing_else(
    arrange: Arrange, root: str, message: str, world: World, tmp_path: Path
) -> None:
    os.mkfifo(world.outside / "pipe")
    path = write_model(world.folder / "m.onnx", arrange(world))
    with within(5), pytest.raises(ExternalDataError, match=message):
        load(path, [tmp_path / root])


def test_data_with_a_second_name_is_read_with_a_note(world: World) -> None:
    path = write_model(world.folder / "m.onnx", linked("link.bin", "secret.bin", hard=True)(world))
    report = onnxquant.quantize(path, world.folder / "out.onnx", samples=1)
    assert report.passed
    assert "external data link.bin is one of 2 names of the same file (hard links)" in report.notes


@pytest.mark.parametrize("folder", ["snapshots/abc", "snapshots/abc/onnx"])
def test_a_download_cache_is_read_with_a_note(folder: str, tmp_path: Path) -> None:
    """The hub's cache: the model and its data are links into one folder."""
    snapshot, blobs = tmp_path / folder, tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write_model(blobs / "aaa", {"location": "model.onnx_data"})
    (blobs / "bbb").write_bytes(WEIGHT.tobytes())
    for name, blob in (("model.onnx", "aaa"), ("model.onnx_data", "bbb")):
        (snapshot / name).symlink_to(os.path.relpath(blobs / blob, snapshot))
    report = onnxquant.quantize(snapshot / "model.onnx", tmp_path / "out.onnx", samples=1)
    assert report.passed
    assert f"external data model.onnx_data is read through a link to {blobs.resolve() / 'bbb'}" in report.notes
    (tmp_path / "secret").write_bytes(WEIGHT.tobytes())
    (snapshot / "model.onnx_data").unlink()
    (snapshot / "model.onnx_data").symlink_to(tmp_path / "secret")
    with pytest.raises(ExternalDataError, match=r"symbolic link to .*secret.* --external-root"):
        load(snapshot / "model.onnx")


def test_links_with_an_allowed_root_are_proven_too(world: World) -> None:
    """ONNX Runtime itself follows no link out of the folder, and the proof runs the original."""
    path = write_model(world.folder / "m.onnx", linked("link.bin", "secret.bin")(world))
    report = onnxquant.quantize(path, world.folder / "out.onnx", external_root=str(world.outside), samples=1)
    assert report.passed
    assert report.proof
    assert report.proof.outputs["float vs twin"]


@pytest.mark.parametrize("level", ["file", "folder"])
def test_a_link_swapped_in_after_the_check_is_not_followed(
    level: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The race between looking and opening, made certain."""
    (world.outside / OK).write_bytes(b"\xff" * NBYTES)
    path = write_model(world.folder / "m.onnx", {"location": f"sub/{OK}"})
    check = external._contained

    def swapped(*arguments: Any) -> Any:
        found = check(*arguments)
        inside = world.folder / "sub" / OK
        inside.unlink()
        if level == "folder":
            inside.parent.rmdir()
            inside.parent.symlink_to(world.outside)
        else:
            inside.symlink_to(world.outside / OK)
        return found

    monkeypatch.setattr(external, "_contained", swapped)
    with pytest.raises(ExternalDataError):
        load(path)


def test_model_given_as_an_object_has_no_folder(world: World) -> None:
    proto = onnx.load(write_model(world.folder / "m.onnx", {"location": OK}), load_external_data=False)
    with pytest.raises(ExternalDataError, match="pass its path"):
        load(proto)


def sparse(entries: Entries) -> onnx.ModelProto:
    proto = graphs.matmul(K, N)
    values = onnx.TensorProto(name="s", data_type=onnx.TensorProto.FLOAT, dims=[4])
    refer(values, entries)
    indices = onnx.numpy_helper.from_array(np.arange(4), "s_indices")
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=indices, dims=[16]))
    return proto


def attribute(entries: Entries) -> onnx.ModelProto:
    proto = graphs.matmul(K, N)
    value = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[4])
    refer(value, entries)
    proto.graph.node.append(graphs.node("Constant", [], ["c"], value=value))
    return proto


def nested(entries: Entries) -> onnx.ModelProto:
    proto = graphs.branches()
    refer(proto.graph.node[0].attribute[1].g.initializer[0], entries)
    return proto


def function(entries: Entries) -> onnx.ModelProto:
    proto = graphs.matmul(K, N)
    value = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[4])
    refer(value, entries)
    inner = graphs.node("Constant", [], ["c"], value=value)
    made = onnx.helper.make_function("local", "F", ["a"], ["c"], [inner], [onnx.helper.make_opsetid("", 17)])
    proto.functions.append(made)
    return proto


@pytest.mark.parametrize("place", [sparse, attribute, nested, function])
def test_hostile_reference_is_found_wherever_a_tensor_may_be(
    place: Callable[[Entries], onnx.ModelProto], world: World
) -> None:
    path = world.folder / "m.onnx"
    path.write_bytes(place({"location": "../outside/secret.bin"}).SerializeToString())
    with pytest.raises(ExternalDataError, match="leaves"):
        load(path)


# ---- what is written ----


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "a..b.bin", ".hidden", "out.onnx.data2", "out.onnx.data/w"])
@pytest.mark.parametrize("format", ["int8", "q4_0"])
def test_output_is_named_after_the_output_alone(location: str, format: str, tmp_path: Path) -> None:
    """A bias that stays in float keeps its bytes in the output's data file too, wherever the input had them."""
    model, made = tmp_path / "in", tmp_path / "made"
    made.mkdir()
    proto = graphs.gemm(96, 40)
    data = b"".join(bytes(t.raw_data) for t in proto.graph.initializer)
    offset = 0
    for tensor in proto.graph.initializer:
        length = len(tensor.raw_data)
        refer(tensor, {"location": location, "offset": str(offset), "length": str(length)})
        offset += length
    (model / location).parent.mkdir(parents=True)
    (model / location).write_bytes(data)
    (model / "m.onnx").write_bytes(proto.SerializeToString())
    before = snapshot(model)
    onnxquant.quantize(model / "m.onnx", made / "out.onnx", format=format, proof=False)
    assert snapshot(model) == before
    assert sorted(p.name for p in made.rglob("*")) == ["out.onnx", "out.onnx.data"]
    written = onnx.load(made / "out.onnx", load_external_data=False)
    assert references(written) == {"out.onnx.data"}
    onnxquant.quantize(model / "m.onnx", made / "out2.onnx", format=format, proof=False, external_data="never")
    assert not references(onnx.load(made / "out2.onnx", load_external_data=False))


def references(proto: onnx.ModelProto) -> set[str]:
    """Every location that a model names."""
    found = (t for t in tensors(proto) if t.data_location == onnx.TensorProto.EXTERNAL)
    return {e.value for t in found for e in t.external_data if e.key == "location"}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("output_exists", [False, True])
def test_the_inputs_data_file_is_never_the_outputs(force: bool, output_exists: bool, tmp_path: Path) -> None:
    (tmp_path / "out.onnx.data").write_bytes(WEIGHT.tobytes())
    path = write_model(tmp_path / "m.onnx", {"location": "out.onnx.data"})
    if output_exists:
        (tmp_path / "out.onnx").write_bytes(b"somebody's")
    before = snapshot(tmp_path)
    with pytest.raises(OutputError, match=r"out\.onnx"):
        onnxquant.quantize(path, tmp_path / "out.onnx", proof=False, force=force)
    assert snapshot(tmp_path) == before


# ---- the outline of a protobuf ----


def tensor(name: str, size: int, typed: bool) -> onnx.TensorProto:
    values = (np.arange(size) % 251).astype(np.uint8)
    if typed:
        return onnx.helper.make_tensor(name, onnx.TensorProto.UINT8, [size], values.tolist())
    return onnx.numpy_helper.from_array(values, name)


# Around the limit of 1 KiB from which bytes are outlined, and around lengths whose varint grows by a byte.
SIZES = st.sampled_from([0, 1, 127, 128, 1000, 1023, 1024, 1025, 1026, 2000, 16383, 16384, 40000])
TENSORS = st.lists(st.tuples(SIZES, st.booleans()), max_size=3)


@st.composite
def random_graphs(draw: st.DrawFn, depth: int = 2) -> onnx.GraphProto:
    """A graph with tensors as initializers and in attributes, and graphs within graphs."""
    made = onnx.GraphProto(name="g" * draw(st.integers(1, 3)))
    for i, (size, typed) in enumerate(draw(TENSORS)):
        made.initializer.append(tensor(f"t{i}", size, typed))
    for i, (size, typed) in enumerate(draw(TENSORS)):
        made.node.append(onnx.NodeProto(op_type="Constant", output=[f"c{i}"]))
        made.node[-1].attribute.append(onnx.helper.make_attribute("value", tensor("v", size, typed)))
    if draw(st.booleans()):
        many = [tensor(f"m{i}", size, typed) for i, (size, typed) in enumerate(draw(TENSORS))]
        attribute = onnx.AttributeProto(name="many", type=onnx.AttributeProto.TENSORS, tensors=many)
        made.node.add(op_type="Custom", domain="d", doc_string="x" * draw(SIZES)).attribute.append(attribute)
    for _ in range(draw(st.integers(0, 2)) if depth else 0):
        inner = [draw(random_graphs(depth=depth - 1)) for _ in range(2)]
        attribute = onnx.AttributeProto(name="graphs", type=onnx.AttributeProto.GRAPHS, graphs=inner)
        made.node.add(op_type="Nest", output=["n"]).attribute.append(attribute)
        attribute = onnx.AttributeProto(name="body", type=onnx.AttributeProto.GRAPH, g=inner[0])
        made.node[-1].attribute.append(attribute)
    return made


@st.composite
def random_models(draw: st.DrawFn) -> onnx.ModelProto:
    """A model of such graphs, and functions that hold tensors."""
    proto = onnx.ModelProto(ir_version=8, graph=draw(random_graphs()), producer_name="p")
    proto.opset_import.add(version=17)
    for i in range(draw(st.integers(0, 2))):
        proto.functions.add(name=f"f{i}", node=draw(random_graphs(depth=1)).node)
    return proto


@given(proto=random_models())
@settings(max_examples=80, deadline=None)
def test_outline_put_back_is_what_onnx_loads(proto: onnx.ModelProto) -> None:
    buffer = memoryview(proto.SerializeToString())
    outlined = onnx.ModelProto.FromString(wire.outline(buffer))
    kept = [len(t.raw_data) for t in tensors(outlined)]
    assert max(kept, default=0) <= wire.OUTLINE_ABOVE
    document = Document(outlined, buffer, None)
    large = [t for t in tensors(outlined) if t.data_location == onnx.TensorProto.EXTERNAL]
    assert len(large) == sum(len(t.raw_data) > wire.OUTLINE_ABOVE for t in tensors(proto))
    for item in large:
        document.inline(item)
    assert outlined == proto == onnx.load_from_string(bytes(buffer))


def damaged_model() -> bytes:
    """Every kind of message that the walk descends into, and one outlined tensor, in few bytes."""
    proto = graphs.branches(4, 4)
    proto.graph.initializer.append(tensor("large", 1500, typed=False))
    proto.functions.extend(function({"location": "x"}).functions)
    proto.functions[0].node[0].attribute[0].t.CopyFrom(tensor("inside", 1100, typed=False))
    return bytes(proto.SerializeToString())


def named_node(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].op_type = "??"


def named_tensor(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].name = "??"


def named_attribute(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].attribute.append(onnx.helper.make_attribute("??", 1))


def named_length(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "??"


def named_metadata(proto: onnx.ModelProto) -> None:
    proto.metadata_props.add(key="??", value="x")


def named_function(proto: onnx.ModelProto) -> None:
    proto.functions.extend(function({"location": "x"}).functions)
    proto.functions[0].node[0].attribute[0].t.CopyFrom(tensor("c", 4, typed=False))
    proto.functions[0].name = "??"


@pytest.mark.parametrize(
    "put", [named_node, named_tensor, named_attribute, named_length, named_metadata, named_function]
)
def test_names_that_are_not_utf8_are_refused(put: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """protobuf hands them out as bytes, which would surface anywhere."""
    proto = graphs.matmul(K, N)
    put(proto)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString().replace(b"??", b"\xff\xfe"))
    with pytest.raises(ModelError, match=r"m\.onnx: .*not UTF-8"):
        load(path)


@pytest.fixture
def survives(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], bool]:
    """Whether bytes load as a file's would and all its tensors can be read; any error but ours is raised."""
    buffer = b""
    monkeypatch.setattr(io, "_map_file", lambda path: memoryview(buffer))

    def check(raw: bytes) -> bool:
        nonlocal buffer
        buffer = raw
        try:
            document = load("damaged.onnx")
            values: list[NDArray[Any]] = [document.array(t) for t in tensors(document.proto)]
        except ModelError as error:
            assert "damaged.onnx" in str(error) or "tensor" in str(error)
            return False
        return bool(values)

    return check


def test_every_truncation_is_a_model_error_or_a_model(survives: Callable[[bytes], bool]) -> None:
    whole = damaged_model()
    assert survives(whole)
    alive = sum(survives(whole[:length]) for length in range(len(whole)))
    # Cut between two fields of the outermost message it is a model still; nowhere else.
    assert alive < 10


def test_a_field_beyond_the_end_is_refused_by_the_outline_itself() -> None:
    """Not left to protobuf, which is handed the outline: a reference beyond the file must not come to be."""
    whole = graphs.matmul(K, N).SerializeToString()
    for cut in (1, 100, len(whole) // 2):
        with pytest.raises(ModelError, match=r"claims \d+ bytes, \d+ are left"):
            wire.outline(memoryview(whole)[:-cut])


def mutated(seed: int, whole: bytes) -> bytes:
    """A few bits flipped, bytes overwritten, removed or doubled; mostly in the structure, not in tensor bytes."""
    random, out = np.random.default_rng(seed), bytearray(whole)
    for _ in range(random.integers(1, 4)):
        edge = min(500, len(out) // 2)
        place = int(random.integers(edge)) if random.random() < 0.5 else int(random.integers(len(out) - edge, len(out)))
        kind = random.integers(4)
        if kind == 0:
            out[place] ^= 1 << int(random.integers(8))
        elif kind == 1:
            out[place] = int(random.integers(256))
        elif kind == 2:
            del out[place : place + int(random.integers(1, 5))]
        else:
            out[place:place] = out[place : place + int(random.integers(1, 9))]
    return bytes(out)


def test_2000_mutations_raise_nothing_but_model_errors(survives: Callable[[bytes], bool]) -> None:
    whole = damaged_model()
    with within(60):
        alive = sum(survives(mutated(seed, whole)) for seed in range(2000))
    assert 100 < alive < 1900


SEEDS = [
    graphs.matmul(16, 24),
    graphs.gemm(32, 16),
    graphs.gather(20, 16),
    graphs.tied(20, 16),
    graphs.conv(4, 12),
    graphs.lstm(4, 8),
    graphs.branches(16, 16),
]


@pytest.mark.parametrize("format", ["int8", "q4_0"])
def test_damaged_models_quantize_or_are_refused(format: str, tmp_path: Path) -> None:
    """The whole way of a damaged model: our own errors only, and nothing left behind."""
    path, output = tmp_path / "m.onnx", tmp_path / "out.onnx"
    serialized = [s.SerializeToString() for s in SEEDS]
    converted = 0
    for seed in range(420):
        path.write_bytes(mutated(seed, serialized[seed % len(SEEDS)]))
        target = ("auto", "onnx", "ort", "custom")[seed // len(SEEDS) % 4]
        try:
            with within(10):
                onnxquant.quantize(path, output, format=format, target=target, proof=False)
        except onnxquant.OnnxQuantError:
            assert not output.exists()
        else:
            converted += 1
            output.unlink()
        assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]
    assert 20 < converted < 400


def field(number: int, payload: bytes) -> bytes:
    return wire.varint(number << 3 | 2) + wire.varint(len(payload)) + payload


@pytest.mark.parametrize("levels", [1, 32, 33, 40, 200, 5000])
def test_nesting_is_read_to_protobufs_own_limit_and_refused_beyond(levels: int, tmp_path: Path) -> None:
    graph = field(5, tensor("t", 1200, typed=False).SerializeToString())
    for _ in range(levels):
        kind = wire.varint(20 << 3) + wire.varint(onnx.AttributeProto.GRAPH)
        graph = field(1, field(4, b"If") + field(2, b"y") + field(5, field(1, b"b") + field(6, graph) + kind))
    path = tmp_path / "deep.onnx"
    path.write_bytes(b"\x08\x08" + field(7, graph) + field(8, b"\x10\x11"))
    if levels > 32:
        with within(5), pytest.raises(ModelError, match=f"{path}.*(nested|not an ONNX model)"):
            load(path)
    else:
        assert len(load(path).array(next(tensors(load(path).proto)))) == 1200


# ---- files that claim to be ours ----


@pytest.fixture(scope="module", params=["rows", "tiles", "dense"])
def ours(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A quantized file, one per way of lowering."""
    folder = tmp_path_factory.mktemp("ours")
    proto = graphs.conv(8, 48) if request.param == "dense" else graphs.tied(48, 64)
    target = {"rows": "ort", "tiles": "custom", "dense": "onnx"}[request.param]
    source = graphs.save(proto, folder / "m.onnx")
    onnxquant.quantize(source, folder / "q.onnx", format="q4_0", target=target, proof=False)
    return (folder / "q.onnx").read_bytes()


def verified(path: Path) -> None:
    """Raise where a tensor or the metadata is not as it was written."""
    if not all(onnxquant.verify(path).values()):
        raise onnxquant.ModelError("damaged")


def read_all(path: Path) -> list[bool]:
    """Which of the functions that read a quantized file take it; any error but ours is raised."""
    output = path.with_name("out.onnx")
    out = []
    for read in (
        lambda: onnxquant.info(path),
        lambda: verified(path),
        lambda: onnxquant.dequantize(path, output),
        lambda: onnxquant.quantize(path, output, proof=False),
    ):
        try:
            read()
        except onnxquant.OnnxQuantError:
            assert not output.exists()
            out.append(False)
        else:
            out.append(True)
        output.unlink(missing_ok=True)
        assert [p.name for p in path.parent.iterdir()] == [path.name]
    return out


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value lies in nested tables and lists, for each."""
    yield path
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


STRANGE = [None, -1, 0, 1 << 62, 10**30, float("nan"), True, "", "x", [], ["x"], [5, 6], [[1]], {}, {"x": 1}]
GONE = object()


def replaced(data: Any, path: tuple[Any, ...], value: object) -> Any:
    copy = json.loads(json.dumps(data))
    if not path:
        return value
    holder = copy
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return copy


@pytest.mark.parametrize("key", ["onnxquant", "onnxquant.sha256"])
def test_damaged_metadata_is_refused(key: str, ours: bytes, tmp_path: Path) -> None:
    """Every value of it, replaced by every strange one, in turn; random ones of the many, but the same each time."""
    proto, path = onnx.load_from_string(ours), tmp_path / "q.onnx"
    path.write_bytes(ours)
    assert read_all(path) == [True, True, True, False]  # what is quantized is not quantized again
    entry = next(e for e in proto.metadata_props if e.key == key)
    data = json.loads(entry.value)
    cases = [json.dumps(replaced(data, p, v)) for p in places(data) for v in [*STRANGE, GONE] if p or v is not GONE]
    chosen = np.random.default_rng(0).permutation(len(cases))[:150]
    refused = 0
    for text in ["{", "[" * 100_000, "\x00", *(cases[i] for i in chosen)]:
        entry.value = text
        path.write_bytes(proto.SerializeToString())
        with within(10):
            refused += not all(read_all(path)[:3])
    assert refused > 50 if key == "onnxquant" else refused > 3


def test_damaged_quantized_files_are_read_or_refused(ours: bytes, tmp_path: Path) -> None:
    path, alive = tmp_path / "q.onnx", 0
    for seed in range(120):
        path.write_bytes(mutated(seed, ours))
        with within(10):
            alive += any(read_all(path))
    assert alive > 5


@pytest.mark.parametrize("plane", ["codes", "scales"])
@pytest.mark.parametrize("change", [-1, 1])
def test_planes_of_a_wrong_length_are_refused(plane: str, change: int, ours: bytes, tmp_path: Path) -> None:
    proto, path = onnx.load_from_string(ours), tmp_path / "q.onnx"
    (item,) = [t for t in proto.graph.initializer if t.name == f"w/{plane}"]
    item.raw_data = item.raw_data[:-1] if change < 0 else item.raw_data + b"\0"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=rf"w/{plane}.*bytes"):
        onnxquant.dequantize(path, tmp_path / "out.onnx")
    assert not read_all(path)[2]
