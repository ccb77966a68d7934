"""Writing: whoever looks at the output sees the old one or the whole new one, whatever fails and whenever."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import graphs
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

import onnxquant
from onnxquant.errors import OutputError
from onnxquant.graph.data_files import ALIGNMENT
from onnxquant.graph.names import HASHES
from onnxquant.graph.publish import Publisher
from onnxquant.system.files import atomically

ROOT = Path(onnxquant.__file__).parents[1]
HERE = Path(__file__).parents[1]
Run = Callable[[], object]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with its hash: hidden and temporary ones too."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Y = 0.5 X W' + 2 C; C stays in float."""
    return graphs.save(graphs.gemm(64, 48), tmp_path_factory.mktemp("source") / "m.onnx")


X = graphs.weight(3, 64, seed=21)


def outputs(path: Path) -> NDArray[Any]:
    """What a file computes on stock onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    out: NDArray[Any] = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(
        None, {"x": X}
    )[0]
    return out


def convert(source: Path, output: Path, format: str = "int8", **options: Any) -> None:
    """A conversion to standard ops without proof: what is written is the subject here."""
    onnxquant.quantize(source, output, format=format, target="ort", proof=False, **options)


# ---- outputs that are refused ----


@pytest.mark.parametrize("external", ["always", "never"])
def test_existing_output_is_refused_without_force(external: str, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    output.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"out\.onnx: exists already; pass --force"):
        convert(source, output, external_data=external)
    assert snapshot(tmp_path) == {"out.onnx": hashlib.sha256(b"precious").hexdigest()}
    convert(source, output, external_data=external, force=True)
    assert outputs(output).shape == (3, 48)


def test_existing_data_file_is_refused_without_force(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx.data").write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"out\.onnx\.data: exists already"):
        convert(source, tmp_path / "out.onnx", external_data="always")
    assert list(snapshot(tmp_path)) == ["out.onnx.data"]
    # A single file does not touch it.
    convert(source, tmp_path / "out.onnx", external_data="never")
    assert (tmp_path / "out.onnx.data").read_bytes() == b"precious"


def test_dangling_link_at_the_output_is_refused_and_never_followed(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(OutputError, match="exists already"):
        convert(source, tmp_path / "out.onnx")
    convert(source, tmp_path / "out.onnx", force=True)
    assert not (tmp_path / "out.onnx").is_symlink()
    assert not (tmp_path / "elsewhere.onnx").exists()


def unwritable(tmp_path: Path, case: str) -> Path:
    if case == "below a file":
        (tmp_path / "file").write_bytes(b"x")
        return tmp_path / "file" / "out.onnx"
    if case == "a folder":
        (tmp_path / "out.onnx").mkdir()
        return tmp_path / "out.onnx"
    if case == "read-only folder":
        (tmp_path / "closed").mkdir(mode=0o555)
        return tmp_path / "closed" / "out.onnx"
    return tmp_path / "missing" / "out.onnx" if case == "missing folder" else tmp_path / ("x" * 251 + ".onnx")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "case", ["missing folder", "below a file", "a folder", "read-only folder", "name of 256 bytes"]
)
def test_unusable_place_is_refused(case: str, force: bool, source: Path, tmp_path: Path) -> None:
    output = unwritable(tmp_path, case)
    if case == "read-only folder" and os.access(output.parent, os.W_OK):
        pytest.skip("this user can write to read-only folders")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=r"out\.onnx|x{251}"):
        convert(source, output, force=force)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name == "nt", reason="needs FIFOs")
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", ["itself", "linked", "its data"])
def test_an_output_that_is_no_file_is_refused(case: str, force: bool, source: Path, tmp_path: Path) -> None:
    """A device, a FIFO or a socket; a FIFO stands for them."""
    output, pipe = tmp_path / "out.onnx", tmp_path / ("out.onnx.data" if case == "its data" else "pipe")
    if case == "itself":
        output = pipe
    os.mkfifo(pipe)
    if case == "linked":
        output.symlink_to(pipe)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputError, match="is a device, a FIFO or a socket"):
        convert(source, output, force=force, external_data="always")
    with pytest.raises(OutputError, match="is a device, a FIFO or a socket"), atomically(pipe):
        raise AssertionError("the block is not entered")
    assert pipe.is_fifo() and sorted(tmp_path.iterdir()) == before


@pytest.mark.skipif(os.name == "nt", reason="folders are not locked there")
@pytest.mark.parametrize("force", [False, True])
def test_two_runs_at_once_never_mix_a_pair(
    force: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renames take long enough for the two to meet between them."""
    replace = Path.replace

    def slow(path: Path, target: Path) -> Path:
        time.sleep(0.05)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", slow)
    output = tmp_path / "out.onnx"
    with ThreadPoolExecutor() as pool:
        forms = ["int8", "int4", "int8", "int4"]
        runs = [pool.submit(convert, source, output, form, external_data="always", force=force) for form in forms]
    errors = [error for run in runs if (error := run.exception())]
    assert all(isinstance(error, OutputError) and "exists already" in str(error) for error in errors)
    assert len(errors) == (0 if force else 3)
    assert all(onnxquant.verify(output).values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]


@pytest.mark.parametrize("external", ["always", "never"])
@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("size", [250, 251, 255])
def test_longest_names(size: int, force: bool, external: str, source: Path, tmp_path: Path) -> None:
    """A name of 255 bytes works; where the data file's name would not fit, that is said before any work."""
    output = tmp_path / ("n" * (size - 5) + ".onnx")
    if external == "always" and size > 250:
        with pytest.raises(OutputError, match="File name too long"):
            convert(source, output, external_data=external, force=force)
        assert not snapshot(tmp_path)
    else:
        convert(source, output, external_data=external, force=force)
        convert(source, output, external_data=external, force=True)
        assert outputs(output).shape == (3, 48)


@pytest.mark.parametrize(
    "name", ["with spaces.onnx", "模型-модель-ü.onnx", "-dash.onnx", "a'b\"c.onnx", "no_suffix", ".hidden"]
)
def test_odd_names(name: str, source: Path, tmp_path: Path) -> None:
    output = tmp_path / name
    convert(source, output, external_data="always")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"{name}.data"])
    assert outputs(output).shape == (3, 48)
    assert all(onnxquant.verify(output).values())


def the_same(case: str, model: Path) -> Path:
    """The input under another name."""
    other = model.parent / "other.onnx"
    if case == "symbolic link":
        other.symlink_to(model)
    elif case == "hard link":
        os.link(model, other)
    elif case == "through a linked folder":
        (model.parent / "way").symlink_to(model.parent)
        other = model.parent / "way" / model.name
    elif case == "through dots":
        (model.parent / "sub").mkdir()
        other = model.parent / "sub" / ".." / model.name
    else:
        return model
    return other


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("case", ["itself", "symbolic link", "hard link", "through a linked folder", "through dots"])
def test_output_equal_to_input_is_refused(case: str, force: bool, tmp_path: Path) -> None:
    model = graphs.save(graphs.gemm(64, 48), tmp_path / "m.onnx")
    output = the_same(case, model)
    before = snapshot(tmp_path)
    with pytest.raises(OutputError):
        convert(model, output, force=force)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("how", ["quantize", "dequantize", "save"])
def test_no_function_overwrites_its_input_or_its_inputs_data(how: str, source: Path, tmp_path: Path) -> None:
    model, same = tmp_path / "m.onnx", tmp_path / "m.onnx"
    if how == "dequantize":
        convert(source, tmp_path / "x.onnx", external_data="always")
        (tmp_path / "x.onnx").rename(model)
        data = tmp_path / "x.onnx"
    else:
        graphs.save(graphs.gemm(64, 48), model, external=True)
        (tmp_path / "m.bin").rename(tmp_path / "x.onnx.data")
        proto = onnx.load(model, load_external_data=False)
        for tensor in proto.graph.initializer:
            tensor.external_data[0].value = "x.onnx.data"
        model.write_bytes(proto.SerializeToString())
        data = tmp_path / "x.onnx"
    before = snapshot(tmp_path)
    for output in (same, data):
        with pytest.raises(OutputError, match="is an input"):
            if how == "quantize":
                convert(model, output, force=True, external_data="always")
            elif how == "dequantize":
                onnxquant.dequantize(model, output, force=True)
            else:
                edited = onnxquant.Model(model)
                edited.set("w", onnxquant.encode(edited.weight("w"), "int8"))
                edited.save(output, force=True)
    assert snapshot(tmp_path) == before


# ---- what is written ----


@pytest.mark.parametrize("external", ["always", "never"])
@pytest.mark.parametrize("input_external", [False, True])
def test_input_is_never_changed(input_external: bool, external: str, tmp_path: Path) -> None:
    model = graphs.save(graphs.gemm(64, 48), tmp_path / "m.onnx", external=input_external)
    before = snapshot(tmp_path)
    convert(model, tmp_path / "out.onnx", external_data=external)
    after = snapshot(tmp_path)
    assert {k: v for k, v in after.items() if not k.startswith("out")} == before


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_output_has_the_mode_of_any_new_file(umask: int, source: Path, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        convert(source, tmp_path / "out.onnx", external_data="always")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()}
    assert modes == {0o666 & ~umask}


def test_data_file_is_aligned_and_every_tensor_is_hashed(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    convert(source, output, external_data="always")
    proto = onnx.load(output, load_external_data=False)
    hashes = json.loads(next(e.value for e in proto.metadata_props if e.key == HASHES))
    data = (tmp_path / "out.onnx.data").read_bytes()
    seen = {}
    for tensor in proto.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            offset, length = int(entries["offset"]), int(entries["length"])
            assert offset % ALIGNMENT == 0
            assert entries["location"] == "out.onnx.data"
            seen[tensor.name] = hashlib.sha256(data[offset : offset + length]).hexdigest()
    assert seen == hashes
    assert (tmp_path / "out.onnx.data").stat().st_nlink == 1


@pytest.mark.parametrize("external", ["always", "never"])
def test_every_flipped_byte_of_a_plane_is_found(external: str, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    convert(source, output, external_data=external)
    assert all(onnxquant.verify(output).values())
    holder = tmp_path / ("out.onnx.data" if external == "always" else "out.onnx")
    sound = holder.read_bytes()
    plane = next(bytes(t.raw_data) for t in onnx.load(output).graph.initializer if t.name == "w/codes")
    first, random = sound.index(plane), np.random.default_rng(0)
    for place in (first, first + len(plane) - 1, *random.integers(first, first + len(plane), 40)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << int(random.integers(8))
        holder.write_bytes(damaged)
        results = onnxquant.verify(output)
        assert [name for name, good in results.items() if not good] == ["w/codes"]


# ---- every call fails once ----


class Stop(BaseException):
    """As KeyboardInterrupt and SystemExit, but nobody's but ours."""


class Faults:
    """Counts the calls that write, and lets the k-th one fail."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.failing = 0
        self.mode = "once"
        wrap: list[tuple[Any, str, str]] = [
            (Path, "replace", "replace"),
            (os, "link", "link"),
            (os, "fsync", "fsync"),
            (shutil, "copyfile", "copy"),
        ]
        for owner, attribute, name in wrap:
            patch.setattr(owner, attribute, self._wrapped(getattr(owner, attribute), name))
        create = Publisher._create

        def created(publisher: Publisher, kind: str) -> Stream:
            if self.mode != "interrupted after":
                self.tick("create")
            stream = Stream(create(publisher, kind), self)
            if self.mode == "interrupted after":
                try:
                    self.tick("create")
                except Stop:
                    stream.stream.close()
                    raise
            return stream

        patch.setattr(Publisher, "_create", created)

    def _wrapped(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            folder = name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            if self.mode != "interrupted after":
                self.tick("fsync folder" if folder else name)
            result = call(*arguments, **named)
            if self.mode == "interrupted after":
                self.tick("fsync folder" if folder else name)
            return result

        return wrapped

    def tick(self, name: str) -> None:
        """One call; the k-th fails, and in mode ``for ever`` all that follow."""
        self.calls.append(name)
        count = len(self.calls)
        if count == self.failing or (self.mode == "for ever" and count > self.failing > 0):
            if self.mode.startswith("interrupted"):
                raise Stop
            raise OSError((errno.ENOSPC, errno.EIO)[self.failing % 2], "injected")

    @property
    def failed(self) -> str:
        """The call that failed; empty when none did."""
        return self.calls[self.failing - 1] if 0 < self.failing <= len(self.calls) else ""


class Stream:
    """A file whose writes, flushes and closes are counted; closing always closes."""

    def __init__(self, stream: BinaryIO, faults: Faults) -> None:
        self.stream, self.faults = stream, faults
        self.name = stream.name

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, data: Any) -> int:
        self.faults.tick("write")
        return self.stream.write(data)

    def flush(self) -> None:
        self.faults.tick("flush")
        self.stream.flush()

    def close(self) -> None:
        if not self.stream.closed:
            self.stream.close()
            self.faults.tick("close")

    def fileno(self) -> int:
        return self.stream.fileno()


# What was there before, and what is made.
SCENARIOS: dict[str, tuple[str | None, str]] = {
    "nothing, then several files": (None, "several"),
    "several files, then others": ("several", "several"),
    "nothing, then one file": (None, "never"),
    "nothing, then a pair": (None, "always"),
    "one file, then one file": ("never", "never"),
    "one file, then a pair": ("never", "always"),
    "a pair, then a pair": ("always", "always"),
    "a pair, then one file": ("always", "never"),
    "several files, then a pair": ("several", "always"),
    "a data file alone, then a pair": ("data alone", "always"),
}


def external_options(case: str) -> dict[str, Any]:
    """Options for one file, a pair, or a model with a data file for each tensor."""
    return {"external_data": "always", "data_limit": "4kB"} if case == "several" else {"external_data": case}


def prepare(folder: Path, before: str | None, source: Path) -> None:
    folder.mkdir()
    if before:
        convert(source, folder / "out.onnx", "int4", **external_options("always" if before == "data alone" else before))
    if before == "data alone":
        (folder / "out.onnx").unlink()


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("mode", ["once", "for ever", "interrupted before", "interrupted after"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_any_failing_call_leaves_the_old_output_or_the_new(
    scenario: str, mode: str, part: int, source: Path, tmp_path: Path
) -> None:
    before, external = SCENARIOS[scenario]
    prepare(tmp_path / "before", before, source)
    shutil.copytree(tmp_path / "before", tmp_path / "new")
    convert(source, tmp_path / "new" / "out.onnx", **external_options(external), force=True)
    complete, survived = snapshot(tmp_path / "new"), set()
    for k in range(1 + part, 200, 2):
        folder = tmp_path / str(k)
        shutil.copytree(tmp_path / "before", folder)
        old = snapshot(folder)
        error: BaseException | None = None
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch)
            faults.failing, faults.mode = k, mode
            try:
                convert(source, folder / "out.onnx", **external_options(external), force=True)
            except (OutputError, Stop) as caught:
                error = caught
        now = snapshot(folder)
        if not faults.failed:
            break
        where = f"{mode}, call {k}: {faults.failed}"
        if error is None:
            survived.add(faults.failed)
            assert now == complete, where
        elif mode == "once":
            assert now == old, where
            assert "out.onnx" in str(error) and "injected" in str(error)
        elif mode == "for ever":
            # Even undoing fails: then the output may lean on a temporary file, but it is the old or the new, whole.
            if {name: digest for name, digest in now.items() if not name.startswith(".onnxquant-")} != old:
                assert whole(folder / "out.onnx"), where
                assert np.array_equal(outputs(folder / "out.onnx"), outputs(tmp_path / "new" / "out.onnx")), where
        else:
            assert now in (old, complete), where
    assert not faults.failed
    assert error is None and now == complete
    kinds = set(faults.calls)
    assert {"create", "write", "flush", "fsync", "replace", "fsync folder", "close"} <= kinds
    assert ("link" in kinds) == (external != "never" and before is not None)
    assert len(complete) == {"never": 1, "always": 2, "several": 3}[external]
    # Nothing but these may fail without being reported: there is another way, or all is done already.
    assert survived <= {"link", "fsync folder", "close"}


def test_file_system_without_links_replaces_a_pair_too(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "a", "always", source)
    prepare(tmp_path / "b", "always", source)
    convert(source, tmp_path / "a" / "out.onnx", external_data="always", force=True)

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    convert(source, tmp_path / "b" / "out.onnx", external_data="always", force=True)
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_files_are_synced_before_they_are_published(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data first, graph last, each on disk before its name; then the folder."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("sync " + str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        events.append(f"{path} -> {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    convert(source, tmp_path / "out.onnx", external_data="always")
    published = [e.split(" -> ") for e in events if " -> " in e]
    assert [name for _, name in published] == ["out.onnx.data", "out.onnx"]
    for temporary, name in published:
        assert events.index(f"sync {temporary}") < events.index(f"{temporary} -> {name}")
    assert events[-1] == f"sync {tmp_path}"


# ---- SIGKILL ----

SERVER = """
import os, signal, sys, time
from pathlib import Path
from onnxquant.cli import main

# Whoever starts the tests in the background may ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def stepped(call, tick):
    def wrapped(*arguments, **named):
        tick()
        result = call(*arguments, **named)
        tick()
        return result
    return wrapped

for line in sys.stdin:
    source, output, format, step, number = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if pid == 0:
        count = 0
        def tick():
            global count
            count += 1
            if int(step) == count:
                os.kill(os.getpid(), int(number))
            if int(step) == 0:
                time.sleep(0.005)
        for owner, name in ((os, "fsync"), (os, "link"), (Path, "replace"), (Path, "unlink")):
            setattr(owner, name, stepped(getattr(owner, name), tick))
        options = ["--format", format, "--target", "ort", "--no-proof", "--force", "--external-data", "always", "-q"]
        try:
            main(["quantize", source, "-o", output, *options])
        except SystemExit as ended:
            os._exit(ended.code or 0)
        finally:
            os._exit(99)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Server:
    """A process that has everything imported and forks a conversion per request: killing one costs milliseconds."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def start(
        self, source: Path, output: Path, format: str, step: int = 0, number: signal.Signals = signal.SIGKILL
    ) -> int:
        """Begin a conversion; its process id. With a step it sends itself a signal there, else it is slowed down."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(f"{source}\t{output}\t{format}\t{step}\t{int(number)}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def wait(self) -> int:
        """Exit code of the conversion; negative for a signal."""
        assert self.process.stdout
        return int(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def whole(output: Path) -> bool:
    """Whether every tensor of a file has the hash that the file says: no mixture of two conversions."""
    proto = onnx.load(output, load_external_data=False)
    hashes = json.loads(next(e.value for e in proto.metadata_props if e.key == HASHES))
    for tensor in proto.graph.initializer:
        entries = {e.key: e.value for e in tensor.external_data}
        if entries:
            data = (output.parent / entries["location"]).read_bytes()
            part = data[int(entries["offset"]) : int(entries["offset"]) + int(entries["length"])]
            if hashlib.sha256(part).hexdigest() != hashes.pop(tensor.name):
                return False
    return not hashes


class Pair:
    """An output that is converted back and forth between two formats, with what each of them computes."""

    def __init__(self, source: Path, folder: Path) -> None:
        self.source, self.output = source, folder / "out.onnx"
        self.expected = {}
        for format in ("int8", "int4"):
            convert(source, folder / format / "out.onnx", format, external_data="always")
            self.expected[format] = outputs(folder / format / "out.onnx")
        assert not np.array_equal(self.expected["int8"], self.expected["int4"])
        convert(source, self.output, "int8", external_data="always")

    def now(self) -> str:
        """The format that the output holds, whole."""
        assert whole(self.output)
        got = outputs(self.output)
        (found,) = [f for f, y in self.expected.items() if np.array_equal(got, y)]
        return found

    def other(self) -> str:
        """The format to convert to, so that old and new differ."""
        return "int4" if self.now() == "int8" else "int8"


@pytest.fixture
def pair(source: Path, tmp_path: Path) -> Pair:
    for name in ("int8", "int4"):
        (tmp_path / name).mkdir()
    return Pair(source, tmp_path)


# Steps are dealt out to so many tests, which can run beside each other.
PARTS = 3


@pytest.mark.parametrize("part", range(PARTS))
def test_sigkill_at_every_step_leaves_the_old_pair_or_the_new(server: Server, pair: Pair, part: int) -> None:
    outcomes = []
    for step in range(1 + part, 100, PARTS):
        old, new = pair.now(), pair.other()
        server.start(pair.source, pair.output, new, step)
        code = server.wait()
        now = pair.now()
        assert now in (old, new)
        outcomes.append("old" if now == old else "new")
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0
    # From some step on it is the new pair, and before that never.
    assert outcomes == sorted(outcomes, reverse=True)
    assert outcomes.count("old") >= 2 and outcomes.count("new") >= 2


def test_sigkill_at_random_moments_leaves_the_old_pair_or_the_new(server: Server, pair: Pair) -> None:
    begin = time.perf_counter()
    server.start(pair.source, pair.output, pair.other())
    assert server.wait() == 0
    seconds = time.perf_counter() - begin
    random, kills = np.random.default_rng(7), 0
    while kills < 15:
        before, wanted = pair.now(), pair.other()
        pid = server.start(pair.source, pair.output, wanted)
        time.sleep(random.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = server.wait()
        assert code in (0, -signal.SIGKILL)
        kills += code != 0
        assert pair.now() in (before, wanted)
    # What killed ones left behind does not disturb the next.
    wanted = pair.other()
    server.start(pair.source, pair.output, wanted)
    assert server.wait() == 0
    assert pair.now() == wanted


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)])
def test_a_polite_signal_at_every_step_leaves_nothing_behind(
    number: signal.Signals, expected: int, server: Server, pair: Pair, part: int
) -> None:
    names, interrupted = sorted(p.name for p in pair.output.parent.iterdir()), 0
    for step in range(1 + part, 100, PARTS):
        old, new = pair.now(), pair.other()
        server.start(pair.source, pair.output, new, step, number)
        code = server.wait()
        assert pair.now() in (old, new)
        assert sorted(p.name for p in pair.output.parent.iterdir()) == names
        if code == 0:
            break
        assert code == expected
        interrupted += 1
    assert code == 0
    assert interrupted > 20 // PARTS


# ---- determinism ----

SCRIPT = """
import hashlib, json, os, sys
from pathlib import Path
import onnxquant
os.umask(int(sys.argv[2]))
out = {}
for format in ("int8", "int4", "q4_0", "i2_s"):
    for target, external in (("auto", "always"), ("custom", "never")):
        name = f"{format}.{target}.onnx"
        onnxquant.quantize("m.onnx", name, format=format, target=target, external_data=external, proof=False,
                           threads=int(sys.argv[1]))
        files = [p for p in (Path(name), Path(name + ".data")) if p.exists()]
        out[name] = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
print(json.dumps(out))
"""


def test_output_does_not_depend_on_process_folder_or_threads(default_model: Path, tmp_path: Path) -> None:
    environments = [
        {"PYTHONHASHSEED": "0", "threads": "1", "umask": "18"},
        {"PYTHONHASHSEED": "1", "threads": "2", "umask": "63", "TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8"},
        {"PYTHONHASHSEED": "4711", "threads": "1", "umask": "18", "TMPDIR": str(tmp_path)},
    ]
    running = []
    for i, given in enumerate(environments):
        folder = tmp_path / ("in a/far longer/path" if i else "a")
        if i == 2:
            folder = tmp_path / "c"
        folder.mkdir(parents=True)
        shutil.copy(default_model, folder / "m.onnx")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **{k: v for k, v in given.items() if k.isupper()}}
        command = [sys.executable, "-P", "-c", SCRIPT, given["threads"], given["umask"]]
        running.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True))
    results = [json.loads(p.communicate(timeout=60)[0]) for p in running]
    assert results[0] == results[1] == results[2]
    assert len({digest for digests in results[0].values() for digest in digests}) == 12
