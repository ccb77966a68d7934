"""Whatever a user can get wrong: one line that says what, exit code 2, no traceback, and the folder as it was."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import graphs
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

import onnxquant
from onnxquant.cli import main
from onnxquant.errors import ExternalDataError, ModelError
from onnxquant.graph.io import MAX_IR, MAX_OPSET

K, N = 64, 48
Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Commands take SIGTERM for themselves: give it back to the test runner."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return graphs.save(graphs.matmul(K, N), tmp_path / "model.onnx")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="onnxquant")


def snapshot(folder: Path) -> dict[str, str]:
    """Everything in a folder: names, and contents where there are any."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "no file"
        for p in sorted(folder.rglob("*"))
    }


def refused(folder: Path, *arguments: object, says: str) -> None:
    """The command fails as it should: see the module's docstring."""
    before = snapshot(folder)
    result = run(*arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("onnxquant: error: ")
    assert re.search(says, line), line
    assert "Traceback" not in line
    assert len(line) < 600
    assert snapshot(folder) == before


# ---- models ----


def missing(path: Path) -> None:
    """No such file."""


def text(path: Path) -> None:
    path.write_text("# A model\n\nIt is not here.\n" * 50)


def picture(path: Path) -> None:
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x10\x00\x00\x00\x10\x08\x06\x00\x00\x00\x1f\xf3\xffa"
    )


def zeros(path: Path) -> None:
    path.write_bytes(bytes(5000))


def truncated(path: Path) -> None:
    raw = graphs.matmul(K, N).SerializeToString()
    path.write_bytes(raw[: len(raw) * 2 // 3])


def only_a_header(path: Path) -> None:
    path.write_bytes(onnx.ModelProto(ir_version=8, producer_name="p").SerializeToString())


def fifo(path: Path) -> None:
    os.mkfifo(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def looped(path: Path) -> None:
    path.symlink_to(path)


def opset(version: int | None) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        proto = graphs.matmul(K, N)
        if version is None:
            del proto.opset_import[:]
        else:
            proto.opset_import[0].version = version
        onnx.save(proto, path)

    return make


def ir(version: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        proto = graphs.matmul(K, N)
        proto.ir_version = version
        path.write_bytes(proto.SerializeToString())

    return make


def external_gone(path: Path) -> None:
    graphs.save(graphs.matmul(K, N), path, external=True)
    path.with_suffix(".bin").unlink()


def external_cut(path: Path) -> None:
    graphs.save(graphs.matmul(K, N), path, external=True)
    with path.with_suffix(".bin").open("r+b") as file:
        file.truncate(100)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (missing, r"bad\.onnx: no such file"),
    "folder": (
        Path.mkdir,
        r"bad\.onnx(: is a folder; expected a file, and it has no \*\.onnx|: has neither genai_config\.json| is a folder)",
    ),
    "fifo": (fifo, r"bad\.onnx: not a file"),
    "dangling link": (dangling, r"bad\.onnx: is a link to .*gone, which is not there"),
    "looped link": (looped, r"bad\.onnx: "),
    "empty": (Path.touch, r"bad\.onnx: the file is empty"),
    "text": (text, r"bad\.onnx: .*not an ONNX model"),
    "picture": (picture, r"bad\.onnx: .*not an ONNX model"),
    "zeros": (zeros, r"bad\.onnx: .*not an ONNX model"),
    "truncated": (truncated, r"bad\.onnx: .*truncated"),
    "no graph": (only_a_header, r"bad\.onnx: has no graph"),
    "opset 5": (opset(5), rf"opset 5 is not supported; expected 7 to {MAX_OPSET}"),
    "opset 99": (opset(99), rf"opset 99 is not supported; expected 7 to {MAX_OPSET}"),
    "no opset": (opset(None), r"opset missing is not supported"),
    "IR 99": (ir(99), rf"IR version 99 is not supported; expected at most {MAX_IR}"),
    "external data gone": (external_gone, r"external data 'bad\.bin': No such file"),
    "external data cut": (external_cut, rf"bad\.bin: holds 100 bytes, expected {4 * K * N} or more.*copy or download it"),
}
COMMANDS: dict[str, Callable[[Path, Path, Path], list[object]]] = {
    "quantize": lambda bad, good, out: ["quantize", bad, "-o", out],
    "dry run": lambda bad, good, out: ["quantize", bad, "--dry-run"],
    "validate the first": lambda bad, good, out: ["validate", bad, good],
    "validate the second": lambda bad, good, out: ["validate", good, bad],
    "benchmark": lambda bad, good, out: ["benchmark", bad],
    "info": lambda bad, good, out: ["info", bad],
    "verify": lambda bad, good, out: ["verify", bad],
    "dequantize": lambda bad, good, out: ["dequantize", bad, "-o", out],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_unreadable_model(kind: str, command: str, model: Path, tmp_path: Path) -> None:
    make, says = UNREADABLE[kind]
    bad = tmp_path / "bad.onnx"
    make(bad)
    refused(tmp_path, *COMMANDS[command](bad, model, tmp_path / "out.onnx"), says=says)


def test_model_name_too_long(tmp_path: Path) -> None:
    refused(tmp_path, "quantize", "x" * 300, says="File name too long")


def test_names_as_long_as_books_are_cut(tmp_path: Path) -> None:
    """In a result and in an error; and new tensors are not named after them at full length."""
    long = "n" * 20_000
    proto = graphs.matmul(256, 256)
    proto.graph.initializer[0].name = proto.graph.node[0].input[1] = long
    proto.graph.node[0].output[0] = proto.graph.output[0].name = f"y{long}"
    path = graphs.save(proto, tmp_path / "model.onnx")
    result = run("quantize", path, "-v", "-o", tmp_path / "out.onnx")
    assert result.exit_code in (0, 1) and len(result.stdout) < 9000
    assert (tmp_path / "out.onnx").stat().st_size < 10 * len(long)
    proto.graph.node[0].domain = long
    proto.opset_import.append(onnx.helper.make_opsetid(long, 1))
    graphs.save(proto, path)
    (tmp_path / "out.onnx").unlink()
    refused(tmp_path, "quantize", path, says=r"nn\.\.\.\(\d+ characters\)\.\.\.nn")


def weight_with(*values: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        weight = graphs.weight(K, N)
        weight[-len(values) :, 5] = values
        proto = graphs.matmul(K, N)
        proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "layer.3/weight"))
        proto.graph.node[0].input[1] = "layer.3/weight"
        onnx.save(proto, path)

    return make


@pytest.mark.parametrize(
    "format", [f.name for f in onnxquant.formats.formats() if any(t.holds(f) for t in onnxquant.targets.targets())]
)
@pytest.mark.parametrize(
    ("values", "says"),
    [((np.nan,), "nan"), ((np.inf,), "inf"), ((-np.inf,), "-inf"), ((np.inf, -np.inf), "inf"), ((3, np.nan), "nan")],
    ids=str,
)
def test_weight_that_is_not_finite_is_named(values: tuple[float, ...], says: str, format: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.onnx"
    weight_with(*values)(bad)
    says = rf"weight 'layer\.3/weight' holds {says} at row 5, column 6[23].*--exclude"
    refused(tmp_path, "quantize", bad, "-o", tmp_path / "out.onnx", "--format", format, "--no-proof", says=says)


def without_weights(path: Path) -> None:
    onnx.save(graphs.model([graphs.node("Relu", ["x"], ["y"])], {"x": ("float32", [1])}, {"y": "float32"}, {}), path)


def classifier(path: Path) -> None:
    attributes = {"coefficients": [0.5] * 64, "intercepts": [0.0] * 2, "classlabels_ints": [0, 1]}
    node = graphs.node("LinearClassifier", ["x"], ["y", "scores"], domain="ai.onnx.ml", **attributes)
    proto = graphs.model([node], {"x": ("float32", [1, 32])}, {"y": "int64"}, {})
    proto.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 1))
    onnx.save(proto, path)


def small_weights(path: Path) -> None:
    onnx.save(graphs.matmul(4, 4), path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (without_weights, "nothing to quantize: it has no constant float weights"),
        (classifier, r"weights: the numbers of LinearClassifier \(ai.onnx.ml\) are attributes, which stay"),
        (small_weights, "nothing to quantize: w: only 16 elements"),
    ],
)
def test_nothing_to_quantize(make: Callable[[Path], None], says: str, tmp_path: Path) -> None:
    make(tmp_path / "m.onnx")
    refused(tmp_path, "quantize", tmp_path / "m.onnx", says=says)


def test_everything_excluded(model: Path, tmp_path: Path) -> None:
    refused(tmp_path, "quantize", model, "--exclude", ".", says="nothing to quantize: w: --exclude '.' leaves it in float")


def test_already_quantized(model: Path, tmp_path: Path) -> None:
    once = tmp_path / "once.onnx"
    assert run("quantize", model, "-o", once, "--no-proof").exit_code == 0
    for arguments in ((), ("--force",), ("--format", "q4_0"), ("--dry-run",)):
        says = r"once\.onnx: is already quantized by onnxquant \(int8\).*onnxquant dequantize"
        refused(tmp_path, "quantize", once, "-o", tmp_path / "twice.onnx", *arguments, says=says)
    says = "quantize the original with --format int8 --float16, or make"
    refused(tmp_path, "quantize", once, "-o", tmp_path / "twice.onnx", "--float16", says=says)


def test_not_ours(model: Path, tmp_path: Path) -> None:
    refused(tmp_path, "verify", model, says="holds no hashes; only files written by onnxquant do")
    refused(tmp_path, "dequantize", model, "-o", tmp_path / "x.onnx", says="holds no weights encoded by onnxquant")


# ---- options ----

BAD_OPTIONS: dict[str, tuple[list[str], str]] = {
    "format": (["--format", "tq20"], "--format.*'tq20'; did you mean 'tq2_0'"),
    "format far off": (["--format", "zzz"], "--format.*'zzz'; known: .*q8_0"),
    "bits": (["--bits", "7"], "--bits.*7; known: 8, 6, 5, 4, 3, 2"),
    "bits no number": (["--bits", "four"], "--bits.*'four' is not a valid integer"),
    "statistics without ranges": (["--calibration", "nosuch.npz"], "calibration: has no effect without --activations static"),
    "type without codes": (["--activation-type", "int8"], "activation_type: has no effect without --activations static"),
    "smoothing without integers": (["--no-smooth"], "smooth: has no effect without --activations"),
    "effort without a search": (["--effort", "high"], "effort: has no effect without --activations"),
    "drop of no metric": (["--max-drop", "1%"], "max_drop: has no effect without --metric"),
    "bits and format": (["--bits", "4", "--format", "q4_0"], "bits 4 means format 'int4', but format is 'q4_0'"),
    "block 512": (["--block-size", "512"], "block_size 512: expected a power of two from 16 to 256"),
    "block 48": (["--block-size", "48"], "block_size 48: expected a power of two"),
    "block 0": (["--block-size", "0"], "block_size 0: expected a power of two"),
    "block -32": (["--block-size", "-32"], "block_size -32: expected a power of two"),
    "block per channel": (["--block-size", "32", "--per-channel"], "block_size and per_channel exclude each other"),
    "block per tensor": (["--block-size", "32", "--per-tensor"], "block_size and per_channel exclude each other"),
    "block of a fixed point": (["--format", "q4_0", "--block-size", "32"], "'q4_0' has no parameter 'block_size'"),
    "double_quant of q4_0": (["--format", "q4_0", "--double-quant"], "'q4_0' has no parameter 'double_quant'"),
    "block of nf4": (
        ["--format", "nf4", "--block-size", "16"],
        "block_size 16: expected a power of two from 32 to 4096",
    ),
    "float zero point": (
        ["--format", "int4", "--zero-point", "float"],
        "zero_point 'float' needs zero points: add .*--asym",
    ),
    "zero point": (["--zero-point", "flat"], "--zero-point.*'flat'; did you mean 'float'"),
    "seed of rounding": (["--format", "nf4", "--stochastic", "-1"], "stochastic -1: expected a seed from 0 to"),
    "seed of rounding, text": (["--format", "nf4", "--stochastic", "x"], "--stochastic.*'x' is not a valid integer"),
    "threshold": (["--format", "llm_int8", "--threshold", "0"], "threshold 0.0: expected a magnitude above 0"),
    "quantile": (["--format", "llm_int8", "--quantile", "1"], "quantile 1.0: expected a number between 0 and 1"),
    "asymmetric q8_0": (["--format", "q8_0", "--asymmetric"], "'q8_0' has no parameter 'symmetric'"),
    "include": (["--include", "layer.(3"], r"include 'layer\.\(3' is not a regular expression: .*position"),
    "exclude": (["--exclude", "*"], r"exclude '\*' is not a regular expression"),
    "target": (["--target", "custum"], "--target.*'custum'.*'custom'"),
    "external data": (["--external-data", "maybe"], "--external-data.*'maybe'.*always"),
    "dim without length": (["--dim", "batch"], "dim 'batch': expected NAME=N with N > 0"),
    "dim without name": (["--dim", "=3"], "dim '=3': expected NAME=N"),
    "dim 0": (["--dim", "batch=0"], "dim 'batch=0': expected NAME=N with N > 0"),
    "dim negative": (["--dim", "batch=-1"], "dim 'batch=-1': expected NAME=N"),
    "dim no number": (["--dim", "batch=two"], "dim 'batch=two': expected NAME=N"),
    "dim superscript": (["--dim", "batch=²"], "dim 'batch=²': expected NAME=N"),
    "dim beyond memory": (["--dim", "batch=99999999999999"], "out of memory"),
    "samples": (["--samples", "0"], "samples is 0, expected at least 1"),
    "threads": (["--threads", "0"], "threads is 0, expected at least 1"),
    "seed": (["--seed", "-1"], "seed is -1, expected at least 0"),
    "sqnr": (["--min-sqnr", "high"], "--min-sqnr.*'high' is not a valid float"),
    "option": (["--fromat", "int4"], "no such option '--fromat'.*--format"),
    "argument": (["second.onnx"], "unexpected extra argument.*second.onnx"),
    "value missing": (["--format"], "--format.*requires an argument"),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_option(kind: str, model: Path, tmp_path: Path) -> None:
    options, says = BAD_OPTIONS[kind]
    refused(tmp_path, "quantize", model, "-o", tmp_path / "out.onnx", *options, says=says)


def test_a_session_names_the_data_file_that_was_cut(tmp_path: Path) -> None:
    """onnxruntime names neither the file nor the bytes; a model that it refuses for another reason keeps its words."""
    external_cut(tmp_path / "bad.onnx")
    with pytest.raises(ExternalDataError, match=r"bad\.bin: holds 100 bytes, expected"):
        onnxquant.load(tmp_path / "bad.onnx")
    proto = graphs.matmul(K, N)
    proto.graph.node[0].op_type = "NoSuchOp"
    with pytest.raises(ModelError, match=r"onnxruntime .* cannot load it"):
        onnxquant.load(graphs.save(proto, tmp_path / "op.onnx"))


def test_usage(tmp_path: Path) -> None:
    refused(tmp_path, "quantize", says="missing argument 'MODEL'.*onnxquant quantize --help")
    refused(tmp_path, "qantize", "x.onnx", says="no such command 'qantize'; did you mean .*; see `onnxquant --help`$")
    refused(tmp_path, "quantize", "x", "--bits", "q", says="'q' is not a valid integer; see `onnxquant quantize --help`$")
    refused(tmp_path, "quantize", "a", "b", says=r"error: got unexpected extra argument \(b\); see `onnxquant quantize")
    refused(tmp_path, "benchmark", says="missing argument 'MODELS...'")
    refused(tmp_path, "dequantize", "x.onnx", says="missing option '-o' / '--output'")
    # Called with nothing it explains itself.
    assert "Start here" in run().output


BAD_RECIPES: dict[str, tuple[str, str, str]] = {
    "toml": ("r.toml", "format = int4", r"r\.toml: not a recipe: "),
    "toml with a name twice": ("r.toml", "bits = 4\nbits = 8", r"r\.toml: not a recipe: "),
    "yaml": ("r.yaml", "rules: [\n- {include: x", r"r\.yaml: not a recipe: "),
    "yaml with objects": ("r.yaml", "!!python/object/apply:os.system ['touch owned']", r"r\.yaml: not a recipe: "),
    "yaml list": ("r.yml", "- format: int4", r"r\.yml: holds list, expected a table of keys"),
    "empty yaml": ("r.yaml", "", r"r\.yaml: holds NoneType, expected a table"),
    "key": ("r.toml", 'fromat = "int4"', "recipe: unknown key 'fromat'; did you mean 'format'"),
    "key in a rule": ("r.toml", '[[rules]]\nexlude = "x"', "rule 1: unknown key 'exlude'; did you mean 'exclude'"),
    "option of the file": ("r.toml", 'clients = "openvino"', "is an option of the whole file, .* put it under 'options'"),
    "name of the command line": ("r.toml", '[options]\nfor = "openvino"', "unknown key 'for'; did you mean 'clients'"),
    "rules": ("r.toml", 'rule = "x"', "unknown key 'rule'; did you mean 'rules'"),
    "rules no list": ("r.toml", "[rules]\nformat = 'int4'", "rules is .* expected a list of tables"),
    "rules of strings": ("r.yaml", "rules: [int4]", "rules is .* expected a list of tables"),
    "type": ("r.toml", "format = 4", "format is 4, expected str"),
    "type of bits": ("r.toml", 'bits = "4"', "bits is '4', expected int"),
    "boolean bits": ("r.yaml", "bits: true", "bits is True, expected int"),
    "type of a parameter": ("r.toml", 'block_size = "32"', "block_size is '32', expected int"),
    "choice of a parameter": ("r.toml", 'zero_point = "flat"', "zero_point is 'flat'; did you mean 'float'"),
    "boolean parameter": ("r.toml", "double_quant = 1", "double_quant is 1, expected bool"),
    "boolean seed": ("r.toml", "stochastic = true", "stochastic is True, expected int"),
    "parameter of a rule": ("r.toml", '[[rules]]\nthreshold = "x"', "rule 1: threshold is 'x', expected float"),
    "misspelt parameter": ("r.toml", "quantil = 0.9", "unknown key 'quantil'; did you mean 'quantile'"),
    "type in a rule": ("r.yaml", "rules:\n- include: 3", "rule 1: include is 3, expected list or str"),
    "list of numbers": ("r.yaml", "include: [3]", r"include\[0\] is 3, expected str"),
    "keep": ("r.yaml", "rules:\n- keep: 'yes'", "rule 1: keep is 'yes', expected bool"),
    "second rule": ("r.toml", '[[rules]]\nbits = 4\n[[rules]]\nformat = "int7"', "rule 2: format is 'int7'; did you mean"),
    "expression": ("r.toml", '[[rules]]\ninclude = "("', r"include '\(' is not a regular expression"),
    "target": ("r.toml", 'target = "cutsom"', "target is 'cutsom'; did you mean 'custom'"),
    "bits and format": ("r.toml", 'bits = 8\nformat = "int4"', "bits 8 means format 'int8'"),
    "binary": ("r.toml", "\udcff\udcfe", r"r\.toml: cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_RECIPES)
def test_bad_recipe(kind: str, model: Path, tmp_path: Path) -> None:
    name, content, says = BAD_RECIPES[kind]
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    refused(tmp_path, "quantize", model, "-o", tmp_path / "out.onnx", "--recipe", tmp_path / name, says=says)
    assert not Path("owned").exists()


def test_recipe_that_is_no_file(model: Path, tmp_path: Path) -> None:
    for name in ("gone.toml", "."):
        refused(tmp_path, "quantize", model, "--recipe", tmp_path / name, says="cannot be read")


# ---- data ----


def archive(arrays: Arrays) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "feeds.npz", **arrays)
        return folder / "feeds.npz"

    return make


def named(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def folder_of(files: Mapping[str, Arrays]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "feeds").mkdir()
        for name, arrays in files.items():
            np.savez(folder / "feeds" / name, **arrays)
        return folder / "feeds"

    return make


def pickled(folder: Path) -> Path:
    np.savez(folder / "feeds.npz", x=np.array([{"a": 1}], dtype=object))
    return folder / "feeds.npz"


def cut(folder: Path) -> Path:
    path = archive({"x": good()})(folder)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def good(*shape: int, value: float = 0.5, dtype: str = "float32") -> NDArray[Any]:
    return np.full(shape or (2, 3, K), value, dtype)


TAKES = r"the model takes x tensor\(float\) \['batch', 3, 64\]"
BAD_DATA: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "feeds.npz", r"feeds\.npz: cannot be read"),
    "another ending": (named("feeds.xyz", b"1,2"), rf"expected a \.npz file.*{TAKES}"),
    "no archive": (named("feeds.npz", b"hello"), r"feeds\.npz: cannot be read as \.npz"),
    "empty file": (named("feeds.npz", b""), r"feeds\.npz: cannot be read as \.npz"),
    "cut archive": (cut, r"feeds\.npz: cannot be read as \.npz"),
    "objects": (pickled, r"feeds\.npz: cannot be read as \.npz"),
    "no arrays": (archive({}), "input 'x' is missing|holds no samples"),
    "name": (archive({"X": good()}), rf"no input 'X'; found X float32 \[2, 3, 64\]; {TAKES}: name it after the input"),
    "last axis": (archive({"x": good(2, 3, 63)}), r"shape \[1, 3, 63\], expected \['batch', 3, 64\]"),
    "rank": (archive({"x": good(2, 64)}), r"shape \[2, 64\], expected \[samples, 3, 64\]; the first axis is"),
    "scalar": (archive({"x": np.float32(1)}), r"shape \[\], expected"),
    "text": (archive({"x": np.full((2, 3, K), "a")}), r"is <U1, expected tensor\(float\)"),
    "complex": (archive({"x": good(dtype="complex64")}), r"is complex64, expected tensor\(float\)"),
    "nan": (archive({"x": good(value=np.nan)}), "input 'x' holds NaN or infinity"),
    "infinity": (archive({"x": good(value=np.inf)}), "input 'x' holds NaN or infinity"),
    "infinity in float32 only": (archive({"x": good(value=1e300, dtype="float64")}), "NaN or infinity"),
    "no samples": (archive({"x": good(0, 3, K)}), f"holds no samples; {TAKES}"),
    "empty folder": (folder_of({}), f"no .npz files in this folder or its subfolders, nor .npy files or images; {TAKES}"),
    "bad file in a folder": (folder_of({"a": {"x": good(1, 3, K)}, "b": {"x": good(1, 3, 2)}}), "sample 1: .*shape"),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(kind: str, model: Path, tmp_path: Path) -> None:
    make, says = BAD_DATA[kind]
    data = make(tmp_path)
    refused(tmp_path, "quantize", model, "-o", tmp_path / "out.onnx", "--data", data, says=says)
    refused(tmp_path, "validate", model, model, "--data", data, says=says)
    if kind != "bad file in a folder":  # a benchmark runs the first sample only
        refused(tmp_path, "benchmark", model, "--data", data, says=says)


def test_data_of_a_wrong_type_or_range_for_indices(tmp_path: Path) -> None:
    model = graphs.save(graphs.gather(50, 72), tmp_path / "model.onnx")
    for values, says in (
        (np.zeros((2, 5), np.float32), r"input 'i' is float32, expected tensor\(int64\)"),
        (np.full((2, 5), 4711), "onnxruntime cannot run the model.*4711"),
        (np.zeros((2, 5, 1, 1), np.int64), "has shape"),
    ):
        np.savez(tmp_path / "feeds.npz", i=values)
        data = tmp_path / "feeds.npz"
        refused(tmp_path, "quantize", model, "-o", tmp_path / "out.onnx", "--data", data, says=says)


def test_samples_of_different_numbers(tmp_path: Path) -> None:
    nodes = [graphs.node("MatMul", ["x", "w"], ["m"]), graphs.node("Add", ["m", "z"], ["y"])]
    inputs = {"x": ("float32", ["b", K]), "z": ("float32", ["b", N])}
    onnx.save(graphs.model(nodes, inputs, {"y": "float32"}, {"w": graphs.weight(K, N)}), tmp_path / "m.onnx")
    for arrays, says in (
        ({"x": good(3, K), "z": good(2, N)}, r"arrays differ in their number of samples: .*'x': 3.*'z': 2"),
        ({"x": good(3, K)}, "input 'z' is missing"),
    ):
        np.savez(tmp_path / "feeds.npz", **arrays)
        data = tmp_path / "feeds.npz"
        refused(tmp_path, "quantize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--data", data, says=says)


def test_bad_dimension_for_the_model(tmp_path: Path) -> None:
    """A length that the model itself refuses is a failed proof, not a crash: the file is there, exit code 1."""
    nodes = [graphs.node("MatMul", ["x", "w"], ["y"])]
    onnx.save(
        graphs.model(nodes, {"x": ("float32", ["b", "k"])}, {"y": "float32"}, {"w": graphs.weight(K, N)}),
        tmp_path / "m.onnx",
    )
    result = run("quantize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--dim", "k=63", "--dim", "b=2")
    assert result.exit_code == 1, result.output
    assert "outputs were not compared" in result.output
    assert (tmp_path / "o.onnx").exists()


def test_made_up_samples_that_do_not_fit_fail_no_file(tmp_path: Path) -> None:
    """Nothing says which length the model takes: the file is as good as it was, and nobody can tell how good."""
    nodes = [graphs.node("Pad", ["x", "pads"], ["p"]), graphs.node("MatMul", ["p", "w"], ["y"])]
    constants = {"w": graphs.weight(K, N), "pads": np.array([0, 7])}
    onnx.save(graphs.model(nodes, {"x": ("float32", ["k"])}, {"y": "float32"}, constants), tmp_path / "m.onnx")
    result = run("quantize", tmp_path / "m.onnx", "-o", tmp_path / "o.onnx", "--summary")
    assert result.exit_code == 0 and result.output.startswith("UNKNOWN"), result.output
    bound = run("quantize", tmp_path / "m.onnx", "-o", tmp_path / "p.onnx", "--min-sqnr", 20)
    assert bound.exit_code == 1 and "outputs were not compared" in bound.output


# ---- outputs ----


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_bytes(b"x")
    return folder / "file" / "out.onnx"


def taken(folder: Path) -> Path:
    (folder / "out.onnx").write_bytes(b"precious")
    return folder / "out.onnx"


BAD_OUTPUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing folder": (lambda folder: folder / "no" / "out.onnx", r"out\.onnx: the folder .*no does not exist"),
    "below a file": (below_a_file, r"out\.onnx: the folder .*file does not exist"),
    "a folder": (lambda folder: folder, "is a folder; expected a file name"),
    "the input": (lambda folder: folder / "model.onnx", r"model\.onnx: is an input; inputs are never overwritten"),
    "taken": (taken, r"out\.onnx: exists already; pass --force"),
    "too long": (lambda folder: folder / ("x" * 256), "cannot be written: File name too long"),
}


@pytest.mark.parametrize("command", ["quantize", "dequantize"])
@pytest.mark.parametrize("kind", BAD_OUTPUTS)
def test_bad_output(kind: str, command: str, model: Path, tmp_path: Path) -> None:
    place, says = BAD_OUTPUTS[kind]
    if command == "dequantize":
        assert run("quantize", model, "-o", tmp_path / "q.onnx", "--no-proof").exit_code == 0
        (tmp_path / "q.onnx").replace(model)
    output = place(tmp_path)
    refused(tmp_path, command, model, "-o", output, says=says)
    if kind != "taken":
        refused(tmp_path, command, model, "-o", output, "--force", says=says)


def test_full_disk(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(
        tmp_path, "quantize", model, "-o", tmp_path / "out.onnx", "--no-proof",
        says=r"out\.onnx: cannot be written: No space left on device",
    )  # fmt: skip


def test_no_room_for_temporary_files(model: Path, tmp_path: Path) -> None:
    """The proof works in a temporary folder: said in a line where there is none."""
    code = "import sys, tempfile; tempfile.tempdir = sys.argv.pop(1); from onnxquant.cli import main; main()"
    gone = tmp_path / "gone"
    done = subprocess.run(
        [sys.executable, "-c", code, str(gone), "quantize", str(model), "-o", str(tmp_path / "out.onnx")],
        env={**os.environ, "PYTHONPATH": str(Path(onnxquant.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"onnxquant: error: {gone}.*: No such file or directory\n", done.stderr), done.stderr
    assert snapshot(tmp_path).keys() == {"model.onnx"}


def test_modules_in_the_current_folder_are_not_imported(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A downloaded folder may hold anything, a json.py too; the proof starts a process of its own."""
    for name in ("json.py", "numpy.py", "onnxruntime.py", "onnxquant.py"):
        (tmp_path / name).write_text("import pathlib; pathlib.Path('owned').touch()")
    monkeypatch.chdir(tmp_path)
    assert run("quantize", "model.onnx", "-q").exit_code == 0
    assert not (tmp_path / "owned").exists()
    assert (tmp_path / "model.int8.onnx").exists()


# ---- what a command says when all is well ----


def test_quiet_quantize_writes_the_default_name_and_says_nothing(model: Path, tmp_path: Path) -> None:
    for options, name in (
        ((), "model.int8.onnx"),
        (("--bits", "4"), "model.int4.onnx"),
        (("--format", "q8_0"), "model.q8_0.onnx"),
    ):
        result = run("quantize", model, "-q", "--no-proof", *options)
        assert (result.exit_code, result.output) == (0, "")
        assert (tmp_path / name).exists()
    names = {"model.onnx", "model.int8.onnx", "model.int4.onnx", "model.q8_0.onnx"}
    assert snapshot(tmp_path).keys() == names


@pytest.mark.parametrize(("name", "command"), list(main.commands.items()))
def test_help_has_an_example_and_explains_every_option(name: str, command: click.Command) -> None:
    for flag in ("--help", "-h"):
        result = run(name, flag)
        assert result.exit_code == 0
        assert re.search(rf"Examples?:\n +onnxquant {name} ?", result.output)
        assert max(map(len, result.output.splitlines())) <= 110
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and option.help.strip()[0].isupper() and option.help.strip()[-1] in ".]", option.name
            assert any(flag in result.output for flag in option.opts)


def test_every_option_of_the_library_is_one_of_the_command_line(model: Path, tmp_path: Path) -> None:
    from dataclasses import fields

    from onnxquant.formats import format_parameters
    from onnxquant.recipe.options import Options

    known = {p.name for p in main.commands["quantize"].params}
    assert ({f.name for f in fields(Options)} - {"parameters"}) | set(format_parameters()) <= known
    assert {"zero_point", "double_quant", "stochastic", "threshold", "quantile"} <= set(format_parameters())
    with pytest.raises(onnxquant.RecipeError, match="unknown option 'blocksize'; did you mean 'block_size'"):
        onnxquant.quantize(model, tmp_path / "out.onnx", blocksize=32)
