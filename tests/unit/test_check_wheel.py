"""What scripts/check_wheel.py says of wheels, on small ones made by hand."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

NAME = "onnxquant-0.1.0-py3-none-linux_x86_64.whl"
PACKAGE = {"onnxquant/__init__.py", "onnxquant/recipe/presets/mixed.toml"}
LIBRARY = "onnxquant/_lib/libonnxquant_ops.so"
GOOD = dict.fromkeys((*PACKAGE, LIBRARY, "onnxquant-0.1.0.dist-info/RECORD"), b"")
BUILT = Path("/somewhere/else")


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import check_wheel

    return check_wheel


def made(path: Path, files: dict[str, bytes], year: int = 2000) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name, (year, 1, 1, 0, 0, 0)), data)
    return path


@pytest.mark.parametrize(
    ("name", "changes", "fault"),
    [
        (NAME, {}, None),
        ("onnxquant-0.1.0-cp311-cp311-linux_x86_64.whl", {}, "expected onnxquant-VERSION-py3-none-PLATFORM.whl"),
        ("onnxquant-0.1.0-py3-none-any-1.whl", {}, "expected onnxquant-VERSION-py3-none-PLATFORM.whl"),
        (NAME, {"tests/test_formats.py": b""}, "tests/test_formats.py: does not belong into a wheel"),
        (NAME, {"onnxquant/onnxruntime_c_api.h": b""}, "onnxruntime_c_api.h: does not belong into a wheel"),
        (NAME, {"onnxquant/__init__.py": None}, "onnxquant/__init__.py: is missing in the wheel"),
        (NAME, {LIBRARY: None}, "expected one compiled library, found none"),
        (NAME, {LIBRARY: b"\x7fELF\0/somewhere/else/ops/ort.cpp\0"}, f"{LIBRARY}: names {BUILT}, where it was built"),
    ],
)
def test_faults_of_a_wheel(check, name, changes, fault, tmp_path):
    files = {n: d for n, d in {**GOOD, **changes}.items() if d is not None}
    found = check.faults_of(made(tmp_path / name, files), PACKAGE, [BUILT])
    assert (found == []) if fault is None else (len(found) == 1 and found[0].endswith(fault))


@pytest.mark.parametrize(("tag", "is_fault"), [("manylinux_2_34", False), ("manylinux_2_28", True), ("linux", False)])
def test_a_library_needs_no_newer_glibc_than_its_wheel_says(check, tag, is_fault, tmp_path):
    name = f"onnxquant-0.1.0-py3-none-{tag}_x86_64.whl"
    wheel = made(tmp_path / name, {**GOOD, LIBRARY: b"\x7fELF\0GLIBC_2.4\0GLIBC_2.32\0GLIBC_2.14\0"})
    found = check.faults_of(wheel, PACKAGE, [BUILT])
    assert found == ([f"{LIBRARY}: needs glibc 2.32, more than {name} says"] if is_fault else [])


@pytest.mark.parametrize(("tag", "is_fault"), [("manylinux_2_27", False), ("manylinux_2_26", True), ("linux", False)])
def test_a_library_needs_no_newer_libstdcxx_than_its_wheel_says(check, tag, is_fault, tmp_path):
    name = f"onnxquant-0.1.0-py3-none-{tag}_x86_64.whl"
    wheel = made(tmp_path / name, {**GOOD, LIBRARY: b"\x7fELF\0GLIBCXX_3.4.9\0GLIBCXX_3.4.24\0GLIBCXX_3.4\0GLIBC_2.14\0"})
    found = check.faults_of(wheel, PACKAGE, [BUILT])
    assert found == ([f"{LIBRARY}: needs GLIBCXX_3.4.24, more than {name} says"] if is_fault else [])


def test_two_builds_that_differ(check, tmp_path):
    one = made(tmp_path / "a" / NAME, GOOD)
    assert check.difference(one, made(tmp_path / "b" / NAME, GOOD)) == []
    other = made(tmp_path / "c" / NAME, {**GOOD, LIBRARY: b"2"})
    assert check.difference(one, other) == [f"{LIBRARY}: differs between two builds"]
    later = made(tmp_path / "d" / NAME, GOOD, year=2001)
    assert check.difference(one, later) == [f"{NAME}: the same files, but other times, modes or order"]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_checkout_has_what_a_wheel_holds(check):
    held = {n for n in check.files() if n.startswith("onnxquant/")}
    assert {"onnxquant/__init__.py", "onnxquant/formats/ggml/q4_0.py"} <= held
    assert not any("_lib" in n or "__pycache__" in n for n in held)
