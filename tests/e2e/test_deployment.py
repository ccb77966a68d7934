"""The examples of docs/deployment.md: one file of ours in Python, C++, Node and a browser, with and without our library."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from browsers import chromium, complaints, served
from conftest import DEFAULT_MODEL, ROOT
from packages import node_modules
from PIL import Image
from selenium.webdriver.support.ui import WebDriverWait

import onnxquant

EXAMPLES = ROOT / "docs" / "examples"
# Target custom unless named; and how far other builds of onnxruntime may be from ours, beside the largest logit: their
# 4-bit products round activations in another order, what folds to float differs by the order of additions.
FILES = {"q5_0": ("custom", 1e-5), "q4_1": ("custom", 0.01), "int4": ("ort", 0.01), "int8": ("onnx", 0.01)}


class Digit(NamedTuple):
    """A labelled image as files and as the model's input."""

    pgm: Path
    png: Path
    image: np.ndarray
    label: int


@pytest.fixture(scope="module")
def digit(tmp_path_factory) -> Digit:
    folder = tmp_path_factory.mktemp("digit")
    with np.load(ROOT / "models" / "default_test.npz") as data:
        pixels, label = data["image"][3], int(data["label"][3])
    for name in ("digit.pgm", "digit.png"):
        Image.fromarray(pixels).save(folder / name)
    return Digit(folder / "digit.pgm", folder / "digit.png", (pixels / np.float32(255))[None, None], label)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for form, (target, _) in FILES.items():
        onnxquant.quantize(DEFAULT_MODEL, folder / f"{form}.onnx", format=form, target=target, proof=False)
    ours = onnx.load(folder / "q5_0.onnx")
    assert {"onnxquant"} == {f.domain for f in ours.functions}
    return {form: folder / f"{form}.onnx" for form in FILES}


def logits(model: Path, digit: Digit, *, library: bool = False) -> np.ndarray:
    """What onnxruntime's Python package computes, with our library or without."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    if library:
        options.register_custom_ops_library(str(onnxquant.library_path()))
    return ort.InferenceSession(model, options).run(None, {"image": digit.image})[0][0]


def said(*command: Any, folder: Path | None = None) -> tuple[int, np.ndarray]:
    """Class and logits that an example prints."""
    done = subprocess.run([str(c) for c in command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["class"], np.array(found["logits"], np.float32)


def compiler_and_header() -> Path:
    """Folder of onnxruntime_c_api.h: named, of this checkout's build, or of the system."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler is installed")
    named = [os.environ[n] for n in ("ONNXRUNTIME_INCLUDE_DIR",) if os.environ.get(n)]
    built = [h.parent for h in ROOT.glob("build/*/onnxruntime_header/**/onnxruntime_c_api.h")]
    system = [Path(p, "onnxruntime") for p in ("/usr/include", "/usr/local/include")]
    for folder in map(Path, [*named, *built, *system]):
        if (folder / "onnxruntime_c_api.h").exists():
            return folder
    pytest.skip("no onnxruntime_c_api.h: set ONNXRUNTIME_INCLUDE_DIR, or build the package in this checkout")


@pytest.mark.parametrize("form", ["q5_0", "q4_1"])
def test_python_with_stock_onnxruntime(form, models, digit):
    script = EXAMPLES / "python" / "stock.py"
    assert "import onnxquant" not in script.read_text()
    label, found = said(sys.executable, script, models[form], digit.pgm)
    assert label == digit.label
    expected = logits(DEFAULT_MODEL, digit)
    assert 0 < abs(found - expected).max() < 0.1 * abs(expected).max()
    np.testing.assert_allclose(found, logits(models[form], digit), atol=1e-5)


def test_python_with_the_library(models, digit):
    label, found = said(sys.executable, EXAMPLES / "python" / "library.py", models["q4_1"], digit.pgm)
    assert label == digit.label
    np.testing.assert_array_equal(found, logits(models["q4_1"], digit, library=True))
    assert not np.array_equal(found, logits(models["q4_1"], digit))  # which the kernels above were not


def test_cpp(models, digit, tmp_path, monkeypatch):
    header = compiler_and_header()
    monkeypatch.setenv("PYTHON", sys.executable)
    done = subprocess.run(
        ["sh", EXAMPLES / "cpp" / "build.sh", header, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    program = tmp_path / "classify"
    label, found = said(program, models["q4_1"], digit.pgm)
    assert label == digit.label
    np.testing.assert_allclose(found, logits(models["q4_1"], digit), atol=1e-5)
    label, faster = said(program, models["q4_1"], digit.pgm, onnxquant.library_path())
    assert label == digit.label
    np.testing.assert_array_equal(faster, logits(models["q4_1"], digit, library=True))
    assert not np.array_equal(found, faster)
    refused = subprocess.run([program, digit.pgm, digit.pgm], capture_output=True, text=True, check=False)
    assert refused.returncode == 1 and "protobuf" in refused.stderr.lower()


def test_node(models, digit, tmp_path):
    (tmp_path / "node_modules").symlink_to(node_modules(EXAMPLES / "node"))
    shutil.copy2(EXAMPLES / "node" / "classify.mjs", tmp_path)
    for form in ("q5_0", "q4_1"):
        label, found = said("node", tmp_path / "classify.mjs", models[form], digit.pgm)
        assert label == digit.label
        expected = logits(models[form], digit)
        np.testing.assert_allclose(found, expected, atol=FILES[form][1] * abs(expected).max())


def test_browser(models, digit, tmp_path):
    (tmp_path / "node_modules").symlink_to(node_modules(EXAMPLES / "web"))
    for name in ("index.html", "classify.mjs"):
        shutil.copy2(EXAMPLES / "web" / name, tmp_path)
    with served(tmp_path) as address, chromium() as browser:
        browser.get(f"{address}/index.html")
        shown = browser.find_element("id", "digit")
        browser.find_element("id", "image").send_keys(str(digit.png))
        for form, (_, bound) in FILES.items():
            browser.execute_script("arguments[0].value = ''", shown)
            browser.find_element("id", "model").send_keys(str(models[form]))
            WebDriverWait(browser, 60).until(lambda _: shown.text)
            assert shown.text == str(digit.label), form
            expected = logits(models[form], digit)
            found = np.array(json.loads(shown.get_attribute("data-logits")), np.float32)
            np.testing.assert_allclose(found, expected, atol=bound * abs(expected).max(), err_msg=form)
        assert complaints(browser) == []


def test_torch(tmp_path):
    for name in ("torch", "onnxscript"):
        pytest.importorskip(name)
    command = [sys.executable, "-W", "ignore", EXAMPLES / "torch" / "export.py", tmp_path / "out.onnx"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "proven: True" in done.stdout
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_lock_files_name_no_host():
    for lock in EXAMPLES.glob("*/package-lock.json"):
        assert "://" not in lock.read_text()
        pinned = json.loads(lock.read_text())["packages"]
        wanted = json.loads(lock.with_name("package.json").read_text())["dependencies"]
        assert {n: pinned[f"node_modules/{n}"]["version"] for n in wanted} == wanted


def test_the_page_shows_the_examples_as_they_are():
    command = [sys.executable, ROOT / "scripts" / "include_examples.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
