"""Passes over real models: fewer nodes, equal outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import agreement
import numpy as np
import onnx
import pytest
from conftest import DEFAULT_MODEL, ROOT

from onnxquant import runtime
from onnxquant.calibration.samples import Samples
from onnxquant.graph.analysis.linear import linear
from onnxquant.graph.editor import GraphEditor
from onnxquant.graph.io import Document, load
from onnxquant.graph.traverse import nodes
from onnxquant.observers.gram import ChannelMoments
from onnxquant.passes.equivalent.equalize import Equalize
from onnxquant.passes.equivalent.rebase import Rebase, stream_tensors
from onnxquant.passes.equivalent.smooth import Smooth
from onnxquant.passes.pipeline import prepare, simplify
from onnxquant.recipe.options import Options
from onnxquant.validation.reference import sampled_outputs

FETCHED = ROOT / "models" / "fetched"
# Model, and the most nodes that may be left of it (Constants too).
MODELS = {
    "default": (DEFAULT_MODEL, 56),
    "mobilenet_v2": (FETCHED / "mobilenet_v2" / "mobilenet_v2.onnx", 100),
    "efficientnet_lite0": (FETCHED / "efficientnet_lite0" / "efficientnet_lite0.onnx", 94),
    "open_nsfw": (FETCHED / "open_nsfw" / "open_nsfw.onnx", 125),
    "ppocr_rec": (FETCHED / "ppocr_rec" / "ch_PP-OCRv4_rec_infer.onnx", 609),
    "minilm_l6": (FETCHED / "minilm_l6" / "model.onnx", 138),
    "silero_vad": (FETCHED / "silero_vad" / "silero_vad.onnx", 365),
}


def steps(document: Document, feeds: list[Any]) -> list[Callable[[], object]]:
    """The passes, one after the other."""
    return [
        lambda: simplify(document),
        lambda: Equalize()(document).notes,
        lambda: Smooth(maxima(document, feeds), insert=True)(document).notes,
        lambda: Rebase(moments(document, feeds))(document).notes,
    ]


def maxima(document: Document, feeds: list[Any]) -> dict[str, Any]:
    """Largest values per channel of what linear ops of the main graph read."""
    editor = GraphEditor(document.proto.graph)
    ops = {op.node.input[0]: op for n in editor.nodes if (op := linear(editor, n)) is not None}
    values = tensors(document, feeds, ops)
    found = {}
    for name, op in ops.items():
        axes = tuple(a for a in range(values[name].ndim) if a != values[name].ndim + op.axis)
        found[name] = np.abs(values[name]).max(axes)
    return found


def moments(document: Document, feeds: list[Any]) -> dict[str, ChannelMoments]:
    """Mean and covariance of the channels of linear streams."""
    names = stream_tensors(GraphEditor(document.proto.graph))
    values = tensors(document, feeds, names)
    rows = {n: np.moveaxis(values[n].astype(np.float64), 1, 0).reshape(values[n].shape[1], -1) for n in names}
    return {n: ChannelMoments(v.mean(1), np.cov(v, bias=True)) for n, v in rows.items()}


def tensors(document: Document, feeds: list[Any], names: Iterable[str]) -> dict[str, Any]:
    """Values of tensors of the main graph for the first feed."""
    proto = agreement.complete(document)
    there = {v.name for v in (*proto.graph.output, *proto.graph.input)}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return agreement.outputs(proto, feeds[0]) | dict(feeds[0])


@pytest.mark.parametrize("name", MODELS)
def test_equal_outputs_after_every_pass(name: str) -> None:
    path, most = MODELS[name]
    if not path.exists():
        pytest.skip(f"{path.relative_to(ROOT)} is not there; scripts/fetch_models.py fetches it")
    given, options = path.parent / "feeds.npz", Options(samples=1)
    feeds = sampled_outputs(path, Samples(given, options) if given.exists() else None, options).feeds
    document = load(path)
    prepare(document)
    before = [outputs_of(path, f) for f in feeds]
    for position, step in enumerate(steps(document, feeds)):
        step()
        if position == 0:
            assert len(list(nodes(document.proto))) <= most
        proto = agreement.complete(document)
        onnx.checker.check_model(proto)
        for feed, expected in zip(feeds, before, strict=True):
            assert agreement.difference(expected, agreement.outputs(proto, feed)) < 5e-6


def outputs_of(path: Path, feed: Any) -> dict[str, Any]:
    """What onnxruntime makes of a feed, every node as it stands."""
    return runtime.run(runtime.open_session(path, runtime.session_options(optimize=False)), feed)
