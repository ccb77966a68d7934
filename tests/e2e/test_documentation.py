"""What the documentation shows runs, and the site that is made of it has no broken link and asks for nothing outside."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from browsers import chromium, complaints, served
from decoders import Weights, save_genai, shared_cache
from documentation import PAGES, ROOT, blocks, execute, marks
from graphs import model, node, rng, weight
from PIL import Image
from selenium.webdriver.common.by import By

import onnxquant
from onnxquant.calibration.feeds.presets import PRESETS
from onnxquant.hub.variants import variants


def _digits(folder: Path) -> None:
    """The embedded model, and digits as arrays and as pictures."""
    shutil.copy(ROOT / "models" / "default.onnx", folder / "model.onnx")
    with np.load(ROOT / "models" / "default_test.npz") as data:
        images, tests, labels = data["calibration"][:16], data["image"][:200], data["label"][:200]
    np.savez(folder / "feeds.npz", image=images[:, None].astype(np.float32) / 255)
    np.savez(folder / "tests.npz", image=tests[:, None].astype(np.float32) / 255, label=labels)
    (folder / "photos").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "photos" / f"{i:02}.png")


def _images(folder: Path) -> None:
    """A convolutional network that takes the same pictures."""
    parts = [
        node("Conv", ["image", "first.weight"], ["a"], name="first", strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "second.weight"], ["c"], name="second", strides=[2, 2]),
        node("Relu", ["c"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "head.weight"], ["logits"], name="head"),
    ]
    weights = {
        "first.weight": weight(16, 1, 5, 5) * 4,
        "second.weight": weight(32, 16, 3, 3, seed=1) * 4,
        "head.weight": weight(32, 10, seed=2) * 4,
    }
    onnx.save(
        model(parts, {"image": ("float32", ["batch", 1, 28, 28])}, {"logits": "float32"}, weights), folder / "cnn.onnx"
    )


def _words(folder: Path) -> None:
    """A network of tokens with an embedding and a head, and windows of tokens."""
    parts = [
        node("Gather", ["embed.weight", "input_ids"], ["hidden"], name="embed"),
        node("MatMul", ["hidden", "up.weight"], ["wide"], name="up"),
        node("Tanh", ["wide"], ["bent"]),
        node("MatMul", ["bent", "down.weight"], ["narrow"], name="down"),
        node("Add", ["hidden", "narrow"], ["last"]),
        node("MatMul", ["last", "lm_head.weight"], ["logits"], name="lm_head"),
    ]
    weights = {
        "embed.weight": weight(300, 64),
        "up.weight": weight(64, 256, seed=1) * 4,
        "down.weight": weight(256, 64, seed=2) * 4,
        "lm_head.weight": weight(64, 300, seed=3),
    }
    made = model(parts, {"input_ids": ("int64", ["batch", "time"])}, {"logits": "float32"}, weights)
    onnx.save(made, folder / "lm.onnx")
    onnx.save(made, folder / "encoder.onnx")
    np.savez(folder / "texts.npz", input_ids=rng(5).integers(0, 300, (16, 12)))


def _decoders(folder: Path) -> None:
    """Two decoder folders of the same function, but for noise on the second, and a text."""
    weights = Weights.draw()
    save_genai(folder / "decoder", shared_cache(weights))
    save_genai(folder / "coded", shared_cache(weights.noisy(0.02)))
    (folder / "corpus.txt").write_text("The quick brown fox jumps over the lazy dog. " * 8)


@pytest.fixture(scope="module")
def presumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages presume a reader to have."""
    folder = tmp_path_factory.mktemp("presumed")
    _digits(folder)
    _images(folder)
    _words(folder)
    _decoders(folder)
    return folder


@pytest.fixture
def reader(presumed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of that folder to work in."""
    shutil.copytree(presumed, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    _forget_modules(tmp_path.parent)  # another test or page may have had a judge.py, too
    yield tmp_path
    _forget_modules(tmp_path)


def _forget_modules(folder: Path) -> None:
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_of_a_page_runs(page: Path, reader: Path) -> None:
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        execute(block, names)


def test_blocks_that_are_not_run_say_why() -> None:
    for page in PAGES:
        unrun = [block for block in blocks(page) if block.unrun is not None]
        assert [b.place for b in unrun if len(b.unrun or "") < 10] == []
        assert len(unrun) == marks(page), f"{page}: a mark that stands before no block"
    shown = [block for page in PAGES for block in blocks(page) if block.language in ("sh", "python")]
    assert sum(block.unrun is None for block in shown) > len(shown) / 2


def test_figures_of_other_pages_are_those_that_were_measured() -> None:
    figure = re.compile(r"(?<![\d.])\d+\.\d\d+(?![\d.])")
    measured = {
        page
        for page in PAGES
        if page.stem in ("benchmarks", "compatibility", "activations", "solvers", "tuning", "other_runtimes")
    }
    known = {found for page in measured for found in figure.findall(page.read_text(encoding="utf-8"))}
    known |= {f"{form.bits_per_weight:.4g}" for form in onnxquant.formats.formats()}
    known |= set(figure.findall(str(PRESETS))) | {str(variant.least_cosine) for variant in variants().values()}
    for page in set(PAGES) - measured - {ROOT / "docs" / "reference.md"}:  # it is made of the options' defaults
        rows = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        assert [found for row in rows for found in figure.findall(row) if found not in known] == [], page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as a site."""
    if find_spec("material") is None:
        pytest.skip("the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        ROOT / "docs" / "site" / "mkdocs.yml",
        "-d",
        folder,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_opens_in_a_browser_and_fetches_nothing(site: Path) -> None:
    with served(site) as address, chromium("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1") as browser:
        for page in ("index.html", "choosing.html"):
            browser.get(f"{address}/{page}")
            assert complaints(browser) == []
            fetched = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
            assert fetched
            assert [name for name in fetched if not name.startswith(address)] == []
        links = [a.get_attribute("href") for a in browser.find_elements(By.CSS_SELECTOR, "nav a.md-nav__link[href]")]
        assert f"{address}/tutorial_cnn.html" in links
