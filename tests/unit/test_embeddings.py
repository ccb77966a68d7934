"""Embeddings of onnxruntime's optimizer: their tables become lookups of rows, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from graphs import model, node, weight

import onnxquant
from onnxquant.graph.io import load
from onnxquant.graph.names import MICROSOFT
from onnxquant.passes.prepare.attention import SplitAttention
from onnxquant.passes.prepare.embeddings import SplitEmbeddings

WIDTH, WORDS = 128, 600
IDS = np.int32([[1, 5, 599, 0], [7, 7, 3, 2]])
MASK = np.int32([[1, 1, 1, 1], [1, 1, 0, 0]])
FEEDS = {"ids": IDS, "types": np.int32([[0, 1, 1, 0], [1, 0, 0, 0]]), "mask": MASK, "at": np.int32([[3, 1, 0, 2]])}


def embeddings(
    *,
    types: bool = True,
    mask: bool = True,
    at: bool = False,
    outputs: tuple[str, ...] = ("y", "count"),
    words: int = WORDS,
    opset: int = 17,
    after: tuple[onnx.NodeProto, ...] = (),
) -> onnx.ModelProto:
    """Fused embeddings with the inputs that are asked for."""
    shown = {"ids": True, "types": types, "mask": mask, "at": at}
    tables = ["words", "places", "kinds" if types else "", "g", "b"]
    inputs = ["ids", "types" if types else "", *tables, "mask" if mask else "", "at" if at else ""]
    made = node("EmbedLayerNormalization", inputs, list(outputs), domain=MICROSOFT, epsilon=1e-6)
    constants = {
        "words": weight(words, WIDTH), "places": weight(16, WIDTH, seed=1), "kinds": weight(2, WIDTH, seed=2),
        "g": 1 + weight(WIDTH, seed=3), "b": weight(WIDTH, seed=4), "w": weight(WIDTH, 3 * WIDTH, seed=5),
    }  # fmt: skip
    shapes: dict[str, tuple[Any, Any]] = {
        name: ("int32", [1 if name == "at" else "b", "s"]) for name, is_there in shown.items() if is_there
    }
    read = {n.output[0]: "float32" for n in after[-1:]} or {
        name: "int32" if name == "count" else "float32" for name in outputs if name
    }
    proto = model([made, *after], shapes, read, constants, opset)
    proto.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))
    return proto


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"opset": 12},
        {"types": False, "outputs": ("y", "count")},
        {"at": True},
        {"mask": False, "outputs": ("y", "", "sum")},
        {"types": False, "mask": False, "at": True, "outputs": ("y", "", "sum")},
    ],
    ids=str,
)
def test_fused_embeddings_become_lookups(options: dict[str, Any]) -> None:
    proto = embeddings(**options)
    feed = {i.name: FEEDS[i.name] for i in proto.graph.input}
    document = load(proto)
    assert SplitEmbeddings()(document).changed
    ops = [n.op_type for n in document.proto.graph.node]
    assert "EmbedLayerNormalization" not in ops and ops.count("SkipLayerNormalization") == 1
    before, after = (agreement.outputs(p, feed) for p in (proto, agreement.complete(document)))
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, atol=2e-6)


def test_small_tables_old_opsets_and_counts_without_a_mask_stay() -> None:
    for proto in (embeddings(words=16), embeddings(opset=10), embeddings(mask=False)):
        assert not SplitEmbeddings()(load(proto)).changed


def test_attention_that_reads_the_count_is_split_after_the_embeddings() -> None:
    attention = node("Attention", ["y", "w", "", "count"], ["z"], domain=MICROSOFT, num_heads=4)
    proto = embeddings(after=(attention,))
    document = load(proto)
    assert SplitEmbeddings()(document).changed and SplitAttention(least=256)(document).changed
    feed = {name: FEEDS[name] for name in ("ids", "types", "mask")}
    before, after = (agreement.outputs(p, feed)["z"] for p in (proto, agreement.complete(document)))
    np.testing.assert_allclose(after, before, atol=1e-5)


@pytest.mark.parametrize("options", [{"bits": 4}, {"format": "q4_0", "target": "custom"}], ids=str)
def test_the_table_of_words_is_read_by_rows(tmp_path: Path, options: dict[str, Any]) -> None:
    report = onnxquant.quantize(embeddings(), tmp_path / "q.onnx", samples=1, threads=1, **options)
    assert report.passed and {site.decision.name for site in report.encoded} >= {"words"}
    words = next(site.decision for site in report.encoded if site.decision.name == "words")
    assert not words.folded
