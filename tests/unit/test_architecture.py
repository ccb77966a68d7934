"""docs/architecture.md says what the code is: its files exist, its order of rooms is the one that import-linter holds."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "onnxquant"
NAMES = ("architecture.md", "contributing.md", "dataflow.md")
PAGES = {name: (ROOT / "docs" / name).read_text(encoding="utf-8") for name in NAMES}
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
ROOMS = sorted(p.parent for p in PACKAGE.rglob("__init__.py") if p.parent != PACKAGE)
# A path in backticks: folders and an ending, or a folder with a slash at its end. Names in <...> stand for any.
PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+(?:\.(?:py|h|cpp|md|toml|json|sh|cmake)|/))`")
# Roots of the repository's paths, and of the package's for short.
ROOTS = (ROOT, PACKAGE)


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_a_page_exists(page: str) -> None:
    paths = set(PATH.findall(PAGES[page]))
    assert len(paths) > 10
    assert [p for p in sorted(paths) if not any((root / p).exists() for root in ROOTS)] == []


def test_the_order_of_rooms_on_the_page_is_the_one_that_is_checked() -> None:
    (layers,) = [c["layers"] for c in CONTRACTS if c["type"] == "layers"]
    block = re.search(r"```text\n(.*?)```", PAGES["architecture.md"], re.DOTALL)
    assert block
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in block[1].splitlines() if line.strip()]
    assert lines == [layer.replace(" | ", ", ") for layer in layers]


def test_every_room_of_the_package_has_a_place_in_the_order() -> None:
    (contract,) = [c for c in CONTRACTS if c["type"] == "layers"]
    ordered = {name for layer in contract["layers"] for name in layer.split(" | ")}
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert ordered == modules | {p.name for p in ROOMS if p.parent == PACKAGE}
    assert "ignore_imports" not in contract


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_says_what_is_in_it_and_who_imports_what(room: Path) -> None:
    text = ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert len(re.findall(r"\.(?=\s|$)", text)) >= 2
    assert "import" in text


def test_few_modules_lie_loose() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 7
