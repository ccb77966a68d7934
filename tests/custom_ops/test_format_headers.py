"""A format's header that forgets its encoder, or contradicts it, does not compile."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from conftest import ROOT

SOURCES = ROOT / "custom_ops"
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
TABLE = """
#include "formats/{name}.h"
namespace onnxquant::ONNXQUANT_ISA {{
constexpr Encoder kAllEncoders[] = {{encoder_of<encoders::{name}, formats::{name}>("{name}")}};
}}
"""

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no compiler")


def compiled(folder, name, before="", after=""):
    """What the compiler says about one header with one change; empty: nothing."""
    header = (SOURCES / "formats" / f"{name}.h").read_text()
    assert before in header
    (folder / "formats").mkdir()
    (folder / "formats" / f"{name}.h").write_text(header.replace(before, after, 1))
    (folder / "all_encoders.h").write_text(TABLE.format(name=name))
    command = [
        COMPILER,
        "-std=c++17",
        "-fsyntax-only",
        f"-I{folder}",
        f"-I{SOURCES}",
        SOURCES / "encode" / "encoders.cpp",
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@pytest.mark.parametrize("name", ["q4_0", "int4", "q4_k"])
def test_a_format_and_its_encoder_compile(name, tmp_path):
    assert compiled(tmp_path, name) == ""


def test_a_format_without_an_encoder_says_so(tmp_path):
    assert compiled(tmp_path, "q4_0", "using q4_0 = GgmlBlock<4, 32>", "using q4_0 = NoEncoder") == ""


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        ("q4_0", "using q4_0 = GgmlBlock<4, 32>;", "", "not a member|no member"),
        ("q4_0", "GgmlBlock<4, 32>", "GgmlBlock<5, 32>", "codes of another width"),
        ("q4_0", "GgmlBlock<4, 32>", "GgmlBlock<4, 64>", "longer than blocks can be"),
        ("q4_0", "ScaleType::kHalf", "ScaleType::kFloat", "scales of another type"),
        ("q4_1", "Minimum<4>", "GgmlBlock<4, 32>", "other side information"),
        ("nf4", "Levels<4>", "Levels<8>", "codes of another width"),
        ("int4", "Side::kZeroCodes", "Side::kMinima", "zero points"),
    ],
)
def test_a_header_that_contradicts_its_encoder_is_refused(name, before, after, message, tmp_path):
    said = compiled(tmp_path, name, before, after)
    assert "error" in said
    assert any(part in said for part in message.split("|")), said
